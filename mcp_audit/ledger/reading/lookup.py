"""Find lines of a JSONL log through its index, newest first.

Promise: a line comes out only if it is what the index says of it; the first that is not, or a random one that is not,
ends the use of the index with `IndexBroken`, and the caller goes on without. Reads the log; the index file is written
only if the caller asked for that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, NamedTuple

from mcp_audit.ledger.reading.blocks import OTHER, OUTCOME, Block, Columns, IndexBroken
from mcp_audit.ledger.reading.filters import Filter
from mcp_audit.ledger.reading.index import Index, Section
from mcp_audit.ledger.reading.indexing import Progress, fits, matching_index, refreshed_index
from mcp_audit.ledger.reading.lines import Facts, facts
from mcp_audit.ledger.reading.segment_stream import files_of
from mcp_audit.ledger.segment_files import SegmentFile

__all__ = ["Hit", "Lookup", "Use"]

Use = Literal["none", "use", "keep"]

# What is read without an index before one is made, or brought up to date: frequent names are found sooner that way.
_UNINDEXED = 8 << 20
_BEHIND = 1 << 20
_SAMPLED_BLOCKS = 2
_SAMPLED_ROWS = 8


class Hit(NamedTuple):
    """A line that may be wanted: where it begins, its bytes, what it says, and the outcome an open request got."""

    offset: int
    raw: bytes
    known: Facts
    outcome: bytes | None


@dataclass(slots=True)
class Lookup:
    """The index of one log during one query. Close it.

    Attributes:
        path: of the log.
        use: `use` what there is, or also `keep` it up to date.
        end: `start` and size of the newest file when the query began; set by who reads it.
    """

    path: str
    wanted: Filter
    use: Use
    on_progress: Progress | None = None
    end: tuple[int, int] | None = None
    _index: Index | None = None
    refreshed: bool = False

    def begin(self) -> None:
        """Look for an index. Do this before the log's size is taken: it is then never ahead of it.

        Raises:
            CannotLook: the log cannot be read.
            IndexBroken: there is one that cannot be used.
        """
        try:
            files = files_of(self.path)
            if files:
                self._index = matching_index(self.path, files)
        except IndexBroken:
            if self.use != "keep":
                raise

    def close(self) -> None:
        """Let go of the index file."""
        if self._index is not None:
            self._index.close()
            self._index = None

    def worth_refreshing(self, unindexed: int) -> bool:
        """Say whether it is time to make the index, or bring it up to date, after so many bytes were read without."""
        return self.use == "keep" and not self.refreshed and unindexed > (_BEHIND if self._index else _UNINDEXED)

    def refresh(self) -> None:
        """Make the index cover the log up to where the query began.

        Raises:
            CannotLook: the log cannot be read.
            IndexBroken: the index cannot be replaced.
        """
        assert self.end is not None
        self.refreshed = True
        old, self._index = self._index, None
        self._index = refreshed_index(self.path, old, self.end, self.on_progress)

    def section(self, segment: SegmentFile, stream: BinaryIO) -> Section | None:
        """Return what is known about a file, None if nothing."""
        section = self._index.sections.get(segment.start) if self._index else None
        return section if section is not None and fits(section, segment, stream) else None

    def blocks(self, section: Section, below: int, before: int | None, after: int | None) -> list[Block]:
        """Return the blocks in which a line may be wanted, newest first.

        Args:
            below: only lines that begin before this offset.
            before, after: only lines with a seq between these, both excluded.
        """
        return [
            block
            for block in reversed(section.blocks)
            if block.begin < below
            and (before is None or block.first < before)
            and (after is None or block.last > after)
            and block.may_match(self.wanted)
        ]

    def hits(self, blocks: list[Block], stream: BinaryIO, below: int) -> Iterator[Hit]:
        """Yield the lines in blocks that may be wanted and begin before the offset `below`, last one first.

        Raises:
            IndexBroken: a line is not what the index says.
        """
        assert self._index is not None
        for block in blocks:
            columns = self._index.columns(block)
            for row in block.candidates(columns, self.wanted):
                if block.begin + columns.offsets[row] < below:
                    yield _line(block, columns, row, stream)

    def sample(self, section: Section, stream: BinaryIO) -> None:
        """Compare a few random lines with the index.

        Raises:
            IndexBroken: one is not what the index says.
        """
        assert self._index is not None
        for block in random.sample(section.blocks, min(_SAMPLED_BLOCKS, len(section.blocks))):
            columns = self._index.columns(block)
            for row in random.sample(range(block.rows), min(_SAMPLED_ROWS, block.rows)):
                _read(block, columns, row, stream)


def _line(block: Block, columns: Columns, row: int, stream: BinaryIO) -> Hit:
    raw, known = _read(block, columns, row, stream)
    if known is None:
        raise IndexBroken("a line is not what it says")
    code = columns.codes[OUTCOME][row]
    outcome = block.value(OUTCOME, code) if known.kind == b"request" and code != OTHER else None
    return Hit(block.begin + columns.offsets[row], raw, known, outcome)


def _read(block: Block, columns: Columns, row: int, stream: BinaryIO) -> tuple[bytes, Facts | None]:
    begin = block.begin + columns.offsets[row]
    end = block.begin + columns.offsets[row + 1] if row + 1 < block.rows else block.end
    if not block.begin <= begin < end <= block.end:
        raise IndexBroken("its offsets do not go up")
    stream.seek(begin)
    raw = stream.read(end - begin)
    if raw.find(b"\n") != end - begin - 1:
        raise IndexBroken("a line does not begin where it says")
    raw = raw[:-1]
    known = facts(raw) if raw else None
    if not block.agrees(columns, row, known):
        raise IndexBroken("a line is not what it says")
    return raw, known
