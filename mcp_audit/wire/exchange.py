"""A request and how it ended: the noun between the wire and the ledger.

Pure data; `wire.correlator` pairs it, the session decides how it ends, and the recorder writes it down.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from mcp_audit.wire.message import Direction, Era, Message

__all__ = ["ALLOW", "Exchange", "Outcome", "Verdict"]


class Outcome(StrEnum):
    """How an exchange ended; the values are the ledger's words."""

    PENDING = ""
    ANSWERED = "answered"
    TOOL_ERROR = "tool_error"
    RPC_ERROR = "rpc_error"
    DENIED = "denied"
    RATE_LIMITED = "rate_limited"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    LOST = "lost"
    NOTIFICATION = "notification"
    OPAQUE = "opaque"


class Verdict(Struct, frozen=True):
    """What a gate says of one message.

    Attributes:
        gate: name of the gate that decided; empty when none had an opinion.
        rule: index of the rule that decided, -1 for a default action.
        kind: `data.kind` of the error that a denial is answered with.
        recorded: whether the verdict goes into the entry (a gate that always allows need not be).
        extra: what the record adds, such as a shadow rule that disagrees.
    """

    allowed: bool
    gate: str = ""
    rule: int = -1
    reason: str = ""
    kind: str = "policy_denied"
    recorded: bool = False
    extra: dict[str, Any] = {}

    @property
    def data(self) -> dict[str, object]:
        """What a denial tells the requester in `error.data`."""
        data: dict[str, object] = {"action": "deny"}
        if self.gate == "policy":
            data["rule_index"] = self.rule
        if self.reason:
            data["reason"] = self.reason
        return data


ALLOW = Verdict(True)


class Exchange(Struct, eq=False):
    """A request and how it ended; or one message that asks for nothing (`request` is then that message).

    Attributes:
        id: of the line that will close it; also `data.entry_id` of an error of ours.
        seq: of its write-ahead `request` line, once that is in the ledger.
        started, ended: monotonic seconds; `ended` is 0 while it is open.
        error: the error object we answered with in the peer's place, empty otherwise.
        oversized: size in bytes of a message that was too large to be kept.
        commitment: of that message (see `elided` in the ledger's format).
        why: what kept the answer from coming, of one that is lost; empty: the end of the run.
        session: pseudonym of the HTTP session it belongs to, empty without one.
        status: of the HTTP response that ended it, 0 if none did.
        rewrites: which sanctioned rewrites changed the bytes on their way.
        recorded: whether the line that closes it is in the ledger.
        held: whether its request waits for the ledger, and so has gone nowhere yet.
    """

    id: str
    request: Message | None
    response: Message | None = None
    era: Era = Era.LEGACY
    version: str = ""
    client_id: str = ""
    server_id: str = ""
    verdict: Verdict = ALLOW
    started: float = 0.0
    ended: float = 0.0
    outcome: Outcome = Outcome.PENDING
    seq: int | None = None
    error: bytes = b""
    continues: str = ""
    marks: tuple[str, ...] = ()
    oversized: int = 0
    commitment: str = ""
    why: str = ""
    session: str = ""
    status: int = 0
    rewrites: tuple[str, ...] = ()
    recorded: bool = False
    held: bool = False

    @property
    def direction(self) -> Direction:
        """Who started it."""
        if self.request is not None:
            return self.request.direction
        return self.response.direction.back if self.response is not None else Direction.TO_SERVER

    @property
    def may_have_run(self) -> bool:
        """Whether the request of a finished exchange reached the peer, which may then have acted on it."""
        answered = self.request is not None and self.response is not None
        return answered or (self.outcome is Outcome.TIMEOUT and not self.held)

    @property
    def owes_line(self) -> bool:
        """Whether a turned back exchange gets its closing line later: its request was forwarded, or is on record.

        The line of one that was given up on may be under way.
        """
        if self.recorded:
            return False
        return self.seq is not None or self.outcome in (Outcome.CANCELLED, Outcome.TIMEOUT) or self.may_have_run
