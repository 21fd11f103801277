"""Make an index and keep it up to date: read what the log gained, and settle how the open requests ended.

Promise: what is written describes whole lines of the log as they were read, no more. Never writes anything but the
index file, and that only beside a log of ours; a log that cannot be indexed is a log without an index.
"""

from __future__ import annotations

import bisect
import os
import stat
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from mcp_audit.ledger.merkle import leaf_hash
from mcp_audit.ledger.reading.blocks import OTHER, OUTCOME, Block
from mcp_audit.ledger.reading.index import Index, IndexBroken, Section, load, store
from mcp_audit.ledger.reading.lines import facts, lines_of
from mcp_audit.ledger.reading.open_block import OpenBlock, settle
from mcp_audit.ledger.reading.segment_stream import files_of, opened
from mcp_audit.ledger.regular import open_regular
from mcp_audit.ledger.segment_files import SegmentFile

__all__ = ["INDEX_SUFFIX", "Progress", "discard_index", "fits", "matching_index", "refreshed_index"]

INDEX_SUFFIX = ".index"
_LAG = 2  # blocks kept unpacked, because answers come soon after their requests
Progress = Callable[[str, int, int], None]


def matching_index(path: str, files: list[SegmentFile]) -> Index | None:
    """Open the index beside a log if there is one for this log. The caller closes it.

    Raises:
        IndexBroken: there is one, but not to be used; the message says why.
    """
    index = load(path + INDEX_SUFFIX, _owners(files))
    if index is not None and index.origin != _origin(files):
        index.close()
        raise IndexBroken("it belongs to another log")
    return index


def refreshed_index(
    path: str, index: Index | None, end: tuple[int, int], on_progress: Progress | None = None
) -> Index | None:
    """Return an index that covers all whole lines up to `end`, stored beside the log.

    Args:
        end: `start` of the newest file to look at, and how many bytes of it: what was added since, a query that is
            under way has not seen.
        index: what `matching_index` found; closed, unless it is returned.
        on_progress: told `index`, bytes done, and bytes in all.

    Returns:
        What it was where none can be kept: making one only to forget it costs more than reading the log.

    Raises:
        CannotLook: the log cannot be read.
        IndexBroken: the index to be extended was changed, or stands on something that is no file.
    """
    files = files_of(path)
    if not _may_keep(path, files):
        return index
    try:
        builder = _Builder(index or Index(_origin(files)))
        builder.take(files, end, on_progress)
        return store(builder.index, path + INDEX_SUFFIX)
    except OSError:  # a full disk, a folder that is only for reading
        return None
    finally:
        if index is not None:
            index.close()


def discard_index(path: str) -> None:
    """Remove the index of a log, so that the next query makes a new one; leave what is no file."""
    try:
        if stat.S_ISREG(os.lstat(path + INDEX_SUFFIX).st_mode):
            os.unlink(path + INDEX_SUFFIX)
    except OSError:  # it is not ours to remove
        return


def _origin(files: list[SegmentFile]) -> str:
    return files[-1].origin


def _owners(files: list[SegmentFile]) -> set[int]:
    owners = {os.geteuid()} if hasattr(os, "geteuid") else set()
    try:
        return owners | {os.stat(files[-1].path).st_uid}
    except OSError:  # renamed at this moment
        return owners


def _may_keep(path: str, files: list[SegmentFile]) -> bool:
    """Say whether an index of ours belongs here: the folder is writable and the log ours, not one we look into."""
    try:
        ours = not hasattr(os, "geteuid") or os.stat(files[-1].path).st_uid == os.geteuid()
    except (OSError, IndexError):  # renamed at this moment, or gone
        return False
    return ours and os.access(os.path.dirname(path) or ".", os.W_OK) and all(file.start >= 0 for file in files)


def fits(section: Section, segment: SegmentFile, stream: BinaryIO) -> bool:
    """Say whether a file begins with what a section is about, by first and last covered line, or its whole CRC."""
    if section.start != segment.start or section.first_leaf != leaf_hash(segment.first_line).hex():
        return False
    if segment.gz:
        return _gzip_trailer(segment.path) == (
            section.blocks[-1].crc if section.blocks else 0,
            section.covered & 0xFFFFFFFF,
        )
    stream.seek(section.last)
    size = section.covered - section.last
    line = stream.read(size)
    return len(line) == size and line.endswith(b"\n") and leaf_hash(line[:-1]).hex() == section.last_leaf


