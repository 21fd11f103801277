"""What an upstream's response says, read from a copy while the bytes pass.

A body is one message or batch, an event stream one per event. What is compressed is decoded here, within the limit, and
nowhere else; what cannot be decoded is on record as such, and passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import anyio

from mcp_audit.relay.http.headers import Headers, value_of
from mcp_audit.wire.encodings import BadEncoding, Decoder, decoder_for
from mcp_audit.wire.framing import Bounded, Hasher, Line
from mcp_audit.wire.message import Direction, Kind, Message, Payload, parse
from mcp_audit.wire.sse import SseDecoder, SseEvent

__all__ = ["EventAudit", "EventStream", "Heard", "WholeAudit", "kind_of"]

_SPACE = b" \t\r\n"
_WAITING = 256  # events of ours that wait for the end of one of the upstream's, which may never come
_UNPACKED = 1 << 27  # bytes that one piece may decode to; a piece of text has a hundredth of that


def kind_of(headers: Headers) -> str:
    """Return `events`, `json`, or nothing for a body that is not said to hold messages.

    Clients look for these words anywhere in the value, or only at its beginning, so whatever has one of them counts.
    """
    content_type = (value_of(headers, b"content-type") or b"").strip(_SPACE).lower()
    if content_type.startswith(b"application/json"):
        return "json"
    if b"text/event-stream" in content_type:
        return "events"
    return "json" if b"json" in content_type else ""


class Heard(NamedTuple):
    """A message of the upstream, and where its event stands, counted from the beginning of the piece that ends it.

    It may have begun before: then `start` is negative.
    """

    message: Line | Payload
    start: int = 0
    end: int = 0


class WholeAudit:
    """Reads a JSON body.

    Args:
        max_bytes: of the body that is kept, decoded; of a longer one size and hash are.
    """

    def __init__(self, headers: Headers, max_bytes: int, new_hash: Callable[[], Hasher]) -> None:
        self._copy = _Copy(headers, max_bytes)
        self._body = Bounded(max_bytes, new_hash)
        self._last = b""  # byte of the text that is no space

    def feed(self, piece: bytes) -> Iterator[None]:
        """Take the next bytes of the body as they came; where it yields, others may have their turn."""
        for text in self._copy.decoded(piece):
            self._body.add(text)
            self._last = (text[-16:].rstrip(_SPACE) or text.rstrip(_SPACE))[-1:] or self._last
            if not self._copy.plain:
                yield

    @property
    def unreadable(self) -> bool:
        """Whether it will never be known what the body says."""
        return self._copy.unreadable

    @property
    def may_be_whole(self) -> bool:
        """Whether what was fed may hold all of a message, as far as whoever reads along can tell."""
        return self._last in (b"", b"}", b"]")

    def finish(self, cut: bool = False) -> Line | Payload | None:
        """Return what the body says, None if it is blank.

        Args:
            cut: it broke off, so what counts is its text as far as it came.
        """
        body = self._body.end()
        if not (cut or self._copy.whole):
            return self._copy.opaque()
        if not isinstance(body, bytes):
            return body
        return parse(body, Direction.TO_CLIENT, line=False) if body.strip(_SPACE) else None


class EventAudit:
    """Reads an event stream.

    Args:
        max_bytes: of an event's data that is kept; of a longer one size and hash are.
    """

    def __init__(self, headers: Headers, max_bytes: int, new_hash: Callable[[], Hasher]) -> None:
        self._copy = _Copy(headers, max_bytes)
        self._events = SseDecoder(max_bytes, new_hash)
        self._told = False

    @property
    def between_events(self) -> bool:
        """Whether an event of ours could go out now."""
        return self._copy.plain and self._events.between_events

    @property
    def plain(self) -> bool:
        """Whether the stream is not compressed."""
        return self._copy.plain

    def feed(self, piece: bytes) -> Iterator[list[Heard]]:
        """Yield what the events say that `piece` completes, in parts, for a little of it may decode to much.

        A part may be empty. Between two of them others may have their turn.
        """
        start = self._events.position
        for text in self._copy.decoded(piece):
            found = [_heard(event, start) for event in self._events.feed(text) if not _is_address(event)]
            if found or not self._copy.plain:
                yield found
        if self._copy.unreadable and not self._told:
            self._told = True
            yield [Heard(self._copy.opaque())]


class _Copy:
    """A body's bytes as they are without their Content-Encoding.

    Args:
        max_bytes: of a message; a piece that decodes to more, and to more than any text would, is not read to its end.
    """

    def __init__(self, headers: Headers, max_bytes: int) -> None:
        self._bound = max(max_bytes, _UNPACKED)
        encoding = value_of(headers, b"content-encoding") or b""
        self.plain = encoding.strip(_SPACE).lower() in (b"", b"identity")
        self._decoder: Decoder | None = None if self.plain else decoder_for(encoding)
        self.unreadable = not self.plain and self._decoder is None

    def decoded(self, piece: bytes) -> Iterator[bytes]:
        if self.plain:
            yield piece
        elif self._decoder is not None and not self.unreadable:
            size = 0
            try:
                for text in self._decoder.feed(piece):
                    size += len(text)
                    if size > self._bound:
                        self.unreadable = True
                        return
                    yield text
            except BadEncoding:
                self.unreadable = True

    @property
    def whole(self) -> bool:
        """Whether what came is all there is to decode."""
        return self.plain or (not self.unreadable and self._decoder is not None and self._decoder.whole)

    def opaque(self) -> Payload:
        message = Message(b"", Direction.TO_CLIENT, Kind.OPAQUE, marks=("unknown_encoding",))
        return Payload(b"", (message,))


class EventStream:
    """A stream towards the client into which our own errors can be put, between two events.

    Args:
        write: sends a piece, and says whether there is more.
        malleable: events can be put in and left out, for it is neither compressed nor of a length that was announced.
    """

    def __init__(self, write: Callable[[bytes, bool], Awaitable[None]], malleable: bool = True) -> None:
        self.malleable = malleable
        self._write = write
        self._over = False
        self._turn = anyio.Lock()
        self._between = True
        self._waiting: list[bytes] = []

    async def write(self, piece: bytes, between: bool) -> None:
        """Pass bytes of the upstream on; `between` says whether an event ends with them."""
        async with self._turn:
            await self._write(piece, True)
            self._between = between
            if between and self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._write(b"".join(waiting), True)

    async def end(self) -> None:
        """End the stream, behind those who are putting something in."""
        async with self._turn:
            self._over = True
            await self._write(b"", False)

    async def inject(self, message: bytes) -> bool:
        """Send a message as an event as soon as none of the upstream's is under way; False if it cannot be sent."""
        event = b"event: message\ndata: %b\n\n" % message
        async with self._turn:
            if self._over or not self.malleable:
                return False
            if self._between:
                await self._write(event, True)
                return True
            if len(self._waiting) == _WAITING:
                return False
            self._waiting.append(event)
            return True


def _is_address(event: SseEvent) -> bool:
    """Say whether an event tells where to POST; clients that know no such event take a message in it for a message."""
    return event.type == b"endpoint" and isinstance(event.data, bytes) and event.data.lstrip()[:1] not in (b"{", b"[")


def _heard(event: SseEvent, start: int) -> Heard:
    data = event.data
    message = parse(data, Direction.TO_CLIENT, line=False) if isinstance(data, bytes) else data
    return Heard(message, event.end - event.size - start, event.end - start)
