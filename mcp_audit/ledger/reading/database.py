"""Read the lines of a SQLite log: all of them in order, or those that its indexes lead to, newest first.

Reads only, in one snapshot. Columns are computed from the line, so no index that SQLite's integrity check accepts can
disagree with it; still whoever asks compares every line found with the filter itself. The table of the Go version is
read as the lines that its log would have held.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from mcp_audit.ledger.evidence import CannotLook, open_sqlite
from mcp_audit.ledger.reading.filters import Filter
from mcp_audit.ledger.reading.lines import COLUMNS

__all__ = ["closers", "is_seed_database", "rows", "searchable", "searched"]

_OUTCOME = COLUMNS.index("outcome")
_INDEXED = {0: "method", 1: "tool_name", 2: "client_id", _OUTCOME: "outcome"}
_NEEDED = {"entries_of", "entries_timestamp", *(f"entries_{name}" for name in _INDEXED.values())}
_ORPHANED = (b"lost", b"timeout")  # the outcomes an `orphan` may have
_MAX_VALUES = 1000  # distinct names; more are not worth a stream each
_MISSES = 64  # lines out of time in a row, before the place of the time range is looked up
_EVER = 1 << 62
_SEED = "SELECT * FROM audit_entries ORDER BY rowid"
_SEED_JSON = ("params", "result", "error")
Stream = Callable[[int, int], Iterator[int]]  # seqs between two bounds, both excluded, newest first


@contextmanager
def _snapshot(path: str, on_notice: Callable[[str], None]) -> Iterator[sqlite3.Connection]:
    opened = False
    try:
        with open_sqlite(path) as connection:
            opened = True
            yield connection
    except sqlite3.DatabaseError as error:
        if not opened or isinstance(error, sqlite3.OperationalError):
            raise CannotLook(path, f"the database cannot be read: {error}") from error
        on_notice(f"{path}: the database is corrupt, the rest is not shown: {error}")


def is_seed_database(connection: sqlite3.Connection) -> bool:
    """Say whether it is one of the Go version, where `audit_entries` is a table."""
    found = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'audit_entries'")
    return found.fetchone() is not None


def rows(
    path: str, newest_first: bool, on_notice: Callable[[str], None], after: int = -1, before: int = _EVER
) -> Iterator[bytes]:
    """Yield the lines between two seqs, both excluded, in order.

    Raises:
        CannotLook: the database cannot be opened or read.
    """
    order = "DESC" if newest_first else "ASC"
    with _snapshot(path, on_notice) as connection, closing(connection.cursor()) as cursor:
        if is_seed_database(connection):
            yield from _seed_lines(cursor, f"{_SEED} {order}")
            return
        query = f"SELECT line FROM entries WHERE seq > ? AND seq < ? ORDER BY seq {order}"  # noqa: S608
        for (line,) in cursor.execute(query, (after, before)):
            yield line if isinstance(line, bytes) else str(line).encode()


def _seed_lines(cursor: sqlite3.Cursor, query: str) -> Iterator[bytes]:
    found = cursor.execute(query)
    names = [column[0] for column in found.description]
    for row in found:
        members = [_member(name, value) for name, value in zip(names, row, strict=True) if value not in (None, b"")]
        yield b"{" + b",".join(members) + b"}"


def _member(name: str, value: Any) -> bytes:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    encoded = json.dumps(text)
    if name in _SEED_JSON and isinstance(text, str):
        try:
            json.loads(text)
            encoded = text
        except (ValueError, RecursionError):
            pass  # not JSON after all: shown as the text it is
    return f"{json.dumps(name)}:{encoded}".encode("utf-8", "replace")


def searchable(path: str, wanted: Filter) -> bool:
    """Say whether indexes can lead to what is wanted: they exist, and it names something they hold.

    Raises:
        CannotLook: the database cannot be opened.
    """
    if not (wanted.since or wanted.until or any(column in _INDEXED for column in wanted.named)):
        return False
    found: set[str] = set()
    with _snapshot(path, lambda _: None) as connection:
        names = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'").fetchall()
        found = {name.decode("utf-8", "replace") for (name,) in names if name}
    return found >= _NEEDED


def searched(
    path: str, wanted: Filter, on_notice: Callable[[str], None], after: int = -1, before: int = _EVER
) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield the lines that may be wanted, newest first, each with the outcome that a request got elsewhere.

    That is None for what is no request, empty for a request that an exchange line answers, else that of its orphan, or
    `open`. Call it only if `searchable`.

    Raises:
        CannotLook: the database cannot be opened or read.
    """
    with _snapshot(path, on_notice) as connection:
        search = _Search(connection, wanted)
        for seq in search.seqs(after, before):
            line = search.line(seq)
            if line is not None:
                yield line, closers(connection, seq) if line.startswith(b'{"type":"request"') else None


def closers(connection: sqlite3.Connection, seq: int) -> bytes:
    """Return how a request ended: empty if an exchange line answers it, else the outcome of its orphan, or `open`."""
    query = "SELECT type, outcome FROM entries WHERE of = ? ORDER BY seq DESC"
    found = connection.execute(query, (seq,)).fetchall()
    if any(type_ is None for type_, _ in found):
        return b""
    return next((outcome or b"lost" for type_, outcome in found if type_ == b"orphan"), b"open")


class _Search:
    """Goes through the seqs that all indexes in question agree on."""

    def __init__(self, connection: sqlite3.Connection, wanted: Filter) -> None:
        self._connection = connection
        self._wanted = wanted
        self._streams = [
            stream
            for column, name in _INDEXED.items()
            if column in wanted.named and (stream := self._named(column, name)) is not None
        ]
        self._missed = 0

    def line(self, seq: int) -> bytes | None:
        """Return a line if its time may be wanted."""
        row = self._connection.execute("SELECT line FROM entries WHERE seq = ?", (seq,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            return None
        if self._wanted.may_match(row[0]):
            self._missed = 0
            return row[0]
        self._missed += 1
        return None

    def seqs(self, after: int, before: int) -> Iterator[int]:
        """Yield the seqs between two bounds. Once `line` missed often, the time range is looked up and kept to."""
        for seq in self._all(after, before):
            yield seq
            if self._missed == _MISSES and (self._wanted.since or self._wanted.until):
                low, high = self._time_range()
                yield from self._all(max(after, low - 1), min(seq, high + 1))
                return

    def _all(self, after: int, before: int) -> Iterator[int]:
        if not self._streams:
            return self._select("", (), after, before)
        first, *others = [stream(after, before) for stream in self._streams]
        for other in others:
            first = _both(first, other)
        return first

    def _select(self, condition: str, values: tuple[Any, ...], after: int, before: int) -> Iterator[int]:
        query = f"SELECT seq FROM entries {condition or 'WHERE'} seq > ? AND seq < ? ORDER BY seq DESC"  # noqa: S608
        with closing(self._connection.execute(query, (*values, after, before))) as cursor:
            for (seq,) in cursor:
                yield seq

    def _time_range(self) -> tuple[int, int]:
        """Return the smallest and largest seq in time; the clock may have jumped, so there may be others between."""
        query = "SELECT min(seq), max(seq) FROM entries INDEXED BY entries_timestamp WHERE timestamp >= ?"
        until = (" AND timestamp < ?", (self._wanted.until,)) if self._wanted.until else ("", ())
        low, high = self._connection.execute(query + until[0], (self._wanted.since, *until[1])).fetchone()
        return (low, high) if low is not None else (0, -1)

    def _named(self, column: int, name: str) -> Stream | None:
        """Return the seqs whose `name` is wanted, or None where there are too many different ones."""
        values = self._values(name)
        if values is None:
            return None
        fitting = [value for value in values if self._fits(column, value)]
        streams = [self._equal(name, value) for value in fitting]
        if column == _OUTCOME:
            streams += [self._orphaned(value) for value in fitting if value in _ORPHANED]
            streams += [self._open] if self._wanted.fits(column, b"open") else []
        return lambda after, before: _unique(heapq.merge(*(stream(after, before) for stream in streams), reverse=True))

    def _fits(self, column: int, value: bytes) -> bool:
        try:
            return self._wanted.fits(column, value)
        except UnicodeDecodeError:
            return False  # JSON text cannot hold it

    def _values(self, name: str) -> list[bytes] | None:
        """Return the different values of a column, hopping from one to the next in its index."""
        hop = f"SELECT min({name}) FROM entries INDEXED BY entries_{name} WHERE {name} > CAST(? AS TEXT)"  # noqa: S608
        values: list[bytes] = []
        value: bytes | None = b""
        first = f"SELECT min({name}) FROM entries INDEXED BY entries_{name} WHERE {name} >= ''"  # noqa: S608
        (value,) = self._connection.execute(first).fetchone()
        while value is not None:
            if len(values) == _MAX_VALUES:
                return None
            values.append(value)
            (value,) = self._connection.execute(hop, (value,)).fetchone()
        return values

    def _equal(self, name: str, value: bytes) -> Stream:
        condition = f"INDEXED BY entries_{name} WHERE {name} = CAST(? AS TEXT) AND"
        return lambda after, before: self._select(condition, (value,), after, before)

    def _open(self, after: int, before: int) -> Iterator[int]:
        closer = "SELECT 1 FROM entries AS closer INDEXED BY entries_of WHERE closer.of = entries.seq"
        condition = f"INDEXED BY entries_outcome WHERE outcome IS NULL AND NOT EXISTS ({closer}) AND"
        return self._select(condition, (), after, before)

    def _orphaned(self, outcome: bytes) -> Stream:
        """Return the requests whose orphans have this outcome. Their seqs are kept in memory: nobody has many."""
        query = (
            "SELECT of FROM entries INDEXED BY entries_outcome "
            "WHERE outcome = CAST(? AS TEXT) AND type = 'orphan' AND of IS NOT NULL ORDER BY of DESC"
        )
        seqs = [seq for (seq,) in self._connection.execute(query, (outcome,))]
        return lambda after, before: (seq for seq in seqs if after < seq < before)


def _unique(seqs: Iterator[int]) -> Iterator[int]:
    last = None
    for seq in seqs:
        if seq != last:
            yield seq
        last = seq


def _both(left: Iterator[int], right: Iterator[int]) -> Iterator[int]:
    """Yield what two falling streams have in common."""
    other = next(right, None)
    for seq in left:
        while other is not None and other > seq:
            other = next(right, None)
        if other is None:
            return
        if other == seq:
            yield seq
