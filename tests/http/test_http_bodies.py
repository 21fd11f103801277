"""Bodies pass byte for byte and piece by piece; a copy is read, judged and recorded.

Long because there are many ways to spell, frame, compress and break a body, and each is a few lines.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import ACCEPT, EVENT_STREAM, JSON, answer, call, encode, event, get, message, note, post
from http_peers import END_OF_CHUNKS, Request, Upstream, chunk

CONFIGS = [pytest.param(NEUTRAL, id="neutral"), pytest.param(ENFORCING, id="enforcing")]
MIB = 1 << 20
DELETE = call("delete_file", path="/")  # what the enforcing profile denies


def raw_deflate(data: bytes) -> bytes:
    """Return a stream without zlib's frame, which some servers call `deflate`."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


ENCODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"identity": bytes,
    b"GZIP": gzip.compress,
    b"gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}
encodings = pytest.mark.parametrize("encoding", [pytest.param(name, id=name.decode()) for name in ENCODINGS])

# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(call(), id="call"),
        pytest.param(
            b' \r\n\t{"method" : "tools/call","id":1e0,"params":{"name":"echo","arguments":{"n":1.10}}} \n', id="spaces"
        ),
        pytest.param('{"id":"é☃\u2028","method":"tools/list"}'.encode(), id="unicode"),
        pytest.param(
            b'{"method":"x/\\u0079","params":{"n":1E400,"z":-0,"i":123456789012345678901234567890},"id":0}',
            id="numbers",
        ),
        pytest.param(
            b'{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"a":1},"x-unknown":[[]]}', id="unknown-members"
        ),
        pytest.param(call(text="y" * MIB), id="1-mib"),
        pytest.param(note("notifications/initialized"), id="notification"),
        pytest.param(answer(3, roots=[]), id="response"),
    ],
)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_request_body_is_sent_unchanged(hop: Hop, body: bytes, chunked: bool) -> None:
    """Whatever its spelling, length and framing."""
    hop.golden(post((body[:3], body[3:]) if chunked else body), 202)


def test_a_request_in_many_small_pieces(hop: Hop) -> None:
    """The upstream gets it whole, and not before it is complete."""
    client = hop.client()
    raw = post(call()).encode(client.host)
    for place in range(len(raw) - 1):
        client.send(raw[place : place + 1])
    if not hop.is_direct:
        assert hop.upstream.is_idle()
    client.send(raw[-1:])
    asked = hop.upstream.next()
    assert asked.body == call()
    asked.answer(200, [JSON], answer())
    assert client.response().read() == answer()


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_upload_that_breaks_off_is_not_sent(proxy: Hop, leave: str, chunked: bool) -> None:
    """Half a call reaches nobody; the next client is served."""
    client = proxy.client()
    whole = post((call(), call()) if chunked else call()).encode(client.host)
    client.send(whole[:-9])
    getattr(client, leave)()
    proxy.golden(post(call(id=8)), 200, [JSON], answer(8))
    assert proxy.upstream.is_idle()
    assert proxy.upstream.torn.empty()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_the_limit_is_exact(tmp_path: Path, config: str, chunked: bool) -> None:
    """A body of the limit passes; a byte more is 413 with our error and a line, and reaches nobody."""
    limit = 4096
    frame = len(call(text=""))
    exact, over = call(text="x" * (limit - frame)), call(text="x" * (limit - frame + 1))
    with (
        Upstream() as upstream,
        running_proxy(tmp_path, upstream, proxy_config(config, max_message_bytes=str(limit))) as hop,
    ):
        hop.golden(post((exact,) if chunked else exact), 200, [JSON], answer())
        client = hop.client()
        client.ask(post((over,) if chunked else over))
        response = client.response()
        refused = json.loads(response.read())
        assert response.status == 413
        assert (refused["id"], refused["error"]["code"]) == (7, -32600)
        assert refused["error"]["data"]["kind"] == "message_too_large"
        line = hop.record(id=refused["error"]["data"]["entry_id"], outcome="denied", http={"status": 413})
        assert "too_large" in line["marks"]
        assert upstream.is_idle()
        hop.golden(post(call(id=8)), 200, [JSON], answer(8))


