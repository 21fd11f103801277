"""A file of the log that threads may use while a rotation puts another in its place.

Promise: a descriptor is closed only when its last user has let go of it, so no thread ever syncs or reads whatever file
got the same number next. Knows nothing of ledgers.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from types import TracebackType

from mcp_audit.sinks.files import Files

__all__ = ["Descriptor", "Digest"]

_CHUNK = 1 << 20


class Descriptor:
    """An open file. `with descriptor as fd` keeps it open meanwhile; `close` once ends it.

    Raises:
        OSError: EBADF on entering, when it is closed already.
    """

    def __init__(self, files: Files, fd: int) -> None:
        self.fd = fd
        self._files = files
        self._lock = threading.Lock()
        self._users = 1

    def __enter__(self) -> int:
        with self._lock:
            if not self._users:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._users += 1
        return self.fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self._files.close(self.fd)


class Digest:
    """The SHA-256 of a file that grows, taken in steps: a rotation then has only the newest bytes left to read."""

    def __init__(self, files: Files, file: Descriptor) -> None:
        self._files = files
        self._file = file
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._count = 0

    def advance(self, end: int) -> None:
        """Read on, up to the offset `end`; two threads may.

        Raises:
            OSError: the file cannot be read, is shorter or closed.
        """
        with self._file as fd:
            while self._count < end:
                with self._lock:
                    data = self._files.read_at(fd, min(_CHUNK, end - self._count), self._count)
                    if not data and self._count < end:
                        raise OSError(errno.EIO, "it is shorter than what was written")
                    self._hash.update(data)
                    self._count += len(data)

    def of(self, end: int) -> str:
        """Return the digest of the first `end` bytes, as hex. Raises OSError as `advance` does."""
        self.advance(end)
        with self._lock:
            if self._count != end:
                raise OSError(errno.EIO, "it is longer than what was written")
            return self._hash.hexdigest()
