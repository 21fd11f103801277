"""One connection to an HTTP upstream, and one exchange on it at a time.

It sends the bytes of a request once and hands what comes back to the `Response`. Everything happens in callbacks of
the event loop: a connection owns no task and no timer, so it cannot leak one. It never repeats anything, and bytes that
nobody asked for end it.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import sys
from collections.abc import Callable
from typing import Protocol, cast

from mcp_audit.errors import UpstreamUnavailable
from mcp_audit.relay.http.dial import words
from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.response import Response

__all__ = ["Connection", "Owner", "request_head"]

_ONE_WRITE = 64 * 1024  # a body up to this many bytes leaves together with the head
_SLICE = 128 * 1024  # of a larger body: what the transport may have to copy at a time
_SLICES_PER_TURN = 8  # then others have theirs, even if the socket would take more


class Owner(Protocol):
    """Who is told about a connection."""

    def free(self, connection: Connection) -> None:
        """Its exchange is over, and it may carry another."""
        ...

    def unusable(self, connection: Connection) -> None:
        """It will carry no other exchange, though it may not be closed yet."""
        ...

    def lost(self, connection: Connection) -> None:
        """It is closed and holds nothing any more."""
        ...


class Connection(asyncio.Protocol):
    """A connection, made by `loop.create_connection`."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._unsent: memoryview | None = None  # the part of the request body that the transport does not have yet
        self._cut = False  # a request was not sent whole
        self._write_paused = False
        self._read_paused = False
        self._readable: Callable[[int], object] = bool

    # -- for the pool --------------------------------------------------------------------------------------------------

    def send(self, method: bytes, head: bytes, body: bytes) -> Response:
        """Begin an exchange: send the request, and return the answer that has yet to arrive.

        Raises:
            UpstreamUnavailable: the connection is closed already, and nothing was sent.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamUnavailable("it closed the connection at once", sent=False)
        response = self._response = Response(self, method, self._loop)
        if len(body) <= _ONE_WRITE:
            transport.write(head + body)
        else:
            transport.write(head)
            self._unsent = memoryview(body)
            self._send_more()
        return response

    @property
    def is_open(self) -> bool:
        """Whether it holds a descriptor."""
        return self._transport is not None

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return self._response is not None

    def is_silent(self) -> bool:
        """Return whether the peer has neither closed nor sent anything that the event loop has yet to tell us."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return not self._readable(0)

    def close(self) -> None:
        """Close in good order if there is nothing left to send, else at once."""
        if self._transport is not None:
            if self._unsent is not None or self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()
        self._unsent = None

    def abort(self) -> None:
        """Close at once. What the peer sent is not waited for, nor is its consent to the end of TLS."""
        self._unsent = None
        if self._transport is not None:
            self._transport.abort()

    # -- for the response ----------------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Take no more bytes from the socket for now."""
        if self._transport is not None and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes from the socket again."""
        if self._transport is not None and self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # -- for the event loop --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast(asyncio.Transport, transport)
        self._readable = _watch(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        response = self._response
        if response is None:
            self._owner.unusable(self)
            self.abort()
            return
        response.feed(data)
        if response.ended:
            self._over(response)
        elif response.status >= 300 and self._unsent is not None:
            # It does not want the rest (RFC 9112 section 9.3); after a 2xx it may well answer as it reads.
            self._unsent = None
            self._cut = True

    def eof_received(self) -> bool:
        """The peer sends nothing more."""
        response = self._response
        if response is None:
            self._owner.unusable(self)
        else:
            if self._said_goodbye():
                response.stream_ended()
            else:
                response.connection_lost(_how(None))
            self._over(response)
        return False  # and neither do we

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self._transport = self._unsent = None
        response, self._response = self._response, None
        if response is not None:
            response.connection_lost(_how(exc))
        self._owner.lost(self)

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The transport has sent what it held."""
        self._write_paused = False
        self._send_more()

    def _send_more(self) -> None:
        for _ in range(_SLICES_PER_TURN):
            unsent, transport = self._unsent, self._transport
            if unsent is None or self._write_paused or transport is None or transport.is_closing():
                return
            self._unsent = unsent[_SLICE:] if len(unsent) > _SLICE else None
            transport.write(unsent[:_SLICE])
        self._loop.call_soon(self._send_more)

    def _said_goodbye(self) -> bool:
        """Return whether the end of the stream is the peer's own: over TLS anybody can forge a bare TCP close."""
        layer = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if layer is None:
            return True
        try:
            return not layer.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:  # it would have to wait for more: there was no close_notify
            return False

    def _over(self, response: Response) -> None:
        """End the exchange: the connection is free for another, or it closes."""
        self._response = None
        transport = self._transport
        whole = self._unsent is None and not self._cut
        usable = response.reusable and whole and transport is not None and not transport.is_closing()
        # What the transport still holds is the rest of a request that was answered early.
        if usable and transport is not None and not transport.get_write_buffer_size():
            if self._read_paused:
                self.resume_reading()
            self._owner.free(self)
        else:
            self._owner.unusable(self)
            self.close()


def _watch(fd: int) -> Callable[[int], object]:
    """Return what, given a time to wait, tells whether a read would return: with bytes, an end or an error."""
    if sys.platform == "win32":
        return lambda wait: select.select([fd], [], [], wait)[0]
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return poller.poll


def request_head(method: bytes, target: bytes, headers: Headers) -> bytes:
    """Return the head of a request: what is given, and nothing else.

    Raises:
        ValueError: a part would end its line or the head, and begin what nobody asked for.
    """
    lines = [b"%b %b HTTP/1.1" % (method, target), *map(b": ".join, headers), b"", b""]
    head = b"\r\n".join(lines)
    breaks = 2 * len(lines) - 2
    if len(head.translate(None, b"\r\n\0")) != len(head) - breaks or b" " in method or b" " in target:
        raise ValueError("a method, target or header of the request holds a line break, NUL or misplaced space")
    return head


def _how(error: Exception | None) -> str:
    if error is None:
        return "it closed the connection"
    if isinstance(error, ConnectionError):
        return "it reset the connection"
    return f"the connection failed ({words(error)})"
