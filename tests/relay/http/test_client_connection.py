"""Bytes to requests: what is accepted, what is refused and how, and what no client can make another one pay for."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import App, echo, listening, read_request, respond

from mcp_audit.relay.http.asgi import Receive, RequestCycle, Scope, Send
from mcp_audit.relay.http.request_reader import ListenerLimits

HOST = b"Host: localhost\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSING = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def post(body: bytes, *fields: bytes, target: bytes = b"/mcp") -> bytes:
    head = [b"POST " + target + b" HTTP/1.1", b"Host: localhost", *fields, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, fields: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"POST /c HTTP/1.1\r\n" + HOST + fields + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


# What comes through.


async def test_the_scope_has_the_target_as_it_was_received() -> None:
    """Percent-encoding, double slashes, dots and a lone question mark: the application decides what to make of them."""
    app = App()
    async with listening(app) as site:
        for target in (b"/a%2Fb//../c%20?x=%41&y", b"/mcp?", b"/caf%C3%A9", b'/"<>\\^`{|}'):
            wire = await site.connect(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await wire.answer()).body == target + b"|"
            scope = app.scopes[-1]
            path, _, query = target.partition(b"?")
            assert (scope["raw_target"], scope["raw_path"], scope["query_string"]) == (target, path, query)

    assert app.scopes[0]["path"] == "/a/b//../c "
    assert app.scopes[2]["path"] == "/café"


async def test_headers_keep_their_order_values_and_repetitions() -> None:
    """Names arrive in lower case, as ASGI has it; nothing is added, joined or dropped."""
    app = App()
    async with listening(app) as site:
        wire = await site.connect(b"GET / HTTP/1.1\r\n" + HOST + b"X-B: 2\r\nX-A: \xff\tq \r\nx-b:1\r\nX-E:\r\n\r\n")
        await wire.answer()

    names = [(b"host", b"localhost"), (b"x-b", b"2"), (b"x-a", b"\xff\tq"), (b"x-b", b"1"), (b"x-e", b"")]
    assert [(name, value.rstrip()) for name, value in app.scopes[0]["headers"]] == names
    assert app.scopes[0]["client"][0] == "127.0.0.1"


async def test_a_response_has_what_the_application_gave_and_its_framing() -> None:
    """No date, no server; header names keep their case, and the reason phrase may be the upstream's."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"X-Case", b"1"), (b"x-case", b"2"), (b"Content-Length", b"2")]
        await send({"type": "http.response.start", "status": 299, "reason": b"Quite OK", "headers": headers})
        await send({"type": "http.response.body", "body": b"hi"})

    async with listening(App(answer)) as site:
        wire = await site.connect(GET)
        assert await wire.head() == b"HTTP/1.1 299 Quite OK\r\nX-Case: 1\r\nx-case: 2\r\nContent-Length: 2\r\n\r\n"
        assert await wire.reader.readexactly(2) == b"hi"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=4), st.integers(1, 60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_chunk_boundaries_carry_no_meaning(pieces: list[bytes], step: int, upgrade: bool) -> None:
    """However a chunked request and the one behind it are cut into segments, the same two requests arrive."""

    async def main() -> None:
        async with listening(App()) as site:
            wire = await site.connect()
            fields = b"Connection: upgrade\r\nUpgrade: websocket\r\n" if upgrade else b""
            stream = chunked(*pieces, fields=fields) + post(b"second")
            for start in range(0, len(stream), step):
                wire.writer.write(stream[start : start + step])
                await asyncio.sleep(0)
            assert (await wire.answer()).body == b"/c|" + b"".join(pieces)
            assert (await wire.answer()).body == b"/mcp|second"

    asyncio.run(main())


@pytest.mark.parametrize("size", [0, 1, 65536, 5_000_000])
async def test_a_body_arrives_whole(size: int) -> None:
    """Far beyond what may wait for the application at a time."""
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with listening(App()) as site:
        wire = await site.connect()
        sending = asyncio.create_task(wire.send(post(body)))
        answer = await wire.answer()
        await sending
        assert answer.body == b"/mcp|" + body
        assert answer.header(b"connection") is None


async def test_an_application_that_does_not_read_stops_the_client() -> None:
    """The body waits in the kernel, not with us."""
    reading = asyncio.Event()
    taken: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await reading.wait()
        message = await receive()
        taken.append(len(message["body"]))
        await read_request(receive)
        await respond(send)

    body = b"x" * 32_000_000
    async with listening(App(slow)) as site:
        wire = await site.connect()
        sending = asyncio.create_task(wire.send(post(body)))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        assert not done
        reading.set()
        assert (await wire.answer()).status == 200
        await sending

    assert taken[0] < 1_500_000


async def test_trailers_are_dropped() -> None:
    """They come after the decision about the headers, so they must not be able to add to them."""
    app = App()
    stream = (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nAuthorization: x\r\n\r\n"
    )
    async with listening(app) as site:
        wire = await site.connect(stream)
        assert (await wire.answer()).body == b"/|a"

    assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


# One request after the other.


async def test_pipelined_requests_are_answered_one_by_one_and_in_order() -> None:
    """The second does not start before the first is answered, whatever the first does in between."""
    events: list[str] = []

    async def slowly(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"]
        events.append(f"begin {name}")
        body = await read_request(receive)
        await asyncio.sleep(0.02)
        events.append(f"end {name}")
        await respond(send, 200, name.encode() + b"|" + (body or b""))

    async with listening(App(slowly)) as site:
        wire = await site.connect(post(b"one", target=b"/1") + post(b"two", target=b"/2") + post(b"", target=b"/3"))
        bodies = [(await wire.answer()).body for _ in range(3)]

    assert bodies == [b"/1|one", b"/2|two", b"/3|"]
    assert events == ["begin /1", "end /1", "begin /2", "end /2", "begin /3", "end /3"]


async def test_a_pipelined_body_larger_than_what_is_held_arrives() -> None:
    """Its head was parsed while the first request ran; the rest of it comes in when its turn has come."""
    go = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/mcp":
            await go.wait()
        await echo(scope, receive, send)

    body = b"y" * 700_000
    async with listening(App(wait)) as site:
        wire = await site.connect(GET)
        sending = asyncio.create_task(wire.send(post(body, target=b"/2") + post(b"3", target=b"/3")))
        await asyncio.sleep(0.05)
        go.set()
        assert (await wire.answer()).body == b"/mcp|"
        assert (await wire.answer()).body == b"/2|" + body
        assert (await wire.answer()).body == b"/3|3"
        await sending


async def test_a_thousand_pipelined_requests_are_answered() -> None:
    """Those that arrive together are not all begun together."""
    app = App()
    async with listening(app) as site:
        wire = await site.connect()
        sending = asyncio.create_task(wire.send(GET * 1000))
        for _ in range(1000):
            assert (await wire.answer()).body == b"/mcp|"
        await sending


async def test_what_is_pipelined_waits_outside() -> None:
    """Behind a request in progress only so many are begun and held; the rest stays in the kernel."""
    go = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()

    async with listening(App(wait)) as site:
        wire = await site.connect(GET)
        sending = asyncio.create_task(wire.send(GET * 500_000))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        begun = sum(isinstance(one, RequestCycle) for one in gc.get_objects())
        sending.cancel()
        assert not done
        assert begun < 1000
        go.set()


async def test_a_refusal_is_not_lost_in_what_is_still_sent() -> None:
    """Closing at once would reset the connection, and the client would never learn why."""
    async with listening(App()) as site:
        wire = await site.connect(b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n")
        for _ in range(5):
            await asyncio.sleep(0.02)
            wire.writer.write(b"x" * 100_000)
        await asyncio.sleep(0.05)
        assert (await wire.answer()).status == 400


async def test_nothing_counts_after_the_last_request() -> None:
    """`Connection: close` ends the connection, even if more was sent with it."""
    app = App()
    async with listening(app) as site:
        wire = await site.connect(CLOSING + GET)
        answer = await wire.answer()
        assert answer.body == b"/last|"
        assert answer.header(b"connection") == b"close"
        assert await wire.ended() == b""

    assert len(app.scopes) == 1


async def test_http_1_0_gets_no_chunks_and_no_second_request() -> None:
    """A body without length ends with the connection; what is broken off then is a reset, not an end."""
    broken = False

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"all", "more_body": broken})

    async with listening(App(stream)) as site:
        request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        wire = await site.connect(request + request)
        assert await wire.ended() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall"
        broken = True
        wire = await site.connect(request)
        with pytest.raises(ConnectionResetError):
            await wire.reader.read()


async def test_an_upgrade_is_ignored_and_its_body_is_a_body() -> None:
    """A parser that takes the body for another protocol would let it be the next request."""
    app = App()
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with listening(app) as site:
        for fields in ([], [b"Expect: 100-continue"]):
            wire = await site.connect(post(smuggled, b"Connection: upgrade", b"Upgrade: websocket", *fields) + GET)
            assert (await wire.answer()).body == b"/mcp|" + smuggled
            assert (await wire.answer()).body == b"/mcp|"
        wire = await site.connect(b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + HOST + b"\r\n")
        assert (await wire.answer()).status == 200
        await wire.send(GET)
        assert (await wire.answer()).body == b"/mcp|"

    assert "/smuggled" not in [scope["path"] for scope in app.scopes]


# Answers that end early, and 100 Continue.


async def test_a_client_is_told_to_go_on_only_when_its_body_is_wanted() -> None:
    """100 comes with the first read of the application, once."""
    read = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await read.wait()
        await echo(scope, receive, send)

    head = b"POST /e HTTP/1.1\r\n" + HOST + b"Expect: 100-Continue\r\nContent-Length: 4\r\n\r\n"
    async with listening(App(later)) as site:
        wire = await site.connect(head)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.reader.read(1), 0.05)
        read.set()
        assert await wire.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"bo")
        await asyncio.sleep(0.01)
        await wire.send(b"dy")
        assert (await wire.answer()).body == b"/e|body"


