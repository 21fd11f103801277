"""What the ledger's writers share: the life of one run, whatever stores its lines.

A subclass supplies the storage: how to take the append lock, fold in what peers wrote, write lines, sync. This class
supplies the order of things: seal under the lock, block on failure, recover by appending, sign only what was synced,
close. Promise: no line is acknowledged that is not in the storage; a recovery never covers what was already signed; a
checkpoint never replaces a larger one. Long because append, block, recover and sign share one state under one lock.
"""

from __future__ import annotations

import errno
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.entry import Unsealed, encode_typed
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.merkle import EMPTY_ROOT
from mcp_audit.ledger.scan import FORMAT_VERSION, Scanner
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.identity import Identity
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.settings import RotationSettings
from mcp_audit.sinks.sidecar import Sidecar
from mcp_audit.sinks.stamp import Stamp

__all__ = ["LOCKED", "LedgerWriter", "NotNow"]

T = TypeVar("T")

LOCKED = "another process has held its lock for {:g} s; `fuser` on the .lock file names it"
_AGAIN_S = 1.0
_STANDING = ("software", "config_sha256", "policy_sha256")  # what an `open` says about the program, not about the log


class NotNow(Exception):
    """Something must be done first that syncs: the caller must not wait for that, or another thread is syncing."""


