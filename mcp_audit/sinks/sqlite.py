"""The ledger as a SQLite database: one transaction per batch, the same lines, the same chain.

Promise: a batch is in the database whole or not at all; a row holds the very line that JSONL would hold. `BEGIN
IMMEDIATE` is the append lock. The write-ahead log is moved into the database only while a checkpoint is made, so that
appending never waits for a sync but its own, which a commit makes if the ledger is durable. Rows leave it only as
`Pruner` says, after a `prune` line that a checkpoint covers. Long because one connection must see all of this.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NoReturn

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.chain import Mark
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.rows import begin_rows, schema_problem
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import BrokenLine
from mcp_audit.ledger.sqlite_schema import MIN_SQLITE, STATEMENTS
from mcp_audit.sinks.files import Files, open_regular
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.notary import Notary, is_failed_sync
from mcp_audit.sinks.pruning import Plan, Pruner, snapshot
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.sinks.writer import LedgerWriter

__all__ = ["SqliteSink"]

_READ_BYTES = 4 << 20
_PRUNE_S = 0.5  # how long one checkpoint may go on pruning
_NEWER = "SELECT seq, line FROM entries WHERE seq >= ? ORDER BY seq"
_INSERT = "INSERT INTO entries (seq, line) VALUES (?, ?)"


class SqliteSink(LedgerWriter):
    """See `LedgerWriter`; made by `open_ledger`."""

    _note_syncs = True

    def __init__(
        self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files
    ) -> None:
        super().__init__(path, identity, scanner, locks, stamp, files)
        self._database: sqlite3.Connection | None = None
        self._notary: Notary | None = None
        self._timeout = -1
        self._pruner: Pruner | None = None

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

    def open(self, path: str = "") -> None:
        """Open the database that exists; it has no archives, so it is never at another path."""
        self._connect()
        try:
            self._check_schema()
            self._connection.execute("SELECT count(*) FROM checkpoints").fetchone()  # a damaged page is found now
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
            self._connection.execute(self._synchronous)
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
        with ExitStack() as opened:  # both or none
            try:
                database, second = (self._open_connection(opened) for _ in range(2))
                database.execute(self._synchronous)
                notary = Notary(second)
            except sqlite3.OperationalError as error:
                raise LedgerRefused(self.path, f"the database cannot be opened ({error})", 2) from error
            except sqlite3.DatabaseError as error:
                raise self._corrupt(error) from error
            opened.pop_all()
        self._database, self._notary, self._timeout = database, notary, self.busy_timeout_ms

    def _open_connection(self, opened: ExitStack) -> sqlite3.Connection:
        connection = opened.enter_context(closing(self._files.connect(self.path)))
        connection.text_factory = bytes
        connection.execute(f"PRAGMA busy_timeout={self.busy_timeout_ms}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA fullfsync=1")  # macOS
        return connection

    @property
    def _synchronous(self) -> str:
        return f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}"

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
        timeout = int(self._lock_wait_s * 1000) if wait else 0
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
        scanner, connection = self._scanner, self._connection
        with snapshot(connection):  # a peer may prune meanwhile
            if not self._chain.size and (problem := begin_rows(connection, scanner)) is not None:
                raise LedgerRefused(self.path, f"{problem}; run `mcp-audit verify {self.path}` to see more", 1)
            cursor = connection.execute(_NEWER, (self._chain.size,))
            try:
                rows: list[tuple[int, bytes]] = []
                held = 0
                for row in cursor:
                    rows.append(row)
                    held += len(row[1])
                    if held >= _READ_BYTES:
                        scanner.feed_rows(rows)
                        rows, held = [], 0
                scanner.feed_rows(rows)
            finally:
                cursor.close()

    def _insert(self, lines: Sequence[bytes]) -> None:
        first = self._chain.size - len(lines)
        rows = [(first + index, line[:-1].decode()) for index, line in enumerate(lines)]
        self._connection.executemany(_INSERT, rows)

    def _sync(self) -> None:
        """Sync the write-ahead log, which holds what was committed; a durable ledger did so with each commit.

        Who moves its content into the database has synced both. SQLite puts no locks on this file, so that closing our
        own descriptor of it drops none.
        """
        if self.durable:
            return
        try:
            fd = self._files.open(self.path + "-wal", os.O_RDWR)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LedgerUnavailable(self.path, f"its write-ahead log cannot be opened ({error.strerror})") from error
        try:
            self._files.sync(fd)
        except OSError as error:
            self._give_up(error.strerror or str(error))
        finally:
            self._files.close(fd)

    def _keep(self, checkpoint: Checkpoint, note: str) -> None:
        if self._notary is None:
            raise OSError(0, "the database is closed")
        try:
            self._notary.keep(checkpoint, note)
        except sqlite3.Error as error:
            if is_failed_sync(error):
                self._give_up(str(error))
            raise OSError(0, f"{error}") from error

    # -- retention -----------------------------------------------------------------------------------------------------

    def keep_house(self) -> None:
        """At the start and hourly, let go of what is too old; see `LedgerWriter.keep_house`."""
        if not self.rotation.max_age_days or self._closed:
            return
        if self._pruner is None:
            self._pruner = Pruner(self.origin, self.vkey, self.rotation.max_age_days)
        if not self._pruner.is_due:
            return
        until = time.monotonic() + _PRUNE_S
        try:
            while self._prune(self._pruner):
                if time.monotonic() >= until:
                    return
        except (sqlite3.Error, OSError, BrokenLine) as error:
            raise LedgerUnavailable(self.path, f"old lines cannot be removed: {error}") from error
        self._pruner.rest()

    def _prune(self, pruner: Pruner) -> bool:
        """Go one step; say whether there may be more. Announced and signed first, so an interruption loses nothing."""
        notary = self._notary
        if notary is None:
            return False
        if to := pruner.unfinished(notary.connection, self._signed.size):
            notary.delete(to)
            return True
        plan = pruner.plan(notary.connection, self._signed.size)
        if plan is None:
            return False
        if self.blocked:
            raise LedgerUnavailable(self.path, self._cause)
        announced = self._in_turn(lambda: self._announce(pruner, plan))
        if announced is None:
            return False  # the peer deletes what it announced, or the next look does
        self._checkpoint()
        if self._signed.size > announced:
            notary.delete(plan.to)
        return True

    def _announce(self, pruner: Pruner, plan: Plan) -> int | None:
        """Append the `prune` line and return its seq, unless a peer has announced one."""
        if pruner.overtaken(self._connection, plan):
            return None
        self.written += 1
        return self._append([self._typed("prune", plan.members)])[0]

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
            self._refuse_corrupt(error)
            self._block(f"{error}")
        self._check_chain()

    def _failed(self, mark: Mark, first: int, error: BaseException) -> NoReturn:
        """A commit did not succeed: believe the rows, not the error, and block."""
        self._chain.rewind(mark)
        if isinstance(error, sqlite3.Error) and is_failed_sync(error):
            self._leave()
            self._give_up(str(error))
        try:
            self._leave()
            self._read()
        except sqlite3.Error as second:
            if not isinstance(error, sqlite3.Error):
                raise error from second
            self._block(f"{error}")
        if not isinstance(error, sqlite3.Error):
            raise error
        self._refuse_corrupt(error)
        appended = range(first, max(first, self._chain.size))
        self.written += len(appended)
        self._block(f"{error}", appended)

    def _give_up(self, cause: str) -> NoReturn:
        """A sync failed: another one of the same file would succeed and lie."""
        self._hopeless = f"it could not be synced ({cause}); check the disk, then restart"
        self._block(self._hopeless)

    def _refuse_corrupt(self, error: sqlite3.Error) -> None:
        """A start that meets a damaged page must not be tried again as if the disk had been busy."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if self._run is None and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise self._corrupt(error) from error

    def _corrupt(self, error: sqlite3.Error) -> LedgerRefused:
        return LedgerRefused(
            self.path,
            f"the database is corrupt ({error}); keep it as evidence and restore a backup, or start with --accept-loss "
            "to set it aside",
            3,
        )
