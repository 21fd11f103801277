"""The HTTP reference target: an MCP server on the Python SDK that offers all that the conformance suites ask about.

Promise: it speaks every revision from 2024-11-05 to 2026-07-28 as well as the SDK can, with DNS-rebinding protection,
one event store per session, an SSE retry of 100 ms and sealed `requestState`.

Example: python tests/servers/everything.py --port 0        # prints the URL once connections are accepted
         python tests/servers/everything.py --transport sse  # HTTP+SSE of 2024-11-05
"""

from __future__ import annotations

import argparse
import socket
import warnings
from collections.abc import Sequence

import uvicorn
from everything_offers import make_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import JSONRPCMessage
from starlette.applications import Starlette
from starlette.routing import Route

__all__ = ["main", "web_app"]

RETRY_MS = 100


class Events(EventStore):
    """The events of one session, so that a client that lost a stream gets what it missed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep an event and return its id, which counts from 1."""
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what followed on the same stream; return the stream, or None if the id is not ours."""
        last = int(last_event_id) if last_event_id.isdecimal() else 0
        if not 1 <= last <= len(self._events):
            return None
        stream = self._events[last - 1][0]
        for number, (of, message) in enumerate(self._events[last:], last + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Sessions(StreamableHTTPSessionManager):
    """Gives each session a store of its own: streams are named by request ids, which sessions share."""

    @property  # type: ignore[override]
    def event_store(self) -> EventStore:
        return Events()

    @event_store.setter
    def event_store(self, _: EventStore | None) -> None:
        """The constructor assigns what it was given."""


def web_app(transport: str) -> tuple[Starlette, str]:
    """Return the application and the path of its endpoint."""
    server = make_server()
    loopback = ("127.0.0.1:*", "localhost:*", "[::1]:*")
    security = TransportSecuritySettings(
        allowed_hosts=list(loopback), allowed_origins=[f"http://{host}" for host in loopback]
    )
    if transport == "sse":
        return server.sse_app(transport_security=security), "/sse"
    sessions = Sessions(server._lowlevel_server, security_settings=security, retry_interval=RETRY_MS)
    route = Route("/mcp", endpoint=StreamableHTTPASGIApp(sessions))
    return Starlette(routes=[route], lifespan=lambda _: sessions.run()), "/mcp"


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description="An MCP server for the conformance suites")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4102, help="0: any free one")
    parser.add_argument("--transport", choices=("streamable-http", "sse"), default="streamable-http")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    application, path = web_app(options.transport)
    with socket.create_server((options.host, options.port), backlog=2048) as listener:
        # A client that comes before the loop runs waits in the backlog, so this is not too early.
        print(f"http://{options.host}:{listener.getsockname()[1]}{path}", flush=True)
        # httptools keeps white space after a header value, which RFC 9110 section 5.5 forbids and a suite checks; h11
        # does not. Open event streams would hold up the end for ever, hence the timeout.
        config = uvicorn.Config(application, http="h11", log_level="critical", timeout_graceful_shutdown=1)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
