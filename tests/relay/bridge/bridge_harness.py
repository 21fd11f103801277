"""A bridge with everything real but its two ends: pipes in the client's place, a scripted HTTP server upstream.

Promise: the test alone decides when each byte of an answer goes out, and every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from mcp_audit.bridging import bridge_session, prepare
from mcp_audit.config import Config
from mcp_audit.config.model import Audit, Bridge, Middleware, Policy, Proxy, RateLimit, Redact
from mcp_audit.relay.stdio import Ending
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.stamp import Stamp

SECRET = b"0123456789abcdef0123456789abcdef"
DEADLINE = 10.0
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(id_: Any, method: str = "tools/call", *, modern: bool = False, **params: Any) -> dict[str, Any]:
    """A request of the client."""
    if modern:
        params = {**params, "_meta": MODERN}
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def call(id_: Any, tool: str = "echo", *, modern: bool = False, **arguments: Any) -> dict[str, Any]:
    """A `tools/call`."""
    return request(id_, modern=modern, name=tool, arguments=arguments)


def notification(method: str, **params: Any) -> dict[str, Any]:
    """A notification of either side."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result(id_: Any, **members: Any) -> dict[str, Any]:
    """An answer of either side."""
    return {"jsonrpc": "2.0", "id": id_, "result": members}


