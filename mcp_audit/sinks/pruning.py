"""Retention in a database: which rows are too old, and where the log stands without them.

Promise: only a beginning of the log goes, and only lines that a checkpoint covers; a clock that jumps ahead makes
nothing old. A step is small enough for one transaction, so that the first row is always one that a `prune` line names.
Writes nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.rows import begin_rows
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import BrokenLine, prune_members, read_segment
from mcp_audit.sinks.retention import SteadyClock

__all__ = ["Plan", "Pruner", "snapshot"]

_DAY_S = 86400
_EVERY_S = 3600.0
_ROWS = 2000
_BYTES = 16 << 20
_FIRST = "SELECT seq FROM entries ORDER BY seq LIMIT 1"
_LAST = "SELECT max(seq) FROM entries"
_OLDEST = "SELECT seq, line, timestamp FROM entries WHERE seq < ? ORDER BY seq"
# Not by the column `type`, for which SQLite would parse every row.
_PRUNES = """SELECT line FROM entries WHERE seq >= ? AND seq < ? AND substr(line, 1, 15) = '{"type":"prune"' """


class Plan(NamedTuple):
    """Rows that may go: `members` of the `prune` line; `seen` is how many lines the log had when it was made."""

    to: int
    members: dict[str, Any]
    seen: int


class Pruner:
    """Decides by `max_age_days`.

    Args:
        origin, vkey: of the log.
        max_age_days: lines older than that go.
    """

    def __init__(
        self,
        origin: str,
        vkey: str,
        max_age_days: int,
        clock: SteadyClock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = origin
        self._vkey = vkey
        self._max_age_days = max_age_days
        self._clock = clock or SteadyClock()
        self._monotonic = monotonic
        self._next_at = monotonic()
        self._known = 0  # rows before this one are gone, or an interrupted deletion was looked for
        self._standing: Scanner | None = None

    @property
    def is_due(self) -> bool:
        """Whether it is time to look: at the start, then hourly."""
        return self._monotonic() >= self._next_at

    def rest(self) -> None:
        """Look again in an hour."""
        self._next_at = self._monotonic() + _EVERY_S

    def unfinished(self, connection: sqlite3.Connection, signed: int) -> int:
        """Return up to which row a deletion was announced and not made, or 0.

        Args:
            signed: size of the newest checkpoint; what it does not cover was not announced yet.
        """
        first = _first(connection)
        to = 0
        for (line,) in connection.execute(_PRUNES + "ORDER BY seq DESC LIMIT 1", (self._known, signed)):
            try:
                to = read_segment(line).start
            except BrokenLine:
                continue
        if to > first:
            return to
        self._known = signed
        return 0

    def plan(self, connection: sqlite3.Connection, signed: int) -> Plan | None:
        """Return which rows go next, or None.

        Raises:
            BrokenLine: the rows do not say where the log stands; the next start, or `verify`, says more.
        """
        with snapshot(connection):
            first = _first(connection)
            scanner = self._stand(connection, first)
            oldest = self._oldest(connection, signed)
            if not oldest:
                return None
            scanner.feed_rows(oldest)
            seen = connection.execute(_LAST).fetchone()[0] + 1
        if scanner.fault is not None:
            raise BrokenLine(str(scanner.fault))
        rule = f"max_age_days: {self._max_age_days}"
        self._standing = scanner
        return Plan(scanner.chain.size, prune_members(scanner.chain, self._vkey, first, rule), seen)

    def overtaken(self, connection: sqlite3.Connection, plan: Plan) -> bool:
        """Say whether a peer has announced a deletion since the plan was made; call it with the append lock held."""
        return connection.execute(_PRUNES + "LIMIT 1", (plan.seen, 1 << 62)).fetchone() is not None

    def _stand(self, connection: sqlite3.Connection, first: int) -> Scanner:
        """Return a scanner before the first row: the one of the last step, unless a peer has gone further."""
        standing, self._standing = self._standing, None
        if standing is not None and standing.chain.size == first:
            return standing
        scanner = Scanner(Chain(self._origin, keyring={}))
        problem = begin_rows(connection, scanner)
        if problem is not None:
            raise BrokenLine(problem)
        return scanner

    def _oldest(self, connection: sqlite3.Connection, signed: int) -> list[tuple[int, bytes]]:
        limit = self._clock.now() - self._max_age_days * _DAY_S
        cutoff = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(max(0.0, limit))).encode()
        rows: list[tuple[int, bytes]] = []
        held = 0
        cursor = connection.execute(_OLDEST, (signed,))
        try:
            for seq, line, timestamp in cursor:
                # As texts; what has no time of our form counts as new.
                if not isinstance(timestamp, bytes) or not timestamp[:1].isdigit() or timestamp >= cutoff:
                    break
                rows.append((seq, line))
                held += len(line)
                if len(rows) >= _ROWS or held >= _BYTES:
                    break
        finally:
            cursor.close()
        return rows


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let several statements see one state of the database."""
    begins = not connection.in_transaction
    try:
        if begins:
            connection.execute("BEGIN")
        yield
    finally:
        if begins and connection.in_transaction:
            connection.execute("ROLLBACK")


def _first(connection: sqlite3.Connection) -> int:
    row = connection.execute(_FIRST).fetchone()
    return int(row[0]) if row else 0
