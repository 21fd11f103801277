"""The chain that every message meets: gates may only say no, processors may only shape the record.

A gate sees the live message and returns a `Verdict`; it cannot change a byte. A processor sees an `Entry`, which is a
copy, and returns what is to be written; it cannot touch traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec.structs import replace

from mcp_audit.ledger.entry import Entry
from mcp_audit.wire.exchange import ALLOW, Verdict
from mcp_audit.wire.message import Message
from mcp_audit.wire.peers import Caller
from mcp_audit.wire.refusal import REFUSALS

__all__ = ["ALLOW", "Caller", "Gate", "Processor", "Verdict", "first_denial"]


class Gate(Protocol):
    """May forbid a message that the client sends. Called for every one, requests and notifications alike.

    Synchronous and clockless: `now` is monotonic seconds. An exception counts as a denial, and so does anything that is
    no `Verdict`.
    """

    name: str

    def check(self, message: Message, caller: Caller, now: float) -> Verdict:
        """Return the verdict; `ALLOW` if this gate has nothing to say."""
        ...


Processor = Callable[[Entry], Entry]


def first_denial(gates: Iterable[Gate], message: Message, caller: Caller, now: float) -> Verdict:
    """Ask the gates in order: the first denial wins; else the first recorded permission, else `ALLOW`."""
    verdict = ALLOW
    for gate in gates:
        try:
            said = gate.check(message, caller, now)
            if not said.allowed:
                return _denial(said)
            if said.recorded and not verdict.recorded:
                verdict = said
        except Exception as error:
            return Verdict(False, gate.name, reason=f"the gate failed: {type(error).__name__}", recorded=True)
    return verdict


def _denial(said: Verdict) -> Verdict:
    """Return a denial as the record and the answer need it: always recorded, and of a kind that has a code."""
    if said.recorded and said.kind in REFUSALS:
        return said
    return replace(said, kind=said.kind if said.kind in REFUSALS else "policy_denied", recorded=True)
