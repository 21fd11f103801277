"""Whole conversations: sessions, streams, resumption, and which answer belongs to which request."""

from __future__ import annotations

from typing import Any

import pytest
from http_hop import Hop
from http_messages import (
    EVENT_STREAM,
    JSON,
    answer,
    call,
    delete,
    encode,
    error,
    event,
    get,
    message,
    modern,
    note,
    post,
    session_headers,
)  # fmt: skip

INITIALIZE = message(
    "initialize",
    0,
    protocolVersion="2025-11-25",
    capabilities={"roots": {}},
    clientInfo={"name": "golden", "version": "1"},
)
INITIALIZED = answer(
    0, protocolVersion="2025-11-25", capabilities={"tools": {}}, serverInfo={"name": "scripted", "version": "2"}
)


def test_initialize_as_a_stream_with_session_priming_retry_and_crlf(hop: Hop) -> None:
    """The opening of a session, in the spelling that a server may choose."""
    client, asked = hop.ask(post(INITIALIZE))
    headers = [
        EVENT_STREAM, (b"Mcp-Session-Id", b"session-1"), (b"Cache-Control", b"no-cache, no-transform"),
        (b"X-Accel-Buffering", b"no"), (b"Transfer-Encoding", b"chunked"),
    ]  # fmt: skip
    asked.begin(200, headers)
    response = client.response()
    hop.check_head(response, 200, [(name.lower(), value) for name, value in headers])
    pieces = [b"id: prime/1\r\nretry: 500\r\ndata:\r\n\r\n", event(INITIALIZED, b"prime/2", b"message", b"\r\n")]
    for piece in pieces:
        asked.chunk(piece)
        response.next(piece)
    asked.end()
    assert response.read() == b""
    hop.golden(post(note("notifications/initialized"), *session_headers()), 202)
    hop.golden(post(call(id=1), *session_headers()), 200, [JSON], answer(1))
    line = hop.record(method="tools/call", outcome="answered", client_id="golden", server_id="scripted")
    if not hop.is_direct:
        assert (line["era"], line["protocol_version"]) == ("legacy", "2025-11-25")
        opening = hop.record(method="initialize", outcome="answered")
        assert line["session"] == opening["session"] != "session-1"


def test_each_session_has_its_own_names_and_ids(hop: Hop) -> None:
    """Two clients in turns, with the same ids, on one connection even."""
    client = hop.client()
    for name in ("one", "two"):
        hello = INITIALIZE.replace(b"golden", name.encode())
        hop.golden(post(hello), 200, [JSON, (b"Mcp-Session-Id", b"of-" + name.encode())], INITIALIZED, client=client)
    streams = [hop.ask(post(call(id=1, who=name), *session_headers(b"of-" + name.encode()))) for name in ("one", "two")]
    for name, (other, asked) in zip(("one", "two"), streams, strict=True):
        asked.answer(200, [JSON], answer(1, to=name))
        assert other.response().read() == answer(1, to=name)
        if not hop.is_direct:
            line = hop.record(method="tools/call", outcome="answered", client_id=name)
            assert (line["params"]["arguments"], line["result"]) == ({"who": name}, {"to": name})
    if not hop.is_direct:
        assert len({line["session"] for line in hop.exchanges() if line["method"] == "tools/call"}) == 2


