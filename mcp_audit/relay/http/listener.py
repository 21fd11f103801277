"""A listening address, an application behind it, and the way both end.

The server is uvicorn with a connection class of ours (see `client_connection`) and without what belongs to this
program: it heeds no signal, adds no header, writes no log, runs no lifespan, and nothing wakes it up while nobody asks.
Never: a path of its own, state that outlives the object, or a response that ends cleanly because we end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, cast

import anyio
import uvicorn

from mcp_audit.errors import McpAuditError
from mcp_audit.relay.http.asgi import AsgiApp
from mcp_audit.relay.http.client_connection import ClientConnection, Serving
from mcp_audit.relay.http.request_reader import ListenerLimits

__all__ = ["ListenError", "Listener", "ListenerLimits", "bind"]

_BACKLOG = 2048
_ATTEMPTS = 8  # at a port that is free on every address of a name
_WIND_UP_SECONDS = 1.0  # for applications to record that their clients are gone
# A client whose machine vanished sends no FIN; after 60 + 4 * 15 s of silence its stream is closed.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


class ListenError(McpAuditError):
    """An address cannot be listened on.

    Args:
        setting: the section that holds `bind_address` and `port`.
    """

    def __init__(self, host: str, port: int, cause: str, setting: str) -> None:
        super().__init__(host, port, cause, setting)
        self.host = host
        self.port = port
        self.cause = cause
        self.setting = setting

    def __str__(self) -> str:
        at = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return (
            f"cannot listen on {at} ({self.cause}); choose another {self.setting}.port (0: any free one) "
            f"or {self.setting}.bind_address"
        )


def bind(host: str, port: int, *, setting: str = "proxy", reuse_port: bool = False) -> list[socket.socket]:
    """Bind every address that a name stands for, all to the same port, before anything else is started.

    Args:
        host: an address, or a name such as `localhost`; `::` means IPv4 as well.
        port: 0: any free one.
        reuse_port: other processes listen on the same port.

    Raises:
        ListenError: it cannot be had.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        for _ in range(_ATTEMPTS if port == 0 else 1):
            try:
                return _bind_all(addresses, reuse_port)
            except OSError as error:
                taken = error
                if error.errno != errno.EADDRINUSE:
                    break
        raise taken
    except OSError as error:
        raise ListenError(host, port, error.strerror or str(error), setting) from None


def _bind_all(addresses: Sequence[tuple[int, tuple[Any, ...]]], reuse_port: bool) -> list[socket.socket]:
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, address in addresses:
            port = bound[0].getsockname()[1] if bound else address[1]
            try:
                bound.append(_bind_one(family, (address[0], port, *address[2:]), reuse_port))
            except OSError as error:
                # `localhost` may stand for an address that the machine does not have. One that another program has
                # is an error, or clients would reach that program under our name.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
        if not bound and absent is not None:
            raise absent
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _bind_one(family: int, address: tuple[Any, ...], reuse_port: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows it would let two programs share a port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise OSError("this platform cannot share a port between processes")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address[0] == "::" else 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # inherited by the connections
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        one.setblocking(False)
        one.bind(address)
        one.listen(_BACKLOG)  # a port that is taken may show only here
    except BaseException:
        one.close()
        raise
    return one


class Listener:
    """Serves an application on bound sockets, from `async with` on; leaving that breaks off whatever still runs.

    An application that returns before its response is complete breaks it off: the client sees an incomplete body.

    Args:
        sockets: of `bind`; ours from now on, closed in the end.
        forward: accept absolute request targets, and only those.
    """

    def __init__(
        self,
        app: AsgiApp,
        sockets: Sequence[socket.socket],
        limits: ListenerLimits | None = None,
        *,
        forward: bool = False,
    ) -> None:
        self._app = app
        self._sockets = list(sockets)
        self._limits = limits or ListenerLimits()
        self._forward = forward
        self._serving: Serving | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.addresses: list[tuple[str, int]] = [one.getsockname()[:2] for one in self._sockets]

    @property
    def port(self) -> int:
        """The port that was bound, the same for every address."""
        return self.addresses[0][1]

    async def __aenter__(self) -> Listener:
        serving = self._serving = Serving(self._app, self._limits, self._forward)
        server = self._server = _Server(_configuration(self._app, serving))
        self._task = asyncio.create_task(server.serve(self._sockets))
        ready = asyncio.create_task(server.accepting.wait())
        try:
            await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._close()
            raise
        finally:
            ready.cancel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):  # what is cancelled has to be put away nevertheless
            await self._close()

    async def drain(self, seconds: float) -> bool:
        """Accept nobody any more, let requests finish for so long, then break off the rest, which is mostly streams.

        Connections without a request are closed at once, and the others after their response.

        Returns:
            Whether everything finished by itself.
        """
        serving = self._stop_accepting()
        for connection in list(serving.connections):
            connection.end_soon()
        serving.check_idle()
        try:
            async with asyncio.timeout(seconds):
                await serving.idle.wait()
        except TimeoutError:
            await self._break_off(serving)
            return False
        return True

    def _stop_accepting(self) -> Serving:
        assert self._serving is not None
        assert self._server is not None
        self._serving.draining = True
        self._server.stop()
        return self._serving

    async def _break_off(self, serving: Serving) -> None:
        """Tell every application that its client is gone, give it a moment for its record, then cancel it."""
        for connection in list(serving.connections):
            connection.end_now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WIND_UP_SECONDS):
                await serving.idle.wait()
        for task in list(serving.tasks):
            task.cancel()
        for connection in list(serving.connections):
            connection.abort()
        await asyncio.gather(*serving.tasks, return_exceptions=True)
        if serving.connections:
            await serving.idle.wait()

    async def _close(self) -> None:
        serving = self._stop_accepting()
        serving.check_idle()
        try:
            if not serving.idle.is_set():
                await self._break_off(serving)
        finally:
            if self._task is not None:
                await asyncio.gather(self._task, return_exceptions=True)
            for one in self._sockets:
                one.close()


class _Server(uvicorn.Server):
    """uvicorn's server with its ends tied to ours."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()
        self._end = asyncio.Event()

    def stop(self) -> None:
        """Accept nobody any more, from now on."""
        self._end.set()
        for server in getattr(self, "servers", ()):
            server.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # they are the relay's
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()
        if self._end.is_set():
            self.stop()

    async def main_loop(self) -> None:
        """Wait to be stopped; uvicorn would look ten times a second."""
        await self._end.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Our connections end by our rules."""
        self.stop()


def _configuration(app: AsgiApp, serving: Serving) -> uvicorn.Config:
    def connect(**_: Any) -> ClientConnection:
        return ClientConnection(serving)

    return uvicorn.Config(
        cast(Any, app),
        http=cast(Any, connect),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        forwarded_allow_ips="",
        workers=1,
        backlog=_BACKLOG,
    )
