"""What an outage owes and owns up to: bounded, and nothing twice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_audit.ledger.entry import Unsealed
from mcp_audit.sinks import outage as module
from mcp_audit.sinks.outage import Outage
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange

OWED = [Unsealed(b'{"id":"%d"' % number, number) for number in range(4)]
CLOSED = [Exchange(str(number), None, seq=number) for number in range(4)]


def outage(on_failure: str = "fail_operation") -> Outage:
    return Outage("disk full", Stamp(), on_failure)


def members(line: Unsealed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.body + b"}")
    return found


def test_the_account_comes_first_then_what_is_owed() -> None:
    """The `blocked` line has times, cause and counts."""
    trouble = outage()
    trouble.refused, trouble.withheld, trouble.dropped = 1, 2, 3
    for line, exchange in zip(OWED, CLOSED, strict=True):
        trouble.owe(line, exchange)

    account, *owed = trouble.lines()

    found = members(account)
    assert (found["type"], found["cause"]) == ("blocked", "disk full")
    assert (found["refused"], found["withheld"], found["dropped"]) == (1, 2, 3)
    assert found["from"] <= found["to"]
    assert owed == OWED
    assert trouble.summary() == (
        "meanwhile 1 requests were refused, 2 answers withheld, 3 notifications dropped, 0 entries lost"
    )


@pytest.mark.parametrize(("on_failure", "cause"), [("continue", "continue"), ("fail_operation", "overflow")])
def test_what_is_missing_is_counted_in_a_gap(on_failure: str, cause: str) -> None:
    """Whether nothing was to be kept, or there was too much of it."""
    trouble = outage(on_failure)
    trouble.lost = 7

    _, gap = trouble.lines()

    assert members(gap)["type"] == "gap"
    assert (members(gap)["cause"], members(gap)["lost"]) == (cause, 7)


@pytest.mark.parametrize("written", range(7))
def test_what_was_written_is_not_written_again(written: int) -> None:
    """However far a batch got: no owed line twice or never, no count told twice."""
    trouble = outage()
    trouble.refused, trouble.lost = 5, 2
    for line, exchange in zip(OWED, CLOSED, strict=True):
        trouble.owe(line, exchange)
    first = trouble.lines()
    in_the_ledger = first[:written]

    trouble.wrote(written)
    in_the_ledger += trouble.lines()

    told = [members(line) for line in in_the_ledger]
    assert [line for line in in_the_ledger if line in OWED] == OWED
    assert sum(line.get("refused", 0) for line in told) == 5
    assert sum(line.get("lost", 0) for line in told) == 2
    trouble.wrote(len(trouble.lines()))
    assert trouble.owed == trouble._owed_bytes == 0


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines and in bytes; what does not fit is counted."""
    monkeypatch.setattr(module, "_MAX_OWED_LINES", 3)
    trouble = outage()
    for line, exchange in zip(OWED, CLOSED, strict=True):
        trouble.owe(line, exchange)
    assert (trouble.owed, trouble.lost) == (3, 1)

    monkeypatch.setattr(module, "_MAX_OWED_BYTES", 100)
    trouble = outage()
    trouble.owe(Unsealed(b"x" * 60), CLOSED[0])
    trouble.owe(Unsealed(b"x" * 60), CLOSED[0])
    trouble.owe(Unsealed(b"x" * 40), CLOSED[0])
    assert (trouble.owed, trouble.lost) == (2, 1)


def test_a_line_closes_the_request_line_that_was_still_being_written() -> None:
    """Its seq became known only after the line was made."""
    trouble = outage()
    exchange = Exchange("L1", None)
    trouble.owe(Unsealed(b'{"id":"L1"'), exchange)
    exchange.seq = 9

    assert trouble.lines()[1] == Unsealed(b'{"id":"L1"', 9)