def test_a_giant_is_refused_before_it_ends(tmp_path: Path) -> None:
    """413 comes as soon as the limit is passed; nobody has to upload a terabyte to hear no."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(max_message_bytes="4096")) as hop:
        client = hop.client()
        head = b"POST /mcp HTTP/1.1\r\nHost: %b\r\nContent-Length: 1099511627776\r\n\r\n"
        client.send(head % client.host + b"{" * 4097)
        assert client.response().status == 413
        assert upstream.is_idle()


DISGUISES = [
    pytest.param(Request(b"POST", b"/mcp", ((b"Content-Type", b"text/plain"),), DELETE), id="text"),
    pytest.param(Request(b"POST", b"/mcp", (), DELETE), id="no-type"),
    pytest.param(
        Request(b"POST", b"/mcp", ((b"Content-Type", b"application/x-www-form-urlencoded"),), DELETE), id="form"
    ),
    pytest.param(Request(b"POST", b"/mcp", ((b"Content-Type", b"application/octet-stream"),), DELETE), id="octets"),
    pytest.param(Request(b"PUT", b"/mcp", (JSON,), DELETE), id="put"),
    pytest.param(Request(b"PATCH", b"/mcp", (JSON,), DELETE), id="patch"),
    pytest.param(Request(b"GET", b"/mcp", (JSON,), DELETE), id="get"),
    pytest.param(Request(b"DELETE", b"/mcp", (JSON,), DELETE), id="delete"),
    pytest.param(Request(b"OPTIONS", b"/mcp", (JSON,), DELETE), id="options"),
    pytest.param(Request(b"POST", b"/token", (JSON,), DELETE), id="token"),
    pytest.param(Request(b"POST", b"/.well-known/x", (JSON,), DELETE), id="well-known"),
    pytest.param(Request(b"POST", b"/mcp", (JSON,), (DELETE[:20], DELETE[20:])), id="chunks"),
    pytest.param(post(DELETE, (b"X-HTTP-Method-Override", b"GET")), id="override"),
]


@pytest.mark.parametrize("request_", DISGUISES)
def test_any_body_is_judged_whatever_it_is_called(hop: Hop, request_: Request) -> None:
    """A server that ignores method, path or type must not be a way round the policy; else it passes."""
    if not hop.enforces:
        hop.golden(request_, 200, [JSON], answer())
        hop.record(method="tools/call", tool_name="delete_file", outcome="answered")
        return
    refused = denied(hop, request_, 200)
    assert (refused["error"]["code"], refused["error"]["data"]["kind"]) == (-32030, "policy_denied")
    hop.record(method="tools/call", tool_name="delete_file", outcome="denied", id=refused["error"]["data"]["entry_id"])


def denied(hop: Hop, request: Request, status: int) -> Any:
    """Send what must be refused; returns the answer, after a look that nothing reached the upstream."""
    client = hop.client()
    client.ask(request)
    response = client.response()
    body = response.read()
    assert response.status == status, body
    assert response.head.get(b"content-type") == b"application/json"
    assert hop.upstream.is_idle()
    hop.golden(post(note("notifications/x")), 202, client=client)  # the connection is still good
    return json.loads(body)


@encodings
def test_a_compressed_request_is_judged_and_passes_as_it_is(hop: Hop, encoding: bytes) -> None:
    """Decoded for the gates only."""
    body = ENCODINGS[encoding](call(text="x" * 1000))
    hop.golden(post(body, (b"Content-Encoding", encoding)), 200, [JSON], answer())
    hop.record(method="tools/call", tool_name="echo", outcome="answered")
    if hop.enforces:
        hidden = post(ENCODINGS[encoding](DELETE), (b"Content-Encoding", encoding))
        assert denied(hop, hidden, 200)["error"]["data"]["kind"] == "policy_denied"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param(b"zstd", b"(\xb5/\xfd\x04\x00\x01\x00\x00x", id="zstd"),
        pytest.param(b"compress", b"\x1f\x9d", id="compress"),
        pytest.param(b"made-up", DELETE, id="made-up"),
        pytest.param(b"gzip", DELETE, id="not-gzip"),
        pytest.param(b"gzip", gzip.compress(DELETE)[:-9], id="cut"),
        pytest.param(b"br", b"\xff" * 20, id="not-br"),
        pytest.param(b"gzip, made-up", gzip.compress(DELETE), id="one-unknown"),
    ],
)
def test_a_request_that_cannot_be_decoded_is_ambiguous(hop: Hop, encoding: bytes, body: bytes) -> None:
    """Forwarded and marked with nothing to enforce, else 400: whoever can decode it may find a call in it."""
    request = post(body, (b"Content-Encoding", encoding))
    if not hop.enforces:
        hop.golden(request, 415, [JSON], b"{}")
        hop.record(outcome="opaque", marks=lambda marks: marks and "unknown_encoding" in marks)
        return
    refused = denied(hop, request, 400)
    assert refused["error"]["code"] == -32600
    assert refused["error"]["data"]["reason"] == "unknown_encoding"
    hop.record(outcome="denied", marks=lambda marks: marks and "unknown_encoding" in marks)


FOREIGN = [
    pytest.param(
        Request(b"POST", b"/register", (JSON,), b'{"client_name":"golden","redirect_uris":["http://l/cb-private"]}'),
        id="dynamic-registration",
    ),
    pytest.param(
        Request(
            b"POST", b"/token", ((b"Content-Type", b"application/x-www-form-urlencoded"),),
            b"grant_type=authorization_code&code=private-code_1.2*&code_verifier=a+b%20c",
        ),
        id="token-request",
    ),
]  # fmt: skip


@pytest.mark.parametrize("request_", FOREIGN)
def test_what_is_not_mcp_passes_and_its_secrets_are_not_kept(hop: Hop, request_: Request) -> None:
    """OAuth's forms are recorded with size and keyed hash, its JSON without its secrets."""
    hop.golden(
        request_, 201, [JSON, (b"Cache-Control", b"no-store")], b'{"client_id":"x","access_token":"private-token"}'
    )
    line = hop.record(outcome="opaque")
    if not hop.is_direct:
        assert line["method"] == ""
        if not request_.content.startswith(b"{"):
            (form,) = [each for line in hop.exchanges() for each in line.get("elided", ()) if each["bytes"] == 74]
            assert form["c"]
        stored = hop.program.ledger.read_bytes()
        for secret in (b"private-code", b"private-token"):
            assert secret not in stored
            assert json.dumps(secret.decode()).encode() not in stored


