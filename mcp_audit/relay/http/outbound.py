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


def kind_of(headers: Headers) -> str:
    """Return `events`, `json`, or nothing for a body that holds no messages."""
    content_type = (value_of(headers, b"content-type") or b"").partition(b";")[0].strip(_SPACE).lower()
    if content_type == b"text/event-stream":
        return "events"
    return "json" if content_type == b"application/json" or content_type.endswith(b"+json") else ""


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
        self._copy = _Copy(headers)
        self._body = Bounded(max_bytes, new_hash)

    def feed(self, piece: bytes) -> bool:
        """Take the next bytes of the body as they came; return whether they may complete its message."""
        for text in self._copy.decoded(piece):
            self._body.add(text)
        return not self._copy.plain or piece.rstrip(_SPACE)[-1:] in (b"", b"}", b"]")

    def finish(self) -> Line | Payload | None:
        """Return what the body says, None if it is blank."""
        body = self._body.end()
        if not self._copy.whole:
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
        self._copy = _Copy(headers)
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
        """Yield what the events say that `piece` completes; a little of it may decode to much, so it comes in parts."""
        start = self._events.position
        for text in self._copy.decoded(piece):
            if found := [_heard(event, start) for event in self._events.feed(text) if event.type != b"endpoint"]:
                yield found
        if self._copy.unreadable and not self._told:
            self._told = True
            yield [Heard(self._copy.opaque())]


class _Copy:
    """A body's bytes as they are without their Content-Encoding."""

    def __init__(self, headers: Headers) -> None:
        encoding = value_of(headers, b"content-encoding") or b""
        self.plain = encoding.strip(_SPACE).lower() in (b"", b"identity")
        self._decoder: Decoder | None = None if self.plain else decoder_for(encoding)
        self.unreadable = not self.plain and self._decoder is None

    def decoded(self, piece: bytes) -> Iterator[bytes]:
        if self.plain:
            yield piece
        elif self._decoder is not None and not self.unreadable:
            try:
                yield from self._decoder.feed(piece)
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
    """A stream towards the client into which our own errors can be put, between two events."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._turn = anyio.Lock()
        self._between = True
        self._waiting: list[bytes] = []

    async def write(self, piece: bytes, between: bool) -> None:
        """Pass bytes of the upstream on; `between` says whether an event ends with them."""
        async with self._turn:
            await self._write(piece)
            self._between = between
            if between and self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._write(b"".join(waiting))

    async def inject(self, message: bytes) -> None:
        """Send a message as an event as soon as none of the upstream's is under way."""
        event = b"event: message\ndata: %b\n\n" % message
        async with self._turn:
            if self._between:
                await self._write(event)
            else:
                self._waiting.append(event)


def _heard(event: SseEvent, start: int) -> Heard:
    data = event.data
    message = parse(data, Direction.TO_CLIENT, line=False) if isinstance(data, bytes) else data
    return Heard(message, event.end - event.size - start, event.end - start)