def _gzip_trailer(path: str) -> tuple[int, int] | None:
    """Return CRC-32 and length (modulo 2**32) of a gzip file's content, as it ends with. Source: RFC 1952."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
            data = file.read(8)
    except OSError:  # renamed at this moment: then no section is known to fit
        return None
    return struct.unpack("<II", data) if len(data) == 8 else None


def _report(on_progress: Progress | None, before: int, total: int, done: int) -> None:
    if on_progress is not None:
        on_progress("index", before + done, total)


class _Builder:
    """Extends the sections of an index to the ends of their files."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._progress: Callable[[int], None]
        self._starts: list[int] = []  # of the sections, for finding a request that is answered much later
        self._late: dict[tuple[int, int], dict[int, bytes]] = {}  # changes of packed blocks, made all at once

    def take(self, files: list[SegmentFile], end: tuple[int, int], on_progress: Progress | None) -> None:
        """Bring every section up to date, the oldest first, and drop those whose files are gone.

        Args:
            end: the newest file to look at, and how many bytes of it.
        """
        known, self.index.sections = self.index.sections, {}
        total = sum(file.size for file in files)
        done = 0
        for file in files:
            if file.start > end[0]:
                break
            with opened(file) as stream:
                section = known.get(file.start)
                if section is None or not fits(section, file, stream):
                    section = Section(file.start, leaf_hash(file.first_line).hex())
                self.index.sections[file.start] = section
                self._starts = sorted(self.index.sections)
                if not (file.gz and section.blocks):
                    self._progress = partial(_report, on_progress, done, total)
                    self._extend(section, stream, end[1] if file.start == end[0] else None)
            done += file.size
        for (start, place), outcomes in self._late.items():
            self._change(self.index.sections[start].blocks[place], outcomes)

    def _extend(self, section: Section, stream: BinaryIO, end: int | None) -> None:
        if section.blocks and not section.blocks[-1].full:
            section.covered = section.blocks.pop().begin
        crc = section.blocks[-1].crc if section.blocks else 0
        block = OpenBlock(section.covered)
        last = None
        for offset, raw in lines_of(stream, section.covered):
            if end is not None and offset + len(raw) >= end:
                break
            if block.full(offset + len(raw)):
                self._shut(section, block, offset, crc)
                block = OpenBlock(offset)
                self._progress(offset)
            self._line(section, block, offset, raw)
            crc = zlib.crc32(b"\n", zlib.crc32(raw, crc))
            last = (offset, raw)
        if last is not None:
            section.last, section.last_leaf = last[0], leaf_hash(last[1]).hex()
            section.covered = last[0] + len(last[1]) + 1
            self._shut(section, block, section.covered, crc)

    def _line(self, section: Section, block: OpenBlock, offset: int, raw: bytes) -> None:
        known = facts(raw) if raw else None
        block.add(offset, raw, known)
        if known is None or known.of is None or known.kind not in (b"", b"orphan"):
            return
        outcome = (known.values[OUTCOME] or b"") if known.kind else b""
        if not block.close(known.of, outcome):
            self._close_earlier(section, known.of, outcome)

    def _close_earlier(self, section: Section, seq: int, outcome: bytes) -> None:
        at = bisect.bisect_right(self._starts, seq) - 1
        home = self.index.sections[self._starts[at]] if at >= 0 else section
        place = bisect.bisect_right(home.blocks, seq, key=lambda block: block.first) - 1
        if place < 0:
            return  # its line was pruned
        if home.blocks[place].columns is not None:
            self._change(home.blocks[place], {seq: outcome})
            return
        late = self._late.setdefault((home.start, place), {})
        if late.get(seq) != b"":
            late[seq] = outcome

    def _shut(self, section: Section, block: OpenBlock, end: int, crc: int) -> None:
        section.blocks.append(block.finished(end, crc))
        section.covered = end
        if len(section.blocks) > _LAG:
            old = section.blocks[-1 - _LAG]
            if old.columns is not None:
                old.data, old.columns = old.columns.pack(), None

    def _change(self, block: Block, outcomes: dict[int, bytes]) -> None:
        columns = self.index.columns(block)
        for seq, outcome in outcomes.items():
            row = columns.row_of(seq, block.first)
            if row is not None:
                settle(columns.codes, row, outcome, lambda name: _code_in(block, name))
        if block.columns is None:
            block.data = columns.pack()


def _code_in(block: Block, outcome: bytes) -> int:
    """Return the code of an outcome in a finished block, which may gain one."""
    names = block.names[OUTCOME]
    text = outcome.decode()
    if text not in names:
        if len(names) >= OTHER - 1:
            block.others |= 1 << OUTCOME
            return OTHER
        names.append(text)
    return names.index(text) + 1
