"""What operators and orchestrators ask: are you alive, do you take traffic, what is the newest checkpoint.

An ASGI application; whoever wires it chooses the listener. Promise: every answer is made of what the proxy knows and of
whether the upstream accepts a TCP connection. Never: an MCP message, anything from the ledger's entries, or a second
connection to the upstream because somebody asks often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import anyio

from mcp_audit.errors import UpstreamUnavailable
from mcp_audit.relay.http.access import Access
from mcp_audit.relay.http.dial import connect

__all__ = ["Operations", "Reachability"]

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_METHODS = ("GET", "HEAD")
_CONNECT_SECONDS = 2.0  # below the 3 s and more that orchestrators give a probe by default, so that they get a reason
_FRESH_SECONDS = 1.0
_FIXED_HEADERS = (
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
)


class _Answer(NamedTuple):
    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Reachability:
    """Whether the upstream accepts a TCP connection; an answer holds for a second and is shared by all who ask."""

    def __init__(self, host: str, port: int, timeout: float = _CONNECT_SECONDS) -> None:
        self._host, self._port, self._timeout = host, port, timeout
        self._lock = anyio.Lock()
        self._asked = float("-inf")
        self._problem = ""

    async def __call__(self) -> str:
        """Return why the upstream cannot be reached, empty if it can."""
        async with self._lock:
            if time.monotonic() - self._asked >= _FRESH_SECONDS:
                self._problem = await self._connect()
                self._asked = time.monotonic()
            return self._problem

    async def _connect(self) -> str:
        try:
            with anyio.fail_after(self._timeout):
                await connect(_Probe, self._host, self._port)
        except TimeoutError:
            return f"{self._host}:{self._port} accepts no connection within {self._timeout:g} s"
        except UpstreamUnavailable as error:
            return error.cause
        return ""


class _Probe(asyncio.Protocol):
    """A connection that has said all it had to say by being there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Operations:
    """Answers `/healthz`, `/readyz` and `/checkpoint` to GET and HEAD, as plain text; everything else is 404.

    Args:
        access: by which names we may be called, so that no web page gets here by rebinding one.
        upstream_problem: why the upstream cannot be reached, empty if it can (`Reachability`).
        ledger_problem: why the ledger takes nothing, empty while it works (`Recorder.cause`).
        newest_note: the newest signed checkpoint, empty before the first.
        draining: whether we take no new traffic because we are about to end.
    """

    def __init__(
        self,
        access: Access,
        *,
        upstream_problem: Callable[[], Awaitable[str]],
        ledger_problem: Callable[[], str],
        newest_note: Callable[[], str],
        draining: Callable[[], bool],
    ) -> None:
        self._access = access
        self._upstream_problem = upstream_problem
        self._ledger_problem = ledger_problem
        self._newest_note = newest_note
        self._draining = draining
        self._pages: Mapping[str, Callable[[], Awaitable[_Answer]]] = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/checkpoint": self._checkpoint,
        }

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request (ASGI 3). Other protocols than HTTP are not served."""
        if scope["type"] != "http":
            raise NotImplementedError(f"operations serve no {scope['type']}")
        answer = await self._answer(scope)
        body = answer.text.encode()
        length = (b"content-length", str(len(body)).encode())
        headers = [*_FIXED_HEADERS, length, *answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: _Scope) -> _Answer:
        # Before anything is told, the path included: a page that rebinds a name learns nothing.
        if self._access.check([(name.lower(), value) for name, value in scope["headers"]]) is not None:
            return _Answer(403, "this Host or Origin is not served; metrics.allowed_hosts names Hosts that are\n")
        page = self._pages.get(scope["path"])
        if page is None:
            return _Answer(404, f"there is {', '.join(self._pages)}\n")
        if scope["method"] not in _METHODS:
            return _Answer(405, "GET or HEAD\n", ((b"allow", b"GET, HEAD"),))
        return await page()

    async def _health(self) -> _Answer:
        return _Answer(200, "ok\n")

    async def _readiness(self) -> _Answer:
        problems = ["draining: no new requests are taken"] if self._draining() else []
        if cause := self._ledger_problem():
            problems.append(f"the ledger takes no entries ({cause})")
        if not problems and (problem := await self._upstream_problem()):
            problems.append(f"the upstream is not there: {problem}")
        if problems:
            return _Answer(503, "".join(f"not ready: {problem}\n" for problem in problems))
        return _Answer(200, "ready\n")

    async def _checkpoint(self) -> _Answer:
        note = self._newest_note()
        return _Answer(200, note) if note else _Answer(404, "there is no checkpoint yet\n")
