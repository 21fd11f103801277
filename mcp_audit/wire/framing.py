"""Chunks of a stdio stream in, whole lines out; what of a line too long to deliver can still be said.

Promise: lines, terminators included, and what `finish` returns rebuild the stream, whatever the chunks were. Only 0x0A
ends a line: not CR, not U+2028. Never: decoding, and more memory than one line may have.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.model import Direction, Id, Kind, Message, parse_id
from mcp_audit.wire.strict_json import Event, decode_string, events

__all__ = ["HEAD_BYTES", "TAIL_BYTES", "Bounded", "Hasher", "Line", "LineDecoder", "Oversized", "recover", "recover_id"]

HEAD_BYTES = 65536
TAIL_BYTES = 4096


class Hasher(Protocol):
    """What `hashlib.sha256()` is; one that was fed a salt first makes commitments."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take the next bytes."""
        ...

    def digest(self) -> bytes:
        """Return the hash of all bytes taken."""
        ...


class Oversized(Struct, frozen=True):
    """A line that exceeded the limit and was discarded.

    Attributes:
        size: its bytes, terminator (LF or CRLF) not counted.
        sha256: the hash of these bytes, made by `hasher`.
        head, tail: its first 64 KiB and its last 4 KiB; they overlap in a short one.
        hasher: what `LineDecoder` was given to hash this line.
    """

    size: int
    sha256: bytes
    head: bytes
    tail: bytes
    hasher: Hasher


Line = bytes | Oversized


