"""Retries: what may be repeated, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.relay.http.retry import RetryPolicy, may_repeat
from mcp_audit.wire.message import Direction, parse

STREAM = [(b"accept", b"application/json, text/event-stream")]


def _messages(*bodies: str) -> list:  # type: ignore[type-arg]
    return [message for body in bodies for message in parse(body.encode(), Direction.TO_SERVER, line=False).messages]


@pytest.mark.parametrize(
    ("method", "headers", "bodies", "safe"),
    [
        pytest.param("POST", STREAM, ['{"id":1,"method":"tools/list"}'], True, id="list"),
        pytest.param("POST", STREAM, ['{"id":1,"method":"tools/call","params":{"name":"x"}}'], False, id="call"),
        pytest.param("POST", STREAM, ['[{"id":1,"method":"ping"},{"id":2,"method":"tools/list"}]'], True, id="batch"),
        pytest.param(
            "POST",
            STREAM,
            ['[{"id":1,"method":"ping"},{"id":2,"method":"tools/call","params":{"name":"x"}}]'],
            False,
            id="batch-with-call",
        ),
        pytest.param("POST", STREAM, ['{"id":1,"method":"initialize","params":{}}'], False, id="initialize"),
        pytest.param("POST", STREAM, ['{"method":"ping"}'], False, id="notification"),
        pytest.param("POST", STREAM, ['{"id":1,"result":{}}'], False, id="answer"),
        pytest.param(
            "POST",
            STREAM,
            ['{"id":1,"method":"prompts/get","params":{"name":"x","requestState":"s"}}'],
            False,
            id="second-round",
        ),
        pytest.param(
            "POST",
            STREAM,
            ['{"id":1,"method":"prompts/get","params":{"name":"x","request\\u0053tate":"s"}}'],
            False,
            id="second-round-disguised",
        ),
        pytest.param(
            "POST",
            STREAM,
            ['{"id":1,"method":"prompts/get","params":{"name":"\\u00e9"}}'],
            True,
            id="escapes-elsewhere",
        ),
        pytest.param("POST", STREAM, [], False, id="form"),
        pytest.param("GET", [(b"accept", b"text/event-stream")], [], False, id="stream"),
        pytest.param("GET", [(b"accept", b"application/json")], [], True, id="metadata"),
        pytest.param("GET", [], [], True, id="get"),
        pytest.param("HEAD", [], [], True, id="head"),
        pytest.param("OPTIONS", [], [], True, id="preflight"),
        pytest.param("DELETE", [], [], False, id="delete"),
        pytest.param("PUT", [], [], False, id="put"),
    ],
)
def test_what_may_be_sent_again(method: str, headers: list[tuple[bytes, bytes]], bodies: list[str], safe: bool) -> None:
    """Only what cannot act twice."""
    assert may_repeat(method, headers, _messages(*bodies)) is safe


@pytest.mark.parametrize(
    ("attempt", "retry_after", "pause"),
    [
        pytest.param(0, None, 0.2, id="first"),
        pytest.param(2, None, 0.8, id="doubled-twice"),
        pytest.param(9, None, 2.0, id="longest"),
        pytest.param(0, b"1", 1.0, id="seconds"),
        pytest.param(0, b"0", 0.0, id="at-once"),
        pytest.param(0, b"2", 2.0, id="as-long-as-allowed"),
        pytest.param(0, b"3600", None, id="too-long"),
        pytest.param(0, b"Thu, 01 Jan 1970 00:16:41 GMT", 1.0, id="date"),
        pytest.param(0, b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0, id="past"),
        pytest.param(0, b"soon", 0.2, id="words"),
        pytest.param(0, b"-1", 0.2, id="negative"),
    ],
)
def test_how_long_it_waits(attempt: int, retry_after: bytes | None, pause: float | None) -> None:
    """As the upstream asks; longer than the configuration allows is not at all."""
    assert RetryPolicy(5, 0.2, 2.0).pause(attempt, retry_after, now=1000.0) == pytest.approx(pause)


@given(st.integers(0, 200), st.none() | st.binary(max_size=40))
def test_a_pause_is_never_too_long(attempt: int, retry_after: bytes | None) -> None:
    """Whatever the upstream says."""
    pause = RetryPolicy(100, 0.2, 2.0).pause(attempt, retry_after, now=1e9)
    assert pause is None or 0 <= pause <= 2.0
