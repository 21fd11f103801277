"""A listener with a small application behind it, and a client that writes and reads bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from mcp_audit.relay.http.asgi import AsgiApp, Receive, Scope, Send
from mcp_audit.relay.http.listener import Listener, ListenerLimits, bind

__all__ = ["Answer", "App", "Wire", "echo", "listening", "read_request", "respond"]


class Answer(NamedTuple):
    """A response as it came: names in lower case, the body without its framing."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)


class Wire:
    """A TCP connection to the listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self, method: bytes = b"GET") -> Answer:
        """Read one response to its end; raises IncompleteReadError if it is broken off."""
        start, *fields = (await self.head())[:-4].split(b"\r\n")
        _, status, reason = start.split(b" ", 2)
        headers = [(name.lower(), value) for name, _, value in (field.partition(b": ") for field in fields)]
        given = dict(headers)
        if method == b"HEAD" or int(status) in (204, 304):
            body = b""
        elif given.get(b"transfer-encoding") == b"chunked":
            body = b"".join([piece async for piece in self.chunks()])
        elif b"content-length" in given:
            body = await self.reader.readexactly(int(given[b"content-length"]))
        else:
            body = await self.reader.read()
        return Answer(int(status), reason, headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield chunks as they are framed, to the last one."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ended(self) -> bytes:
        """Return what still came before the end of the connection."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self.writer.close()


class App:
    """Collects what reaches it and answers by a script: one coroutine function for every request."""

    def __init__(self, script: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None) -> None:
        self.script = script or echo
        self.scopes: list[Scope] = []
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.running += 1
        try:
            await self.script(scope, receive, send)
        finally:
            self.running -= 1


async def read_request(receive: Receive) -> bytes | None:
    """Return the whole body, None if the client left before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message["body"]
        if not message["more_body"]:
            return body


async def respond(send: Send, status: int = 200, body: bytes = b"", headers: Any = None) -> None:
    """Send a whole response with its length."""
    given = [(b"content-length", b"%d" % len(body))] if headers is None else headers
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the target and the body."""
    body = await read_request(receive)
    if body is not None:
        await respond(send, 200, scope["raw_target"] + b"|" + body)


class Site:
    """A running listener and the connections a test made to it."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.wires: list[Wire] = []

    async def connect(self, data: bytes = b"") -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.listener.port))
        self.wires.append(wire)
        if data:
            await wire.send(data)
        return wire


@asynccontextmanager
async def listening(
    app: AsgiApp, limits: ListenerLimits | None = None, *, forward: bool = False
) -> AsyncIterator[Site]:
    """Serve `app` on a free port of the loopback; everything is closed in the end."""
    async with Listener(app, bind("127.0.0.1", 0), limits, forward=forward) as listener:
        site = Site(listener)
        try:
            yield site
        finally:
            for wire in site.wires:
                wire.close()
                with suppress(OSError):
                    await wire.writer.wait_closed()
