"""The ledger as a JSONL file: lock, look, seal, one write, unlock.

Promise: a batch is one write at the end of the file; bytes that are there are never changed, and what a failed write
left behind is read back before anything is said about it. Several processes may share the file.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NoReturn

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.chain import Chain, Mark
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner
from mcp_audit.sinks.descriptor import Descriptor
from mcp_audit.sinks.files import Files, install, write_aside
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.rescue import copy_log, install_copy
from mcp_audit.sinks.series import UNKNOWN, FileSeries
from mcp_audit.sinks.setaside import is_seed_log
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.sinks.writer import LOCKED

__all__ = ["JsonlSink"]

_log = logging.getLogger("mcp_audit")

_LOOK_S = 0.001  # how long the file counts as still being at its path


class JsonlSink(FileSeries):
    """See `LedgerWriter`; made by `open_ledger`."""

    def __init__(
        self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files
    ) -> None:
        super().__init__(path, identity, scanner, locks, stamp, files)
        self._look_at = 0.0
        # Bound once: these run for every message.
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

    # -- a LedgerSink --------------------------------------------------------------------------------------------------

    def append(self, batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        """Append, then rotate if it is time; without `wait`, the next call that may wait does that."""
        overdue = self._full
        if overdue:
            if not wait:
                return None
            self._rotate()
        seqs = super().append(batch, wait)
        trigger = self._trigger
        if trigger is not None and seqs and trigger.is_due(self._end, self._chain.size - self._first, self._now()):
            self._full = True
            if wait and not overdue:
                with suppress(LedgerUnavailable):  # the batch is in; the next one is told
                    self._rotate()
        return seqs

    # -- the storage ---------------------------------------------------------------------------------------------------

    def _enter(self, wait: bool) -> bool:
        if not wait:
            self._inside = self._locks.acquire(wait=False)
        elif not self._locks.acquire_within(self._lock_wait_s):
            self._block(LOCKED.format(self._lock_wait_s))
        else:
            self._inside = True
        return self._inside

    def _leave(self) -> None:
        self._inside = False
        self._locks.release()

    def _append(self, batch: Sequence[Unsealed]) -> list[int]:
        lead, recovery = b"", None
        now = self._clock()
        try:
            # Not fstat before every write: since Linux 6.13 a stat makes the next write pay for a fresh timestamp.
            if (
                now >= self._look_at
                or not batch
                or self._seek(self._fd, 0, os.SEEK_END) != self._end
                or self._seek(self._locks.fd, 0, os.SEEK_END) != self._rotations
            ):
                lead, recovery = self._look()
                self._look_at = now + _LOOK_S
        except OSError as error:
            self._block(error.strerror or str(error))
        except LedgerRefused as error:  # of the lock files, which had to be opened again
            self._block(str(error))
        return self._put(lead, recovery, batch)

    def _put(self, lead: bytes, recovery: Mapping[str, Any] | None, batch: Sequence[Unsealed]) -> list[int]:
        """Write what mends the end of the file, then the batch, and return the batch's seqs."""
        chain = self._chain
        data = lead
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
        while True:
            file = self._file
            assert file is not None
            try:
                with file as fd:
                    self._files.sync(fd)
                return
            except OSError as error:
                if file is self._file:  # else a peer had it synced before it put another one in its place
                    self._rescue(file, error)

    def _rescue(self, failed: Descriptor, error: OSError) -> None:
        """A sync failed: go on in a copy of the file, which is synced, or, if a peer made one, in that.

        The kernel reports a failed write-back once and drops the pages: the next sync would succeed and lie.
        """
        problem = f"it could not be synced ({error.strerror or error})"
        try:
            if not self._synced:
                raise error  # at the start, when nothing depends on it yet
            self._in_turn(lambda: self._go_on_in_copy(failed, problem))
        except (OSError, LedgerRefused, LedgerUnavailable) as second:
            why = "" if second is error else f" nor copied ({getattr(second, 'cause', '') or second})"
            self._hopeless = f"{problem}{why}; check the disk, then restart"
            self._block(self._hopeless)

    def _go_on_in_copy(self, failed: Descriptor, problem: str) -> None:
        self._append([])
        if self._file is failed:
            self._copy(problem)

    def _copy(self, problem: str) -> None:
        files, chain = self._files, self._chain
        root, mark = chain.tree.root(), chain.mark()
        try:
            line = chain.seal(self._reopening()) if self._run in chain.runs else b""  # nothing goes on after `close`
            keyring = {self._identity.key_id: Mac(self.secrets.mac)} if self.secrets else {}
            scanner = Scanner(Chain(self.origin, keyring=keyring))
            copy = copy_log(files, self.path, self._fd, scanner, mark.size, root, line)
            self._locks.count_rotation()
            kept = install_copy(files, self.path, copy, self._stamp.timestamp())
        except BaseException:
            chain.rewind(mark)
            raise
        self._stand_on(copy.fd)
        self._scanner.wrote(len(line))
        self._end = self._scanner.end
        self._rotations = self._locks.rotations()
        self._synced = chain.size
        self.written += bool(line)
        self.due = True
        _log.warning(
            "%s: %s; all of it is in a new file now%s", self.path, problem, kept and f", the old one is {kept}"
        )

    def _keep(self, checkpoint: Checkpoint, note: str) -> None:
        """A file of lines has no place for notes; the sidecar has."""

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _revive(self) -> None:
        """The file was deleted, but for our descriptor, which still has it all."""
        problem = "it was deleted"
        try:
            if self._run is None:
                raise OSError(errno.ENOENT, "while it was being opened")
            self._put(*self._fold(), [])
            self._copy(problem)
        except OSError as error:
            self._block(f"{problem} and cannot be put back ({error.strerror or error}); put it back or restart")

    def _failed(self, mark: Mark, first: int, written: bytes, error: BaseException) -> NoReturn:
        """A write did not succeed as a whole: believe the file, not the error, and block.

        An error may come after all bytes arrived, and a cut exactly before an LF leaves a whole line.
        """
        self._end = UNKNOWN
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
