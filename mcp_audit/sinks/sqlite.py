"""The ledger as a SQLite database: one transaction per batch, the same lines, the same chain.

Promise: a batch is in the database whole or not at all; a row holds the very line that JSONL would hold. `BEGIN
IMMEDIATE` is the append lock. The write-ahead log is moved into the database only while a checkpoint is made, so that
appending never waits for a sync.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.chain import Mark
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.evidence import schema_problem
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.sqlite_schema import MIN_SQLITE, STATEMENTS
from mcp_audit.sinks.files import Files, open_regular
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.sinks.writer import LedgerWriter

__all__ = ["SqliteSink"]

_ROWS = 1000
_NEWER = "SELECT seq, line FROM entries WHERE seq >= ? ORDER BY seq"
_INSERT = "INSERT INTO entries (seq, line) VALUES (?, ?)"
_DAY = "SELECT substr(timestamp, 1, 10) FROM entries WHERE seq = ?"


class SqliteSink(LedgerWriter):
    """See `LedgerWriter`; made by `open_ledger`."""

    def __init__(
        self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files
    ) -> None:
        super().__init__(path, identity, scanner, locks, stamp, files)
        self._database: sqlite3.Connection | None = None
        self._notary: sqlite3.Connection | None = None  # commits notes with a sync, while `_database` appends
        self._timeout = -1

    # -- the start -----------------------------------------------------------------------------------------------------

    @staticmethod
    def is_blank(files: Files, path: str) -> bool:
        """Say whether a file counts as none: empty, or a database whose creation was interrupted."""
        if not os.path.getsize(path):
            return True
        connection = files.connect(path)
        try:
            return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        except sqlite3.DatabaseError:
            return False
        finally:
            connection.close()

    @staticmethod
    def is_seed(files: Files, path: str) -> bool:
        """Say whether it is a database of the Go version, where `audit_entries` is a table."""
        connection = files.connect(path)
        try:
            rows = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'audit_entries'")
            return rows.fetchone() is not None
        except sqlite3.DatabaseError:
            return False
        finally:
            connection.close()

    def open(self) -> None:
        """Open the database that exists."""
        self._connect()
        try:
            self._check_schema()
        except sqlite3.OperationalError as error:
            raise LedgerRefused(self.path, f"the database cannot be used ({error}); try again", 2) from error
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error

    def read(self) -> None:
        """Feed the scanner all rows that are there."""
        try:
            self._read()
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(self.path, f"{error}") from error
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the append lock during a start."""
        self._enter(wait=True)
        try:
            yield
        finally:
            self._leave()

    def create(self, after: str, members: Mapping[str, Any], more: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Make tables and first lines in one transaction."""
        lines = [self._opening(after, members), *(self._typed(type_, line) for type_, line in more)]
        os_flags = os.O_RDWR | os.O_CREAT
        self._files.close(open_regular(self._files, self.path, os_flags)[0])  # SQLite itself would let others read it
        self._connect()
        try:
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("BEGIN IMMEDIATE")
            for statement in STATEMENTS:
                self._connection.execute(statement)
            self._insert([self._chain.seal(line) for line in lines])
            self._connection.execute("COMMIT")
            self._connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error as error:
            raise LedgerRefused(self.path, f"the database cannot be created ({error})", 2) from error
        self._run = 0

    def _connect(self) -> None:
        if sqlite3.sqlite_version_info < MIN_SQLITE:
            needed = ".".join(map(str, MIN_SQLITE[:2]))
            raise LedgerRefused(self.path, f"SQLite {needed} is needed, this is {sqlite3.sqlite_version}", 2)
        # Not opened by us: closing a descriptor would drop the locks that SQLite holds on the file.
        found = self._files.lstat(self.path)
        if self._place == (-1, -1):
            self._place = (found.st_ino, found.st_dev)
        try:
            self._database = self._files.connect(self.path)
            self._notary = self._files.connect(self.path)
            for connection in (self._database, self._notary):
                connection.text_factory = bytes
                connection.execute(f"PRAGMA busy_timeout={self.busy_timeout_ms}")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA wal_autocheckpoint=0")
                connection.execute("PRAGMA fullfsync=1")  # macOS
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._notary.execute("PRAGMA synchronous=FULL")
            self._timeout = self.busy_timeout_ms
        except sqlite3.OperationalError as error:
            raise LedgerRefused(self.path, f"the database cannot be opened ({error})", 2) from error
        except sqlite3.DatabaseError as error:
            raise self._corrupt(error) from error

    def _check_schema(self) -> None:
        problem = schema_problem(self._connection)
        if problem is not None:
            raise LedgerRefused(
                self.path,
                f"{problem}; run `mcp-audit verify {self.path}` to see more; --accept-loss sets the old log aside and "
                "begins a new one",
                1,
            )

    @property
    def _connection(self) -> sqlite3.Connection:
        assert self._database is not None
        return self._database

    # -- the storage ---------------------------------------------------------------------------------------------------

    def _enter(self, wait: bool) -> bool:
        timeout = self.busy_timeout_ms if wait else 0
        try:
            if self._database is None:
                self._connect()
            if timeout != self._timeout:
                self._connection.execute(f"PRAGMA busy_timeout={timeout}")
                self._timeout = timeout
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if not wait and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return False
            self._leave()
            self._block(f"{error}")
        except (OSError, LedgerRefused) as error:
            self._block(str(error))
        return True

    def _leave(self) -> None:
        if self._database is None or not self._database.in_transaction:
            return
        try:
            self._database.execute("ROLLBACK")
        except sqlite3.Error as error:
            # Closing rolls back as well, and does not hold the lock on; the next append opens the database again.
            self._release()
            self.blocked, self._cause = True, f"{error}"

    def _append(self, batch: Sequence[Unsealed]) -> list[int]:
        chain = self._chain
        self._look()
        mark = chain.mark()
        first = chain.size
        try:
            if batch:
                self._insert([chain.seal(unsealed) for unsealed in batch])
                self._connection.execute("COMMIT")
        except BaseException as error:
            self._failed(mark, first, error)
        return list(range(first, chain.size))

    def _read(self) -> None:
        cursor = self._connection.execute(_NEWER, (self._chain.size,))
        try:
            while self._scanner.fault is None and (rows := cursor.fetchmany(_ROWS)):
                self._scanner.feed_rows(rows)
        finally:
            cursor.close()

    def _insert(self, lines: Sequence[bytes]) -> None:
        first = self._chain.size - len(lines)
        rows = [(first + index, line[:-1].decode()) for index, line in enumerate(lines)]
        self._connection.executemany(_INSERT, rows)

    def _sync(self) -> None:
        """The commit of the note in `_keep` syncs the lines before it; the note is published only after that."""

    def _keep(self, checkpoint: Checkpoint, note: str) -> None:
        """Commit the note with a sync, which covers the lines before it; keep the last note of each UTC day."""
        notary = self._notary
        if notary is None:
            raise OSError(0, "the database is closed")
        try:
            try:
                notary.execute("BEGIN IMMEDIATE")
                last = notary.execute("SELECT max(size) FROM checkpoints").fetchone()[0]
                if last is not None and last < checkpoint.size and self._same_day(notary, last, checkpoint.size):
                    notary.execute("DELETE FROM checkpoints WHERE size = ?", (last,))
                notary.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?)", (checkpoint.size, note))
                notary.execute("COMMIT")
            finally:
                if notary.in_transaction:
                    notary.execute("ROLLBACK")
            notary.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            raise OSError(0, f"{error}") from error

    def _same_day(self, notary: sqlite3.Connection, earlier: int, later: int) -> bool:
        days = [notary.execute(_DAY, (size - 1,)).fetchone() for size in (earlier, later)]
        return bool(days[0] == days[1])

    def _release(self) -> None:
        for connection in (self._notary, self._database):
            if connection is not None:
                connection.close()
        self._database = self._notary = None

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Fold in what peers committed."""
        try:
            found = self._files.lstat(self.path)
            if (found.st_ino, found.st_dev) != self._place:
                self._block("another file stands at its path; put the ledger back and restart")
            self._read()
        except FileNotFoundError:
            self._block("it was deleted or renamed; put it back or restart")
        except OSError as error:
            self._block(error.strerror or str(error))
        except sqlite3.Error as error:
            self._block(f"{error}")
        self._check_chain()

    def _failed(self, mark: Mark, first: int, error: BaseException) -> NoReturn:
        """A commit did not succeed: believe the rows, not the error, and block."""
        self._chain.rewind(mark)
        try:
            self._leave()
            self._read()
        except sqlite3.Error as second:
            if not isinstance(error, sqlite3.Error):
                raise error from second
            self._block(f"{error}")
        if not isinstance(error, sqlite3.Error):
            raise error
        appended = range(first, max(first, self._chain.size))
        self.written += len(appended)
        self._block(f"{error}", appended)

    def _corrupt(self, error: sqlite3.Error) -> LedgerRefused:
        return LedgerRefused(
            self.path,
            f"the database is corrupt ({error}); keep it as evidence and restore a backup, or start with --accept-loss "
            "to set it aside",
            3,
        )
