"""A block of an index while lines are added to it.

Pure. A request is open until a later line closes it; whatever is too long or too many to have a code is `OTHER`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable

from mcp_audit.ledger.reading import blocks
from mcp_audit.ledger.reading.blocks import OPEN, OTHER, OUTCOME, REQUEST, WIDTH, Block, Columns
from mcp_audit.ledger.reading.lines import COLUMNS, Facts

__all__ = ["OpenBlock", "settle"]

_MAX_NAME = 200  # bytes of a value worth a code; a client that invents long ones does not make the index large
_MAX_BLOCK_BYTES = 1 << 28  # offsets have 32 bits
_TIMESTAMP = re.compile(rb'"timestamp":"([^"]*)"')
_NO_TIME = ("", "\x7f")  # a line without a readable time may be of any


class OpenBlock:
    """A block while lines are added."""

    def __init__(self, begin: int) -> None:
        self.begin = begin
        self.offsets: array[int] = array("I")
        self._seqs: array[int] = array("q")
        self._rows: dict[int, int] = {}
        self._codes = [bytearray() for _ in range(WIDTH)]
        self._names: list[dict[bytes, int]] = [{} for _ in COLUMNS]
        self._others = 0
        self._times: list[str] = []

    def full(self, end: int) -> bool:
        """Say whether a line that ends at `end` belongs to the next block."""
        return len(self.offsets) >= blocks.ROWS or (bool(self.offsets) and end - self.begin > _MAX_BLOCK_BYTES)

    def add(self, offset: int, raw: bytes, known: Facts | None) -> None:
        """Add a line; `known` is None for one that cannot be read."""
        row = len(self.offsets)
        self.offsets.append(offset - self.begin)
        self._time(raw)
        if known is None:
            self._seqs.append(-1)
            for codes in self._codes:
                codes.append(0)
            return
        self._seqs.append(known.seq)
        self._rows[known.seq] = row
        for column, value in enumerate(known.values):
            self._codes[column].append(self._code(column, value))
        self._codes[REQUEST].append(known.kind == b"request")
        self._codes[OUTCOME][row] = self._shown(known)

    def _shown(self, known: Facts) -> int:
        """Return the code of the outcome with which a line is shown, 0 if it is not."""
        if known.kind == b"request":
            return self._code(OUTCOME, OPEN)
        if known.kind and (known.kind != b"orphan" or known.of is not None):
            return 0
        # A line that says no outcome is shown unless one is asked for.
        return self._code(OUTCOME, known.values[OUTCOME]) or self._other(OUTCOME)

    def _code(self, column: int, value: bytes | None) -> int:
        if value is None:
            return 0
        names = self._names[column]
        code = names.get(value)
        if code is None:
            if len(value) > _MAX_NAME or len(names) >= OTHER - 1 or not _is_text(value):
                return self._other(column)
            code = names[value] = len(names) + 1
        return code

    def _other(self, column: int) -> int:
        self._others |= 1 << column
        return OTHER

    def _time(self, raw: bytes) -> None:
        found = _TIMESTAMP.search(raw, 0, 200)
        time = found[1].decode("ascii", "replace") if found else ""
        times = (time, time) if time and time.isascii() and time.isprintable() else _NO_TIME
        if not self._times:
            self._times = [*times]
        if times[0] < self._times[0]:
            self._times[0] = times[0]
        if times[1] > self._times[1]:
            self._times[1] = times[1]

    def close(self, seq: int, outcome: bytes) -> bool:
        """Note how a request ended, "" by an exchange line; False if its line is not in this block."""
        row = self._rows.get(seq)
        if row is None:
            return False
        settle(self._codes, row, outcome, lambda name: self._code(OUTCOME, name))
        return True

    def finished(self, end: int, crc: int) -> Block:
        """Return the block, which ends at `end`."""
        seqs = [seq for seq in self._seqs if seq >= 0]
        first, last = (min(seqs), max(seqs)) if seqs else (-1, -1)
        regular = self._seqs == array("q", range(first, first + len(self.offsets)))
        names = [[value.decode("utf-8", "surrogatepass") for value in column] for column in self._names]
        columns = Columns(self.offsets, self._codes, None if regular else self._seqs)
        since, until = self._times
        span = (self.begin, end, len(self.offsets), first, last, since, until)
        return Block(*span, names, self._others, crc, columns=columns)


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def settle(codes: list[bytearray], row: int, outcome: bytes, code_of: Callable[[bytes], int]) -> None:
    """Note how the request in a row ended. An exchange line outweighs an orphan, whichever came first."""
    if codes[REQUEST][row] and codes[OUTCOME][row]:
        codes[OUTCOME][row] = code_of(outcome) if outcome else 0
