"""Responses of our own: their status, their framing, and whom they name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_audit.middleware import Verdict
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.relay.http.answers import ACCEPTED, answer_to, plain_answer, status_of
from mcp_audit.session import Session, Step
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.message import Direction, parse

DENY = Policy([Rule("deny", tool_name="rm")], "allow")
CALL = b'{"id":7,"method":"tools/call","params":{"name":"rm"}}'
NOTE = b'{"method":"tools/call","params":{"name":"rm"}}'


def decide(body: bytes, *gates: Policy) -> Step:
    """Return what a session says of a body."""
    return Session(gates, lambda: "01ENTRY").receive(parse(body, Direction.TO_SERVER, line=False), 0.0)


def read(headers: list[tuple[bytes, bytes]], body: bytes) -> Any:
    """Check the framing and return the error."""
    assert dict(headers) == {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    return json.loads(body)


@pytest.mark.parametrize(
    ("kind", "request_", "notification"),
    [
        pytest.param("policy_denied", 200, 403, id="policy"),
        pytest.param("rate_limited", 200, 403, id="rate"),
        pytest.param("audit_unavailable", 200, 403, id="ledger"),
        pytest.param("batch_rejected", 200, 403, id="batch"),
        pytest.param("ambiguous_message", 400, 400, id="ambiguous"),
        pytest.param("header_mismatch", 400, 400, id="headers"),
        pytest.param("message_too_large", 413, 413, id="large"),
        pytest.param("origin_rejected", 403, 403, id="origin"),
        pytest.param("upstream_unavailable", 502, 502, id="unavailable"),
        pytest.param("upstream_timeout", 504, 504, id="timeout"),
    ],
)
def test_the_status_tells_what_clients_do_not_mistake(kind: str, request_: int, notification: int) -> None:
    """A denied request gets 200, for clients of both eras take an unfamiliar 4xx for a server of the other one."""
    to_client = Step(errors=((Direction.TO_CLIENT, b"{}"),))

    assert status_of(to_client, kind) == request_
    assert status_of(Step(), kind) == notification
    assert status_of(to_client._replace(batch=True), kind) == 200


def test_a_denied_request_gets_the_error_under_its_id() -> None:
    """As the session wrote it."""
    step = decide(CALL, DENY)
    answer = answer_to(step, "policy_denied", step.finished)

    assert answer.status == 200
    error = read(answer.headers, answer.body)
    assert (error["id"], error["error"]["data"]["entry_id"]) == (7, "01ENTRY")


@pytest.mark.parametrize("body", [pytest.param(NOTE, id="one"), pytest.param(b"[" + NOTE + b"]", id="batch")])
def test_what_has_no_id_gets_an_error_without_one(body: bytes) -> None:
    """It names the entry of the first that was refused, and why."""
    step = decide(body, DENY)
    answer = answer_to(step, "policy_denied", step.finished)

    assert answer.status == 403
    error = read(answer.headers, answer.body)
    assert "id" not in error
    assert error["error"]["data"]["entry_id"] == "01ENTRY"
    assert error["error"]["data"]["action"] == "deny"


def test_a_denied_batch_gets_one_array() -> None:
    """With an error for each of its requests."""
    step = decide(b'[%b,{"id":8,"method":"ping"}]' % CALL, DENY)
    answer = answer_to(step, "policy_denied", step.finished)

    assert answer.status == 200
    errors = read(answer.headers, answer.body)
    assert [(error["id"], error["error"]["data"]["kind"]) for error in errors] == [
        (7, "policy_denied"),
        (8, "batch_rejected"),
    ]


def test_a_cause_may_take_the_place_of_the_verdict() -> None:
    """What kept a notification from going on need not be a gate."""
    exchange = Exchange("01ENTRY", None, verdict=Verdict(True), outcome=Outcome.NOTIFICATION)
    answer = answer_to(Step(), "upstream_unavailable", (exchange,), {"reason": "it reset the connection"})

    assert answer.status == 502
    assert read(answer.headers, answer.body)["error"]["data"]["reason"] == "it reset the connection"


def test_words_say_whose_they_are_and_keep_headers() -> None:
    """Whoever reads them knows that it was not the server."""
    status, headers, body = plain_answer(401, "who are you?", ((b"www-authenticate", b"Bearer"),))

    assert (status, body) == (401, b"mcp-audit: who are you?\n")
    assert dict(headers)[b"content-length"] == b"%d" % len(body)
    assert dict(headers)[b"www-authenticate"] == b"Bearer"


def test_what_needs_no_answer_gets_none() -> None:
    """Not even a type."""
    assert ACCEPTED == (202, [(b"content-length", b"0")], b"")
