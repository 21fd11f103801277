"""Check the database around the rows of a SQLite ledger, and feed the rows to a scanner like the lines of a file.

Reads only, in one snapshot. The rows hold whole lines; all else in the database is computed from them, so the schema
must be ours to the letter and the indexes whole: otherwise queries would show what no line says.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.evidence import LINE, CannotLook, open_sqlite
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import BrokenLine, read_segment
from mcp_audit.ledger.sqlite_schema import SCHEMA

__all__ = ["Rows", "begin_rows", "claimed_origin_of_rows", "scan_sqlite", "schema_problem"]

_ROWS = 256
_TRANSIENT = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR)
_NO_TABLES = "the database has no tables"
_PRUNE = '{"type":"prune"'
_FIRST = f"SELECT seq, {LINE} FROM entries ORDER BY seq LIMIT 1"  # noqa: S608


def schema_problem(connection: sqlite3.Connection) -> str | None:
    """Return how the tables differ from those a writer creates, or None."""
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    if not rows:
        return _NO_TABLES
    # Not as a mapping: a trigger may have the name of a table or a view, and would hide behind it.
    found = Counter((_as_text(name), _as_text(sql)) for name, sql in rows)
    expected = Counter(SCHEMA.items())
    if found == expected:
        return None
    odd = sorted({name for name, _ in (found - expected) + (expected - found)})
    return f"the database schema was changed ({', '.join(odd[:5])})"


def claimed_origin_of_rows(path: str) -> str | None:
    """Return the name of the log that the first row claims to belong to, or None.

    Raises:
        CannotLook: it is locked, or not to be opened.
    """
    try:
        with open_sqlite(path) as connection:
            # What a changed schema calls `entries` may be anything, even a query that never ends.
            row = None if schema_problem(connection) else connection.execute(_FIRST).fetchone()
    except sqlite3.DatabaseError:
        return None
    tail = TAIL.search(row[1] or b"") if row else None
    return tail[1].decode() if tail else None


def _integrity_problem(connection: sqlite3.Connection) -> str | None:
    """Return the first complaint of SQLite's full integrity check, or None."""
    (answer,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    text: str = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    return None if text == "ok" else f"SQLite's integrity check fails: {text.splitlines()[0]}"


@dataclass(frozen=True, slots=True)
class Rows:
    """What stands around the rows of a database.

    Attributes:
        problem: what is wrong with it, or None.
        notes: the checkpoints in its table, by size.
    """

    problem: str | None = None
    notes: Mapping[int, str] = field(default_factory=dict)


def scan_sqlite(path: str, scanner: Scanner, signed: int | None, progress: Callable[[int], None] | None = None) -> Rows:
    """Feed all rows in order, in one snapshot.

    Args:
        signed: size of the newest checkpoint. Without or with 0 a database without tables was just being created.

    Raises:
        CannotLook: it is locked, or not to be opened.
    """
    try:
        with open_sqlite(path) as connection:
            problem = schema_problem(connection)
            if problem is not None:
                return Rows(None if problem == _NO_TABLES and not signed else problem)
            notes = {size: _as_text(note) for size, note in connection.execute("SELECT size, note FROM checkpoints")}
            scanner.watch(notes)
            problem = begin_rows(connection, scanner)
            if problem is not None:
                return Rows(problem, notes)
            count = 0
            cursor = connection.execute(f"SELECT seq, {LINE} FROM entries ORDER BY seq")  # noqa: S608
            while rows := cursor.fetchmany(_ROWS):
                scanner.feed_rows(rows)
                if progress is not None:
                    count += sum(len(line or b"") for _, line in rows)
                    progress(count)
            # After a fault the check has nothing to add, and over a row that is no JSON it cannot run.
            return Rows(None if scanner.fault else _integrity_problem(connection), notes)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _TRANSIENT:
            raise CannotLook(path, str(error)) from error
        return Rows(f"the database is corrupt: {error}")


def begin_rows(connection: sqlite3.Connection, scanner: Scanner) -> str | None:
    """Let the scanner stand before the first row, as the newest `prune` line says; return what is wrong, or None.

    That line is believed here: it stands further down in the rows, and is checked there like any other.
    """
    row = connection.execute(_FIRST).fetchone()
    tail = TAIL.search(row[1] or b"") if row else None
    if tail is None or row[0] <= 0:
        return None
    # Not by the column `type`, for which SQLite would parse every row.
    lines = connection.execute(
        "SELECT line FROM entries WHERE typeof(line) = 'text' AND substr(line, 1, 15) = ? ORDER BY seq DESC", (_PRUNE,)
    )
    for (line,) in lines:
        try:
            segment = read_segment(line)
            if segment.start == row[0]:
                scanner.stand_at(segment, tail[3])
                return None
        except BrokenLine:
            continue
    return f"seq 0 to {row[0] - 1} are missing and no prune line lets them go"


def _as_text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