class Asked:
    """A request that reached the upstream, and the means to answer it."""

    def __init__(
        self, method: str, path: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self._writer = writer
        self.gone = asyncio.Event()  # the bridge closed the connection
        self.answered = asyncio.Event()

    @property
    def message(self) -> Any:
        return json.loads(self.body)

    async def answer(self, status: int = 200, body: Any = b"", kind: str = "application/json", **headers: str) -> None:
        """Answer with a whole body; anything but bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Content-Length": str(len(data)), **({"Content-Type": kind} if data else {}), **_fields(headers)}
        await self._write(_head(status, fields) + data)
        self.answered.set()

    async def accept(self) -> None:
        """Answer a notification or response."""
        await self.answer(202)

    async def stream(self, **headers: str) -> None:
        """Begin an event stream."""
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **_fields(headers)}
        await self._write(_head(200, fields))

    async def event(self, message: Any = None, id_: str = "", retry: int | None = None) -> None:
        """Send an event; without a message one that only has an id."""
        lines = [f"id: {id_}"] if id_ else []
        lines += [f"retry: {retry}"] if retry is not None else []
        lines.append("data: " + (json.dumps(message) if message is not None else ""))
        await self.raw("\n".join(lines).encode() + b"\n\n")

    async def raw(self, data: bytes) -> None:
        """Send a chunk."""
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """End the stream in good order."""
        await self._write(b"0\r\n\r\n")
        self.answered.set()

    async def drop(self) -> None:
        """Close the connection, whatever is missing."""
        self._writer.close()
        self.answered.set()

    async def _write(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()


class Upstream:
    """An HTTP server that hands every request to the test."""

    def __init__(self) -> None:
        self.port = 0
        self._requests: asyncio.Queue[Asked] = asyncio.Queue()
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    async def asked(self, method: str = "POST") -> Asked:
        """Wait for the next request, which must be of this kind."""
        async with asyncio.timeout(DEADLINE):
            found = await self.next()
        assert found.method == method, (found.method, found.headers, found.body)
        return found

    async def next(self) -> Asked:
        """Wait for the next request for as long as it takes."""
        return await self._requests.get()

    def quiet(self) -> bool:
        """Whether nothing was asked that the test did not take."""
        return self._requests.empty()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            first = b""
            while head := await _until_blank_line(reader, first):
                start, *lines = head.decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = start.split(" ")
                asked = Asked(method, path, headers, body, writer)
                self._requests.put_nowait(asked)
                first = await self._until_answered(asked, reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _until_answered(self, asked: Asked, reader: asyncio.StreamReader) -> bytes:
        """Wait for the answer, or for the bridge to hang up; return what it sent meanwhile: of its next request."""
        answered = asyncio.create_task(asked.answered.wait())
        heard = asyncio.create_task(reader.read(1))
        await asyncio.wait((answered, heard), return_when=asyncio.FIRST_COMPLETED)
        first = b""
        if heard.done():
            first = heard.result()
            if not first:
                asked.gone.set()
        for task in (answered, heard):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        return first


class Client:
    """The client's ends of the pipes."""

    def __init__(self, stdin: int, stdout: asyncio.StreamReader, transport: asyncio.ReadTransport) -> None:
        self._stdin, self._stdout, self._transport = stdin, stdout, transport

    def send(self, *messages: Any) -> None:
        """Write lines, all at once."""
        os.write(self._stdin, b"".join(m if isinstance(m, bytes) else json.dumps(m).encode() + b"\n" for m in messages))

    async def line(self) -> bytes:
        """Wait for a line of the bridge; empty at its end."""
        async with asyncio.timeout(DEADLINE):
            return await self._stdout.readline()

    async def message(self) -> Any:
        return json.loads(await self.line())

    def stop_reading(self) -> None:
        """Close the reading end of stdout."""
        self._transport.close()

    def close(self) -> None:
        """End stdin."""
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1


class Bridged(Client):
    """A client behind a running bridge."""

    def __init__(
        self,
        stdin: int,
        stdout: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        run: asyncio.Task[Ending],
        log: Path,
    ) -> None:
        super().__init__(stdin, stdout, transport)
        self.run = run
        self._log = log

    async def ended(self) -> Ending:
        """Wait for the end of the run."""
        async with asyncio.timeout(DEADLINE):
            return await asyncio.shield(self.run)

    def lines(self) -> list[dict[str, Any]]:
        """The ledger's lines."""
        return [json.loads(line) for line in self._log.read_bytes().split(b"\n") if line]

    def entries(self) -> list[dict[str, Any]]:
        """The ledger's lines about what has ended."""
        return [line for line in self.lines() if "type" not in line]


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """A scripted server on a free port."""
    scripted = Upstream()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.port = server.sockets[0].getsockname()[1]
    async with server:
        yield scripted
        server.close()


@asynccontextmanager
async def bridge(
    folder: Path,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    parent: int = 0,
    ledger: LedgerSink | None = None,
    policy: Policy | None = None,
    **proxy: Any,
) -> AsyncIterator[Bridged]:
    """Run a bridge until the block ends."""
    log = folder / "audit.jsonl"
    stamp = Stamp()
    if ledger is None:
        ledger = open_ledger(LedgerSettings(storage="jsonl", path=str(log), secret=SECRET, software="test"), stamp)
    config = Config(
        proxy=Proxy(upstream=url, bridge=Bridge(headers=dict(headers or {})), **proxy),
        middleware=Middleware(rate_limit=RateLimit(enabled=False), redact=Redact(enabled=False)),
        audit=Audit(capture="full", block_timeout_ms=0),
        policy=policy or Policy(),
    )
    stdin, client_writes = os.pipe()
    client_reads, stdout = os.pipe()
    reader = asyncio.StreamReader(limit=1 << 28)
    file = os.fdopen(client_reads, "rb", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    run = asyncio.create_task(bridge_session(config, prepare(config), ledger, stamp, stdin, stdout, parent))
    client = Bridged(client_writes, reader, transport, run, log)
    try:
        yield client
    finally:
        client.close()
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        transport.close()


async def shake_hands(client: Client, server: Upstream, listens: bool = True) -> Asked | None:
    """Go through a legacy handshake with session id `s`; return the stream that the bridge listens on."""
    client.send(INITIALIZE)
    asked = await server.asked()
    assert "mcp-session-id" not in asked.headers
    answer = result(1, protocolVersion="2025-11-25", capabilities={}, serverInfo={"name": "scripted", "version": "1"})
    await asked.answer(body=answer, Mcp_Session_Id="s")
    assert await client.message() == answer
    stream = await server.asked("GET")
    if listens:
        await stream.stream()
    else:
        await stream.answer(405)
    client.send(INITIALIZED)
    await (await server.asked()).accept()
    return stream if listens else None


def _fields(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def _until_blank_line(reader: asyncio.StreamReader, first: bytes) -> bytes:
    try:
        return first + (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.IncompleteReadError:
        return b""
