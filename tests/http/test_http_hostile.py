"""HTTP made to confuse, to exhaust or to sneak past: refused with the right status while others are served."""

from __future__ import annotations

import gzip
import re
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import brotli  # type: ignore[import-untyped]
import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import ACCEPT, JSON, answer, call, event, message, post
from http_peers import Client, Incomplete, Request, Upstream

MIB = 1 << 20
BODY = call("delete_file", id="hostile")
LENGTH = b"%d" % len(BODY)
SMUGGLED = b"POST /smuggled HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


def raw(
    *lines: bytes, start: bytes = b"POST /mcp HTTP/1.1", host: bytes = b"Host: localhost", body: bytes = BODY
) -> bytes:
    """Return a request of exact lines."""
    return (
        b"\r\n".join([start, *([host] if host else ()), b"Content-Type: application/json", *lines]) + b"\r\n\r\n" + body
    )


CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked"
SIZED = b"Content-Length: " + LENGTH

REFUSED = [
    # Two answers to the question where a request ends.
    pytest.param(raw(SIZED, CHUNKED, body=CHUNKS), {400}, id="length-and-chunked"),
    pytest.param(raw(CHUNKED, SIZED, body=CHUNKS), {400}, id="chunked-and-length"),
    pytest.param(raw(b"Content-Length: 0", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), {400}, id="zero-length-and-chunked"),
    pytest.param(raw(SIZED, b"Content-Length: 3"), {400}, id="two-lengths"),
    pytest.param(raw(SIZED, SIZED), {400}, id="the-same-length-twice"),
    pytest.param(raw(b"Content-Length: 3, 3", body=b"{} "), {400}, id="length-list"),
    pytest.param(raw(b"Content-Length: +3", body=b"{} "), {400}, id="length-with-sign"),
    pytest.param(raw(b"Content-Length: -1"), {400}, id="length-negative"),
    pytest.param(raw(b"Content-Length: 3a", body=b"{} "), {400}, id="length-hex"),
    pytest.param(raw(b"Content-Length: 1 2", body=b"{} "), {400}, id="length-with-space"),
    pytest.param(raw(b"Content-Length:", body=b""), {400}, id="length-empty"),
    pytest.param(raw(b"Content-Length: 99999999999999999999999"), {400, 413}, id="length-beyond-64-bits"),
    pytest.param(raw(b"Content-Length : " + LENGTH), {400}, id="space-before-colon"),
    pytest.param(raw(b"Transfer-Encoding : chunked", body=CHUNKS), {400}, id="space-before-colon-chunked"),
    pytest.param(raw(b"Transfer-Encoding: xchunked", body=CHUNKS), {400, 501}, id="xchunked"),
    pytest.param(raw(b"Transfer-Encoding: chunked, identity", body=CHUNKS), {400, 501}, id="chunked-identity"),
    pytest.param(raw(b"Transfer-Encoding: identity", SIZED), {400, 501}, id="identity"),
    pytest.param(raw(b"Transfer-Encoding: gzip, chunked", body=CHUNKS), {400, 501}, id="gzip-chunked"),
    pytest.param(raw(CHUNKED, CHUNKED, body=CHUNKS), {400, 501}, id="chunked-twice"),
    pytest.param(raw(b"Transfer-Encoding: \x0bchunked", body=CHUNKS), {400, 501}, id="vertical-tab"),
    pytest.param(
        raw(b"Transfer-Encoding: chunked", start=b"POST /mcp HTTP/1.0", body=CHUNKS), {400, 505}, id="chunked-1.0"
    ),
    pytest.param(raw(CHUNKED, body=b"zz\r\n{}\r\n0\r\n\r\n"), {400}, id="chunk-size-no-hex"),
    pytest.param(raw(CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n"), {400}, id="chunk-size-negative"),
    pytest.param(raw(CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n"), {400}, id="chunk-size-0x"),
    pytest.param(raw(CHUNKED, body=b"fffffffffffffffff\r\n{}"), {400, 413}, id="chunk-size-beyond-64-bits"),
    pytest.param(raw(CHUNKED, body=b"2\r\n{}XX0\r\n\r\n"), {400}, id="chunk-without-end"),
    pytest.param(raw(CHUNKED, body=b"2\n{}\n0\n\n"), {400}, id="chunk-with-bare-lf"),
    pytest.param(
        raw(CHUNKED, body=b"2;" + b"x" * 200_000 + b"\r\n{}\r\n0\r\n\r\n"), {400, 413, 431}, id="chunk-extension-bomb"
    ),
    pytest.param(raw(CHUNKED, body=b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 50_000), {400, 413, 431}, id="trailer-bomb"),
    # Lines that some read as one and some as two.
    pytest.param(raw(SIZED, b"X-Folded: a\r\n b"), {400}, id="obs-fold"),
    pytest.param(raw(SIZED, b"X-Folded: a\r\n\tTransfer-Encoding: chunked"), {400}, id="obs-fold-tab"),
    pytest.param(raw(SIZED, b"X: a\rTransfer-Encoding: chunked"), {400}, id="bare-cr"),
    pytest.param(raw(SIZED, b"X: a\nContent-Length: 0"), {400}, id="bare-lf"),
    pytest.param(raw(SIZED, b"X: a\x00b"), {400}, id="nul-in-value"),
    pytest.param(raw(SIZED, b"X\x00: a"), {400}, id="nul-in-name"),
    pytest.param(raw(SIZED, b": empty"), {400}, id="empty-name"),
    pytest.param(raw(SIZED, b"no colon"), {400}, id="no-colon"),
    pytest.param(raw(SIZED, b"X(y): a"), {400}, id="name-with-delimiters"),
    pytest.param(raw(SIZED, "Bücher: a".encode()), {400}, id="name-not-ascii"),
    # Start lines.
    pytest.param(
        raw(SIZED, start=b"POST http://evil.example/mcp HTTP/1.1"), {400, 403, 421}, id="absolute-form-foreign"
    ),
    pytest.param(raw(SIZED, start=b"POST http://localhost/mcp HTTP/1.1"), {400, 403, 421}, id="absolute-form"),
    pytest.param(raw(SIZED, start=b"POST mcp HTTP/1.1"), {400}, id="relative-target"),
    pytest.param(raw(SIZED, start=b"POST /mcp#x HTTP/1.1"), {400}, id="fragment"),
    pytest.param(raw(SIZED, start=b"POST /m cp HTTP/1.1"), {400}, id="space-in-target"),
    pytest.param(raw(SIZED, start=b"POST /mcp HTTP/1.1 x"), {400}, id="more-behind"),
    pytest.param(raw(SIZED, start=b"POST /mcp HTTP/9.9"), {400, 505}, id="version"),
    pytest.param(raw(SIZED, start=b"POST /mcp"), {400, 505}, id="http-0.9"),
    pytest.param(raw(SIZED, start=b"CONNECT evil.example:443 HTTP/1.1"), {400, 403, 405, 501}, id="connect"),
    pytest.param(raw(SIZED, start=b"P\xc3\x96ST /mcp HTTP/1.1"), {400, 501}, id="method-not-ascii"),
    pytest.param(raw(SIZED, start=b"MAKEITUP /mcp HTTP/1.1"), {400, 501}, id="method-unknown"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9, {400, 505, 501}, id="http-2"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300, {400}, id="tls"),
    pytest.param(b"\x00" * 100 + b"\r\n\r\n", {400}, id="zeros"),
    # Who is meant.
    pytest.param(raw(SIZED, host=b""), {400}, id="no-host"),
    pytest.param(raw(SIZED, b"Host: evil.example"), {400, 403}, id="two-hosts"),
    # Too much.
    pytest.param(raw(SIZED, b"X: " + b"x" * 200_000), {400, 431}, id="one-giant-header"),
    pytest.param(raw(SIZED, *(b"X-%d: x" % n for n in range(2000))), {400, 431}, id="many-headers"),
    pytest.param(raw(SIZED, b"x" * 200_000 + b": x"), {400, 431}, id="giant-name"),
    pytest.param(raw(SIZED, start=b"POST /" + b"x" * 200_000 + b" HTTP/1.1"), {400, 414, 431}, id="giant-target"),
]


# Their end is plain, so that what follows them is a request of its own.
STRANGERS = [
    pytest.param(
        raw(SIZED, start=b"POST //evil.example@x HTTP/1.1", host=b"Host: evil.example"), {400, 403}, id="double-slash"
    ),
    pytest.param(raw(SIZED, host=b"Host:"), {400, 403}, id="host-empty"),
    pytest.param(raw(SIZED, host=b"Host: evil.example@localhost"), {400, 403}, id="host-userinfo"),
    pytest.param(raw(SIZED, host=b"Host: localhost/evil"), {400, 403}, id="host-with-path"),
    pytest.param(raw(SIZED, host=b"Host: evil.example"), {403}, id="host-rebound"),
    pytest.param(raw(SIZED, b"Origin: http://evil.example"), {403}, id="origin-evil"),
]


@pytest.mark.parametrize(("data", "statuses"), STRANGERS)
def test_a_stranger_is_refused(proxy: Hop, data: bytes, statuses: set[int]) -> None:
    """Nothing of the request reaches the upstream; the next client is served."""
    client = proxy.client()
    client.send(data)
    response = client.response()
    response.read()
    assert response.status in statuses
    assert proxy.upstream.is_idle()
    proxy.golden(post(call()), 200, [JSON], answer())


@pytest.mark.parametrize(("data", "statuses"), REFUSED)
def test_a_hostile_request_is_refused(proxy: Hop, data: bytes, statuses: set[int]) -> None:
    """With a 4xx or 5xx of our own; nothing of it, or behind it, reaches the upstream; the next client is served."""
    client = proxy.client()
    with suppress(ConnectionError):  # it may have been refused before all of it went out
        client.send(data + SMUGGLED)
    response = client.response()
    assert response.status in statuses
    with suppress(Incomplete):
        response.read()
    rest = client.ended()
    assert b"HTTP/1.1 2" not in rest
    assert proxy.upstream.is_idle()
    assert proxy.upstream.torn.empty()
    proxy.golden(post(call()), 200, [JSON], answer())


@pytest.mark.parametrize("separator", [b"\r\n", b"\n"])
def test_a_refused_request_leaves_no_half_on_the_connection(proxy: Hop, separator: bytes) -> None:
    """What a front-end might take for a body is not served as a request."""
    client = proxy.client()
    client.send(raw(SIZED, CHUNKED, body=b"0\r\n\r\n") + separator + SMUGGLED)
    assert client.response().status == 400
    client.ended()
    assert proxy.upstream.is_idle()


def test_pipelined_requests_are_served_in_order_and_apart(hop: Hop) -> None:
    """Two requests in one packet are two requests."""
    client = hop.client()
    client.send(post(call(id=1)).encode(client.host) + post(call(id=2)).encode(client.host))
    for number in (1, 2):
        asked = hop.upstream.next()
        assert asked.body == call(id=number)
        asked.answer(200, [JSON], answer(number))
        assert client.response().read() == answer(number)


def test_bare_lf_never_makes_two_requests_of_one(proxy: Hop) -> None:
    """Lines that end with LF alone are refused, or read by us as the upstream will read what we send."""
    client = proxy.client()
    data = (
        raw(SIZED).split(b"\r\n\r\n")[0].replace(b"\r\n", b"\n")
        + b"\n\n"
        + call(id="x" * (len(BODY) - len(call(id=""))))
    )
    client.send(data)
    try:
        asked = proxy.upstream.next(1)
    except AssertionError:
        assert client.response().status == 400
        return
    assert b"\n" not in asked.raw.split(b"\r\n\r\n")[0].replace(b"\r\n", b"")
    asked.answer(200, [JSON], answer())


CLIMBING = [
    b"/base/mcp/../admin", b"/base/mcp/%2e%2e/admin", b"/base/mcp/.%2E/admin", b"/base/mcp/..%2fadmin", b"/..",
    b"/base/mcp/a/../../x", b"/base/mcp/..\\x", b"/base/mcp/%252e%252e/x", b"/.well-known/../x", b"/base/mcp/..;/x",
]  # fmt: skip
STAYING = [b"/base/mcp/a/../b", b"/base/mcp/...", b"/base/mcp/..a", b"/base/mcp/a..b/c", b"/base/mcp?x=/../y"]


def test_dots_do_not_lead_out_of_the_upstreams_path(tmp_path: Path) -> None:
    """An operator who names a path means it: 400. Dots that stay below pass as received."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, path="/base/mcp") as hop:
        for target in CLIMBING:
            client = hop.client()
            client.ask(Request(b"GET", target))
            assert client.response().status in (400, 403), target
            assert upstream.is_idle(), target
        for target in STAYING:
            client = hop.client()
            client.ask(Request(b"GET", target))
            asked = upstream.next()
            assert asked.target == target
            asked.answer(404)
            assert client.response().status == 404


@pytest.mark.parametrize("target", [b"/mcp/../admin", b"/%2e%2e/x", b"/a/./b//c/..;x"])
def test_dots_pass_as_received_without_a_path(hop: Hop, target: bytes) -> None:
    """The whole server is meant; what its paths mean is its own business."""
    hop.golden(Request(b"GET", target), 404)


def test_an_endless_head_is_cut_off(proxy: Hop) -> None:
    """A client that sends headers for ever is sent away, and what it sends is not kept."""
    client = proxy.client()
    before = proxy.program.memory
    until = time.monotonic() + 10
    client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n")
    with suppress(ConnectionError):
        while True:
            assert time.monotonic() < until, "it still listens"
            client.send(b"X-Header: y\r\n" * 1000)
    assert proxy.program.memory - before < 16 * MIB
    assert proxy.upstream.is_idle()
    proxy.golden(post(call()), 200, [JSON], answer())


@pytest.mark.long
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("begin", "drip"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n", id="head"),
        pytest.param(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", b"", id="body"),
    ],
)
def test_a_slow_client_is_sent_away(proxy: Hop, begin: bytes, drip: bytes) -> None:
    """After a bounded time, however busy it looks; until then two hundred of them keep nobody else from service."""
    slow = [proxy.client() for _ in range(200)]
    for client in slow:
        client.send(begin)
    until = time.monotonic() + 100
    number = 0
    while slow:
        assert time.monotonic() < until, f"{len(slow)} of them are still there"
        number += 1
        proxy.golden(post(message("tools/list", number)), 200, [JSON], answer(number))
        for client in list(slow):
            client.sock.settimeout(0.001)
            try:
                client.send(drip)
                if not client.stream.fill():
                    slow.remove(client)
            except TimeoutError:
                continue
            except (ConnectionError, Incomplete):
                slow.remove(client)
    assert proxy.upstream.is_idle()
    assert proxy.upstream.torn.empty()


def test_stalled_clients_do_not_keep_others_waiting(proxy: Hop) -> None:
    """A hundred that stopped in the middle of a head, as many in a body, and one that is served."""
    for number in range(200):
        client = proxy.client()
        whole = post(call()).encode(client.host)
        client.send(whole[: 30 if number % 2 else -5])
    for number in range(5):
        proxy.golden(post(call(id=number)), 200, [JSON], answer(number))


# -- bombs -------------------------------------------------------------------------------------------------------------


def zeros(size: int) -> Iterator[bytes]:
    """Yield a JSON string of that many letters."""
    yield b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","arguments":{"t":"'
    for _ in range(size // MIB):
        yield b"a" * MIB
    yield b'"}}}'


def gzip_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(piece) for piece in zeros(size)) + packer.flush()


def brotli_bomb(size: int) -> bytes:
    packer = brotli.Compressor(quality=5)
    packed: bytes = b"".join(packer.process(piece) for piece in zeros(size)) + packer.finish()
    return packed


def nested_bomb(size: int) -> bytes:
    return gzip.compress(gzip_bomb(size))


BOMBS = [
    pytest.param(b"gzip", gzip_bomb, id="gzip"),
    pytest.param(b"br", brotli_bomb, id="brotli", marks=pytest.mark.slow),
    pytest.param(b"gzip, gzip", nested_bomb, id="gzip-in-gzip", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=[NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hop]:
    """A proxy whose limit is 1 MiB."""
    config = proxy_config(request.param, max_message_bytes=str(MIB))
    with Upstream() as upstream, running_proxy(tmp_path_factory.mktemp("small"), upstream, config) as hop:
        yield hop


@pytest.mark.parametrize(("encoding", "bomb"), BOMBS)
def test_a_compressed_bomb_in_a_request_is_not_unpacked(small: Hop, encoding: bytes, bomb: object) -> None:
    """Decoding stops at the limit: refused when enforcing, else passed as it came, and memory does not follow it."""
    assert callable(bomb)
    body = bomb(256 * MIB)
    assert len(body) < MIB
    before = small.program.memory
    client = small.client()
    client.ask(post(body, (b"Content-Encoding", encoding)))
    if small.enforces:
        response = client.response()
        assert response.status in (400, 413)
        response.read()
        assert small.upstream.is_idle()
    else:
        asked = small.upstream.next()
        assert asked.body == body
        asked.answer(413)
        assert client.response().status == 413
    assert small.program.memory - before < 32 * MIB
    client.close()


@pytest.mark.parametrize(("encoding", "bomb"), BOMBS)
def test_a_compressed_bomb_in_an_answer_passes_and_is_not_unpacked(small: Hop, encoding: bytes, bomb: object) -> None:
    """The client asked for it; the copy is cut at the limit."""
    assert callable(bomb)
    body = bomb(256 * MIB)
    before = small.program.memory
    client = small.client()
    small.golden(post(call()), 200, [JSON, (b"Content-Encoding", encoding)], body, client)
    assert small.program.memory - before < 32 * MIB
    client.close()


def test_an_event_bomb_is_not_kept(small: Hop) -> None:
    """An event, a line or a comment without end: all of it passes, none of it is kept."""
    for piece in (b"data: " + b"x" * 65530, b"x" * 65536, b": " + b"c" * 65534, b"data: x\n" * 8192):
        before = small.program.memory
        client, asked = small.ask(post(call(), ACCEPT))
        asked.stream()
        response = client.response()
        got = [0]

        def read(response: object = response, got: list[int] = got) -> None:
            while data := response.piece():  # type: ignore[attr-defined]
                got[0] += len(data)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(1024):
            asked.chunk(piece)
        asked.chunk(b"\n\n" + event(answer()))
        asked.end()
        reader.join(30)
        assert got[0] == 1024 * len(piece) + 2 + len(event(answer()))
        assert small.program.memory - before < 32 * MIB
        client.close()


OK = b"HTTP/1.1 200 OK\r\n"
HOSTILE_ANSWERS = [
    pytest.param(OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="length-and-chunked"),
    pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", id="two-lengths"),
    pytest.param(OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n", id="obs-fold"),
    pytest.param(OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", id="nul"),
    pytest.param(OK + b"X: y\r\n" * 100_000 + b"\r\n", id="header-bomb"),
    pytest.param(OK + b"X: " + b"y" * (2 * MIB) + b"\r\n\r\n", id="giant-header"),
    pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="status"),
    pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="switching"),
    pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="chunk-size"),
    pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", id="body-of-204"),
    pytest.param(OK + b"Content-Length: 2\r\n\r\n{}" + OK + b"Content-Length: 3\r\n\r\nbad", id="an-answer-too-many"),
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE_ANSWERS)
def test_a_hostile_upstream_cannot_answer_somebody_else(proxy: Hop, data: bytes) -> None:
    """502, a broken answer, or what is plainly meant; and the next request gets its own answer."""
    client, asked = proxy.ask(post(call()))
    with suppress(ConnectionError):
        asked.send(data)
    if not asked.gone.wait(0.3):
        asked.close()
    asked.over = True
    try:
        response = client.response()
        body = response.read()
    except Incomplete:
        body = b""
    assert b"bad" not in body
    assert not re.search(rb"\r\n\r\n.*HTTP/1", body)
    client.close()
    proxy.golden(post(call(id=8)), 200, [JSON], answer(8))


def test_a_header_cannot_be_injected_by_the_other_side(proxy: Hop) -> None:
    """Whatever is accepted goes out as the one header it came as."""
    value = b"a%0d%0aSet-Cookie: x=1"
    done = proxy.golden(post(call(), (b"X-Value", value)), 200, [JSON, (b"X-Value", value)], answer())
    assert done.asked.head.all(b"set-cookie") == []


def test_many_clients_at_once(proxy: Hop) -> None:
    """Two hundred connections, each with a call under way; all answered, all recorded."""
    clients: list[Client] = [proxy.client() for _ in range(200)]
    for number, client in enumerate(clients):
        client.ask(post(call(id=number)))
    for _ in clients:
        asked = proxy.upstream.next()
        number = int(re.search(rb'"id":(\d+)', asked.body)[1])  # type: ignore[index]
        asked.answer(200, [JSON], answer(number))
    for number, client in enumerate(clients):
        assert client.response().read() == answer(number)
    assert len([line for line in proxy.exchanges() if line["outcome"] == "answered"]) == 200
