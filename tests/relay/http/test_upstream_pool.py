"""What the pool sends, what it makes of answers, and when it uses a connection again."""

from __future__ import annotations

import asyncio
import gc

import pytest
from upstreams import CHUNKED, HEADERS, OK, Peer, Request, answering, ask, closing_after, on_both_loops, pool_to, whole

from mcp_audit.relay.http.connection import request_head
from mcp_audit.relay.http.pool import Pool, Response, UpstreamUnavailable
from mcp_audit.relay.http.target import Target

# -- what is sent ------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_exactly_what_is_given_is_sent() -> None:
    """Order, case and duplicates survive, and nothing is added: no User-Agent, Accept, Connection."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.reader.read(65536))
        await peer.send(OK)
        await peer.closed()

    headers = [(b"hOst", b"u"), (b"X-A", b"1"), (b"x-a", b""), (b"Content-Length", b"3"), (b"X-B", b"\xff b ")]
    async with pool_to(script) as (pool, _):
        response = await pool.request(b"POST", b"/a%2Fb?x=%20&y", headers, b"a\0b")
        assert await whole(response) == b"ok"

    head = b"POST /a%2Fb?x=%20&y HTTP/1.1\r\nhOst: u\r\nX-A: 1\r\nx-a: \r\nContent-Length: 3\r\nX-B: \xff b \r\n\r\n"
    assert seen == [head + b"a\0b"], "and head and body came in one read"


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        pytest.param(b"GET", b"/", [(b"A", b"x\r\nB: y")], id="value-breaks"),
        pytest.param(b"GET", b"/", [(b"A", b"x\n")], id="bare-lf"),
        pytest.param(b"GET", b"/", [(b"A", b"x\r")], id="bare-cr"),
        pytest.param(b"GET", b"/", [(b"A", b"\0")], id="nul"),
        pytest.param(b"GET", b"/", [(b"A: b\r\nC", b"x")], id="name-breaks"),
        pytest.param(b"GET", b"/ HTTP/1.1\r\nA: b\r\n\r\nGET /", [], id="target-breaks"),
        pytest.param(b"GET", b"/ x", [], id="target-has-a-space"),
        pytest.param(b"GET /x", b"/", [], id="method-has-a-space"),
    ],
)
def test_no_part_of_a_request_can_leave_its_place(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """What a careless caller passes never becomes a second request or another header."""
    with pytest.raises(ValueError, match="line break"):
        request_head(method, target, headers)


def test_a_head_without_headers_is_whole() -> None:
    """The empty line is there exactly once."""
    assert request_head(b"OPTIONS", b"*", []) == b"OPTIONS * HTTP/1.1\r\n\r\n"


# -- what answers mean -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "body", "kept"),
    [
        pytest.param(OK, 200, b"ok", True, id="length"),
        pytest.param(CHUNKED + b"2;a=b\r\nok\r\n0\r\nT: r\r\n\r\n", 200, b"ok", True, id="chunked-with-trailer"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True, id="no-reason"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, id="204"),
        pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True, id="304-with-length"),
        pytest.param(b"HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, b"", True, id="redirect"),
        pytest.param(b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK, 200, b"ok", True, id="interim"),
        pytest.param(b"HTTP/1.1 104 U\r\n\r\n" + OK, 200, b"ok", True, id="unknown-interim"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
            200,
            b"ok",
            True,
            id="an-upgrade-only-offered",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, id="close"
        ),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False, id="http-1.0"),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
            200,
            b"ok",
            True,
            id="http-1.0-kept",
        ),
        pytest.param(
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            200,
            b"ok",
            False,
            id="http-1.0-chunked-is-suspect",
        ),
        pytest.param(OK + b"HTTP/1.1 200 OK\r\n", 200, b"ok", False, id="an-answer-nobody-asked-for"),
        pytest.param(OK + b"junk", 200, b"ok", False, id="longer-than-its-length"),
    ],
)
@on_both_loops
async def test_an_answer_is_framed_as_the_standard_says(answer: bytes, status: int, body: bytes, kept: bool) -> None:
    """Whole or byte by byte it means the same, and the connection is used again only when it may be."""

    async def at_once(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        await peer.closed()

    async def trickling(peer: Peer) -> None:
        await peer.request()
        for i in range(len(answer)):
            await peer.send(answer[i : i + 1])
            await asyncio.sleep(0)
        await peer.closed()

    for script in (at_once, trickling):
        async with pool_to(script) as (pool, upstream):
            response = await ask(pool)
            got = (response.status, await whole(response), response.ended)
            assert got == (status, body, True)
            if script is at_once:
                assert response.reusable is kept
            assert upstream.connections == 1


@on_both_loops
async def test_a_body_without_length_ends_with_the_connection() -> None:
    """It is whole when the peer closes in good order."""
    async with pool_to(closing_after(b"HTTP/1.1 200 OK\r\n\r\nall of it")) as (pool, _):
        assert await whole(await ask(pool)) == b"all of it"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True, id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True, id="chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", True, id="neither"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, id="empty"),
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", False, id="close"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False, id="a-body-nevertheless"),
    ],
)
@on_both_loops
async def test_the_answer_to_head_has_no_body(answer: bytes, kept: bool) -> None:
    """Whatever its headers describe; the next answer on the connection is found where it is."""
    async with pool_to(answering(answer, OK), answering(OK)) as (pool, upstream):
        response = await ask(pool, b"HEAD")
        assert await whole(response) == b""
        assert await whole(await ask(pool)) == b"ok"
        assert upstream.connections == (1 if kept else 2)


@on_both_loops
async def test_head_and_headers_are_as_sent() -> None:
    """Case, order, duplicates and empty values survive; interim headers and trailers are not among them."""
    answer = (
        b"HTTP/1.1 103 Early\r\nLink: no\r\n\r\nHTTP/1.1 299 A  \xe9 b\r\nx-A: 1\r\nEmpty:\r\nX-a:\t two\r\n"
        b"Set-Cookie: c\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nTrailer: no\r\n\r\n"
    )
    async with pool_to(answering(answer)) as (pool, _):
        response = await ask(pool)
        assert await whole(response) == b""

    assert (response.status, response.reason) == (299, b"A  \xe9 b")
    expected = [
        (b"x-A", b"1"),
        (b"Empty", b""),
        (b"X-a", b"two"),
        (b"Set-Cookie", b"c"),
        (b"Transfer-Encoding", b"Chunked"),
    ]
    assert response.headers == expected


@on_both_loops
async def test_compressed_bodies_stay_compressed() -> None:
    """Content codings are not our hop's business."""
    squeezed = b"\x1f\x8bnot even gzip"
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(squeezed)
    async with pool_to(answering(head + squeezed)) as (pool, _):
        assert await whole(await ask(pool)) == squeezed