@pytest.mark.parametrize(
    ("content_type", "body", "slug"),
    [
        pytest.param(
            JSON[1],
            b'{"client_name":"x","Method":"tools/call","params":{"name":"echo"}}',
            "case_variant_key",
            id="case",
        ),
        pytest.param(
            JSON[1],
            b'{"client_name":"x","m\\u0065thod":"tools/call","params":{"name":"x"}}',
            "escaped_key",
            id="escape",
        ),
        pytest.param(
            b"application/x-www-form-urlencoded", b'a={"method":"tools/call"}', "not_json", id="form-with-json"
        ),
        pytest.param(b"application/x-www-form-urlencoded", b"a=1\nb", "not_json", id="form-with-line"),
        pytest.param(b"text/plain", b"a=1&b=2", "not_json", id="form-of-another-type"),
    ],
)
def test_nothing_hides_behind_the_exceptions(hop: Hop, content_type: bytes, body: bytes, slug: str) -> None:
    """Any spelling of `method` makes it MCP, and a form has its own alphabet."""
    request = Request(b"POST", b"/mcp", ((b"Content-Type", content_type), ACCEPT), body)
    if not hop.enforces:
        hop.golden(request, 400)
        hop.record(outcome="opaque", marks=lambda marks: marks and slug in marks)
        return
    assert denied(hop, request, 400)["error"]["data"]["reason"] == slug


