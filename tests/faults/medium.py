"""A disk that loses what was not synced: the model of a power cut, for every instant of a scenario.

The real files are the page cache. On the medium is only what a sync put there: a file's bytes by `sync`, the names of a
directory by `sync_directory`. As Linux does, a failed sync is reported once and the pages count as clean from then on:
the next sync of that file succeeds and what was dirty is lost all the same.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Literal

from mcp_audit.sinks.files import Files

__all__ = ["Medium", "PowerCut", "Tail"]

Tail = Literal["lost", "half", "zeros", "kept"]


class PowerCut(BaseException):
    """The machine stops here. No handler of errors may catch it."""


class Medium(Files):
    """See above.

    Args:
        cut_at: number of the operation before which the power goes, from 1; 0: never.
        eio_at: number of the operation that fails with EIO, whatever it is; a sync loses its pages.

    Attributes:
        calls: every operation so far, such as `sync audit.jsonl`.
    """

    def __init__(self, cut_at: int = 0, eio_at: int = 0) -> None:
        self.cut_at, self.eio_at = cut_at, eio_at
        self.calls: list[str] = []
        self.down = False
        self._paths: dict[int, str] = {}
        self._content: dict[int, bytearray] = {}  # by inode
        self._lost: dict[int, list[tuple[int, int]]] = {}
        self._names: dict[str, dict[str, int]] = {}  # by directory
        self._held: list[int] = []  # keeps inodes from being used again

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._step(f"open {_short(path)}")
        if flags & os.O_WRONLY:
            flags ^= os.O_WRONLY | os.O_RDWR  # a sync reads what it stores
        fd = super().open(path, flags, mode)
        self._paths[fd] = _short(path)
        return fd

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        self._step(f"write {self._paths[fd]}")
        return os.write(fd, data)

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        self._step(f"rename to {_short(new)}")
        os.replace(old, new)

    def link(self, old: str, new: str) -> None:  # type: ignore[override]
        self._step(f"link {_short(new)}")
        os.link(old, new)

    def unlink(self, path: str) -> None:  # type: ignore[override]
        self._step(f"unlink {_short(path)}")
        self._held.append(os.open(path, os.O_RDONLY))
        os.unlink(path)

    def sync(self, fd: int) -> None:
        name = f"sync {self._paths[fd]}"
        try:
            self._step(name)
        except OSError:
            self._drop_dirty(fd)
            raise
        self._store(fd)

    def sync_directory(self, path: str) -> None:
        self._step("sync directory")
        self._names[path] = _names_in(path)

    def truncate(self, fd: int, length: int) -> None:  # type: ignore[override]
        os.ftruncate(fd, length)

    def restore(self, old: Path, new: Path, tail: Tail, names: Literal["synced", "all"]) -> None:
        """Write what is on the medium to a new directory.

        Args:
            tail: what became of bytes that were not synced.
            names: whether renames that were not synced took effect.
        """
        new.mkdir()
        every = _names_in(str(old))
        found = every if names == "all" else self._names.get(str(old), {})
        inodes = {inode: old / name for name, inode in every.items()}
        for name, inode in found.items():
            data = bytearray(self._content.get(inode, b""))
            if inode in inodes:
                cached = inodes[inode].read_bytes()
                dirty = cached[len(data) :]
                data += {"lost": b"", "half": dirty[: len(dirty) // 2], "zeros": bytes(len(dirty)), "kept": dirty}[tail]
            for start, end in self._lost.get(inode, []):
                data[start:end] = bytes(max(0, min(end, len(data)) - start))
            (new / name).write_bytes(data)
            (new / name).chmod(0o600)

    def release(self) -> None:
        """Let go of what only the model needs."""
        for fd in self._held:
            os.close(fd)
        self._held.clear()

    def _step(self, name: str) -> None:
        if self.down:
            raise PowerCut
        self.calls.append(name)
        if len(self.calls) == self.cut_at:
            self.down = True
            raise PowerCut
        if len(self.calls) == self.eio_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _store(self, fd: int) -> None:
        found = os.fstat(fd)
        kept = self._content.setdefault(found.st_ino, bytearray())
        data = bytearray(self.read_at(fd, found.st_size, 0))
        for start, end in self._lost.get(found.st_ino, []):
            data[start:end] = bytes(end - start)
        kept[:] = data

    def _drop_dirty(self, fd: int) -> None:
        found = os.fstat(fd)
        kept = len(self._content.get(found.st_ino, b""))
        self._lost.setdefault(found.st_ino, []).append((kept, found.st_size))


def _names_in(directory: str) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False)}


def _short(path: str) -> str:
    return os.path.basename(path).partition(".tmp-")[0]
