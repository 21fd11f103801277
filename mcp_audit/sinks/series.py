"""The files of a JSONL ledger, one after the other: where the log goes on, and when the next file begins.

Promise: a line goes into the newest file or nowhere; several processes may rotate one log, each by its own settings,
and a tool may rename it. Whatever interrupts a rotation leaves what the next look at the path finishes: the file is
where it was, or renamed, or followed by a new one. Long because these are three answers to one question, which is asked
before a write.
"""

from __future__ import annotations

import os
import stat
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import Previous, segment_members
from mcp_audit.ledger.segment_files import SegmentFile, look_at, plain_name, survey
from mcp_audit.sinks.compress import content_hash
from mcp_audit.sinks.descriptor import Descriptor, Digest
from mcp_audit.sinks.files import Files, discard, install, open_regular, replace, write_aside
from mcp_audit.sinks.following import CannotFollow, follow, read_into, unpack
from mcp_audit.sinks.housekeeping import Housekeeping
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.retention import Archive, SteadyClock, prune_line
from mcp_audit.sinks.rotation import Trigger, archive_path, begun_ns
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.sinks.writer import LedgerWriter, NotNow

__all__ = ["UNKNOWN", "FileSeries"]

UNKNOWN = -1  # no file has this size: the next append reads first
_TIDY_S = 3600.0


