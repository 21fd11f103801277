"""Upstreams that fail: each failure has its name, nothing is repeated, and nothing is left behind."""

from __future__ import annotations

import asyncio
import socket

import pytest
from upstreams import CHUNKED, HEADERS, OK, Peer, Script, answering, ask, closing_after, on_both_loops, pool_to, whole

from mcp_audit.relay.http.pool import BrokenBody, Pool, Response, UpstreamUnavailable
from mcp_audit.relay.http.target import Target

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def resetting_after(answer: bytes) -> Script:
    """Return a script that answers one request, and resets as soon as the answer has been taken."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)
        if answer:
            await peer.reader.read(1)
        peer.reset()

    return script


async def read_into(pieces: list[bytes], response: Response) -> None:
    """Read a body to its end, keeping what came should there be none."""
    while piece := await response.read():
        pieces.append(piece)


# -- no answer ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_refused_connection() -> None:
    """The cause names the place and what the system said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    pool = Pool(Target("http", "127.0.0.1", port))

    with pytest.raises(UpstreamUnavailable) as raised:
        await ask(pool)

    assert raised.value.cause == f"cannot connect to 127.0.0.1:{port}: connection refused"
    assert raised.value.sent is False
    assert str(raised.value) == f"the upstream gave no answer: {raised.value.cause}"


async def _accept_and_close(peer: Peer) -> None:
    pass


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        pytest.param(closing_after(b""), "it closed the connection before it answered", id="closes"),
        pytest.param(resetting_after(b""), "it reset the connection before it answered", id="resets"),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nA: b"), "it closed the connection in the middle of its answer", id="half"
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 103 Early\r\n\r\n"),
            "it closed the connection in the middle of its answer",
            id="interim-only",
        ),
        pytest.param(
            closing_after(b"SSH-2.0-OpenSSH_9.7\r\n"), "its answer is malformed (Expected HTTP/", id="another-protocol"
        ),
        pytest.param(closing_after(b"\x15\x03\x01\x00\x02\x02\x46"), "its answer is malformed (", id="tls-alert"),
        pytest.param(closing_after(b"HTTP/1.1 099 X\r\n\r\n"), "its answer has the status 099", id="status-099"),
        pytest.param(
            closing_after(b"HTTP/1.1 200 O\0K\r\n\r\n"), "its answer has a reason phrase that", id="nul-reason"
        ),
        pytest.param(closing_after(b"HTTP/2.0 200 OK\r\n\r\n"), "it answers in HTTP/2.0", id="http-2"),
        pytest.param(
            closing_after(b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz"),
            "it switched to another protocol, which nobody asked for",
            id="101",
        ),
        pytest.param(closing_after(b"HTTP/1.1 101 S\r\n\r\n"), "it switched to another protocol", id="bare-101"),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "its answer is malformed (Transfer-Encoding can't be present with Content-Length",
            id="length-and-chunked",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"),
            "its answer is malformed (Content-Length can't be present with",
            id="chunked-and-length",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n"),
            "its answer is malformed (Duplicate Content-Length",
            id="two-lengths",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\n"), "its answer is malformed", id="list"
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
            "it uses the transfer coding 'gzip, chunked', unasked",
            id="transfer-coding",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n"),
            "it uses the transfer coding 'identity', unasked",
            id="identity",
        ),
        pytest.param(closing_after(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"), "its answer is malformed", id="obs-fold"),
        pytest.param(closing_after(b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n"), "its answer is malformed", id="bare-lf"),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 65_536 + b"\r\n\r\n"),
            "the head of its answer is larger than 64 KiB",
            id="large-head",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 500_000),
            "the head of its answer is larger than 64 KiB",
            id="endless-header",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 257 + b"\r\n"),
            "its answer has more than 256 headers",
            id="257-headers",
        ),
        pytest.param(
            closing_after(b"HTTP/1.1 103 Early\r\n\r\n" * 5000),
            "the head of its answer is larger than 64 KiB",
            id="endless-interim",
        ),
    ],
)
@on_both_loops
async def test_an_answer_without_a_head(script: Script, cause: str) -> None:
    """The request is not sent again: the upstream has seen exactly one connection."""
    async with pool_to(script) as (pool, upstream):
        with pytest.raises(UpstreamUnavailable) as raised:
            await ask(pool, b"POST", b"{}")
        assert cause in raised.value.cause
        assert raised.value.sent is True
        assert upstream.connections == 1


