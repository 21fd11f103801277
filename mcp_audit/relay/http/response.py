"""One answer of an HTTP upstream as it comes: its head, then its body piece by piece, as it was sent.

Only the framing of HTTP/1.1 is taken off (RFC 9112); no content coding is decoded, and interim answers and trailers are
dropped. An answer that two recipients could frame differently is never passed on in part, let alone guessed at: it is
an error, and its connection carries nothing else. No I/O: bytes come in by `feed`, and a `Link` is what is asked to
pause.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol

import httptools

from mcp_audit.errors import BrokenBody, UpstreamUnavailable
from mcp_audit.relay.http.headers import Headers

__all__ = ["Link", "Response"]

_MAX_HEAD_BYTES = 64 * 1024  # also of what may stand between two pieces of a body: chunk extensions, trailers
_MAX_HEADERS = 256
_UNSENDABLE = re.compile(rb"[\x00\r\n]")
_ENOUGH_WAITING = 256 * 1024  # bytes nobody has read yet, at which we stop reading the socket


class Link(Protocol):
    """What an answer may ask of the connection it comes from."""

    def pause_reading(self) -> None:
        """Take no more bytes from the socket for now."""
        ...

    def resume_reading(self) -> None:
        """Take bytes from the socket again."""
        ...

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        ...


class _Stop(Exception):
    """Ends the parsing of bytes of which the rest means nothing to us."""


class Response:
    """An answer whose head is there; `read` it to its end, or `abort` it.

    Attributes:
        status: such as 200; never an interim one.
        reason: as sent, mostly empty or `OK`.
        headers: as sent, in order, without the white space before values.
        ended: no further byte belongs to it (what came before may still be waiting for `read`).
        reusable: its connection may carry another exchange; known once it has ended.
    """

    __slots__ = (
        "_arrived",
        "_cause",
        "_is_head",
        "_link",
        "_parser",
        "_paused",
        "_pieces",
        "_reader",
        "_refusal",
        "_silence",
        "_waiting",
        "ended",
        "headers",
        "reason",
        "reusable",
        "status",
    )

    def __init__(self, link: Link, method: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0  # until the head of the final answer is complete
        self.reason = b""
        self.headers: Headers = []
        self.ended = False
        self.reusable = False
        self._link: Link | None = link
        self._is_head = method == b"HEAD"
        self._arrived: asyncio.Future[None] = loop.create_future()
        self._reader: asyncio.Future[None] | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._paused = False
        self._cause = ""  # of an abnormal end
        self._refusal = ""
        self._silence = 0  # bytes since the last one of the body
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # -- for whoever asked ---------------------------------------------------------------------------------------------

    async def read(self) -> bytes:
        """Return what has come of the body since the last call, waiting if that is nothing; `b""` at the end.

        One caller at a time. A cancelled call aborts the answer, for nobody else would close its connection.

        Raises:
            BrokenBody: the answer ended abnormally; all that came before has been returned.
        """
        while not self._pieces:
            if self._cause:
                raise BrokenBody(self._cause)
            if self.ended:
                return b""
            await self._more()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._paused:
            self._paused = False
            if self._link is not None:
                self._link.resume_reading()
        return piece

    def abort(self) -> None:
        """Give the rest up and close the connection now. Of an answer that has come whole only the copy is dropped."""
        link = self._link
        self.fail("it was given up")
        if self._pieces and not self._cause:
            self._cause = "it was given up"  # what is missing now must not look like the end
        self._pieces.clear()
        self._waiting = 0
        if link is not None:
            link.abort()

    async def _more(self) -> None:
        if self._reader is not None:
            raise RuntimeError("the answer is being read already")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._reader = None

    # -- for the connection --------------------------------------------------------------------------------------------

    async def arrived(self) -> None:
        """Wait for the head of the final answer.

        Raises:
            UpstreamUnavailable: it does not come.
        """
        try:
            await self._arrived
        except asyncio.CancelledError:
            self.abort()
            raise

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        parser = self._parser
        if parser is None:
            return
        self._silence += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.ended:
                self.reusable = False  # more came than was asked for
            else:
                self.fail(self._refusal or f"its answer is malformed ({str(error) or type(error).__name__})")
        if self._silence > _MAX_HEAD_BYTES and not self.ended:
            what = "the framing of its body" if self.status else "the head of its answer"
            self.fail(f"{what} is larger than {_MAX_HEAD_BYTES // 1024} KiB")

    def stream_ended(self) -> None:
        """Take note that the peer closed in good order, which ends a body that has no other end."""
        if self.status and not self._is_framed():
            self._end()
        else:
            self.fail(f"it closed the connection {self._stage()}")

    def connection_lost(self, how: str) -> None:
        """Take note that the connection is gone; `how` as in `it reset the connection`."""
        self.fail(f"{how} {self._stage()}")

    def fail(self, cause: str) -> None:
        """End abnormally, unless it has ended."""
        if self.ended:
            return
        self._cause = cause
        if not self.status and not self._arrived.done():
            self._arrived.set_exception(UpstreamUnavailable(cause))
        self._end()
        self.reusable = False

    def _end(self) -> None:
        self.ended = True
        self._link = None
        self._parser = None  # which holds our methods: without this every answer would wait for the garbage collector
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _stage(self) -> str:
        return "in the middle of its answer" if self.status or self._silence else "before it answered"

    def _is_framed(self) -> bool:
        return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self.headers)

    # -- for the parser ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """An answer begins: the first, one after an interim one, or one that nobody asked for."""
        if self.ended:
            raise _Stop

    def on_status(self, reason: bytes) -> None:
        """A part of the reason phrase."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or after the body a trailer."""
        if not self.status:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete; unless it is an interim one, whoever asked may have it."""
        parser = self._parser
        if parser is None:
            raise _Stop
        status = parser.get_status_code()
        if status < 200:
            self._interim(status)
            return
        version = parser.get_http_version()
        framing_is_plain = self._examine(version)
        self.reusable = framing_is_plain and parser.should_keep_alive()
        self.status = status
        if not self._arrived.done():
            self._arrived.set_result(None)
        if self._is_head:
            # Its headers describe a body that does not come, whatever the parser thinks (RFC 9112 section 6.3).
            self.reusable = self._stays_open(version)
            self._end()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.ended:
            self.reusable = False
            raise _Stop
        self._silence = 0
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._waiting >= _ENOUGH_WAITING and not self._paused and self._link is not None:
            self._paused = True
            self._link.pause_reading()

    def on_message_complete(self) -> None:
        """The answer has come whole, or an interim one has."""
        if self.status and not self.ended:
            self._end()

    def _interim(self, status: int) -> None:
        if status < 100:
            self._refuse(f"its answer has the status {status:03d}")
        if status == 101:
            self._refuse("it switched to another protocol, which nobody asked for")
        self.headers.clear()
        self.reason = b""

    def _examine(self, version: str) -> bool:
        """Refuse a head that is too large or cannot be passed on; return whether its framing is beyond doubt."""
        if version not in ("1.1", "1.0"):
            self._refuse(f"it answers in HTTP/{version}")
        if len(self.headers) > _MAX_HEADERS:
            self._refuse(f"its answer has more than {_MAX_HEADERS} headers")
        if _UNSENDABLE.search(self.reason):
            self._refuse("its answer has a reason phrase that is not text")
        # The sum is for reads that are larger than a head may be.
        if self._silence > _MAX_HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in self.headers) > _MAX_HEAD_BYTES:
            self._refuse(f"the head of its answer is larger than {_MAX_HEAD_BYTES // 1024} KiB")
        plain = True
        for name, value in self.headers:
            if len(name) == 17 and name.lower() == b"transfer-encoding":
                coding = value.strip().lower()
                if coding != b"chunked":  # the header stays on this hop, and what it says would be lost with it
                    self._refuse(f"it uses the transfer coding {coding[:40].decode('latin-1')!r}, unasked")
                plain = version == "1.1"  # RFC 9112 section 6.1
        return plain

    def _stays_open(self, version: str) -> bool:
        wishes = b",".join(value for name, value in self.headers if name.lower() == b"connection").lower()
        options = {option.strip() for option in wishes.split(b",")}
        return b"close" not in options and (version == "1.1" or b"keep-alive" in options)

    def _refuse(self, cause: str) -> None:
        self._refusal = cause
        raise _Stop
