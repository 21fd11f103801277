"""From a name to a connection: races, failures in words, and nothing left of those who lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from upstreams import OK, answering, ask, on_both_loops, pool_to, upstream, whole

from mcp_audit.errors import UpstreamUnavailable
from mcp_audit.relay.http import dial
from mcp_audit.relay.http.pool import Pool
from mcp_audit.relay.http.target import Target

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port at which a connection is neither accepted nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(address)
            waiting.append(sock)
        try:
            yield address[1]
        finally:
            for sock in waiting:
                sock.close()


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[int, Any]) -> None:
    async def resolve(host: str, port: int) -> list[tuple[int, Any]]:
        return list(found)

    monkeypatch.setattr(dial, "_resolve", resolve)


@on_both_loops
async def test_a_dead_address_costs_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next address is tried while the first is still silent, and the one that answers is used."""
    loop = asyncio.get_running_loop()
    with full_backlog() as silent:
        async with pool_to(answering(OK)) as (pool, running):
            addresses(monkeypatch, (V4, ("127.0.0.1", silent)), (V4, ("127.0.0.1", running.target.port)))
            began = loop.time()
            assert await whole(await ask(pool)) == b"ok"
            assert 0.2 < loop.time() - began < 2


@on_both_loops
async def test_a_refused_address_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No head start is given to an attempt that has failed."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refused = listening.getsockname()[1]
    monkeypatch.setattr(dial, "_STAGGER_SECONDS", 30.0)
    async with pool_to(answering(OK)) as (pool, running):
        addresses(monkeypatch, (V4, ("127.0.0.1", refused)), (V4, ("127.0.0.1", running.target.port)))
        began = loop.time()
        assert await whole(await ask(pool)) == b"ok"
        assert loop.time() - began < 5


@on_both_loops
async def test_a_race_that_nobody_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the attempts met is said once each."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refused = ("127.0.0.1", listening.getsockname()[1])
    addresses(monkeypatch, (V4, refused), (V4, refused), (V4, refused))

    with pytest.raises(UpstreamUnavailable) as raised:
        await ask(Pool(Target("http", "upstream.test", 80)))
    assert raised.value.cause == "cannot connect to upstream.test:80: connection refused"


@on_both_loops
async def test_a_race_can_be_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled while two attempts are under way: neither of them is left."""
    monkeypatch.setattr(dial, "_STAGGER_SECONDS", 0.01)
    with full_backlog() as silent:
        addresses(monkeypatch, (V4, ("127.0.0.1", silent)), (V4, ("127.0.0.1", silent)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(Pool(Target("http", "upstream.test", 80)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}


@on_both_loops
async def test_a_photo_finish_leaves_nobody_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """All attempts connect, one is used, and the others are closed."""
    monkeypatch.setattr(dial, "_STAGGER_SECONDS", 0.0)
    async with pool_to(answering(OK)) as (pool, running):
        here = (V4, ("127.0.0.1", running.target.port))
        addresses(monkeypatch, here, here, here)
        assert await whole(await ask(pool)) == b"ok"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("no-such-host.invalid", id="unknown"),
        pytest.param("a..b", id="empty-label"),
        pytest.param("x" * 70 + ".invalid", id="long-label"),
    ],
)
@on_both_loops
async def test_a_name_that_cannot_be_resolved(host: str) -> None:
    """It is told apart from a host that refuses."""
    with pytest.raises(UpstreamUnavailable) as raised:
        await ask(Pool(Target("http", host, 80)))
    assert raised.value.cause.startswith(f"cannot resolve the name {host}: ")
    assert raised.value.sent is False


@on_both_loops
async def test_ipv6() -> None:
    """An address without brackets is dialled, and written with them."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
            port = listening.getsockname()[1]
    except OSError:
        pytest.skip("platform: no IPv6 on loopback")
    with pytest.raises(UpstreamUnavailable, match=rf"cannot connect to \[::1\]:{port}: connection refused"):
        await ask(Pool(Target("http", "::1", port)))

    async with upstream(answering(OK), host="::1") as running:
        pool = Pool(running.target)
        assert await whole(await ask(pool)) == b"ok"
        await pool.close()


def test_families_take_turns() -> None:
    """Beginning with the one the system prefers, so that a dead family delays by one attempt only."""
    six, four = [(V6, n) for n in "abc"], [(V4, n) for n in "xy"]

    assert dial._alternating([*six, *four]) == [six[0], four[0], six[1], four[1], six[2]]
    assert dial._alternating(four) == four


class Brief(asyncio.Protocol):
    """Ends its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@on_both_loops
async def test_a_descriptor_is_closed_once() -> None:
    """A connection that ends as soon as it is there takes no number with it that is somebody else's by then."""
    async with pool_to(answering(OK)) as (_, running):
        for _ in range(20):
            await dial.connect(Brief, "127.0.0.1", running.target.port)
            others = []
            for _ in range(4):
                await asyncio.sleep(0)
                others.append(os.open(os.devnull, os.O_RDONLY))
            gc.collect()
            for descriptor in others:
                os.close(descriptor)  # EBADF if it was closed already