@on_both_loops
async def test_the_largest_allowed_head_passes() -> None:
    """256 headers, and nearly 64 KiB."""
    many = b"".join(b"A: b\r\n" for _ in range(255)) + b"Content-Length: 0\r\n\r\n"
    long = b"A: " + b"x" * 65_000 + b"\r\nContent-Length: 0\r\n\r\n"
    async with pool_to(answering(b"HTTP/1.1 200 OK\r\n" + many, b"HTTP/1.1 200 OK\r\n" + long)) as (pool, _):
        first = await ask(pool)
        second = await ask(pool)
        assert len(first.headers) == 256
        assert len(second.headers[0][1]) == 65_000


@on_both_loops
async def test_an_upstream_that_accepts_and_closes() -> None:
    """Whether our bytes met an open socket or a closed one, it is a failure with a cause."""
    async with pool_to(_accept_and_close) as (pool, upstream):
        for n in range(1, 6):
            with pytest.raises(UpstreamUnavailable, match=r"it (closed|reset) the connection (at once|before it ans)"):
                await ask(pool, b"POST", b"{}")
            assert upstream.connections == n


@on_both_loops
async def test_a_request_that_meets_the_close_of_its_connection_is_not_repeated() -> None:
    """The upstream may have acted on it, so only the caller can decide."""
    requests: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        requests.append((await peer.request()).body)  # and is not answered
        peer.reset()

    async with pool_to(script) as (pool, upstream):
        await whole(await ask(pool))
        with pytest.raises(UpstreamUnavailable, match="it reset the connection before it answered") as raised:
            await ask(pool, b"POST", b"once")
        assert requests == [b"once"]
        assert raised.value.sent is True
        assert upstream.connections == 1


# -- half an answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "before", "cause"),
    [
        pytest.param(closing_after(LENGTH + b"half"), b"half", "it closed the connection in the middle", id="short"),
        pytest.param(
            closing_after(CHUNKED + b"4\r\nhalf\r\n"), b"half", "it closed the connection", id="no-last-chunk"
        ),
        pytest.param(closing_after(CHUNKED + b"9\r\nhalf"), b"half", "it closed the connection", id="half-a-chunk"),
        pytest.param(
            closing_after(CHUNKED + b"4\r\nhalf\r\nnonsense\r\n"), b"half", "its answer is malformed (", id="bad-size"
        ),
        pytest.param(closing_after(CHUNKED + b"4\r\nhalfX"), b"half", "its answer is malformed (", id="bad-chunk-end"),
        pytest.param(closing_after(CHUNKED + b"4\r\nhalf\r\n-1\r\n"), b"half", "its answer is malformed", id="minus"),
        pytest.param(
            closing_after(CHUNKED + b"f" * 17 + b"\r\n"), b"", "its answer is malformed (", id="size-too-large"
        ),
        pytest.param(
            closing_after(CHUNKED + b"4\r\nhalf\r\n0\r\nT: " + b"x" * 600_000),
            b"half",
            "the framing of its body is larger than 64 KiB",
            id="endless-trailer",
        ),
        pytest.param(
            closing_after(CHUNKED + b"4;" + b"x" * 600_000),
            b"",
            "the framing of its body is larger than 64 KiB",
            id="endless-extension",
        ),
    ],
)
@on_both_loops
async def test_a_body_that_breaks_off(script: Script, before: bytes, cause: str) -> None:
    """What came is delivered; the end is never taken for a clean one, and the error stays."""
    async with pool_to(script, answering(OK)) as (pool, upstream):
        response = await ask(pool)
        got: list[bytes] = []
        with pytest.raises(BrokenBody) as raised:
            await read_into(got, response)
        assert b"".join(got) == before
        assert cause in raised.value.cause
        with pytest.raises(BrokenBody):
            await response.read()

        assert await whole(await ask(pool)) == b"ok"
        assert upstream.connections == 2


