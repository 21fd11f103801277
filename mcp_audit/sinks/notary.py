"""The connection of a SQLite ledger that signs and deletes while another one appends.

Promise: a note is in the database only when the lines it covers are on the medium, for it is committed with a sync that
covers them; the newest note stays, and the last of each UTC day. For one thread at a time.
"""

from __future__ import annotations

import sqlite3

from mcp_audit.ledger.checkpoint import Checkpoint

__all__ = ["Notary", "is_failed_sync"]

_DAY = "SELECT substr(timestamp, 1, 10) FROM entries WHERE seq = ?"
_FAILED_SYNC = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)


class Notary:
    """See the module docstring.

    Args:
        connection: of its own; it is closed with the notary.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # what went is not to be found in the free pages

    def keep(self, checkpoint: Checkpoint, note: str) -> None:
        """Commit a note with a sync, which covers the lines before it, then empty the write-ahead log."""
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            last = connection.execute("SELECT max(size) FROM checkpoints").fetchone()[0]
            if last is not None and last < checkpoint.size and self._same_day(last, checkpoint.size):
                connection.execute("DELETE FROM checkpoints WHERE size = ?", (last,))
            connection.execute("INSERT OR IGNORE INTO checkpoints VALUES (?, ?)", (checkpoint.size, note))
            connection.execute("COMMIT")
        finally:
            self._roll_back()
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def delete(self, to: int) -> None:
        """Delete the rows before `to`, in one transaction."""
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM entries WHERE seq < ?", (to,))
            connection.execute("COMMIT")
        finally:
            self._roll_back()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def _same_day(self, earlier: int, later: int) -> bool:
        days = [self.connection.execute(_DAY, (size - 1,)).fetchone() for size in (earlier, later)]
        return bool(days[0] == days[1])

    def _roll_back(self) -> None:
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


def is_failed_sync(error: BaseException) -> bool:
    """Say whether SQLite could not sync; the next sync of that file would succeed and lie."""
    return getattr(error, "sqlite_errorcode", 0) in _FAILED_SYNC