@on_both_loops
async def test_each_chunk_is_there_before_the_next_is_sent() -> None:
    """Events are seen one by one."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for n in range(20):
            await peer.send(b"8\r\ndata: %d%d\r\n" % (n // 10, n % 10))
            await seen.wait()
            seen.clear()
        await peer.send(b"0\r\n\r\n")
        await peer.closed()

    async with pool_to(script) as (pool, _):
        response = await ask(pool)
        for n in range(20):
            assert await response.read() == b"data: %02d" % n
            seen.set()
        assert await response.read() == b""
        assert await response.read() == b"", "the end stays the end"


@on_both_loops
async def test_ten_thousand_tiny_chunks_arrive_whole() -> None:
    """In order, none lost, however they fell into reads."""
    chunks = [b"%d," % n for n in range(10_000)]
    stream = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    async with pool_to(answering(CHUNKED + stream)) as (pool, _):
        assert await whole(await ask(pool)) == b"".join(chunks)


# -- reuse -------------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_one_connection_serves_one_request_after_the_other() -> None:
    """A body that was not read yet does not hold the connection: it has come."""
    async with pool_to(answering(*[OK] * 3)) as (pool, upstream):
        for _ in range(3):
            response = await ask(pool)
            while not response.ended:
                await response.read()
        assert upstream.connections == 1


@on_both_loops
async def test_open_streams_do_not_hinder_others() -> None:
    """There is no limit: 200 exchanges at once are 200 connections."""
    asked: list[Request] = []
    all_there = asyncio.Event()

    async def script(peer: Peer) -> None:
        asked.append(await peer.request())
        if len(asked) == 200:
            all_there.set()
        await all_there.wait()
        await peer.send(OK)
        await peer.closed()

    async with pool_to(script) as (pool, upstream):
        answers = await asyncio.gather(*(ask(pool) for _ in range(200)))
        assert {await whole(answer) for answer in answers} == {b"ok"}
        assert upstream.connections == 200


@on_both_loops
async def test_the_connection_used_last_is_used_first() -> None:
    """So that those beyond the need grow old and are closed."""
    names: list[int] = []
    hold = asyncio.Event()

    def numbered(number: int) -> object:
        async def script(peer: Peer) -> None:
            while True:
                await peer.request()
                names.append(number)
                if len(names) == 2:
                    hold.set()
                await hold.wait()
                await peer.send(OK)

        return script

    async with pool_to(numbered(0), numbered(1)) as (pool, _):  # type: ignore[arg-type]
        first, second = await asyncio.gather(ask(pool), ask(pool))
        await whole(first)
        await whole(second)
        last = names[-1]
        for _ in range(3):
            await whole(await ask(pool))
    assert len(set(names[2:])) == 1
    assert last in names[:2]


@on_both_loops
async def test_an_idle_connection_is_closed_in_time() -> None:
    """The upstream sees the end after the idle time, without a further request."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        assert await peer.closed() == b""
        gone.set()

    async with pool_to(script, idle=0.05) as (pool, upstream):
        await whole(await ask(pool))
        await asyncio.wait_for(gone.wait(), 5)
        await whole(await ask(pool))
        assert upstream.connections == 2


