"""The ledger as a JSONL file: lock, look, seal, one write, unlock.

Promise: a batch is one write at the end of the file; bytes that are there are never changed, and what a failed write
left behind is read back before anything is said about it. Several processes may share the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.chain import Mark
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.scan import Scanner
from mcp_audit.sinks.files import Files, install, open_regular, write_aside
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.setaside import is_seed_log
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.sinks.writer import LedgerWriter

__all__ = ["JsonlSink"]

_CHUNK = 4 << 20
_UNKNOWN = -1  # no file has this size: the next append reads first
_LOOK_S = 0.001  # how long the file counts as still being at its path


class JsonlSink(LedgerWriter):
    """See `LedgerWriter`; made by `open_ledger`."""

    def __init__(
        self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files
    ) -> None:
        super().__init__(path, identity, scanner, locks, stamp, files)
        self._fd = -1
        self._end = _UNKNOWN  # the size the file has if nobody else wrote
        self._look_at = 0.0
        # Bound once: these run for every message.
        self._clock = time.monotonic
        self._seek = files.seek
        self._write = files.write

    # -- the start -----------------------------------------------------------------------------------------------------

    @staticmethod
    def is_blank(files: Files, path: str) -> bool:
        """Say whether a file counts as none."""
        return not files.lstat(path).st_size

    @staticmethod
    def is_seed(files: Files, path: str) -> bool:
        """Say whether it is a log of the Go version."""
        return is_seed_log(files, path)

    def open(self) -> None:
        """Open the file that exists."""
        self._fd, found = open_regular(self._files, self.path, os.O_RDWR | os.O_APPEND)
        self._place = (found.st_ino, found.st_dev)

    def read(self) -> None:
        """Feed the scanner to the present end of the file; without the lock that may be inside a line."""
        scanner = self._scanner
        while scanner.fault is None:
            data = self._files.read_at(self._fd, _CHUNK, scanner.position)
            if not data:
                return
            scanner.feed(data)

    def held(self) -> AbstractContextManager[None]:
        """Hold the append lock during a start, which has it already."""
        return nullcontext()

    def create(self, after: str, members: Mapping[str, Any], more: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write a new log aside, `open` and the lines of `more` in it, and put it in place; the file has never less."""
        lines = [self._opening(after, members), *(self._typed(type_, line) for type_, line in more)]
        data = b"".join([self._chain.seal(line) for line in lines])
        install(self._files, write_aside(self._files, self.path, data), self.path)
        self._scanner.wrote(len(data))
        self._run = 0
        self.open()

    # -- the storage ---------------------------------------------------------------------------------------------------

    def _enter(self, wait: bool) -> bool:
        return self._locks.acquire(wait)

    def _leave(self) -> None:
        self._locks.release()

    def _append(self, batch: Sequence[Unsealed]) -> list[int]:
        chain = self._chain
        recovery: dict[str, Any] | None = None
        data = b""
        now = self._clock()
        try:
            # Not fstat before every write: since Linux 6.13 a stat makes the next write pay for a fresh timestamp.
            if now >= self._look_at or not batch or self._seek(self._fd, 0, os.SEEK_END) != self._end:
                data, recovery = self._look()
                self._look_at = now + _LOOK_S
        except OSError as error:
            self._block_for(error)
        except LedgerRefused as error:  # of the lock files, which had to be opened again
            self._block(str(error))
        mark = chain.mark()
        first, written = chain.size, 0
        try:
            if recovery is not None:
                data += chain.seal(self._typed("recovery", recovery))
                first += 1
            data += b"".join([chain.seal(unsealed) for unsealed in batch])
            if data:
                written = self._write(self._fd, data)
                while written < len(data):  # asking for the rest tells why
                    written += self._write(self._fd, data[written:])
        except BaseException as error:
            self._failed(mark, first, data[:written], error)
        if data:
            self._scanner.wrote(written)
        self._end = self._scanner.end
        return list(range(first, chain.size))

    def _sync(self) -> None:
        try:
            self._files.sync(self._fd)
        except OSError as error:
            # The kernel reports a failed write-back once and drops the pages: the next sync would succeed and lie.
            self._hopeless = f"it could not be synced ({error.strerror or error}); check the disk, then restart"
            self._block(self._hopeless)

    def _keep(self, checkpoint: Checkpoint, note: str) -> None:
        """A file of lines has no place for notes; the sidecar has."""

    def _release(self) -> None:
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _look(self) -> tuple[bytes, dict[str, Any] | None]:
        """See whether the file is still ours, fold in what peers wrote, and return how the next write begins."""
        found = self._files.lstat(self.path)
        if (found.st_ino, found.st_dev) != self._place:
            self._block("another file stands at its path; put the ledger back and restart")
        if found.st_size == self._end:
            return b"", None
        if found.st_size < self._scanner.position:
            self._block(
                f"it was cut to {found.st_size} bytes, {self._scanner.position} were written; restart tells more"
            )
        self._locks.renew()
        self.read()
        self._scanner.finish()
        self._check_chain()
        return self._mend()

    def _failed(self, mark: Mark, first: int, written: bytes, error: BaseException) -> NoReturn:
        """A write did not succeed as a whole: believe the file, not the error, and block.

        An error may come after all bytes arrived, and a cut exactly before an LF leaves a whole line.
        """
        self._end = _UNKNOWN
        self._chain.rewind(mark)
        try:
            self.read()
        except OSError:
            self._scanner.feed(written)
        self._scanner.finish()
        if not isinstance(error, OSError):
            raise error
        appended = range(first, max(first, self._chain.size))
        self.written += len(appended)
        self._block(error.strerror or str(error), appended)

    def _block_for(self, error: OSError) -> NoReturn:
        if not isinstance(error, FileNotFoundError):
            self._block(error.strerror or str(error))
        deleted = self._files.fstat(self._fd).st_nlink == 0
        self._block(f"it was {'deleted' if deleted else 'renamed or its directory moved'}; put it back or restart")
