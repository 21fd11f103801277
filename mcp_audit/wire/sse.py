"""Chunks of an event stream in, its events out: what each says, and which bytes of the stream are its own.

Promise: the sizes of the events and of what `finish` returns add up to the stream, and any chunks tell the same events
at the very byte that ends them, so that each can be in the ledger before a client sees it. Never: building bytes to
send, and more memory than one event may have. The grammar is that of WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from msgspec import Struct

from mcp_audit.wire.framing import Bounded, Hasher, Line

__all__ = ["FIELD_BYTES", "MESSAGE", "SseDecoder", "SseEvent"]

MESSAGE = b"message"
"""The type of an event that names none."""

FIELD_BYTES = 8192
"""Of a longer line that is not data no more is looked at; an id that long is none."""

_BOM = b"\xef\xbb\xbf"
_BREAKS = re.compile(rb"[\r\n]*+")
_RETRY_DIGITS = 15
# How nearly every event begins; anything else goes line by line.
_USUAL = re.compile(rb"(?:event: ?+([^\r\n]{0,200}+)\r?+\n)?+(?:id: ?+([^\r\n\0]{0,1000}+)\r?+\n)?+data: ?+")
# Data of many lines, as of indented JSON; each line is whole.
_DATA_LINES = re.compile(rb"(?:data: [^\r\n]*+\n){2,}+")


class SseEvent(Struct, frozen=True):
    """One event that a client is told of: one with data.

    Attributes:
        size: the bytes of the stream since the event before it: comments and fields, up to its blank line and with it.
        end: where it ends, counted from the beginning of the stream.
        type: its `event` field, `MESSAGE` if it has none.
        id: its own `id` field, None if it has none; empty if it resets the last event id.
        data: its data lines, joined by LF.
    """

    size: int
    end: int
    type: bytes
    id: bytes | None
    data: Line


class SseDecoder:
    """Find the events of one stream.

    A CR ends a line at once, for nobody knows whether an LF will follow. One that comes with a later chunk is counted
    with the next event, and means nothing where it stands.

    Args:
        max_bytes: of the data of one event, line ends not counted; data of exactly this size is kept.
        new_hash: called when data proves too long, to hash it.

    Attributes:
        last_id: what a client that reconnects now would send as `Last-Event-ID`, empty for nothing.
        retry: how many milliseconds the server wants it to wait before that, None if it never said.
        position: how many bytes were fed.
    """

    def __init__(self, max_bytes: int, new_hash: Callable[[], Hasher] = hashlib.sha256) -> None:
        self.last_id = b""
        self.retry: int | None = None
        self.position = 0
        self._max_bytes = max_bytes
        self._new_hash = new_hash
        self._told = 0  # where the last event ended
        self._after_cr = False
        self._first_line = True
        # A line whose end has not come: its beginning, unless that was enough to know it for data.
        self._in_line = self._in_data = False
        self._line = bytearray()
        # An event whose end has not come.
        self._data: Bounded | None = None
        self._type = b""
        self._id: bytes | None = None

    @property
    def between_events(self) -> bool:
        """Whether another event can be put in here without taking over, or giving away, a field of one that began."""
        return not (self._first_line or self._in_line or self._type or self._data or self._id is not None)

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that `chunk` completes, oldest first."""
        found: list[SseEvent] = []
        start, size = 0, len(chunk)
        if self._after_cr and size:
            self._after_cr = False
            start = 1 if chunk[0] == 10 else 0
        if self.between_events:
            start = self._take_usual(chunk, start, found)
        lf = cr = -1
        while start < size:
            if not self._in_line and not self._first_line and (lines := _DATA_LINES.match(chunk, start)) is not None:
                self._add_data(lines[0][6:-1].replace(b"\ndata: ", b"\n"))
                start = lines.end()
                continue
            # Each is searched anew only when it was passed, so a stream that has but one of them is read once.
            if lf < start:
                lf = chunk.find(b"\n", start)
                lf = size if lf < 0 else lf
            if cr < start:
                cr = chunk.find(b"\r", start)
                cr = size if cr < 0 else cr
            stop = min(lf, cr)
            if stop == size:
                self._begin_line(chunk[start:])
                break
            end = stop + 2 if stop + 1 == lf < size else stop + 1
            self._after_cr = stop == cr and end == stop + 1 == size
            if start < stop or self._in_line:
                self._end_line(chunk, start, stop)
            else:
                self._first_line = False
                event = self._end_event(self.position + end)
                if event is not None:
                    found.append(event)
                # More blank lines say nothing, and a peer may send millions.
                if end < size and chunk[end] in b"\r\n":
                    end = self._skip_breaks(chunk, end)
            start = end
        self.position += size
        return found

    def finish(self) -> SseEvent | None:
        """Return what the stream ended with behind its last event, None if with nothing.

        A client is never told of it, for its blank line is missing; often it is nothing but comments, without data.
        """
        # Of a line that was cut off only data is of use: half a number or an id is another one.
        if self._in_line and self._line.startswith(b"data:"):
            self._end_line(b"", 0, 0)
        size, self._told = self.position - self._told, self.position
        data, self._data = self._data, None
        if not size:
            return None
        return SseEvent(size, self.position, self._type or MESSAGE, self._id, data.end() if data is not None else b"")

    def _take_usual(self, chunk: bytes, start: int, found: list[SseEvent]) -> int:
        """Take the whole events from `start` on that are as nearly all are; return where they end."""
        while (head := _USUAL.match(chunk, start)) is not None:
            begin = head.end()
            lf = chunk.find(b"\n", begin)
            stop = lf - 1 if chunk.startswith(b"\r\n", lf - 1) else lf
            # Empty data is none, long data is cut, and a CR within is an end of line.
            if not begin < stop <= begin + self._max_bytes or chunk.find(b"\r", begin, stop) >= 0:
                break
            end = lf + 2 if chunk.startswith(b"\n", lf + 1) else lf + 3
            if end == lf + 3 and not chunk.startswith(b"\r\n", lf + 1):
                break
            type_, id_ = head.groups()
            if id_ is not None:
                self.last_id = id_
            size, self._told = self.position + end - self._told, self.position + end
            found.append(SseEvent(size, self._told, type_ or MESSAGE, id_, chunk[begin:stop]))
            start = end
        return start

    def _skip_breaks(self, chunk: bytes, start: int) -> int:
        """Return where the run of blank lines ends that begins at `start`."""
        found = _BREAKS.match(chunk, start)
        end = found.end() if found is not None else start
        self._after_cr = end == len(chunk) and chunk[-1] == 13
        return end

    def _begin_line(self, piece: bytes) -> None:
        """Take the beginning, or a part from the middle, of a line whose end has not come."""
        self._in_line = True
        if self._in_data and self._data is not None:
            self._data.add(piece)
            return
        line = self._line
        line += piece
        if self._first_line and len(line) >= len(_BOM):
            self._first_line = False
            if line.startswith(_BOM):
                del line[: len(_BOM)]
        if len(line) > 5 and line.startswith(b"data:") and not self._first_line:
            self._add_data(bytes(line[6 if line[5] == 32 else 5 :]))
            self._in_data = True
            line.clear()
        elif len(line) > FIELD_BYTES:
            del line[FIELD_BYTES + 1 :]

    def _end_line(self, chunk: bytes, start: int, stop: int) -> None:
        """Take the end of a line, or a whole one, without the break behind it."""
        if self._in_line:
            self._begin_line(chunk[start:stop])
            line, self._line = bytes(self._line), bytearray()
            in_data, self._in_line, self._in_data = self._in_data, False, False
            if not in_data:
                self._read_line(line, 0, len(line))
        else:
            self._read_line(chunk, start, stop)

    def _read_line(self, text: bytes, start: int, stop: int) -> None:
        """Read a line that is not blank as it stands in the stream."""
        if self._first_line:
            self._first_line = False
            if text.startswith(_BOM, start, stop):
                start += len(_BOM)
        if text.startswith(b"data:", start, stop):
            start += 5
            self._add_data(text[start + 1 if text.startswith(b" ", start, stop) else start : stop])
            return
        name, _, value = text[start : min(stop, start + FIELD_BYTES + 1)].partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add_data(b"")
        elif name == b"event":
            self._type = value
        elif name == b"id":
            if b"\0" not in value and stop - start <= FIELD_BYTES:
                self._id = value
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self.retry = int(value)

    def _add_data(self, value: bytes) -> None:
        """Take a data line, or as much of one as has come."""
        if self._data is None:
            self._data = Bounded(self._max_bytes, self._new_hash)
        else:
            self._data.add(b"\n")
        self._data.add(value)

    def _end_event(self, end: int) -> SseEvent | None:
        """Take a blank line; return the event it completes, if that has data."""
        data, self._data = self._data, None
        type_, self._type = self._type, b""
        id_, self._id = self._id, None
        if id_ is not None:
            self.last_id = id_
        text = data.end() if data is not None else b""
        if not text:
            return None
        size, self._told = end - self._told, end
        return SseEvent(size, end, type_ or MESSAGE, id_, text)
