"""There is always a line, and never a payload that a processor failed on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from memory_ledger import TO_CLIENT, request, result, sent

from mcp_audit.ledger.entry import Entry, Unsealed
from mcp_audit.sinks.scribe import Scribe
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange, Outcome, Verdict

CANARY = "canary-secret"


def exchange(**more: Any) -> Exchange:
    """A finished call that carries a secret both ways."""
    asked = sent(request(1, arguments={"password": CANARY})).messages[0]
    answer = sent(result(1, text=CANARY), TO_CLIENT).messages[0]
    return Exchange("L1", asked, answer, outcome=Outcome.ANSWERED, seq=3, **more)


def scribe(*processors: Any, report: Callable[[str], None] = lambda sentence: None) -> Scribe:
    return Scribe(Stamp(), processors, "stdio", "tools_call", report)


def members(line: Unsealed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.body + b"}")
    return found


def fails(entry: Entry) -> Entry:
    raise ValueError(entry.params.decode())


def fails_half_way(entry: Entry) -> Entry:
    entry.params = b'{"half":"%b"' % CANARY.encode()
    entry.tool_name = entry.method = None  # type: ignore[assignment]
    raise RecursionError


def spoils(entry: Entry) -> Entry:
    entry.outcome = 5  # type: ignore[assignment]
    return entry


@pytest.mark.parametrize(
    ("processor", "problem"),
    [
        pytest.param(fails, "ValueError", id="raises"),
        pytest.param(fails_half_way, "RecursionError", id="raises-half-way"),
        pytest.param(lambda entry: None, "AttributeError", id="returns-nothing"),
        pytest.param(spoils, "AttributeError", id="leaves-what-cannot-be-encoded"),
    ],
)
def test_a_processor_that_fails_costs_the_payload_and_not_the_line(processor: Any, problem: str) -> None:
    """The line says what is gone, closes its request, and the first failure of a kind is reported without content."""
    said: list[str] = []
    writer = scribe(processor, report=said.append)

    for line in (writer.closing(exchange()), writer.closing(exchange())):
        found = members(line)
        assert CANARY.encode() not in line.body
        assert (line.of, found["id"], found["method"], found["outcome"]) == (3, "L1", "tools/call", "answered")
        assert {element["p"] for element in found["elided"]} == {"/params", "/result"}
        assert {element["why"] for element in found["elided"]} == {"unredactable"}
        assert "params" not in found
    assert said == [f"a processor failed ({problem}): entry L1 and others like it are without payloads"]


def test_what_stands_before_the_failure_does_not_leak_either() -> None:
    """A later processor that fails costs what earlier ones left, and a signature over it."""

    def signs(entry: Entry) -> Entry:
        entry.signature, entry.params_b64 = "s", "cGF5bG9hZA=="
        return entry

    found = members(scribe(signs, fails).closing(exchange()))

    assert found.keys().isdisjoint({"signature", "params_b64", "params"})


def test_a_verdict_that_cannot_be_written_is_cut_down() -> None:
    """What a gate of somebody else's adds must not cost the line."""
    verdict = Verdict(True, "policy", 2, recorded=True, extra={"shadow": object()})

    assert members(scribe().closing(exchange(verdict=verdict)))["policy"] == {"action": "allow", "rule_index": 2}


def test_processors_shape_in_order() -> None:
    """Each gets what the one before it returned."""

    def first(entry: Entry) -> Entry:
        entry.params = b'{"a":1}'
        return entry

    def second(entry: Entry) -> Entry:
        entry.params = entry.params.replace(b"1", b"2")
        return entry

    assert members(scribe(first, second).request(exchange()))["params"] == {"a": 2}


def test_the_three_kinds_of_line() -> None:
    """A request line and an orphan have ids of their own; the closing line has the exchange's, and `of`."""
    writer = scribe()
    finished = exchange()

    ahead, closing, orphan = writer.request(finished), writer.closing(finished), writer.orphan(finished, "exit")

    assert (members(ahead)["type"], ahead.of) == ("request", None)
    assert (members(closing)["id"], closing.of) == ("L1", 3)
    assert (members(orphan)["type"], members(orphan)["why"], orphan.of) == ("orphan", "exit", 3)
    assert len({members(line)["id"] for line in (ahead, closing, orphan)}) == 3