@on_both_loops
async def test_what_the_peer_closed_is_not_used_again() -> None:
    """A close that is in the socket, though the loop has not told it, is noticed before the next request."""
    async with pool_to(closing_after(OK)) as (pool, upstream):
        for _ in range(20):
            assert await whole(await ask(pool)) == b"ok"
        assert upstream.connections == 20


@on_both_loops
async def test_bytes_nobody_asked_for_end_an_idle_connection() -> None:
    """They are never taken for the answer to the next request."""
    closed = asyncio.Event()
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await go.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        await peer.closed()
        closed.set()

    async with pool_to(script, answering(OK), idle=60) as (pool, _):
        await whole(await ask(pool))
        go.set()
        await asyncio.wait_for(closed.wait(), 5)
        assert await whole(await ask(pool)) == b"ok"


@on_both_loops
async def test_a_finished_answer_survives_the_next_one() -> None:
    """Its body is its own, though the connection has gone on; to abort it harms nobody."""
    async with pool_to(answering(OK, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo")) as (pool, upstream):
        first = await ask(pool)
        second = await ask(pool)
        assert await whole(first) == b"ok"
        first.abort()
        first.abort()
        assert await whole(second) == b"two"
        assert upstream.connections == 1


@on_both_loops
async def test_answers_do_not_wait_for_the_garbage_collector() -> None:
    """A finished one and its pieces are gone with the last reference."""
    gc.collect()
    gc.disable()
    try:
        async with pool_to(answering(OK)) as (pool, _):
            await whole(await ask(pool))
            await pool.close()
        assert not [found for found in gc.get_objects() if isinstance(found, Response)]
    finally:
        gc.enable()


@on_both_loops
async def test_a_closed_pool_asks_nobody() -> None:
    """It says so, and that nothing was sent."""
    pool = Pool(Target("http", "127.0.0.1", 9))
    await pool.close()
    await pool.close()

    with pytest.raises(UpstreamUnavailable, match="shutting down") as raised:
        await pool.request(b"GET", b"/", HEADERS)
    assert raised.value.sent is False


@on_both_loops
async def test_closing_the_pool_breaks_off_what_is_under_way() -> None:
    """Streams end, and nothing is left of them."""
    async with pool_to(answering(CHUNKED)) as (pool, _):
        response = await ask(pool)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(Exception, match="broke off"):
            await reading
