"""An address is had or refused in a sentence, and it is given up without cutting what can still finish."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

import anyio
import pytest
from listening import App, Site, echo, listening, read_request, respond

from mcp_audit.relay.http.asgi import Receive, Scope, Send
from mcp_audit.relay.http.listener import Listener, ListenError, bind

GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"


# Addresses.


async def test_a_free_port_is_chosen_and_told() -> None:
    """Port 0 means any; the same one for every address of a name."""
    sockets = bind("localhost", 0)
    async with Listener(App(), sockets) as listener:
        assert listener.port > 0
        assert {port for _, port in listener.addresses} == {listener.port}
        for host, port in listener.addresses:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(GET)
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            writer.close()
            await writer.wait_closed()


async def test_every_address_serves_ipv4_clients() -> None:
    """`::` is what people write for all addresses; an IPv4 client is known by its IPv4 address."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("platform: no IPv6 here")
    app = App()
    async with Listener(app, bind("::", 0)) as listener:
        site = Site(listener)
        wire = await site.connect(GET)
        assert (await wire.answer()).status == 200
        wire.close()
        await wire.writer.wait_closed()

    assert app.scopes[0]["client"][0] == "127.0.0.1"


def test_a_taken_port_is_said_in_a_sentence() -> None:
    """With the setting to change; nothing stays bound."""
    taken = bind("127.0.0.1", 0)
    port = taken[0].getsockname()[1]

    with pytest.raises(ListenError) as caught:
        bind("127.0.0.1", port)
    with pytest.raises(ListenError, match=r"metrics\.port"):
        bind("127.0.0.1", port, setting="metrics")

    taken[0].close()
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another proxy.port (0: any free one) "
        "or proxy.bind_address"
    )
    for one in bind("127.0.0.1", port):
        one.close()