@pytest.mark.parametrize("head", [LENGTH, CHUNKED + b"a\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@on_both_loops
async def test_a_reset_in_the_middle_of_a_body(head: bytes) -> None:
    """Even a body that ends with the connection is broken by a reset."""
    taken = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(head + b"half")
        await taken.wait()
        peer.reset()

    async with pool_to(script) as (pool, _):
        response = await ask(pool)
        assert await response.read() == b"half"
        taken.set()
        with pytest.raises(BrokenBody, match="it reset the connection in the middle of its answer"):
            await response.read()


# -- giving up ---------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_aborting_closes_the_upstream_connection() -> None:
    """At once, without waiting for bytes; later reads fail, and a second abort does nothing."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"4\r\nhalf\r\n")
        assert await peer.reader.read() == b"", "and it was a close in good order"
        gone.set()

    async with pool_to(script) as (pool, _):
        response = await ask(pool)
        assert await response.read() == b"half"
        response.abort()
        response.abort()
        await asyncio.wait_for(gone.wait(), 1)
        with pytest.raises(BrokenBody, match="it was given up"):
            await response.read()


@on_both_loops
async def test_unread_bytes_that_were_given_up_do_not_look_like_an_end() -> None:
    """Who reads on after an abort is told."""
    async with pool_to(answering(OK)) as (pool, _):
        response = await ask(pool)
        while not response.ended:
            await asyncio.sleep(0)
        response.abort()
        with pytest.raises(BrokenBody):
            await response.read()


@on_both_loops
async def test_an_abort_ends_a_waiting_read() -> None:
    """Whoever waits in another task is told as well."""
    async with pool_to(answering(CHUNKED)) as (pool, _):
        response = await ask(pool)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        response.abort()
        with pytest.raises(BrokenBody):
            await reading


@on_both_loops
async def test_only_one_may_read() -> None:
    """Two readers would tear the body apart."""
    async with pool_to(answering(CHUNKED)) as (pool, _):
        response = await ask(pool)
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being read already"):
            await response.read()
        response.abort()
        await asyncio.wait([reading])
        assert isinstance(reading.exception(), BrokenBody)


@on_both_loops
async def test_a_stalled_upstream_is_left_when_the_caller_loses_patience() -> None:
    """The pool has no time limit of its own; being cancelled closes the connection, before and after the head."""
    left: list[bytes] = []

    def stalling(answer: bytes) -> Script:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)
            left.append(await peer.reader.read())

        return script

    async with pool_to(stalling(b""), stalling(b"HTTP/1.1 2"), stalling(CHUNKED)) as (pool, upstream):
        for expected in (1, 2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await ask(pool)
            assert upstream.connections == expected
        response = await ask(pool)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.read()
        async with asyncio.timeout(5):
            while len(left) < 3:
                await asyncio.sleep(0.005)
    assert left == [b"", b"", b""]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@on_both_loops
async def test_cancelling_anywhere_leaves_nothing(name: str) -> None:
    """A request cancelled after N turns of the loop, for every N until it completes: no task, timer or descriptor."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\n")
        await asyncio.sleep(0)
        await peer.send(b"ok\r\n0\r\n\r\n")
        await peer.closed()

    async def exchange(pool: Pool) -> bytes:
        return await whole(
            await pool.request(b"POST", b"/", [*HEADERS, (b"Content-Length", b"200000")], b"x" * 200_000)
        )

    cancelled = 0
    for turns in range(200):
        async with pool_to(script) as (pool, upstream):
            pool._target = upstream.target._replace(host=name)
            task = asyncio.create_task(exchange(pool))
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                assert task.result() == b"ok"
                break
            task.cancel()
            await asyncio.wait([task])
            cancelled += task.cancelled()
            assert task.cancelled() or task.result() == b"ok"
            assert not [busy for busy in pool._connections if busy.busy and not busy._transport.is_closing()]  # type: ignore[union-attr]
    assert cancelled > 5