REFUSALS = [
    pytest.param(post(call(), *session_headers(b"gone")), 404, error(-32001, "No session"), id="unknown-session"),
    pytest.param(post(call()), 400, error(-32000, "Bad Request: No valid session ID provided"), id="no-session"),
    pytest.param(get(*session_headers()), 405, b"", id="no-get"),
    pytest.param(get(*session_headers()), 409, error(-32000, "Conflict: Only one SSE stream"), id="second-get"),
    pytest.param(delete(*session_headers()), 200, b"", id="delete"),
    pytest.param(delete(*session_headers()), 405, b"no", id="no-delete"),
    pytest.param(modern("no/such"), 404, error(-32601, "Method not found"), id="modern-404"),
    pytest.param(modern("tools/list"), 400, error(-32022, "Unsupported protocol version"), id="modern-400"),
    pytest.param(modern("tools/list"), 400, error(-32602, "Invalid params"), id="modern-bad-params"),
    pytest.param(modern(), 400, error(-32021, "Missing required client capability"), id="modern-capability"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status", "body"), REFUSALS)
def test_a_servers_refusal_passes_as_it_is(hop: Hop, request_: Any, status: int, body: bytes) -> None:
    """A client that sees another status changes its era or loses its session."""
    hop.golden(request_, status, [JSON] if body else [], body)
    if request_.method == b"POST" and b'"id":7,"error"' in body:
        hop.record(outcome="rpc_error", http={"status": status})


def test_a_second_stream_is_the_servers_to_refuse(hop: Hop) -> None:
    """The first one lives on, and so does the session."""
    client, asked = hop.ask(get(*session_headers()))
    asked.stream()
    response = client.response()
    hop.golden(get(*session_headers()), 409, [JSON], error(-32000, "one stream only"))
    hop.golden(post(call(), *session_headers()), 200, [JSON], answer())
    asked.chunk(event(note("notifications/message", n=1)))
    response.until(b"\n\n")
    asked.end()
    assert response.read() == b""


@pytest.mark.parametrize("asking", ["roots/list", "sampling/createMessage", "elicitation/create", "ping"])
def test_a_server_asks_and_the_client_answers_in_a_later_post(hop: Hop, asking: str) -> None:
    """On the stream of the call it belongs to; both use id 7 at once, and neither is confused."""
    client, asked = hop.ask(post(call(id=7), *session_headers()))
    asked.stream()
    response = client.response()
    asked.chunk(event(message(asking, 7)))
    response.next(event(message(asking, 7)))
    hop.golden(post(answer(7, said="yes"), *session_headers()), 202)
    line = hop.record(method=asking, direction="server_to_client", outcome="answered", request_id="7")
    asked.chunk(event(answer(7, done=True)))
    asked.end()
    response.read()
    done = hop.record(method="tools/call", direction="client_to_server", outcome="answered", request_id="7")
    if not hop.is_direct:
        assert (line["result"], done["result"]) == ({"said": "yes"}, {"done": True})


@pytest.mark.parametrize("ids", [(1, "1"), (0, "0"), ("", 0), (1, 2)], ids=str)
def test_ids_are_told_apart_by_type_and_value(hop: Hop, ids: tuple[Any, Any]) -> None:
    """Both open at once; the answers come in the reverse order on one stream."""
    client, asked = hop.ask(post(b"[" + call(id=ids[0], n=0) + b"," + call(id=ids[1], n=1) + b"]"))
    asked.stream()
    for number in (1, 0):
        asked.chunk(event(answer(ids[number], n=number)))
    asked.end()
    client.response().read()
    if not hop.is_direct:
        for number in (0, 1):
            line = hop.record(method="tools/call", outcome="answered", result={"n": number})
            assert line["params"]["arguments"] == {"n": number}


def test_progress_and_cancellation_pass_both_ways(hop: Hop) -> None:
    """A cancel is a message of its own; the call ends as cancelled, and a late answer is still delivered."""
    client, asked = hop.ask(post(call(id=1), *session_headers(b"cancelling")))
    asked.stream()
    response = client.response()
    progress = event(note("notifications/progress", progressToken="unknown", progress=1))
    asked.chunk(progress)
    response.next(progress)
    hop.golden(post(note("notifications/cancelled", requestId=1, reason="x"), *session_headers(b"cancelling")), 202)
    hop.record(method="tools/call", outcome="cancelled", request_id="1")
    asked.chunk(event(answer(1)))
    response.next(event(answer(1)))
    asked.end()
    assert response.read() == b""
    hop.record(marks=lambda marks: marks and "late" in marks)


def test_a_subscription_stays_open(hop: Hop) -> None:
    """Its answer is a stream; closing it is the client's cancel."""
    client, asked = hop.ask(modern("subscriptions/listen", 5, notifications={"toolsListChanged": True}))
    asked.stream()
    response = client.response()
    for number in range(3):
        change = encode({
            "jsonrpc": "2.0", "method": "notifications/tools/list_changed",
            "params": {"n": number, "_meta": {"io.modelcontextprotocol/subscriptionId": "5"}},
        })  # fmt: skip
        asked.chunk(event(change))
        response.next(event(change))
    hop.record(method="notifications/tools/list_changed", era="modern")
    client.close()
    assert asked.gone.wait(1)
    asked.over = True
    hop.record(method="subscriptions/listen", outcome="cancelled")


def test_rounds_of_input_are_linked(hop: Hop) -> None:
    """A retry carries the state of the answer that asked; the state itself is no content for a ledger."""
    state = "sealed-state-0123456789"
    asking = {"resultType": "input_required", "requestState": state, "inputRequests": {"a": {"method": "roots/list"}}}
    hop.golden(modern(id=1), 200, [JSON], answer(1, **asking))
    hop.golden(modern(id=2, requestState=state, inputResponses={"a": {"roots": []}}), 200, [JSON], answer(2, done=1))
    if not hop.is_direct:
        first = hop.record(method="tools/call", request_id="1", outcome="answered")
        assert hop.record(method="tools/call", request_id="2", outcome="answered")["continues"] == first["id"]
        assert state.encode() not in hop.program.ledger.read_bytes()


def test_a_tool_error_and_a_server_error_are_told_apart(hop: Hop) -> None:
    """The first is a result."""
    hop.golden(post(call(id=1)), 200, [JSON], answer(1, content=[], isError=True))
    hop.golden(post(call(id=2)), 200, [JSON], error(-32602, "unknown tool", 2))
    hop.record(request_id="1", outcome="tool_error")
    hop.record(request_id="2", outcome="rpc_error")


def test_an_answer_nobody_asked_for_passes(hop: Hop) -> None:
    """And is recorded on its own."""
    client, asked = hop.ask(get(*session_headers(b"stray")))
    asked.stream()
    asked.chunk(event(answer(99)))
    asked.end()
    assert client.response().read() == event(answer(99))
    hop.record(outcome="opaque", marks=lambda marks: marks and "unmatched" in marks)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_silence_stays_silence(hop: Hop, era: str) -> None:
    """A server that does not answer is not answered for."""
    client, asked = hop.ask(modern("server/discover") if era == "modern" else post(INITIALIZE))
    client.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        client.response()
    assert not asked.gone.is_set()
    client.close()
    assert asked.gone.wait(1)
    asked.over = True


@pytest.mark.parametrize("first", [modern("server/discover"), post(INITIALIZE)], ids=["modern", "legacy"])
def test_both_eras_live_on_one_endpoint(hop: Hop, first: Any) -> None:
    """Era is decided per message."""
    hop.golden(first, 200, [JSON], answer(0))
    hop.golden(post(call(id=1)), 200, [JSON], answer(1))
    hop.golden(modern(id=2), 200, [JSON], answer(2))
    hop.record(request_id="1", era="legacy", outcome="answered")
    hop.record(request_id="2", era="modern", outcome="answered")