# -- answers -----------------------------------------------------------------------------------------------------------


STATUSES = (
    *(200, 201, 204, 302, 304, 400, 401, 403, 404, 405, 406, 409, 410, 415, 422, 429),
    *(500, 501, 502, 503, 504, 511),
)


@pytest.mark.parametrize("status", STATUSES)
def test_statuses_pass_with_their_bodies(hop: Hop, status: int) -> None:
    """None is turned into another, and no body is replaced."""
    body = (
        b""
        if status in (204, 304)
        else b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32000,"message":"x"}} \n'
    )
    hop.golden(post(call()), status, [JSON], body)


def test_202_stays_empty(hop: Hop) -> None:
    """A notification is accepted without a word."""
    done = hop.golden(post(note("notifications/initialized")), 202)
    assert done.body == b""
    hop.record(method="notifications/initialized", outcome="notification")


def test_a_json_answer_is_recorded_with_its_request(hop: Hop) -> None:
    """Under the status it came with."""
    hop.golden(post(call(text="é")), 200, [(b"Content-Type", b"application/json; charset=utf-8")], answer(7, n=1))
    line = hop.record(method="tools/call", outcome="answered", request_id="7", transport="http", http={"status": 200})
    if not hop.is_direct:
        assert (line["result"], line["direction"]) == ({"n": 1}, "client_to_server")
        hop.record(type="request", method="tools/call", request_id="7")


def test_the_line_is_there_before_the_effect(proxy: Hop) -> None:
    """A tools/call is in the ledger when the upstream gets it, and its answer when the client does."""
    client, asked = proxy.ask(post(call()))
    assert [line["type"] for line in proxy.lines()] == ["request"]
    asked.answer(200, [JSON], answer())
    response = client.response()
    assert response.read() == answer()
    assert [line["outcome"] for line in proxy.exchanges()] == ["answered"]


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_json_answer_comes_piece_by_piece(hop: Hop, framing: str) -> None:
    """What was sent is there before more is, but for the one byte that may turn out to be the message's last."""
    whole = answer(7, text="x" * 1000)
    client, asked = hop.ask(post(call()))
    if framing == "chunked":
        asked.stream(kind=JSON[1])
    else:
        asked.begin(200, [JSON, (b"Content-Length", b"%d" % len(whole))])
    got = b""
    response = None
    for start, end in ((0, 100), (100, 500)):
        asked.send(chunk(whole[start:end]) if framing == "chunked" else whole[start:end])
        response = response or client.response()
        got += response.at_least(end - 1 - len(got))
    asked.send(chunk(whole[500:]) + END_OF_CHUNKS if framing == "chunked" else whole[500:], last=True)
    assert response is not None
    assert got + response.read() == whole
    hop.record(method="tools/call", outcome="answered")


def test_the_head_of_a_stream_does_not_wait_for_its_first_event(hop: Hop) -> None:
    """A client that waits for the stream to open would wait for ever."""
    client, asked = hop.ask(get())
    asked.stream()
    response = client.response()
    hop.check_head(response, 200, [(b"content-type", b"text/event-stream")])
    asked.end()
    assert response.read() == b""


def test_an_event_is_seen_before_the_next_is_written(hop: Hop) -> None:
    """And recorded when it is seen."""
    client, asked = hop.ask(post(call()))
    asked.stream((b"Cache-Control", b"no-cache"))
    response = client.response()
    for number in range(10):
        progress = event(note("notifications/progress", progressToken=1, progress=number))
        asked.chunk(progress)
        response.next(progress)
        if not hop.is_direct:
            assert hop.exchanges()[-1]["params"]["progress"] == number
    asked.chunk(event(answer()))
    response.next(event(answer()))
    hop.record(method="tools/call", outcome="answered", http={"status": 200})
    asked.end()
    assert response.read() == b""


