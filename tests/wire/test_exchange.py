"""The noun itself: who started it, whether it may have run, whether its line is still owed."""

from __future__ import annotations

from typing import Any

import pytest
from memory_ledger import TO_CLIENT, TO_SERVER, notification, request, result, sent

from mcp_audit.wire.exchange import Exchange, Outcome, Verdict
from mcp_audit.wire.message import Direction, Message


def message(content: Any, direction: Direction = TO_SERVER) -> Message:
    return sent(content, direction).messages[0]


ASKED = message(request(1))
ANSWER = message(result(1), TO_CLIENT)


@pytest.mark.parametrize(
    ("exchange", "direction"),
    [
        pytest.param(Exchange("", ASKED), TO_SERVER, id="a-request-of-the-client"),
        pytest.param(Exchange("", ASKED, ANSWER), TO_SERVER, id="answered-by-the-server"),
        pytest.param(Exchange("", message(request(1, "ping"), TO_CLIENT)), TO_CLIENT, id="a-request-of-the-server"),
        pytest.param(Exchange("", None, ANSWER), TO_SERVER, id="an-answer-of-the-server-to-nothing"),
        pytest.param(Exchange("", None, message(result(1))), TO_CLIENT, id="an-answer-of-the-client-to-nothing"),
        pytest.param(Exchange("", message(notification("x"), TO_CLIENT)), TO_CLIENT, id="a-notification"),
    ],
)
def test_the_direction_is_that_of_who_started_it(exchange: Exchange, direction: Direction) -> None:
    """Not of who spoke last."""
    assert exchange.direction is direction


@pytest.mark.parametrize(
    ("request_", "response", "outcome", "seq", "may_have_run", "owes_line"),
    [
        pytest.param(ASKED, ANSWER, Outcome.ANSWERED, None, True, True, id="answered"),
        pytest.param(ASKED, ANSWER, Outcome.DENIED, 3, True, True, id="answer-too-large"),
        pytest.param(ASKED, None, Outcome.TIMEOUT, None, True, True, id="timed-out"),
        pytest.param(ASKED, None, Outcome.CANCELLED, None, False, True, id="cancelled"),
        pytest.param(ASKED, None, Outcome.DENIED, None, False, False, id="refused-unseen"),
        pytest.param(ASKED, None, Outcome.DENIED, 3, False, True, id="refused-on-record"),
        pytest.param(None, ANSWER, Outcome.OPAQUE, None, False, False, id="stray-answer"),
        pytest.param(ASKED, None, Outcome.NOTIFICATION, None, False, False, id="one-way"),
    ],
)
def test_what_a_turned_back_exchange_owes(
    request_: Message | None,
    response: Message | None,
    outcome: Outcome,
    seq: int | None,
    may_have_run: bool,
    owes_line: bool,
) -> None:
    """Whatever was forwarded or is on record must be closed; what the peer saw may have run. Once written: nothing."""
    exchange = Exchange("", request_, response, outcome=outcome, seq=seq)

    assert exchange.may_have_run is may_have_run
    assert exchange.owes_line is owes_line
    exchange.recorded = True
    assert exchange.owes_line is False


@pytest.mark.parametrize(
    ("verdict", "data"),
    [
        pytest.param(Verdict(False, "policy", 0, "no"), {"action": "deny", "rule_index": 0, "reason": "no"}, id="rule"),
        pytest.param(Verdict(False, "policy", -1), {"action": "deny", "rule_index": -1}, id="default-action"),
        pytest.param(Verdict(False, "rate_limit", reason="r"), {"action": "deny", "reason": "r"}, id="another-gate"),
    ],
)
def test_a_denial_tells_why(verdict: Verdict, data: dict[str, object]) -> None:
    """Only the policy has rules to name."""
    assert verdict.data == data
