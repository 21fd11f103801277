"""A client's connection: requests one after the other, their responses back, and the clock.

Promise: a request is acted on only when its head is unambiguous, no request starts before the response to the previous
one is complete, and no byte counts for two of them. A client gets so many bytes for a head and so much time to send,
and one that leaves is noticed at once, also while a response runs. What is refused is answered in a short text, and
the connection ends with it. Never: a default, a correction, or a guess at what a client may have meant.

Long because a connection's states hang together: what is being read, what runs, what waits and what the clock says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import Any, Literal, cast
from urllib.parse import unquote

from mcp_audit.relay.http.asgi import AsgiApp, RequestCycle, Scope
from mcp_audit.relay.http.request_head import Refusal
from mcp_audit.relay.http.request_reader import ListenerLimits, RequestHead, RequestReader

__all__ = ["ClientConnection", "Serving"]

_log = logging.getLogger("mcp_audit")
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_SLICE = 16384  # bytes given to the parser at a time, which bounds what one read can start
_UNREAD = 262_144  # bytes of a body that wait for the application before we stop reading
_HELD = 65536  # bytes that wait behind a request in progress before we stop reading
_LINGER_SECONDS = 1.0  # for a client to read our last word before what it still sends resets the connection
_RESET = struct.pack("ii", 1, 0)
_Wait = Literal["idle", "head", "body", "end", ""]


class Serving:
    """What the connections of one listener share, and who they are."""

    def __init__(self, app: AsgiApp, limits: ListenerLimits, forward: bool) -> None:
        self.app = app
        self.limits = limits
        self.forward = forward
        self.draining = False
        self.loop = asyncio.get_running_loop()
        self.connections: set[ClientConnection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.idle = asyncio.Event()  # nobody is connected and nothing runs; meaningful while draining

    def start(self, cycle: RequestCycle) -> None:
        """Let the application answer a request."""
        task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self.check_idle()

    def check_idle(self) -> None:
        """Tell a drain, if there is one, that it is over."""
        if self.draining and not self.tasks and not self.connections:
            self.idle.set()


class ClientConnection(asyncio.Protocol):
    """See the module; one object per connection, no task of its own."""

    __slots__ = (
        "_active",
        "_client",
        "_deaf",
        "_heard",
        "_held",
        "_inbound",
        "_queue",
        "_reader",
        "_reading",
        "_server",
        "_serving",
        "_timer",
        "_transport",
        "_wait",
        "_writable",
    )

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._reader = RequestReader(self, serving.limits, serving.forward)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        # Reading.
        self._held = bytearray()  # arrived behind a request in progress, not parsed yet
        self._reading = True
        self._deaf = False  # nothing that still arrives counts
        # Requests.
        self._inbound: RequestCycle | None = None  # the one being read, until its body ends
        self._active: RequestCycle | None = None  # the one being answered
        self._queue: list[RequestCycle | Refusal] = []  # behind it
        # Time and flow.
        self._wait: _Wait = ""  # what the timer is for
        self._timer: asyncio.TimerHandle | None = None
        self._heard = 0.0  # when a body last grew
        self._writable: asyncio.Event | None = None  # set: the client has caught up; None: it was never behind

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; the client has as long as between two requests."""
        self._transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._server = _address(transport.get_extra_info("sockname"))
        self._serving.connections.add(self)
        if self._serving.draining:
            self._transport.close()
        self._schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; whoever is being answered is told."""
        self._deaf = True
        self._queue.clear()
        self._arm("", 0)
        if self._active is not None:
            self._tell_gone(self._active)
        self._reader.close()
        self._serving.connections.discard(self)
        self._serving.check_idle()

    def eof_received(self) -> None:
        """A client that says it will send no more is gone, as it is for the servers of this field.

        Waiting for proof would keep a stream open upstream that nobody reads.
        """
        if self._active is not None:
            self._tell_gone(self._active)
            self._transport.abort()

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writable is not None:
            self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Parse what belongs to the request being read; hold what lies behind one that waits its turn."""
        if self._deaf:
            return
        self._feed(data)
        self._schedule()

    # Reading: the reader's sink.

    def _feed(self, data: bytes | bytearray) -> None:
        for start in range(0, len(data), _SLICE):
            if self._queue:
                self._held += data[start:]
                return
            try:
                self._reader.feed(bytes(data[start : start + _SLICE]))
            except Refusal as refusal:
                self._fail(refusal)
            if self._deaf:
                return

    def begin(self, head: RequestHead) -> None:
        """Act on a head, or put the request behind those in progress."""
        if self._deaf:
            raise Refusal(400, "there is no request after the last one")
        keep_alive = head.keep_alive and not self._serving.draining
        cycle = RequestCycle(self, self._scope(head), keep_alive, head.expects_continue)
        self._inbound = cycle
        if self._active is None:
            self._start(cycle)
        else:
            self._queue.append(cycle)

    def body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self._inbound is not None:
            self._inbound.feed(piece)

    def end(self) -> None:
        """The request has ended; whatever follows is another one, if the client keeps the connection."""
        cycle, self._inbound = self._inbound, None
        if cycle is not None:
            cycle.end_body()
            self._deaf = not cycle.keep_alive

    def _scope(self, head: RequestHead) -> Scope:
        text = head.path.decode("latin-1")
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "method": head.method.decode(),
            "scheme": "http",
            "path": unquote(text) if "%" in text else text,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": self._client,
            "server": self._server,
            "raw_target": head.target,
        }

    # Requests, one after the other.

    def _start(self, cycle: RequestCycle) -> None:
        self._active = cycle
        self._heard = self._serving.loop.time()
        self._serving.start(cycle)

    def finished(self, cycle: RequestCycle) -> None:
        """The response is complete: on to the next request, or to the end."""
        self._active = None
        if not cycle.body_complete:
            self._linger()
        elif not cycle.keep_alive or self._serving.draining:
            self._transport.close()
        elif self._queue:
            self._next()
        if self._held and not self._queue and not self._deaf:
            held, self._held = self._held, bytearray()
            self._feed(held)
        if not self._transport.is_closing():
            self._schedule()

    def _next(self) -> None:
        following = self._queue.pop(0)
        if isinstance(following, Refusal):
            self._answer(following)
        else:
            self._start(following)

    def _fail(self, refusal: Refusal) -> None:
        """Refuse what is being read, when its turn comes; nothing that follows it can be told apart from it."""
        if self._deaf and self._inbound is None:
            return  # it is behind the last request of this connection
        self._deaf = True
        self._held.clear()
        _log.info("refused a request of %s with %d: %s", (self._client or ("a client",))[0], refusal.status, refusal)
        broken = self._inbound  # if not None, the fault is in its body
        if broken is not None and broken is self._active:
            self._give_up(broken, refusal)
            return
        if broken is not None:
            self._queue.remove(broken)  # nobody acts on a request that did not arrive
        if self._active is None:
            self._answer(refusal)
        else:
            self._queue.append(refusal)

    def _give_up(self, cycle: RequestCycle, refusal: Refusal) -> None:
        """End a request whose body is at fault: for the application the client is gone."""
        self._tell_gone(cycle)
        if cycle.response_started:
            self.break_off(cycle)
        else:
            self._answer(refusal)

    def _tell_gone(self, cycle: RequestCycle, ours: bool = False) -> None:
        """Tell the application that nobody listens any more, and let go of it if it waits for the client."""
        self._active = None
        cycle.disconnect(ours)
        if self._writable is not None:
            self._writable.set()

    def _answer(self, refusal: Refusal) -> None:
        body = f"mcp-audit: {refusal}\n".encode()
        reason = _REASONS.get(refusal.status, b"")
        self._transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (refusal.status, reason, len(body), body)
        )
        self._linger()

    def _linger(self) -> None:
        """Say that we are done, let the client read it, then close: what it still sends must not reset that away."""
        self._deaf = True
        if self._transport.is_closing():
            return
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        with contextlib.suppress(OSError, RuntimeError):
            self._transport.write_eof()
        self._arm("end", _LINGER_SECONDS)

    # Carrier, for the request in progress.

    @property
    def paused(self) -> bool:
        """The client reads slower than we write."""
        return self._writable is not None and not self._writable.is_set()

    async def drained(self) -> None:
        """Wait until it has caught up, or is gone."""
        if self._writable is not None:
            await self._writable.wait()

    def write(self, *parts: bytes) -> None:
        """Send now."""
        if parts:  # `writelines` of some Python releases forgets to say that the client is behind
            self._transport.write(b"".join(parts))

    def want_body(self) -> None:
        """The application waits for more of the body, so reading goes on and its time runs."""
        self._heard = self._serving.loop.time()
        self._schedule()

    def break_off(self, cycle: RequestCycle) -> None:
        """Close without an end of the body; where the end of the connection is the end of the body, reset it."""
        self._deaf = True
        if not cycle.unframed:
            self._transport.close()
            return
        own = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # Time and flow.

    def _schedule(self) -> None:
        """Make the timer and the reading fit the state."""
        if self._wait == "end" or self._transport.is_closing():
            return
        active = self._active
        reading = len(self._held) <= _HELD and (active is None or active.unread <= _UNREAD)
        if reading is not self._reading:
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
        limits = self._serving.limits
        if active is not None:
            wait: _Wait = "" if active.body_complete else "body"
        else:
            wait = "head" if self._reader.in_head else "idle"
        if wait == "body":
            self._heard = self._serving.loop.time()
        if wait != self._wait:
            seconds = {"body": limits.body_seconds, "head": limits.head_seconds, "idle": limits.idle_seconds}
            self._arm(wait, seconds.get(wait, 0.0))

    def _arm(self, wait: _Wait, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wait = wait
        self._timer = self._serving.loop.call_later(seconds, self._expired) if wait else None

    def _expired(self) -> None:
        wait, limits, loop = self._wait, self._serving.limits, self._serving.loop
        self._timer = None
        if wait == "head":
            self._fail(Refusal(408, f"the head of a request must arrive within {limits.head_seconds:g} s"))
        elif wait == "body":
            active = self._active
            assert active is not None
            left = self._heard + limits.body_seconds - loop.time()
            # Neither a client that waits for a 100 is late, nor one that we do not read from, nor one that is answered.
            if active.expects_continue or active.response_started or not self._reading:
                left = limits.body_seconds
            if left > 0:
                self._arm("body", left)
            else:
                self._fail(Refusal(408, f"no byte of the body came for {limits.body_seconds:g} s"))
        elif wait == "end":
            self._transport.abort()
        else:
            self._transport.close()

    # A drain.

    def end_soon(self) -> None:
        """Finish the response in progress, if there is one, and close; what waits behind it is not begun."""
        self._queue.clear()
        self._held.clear()
        if self._active is None:
            if self._wait != "end":
                self._transport.close()
        else:
            self._active.keep_alive = False
            self._deaf = self._deaf or self._active.body_complete

    def end_now(self) -> None:
        """Break off whatever there is."""
        active = self._active
        if active is None:
            self._transport.abort()
        else:
            self._tell_gone(active, ours=True)
            self.break_off(active)

    def abort(self) -> None:
        """Close without a word, nor waiting for a client to read."""
        self._transport.abort()


_REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    505: b"HTTP Version Not Supported",
}


def _address(name: Any) -> tuple[str, int] | None:
    """Return an address as people know it: an IPv4 client of a dual listener is an IPv4 client."""
    if not isinstance(name, tuple) or len(name) < 2:
        return None
    return str(name[0]).removeprefix("::ffff:"), int(name[1])