def test_a_thousand_events_arrive_as_a_thousand(hop: Hop) -> None:
    """However they were cut on the way, none is lost, merged or reordered, and each is recorded."""
    events = b"".join(event(note("notifications/message", n=n), b"%d" % n) for n in range(1000)) + event(answer())
    client, asked = hop.ask(post(call()))
    asked.stream()
    cut = random.Random(7)
    place = 0
    while place < len(events):
        size = cut.choice((1, 2, 3, 50, 700, 5000))
        asked.chunk(events[place : place + size])
        place += size
    asked.end()
    assert client.response().read() == events
    hop.record(method="tools/call", outcome="answered")
    if not hop.is_direct:
        told = [line["params"]["n"] for line in hop.exchanges() if line["method"] == "notifications/message"]
        assert told == list(range(1000))


MESSAGE = note("notifications/message", n=1)
STREAMS = [
    pytest.param(b": keep-alive\n\n" + event(MESSAGE), id="comment"),
    pytest.param(b"id: 1\ndata:\n\n" + event(MESSAGE), id="priming"),
    pytest.param(b"id: 1\ndata: \nretry: 100\n\n" + event(MESSAGE), id="priming-with-retry"),
    pytest.param(b"retry: 100\n\n" + event(MESSAGE), id="retry"),
    pytest.param(event(MESSAGE, b"9", b"message", b"\r\n"), id="crlf"),
    pytest.param(event(MESSAGE, b"9", b"message", b"\r"), id="cr"),
    pytest.param(b"data: " + MESSAGE + b"\r\n\n", id="mixed-ends"),
    pytest.param(b"\xef\xbb\xbf" + event(MESSAGE), id="bom"),
    pytest.param(b"data:" + MESSAGE + b"\n\n", id="no-space"),
    pytest.param(b"data: " + MESSAGE.replace(b",", b",\ndata: ") + b"\n\n", id="several-lines"),
    pytest.param(b"unknown: x\nnocolon\n" + event(MESSAGE), id="unknown-fields"),
    pytest.param(b"\n\n\n" + event(MESSAGE) + b"\n", id="blank-lines"),
    pytest.param(event(b"not json at all") + event(MESSAGE), id="noise"),
    pytest.param(event(MESSAGE[:-2] + ',"t":"é☃\u2028"}}'.encode()), id="u2028"),
]  # fmt: skip


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("how", ["whole", "bytewise"])
def test_every_spelling_of_a_stream_passes_and_is_read(hop: Hop, stream: bytes, how: str) -> None:
    """Bytes equal; the one message in it is recorded once."""
    client, asked = hop.ask(get())
    asked.stream()
    for piece in [stream] if how == "whole" else [stream[i : i + 1] for i in range(len(stream))]:
        asked.chunk(piece)
    asked.end()
    assert client.response().read() == stream
    if not hop.is_direct:
        hop.record(method="notifications/message", direction="server_to_client", outcome="notification")
        told = [line for line in hop.exchanges() if line["method"] == "notifications/message"]
        assert [line["params"]["n"] for line in told] == [1]


def test_an_event_without_its_blank_line_is_no_event(hop: Hop) -> None:
    """It passes, and no client would act on it; the record says that it was no message that counted."""
    client, asked = hop.ask(get())
    asked.stream()
    asked.chunk(b"data: " + MESSAGE + b"\n")
    asked.end()
    assert client.response().read() == b"data: " + MESSAGE + b"\n"
    assert not [line for line in hop.exchanges() if line["outcome"] == "notification"]


@encodings
def test_a_compressed_answer_is_byte_equal_and_audited(hop: Hop, encoding: bytes) -> None:
    """The copy is decoded; the client gets the encoding with its bytes."""
    body = ENCODINGS[encoding](answer(7, text="z" * 3000))
    hop.golden(post(call()), 200, [JSON, (b"Content-Encoding", encoding)], body)
    if not hop.is_direct:
        assert hop.record(method="tools/call", outcome="answered")["result"] == {"text": "z" * 3000}


