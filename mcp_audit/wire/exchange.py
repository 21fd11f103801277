"""Which answer belongs to which request: one table per session, one key space per direction.

Pure. Ids are never rewritten and nothing is dropped for age: a request stays open until it is answered, cancelled,
timed out by configuration, or its session ends.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Struct

from mcp_audit.wire.message import Direction, Era, Id, Message, parse_id

__all__ = ["ALLOW", "Correlator", "Exchange", "Outcome", "Verdict", "is_tool_error"]

_REMEMBERED = 4096  # ended exchanges and open rounds that are still recognised; older ones become `unmatched`
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_Key = tuple[Direction, str | int | float]


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
        recorded: whether the line that closes it is in the ledger.
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
    recorded: bool = False

    @property
    def direction(self) -> Direction:
        """Who started it."""
        if self.request is not None:
            return self.request.direction
        return self.response.direction.back if self.response is not None else Direction.TO_SERVER


class Correlator:
    """Open exchanges of one session by (direction of the request, id)."""

    def __init__(self) -> None:
        # An id in use again is legal to forward, so a key may have several exchanges: answers pair first in, first out.
        self._open: dict[_Key, list[Exchange]] = {}
        self._ended: OrderedDict[_Key, Era] = OrderedDict()
        self._undelivered: set[_Key] = set()  # timed out: a late answer is recorded, not delivered
        self._progress: dict[tuple[Direction, bytes], Exchange] = {}
        self._rounds: OrderedDict[tuple[str | None, str | None, str], str] = OrderedDict()

    def open(self, exchange: Exchange) -> bool:
        """Remember a request; return whether its id was in use already. A null id pairs with nothing."""
        request = exchange.request
        if request is None or request.id is None or request.id.key is None:
            return False
        key = (request.direction, request.id.key)
        waiting = self._open.get(key)
        if waiting is None:
            self._open[key] = [exchange]
        else:
            waiting.append(exchange)
        if "progressToken" in request.meta:
            self._progress[request.direction, request.meta["progressToken"]] = exchange
        return waiting is not None

    def answer(self, response: Message) -> Exchange | None:
        """Take out and return the exchange that a response ends, None if it answers nothing open."""
        if response.id is None or response.id.key is None:
            return None
        return self._take(response.direction.back, response.id.key)

    def find(self, direction: Direction, id_: Id) -> Exchange | None:
        """Return the open exchange that waits for an answer to `id_` of a request in `direction`."""
        waiting = self._open.get((direction, id_.key)) if id_.key is not None else None
        return waiting[0] if waiting else None

    def cancelled(self, notification: Message) -> Exchange | None:
        """Take out and return the exchange that a `notifications/cancelled` withdraws: one of the same sender."""
        try:
            token = _members(notification.params).get("requestId")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        id_ = parse_id(bytes(token)) if token is not None else None
        if id_ is None or id_.key is None:
            return None
        return self._take(notification.direction, id_.key)

    def withdraw(self, exchange: Exchange) -> None:
        """Forget an exchange that was opened and then refused: it never reached the peer."""
        request = exchange.request
        if request is None or request.id is None or request.id.key is None:
            return
        key = (request.direction, request.id.key)
        waiting = [other for other in self._open.get(key, ()) if other is not exchange]
        if waiting:
            self._open[key] = waiting
        else:
            self._open.pop(key, None)
        self._forget_progress(exchange)

    def late_era(self, response: Message) -> tuple[Era, bool] | None:
        """Of a response to an exchange that ended before: its era, and whether it may still be delivered."""
        if response.id is None or response.id.key is None:
            return None
        key = (response.direction.back, response.id.key)
        era = self._ended.get(key)
        return None if era is None else (era, key not in self._undelivered)

    def progress_era(self, notification: Message) -> Era | None:
        """Return the era of the request of the other side that a progress notification names."""
        if not self._progress:
            return None
        try:
            token = _members(notification.params).get("progressToken")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        exchange = self._progress.get((notification.direction.back, bytes(token))) if token is not None else None
        return exchange.era if exchange is not None else None

    def overdue(self, now: float, timeout: float) -> list[Exchange]:
        """Take out and return the exchanges that started more than `timeout` seconds ago, oldest first."""
        late = [e for waiting in self._open.values() for e in waiting if now - e.started > timeout]
        for exchange in late:
            self.withdraw(exchange)
            if exchange.request is not None and exchange.request.id is not None and exchange.request.id.key is not None:
                key = (exchange.request.direction, exchange.request.id.key)
                self._remember(key, exchange.era)
                self._undelivered.add(key)
        return sorted(late, key=lambda exchange: exchange.started)

    def drain(self) -> list[Exchange]:
        """Take out and return all that is open, oldest first."""
        rest = sorted((e for waiting in self._open.values() for e in waiting), key=lambda exchange: exchange.started)
        self._open.clear()
        self._progress.clear()
        return rest

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    # Multi round-trip requests: a result that asks for input ends its exchange; the retry continues it.

    def ask_for_input(self, exchange: Exchange) -> None:
        """Remember the round that a result `resultType: input_required` opens."""
        response, request = exchange.response, exchange.request
        if response is None or request is None or b'"input_required"' not in response.result:
            return
        result = _decoded(response.result)
        if result.get("resultType") != "input_required":
            return
        for mark in _round_marks(result.get("requestState"), result.get("inputRequests")):
            self._rounds[request.method, request.target, mark] = exchange.id
        while len(self._rounds) > _REMEMBERED:
            self._rounds.popitem(last=False)

    def continued(self, request: Message) -> tuple[str, bool]:
        """Return the id of the exchange whose round a request answers ("" if none), and whether that is a guess."""
        if not self._rounds or (b'"requestState"' not in request.params and b'"inputResponses"' not in request.params):
            return "", False
        params = _decoded(request.params)
        for mark in _round_marks(params.get("requestState"), params.get("inputResponses")):
            earlier = self._rounds.pop((request.method, request.target, mark), "")
            if earlier:
                return earlier, mark.startswith("keys ")
        return "", False

    def _take(self, direction: Direction, id_key: str | int | float) -> Exchange | None:
        key = (direction, id_key)
        waiting = self._open.get(key)
        if waiting is None:
            return None
        exchange = waiting.pop(0)
        if not waiting:
            del self._open[key]
        self._remember(key, exchange.era)
        self._forget_progress(exchange)
        return exchange

    def _remember(self, key: _Key, era: Era) -> None:
        self._undelivered.discard(key)
        self._ended[key] = era
        if len(self._ended) > _REMEMBERED:
            oldest, _ = self._ended.popitem(last=False)
            self._undelivered.discard(oldest)

    def _forget_progress(self, exchange: Exchange) -> None:
        request = exchange.request
        if request is not None and "progressToken" in request.meta:
            self._progress.pop((request.direction, request.meta["progressToken"]), None)


def is_tool_error(response: Message) -> bool:
    """Say whether the result of a `tools/call` reports that the tool failed (`isError: true`)."""
    if b"true" not in response.result or b"rror" not in response.result:  # spares decoding most results
        return False
    try:
        return bytes(_members(response.result).get("isError", b"")) == b"true"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _decoded(text: bytes) -> dict[str, Any]:
    """Decode an object for a look at it; anything undecodable is an empty one."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _round_marks(state: Any, keyed: Any) -> list[str]:
    """Return what links two rounds, surest first: the hash of the state (a secret), else the keys of the inputs."""
    marks = [sha256(state.encode("utf-8", "surrogatepass")).hexdigest()] if isinstance(state, str) else []
    if isinstance(keyed, dict) and keyed:
        marks.append("keys " + "\0".join(sorted(keyed)))
    return marks
