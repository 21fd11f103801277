"""Large bodies, early answers and slow readers: memory stays small in both directions."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from typing import Any

import pytest
from upstreams import CHUNKED, OK, Peer, answering, ask, eventually, on_both_loops, pool_to, whole

from mcp_audit.relay.http.connection import Connection
from mcp_audit.relay.http.pool import BrokenBody, UpstreamUnavailable

MiB = 1024 * 1024
LARGE = 64 * MiB


@on_both_loops
async def test_a_large_request_is_sent_without_a_second_copy() -> None:
    """64 MiB towards a slow reader: the transport is never given more than it can send soon."""
    body = bytes(LARGE)
    got = 0

    async def script(peer: Peer) -> None:
        nonlocal got
        await peer.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)  # while the sender fills every buffer there is
        while got < LARGE:
            got += len(await peer.reader.read(MiB))
        await peer.send(OK)
        await peer.closed()

    async with pool_to(script) as (pool, upstream):
        tracemalloc.start()
        try:
            response = await ask(pool, b"POST", body)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert await whole(response) == b"ok"
        assert response.reusable
    assert got == LARGE
    assert peak < 8 * MiB
    assert upstream.connections == 1


class Bottomless(asyncio.Transport):
    """A socket that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.paused = False
        self.holds = 0
        self.taken = 0
        self.largest = 0
        self._ours, self._theirs = socket.socketpair()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._ours

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.holds

    def write(self, data: Any) -> None:
        self.taken += len(data)
        self.largest = max(self.largest, len(data))

    def abort(self) -> None:
        self.closed = True
        self._ours.close()
        self._theirs.close()

    def close(self) -> None:
        assert not self.holds, "it would wait until the peer has read this"
        self.abort()


class Owner:
    """Counts the connections it may use again."""

    def __init__(self) -> None:
        self.freed = 0

    def free(self, connection: Connection) -> None:
        self.freed += 1

    def unusable(self, connection: Connection) -> None: ...
    def lost(self, connection: Connection) -> None: ...


def bottomless() -> tuple[Connection, Bottomless, Owner]:
    transport, owner = Bottomless(), Owner()
    connection = Connection(owner, asyncio.get_running_loop())
    connection.connection_made(transport)
    return connection, transport, owner


@on_both_loops
async def test_others_have_their_turn_during_a_large_request() -> None:
    """Even if the socket takes everything at once, the loop is not held for the length of the body."""
    connection, transport, _ = bottomless()
    connection.send(b"POST", b"head", bytes(LARGE))
    turns = 0
    while transport.taken < LARGE:
        before = transport.taken
        await asyncio.sleep(0)
        assert 0 < transport.taken - before <= MiB
        turns += 1
    assert (turns, transport.taken) == (63, LARGE + len(b"head"))
    assert transport.largest <= 128 * 1024
    connection.abort()


@on_both_loops
async def test_a_slow_reader_stops_the_upstream() -> None:
    """What nobody reads is not taken from the socket, so the upstream's own writes come to a halt."""
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        while sent < LARGE:
            await peer.send(bytes(MiB))
            sent += MiB

    async with pool_to(script) as (pool, _):
        response = await ask(pool)
        last = -1
        while last != sent:
            last = sent
            await asyncio.sleep(0.1)
        assert sent < LARGE / 2
        assert response._waiting < MiB

        got = 0
        while piece := await response.read():
            assert len(piece) <= MiB
            got += len(piece)
        assert got == LARGE


@on_both_loops
async def test_a_connection_is_free_again_after_a_pause() -> None:
    """The last bytes of a body may be those that paused reading; the next exchange must not find it so."""
    connection, transport, owner = bottomless()
    response = connection.send(b"GET", b"head", b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(262_144))
    assert transport.paused
    connection.data_received(bytes(300_000 - 262_144))

    assert (owner.freed, transport.paused) == (1, False)
    assert len(await whole(response)) == 300_000
    connection.abort()


@on_both_loops
async def test_a_connection_with_half_a_request_is_not_used_again() -> None:
    """Nor is one whose transport still holds a part: what follows would be taken for the rest of the body."""
    connection, transport, owner = bottomless()
    response = connection.send(b"POST", b"head", bytes(LARGE))
    connection.data_received(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert transport.taken == MiB + len(b"head"), "the rest is not sent"
    connection.data_received(b"no")
    assert response.ended
    assert (owner.freed, transport.closed) == (0, True)

    connection, transport, owner = bottomless()
    transport.holds = 1
    connection.send(b"POST", b"head", b"body")
    connection.data_received(OK)
    assert (owner.freed, transport.closed) == (0, True)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno", id="keep-alive"),
        pytest.param(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\nno", id="close"),
    ],
)
@on_both_loops
async def test_an_early_refusal_ends_the_sending(answer: bytes) -> None:
    """It is delivered whole, the rest of the body is not sent, and the connection is not used again."""
    taken = 0

    async def script(peer: Peer) -> None:
        nonlocal taken
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer)
        if b"close" in answer:
            peer.writer.write_eof()
        while piece := await peer.reader.read(MiB):
            taken += len(piece)

    async with pool_to(script, answering(OK)) as (pool, upstream):
        response = await ask(pool, b"POST", bytes(LARGE))
        assert (response.status, await whole(response)) == (413, b"no")
        assert await whole(await ask(pool)) == b"ok"
        assert upstream.connections == 2
    assert taken < LARGE


@on_both_loops
async def test_an_early_success_does_not_end_the_sending() -> None:
    """An upstream may answer as it reads: it gets the whole body, and both streams run at the same time."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(CHUNKED)
        for _ in range(16):
            piece = await peer.reader.readexactly(MiB)
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await peer.send(b"0\r\n\r\n")
        await peer.closed()

    body = bytes(range(256)) * 4096 * 16
    async with pool_to(script) as (pool, _):
        response = await ask(pool, b"POST", body)
        assert await whole(response) == body


@on_both_loops
async def test_an_upstream_that_closes_while_we_send() -> None:
    """A failure with a cause, whether it read a part or nothing."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reset()

    async with pool_to(script) as (pool, upstream):
        with pytest.raises(UpstreamUnavailable, match="it reset the connection before it answered"):
            await ask(pool, b"POST", bytes(LARGE))
        assert upstream.connections == 1


@on_both_loops
async def test_giving_up_in_the_middle_of_a_paused_body() -> None:
    """Nothing waits for the bytes that were not read."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        try:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE))
        finally:
            gone.set()

    async with pool_to(script) as (pool, _):
        response = await ask(pool)
        await eventually(lambda: response._paused)
        response.abort()
        await asyncio.wait_for(gone.wait(), 1)
        with pytest.raises(BrokenBody):
            await response.read()
