"""What lies on the disk for a checker: the log's bytes, the notes and keys beside it, and whether a writer is at work.

Reads only, and never waits for a writer's lock. What is found is returned as text or bytes; who may be trusted is
decided elsewhere.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast
from urllib.parse import quote

from mcp_audit.errors import LedgerFileError
from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.regular import is_plain_file, open_regular
from mcp_audit.ledger.scan import Scanner

__all__ = [
    "LINE",
    "SQLITE_MAGIC",
    "Beside",
    "CannotLook",
    "Digest",
    "bytes_taken",
    "chunks",
    "claimed_origin",
    "is_sqlite",
    "look_beside",
    "open_bytes",
    "open_sqlite",
    "scan_file",
    "small_text",
    "writer_alive",
]

# The line of a row, NULL if it is not stored as text: a BLOB with its very bytes is nothing that SQLite can query.
LINE = "CASE typeof(line) WHEN 'text' THEN line END"
SQLITE_MAGIC = b"SQLite format 3\x00"
# Measured: larger chunks leave the cache, smaller ones cost more calls.
_CHUNK = 1 << 18
_SETTLE_SECONDS = 0.02
_SETTLE_TRIES = 10
_MAX_NOTE = 1 << 20


class CannotLook(LedgerFileError):
    """A log cannot be read at all: nothing there, no permission, not a log."""

    exit_code = 2


class Digest(Protocol):
    """A hash of `hashlib` under way."""

    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Beside:
    """The small files beside a log; None where there is none."""

    note: str | None
    vkey: str | None


def look_beside(path: str) -> Beside:
    """Read sidecar and verifier key. Do this before reading the log: a log in use can then only be longer."""
    return Beside(small_text(path + ".checkpoint"), small_text(path + ".pub"))


def small_text(path: str) -> str | None:
    """Return a small file's text, or None; bytes that are not UTF-8 survive as something no signature fits."""
    try:
        with open_regular(path, follow=False) as file:
            return file.read(_MAX_NOTE).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error


def writer_alive(path: str) -> bool:
    """Say whether a writer holds the log's presence lock. Tries once and lets go at once."""
    if sys.platform == "win32":
        return False
    try:
        import fcntl
    except ImportError:
        return False
    try:
        file = open_regular(path + ".live", follow=False)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # some network filesystems: locks nobody can hold say nothing
        return False
    finally:
        file.close()
    return False


def is_sqlite(path: str) -> bool:
    """Say whether the file is a SQLite database, by its first bytes.

    Raises:
        CannotLook: it cannot be read.
    """
    try:
        with open_regular(path) as file:  # as it is on the disk: SQLite opens no compressed database
            return file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error


def open_bytes(path: str) -> BinaryIO:
    """Open a log for reading from its first byte; gzip is recognised by its magic, and read with `chunks`.

    Raises:
        CannotLook: it cannot be opened.
    """
    try:
        file = open_regular(path)
        try:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error
    return _unpacked(file) if packed else file


def _unpacked(file: BinaryIO) -> BinaryIO:
    """Return what reads gzip data from a file that was opened already, and closes it."""
    reader = gzip.GzipFile(fileobj=file)
    reader.myfileobj = cast(Any, file)
    return cast(BinaryIO, reader)


def claimed_origin(path: str) -> str | None:
    """Return the name of the log that its first line claims to belong to, or None."""
    with open_bytes(path) as file:
        line = next(chunks(file), b"").partition(b"\n")[0]
    tail = TAIL.search(line)
    return tail[1].decode() if tail else None


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of a file.

    Raises:
        CannotLook: the disk, or damaged gzip data, does not let us.
    """
    try:
        while chunk := file.read(_CHUNK):
            yield chunk
    except (OSError, EOFError, zlib.error) as error:
        raise CannotLook(str(file.name), f"cannot be read to its end: {error}") from error


def scan_file(
    file: BinaryIO,
    scanner: Scanner,
    alive: bool,
    progress: Callable[[int], None] | None = None,
    digest: Digest | None = None,
) -> int:
    """Feed a whole file, and hash it if asked to; return how many bytes it has, uncompressed.

    If a writer is alive, a line it is just writing gets a moment to become whole.
    """
    count = 0
    for number, chunk in enumerate(chunks(file)):
        count += len(chunk)
        scanner.feed(chunk)
        if digest is not None:
            digest.update(chunk)
        if progress is not None and number % 32 == 0:
            progress(bytes_taken(file))
    for _ in range(_SETTLE_TRIES if alive else 0):
        if not scanner.unterminated or scanner.fault is not None:
            break
        time.sleep(_SETTLE_SECONDS)
        for chunk in chunks(file):
            count += len(chunk)
            scanner.feed(chunk)
    scanner.finish()
    return count


def bytes_taken(file: BinaryIO) -> int:
    """Return how much of the file on the disk was read, compressed or not."""
    return os.lseek(file.fileno(), 0, os.SEEK_CUR)


@contextmanager
def open_sqlite(path: str) -> Iterator[sqlite3.Connection]:
    """Open a SQLite ledger to read, in one snapshot; text comes as bytes.

    Raises:
        CannotLook: locked or not to be opened.
        sqlite3.DatabaseError: the file is corrupt.
    """
    for beside in (path + "-journal", path + "-wal", path + "-shm"):  # SQLite would wait for a FIFO for ever
        if os.path.lexists(beside) and not is_plain_file(beside):
            raise CannotLook(path, f"{beside} is no regular file")
    base = f"file:{quote(os.path.abspath(path))}?mode=ro"
    connection = None
    try:
        connection = _connect(base)
    except sqlite3.OperationalError as error:
        if "unable to open" not in str(error):
            raise CannotLook(path, str(error)) from error
        # A database in WAL mode whose folder we cannot write, at rest: nothing but the file itself is needed.
        if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            raise CannotLook(
                path, "the database is in use or its folder is not writable; copy it with its -wal"
            ) from None
        try:
            connection = _connect(base + "&immutable=1")
        except sqlite3.OperationalError as again:
            raise CannotLook(path, str(again)) from again
    try:
        yield connection
    finally:
        connection.close()


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
    try:
        connection.text_factory = bytes
        connection.execute("PRAGMA query_only=ON")
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # takes the snapshot
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection
