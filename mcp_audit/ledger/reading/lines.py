"""Lines of a file, from its beginning or from its end, and what a line says about itself without being parsed.

Reads only. Memory is one block and one line; a line is split at LF alone and comes without it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from mcp_audit.ledger.evidence import CannotLook, chunks

__all__ = ["COLUMNS", "Facts", "facts", "lines_backward", "lines_forward", "lines_of", "stretches_backward"]

# What an entry can be looked up by. The order is that of `Facts.values` and of the columns of an index.
COLUMNS = ("method", "tool_name", "client_id", "server_id", "outcome")

_BLOCK = 1 << 16
_TYPED = b'{"type":"'
_TAIL = re.compile(rb',"log":"[^"\\]*","seq":([0-9]{1,19}),"prev":"[0-9a-f]{64}"(?:,"mac":"[0-9a-f]{64}")?\}\Z')
_LOG = b',"log":"'
_OF = b',"of":'
_HEAD = re.compile(
    rb'\{(?:"type":"request",)?"id":"[^"\\]*","timestamp":"([^"\\]*)","direction":"[a-z_]*","transport":"[a-z]*",'
    rb'"method":"([^"\\]*)"(?:,"request_id":"[^"\\]*")?(?:,"tool_name":"([^"\\]*)")?'
    rb',"(?:params|result|error|duration_ms|client_id)":'
)
_FOOT = re.compile(rb',"client_id":"([^"\\]*)","server_id":"([^"\\]*)"(?:,"outcome":"([a-z_]*)")?[,}]')
_CLIENT = b',"client_id":"'
_OUTCOME = re.compile(rb'"outcome":"([a-z_]*)"')


class Facts(NamedTuple):
    """What is known of a line of the ledger.

    Attributes:
        kind: its type; empty for an exchange, and for a line whose end is not that of a sealed line.
        seq, of: its place, and that of the line it closes.
        values: as `COLUMNS`, in UTF-8; None for what is absent or no text.
    """

    kind: bytes
    seq: int
    of: int | None
    values: tuple[bytes | None, ...]


def facts(raw: bytes) -> Facts | None:
    """Return what a line says, or None if it is none.

    The fast way leans on the order of members in which entries are written; whatever looks different is parsed.
    """
    end = raw.rfind(_LOG)
    tail = _TAIL.match(raw, end) if end > 0 else None
    if tail is None:
        return _parsed(raw, b"", None)
    seq, of = int(tail[1]), _of(raw, end)
    kind = raw[len(_TYPED) : raw.find(b'"', len(_TYPED))] if raw.startswith(_TYPED) else b""
    if kind and kind != b"request" and (kind != b"orphan" or of is not None):
        outcome = _outcome_of_orphan(raw) if kind == b"orphan" else None
        return Facts(kind, seq, of, (None, None, None, None, outcome))
    head = _HEAD.match(raw)
    foot = _FOOT.match(raw, raw.rfind(_CLIENT)) if head else None
    if head and foot:
        return Facts(kind, seq, of, (head[2], head[3], foot[1], foot[2], foot[3]))
    known = _parsed(raw, kind, of)
    if known is not None and kind == b"orphan":
        known = known._replace(values=(*known.values[:-1], _outcome_of_orphan(raw)))
    return known


def _of(raw: bytes, end: int) -> int | None:
    """Return the seq in `"of"`, which stands right before the place `end` or nowhere."""
    begin = raw.rfind(_OF, max(0, end - 25), end)
    digits = raw[begin + len(_OF) : end] if begin >= 0 else b""
    return int(digits) if digits.isdigit() else None


def _outcome_of_orphan(raw: bytes) -> bytes:
    found = _OUTCOME.search(raw, 0, 200)
    return found[1] if found else b"lost"


def _parsed(raw: bytes, kind: bytes, of: int | None) -> Facts | None:
    try:
        line = json.loads(raw)
        seq = line["seq"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(seq, int):
        return None
    return Facts(kind, seq, of, tuple(_utf8(line.get(name)) for name in COLUMNS))


def _utf8(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None


def lines_forward(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file from where it stands; the last one may be incomplete."""
    parts: list[bytes] = []
    for chunk in chunks(file):
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        if rest:
            yield b"".join(parts)
            parts = [rest.pop()]
            yield from rest
    if any(parts):
        yield b"".join(parts)


def lines_of(file: BinaryIO, begin: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of every line that has its LF, from the line that begins at `begin`."""
    file.seek(begin)
    parts: list[bytes] = []
    for chunk in chunks(file):
        *lines, last = chunk.split(b"\n")
        for line in lines:
            if parts:
                line = b"".join([*parts, line])
                parts.clear()
            yield begin, line
            begin += len(line) + 1
        if last:
            parts.append(last)


def lines_backward(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a seekable file, last one first; reads blocks from its end."""
    for _, line in stretches_backward(file, file.seek(0, os.SEEK_END)):
        yield line


def stretches_backward(file: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of the lines in the first `end` bytes of a seekable file, last one first."""
    position = end
    parts: list[bytes] = []  # of the line whose beginning has not been read yet, last part first
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        pieces = _exactly(file, size).split(b"\n")
        parts.append(pieces.pop())
        if pieces:
            line = b"".join(reversed(parts))
            parts = [pieces[0]]
            end -= len(line)
            yield end, line
            for piece in reversed(pieces[1:]):
                end -= len(piece) + 1
                yield end, piece
            end -= 1
    if parts:
        yield 0, b"".join(reversed(parts))


def _exactly(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or what there is: an unbuffered read may stop early.

    Raises:
        CannotLook: the disk does not let us.
    """
    try:
        data = file.read(size)
        while len(data) < size and (more := file.read(size - len(data))):
            data += more
    except OSError as error:
        raise CannotLook(str(file.name), f"cannot be read: {error}") from error
    return data
