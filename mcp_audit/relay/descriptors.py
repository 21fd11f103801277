"""Raw descriptors in an event loop: read what is there, write all of it, never through a text layer.

`O_NONBLOCK` belongs to the open file, not to the descriptor: it is never set on one that stderr shares (a terminal,
usually), and what was set is restored at exit. Descriptors that cannot be polled - regular files, shared terminals,
any on Windows - are served by a daemon thread each, which never delays our exit.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import sys
import threading
import time

import anyio
from anyio import from_thread, to_thread
from anyio.lowlevel import EventLoopToken, current_token

__all__ = ["Reader", "Writer", "close_quietly", "restore_blocking"]

_log = logging.getLogger("mcp_audit")
_CHUNK = 65536
_made_nonblocking: list[int] = []


def restore_blocking() -> None:
    """Undo every `O_NONBLOCK` that a `Reader` or `Writer` set on a descriptor that is still open."""
    while _made_nonblocking:
        _make_blocking(_made_nonblocking.pop())


def _make_blocking(fd: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.set_blocking(fd, True)


def close_quietly(fd: int) -> None:
    """Close a descriptor; one that is closed already is no error.

    A standard stream is pointed at the null device instead, or the next file opened would become our stdout.
    """
    if fd in _made_nonblocking:
        _made_nonblocking.remove(fd)
        _make_blocking(fd)
    with contextlib.suppress(OSError):
        if fd > 2:
            os.close(fd)
            return
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd)
        os.close(null)


def _make_pollable(fd: int) -> bool:
    """Set `O_NONBLOCK` if that is safe and of use; return whether the event loop can wait for `fd`."""
    if sys.platform == "win32":
        return False
    try:
        mode = os.fstat(fd)
        if stat.S_ISREG(mode.st_mode):
            return False
        if fd != 2 and _same_file(fd, 2):
            return False
        if stat.S_ISCHR(mode.st_mode) and not os.isatty(fd):
            return False  # /dev/null and its like are always ready and refuse epoll
        if os.get_blocking(fd):
            os.set_blocking(fd, False)
            _made_nonblocking.append(fd)
    except OSError:
        return False
    return True


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


class Reader:
    """Reads chunks of up to 64 KiB; `b""` is the end, for good."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._waiting_since: float | None = None
        self._pollable = _make_pollable(fd)
        self._pump: _ThreadPump | None = None

    def quiet_for(self) -> float:
        """Return for how many seconds the peer has kept us waiting: 0 while there is anything to read or deal with."""
        if self._waiting_since is None or (self._pollable and _is_readable(self.fd)):
            return 0.0
        return time.monotonic() - self._waiting_since

    async def read(self) -> bytes:
        """Wait for bytes and return them. A reset counts as the end."""
        self._waiting_since = time.monotonic()
        try:
            return await self._read()
        finally:
            self._waiting_since = None

    async def _read(self) -> bytes:
        if not self._pollable:
            if self._pump is None:
                self._pump = _ThreadPump(self.fd, current_token())
            return await self._pump.next()
        while True:
            try:
                await anyio.wait_readable(self.fd)
                return os.read(self.fd, _CHUNK)
            except (BlockingIOError, InterruptedError):
                continue
            except anyio.ClosedResourceError:
                return b""
            except OSError as error:
                if error.errno in (errno.EIO, errno.ECONNRESET):
                    return b""  # a terminal that hung up, a socket that was reset
                raise

    def close(self) -> None:
        """Close the descriptor; whoever waits in `read` gets the end."""
        if self._pollable:
            anyio.notify_closing(self.fd)
        close_quietly(self.fd)


def _is_readable(fd: int) -> bool:
    if sys.platform == "win32":
        return False
    look = select.poll()
    look.register(fd, select.POLLIN)
    return bool(look.poll(0))


class Writer:
    """Writes whole messages, one at a time: errors of ours never land inside a line of the peer."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.closed = False
        self._pollable = _make_pollable(fd)
        self._lock = anyio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of `data`, surviving short writes.

        Raises:
            BrokenPipeError: the peer reads no more, the writer was closed, or writing fails for another reason.
            ConnectionResetError: the peer is gone.
        """
        try:
            self._lock.acquire_nowait()  # nobody else writes: the common case does not wait
        except anyio.WouldBlock:
            await self._lock.acquire()
        try:
            if self.closed:
                raise BrokenPipeError(errno.EPIPE, "closed")
            if self._pollable:
                await self._write_all(data)
            else:
                await to_thread.run_sync(_write_all, self.fd, data, abandon_on_cancel=True)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError as error:  # a file that stands where a peer should, on a disk that is full
            _log.warning("descriptor %d cannot be written (%s); it counts as closed", self.fd, error.strerror)
            raise BrokenPipeError(errno.EPIPE, "cannot be written") from error
        finally:
            self._lock.release()

    async def _write_all(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                sent = os.write(self.fd, rest)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            try:
                await anyio.wait_writable(self.fd)
            except anyio.ClosedResourceError:
                raise BrokenPipeError(errno.EPIPE, "closed") from None

    def close(self) -> None:
        """Close the descriptor, which is how the peer learns that nothing more comes."""
        if not self.closed:
            self.closed = True
            if self._pollable:
                anyio.notify_closing(self.fd)
            close_quietly(self.fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


class _ThreadPump:
    """A daemon thread that reads ahead by one chunk, for descriptors that the event loop cannot wait for."""

    def __init__(self, fd: int, token: EventLoopToken) -> None:
        self._fd = fd
        self._token = token
        self._chunk: bytes | None = None
        self._ready = anyio.Event()
        self._taken = threading.Semaphore(1)
        threading.Thread(target=self._run, name=f"read-{fd}", daemon=True).start()

    async def next(self) -> bytes:
        """Return the next chunk, `b""` at the end and ever after."""
        await self._ready.wait()
        chunk = self._chunk or b""
        if chunk:
            self._ready = anyio.Event()
            self._taken.release()
        return chunk

    def _run(self) -> None:
        while True:
            self._taken.acquire()
            try:
                chunk = os.read(self._fd, _CHUNK)
            except OSError:
                chunk = b""
            try:
                from_thread.run_sync(self._deliver, chunk, token=self._token)
            except RuntimeError:
                return  # the event loop has ended
            if not chunk:
                return

    def _deliver(self, chunk: bytes) -> None:
        self._chunk = chunk
        self._ready.set()