def test_every_address_of_a_name_must_be_free() -> None:
    """Else clients of `localhost` could reach another program under our name, and that one would get their tokens."""
    found = {info[4][0] for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    taken = bind("127.0.0.1", 0)
    try:
        with pytest.raises(ListenError, match="in use"):
            bind("localhost", taken[0].getsockname()[1])
    finally:
        taken[0].close()
    assert "127.0.0.1" in found


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "::ffff:192.0.2.1"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    """Whatever the system says about it."""
    with pytest.raises(ListenError, match="cannot listen on"):
        bind(host, 0)


def test_processes_may_share_a_port() -> None:
    """If all of them say so."""
    first = bind("127.0.0.1", 0, reuse_port=True)
    second = bind("127.0.0.1", first[0].getsockname()[1], reuse_port=True)
    for one in first + second:
        one.close()


# A guest in somebody else's program.


async def test_signals_and_loggers_stay_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    """The relay heeds signals, and nobody but the package writes a log."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    handlers = list(root.handlers)
    with caplog.at_level(logging.WARNING):
        async with listening(App()) as site:
            assert {number: signal.getsignal(number) for number in before} == before
            assert (await (await site.connect(GET)).answer()).status == 200
            await (await site.connect(b"nonsense\r\n\r\n")).answer()

    assert root.handlers == handlers
    assert caplog.records == []
    assert logging.getLogger("uvicorn.error").handlers == []


async def test_a_failure_of_the_application_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """By the package's logger, with its cause; a client that misbehaves is no error of ours."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("the cause")

    async with listening(App(fail)) as site:
        await (await site.connect(GET)).answer()

    assert [(record.name, record.levelname) for record in caplog.records] == [("mcp_audit", "ERROR")]
    assert "the cause" in caplog.text


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="platform: descriptors are counted in /proc")
async def test_nothing_is_left_behind() -> None:
    """No task, no descriptor, whatever was in progress when it ended."""
    async with listening(App()) as site:
        await (await site.connect(GET)).answer()  # an event loop has descriptors of its own, made at first use
    await asyncio.sleep(0.05)
    tasks, descriptors = asyncio.all_tasks(), set(os.listdir("/proc/self/fd"))

    async def stay(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        assert (await receive())["type"] == "http.disconnect"

    app = App(stay)
    async with listening(app) as site:
        for stream in (b"", b"GET / HT", GET, GET + GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"):
            await site.connect(stream)
        await (await site.connect(GET)).head()
    await asyncio.sleep(0.05)

    assert app.running == 0
    assert asyncio.all_tasks() == tasks
    assert set(os.listdir("/proc/self/fd")) == descriptors


async def test_it_can_be_cancelled() -> None:
    """As a part of a larger whole that ends; what it served is put away first."""
    app = App()
    served = anyio.Event()

    async def stay(scope: Scope, receive: Receive, send: Send) -> None:
        served.set()
        await anyio.sleep_forever()

    app.script = stay
    sockets = bind("127.0.0.1", 0)
    with anyio.CancelScope() as scope:
        async with Listener(app, sockets) as listener:
            wire = await Site(listener).connect(GET)
            await served.wait()
            scope.cancel()
            await anyio.sleep_forever()

    assert app.running == 0
    assert await wire.ended() == b""
    wire.close()
    with pytest.raises(ConnectionRefusedError):
        await Site(listener).connect()


# A drain.


async def test_a_drain_lets_requests_finish_and_nobody_in() -> None:
    """Idle connections are closed at once; the answer in progress arrives whole and ends its connection."""
    go = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await go.wait()
        await echo(scope, receive, send)

    app = App(wait)
    async with listening(app) as site:
        idle, fresh, begun = (
            await site.connect(GET),
            await site.connect(),
            await site.connect(b"GET /half HTTP/1.1\r\n"),
        )
        await idle.answer()
        slow = await site.connect(GET.replace(b"/mcp", b"/slow") + GET)
        while len(app.scopes) < 2:
            await asyncio.sleep(0)
        draining = asyncio.create_task(site.listener.drain(10))
        for wire in (idle, fresh, begun):
            assert await asyncio.wait_for(wire.ended(), 1) == b""
        with pytest.raises(ConnectionRefusedError):
            await site.connect(GET)
        assert not draining.done()
        go.set()
        answer = await slow.answer()
        assert (answer.body, answer.header(b"connection")) == (b"/slow|", b"close")
        assert await slow.ended() == b""
        assert await asyncio.wait_for(draining, 1)

    assert [scope["path"] for scope in app.scopes] == ["/mcp", "/slow"]


async def test_a_request_that_is_still_arriving_may_finish() -> None:
    """Its head had come when the drain began."""
    app = App()
    async with listening(app) as site:
        wire = await site.connect(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
        while not app.scopes:
            await asyncio.sleep(0)
        draining = asyncio.create_task(site.listener.drain(10))
        await asyncio.sleep(0.02)
        await wire.send(b"dy")
        assert (await wire.answer()).body == b"/p|body"
        assert await asyncio.wait_for(draining, 1)


async def test_streams_are_broken_off_when_the_time_is_over() -> None:
    """Without a final chunk; the application hears of it and may still write its record."""
    recorded: list[str] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await read_request(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        await asyncio.sleep(0.05)
        recorded.append(scope["path"])

    async with listening(App(stream)) as site:
        wire = await site.connect(GET)
        await wire.head()
        assert not await site.listener.drain(0.1)
        assert await wire.ended() == b"9\r\ndata: 1\n\n\r\n"
        assert recorded == ["/mcp"]


async def test_an_application_that_will_not_end_is_cancelled() -> None:
    """And a client that does not read does not keep us."""
    cancelled: list[str] = []

    async def pour(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while scope["path"] == "/mcp":
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(scope["path"])
            raise

    app = App(pour)
    async with listening(app) as site:
        await site.connect(GET)
        await site.connect(GET.replace(b"/mcp", b"/wait"))
        while app.running < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        started = asyncio.get_running_loop().time()
        assert not await site.listener.drain(0)
        assert asyncio.get_running_loop().time() - started < 3

    assert app.running == 0
    assert "/wait" in cancelled


async def test_a_drain_of_nobody_is_over_at_once() -> None:
    """Also a second time."""
    async with listening(App(), None) as site:
        assert await asyncio.wait_for(site.listener.drain(10), 1)
        assert await asyncio.wait_for(site.listener.drain(10), 1)


async def test_an_answer_given_early_survives_the_drain() -> None:
    """A client that still sends its body has a moment to read what was said."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 413, b"too much")

    async with listening(App(refuse)) as site:
        wire = await site.connect(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\nx")
        answer = await wire.answer()
        assert await site.listener.drain(5)
        assert answer.body == b"too much"