def test_deflate_without_its_frame_is_audited_too(hop: Hop) -> None:
    """RFC 9110 calls it a mistake that is common enough to be read."""
    hop.golden(post(call()), 200, [JSON, (b"Content-Encoding", b"deflate")], raw_deflate(answer(7, n=1)))
    if not hop.is_direct:
        assert hop.record(method="tools/call", outcome="answered")["result"] == {"n": 1}


def test_a_compressed_stream_is_not_held_back(hop: Hop) -> None:
    """Each event that the upstream flushes is there before the next, and recorded."""
    client, asked = hop.ask(post(call(), (b"Accept-Encoding", b"gzip")))
    asked.stream((b"Content-Encoding", b"gzip"))
    response = client.response()
    packer = zlib.compressobj(wbits=31)
    for number in range(5):
        packed = packer.compress(event(note("notifications/message", n=number))) + packer.flush(zlib.Z_SYNC_FLUSH)
        asked.chunk(packed)
        response.next(packed)
        hop.record(method="notifications/message", params={"n": number})
    packed = packer.compress(event(answer(7, n=2))) + packer.flush()
    asked.chunk(packed)
    asked.end()
    assert response.read() == packed
    if not hop.is_direct:
        assert hop.record(method="tools/call", outcome="answered")["result"] == {"n": 2}


@pytest.mark.parametrize("encoding", [b"zstd", b"made-up", b"gzip"])
def test_an_answer_that_cannot_be_decoded_passes(hop: Hop, encoding: bytes) -> None:
    """The record says that it could not be read; the request does not look answered for lack of an answer."""
    hop.golden(post(call()), 200, [JSON, (b"Content-Encoding", encoding)], b"\x00\x01 no such encoding")
    hop.record(outcome="opaque")


@pytest.mark.parametrize("config", CONFIGS)
def test_an_oversized_answer_passes_and_its_record_is_cut(tmp_path: Path, config: str) -> None:
    """It is on its way already: bytes equal; the line has size and keyed hash."""
    big = answer(7, text="x" * 100_000)
    with (
        Upstream() as upstream,
        running_proxy(tmp_path, upstream, proxy_config(config, max_message_bytes="4096")) as hop,
    ):
        hop.golden(post(call()), 200, [JSON], big)
        line = hop.record(marks=lambda marks: marks and "too_large" in marks)
        assert [(e["bytes"], bool(e["c"])) for e in line["elided"]] == [(len(big), True)]
        client, asked = hop.ask(post(call(id=8)))
        asked.stream()
        asked.chunk(event(big.replace(b":7,", b":8,", 1)))
        asked.chunk(event(note("notifications/message", n=1)))
        asked.end()
        assert len(client.response().read()) > len(big)
        hop.record(method="notifications/message")  # the stream is readable again


@pytest.mark.parametrize("kind", [JSON, EVENT_STREAM], ids=["json", "events"])
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_an_answer_that_breaks_off_breaks_off(hop: Hop, kind: tuple[bytes, bytes], how: str, framing: str) -> None:
    """Never a clean end: the client can tell, and the record does not say that it was answered."""
    half = event(note("notifications/message", n=1)) if kind is EVENT_STREAM else answer()[:20]
    client, asked = hop.ask(post(call()))
    if framing == "chunked":
        asked.stream(kind=kind[1])
        asked.chunk(half)
    else:
        asked.begin(200, [kind, (b"Content-Length", b"500")])
        asked.send(half)
    response = client.response()
    got = response.at_least(len(half) - 1)
    getattr(asked, how)()
    assert half.startswith(got + response.torn())
    hop.golden(post(call(id=8)), 200, [JSON], answer(8))
    assert not [line for line in hop.exchanges() if line.get("request_id") == "7" and line["outcome"] == "answered"]


def test_a_modern_call_whose_answer_breaks_off_is_lost(proxy: Hop) -> None:
    """In the modern era the answer can come nowhere else."""
    from http_messages import modern

    client, asked = proxy.ask(modern())
    asked.stream()
    response = client.response()
    asked.reset()
    response.torn()
    proxy.record(method="tools/call", outcome="lost")


