"""A block of an index: up to `ROWS` lines of a log as columns of one byte a line, and what their codes stand for.

Pure. A code names a value of the block's own list; 0 is absent, `OTHER` is "read the line". The outcome of a request is
`open`, that of its `orphan`, or 0 once an exchange line closed it; a line with outcome 0 is never shown by itself.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mcp_audit.ledger.reading.filters import Filter
from mcp_audit.ledger.reading.lines import COLUMNS, Facts

__all__ = ["OPEN", "OTHER", "OUTCOME", "REQUEST", "ROWS", "WIDTH", "Block", "Columns", "IndexBroken"]

ROWS = 4096
OTHER = 255
OPEN = b"open"
OUTCOME = COLUMNS.index("outcome")
REQUEST = len(COLUMNS)  # the column that is 1 for requests
WIDTH = REQUEST + 1


class IndexBroken(Exception):
    """The index cannot be used; the message says why. It costs time, never an entry."""


@dataclass(slots=True)
class Columns:
    """The lines of one block, in order.

    Attributes:
        offsets: of each line, from the block's beginning.
        codes: for each of `COLUMNS` one byte a line; and one that is 1 for requests.
        seqs: of each line (-1 if it has none); None if they go up by one from the block's `first`.
    """

    offsets: array[int]
    codes: list[bytearray]
    seqs: array[int] | None = None

    def row_of(self, seq: int, first: int) -> int | None:
        """Return where the line with this seq stands."""
        if self.seqs is None:
            row = seq - first
            return row if 0 <= row < len(self.offsets) else None
        return self.seqs.index(seq) if seq in self.seqs else None

    def pack(self) -> bytes:
        """Return the bytes that an index file keeps."""
        parts: list[bytes | bytearray] = [
            struct.pack("<IB", len(self.offsets), self.seqs is not None),
            _little(self.offsets),
            *self.codes,
        ]
        return zlib.compress(b"".join([*parts, b"" if self.seqs is None else _little(self.seqs)]), 1)

    @classmethod
    def unpack(cls, data: bytes) -> Columns:
        """Return what was packed.

        Raises:
            IndexBroken: it was not packed like this.
        """
        try:
            data = zlib.decompress(data)
            count, has_seqs = struct.unpack_from("<IB", data)
            offsets = _from_little("I", data[5 : 5 + 4 * count])
            place = 5 + 4 * count
            codes = [bytearray(data[place + n * count : place + (n + 1) * count]) for n in range(WIDTH)]
            seqs = _from_little("q", data[place + WIDTH * count :]) if has_seqs else None
        except (zlib.error, struct.error, ValueError) as error:
            raise IndexBroken("a block cannot be unpacked") from error
        if any(len(column) != count for column in (offsets, *codes, *([seqs] if seqs is not None else []))):
            raise IndexBroken("a block has the wrong length")
        return cls(offsets, codes, seqs)


def _little(values: array[int]) -> bytes:
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def _from_little(code: str, data: bytes) -> array[int]:
    values = array(code, data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


@dataclass(slots=True)
class Block:
    """What the directory says about one block.

    Attributes:
        begin, end: the bytes of the log it is about.
        rows: how many lines.
        first, last: smallest and largest seq; -1 of none.
        since, until: smallest and largest timestamp.
        names: for each of `COLUMNS` the values that the codes 1, 2, ... stand for.
        others: bit n is set if some line has the code "read the line" in column n.
        crc: CRC-32 of the file up to `end`.
        position, size, digest: where its columns are in the index file, and the first half of their SHA-256, hex.
        columns, data: the columns, and packed, while they are not in the file.
    """

    begin: int
    end: int
    rows: int
    first: int
    last: int
    since: str
    until: str
    names: list[list[str]]
    others: int = 0
    crc: int = 0
    position: int = -1
    size: int = 0
    digest: str = ""
    columns: Columns | None = None
    data: bytes | None = None

    @property
    def full(self) -> bool:
        """Whether the file's next line begins another block."""
        return self.rows >= ROWS

    def to_json(self) -> list[Any]:
        """Return the members up to `digest`, in order."""
        span = [self.begin, self.end, self.rows, self.first, self.last, self.since, self.until]
        return [*span, self.names, self.others, self.crc, self.position, self.size, self.digest]

    def check(self) -> None:
        """Raise IndexBroken or TypeError unless the members can be worked with."""
        numbers = (
            self.begin,
            self.end,
            self.rows,
            self.first,
            self.last,
            self.others,
            self.crc,
            self.position,
            self.size,
        )
        if any(type(number) is not int for number in numbers) or self.end <= self.begin or not 0 < self.rows <= ROWS:
            raise IndexBroken("a block is out of range")
        texts = [self.since, self.until, self.digest, *(name for names in self.names for name in names)]
        if any(type(text) is not str for text in texts):
            raise IndexBroken("a name is no text")
        if len(self.names) != len(COLUMNS) or any(len(names) >= OTHER for names in self.names):
            raise IndexBroken("a block has too many names")

    def value(self, column: int, code: int) -> bytes | None:
        """Return the value a code stands for, None for 0.

        Raises:
            IndexBroken: the code stands for none.
        """
        if code > len(self.names[column]):
            raise IndexBroken("a code stands for nothing")
        return self.names[column][code - 1].encode("utf-8", "surrogatepass") if code else None

    def agrees(self, columns: Columns, row: int, known: Facts | None) -> bool:
        """Say whether a row is about a line; how a request ended, the line itself cannot tell.

        Raises:
            IndexBroken: a code stands for nothing.
        """
        codes = [column[row] for column in columns.codes]
        if known is None:
            return not any(codes)
        shown = not known.kind or (known.kind == b"orphan" and known.of is None)
        request = known.kind == b"request"
        if (
            codes[REQUEST] != request
            or (codes[OUTCOME] and not shown and not request)
            or (shown and not codes[OUTCOME])
        ):
            return False
        values = range(OUTCOME if request or not shown else len(COLUMNS))
        return all(codes[n] == OTHER or self.value(n, codes[n]) == known.values[n] for n in values)

    def may_match(self, wanted: Filter) -> bool:
        """Say whether a line in it can be wanted, by time and names."""
        return wanted.overlaps(self.since, self.until) and all(any(self._passing(wanted, n)) for n in wanted.named)

    def _passing(self, wanted: Filter, column: int) -> bytes:
        """Return a table from code to 1 if such a line may be wanted, else 0. What is absent never is."""
        table = bytearray(256)
        for code, name in enumerate(self.names[column], 1):
            value = name.encode("utf-8", "surrogatepass")
            # What was open when the index was made may have ended in any way since.
            table[code] = wanted.fits(column, value) or (column == OUTCOME and value == OPEN)
        table[OTHER] = self.others >> column & 1
        return bytes(table)

    def candidates(self, columns: Columns, wanted: Filter) -> Iterator[int]:
        """Yield the rows that may be wanted, last one first."""
        mask = int.from_bytes(columns.codes[OUTCOME].translate(_NOT_ZERO), "big")
        for column in wanted.named:
            mask &= int.from_bytes(columns.codes[column].translate(self._passing(wanted, column)), "big")
        found = mask.to_bytes(self.rows, "big")
        row = found.rfind(1)
        while row >= 0:
            yield row
            row = found.rfind(1, 0, row)


_NOT_ZERO = bytes(code != 0 for code in range(256))