class _Discarded:
    """A line too long to keep, as its bytes pass by."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._size = 0
        self._head = bytearray()
        self._tail = bytearray()  # not hashed yet: its last byte may prove to be the CR of a terminator

    def add(self, piece: bytes | bytearray) -> None:
        self._size += len(piece)
        if len(self._head) < HEAD_BYTES:
            self._head += piece[: HEAD_BYTES - len(self._head)]
        if len(piece) > TAIL_BYTES:
            self._hasher.update(self._tail)
            self._hasher.update(memoryview(piece)[: -TAIL_BYTES - 1])
            self._tail = bytearray(memoryview(piece)[-TAIL_BYTES - 1 :])
            return
        self._tail += piece
        excess = len(self._tail) - TAIL_BYTES - 1
        if excess > 0:
            self._hasher.update(self._tail[:excess])
            del self._tail[:excess]

    def end(self, terminated: bool) -> Oversized:
        if terminated and self._tail.endswith(b"\r"):
            del self._tail[-1]
            self._size -= 1
        self._hasher.update(self._tail)
        head, tail = bytes(self._head[: self._size]), bytes(self._tail[-TAIL_BYTES:])
        return Oversized(self._size, self._hasher.digest(), head, tail, self._hasher)


class LineDecoder:
    """Split a stream into lines.

    Args:
        max_bytes: of one line, its terminator (LF or CRLF) not counted; a line of exactly this size passes.
        new_hash: called when a line proves too long, to hash it.
    """

    def __init__(self, max_bytes: int, new_hash: Callable[[], Hasher] = hashlib.sha256) -> None:
        self._max_bytes = max_bytes
        self._new_hash = new_hash
        self._unfinished = bytearray()
        self._discarded: _Discarded | None = None

    def feed(self, data: bytes) -> list[Line]:
        """Return the lines that `data` completes, oldest first; a whole line that comes alone is `data` itself."""
        end = data.find(b"\n") + 1
        idle = not self._unfinished and self._discarded is None
        if end == len(data) and idle and 0 < end <= self._max_bytes + 1:
            return [data]
        lines: list[Line] = []
        start = 0
        while end:
            lines.append(self._complete(data[start:end]))
            start, end = end, data.find(b"\n", end) + 1
        if start < len(data):
            self._keep(data[start:])
        return lines

    def finish(self) -> Line | None:
        """Return what the stream ended with instead of a terminated line, if anything."""
        discarded, rest = self._discarded, bytes(self._unfinished)
        self._discarded, self._unfinished = None, bytearray()
        if discarded is None and len(rest) > self._max_bytes:  # a CR that no LF made part of a terminator
            discarded = _Discarded(self._new_hash())
            discarded.add(rest)
        return discarded.end(terminated=False) if discarded is not None else rest or None

    def _complete(self, piece: bytes) -> Line:
        """Return the line that `piece`, which ends with LF, completes."""
        discarded, line = self._discarded, piece
        if discarded is None:
            if self._unfinished:
                self._unfinished += piece
                line, self._unfinished = bytes(self._unfinished), bytearray()
            terminator = 2 if line.endswith(b"\r\n") else 1
            if len(line) - terminator <= self._max_bytes:
                return line
            discarded = _Discarded(self._new_hash())
        self._discarded = None
        discarded.add(line[:-1])
        return discarded.end(terminated=True)

    def _keep(self, piece: bytes) -> None:
        """Hold the beginning of a line back until its end comes."""
        if self._discarded is not None:
            self._discarded.add(piece)
            return
        # Appending is all that a slow trickle costs: what is held here was searched when it came.
        self._unfinished += piece
        excess = len(self._unfinished) - self._max_bytes
        if excess > 1 or (excess == 1 and not self._unfinished.endswith(b"\r")):
            self._discarded = _Discarded(self._new_hash())
            self._discarded.add(self._unfinished)
            self._unfinished = bytearray()


class Bounded:
    """Put one message together that comes in pieces and ends where they end, such as the body of an HTTP request.

    Args:
        max_bytes: of a message that is kept; of a longer one size, hash and both ends are.
        new_hash: called when it proves too long, to hash it.
    """

    def __init__(self, max_bytes: int, new_hash: Callable[[], Hasher] = hashlib.sha256) -> None:
        self._max_bytes = max_bytes
        self._new_hash = new_hash
        self._kept: bytes | bytearray = b""
        self._discarded: _Discarded | None = None

    def add(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._discarded is not None:
            self._discarded.add(piece)
            return
        if not self._kept:
            self._kept = piece
        else:
            # Not a list of pieces: a peer that sends byte by byte would make it many times the size of the message.
            if isinstance(self._kept, bytes):
                self._kept = bytearray(self._kept)
            self._kept += piece
        if len(self._kept) > self._max_bytes:
            self._discarded = _Discarded(self._new_hash())
            self._discarded.add(self._kept)
            self._kept = b""

    @property
    def exceeded(self) -> bool:
        """Whether it is too long already."""
        return self._discarded is not None

    def end(self) -> Line:
        """Return the whole message and keep none of it, or what is known of one too long."""
        if self._discarded is not None:
            return self._discarded.end(terminated=False)
        kept, self._kept = self._kept, b""
        return bytes(kept)


# What follows reads the two ends of a line whose middle is gone: a member counts if its value is seen whole.

_Member = tuple[bytes, bytes]  # name token and value token; the value is empty if it is a container or was cut off

_SPACE = rb"[ \t\n\r]*+"
# Backwards, a string ends at the first quote that no backslash precedes: inside one, every quote has a backslash.
_GNIRTS = rb'"(?:[^"]|"(?=\\))*+"'
_CLOSING = re.compile(
    rb"%(s)b\}((?:%(s)b(?:%(q)b|[0-9A-Za-z+.-]++)%(s)b:%(s)b%(q)b%(s)b[,{])++)" % {b"s": _SPACE, b"q": _GNIRTS}
)


def recover(line: Oversized, direction: Direction) -> Message:
    """Return what the two ends tell of a message: kind, id and method as far as they go, and no content."""
    missing = line.size - len(line.head)
    if missing <= len(line.tail):  # the ends meet, so nothing is gone
        head, tail = _opening_members(line.head + line.tail[len(line.tail) - missing :]), []
    else:
        head, tail = _opening_members(line.head), _closing_members(line.tail)
    names = {_text(name) for name, _ in head + tail}
    methods = {_text(value) for name, value in head + tail if _text(name) == "method" and value.startswith(b'"')}
    if names & {"method", "params"}:
        kind = Kind.REQUEST if "id" in names else Kind.NOTIFICATION
    else:
        kind = Kind.RESPONSE if names & {"result", "error"} else Kind.OPAQUE
    method = methods.pop() if len(methods) == 1 else None
    return Message(b"", direction, kind, _one_id(head, tail), method)


def recover_id(head: bytes, tail: bytes) -> Id | None:
    """Return the id of a message from its first and last bytes, None if they hold none or two that disagree."""
    return _one_id(_opening_members(head), _closing_members(tail))


def _one_id(head: list[_Member], tail: list[_Member]) -> Id | None:
    found: list[Id] = []
    for members in (head, tail):
        values = [value for name, value in members if name == b'"id"']
        if any(_text(name) == "id" for name, _ in members if b"\\" in name) or len(values) > 1:
            return None  # one reader takes the first, another the last, a third sees one only
        id_ = parse_id(values[0]) if values and values[0] else None
        if values and id_ is None:
            return None
        if id_ is not None:
            found.append(id_)
    return found[0] if found and all(id_.key == found[0].key for id_ in found) else None


def _opening_members(head: bytes) -> list[_Member]:
    """Return the top-level members that begin in `head`, the beginning of a text."""
    members: list[_Member] = []
    level, name = 0, b""
    try:
        for event, start, end in events(head, max_depth=len(head)):
            if event is Event.KEY:
                if level == 1:
                    name = head[start:end]
            elif event is Event.OBJECT_START or event is Event.ARRAY_START:
                if level == 0 and event is Event.ARRAY_START:
                    return []
                if level == 1:
                    members.append((name, b""))
                    name = b""
                level += 1
            elif event is Event.OBJECT_END or event is Event.ARRAY_END:
                level -= 1
            elif level == 1:
                # A number at the very end may go on behind the cut.
                whole = event is Event.STRING or head[end : end + 1] in (b",", b"}", b" ", b"\t", b"\r", b"\n")
                members.append((name, head[start:end] if whole else b""))
                name = b""
    except NotStrictJson:
        if level == 1 and name:
            members.append((name, b""))
    return members


def _closing_members(tail: bytes) -> list[_Member]:
    """Return the scalar members that close the object whose text ends with `tail`."""
    found = _CLOSING.match(tail[::-1])
    if found is None:
        return []
    return _opening_members(b"{" + found[1][::-1][1:] + b"}")


def _text(token: bytes) -> str:
    return decode_string(token.decode(errors="replace").encode())