def test_an_answer_up_to_the_end_of_the_connection(hop: Hop) -> None:
    """Neither length nor chunks: HTTP/1.0's way, which simple servers still have."""
    client, asked = hop.ask(post(call()))
    asked.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + answer()[:9])
    asked.send(answer()[9:])
    asked.close()
    response = client.response()
    hop.check_head(response, 200, [(b"content-type", b"application/json")])
    assert response.read() == answer()
    hop.record(method="tools/call", outcome="answered")


def test_a_connection_serves_many_requests(hop: Hop) -> None:
    """One upstream request each, on one connection to the client."""
    client = hop.client()
    for number in range(20):
        hop.golden(post(call(id=number)), 200, [JSON], answer(number), client=client)


def test_requests_side_by_side_do_not_wait_for_each_other(hop: Hop) -> None:
    """Answered in the reverse order on as many connections; ids collide and mean nothing across them."""
    clients = []
    for number in range(10):
        clients.append(hop.ask(post(message("tools/list", 1, cursor=str(number)))))
    for number, (client, asked) in reversed(list(enumerate(clients))):
        asked.answer(200, [JSON], answer(1, n=number))
        assert client.response().read() == answer(1, n=number)


def test_a_slow_client_holds_the_upstream_back(hop: Hop) -> None:
    """Nothing is read faster than it is taken: memory is bounded, and all of it arrives."""
    client, asked = hop.ask(get(target=b"/big"))
    before = 0 if hop.is_direct else hop.program.memory
    asked.stream(kind=b"application/octet-stream")
    asked.sock.settimeout(0.5)
    sent = 0
    piece = b"y" * MIB
    try:
        while sent < 64 * MIB:
            sent += asked.sock.send(b"%x\r\n" % MIB)
            rest = memoryview(piece + b"\r\n")
            while rest:
                rest = rest[asked.sock.send(rest) :]
            sent += MIB
    except TimeoutError:
        pass
    assert sent < 40 * MIB, "nobody held it back"
    if not hop.is_direct:
        assert hop.program.memory - before < 16 * MIB
    client.reset()
    assert asked.gone.wait(5)
    asked.over = True


def test_no_message_of_an_answer_is_taken_for_another(hop: Hop) -> None:
    """A batch of answers in one JSON body is as many messages."""
    batch = b"[" + b",".join([call(id=1), call(id=2), note("notifications/x")]) + b"]"
    hop.golden(post(batch), 200, [JSON], b"[" + answer(2) + b", " + answer(1) + b"]")
    for number in "12":
        hop.record(method="tools/call", request_id=number, outcome="answered")


def test_a_denied_call_in_a_batch_stops_all_of_it(hop: Hop) -> None:
    """Whole or not at all; one error for each request, and none for the notification."""
    batch = b"[" + b",".join([call(id=1), call("delete_file", id="2"), note("notifications/x")]) + b"]"
    if not hop.enforces:
        hop.golden(post(batch), 200, [JSON], b"[" + answer(1) + b"," + answer("2") + b"]")
        return
    errors = {each["id"]: each["error"] for each in denied(hop, post(batch), 200)}
    assert {id_: each["data"]["kind"] for id_, each in errors.items()} == {1: "batch_rejected", "2": "policy_denied"}
    assert len([line for line in hop.exchanges() if line["outcome"] == "denied"]) == 3


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            encode({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "delete_file"}}), id="notification"
        ),
        pytest.param(b"[" + encode({"method": "tools/call", "params": {"name": "delete_file"}}) + b"]", id="batch"),
    ],
)
def test_a_denied_notification_is_403_without_an_id(hop: Hop, body: bytes) -> None:
    """Nobody waits for an answer, but HTTP has one all the same."""
    if not hop.enforces:
        hop.golden(post(body), 202)
        return
    refused = denied(hop, post(body), 403)
    refused = refused[0] if isinstance(refused, list) else refused
    assert "id" not in refused
    assert refused["error"]["data"]["kind"] == "policy_denied"
