"""The index beside a JSONL log: which lines of which block have which names, so that a query reads only those.

It speeds queries up and proves nothing. A verifier never reads it. A query checks every line it was led to against the
line itself, and a few random ones besides; an index that does not fit its log is dropped, and the log read without it.
What this cannot show is an index rewritten with care to leave lines out: who wants certainty reads without it.

The file: a magic line, the packed columns of each block, then the directory (zlib, JSON) and a trailer of its length
and SHA-256. A block covers up to `ROWS` lines: offsets, and per column of `COLUMNS` one byte a line that names a value
of the block's own list; 0 is absent, 255 is "read the line". A request's outcome is `open`, that of its `orphan`, or 0
once an exchange line closed it. Reading costs the directory and the blocks that can match.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from mcp_audit.ledger.reading.blocks import Block, Columns, IndexBroken

__all__ = ["Index", "IndexBroken", "Section", "load", "store"]

_MAGIC = b"mcp-audit index 1\n"
_TRAILER = struct.Struct("<QQ32s")  # offset and length of the directory, SHA-256 of everything but this trailer's hash
_MAX_DIRECTORY = 1 << 28


@dataclass(slots=True)
class Section:
    """What the directory says about one file of the log.

    Attributes:
        start, first_leaf: seq and leaf hash (hex) of its first line.
        covered: how many bytes of it the blocks cover, whole lines all.
        last, last_leaf: offset and leaf hash (hex) of the last line that is covered.
    """

    start: int
    first_leaf: str
    covered: int = 0
    last: int = 0
    last_leaf: str = ""
    blocks: list[Block] = field(default_factory=list)

    def to_json(self) -> list[Any]:
        """Return the members as `from_json` takes them."""
        own = [self.start, self.first_leaf, self.covered, self.last, self.last_leaf]
        return [*own, [block.to_json() for block in self.blocks]]

    @classmethod
    def from_json(cls, value: list[Any]) -> Section:
        """Return what `to_json` gave; of anything else a TypeError or a section that fails `check`."""
        start, first_leaf, covered, last, last_leaf, blocks = value
        return cls(start, first_leaf, covered, last, last_leaf, [Block(*block) for block in blocks])

    def check(self) -> None:
        """Raise IndexBroken or TypeError unless the blocks follow each other without a hole and are sound."""
        end = 0
        for block in self.blocks:
            block.check()
            if block.begin != end:
                raise IndexBroken("its blocks do not join")
            end = block.end
        if end != self.covered or not 0 <= self.last < max(end, 1):
            raise IndexBroken("its blocks do not cover what it says")


class Index:
    """An index in memory or in a file; columns are read when they are asked for.

    Attributes:
        origin: the log it is about.
        sections: of its files, by `start`.
    """

    def __init__(self, origin: str, sections: dict[int, Section] | None = None, file: BinaryIO | None = None) -> None:
        self.origin = origin
        self.sections = sections or {}
        self._file = file

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, the oldest first."""
        for start in sorted(self.sections):
            yield from self.sections[start].blocks

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def columns(self, block: Block) -> Columns:
        """Return the lines of a block.

        Raises:
            IndexBroken: they are not what the directory says.
        """
        if block.columns is not None:
            return block.columns
        columns = Columns.unpack(self.packed(block))
        if len(columns.offsets) != block.rows:
            raise IndexBroken("a block has the wrong length")
        return columns

    def packed(self, block: Block) -> bytes:
        """Return the bytes of a block's columns as they are in the file."""
        if block.columns is not None:
            return block.columns.pack()
        if block.data is not None:
            return block.data
        if self._file is None:
            raise IndexBroken("it was closed")
        try:
            self._file.seek(block.position)
            data = self._file.read(block.size)
        except (OSError, ValueError, OverflowError, MemoryError) as error:
            raise IndexBroken("a block is not where it says") from error
        if _digest(data) != block.digest:
            raise IndexBroken("a block was changed")
        return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def load(path: str, owners: set[int]) -> Index | None:
    """Open an index file, or return None if there is none. The caller closes it.

    Args:
        owners: user ids whose index is believed at all.

    Raises:
        IndexBroken: it is no index, damaged, a symbolic link, or may be written by others.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb", buffering=0)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IndexBroken(error.strerror or str(error)) from error
    try:
        _require_private(os.fstat(file.fileno()), owners)
        origin, sections = _directory(file)
    except BaseException:
        file.close()
        raise
    return Index(origin, sections, file)


def _require_private(found: os.stat_result, owners: set[int]) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise IndexBroken("it is no regular file")
    if os.name != "nt" and (found.st_uid not in owners or found.st_mode & 0o022 or found.st_nlink != 1):
        raise IndexBroken("others could have written it")


def _directory(file: BinaryIO) -> tuple[str, dict[int, Section]]:
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TRAILER.size))
        position, length, digest = _TRAILER.unpack(file.read(_TRAILER.size))
        if position + length + _TRAILER.size != size or length > _MAX_DIRECTORY:
            raise IndexBroken("it was cut off")
        file.seek(0)
        magic = file.read(len(_MAGIC))
        file.seek(position)
        packed = file.read(length)
        if magic != _MAGIC or hashlib.sha256(magic + packed + struct.pack("<Q", position)).digest() != digest:
            raise IndexBroken("it was changed, or is of another version")
        value = json.loads(zlib.decompress(packed))
        sections = {section.start: section for section in map(Section.from_json, value["sections"])}
        origin: str = value["origin"]
        for section in sections.values():
            section.check()
    except (OSError, struct.error, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IndexBroken("it is no index") from error
    return origin, sections


def store(index: Index, path: str) -> Index:
    """Write an index file, whole or not at all, readable by its owner only, and return the index as it is in the file.

    Not synced: after a power cut its hash does not fit, and it is made again.

    Raises:
        OSError: it cannot be written here.
        IndexBroken: a block it is extended from was changed, or something else than a file stands at its name.
    """
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise IndexBroken("it is no regular file")
    except FileNotFoundError:
        pass  # the first one
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp-{secrets.token_hex(8)}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o600)
    file = os.fdopen(descriptor, "w+b")
    try:
        _write(index, file)
        file.flush()
        os.replace(temporary, path)
    except BaseException:
        file.close()
        os.unlink(temporary)
        raise
    return Index(index.origin, index.sections, file)


def _write(index: Index, file: BinaryIO) -> None:
    position = file.write(_MAGIC)
    for block in index.blocks():
        data = index.packed(block)
        block.position, block.size, block.digest = position, len(data), _digest(data)
        block.columns = block.data = None
        position += file.write(data)
    sections = [section.to_json() for section in index.sections.values()]
    directory = zlib.compress(json.dumps({"origin": index.origin, "sections": sections}).encode(), 1)
    file.write(directory)
    digest = hashlib.sha256(_MAGIC + directory + struct.pack("<Q", position)).digest()
    file.write(_TRAILER.pack(position, len(directory), digest))