class LedgerWriter(ABC):
    """A `LedgerSink` but for its storage. Made by `open_ledger` only.

    Attributes:
        path: the log, absolute.
        origin: the log's name.
        vkey: its verifier key, to be pinned outside the host.
        secrets: what AUDIT_SECRET derives for this log, or None.
        durable: whether an appended line survives a power cut.
        blocked: nothing is appended until `recover` succeeds.
        note: the newest signed checkpoint, "" before the first.
        due: a checkpoint should not wait for its interval (after a recovery).
        written: how many lines this process appended.
    """

    durable = False
    rotation = RotationSettings()
    busy_timeout_ms = 5000  # how long a peer may hold the append lock until that is trouble
    _note_syncs = False  # whether `_keep` syncs the lines that a note covers

    def __init__(self, path: str, identity: Identity, scanner: Scanner, locks: Locks, stamp: Stamp, files: Files):
        self.path = path
        self.origin = identity.origin
        self.vkey = identity.key.vkey
        self.secrets = identity.secrets
        self.blocked = False
        self.note = ""
        self.due = False
        self.written = 0
        self._identity = identity
        self._scanner = scanner
        self._chain = scanner.chain
        self._locks = locks
        self._stamp = stamp
        self._files = files
        self._sidecar = Sidecar(files, path, identity.verifier)
        self._place = (-1, -1)  # inode and device of the file we opened
        self._mutex = threading.RLock()  # flock does not keep threads of one process apart
        self._inside = False  # whoever has the mutex has the append lock as well
        self._publishing = threading.Lock()  # one checkpoint or close at a time; taken before the mutex
        # One sync at a time, taken before the mutex: the kernel tells one of two that a write-back failed, and the
        # other must not believe its own. Who has the mutex takes it without waiting, or puts that off (`NotNow`).
        self._syncing = threading.RLock()
        self._synced = 0  # how many lines are on the medium for certain
        self._members: Mapping[str, Any] = {}  # of our last `open`
        self._cause = ""
        self._hopeless = ""  # only a restart may believe this storage again
        self._signed = Checkpoint(self.origin, 0, EMPTY_ROOT)  # the largest checkpoint we know of
        self._run: int | None = None  # seq of our `open`
        self._closed = False
        self._patient = True  # whoever has the mutex may wait for the disk
        self._tidy = False  # there is nothing to do in the house

    # -- the storage ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def _enter(self, wait: bool) -> bool:
        """Take the append lock; without `wait` return False at once if a peer has it."""

    @abstractmethod
    def _leave(self) -> None:
        """Release the append lock."""

    @abstractmethod
    def _append(self, batch: Sequence[Unsealed]) -> list[int]:
        """With the lock: fold in peers' lines, mend a torn tail, write the batch; an empty batch does the rest of it.

        Raises:
            LedgerUnavailable: through `_block`.
        """

    @abstractmethod
    def _sync(self) -> None:
        """Return when every line written so far is on the medium.

        Raises:
            LedgerUnavailable: through `_block`.
        """

    @abstractmethod
    def _keep(self, checkpoint: Checkpoint, note: str) -> None:
        """Store a signed note inside the storage, durably, if it has a place for notes.

        Raises:
            OSError: it is not there.
        """

    @abstractmethod
    def _release(self) -> None:
        """Close what is open; harmless when nothing is."""

    # -- a LedgerSink --------------------------------------------------------------------------------------------------

    @property
    def _lock_wait_s(self) -> float:
        """How long to wait for a peer; one that was waited for in vain gets another chance soon enough."""
        longest = self.busy_timeout_ms / 1000
        return min(_AGAIN_S, longest) if self.blocked else longest

    @property
    def size(self) -> int:
        """The seq of the next line, as far as this process knows."""
        return self._chain.size

    def append(self, batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        """Seal and write the batch in order and return the seqs of its lines; see `LedgerSink.append`."""
        if not self._mutex.acquire(wait):
            return None
        try:
            if self.blocked:
                raise LedgerUnavailable(self.path, self._cause)
            if not self._enter(wait):
                return None
            try:
                self._patient = wait
                seqs = self._append(batch)
            finally:
                self._patient = True
                self._leave()
            self.written += len(seqs)
            return seqs
        except NotNow:
            if not wait:
                return None
        finally:
            self._mutex.release()
        with self._syncing:  # the other thread's is over
            pass
        return self.append(batch, wait)

    def recover(self) -> None:
        """Try to leave the blocked state: mend the torn tail and write its `recovery`; see `LedgerSink.recover`."""
        with self._mutex:
            if not self.blocked:
                return
            if self._hopeless:
                raise LedgerUnavailable(self.path, self._hopeless)
        self._in_turn(self._unblock)
        self._prepare()

    def sync(self) -> None:
        """Return when every line appended so far is on the medium; see `LedgerSink.sync`."""
        with self._mutex:
            size = self._chain.size
        self._sync_to(size)

    def checkpoint(self, house: bool = True) -> str | None:
        """Sync, sign and publish the state; return the note, or None if nothing was added since the last one.

        Args:
            house: keep it as well.

        Raises:
            LedgerUnavailable: no checkpoint could be made. The sink is blocked only if the log itself is at fault.
        """
        with self._publishing:
            if self._closed:
                return None
            before = self.note
            self._prepare()
            rotated = self.note != before
            note = self._checkpoint()
            if house and not self._tidy:
                self.keep_house()
            return self.note if rotated else note

    def keep_house(self) -> None:
        """See to what is left of old lines, as the settings say; without the lock but for moments.

        Raises:
            LedgerUnavailable: something could not be done; it is tried again. Lines still go in.
        """
        self._tidy = True

    def close(self, reason: str = "shutdown") -> None:
        """Write `close`, settling dead peers if nobody else is alive; checkpoint; release the locks. Once is enough."""
        with self._publishing:
            if self._closed:
                return
            self._closed = True
            try:
                with self._syncing, self._mutex:
                    self._say_goodbye(reason)
                self._checkpoint()
                if not self._tidy:
                    self.keep_house()
            finally:
                self.blocked, self._cause = True, "it was closed"
                with self._mutex:
                    self._release()
                    self._locks.close()

    def _in_turn(self, work: Callable[[], T]) -> T:
        """Do what needs the append lock and may wait for the disk."""
        while True:
            try:
                with self._mutex:
                    if self._inside:
                        return work()
                    self._enter(wait=True)
                    try:
                        return work()
                    finally:
                        self._leave()
            except NotNow:
                with self._syncing:  # the other thread's is over
                    continue

    def _unblock(self) -> None:
        self._append([])
        self.blocked = False
        self._cause = ""

    def _prepare(self) -> None:
        """Do what is due before a checkpoint and after a recovery; for a storage that has such things.

        Raises:
            LedgerUnavailable: through `_block`.
        """
        return

    def _sync_to(self, size: int) -> None:
        """Return when the first `size` lines are on the medium, without a sync if another one covered them."""
        with self._syncing:
            if self._hopeless:
                raise LedgerUnavailable(self.path, self._hopeless)
            if size > self._synced:
                self._sync()
                self._synced = max(self._synced, size)

    # -- the run -------------------------------------------------------------------------------------------------------

    @property
    def scanner(self) -> Scanner:
        """What was read so far; for the start."""
        return self._scanner

    @property
    def key_id(self) -> str:
        """Names our MAC key, "" without a secret."""
        return self._identity.key_id

    def here(self) -> os.stat_result | None:
        """Return what the file at the log's path is if it is the one that is open."""
        try:
            found = self._files.lstat(self.path)
        except FileNotFoundError:
            return None
        return found if (found.st_ino, found.st_dev) == self._place else None

    def resume(self, checkpoint: Checkpoint, note: str) -> None:
        """Take over the newest checkpoint of a log that is gone on with."""
        self._signed, self.note = checkpoint, note

    def abandon(self) -> None:
        """Close what is open without a word; for a start that fails."""
        self._closed = self.blocked = True
        self._release()

    def begin(self, alone: bool, after: str, members: Mapping[str, Any]) -> None:
        """Start our run in a log that exists: mend a torn tail, write `open`, and settle the dead if alone.

        Call it with the append lock held. `open` comes before the orphans: it may bring a new MAC key, under which
        all that follows is sealed.
        """
        self._append([])
        dead = sorted(self._chain.runs) if alone else []
        left = sorted(self._chain.pending) if alone else []
        opening = self._opening(after, {"unclosed": dead or None, **members})
        self._run = self._append([opening, *(self._orphan(seq, "crash") for seq in left)])[0]

    def _opening(self, after: str, members: Mapping[str, Any]) -> Unsealed:
        """Return an `open` line; from it on lines carry our MAC."""
        self._chain.mac = Mac(self.secrets.mac) if self.secrets else None
        self._members = members
        head = {"v": FORMAT_VERSION, "software": members["software"], "vkey": self.vkey}
        rest = {name: value for name, value in members.items() if name != "software"}
        return self._typed("open", {**head, "key_id": self._identity.key_id or None, "after": after, **rest})

    def _reopening(self) -> Unsealed:
        """Return the `open` line that goes on with our run in another file."""
        members = {name: self._members.get(name) for name in _STANDING}
        return self._opening("replaced", members)._replace(of=self._run)

    def _say_goodbye(self, reason: str) -> None:
        """Write `close`. Whoever is alone also says who died without one, and which requests nobody will answer."""
        if self._hopeless:
            raise LedgerUnavailable(self.path, self._hopeless)
        self._enter(wait=True)
        try:
            self._append([])
            self.blocked = False
            assert self._run is not None
            dead: list[int] = []
            lines: list[Unsealed] = []
            if self._locks.is_alone():
                dead = sorted(self._chain.runs - {self._run})
                for seq in sorted(self._chain.pending):
                    lines.append(self._orphan(seq, "crash" if dead or seq < self._run else "exit"))
            lines.append(self._typed("close", {"reason": reason, "unclosed": dead or None}, of=self._run))
            self._append(lines)
            self._locks.join()
        finally:
            self._leave()

    def _orphan(self, seq: int, why: str) -> Unsealed:
        return self._typed("orphan", {"outcome": "lost", "why": why}, of=seq)

    def _typed(self, type_: str, members: Mapping[str, Any], of: int | None = None) -> Unsealed:
        return encode_typed(type_, self._stamp.id(), self._stamp.timestamp(), members, of)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> str | None:
        """Sign synced state only: lock, take size and root, unlock, sync, sign, lock, replace the sidecar, unlock."""
        try:
            if self.blocked:
                raise LedgerUnavailable(self.path, self._cause)
            taken = self._in_turn(self._snapshot)
            if taken is None or self._adopt(taken):
                return None
            self._sign(taken, holding=False)
        except OSError as error:
            raise LedgerUnavailable(self.path, f"no checkpoint: {error.strerror or error}") from error
        return self.note

    def sign_now(self) -> None:
        """Sync, sign and publish the present state; for who holds the append lock.

        Raises:
            OSError: the note is not there.
            LedgerUnavailable: the sync failed.
        """
        if not self._note_syncs:
            self._sync_to(self._chain.size)  # before the state is taken: a rescue adds a line to it
        self._sign(Checkpoint(self.origin, self._chain.size, self._chain.tree.root()), holding=True)

    def _snapshot(self) -> Checkpoint | None:
        self._append([])
        if self._chain.size <= self._signed.size:
            return None
        return Checkpoint(self.origin, self._chain.size, self._chain.tree.root())

    def _sign(self, taken: Checkpoint, holding: bool) -> None:
        if not self._note_syncs:
            self._sync_to(taken.size)
        note = signed_note(taken, self._identity.key)
        self._keep(taken, note)
        temporary = self._sidecar.prepare(note)
        try:
            if holding:
                self._publish(taken, note, temporary)
            else:
                with self._mutex:
                    if not self._locks.acquire_within(self._lock_wait_s):
                        raise OSError(errno.ETIMEDOUT, LOCKED.format(self._lock_wait_s))
                    try:
                        self._publish(taken, note, temporary)
                    finally:
                        self._locks.release()
        finally:
            self._sidecar.discard(temporary)
        self._sidecar.settle()

    def _publish(self, taken: Checkpoint, note: str, temporary: str) -> None:
        """With the lock on small files: replace the sidecar unless it is as large by now."""
        if not self._adopt(taken):
            self._sidecar.publish(temporary)
            self._locks.note_inode(self._place[0])
            self._signed, self.note, self.due = taken, note, False

    def _adopt(self, taken: Checkpoint) -> bool:
        """Say whether a peer has signed as much already, and take over its note."""
        published = self._sidecar.read()
        if published is None or published.checkpoint.size < taken.size:
            return False
        signed, note = published
        if signed.size == taken.size and signed.root != taken.root:
            self._hopeless = (
                f"{self._sidecar.path} signs another tree of the same size; run `mcp-audit verify {self.path}`"
            )
            self._block(self._hopeless)
        self._signed, self.note, self.due = signed, note, False
        return True

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _block(self, cause: str, appended: Sequence[int] = ()) -> NoReturn:
        self.blocked = True
        self._cause = cause
        raise LedgerUnavailable(self.path, cause, tuple(appended))

    def _check_chain(self) -> None:
        """Block if what peers wrote cannot be followed, or must not be mixed with our lines."""
        scanner = self._scanner
        if scanner.fault is not None:
            self._block(f"it was changed by somebody else: {scanner.fault}; run `mcp-audit verify {self.path}`")
        if scanner.future:
            self._block(f"a newer mcp-audit writes to it (format {scanner.future}); restart with that version")
        if self._run is not None and self._chain.key_id != self._identity.key_id:
            self._block("another process writes to it with another AUDIT_SECRET; give both the same and restart")

    def _mend(self) -> tuple[bytes, dict[str, Any] | None]:
        """Return what must be written before the next line, see `Scanner.mend`."""
        if self._scanner.torn() is None:
            return self._scanner.mend(0)
        published = self._sidecar.read()
        signed = max(self._signed.size, published.checkpoint.size if published else 0)
        if self._chain.size < signed:
            self._block(f"lines that were signed are damaged; run `mcp-audit verify {self.path}`")
        self.due = True
        return self._scanner.mend(signed)