async def test_a_refusal_before_the_body_asks_for_none_and_ends_the_connection() -> None:
    """The body that follows must not be taken for a request, and must not reset the answer away."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 401, b"no")

    app = App(refuse)
    async with listening(app) as site:
        expecting = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 40\r\n\r\n"
        for stream in (expecting, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 10000000\r\n\r\n" + GET):
            wire = await site.connect(stream)
            answer = await wire.answer()
            assert (answer.status, answer.body, answer.header(b"connection")) == (401, b"no", b"close")
            wire.writer.write(GET * 1000)
            assert await wire.ended() == b""

    assert len(app.scopes) == 2


async def test_a_refusal_after_a_whole_body_keeps_the_connection() -> None:
    """An application need not read what has arrived."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 401)

    async with listening(App(refuse)) as site:
        wire = await site.connect()
        for _ in range(2):
            await wire.send(post(b"{}"))
            assert (await wire.answer()).header(b"connection") is None


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        pytest.param(b"HEAD", 200, [(b"content-length", b"1234")], id="head"),
        pytest.param(b"HEAD", 200, [], id="head-without-length"),
        pytest.param(b"GET", 204, [], id="204"),
        pytest.param(b"GET", 304, [(b"content-length", b"99")], id="304"),
    ],
)
async def test_what_has_no_body_gets_none(method: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """The length that was announced is passed on; nothing follows the head, and the connection stays."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, status, b"never sent", headers)

    async with listening(App(answer)) as site:
        wire = await site.connect()
        for _ in range(2):
            await wire.send(method + b" / HTTP/1.1\r\n" + HOST + b"\r\n")
            answered = await wire.answer(method)
            assert (answered.status, answered.headers) == (status, headers)


# What is refused.

BAD = [
    pytest.param(post(b"", b"Transfer-Encoding: chunked"), 400, id="cl-and-te"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + TE + b"Content-Length: 1\r\n\r\n", 400, id="te-and-cl"),
    pytest.param(post(b"abc", b"Content-Length: 3"), 400, id="cl-twice"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3, 3\r\n\r\nabc", 400, id="cl-list"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc", 400, id="cl-sign"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc", 400, id="space-before-colon"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n", 501, id="te-gzip"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n", 501, id="te-identity"),
    pytest.param(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n", 501, id="te-unknown"),
    pytest.param(b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="te-in-1.0"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", 400, id="obs-fold"),
    pytest.param(b"GET / HTTP/1.1\r\n X: a\r\n\r\n", 400, id="space-before-first-header"),
    pytest.param(b"GET / HTTP/1.1\nHost: localhost\n\n", 400, id="bare-lf"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\nX: 1\r\n\r\n", 400, id="bare-lf-in-head"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\rX: 1\r\n\r\n", 400, id="bare-cr"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n", 400, id="nul"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n", 400, id="two-hosts"),
    pytest.param(b"GET http://localhost/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="absolute-form"),
    pytest.param(b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="fragment"),
    pytest.param(b"GET /caf\xc3\xa9 HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="not-ascii"),
    pytest.param(b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400, id="star"),
    pytest.param(b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501, id="connect"),
    pytest.param(b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505, id="http-2-version"),
    pytest.param(b"GET /\r\n\r\n", 505, id="http-0.9"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, id="http-2-preface"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="tls"),
    pytest.param(b"GET /" + b"a" * 16384 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="long-target"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 128 + b"\r\n", 431, id="many-headers"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 65536 + b"\r\n\r\n", 431, id="long-header"),
    pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 90000, 431, id="endless-header"),
    pytest.param(b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 997 + b"\r\n") * 66, 431, id="many-bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "status"), BAD)
async def test_what_could_be_read_in_two_ways_is_refused(stream: bytes, status: int) -> None:
    """A short text, then the end; the application never hears of it, and the next client is served."""
    app = App()
    async with listening(app) as site:
        wire = await site.connect()
        wire.writer.write(stream)
        answer = await wire.answer()
        assert (answer.status, answer.header(b"connection")) == (status, b"close")
        assert answer.body.startswith(b"mcp-audit: ")
        assert await wire.ended() == b""
        assert app.scopes == []
        assert (await (await site.connect(GET)).answer()).status == 200


async def test_what_is_just_within_the_limits_passes() -> None:
    """128 headers, a target of 16 KiB, a head of just under 64 KiB."""
    async with listening(App()) as site:
        for stream in (
            b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 127 + b"\r\n",
            b"GET /" + b"a" * 16383 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
            b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 65450 + b"\r\n\r\n",
        ):
            wire = await site.connect(stream)
            assert (await wire.answer()).status == 200


BAD_BODIES = [
    pytest.param(b"zz\r\nabc\r\n0\r\n\r\n", id="size-no-number"),
    pytest.param(b"3\nabc\n0\n\n", id="bare-lf"),
    pytest.param(b"3\r\nabcd\r\n0\r\n\r\n", id="longer-than-its-size"),
    pytest.param(b"fffffffffffffffff\r\n", id="size-overflow"),
    pytest.param(b"1\r\na\r\n3;" + b"x" * 100_000, id="endless-extension"),
    pytest.param(b"1\r\na\r\n0\r\nX: " + b"x" * 100_000, id="endless-trailer"),
    pytest.param(b"1\r\na\r\n0\r\n" + b"X: y\r\n" * 20_000, id="trailers-without-end"),
]


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_a_request_whose_body_is_broken_is_not_acted_on(body: bytes) -> None:
    """The application hears that the client is gone, so nothing of the upload goes on; the client gets 400."""
    outcome: list[bytes | None] = []

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        outcome.append(await read_request(receive))

    async with listening(App(read)) as site:
        wire = await site.connect()
        wire.writer.write(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        answer = await wire.answer()
        assert answer.status == 400
        assert await wire.ended() == b""

    assert outcome == [None]


async def test_a_bad_request_behind_a_good_one_waits_its_turn() -> None:
    """Its refusal must not appear inside the response to the first."""
    go = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    app = App(wait)
    async with listening(app) as site:
        for bad in (b"nonsense\r\n\r\n", chunked(b"a")[:-5] + b"zz\r\n", post(b"", b"Content-Length: 1")):
            go.clear()
            wire = await site.connect(GET + bad)
            await asyncio.sleep(0.02)
            go.set()
            assert (await wire.answer()).body == b"/mcp|"
            assert (await wire.answer()).status == 400
            assert await wire.ended() == b""

    assert [scope["path"] for scope in app.scopes] == ["/mcp"] * 3


async def test_a_forward_proxy_takes_absolute_targets_only() -> None:
    """As they are; a request in origin form comes from somebody who does not know that this is a proxy."""
    app = App()
    async with listening(app, forward=True) as site:
        for target, path, query in (
            (b"http://up.example:81/a%2F/../b?x=1", b"/a%2F/../b", b"x=1"),
            (b"HTTP://up.example", b"/", b""),
            (b"http://up.example?q=/x", b"/", b"q=/x"),
        ):
            wire = await site.connect(b"GET " + target + b" HTTP/1.1\r\nHost: up.example\r\n\r\n")
            assert (await wire.answer()).body == target + b"|"
            scope = app.scopes[-1]
            assert (scope["raw_target"], scope["raw_path"], scope["query_string"]) == (target, path, query)
        for stream in (GET, b"GET ftp://x/ HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"):
            assert (await (await site.connect(stream)).answer()).status == 400


# Time.


async def test_a_head_must_be_complete_in_time() -> None:
    """However busily it trickles; meanwhile others are served."""
    async with listening(App(), ListenerLimits(head_seconds=0.3)) as site:
        wire = await site.connect(b"GET / HTTP/1.1\r\n")

        async def trickle() -> None:
            while True:
                wire.writer.write(b"X: y\r\n")
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        started = asyncio.get_running_loop().time()
        assert (await (await site.connect(GET)).answer()).status == 200
        assert (await wire.answer()).status == 408
        assert 0.2 < asyncio.get_running_loop().time() - started < 2
        trickling.cancel()


async def test_a_body_must_make_progress() -> None:
    """Each piece gives it the whole time again; without one it is 408, and the application hears of a lost client."""
    outcome: list[bytes | None] = []

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        outcome.append(await read_request(receive))

    async with listening(App(read), ListenerLimits(body_seconds=0.3)) as site:
        wire = await site.connect(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.1)
            await wire.send(b"x")
        assert outcome == []
        assert (await wire.answer()).status == 408
        assert await wire.ended() == b""

    assert outcome == [None]


async def test_a_body_nobody_asked_for_yet_is_not_late() -> None:
    """A client that waits for a 100 has done its part; so has one that we do not read from."""
    read = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await read.wait()
        await echo(scope, receive, send)

    async with listening(App(later), ListenerLimits(body_seconds=0.1)) as site:
        expecting = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        waiting, large = await site.connect(expecting), await site.connect()
        sending = asyncio.create_task(large.send(post(b"z" * 20_000_000)))
        await asyncio.sleep(0.4)
        read.set()
        assert (await waiting.head()).startswith(b"HTTP/1.1 100")
        await waiting.send(b"1")
        assert (await waiting.answer()).body == b"/|1"
        assert (await large.answer()).status == 200
        await sending


async def test_an_idle_connection_is_closed_and_a_streaming_one_is_not() -> None:
    """Silence on a stream is not idleness."""
    go = asyncio.Event()

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/mcp":
            await go.wait()
        await send({"type": "http.response.body", "body": b"late"})

    limits = ListenerLimits(head_seconds=0.1, body_seconds=0.1, idle_seconds=0.2)
    async with listening(App(stream), limits) as site:
        streaming, idle, fresh = (
            await site.connect(GET),
            await site.connect(GET.replace(b"/mcp", b"/x")),
            await site.connect(),
        )
        assert (await idle.answer()).body == b"late"
        assert await idle.ended() == b""
        assert await fresh.ended() == b""
        await asyncio.sleep(0.2)
        go.set()
        assert (await streaming.answer()).body == b"late"


async def test_empty_lines_between_requests_are_nothing() -> None:
    """RFC 9112 section 2.2: some clients send one after a body; it starts no clock."""
    async with listening(App(), ListenerLimits(head_seconds=0.1)) as site:
        wire = await site.connect(post(b"1") + b"\r\n")
        assert (await wire.answer()).body == b"/mcp|1"
        await wire.send(b"\r\n")
        await asyncio.sleep(0.2)
        await wire.send(GET)
        assert (await wire.answer()).body == b"/mcp|"


# Clients that leave.


@pytest.mark.parametrize("streaming", [False, True], ids=["waiting", "streaming"])
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_is_noticed_within_100_ms(streaming: bool, how: str) -> None:
    """Also while a response is being streamed, and also with a request pipelined behind."""
    loop = asyncio.get_running_loop()
    started, gone = asyncio.Event(), asyncio.Event()
    heard: list[float] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_request(receive) == b"{}"
        if streaming:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        started.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.append(loop.time())
        await send({"type": "http.response.body", "body": b"nobody", "more_body": True})
        gone.set()

    app = App(stream)
    async with listening(app) as site:
        wire = await site.connect(post(b"{}") + GET)
        await started.wait()
        left = loop.time()
        if how == "reset":
            wire.writer.transport.abort()
        elif how == "half-close":
            wire.writer.write_eof()
        else:
            wire.close()
        await asyncio.wait_for(gone.wait(), 5)

    assert heard[0] - left < 0.1
    assert len(app.scopes) == 1


async def test_an_upload_that_breaks_off_is_no_request() -> None:
    """The application sees the client leave, never a short body that looks whole."""
    outcome: list[bytes | None] = []
    done = asyncio.Event()

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        outcome.append(await read_request(receive))
        done.set()

    async with listening(App(read)) as site:
        for stream in (b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"):
            done.clear()
            wire = await site.connect(b"POST / HTTP/1.1\r\n" + HOST + stream)
            wire.close()
            await asyncio.wait_for(done.wait(), 5)

    assert outcome == [None, None]


async def test_a_client_that_does_not_read_stops_the_application() -> None:
    """And lets it go when it leaves."""
    sent = 0
    stuck, released = asyncio.Event(), asyncio.Event()

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            sending = asyncio.ensure_future(
                send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            )
            done, _ = await asyncio.wait({sending}, timeout=0.3)
            if not done:
                stuck.set()
                await sending
                released.set()
                return
            sent += 65536

    async with listening(App(pour)) as site:
        wire = await site.connect(GET)
        await asyncio.wait_for(stuck.wait(), 10)
        assert sent < 30_000_000
        wire.writer.transport.abort()
        await asyncio.wait_for(released.wait(), 5)


# Applications that fail.


async def _fail_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("before the head")


async def _return_before(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def _bad_header(scope: Scope, receive: Receive, send: Send) -> None:
    await respond(send, 200, b"", [(b"x", b"a\r\nSet-Cookie: b")])


@pytest.mark.parametrize("script", [_fail_before, _return_before, _bad_header])
async def test_an_application_that_gives_no_answer_is_a_500(script: Any) -> None:
    """In a few words; a header that would split the response is no answer either."""
    async with listening(App(script)) as site:
        answer = await (await site.connect(GET)).answer()

    assert (answer.status, answer.header(b"connection")) == (500, b"close")
    assert answer.body.startswith(b"mcp-audit: ")


def _breaking(headers: list[tuple[bytes, bytes]], fail: bool) -> Any:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if fail:
            raise ValueError("after the head")

    return stream


@pytest.mark.parametrize("fail", [True, False], ids=["raises", "returns"])
@pytest.mark.parametrize("headers", [[], [(b"content-length", b"10")]], ids=["chunked", "length"])
async def test_an_answer_that_is_not_finished_does_not_look_finished(headers: Any, fail: bool) -> None:
    """What was sent arrives; no final chunk, no missing bytes made up."""
    async with listening(App(_breaking(headers, fail))) as site:
        wire = await site.connect(GET)
        await wire.head()
        rest = await wire.ended()

    assert rest == (b"part" if headers else b"4\r\npart\r\n")


@pytest.mark.parametrize("body", [b"too long", b"s"], ids=["longer", "shorter"])
async def test_a_body_must_have_its_announced_length(body: bytes) -> None:
    """Else the next response would begin inside this one."""

    async def wrong(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, body, [(b"content-length", b"2")])

    async with listening(App(wrong)) as site:
        wire = await site.connect(GET + GET)
        await wire.head()
        assert await wire.ended() in (b"", b"s")
