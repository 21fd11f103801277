"""The HTTP/1.1 client of the data path: one upstream, as many connections as there are exchanges, reused when idle.

It sends the headers it is given and no other, decodes nothing, follows no redirect, keeps no cookie and reads no proxy
from the environment. A request is sent once and never again, whatever happens to it. There is no limit on connections,
for open streams would starve it, and no time limit, for only the caller knows whether a stream may stay silent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from mcp_audit.errors import BrokenBody, UpstreamUnavailable
from mcp_audit.relay.http.connection import Connection, request_head
from mcp_audit.relay.http.dial import connect
from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.response import Response
from mcp_audit.relay.http.target import Target
from mcp_audit.relay.http.tls import default_context

__all__ = ["BrokenBody", "Headers", "Pool", "Response", "UpstreamUnavailable"]


class Pool:
    """Connections to one upstream.

    Args:
        target: where it is; its path plays no part.
        tls: how an `https` upstream is verified; None: against the system's authorities.
        idle: seconds after which an unused connection is closed, less than servers grant: a request that meets
            their close is lost, for it must not be sent again.
        server_name: the name to verify in place of the host; empty: the host.
    """

    def __init__(
        self, target: Target, tls: ssl.SSLContext | None = None, idle: float = 2.0, *, server_name: str = ""
    ) -> None:
        self._target = target
        self._tls = (tls or default_context()) if target.scheme == "https" else None
        self._server_name = server_name
        self._limit = idle
        self._connections: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # since when; in this order, so the last one is used first
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self._none_left: asyncio.Event | None = None

    async def request(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        body: bytes = b"",
        *,
        sent: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request and return its answer as soon as the head is there; read it to its end, or abort it.

        To be cancelled is to close the connection.

        Args:
            target: as it goes on the wire, such as `/mcp?x=1`.
            headers: all of them, `Host` and `Content-Length` included.
            sent: called once the request is on its way, so that a later one does not overtake it.

        Raises:
            UpstreamUnavailable: there is no answer; `sent` tells whether the upstream may have acted.
            ValueError: a part of the request would not stay in its place on the wire.
        """
        head = request_head(method, target, headers)
        connection = self._reusable() or await self._connect()
        response = connection.send(method, head, body)
        if sent is not None:
            sent()
        await response.arrived()
        return response

    @property
    def is_unused(self) -> bool:
        """Whether there is no connection."""
        return not self._connections

    async def close(self) -> None:
        """Close every connection, those in use at once, and return when none is left."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        self._idle.clear()
        self._none_left = asyncio.Event()
        for connection in tuple(self._connections):
            if connection.busy:
                connection.abort()
            else:
                connection.close()
        if self._connections:
            await self._none_left.wait()

    # -- for the connections -------------------------------------------------------------------------------------------

    def free(self, connection: Connection) -> None:
        """Keep it for the next request, a while."""
        if self._closed:
            connection.close()
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._idle[connection] = now
        if self._sweeper is None:
            self._sweeper = loop.call_at(now + self._limit, self._sweep)

    def unusable(self, connection: Connection) -> None:
        """Do not give it to a request again."""
        self._idle.pop(connection, None)

    def lost(self, connection: Connection) -> None:
        """Forget it."""
        self._idle.pop(connection, None)
        self._connections.discard(connection)
        if self._connections:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._none_left is not None:
            self._none_left.set()

    # ------------------------------------------------------------------------------------------------------------------

    async def _connect(self) -> Connection:
        self._must_be_open()
        loop = asyncio.get_running_loop()
        where = self._target
        connection = await connect(lambda: Connection(self, loop), where.host, where.port, self._tls, self._server_name)
        try:
            self._must_be_open()
        except UpstreamUnavailable:
            connection.abort()
            raise
        # Not earlier: of a connection that is cancelled while it is made, an event loop need not tell the end.
        if connection.is_open:
            self._connections.add(connection)
        return connection

    def _must_be_open(self) -> None:
        if self._closed:
            raise UpstreamUnavailable("the proxy is shutting down", sent=False)

    def _reusable(self) -> Connection | None:
        """Take the connection that was used last, for it is the least likely to be closed by the peer."""
        oldest = asyncio.get_running_loop().time() - self._limit
        while self._idle:
            connection, since = self._idle.popitem()
            if since > oldest and connection.is_silent():
                return connection
            connection.close()
        return None

    def _sweep(self) -> None:
        """Close what has been idle for too long; one timer for all of them, so that a request costs none."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        now = loop.time()
        for connection, since in tuple(self._idle.items()):
            if since + self._limit > now:
                self._sweeper = loop.call_at(since + self._limit, self._sweep)
                return
            del self._idle[connection]
            connection.close()