class FileSeries(LedgerWriter):
    """What a JSONL sink knows about its files. `JsonlSink` writes into them."""

    def __init__(
        self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files
    ) -> None:
        super().__init__(path, identity, scanner, locks, stamp, files)
        self._file: Descriptor | None = None
        self._fd = -1
        self._end = UNKNOWN  # the size the file has if nobody else wrote
        self._rotations = -1  # what the lock file said when the file was at its path
        self._packed = ""  # the name of the open file's lines, which a tool compressed: what is open has no name
        self._first = 0  # seq of the segment's first line
        self._digest: Digest | None = None
        self._trigger: Trigger | None = None
        self._full = False  # the segment is to be put away by whoever may sync
        self._house: Housekeeping | None = None
        self._tidy_until = 0.0
        self._pruned_before = 0  # what `prune` lines that the scanner did not read let go
        self._clock = time.monotonic
        self._now = stamp.now_ns

    def open(self, path: str = "") -> None:
        """Open the file that exists; an interrupted rotation, or a tool, left it at another path."""
        path = path or self.path
        file = look_at(path) if path != self.path else None
        packed = file is not None and file.gz
        if packed:
            assert file is not None
            fd = unpack(self._files, self.path, file)
        else:
            fd, _ = open_regular(self._files, path, os.O_RDWR | os.O_APPEND)
            file = look_at(path)
        self._stand_on(fd, header=(file.start, file.first_line) if file is not None else (0, b""))
        self._packed = plain_name(path) if packed else ""

    def read(self) -> None:
        """Feed the scanner to the present end of the file; without the lock that may be inside a line."""
        read_into(self._files, self._fd, self._scanner)

    def _release(self) -> None:
        if self._house is not None:
            self._house.stop()
        if self._file is not None:
            self._file.close()
            self._file = None
            self._fd = -1

    @abstractmethod
    def _put(self, lead: bytes, recovery: Mapping[str, Any] | None, batch: Sequence[Unsealed]) -> list[int]:
        """Write what mends the end of the file, then the batch, and return the batch's seqs.

        Raises:
            LedgerUnavailable: through `_block`.
        """

    @abstractmethod
    def _revive(self) -> None:
        """Put the file back, which was deleted but for our descriptor.

        Raises:
            LedgerUnavailable: through `_block`.
        """

    # -- where the file is ---------------------------------------------------------------------------------------------

    def _look(self) -> tuple[bytes, dict[str, Any] | None]:
        """Go to where the log goes on, fold in what peers wrote, and return how the next write begins."""
        found = self.here()
        if found is None or found.st_size != self._end:
            self._locks.renew()
            while (found := self.here()) is None:
                self._go_after()
        self._rotations = self._locks.rotations()
        if found.st_size == self._end:
            return b"", None
        if found.st_size < self._scanner.position:
            self._block(
                f"it was cut to {found.st_size} bytes, {self._scanner.position} were written; restart tells more"
            )
        return self._fold()

    def _fold(self) -> tuple[bytes, dict[str, Any] | None]:
        self.read()
        self._scanner.finish()
        self._check_chain()
        return self._mend()

    def _go_after(self) -> None:
        """Another file, an empty one or none stands at the path.

        Raises:
            NotNow: it takes syncs, and the caller must not wait or another thread syncs.
        """
        if not self._patient:
            raise NotNow
        try:
            found = self._files.lstat(self.path)
        except FileNotFoundError:
            found = None
        if found is not None and (found.st_size or not stat.S_ISREG(found.st_mode)):
            self._follow(self.path)
            return
        newest = next(reversed(survey(self.path).chosen(self.origin)), None)
        if newest is not None and newest.start > self._first:  # peers went on, and a tool renamed what they wrote
            self._follow(newest.path)
            return
        if not self._packed and self._files.fstat(self._fd).st_nlink == 0:
            self._packed = self._packed_by_tool(newest)
            if not self._packed:
                self._revive()
                return
        if not self._syncing.acquire(blocking=False):
            raise NotNow
        try:
            lead, recovery = self._fold()
            if self._packed and (lead or recovery):
                self._block(
                    f"the last line of {self._packed}.gz is torn; rename what `gunzip` makes of it to {self.path}"
                )
            self._put(lead, recovery, [])
            self._begin_next()
        finally:
            self._syncing.release()

    def _packed_by_tool(self, newest: SegmentFile | None) -> str:
        """Return the name of the open file's lines if a tool deleted them only after it compressed all of them."""
        lead, recovery = self._fold()
        if newest is None or not newest.gz or newest.start != self._first or lead or recovery:
            return ""
        assert self._digest is not None
        whole = content_hash(self._files, newest.path) == self._digest.of(self._scanner.end)
        return plain_name(newest.path) if whole else ""

    def _name_now(self) -> str:
        """Return where the open file is: a tool renamed it, or a rotation was interrupted."""
        if self._packed:
            return self._packed
        ours = (self._place[1], self._place[0])
        return next((file.path for file in survey(self.path).others if file.identity == ours), self.path)

    def _follow(self, path: str) -> None:
        """Go over to the newest file of the log, which a peer began; a tool may have renamed it since."""
        with suppress(OSError):  # after a rescue the old file may be unreadable; what counts is what was accepted
            self.read()
        self._scanner.finish()
        self._files.sync_directory(os.path.dirname(self.path))  # whoever renamed may have died before
        published = self._sidecar.read()
        keyring = {self._identity.key_id: Mac(self.secrets.mac)} if self.secrets else {}
        try:
            fd, file, scanner = follow(
                self._files, self.path, path, self._chain, keyring, published.checkpoint if published else None
            )
        except CannotFollow as problem:
            self._block(str(problem))
        except FileNotFoundError:  # renamed meanwhile: look again
            return
        self._stand_on(fd, scanner, (file.start, file.first_line))

    def _stand_on(self, fd: int, scanner: Scanner | None = None, header: tuple[int, bytes] | None = None) -> None:
        """Append to this file from now on.

        Args:
            scanner: what has read it; None: the one there is goes on.
            header: seq and bytes of its first line; None for a copy of the file before.
        """
        if self._file is not None:
            self._file.close()
        found = self._files.fstat(fd)
        self._file, self._fd, self._place = Descriptor(self._files, fd), fd, (found.st_ino, found.st_dev)
        self._digest = Digest(self._files, self._file)
        self._packed = ""
        self._end = UNKNOWN
        if scanner is not None:
            self._pruned_before = self._pruned
            self._scanner, self._chain = scanner, scanner.chain
        if header is not None:
            self._first = max(0, header[0])
            self._full = self._tidy = False
            if self.rotation.max_size_bytes or self.rotation.interval:
                self._trigger = Trigger(self.rotation, begun_ns(header[1], self._now()))

    # -- rotation ------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Rotate if it is time, and read ahead what the next rotation has to hash, so that it is short."""
        digest = self._digest
        if self._trigger is not None and digest is not None:
            with suppress(OSError):  # whoever needs the hash reads again, and tells
                digest.advance(self._scanner.end)
        if self._full and not self.blocked:
            self._rotate()
        if self._clock() >= self._tidy_until:  # archives grow old without anything happening
            self._tidy = False

    def _rotate(self) -> None:
        """Put the segment away, unless a peer was faster.

        Raises:
            LedgerUnavailable: through `_block`; `recover` tries again.
        """
        with self._syncing:  # before the mutex, as whoever syncs does
            self._in_turn(self._rotate_if_full)

    def _rotate_if_full(self) -> None:
        self._append([])
        trigger = self._trigger
        if trigger is not None and trigger.is_due(self._end, self._chain.size - self._first, self._now()):
            self._begin_next()
        self._full = False

    def _begin_next(self) -> None:
        """Put the file away, unless it is away already, and begin the next one; everything is held.

        In this order a crash leaves the file where it was, or away with its note beside it and nothing at the path:
        then the next writer begins the next file. What failed is never believed: `_look` sees what is there.
        """
        files, chain = self._files, self._chain
        mark, temporary, fd, note = None, "", -1, ""
        try:
            self.sign_now()
            if self._signed.size < chain.size:  # the sync failed, and a rescue added a line
                self.sign_now()
            if self._signed.size != chain.size:
                self._block(f"its checkpoint covers other lines than it has; run `mcp-audit verify {self.path}`")
            here = self.here() is not None
            archive = archive_path(files, self.path, self._now(), chain.size) if here else self._name_now()
            if archive != self.path:
                note = archive + ".checkpoint" if here else ""
                replace(files, archive + ".checkpoint", self.note.encode())
            assert self._digest is not None
            previous = Previous(os.path.basename(archive), self._first, self._end, self._digest.of(self._end))
            scanner = Scanner(chain)
            members = segment_members(chain, self.vkey, previous)
            mark, first = chain.mark(), chain.size
            line = chain.seal(self._typed("segment", members))
            temporary = write_aside(files, self.path, line)
            self._locks.count_rotation()
            fd, _ = open_regular(files, temporary, os.O_RDWR | os.O_APPEND)
            if here:
                with suppress(FileNotFoundError):  # a tool was faster; names are hints
                    files.rename(self.path, archive)
            install(files, temporary, self.path)
        except (OSError, LedgerRefused) as error:
            if mark is not None:
                chain.rewind(mark)
            if fd >= 0:
                files.close(fd)
            discard(files, temporary)
            if note and not os.path.lexists(archive):  # or every try, in another second, would leave one
                discard(files, note)
            self._block(f"a new file could not be begun: {getattr(error, 'strerror', None) or error}")
        scanner.wrote(len(line))
        self._stand_on(fd, scanner, (first, line))
        self._end = scanner.end
        self._rotations = self._locks.rotations()
        with suppress(OSError):  # it can wait; the archive is signed
            self.due = True
            self.sign_now()

    # -- retention -----------------------------------------------------------------------------------------------------

    def keep_house(self) -> None:
        """Delete archives that are too old or too many, and compress the others; see `LedgerWriter.keep_house`."""
        if self._house is None:
            clock = SteadyClock(lambda: self._now() / 1e9, self._clock)
            self._house = Housekeeping(self._files, self.path, self.origin, self.rotation, clock)
        house = self._house
        try:
            going, rule = house.going(self._pruned)
            if going:
                self._in_turn(lambda: self._prune(going, rule))
            if house.deletable(self._pruned):
                self._checkpoint()  # a file goes when the line that says so is signed, not before
                house.delete(self._pruned)
            house.compress()
        except OSError as error:
            raise LedgerUnavailable(self.path, f"old archives stay: {error.strerror or error}") from error
        self._tidy = True
        self._tidy_until = self._clock() + _TIDY_S

    @property
    def _pruned(self) -> int:
        """The seq below which all may go, a `prune` line says."""
        return max([self._pruned_before, *(prune.to for prune in self._scanner.prunes)])

    def _prune(self, going: list[Archive], rule: str) -> None:
        """Append the `prune` line, unless a peer has or is about to delete the files."""
        self._append([])
        left = [archive for archive in going if archive.end > self._pruned]
        if left and any(os.path.lexists(plain_name(left[0].file.path) + suffix) for suffix in ("", ".gz")):
            self._append([self._typed("prune", prune_line(left, self.vkey, rule))])
            self._pruned_before = left[-1].end
