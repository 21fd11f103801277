"""Compress archives in the background, never under the append lock.

Promise: the original goes only when the compressed copy is on the medium, was read back and has the hash that the next
segment states for the original; a file that does not have it stays as it is, for it is evidence. Several processes do
not compress the same file at once, and whatever is interrupted is made whole or removed by the next one that looks.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Sequence

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.descriptor import Descriptor
from mcp_audit.sinks.files import Files, discard, install, open_regular, stands_at, temporary_name, write_all
from mcp_audit.sinks.locks import try_lock

__all__ = ["Compressor", "compress", "content_hash"]

_CHUNK = 1 << 20
_LEVEL = 6
_GZIP = 16 + zlib.MAX_WBITS


class _Stopped(Exception):
    """The process ends; the next one goes on."""


class Compressor:
    """Compresses the archives it is given, one after the other, in a thread of its own.

    Attributes:
        problem: why the last one could not be compressed, "" if it could.
    """

    def __init__(self, files: Files) -> None:
        self.problem = ""
        self._files = files
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str]] = []
        self._thread: threading.Thread | None = None
        self._stopping = False

    def wake(self, uncompressed: Sequence[tuple[str, str]]) -> None:
        """See to these archives: paths and the SHA-256 (hex) of their content; they replace those given before."""
        with self._lock:
            self._waiting = list(uncompressed)
            if self._waiting and self._thread is None and not self._stopping:
                # A daemon: whatever it has not finished at the exit is begun again by the next start.
                self._thread = threading.Thread(target=self._work, name="compress archives", daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait until there is nothing left to do."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def stop(self) -> None:
        """Give up what is under way, soon, and take nothing more."""
        with self._lock:
            self._stopping = True
            self._waiting.clear()
        self.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                path, sha256 = self._waiting.pop(0)
            try:
                compress(self._files, path, sha256, self._check)
            except _Stopped:
                continue  # to the end: nothing is waiting any more
            except (OSError, LedgerRefused) as error:
                self.problem = f"{path} could not be compressed: {getattr(error, 'strerror', None) or error}"
            else:
                self.problem = ""

    def _check(self) -> None:
        if self._stopping:
            raise _Stopped


def compress(files: Files, path: str, sha256: str, check: Callable[[], None] = lambda: None) -> None:
    """Replace an archive by `<path>.gz`; do nothing if it is gone or somebody else is at it.

    Args:
        sha256: of the content that the archive must have.
        check: called now and then; what it raises ends the work without a trace.

    Raises:
        OSError: the disk does not let us, or the archive has other content; the original is as it was.
    """
    try:
        fd, found = open_regular(files, path, os.O_RDONLY)
    except FileNotFoundError:
        return
    file = Descriptor(files, fd)
    try:
        # Retention takes this lock, too: a compressed copy must not outlive the prune of its original.
        if not try_lock(fd) or not stands_at(files, path, found):
            return
        target = path + ".gz"
        if not os.path.lexists(target) or content_hash(files, target, check) != sha256:
            _write_compressed(files, fd, target, sha256, check)
        files.unlink(path)
        files.sync_directory(os.path.dirname(path))
    finally:
        file.close()


def _write_compressed(files: Files, fd: int, target: str, sha256: str, check: Callable[[], None]) -> None:
    temporary = temporary_name(target)
    try:
        out = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            digest, offset = hashlib.sha256(), 0
            packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
            while data := files.read_at(fd, _CHUNK, offset):
                check()
                offset += len(data)
                digest.update(data)
                write_all(files, out, packer.compress(data))
            write_all(files, out, packer.flush())
            files.sync(out)
        finally:
            files.close(out)
        if digest.hexdigest() != sha256:
            raise OSError(0, "its content is not what the next segment says; it stays as it is")
        if content_hash(files, temporary, check) != sha256:
            raise OSError(0, "the compressed copy reads back as something else")
        install(files, temporary, target)
    except BaseException:
        discard(files, temporary)
        raise


def content_hash(files: Files, path: str, check: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 (hex) of what a compressed file holds, "" if it is damaged."""
    fd, _ = open_regular(files, path, os.O_RDONLY)
    try:
        digest, offset = hashlib.sha256(), 0
        unpacker = zlib.decompressobj(_GZIP)
        while data := files.read_at(fd, _CHUNK, offset):
            check()
            offset += len(data)
            try:
                while data:
                    digest.update(unpacker.decompress(data, _CHUNK))
                    data = unpacker.unconsumed_tail
            except zlib.error:
                return ""
        return digest.hexdigest() if unpacker.eof and not unpacker.unused_data else ""
    finally:
        files.close(fd)
