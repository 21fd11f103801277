"""Upstreams that follow a script byte by byte, and a runner that lets no test leave anything behind."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import psutil
import pytest

from mcp_audit.relay.http.pool import Pool, Response
from mcp_audit.relay.http.target import Target

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEADERS = [(b"Host", b"upstream")]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def _loops() -> list[Any]:
    loops = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    if sys.platform != "win32":
        import uvloop

        loops.append(pytest.param(uvloop.new_event_loop, id="uvloop"))
    return loops


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on asyncio's loop and on uvloop; it fails if a task, descriptor or unheard error is left."""

    @functools.wraps(test)
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_leaving_nothing(test, fixtures))

    signature = inspect.signature(test)
    loop = inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop, *signature.parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("new_loop", _loops())(run)  # type: ignore[no-any-return]


async def _leaving_nothing(test: Callable[..., Coroutine[Any, Any, None]], fixtures: dict[str, Any]) -> None:
    unheard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    # What the loop itself opens at its first listening socket, and keeps.
    async with upstream():
        pass
    tasks, descriptors = asyncio.all_tasks(), count_descriptors()
    await test(**fixtures)
    await nothing_left(tasks, descriptors)
    assert unheard == []


def count_descriptors() -> int:
    """Return how many descriptors (on Windows: handles) this process has open."""
    process = psutil.Process()
    return process.num_fds() if hasattr(process, "num_fds") else process.num_handles()


async def nothing_left(tasks: set[asyncio.Task[Any]], descriptors: int) -> None:
    """Fail unless tasks and descriptors are soon back to what they were."""
    await eventually(lambda: asyncio.all_tasks() <= tasks and count_descriptors() <= descriptors)


async def eventually(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for what no event tells, such as the closing of a descriptor by the event loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        assert loop.time() < deadline, f"this does not come true: {inspect.getsource(condition).strip()}"  # type: ignore[arg-type]
        await asyncio.sleep(0.005)


class Request(NamedTuple):
    head: bytes
    body: bytes


class Peer:
    """The upstream's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> Request:
        """Read one request, its body as long as its Content-Length says."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return Request(head, await self.reader.readexactly(length))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def closed(self) -> bytes:
        """Wait until the other end has closed, and return what it still sent."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def reset(self) -> None:
        """Close with a TCP reset."""
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class Upstream:
    """A listening upstream; connection N follows script N, the last one also every further connection."""

    def __init__(self, scripts: tuple[Script, ...], scheme: str = "http") -> None:
        self.target = Target(scheme, "127.0.0.1", 0)
        self.connections = 0
        self._scripts = scripts
        self._running: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await script(Peer(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left in the middle, as many tests want it to
        except asyncio.CancelledError:
            pass  # the test is over
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._running.discard(task)
            writer.transport.abort() if task.cancelling() else writer.close()

    async def stop(self) -> None:
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self.failures:
            raise self.failures[0]


@asynccontextmanager
async def upstream(
    *scripts: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Upstream]:
    """Serve scripts on a free port of loopback."""
    running = Upstream(scripts, "https" if tls else "http")
    server = await asyncio.start_server(running.serve, host, 0, ssl=tls)
    running.target = running.target._replace(host=host, port=server.sockets[0].getsockname()[1])
    try:
        yield running
    finally:
        server.close()
        await running.stop()


@asynccontextmanager
async def pool_to(*scripts: Script, idle: float = 2.0) -> AsyncIterator[tuple[Pool, Upstream]]:
    """Serve scripts, with a pool in front."""
    async with upstream(*scripts) as running:
        pool = Pool(running.target, idle=idle)
        try:
            yield pool, running
        finally:
            await pool.close()


async def ask(pool: Pool, method: bytes = b"GET", body: bytes = b"") -> Response:
    """Send a plain request."""
    length = [(b"Content-Length", b"%d" % len(body))] if body else []
    return await pool.request(method, b"/", HEADERS + length, body)


async def whole(response: Response) -> bytes:
    """Read a body to its end."""
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


def answering(*answers: bytes) -> Script:
    """Return a script that reads a request before each answer, and then waits for the end."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.send(answer)
        await peer.closed()

    return script


def closing_after(answer: bytes) -> Script:
    """Return a script that answers one request and closes."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    return script
