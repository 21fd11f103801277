"""Who may append now, and who is alive: two small files beside the log, held with flock.

`<log>.lock` is held while one process appends; it holds nothing, but its length counts the rotations, so that who has
the lock learns for next to nothing that another file is at the path. `<log>.live` is held shared by every writer for
its whole life; who gets it exclusively is alone. It holds the inode that the log had when it was last signed: a hint
that tells a start whether an empty file at the path is the log, cut, or a new one that a tool put there. The kernel
lets go of both when a process dies, however it dies, also across containers, where process ids mean nothing. Promise:
whoever cannot share safely is refused, not let in: without flock (Windows) the first writer keeps the log to itself.

A flock belongs to the open descriptor, so threads of one process need a mutex beside it.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.files import Files, open_regular, stands_at

__all__ = ["Locks", "try_lock"]

_LOCK_WAIT_S = 10.0
_TRIES = 3  # a verifier holds the presence lock for an instant
_TRY_S = 0.02
_FIRST_PAUSE_S = 0.00005  # a peer writes a batch in about this time


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def try_lock(fd: int) -> bool:
    """Lock an open file against others who ask so, until it is closed; say False if one of them has it."""
    fcntl = _module("fcntl")
    if fcntl is None:  # then this process is the only writer
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Locks:
    """The append lock and the presence lock of one log, for one writer.

    Attributes:
        fd: of the file whose length is what `rotations` returns.
    """

    def __init__(self, files: Files, log: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._files = files
        self._sleep = sleep
        self._fcntl = _module("fcntl")
        self._lock_path, self._live_path = log + ".lock", log + ".live"
        self.fd = -1
        self._live_fd = -1
        try:
            self.fd = self._open(self._lock_path)
            self._live_fd = self._open(self._live_path)
            if self._fcntl is None:
                self._keep_to_ourselves(log)
        except BaseException:
            self.close()
            raise

    def acquire(self, wait: bool) -> bool:
        """Take the append lock and say so; without `wait` give up at once if another process has it."""
        fcntl = self._fcntl
        if fcntl is None:
            return True
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire_within(self, seconds: float) -> bool:
        """Take the append lock and say so; give up after a while, for its holder may have been stopped.

        flock itself waits for ever. Polling costs the append that has to wait a few dozen microseconds.
        """
        pause, waited = _FIRST_PAUSE_S, 0.0
        while not self.acquire(wait=False):
            if waited >= seconds:
                return False
            self._sleep(pause)
            waited += pause
            pause = min(2 * pause, _TRY_S)
        return True

    def release(self) -> None:
        """Let the next process append."""
        if self._fcntl is not None:
            self._fcntl.flock(self.fd, self._fcntl.LOCK_UN)

    def rotations(self) -> int:
        """Return a number that differs after a rotation; call it with the append lock held."""
        return self._files.seek(self.fd, 0, os.SEEK_END)

    def count_rotation(self) -> None:
        """Tell the other writers to look for the file; call it with the append lock held, before the file moves."""
        self._files.truncate(self.fd, self.rotations() + 1)

    def note_inode(self, inode: int) -> None:
        """Remember which file the log is in; call it with the append lock held."""
        with suppress(OSError):  # a start that does not know leaves it to the operator
            self._files.seek(self._live_fd, 0, os.SEEK_SET)
            self._files.write(self._live_fd, b"%020d\n" % inode)

    def noted_inode(self) -> int:
        """Return which file the log was in, 0 if nobody knows."""
        text = self._files.read_at(self._live_fd, 21, 0)
        return int(text) if len(text) == 21 and text[:20].isdigit() else 0

    def acquire_to_start(self) -> bool:
        """Take the append lock and say whether no other writer is alive. `join` before letting go of the lock.

        Raises:
            LedgerRefused: another process does not let go of it.
        """
        for left in reversed(range(_TRIES)):
            if not self.acquire_within(_LOCK_WAIT_S):
                raise self._occupied()
            if self.is_alone():
                return True
            if left:  # not with the lock in hand: peers would wait for nothing
                self.release()
                self._sleep(_TRY_S)
        return False

    def is_alone(self) -> bool:
        """Say whether no other writer is alive; call it with the append lock held.

        Yes: nobody can join until `join` or `close`. No: we are not present any more either until `join`.
        """
        fcntl = self._fcntl
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._live_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def join(self) -> None:
        """Be present from now on."""
        if self._fcntl is not None:
            self._fcntl.flock(self._live_fd, self._fcntl.LOCK_SH)

    def renew(self) -> None:
        """Follow the lock files if somebody removed them, as cleaners of /tmp do; call with the append lock held.

        Two processes that lock two different files of one name would both append.

        Raises:
            LedgerRefused: another process does not let go of the new one.
        """
        if self._fcntl is None:
            return
        if self._is_gone(self._lock_path, self.fd):
            held, self.fd = self.fd, self._open(self._lock_path)
            if not self.acquire_within(_LOCK_WAIT_S):
                self._files.close(self.fd)
                self.fd = held
                raise self._occupied()
            self._files.close(held)
        if self._is_gone(self._live_path, self._live_fd):
            fd = self._open(self._live_path)
            self._fcntl.flock(fd, self._fcntl.LOCK_SH)
            self._live_fd, fd = fd, self._live_fd
            self._files.close(fd)

    def close(self) -> None:
        """Let go of everything."""
        for fd in (self._live_fd, self.fd):
            if fd >= 0:
                self._files.close(fd)
        self._live_fd = self.fd = -1

    def _open(self, path: str) -> int:
        return open_regular(self._files, path, os.O_RDWR | os.O_CREAT)[0]

    def _occupied(self) -> LedgerRefused:
        return LedgerRefused(
            self._lock_path, f"another process has held this lock for {_LOCK_WAIT_S:.0f} s; `fuser` names it", 2
        )

    def _is_gone(self, path: str, fd: int) -> bool:
        return not stands_at(self._files, path, self._files.fstat(fd))

    def _keep_to_ourselves(self, log: str) -> None:
        """Without flock: lock one byte of the presence file for as long as the process lives."""
        msvcrt = _module("msvcrt")
        problem = "this platform has no file locks, so nothing would keep a second writer out; use another one"
        if msvcrt is not None:
            try:
                msvcrt.locking(self._live_fd, msvcrt.LK_NBLCK, 1)
            except OSError:
                problem = "another process writes to it, and this platform cannot share a log; give each its own --log"
            else:
                return
        raise LedgerRefused(log, problem, 2)
