"""Fakes that several test folders share."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from mcp_audit.sinks.files import Files

T = TypeVar("T")
When = Literal["before", "after"]


class FlakyFiles(Files):
    """The real files, but one operation fails: `after` is the nasty case, an error although it took effect.

    Syncs are counted and not made: no test here cuts the power.

    Args:
        fail_at: number of the operation, from 1; 0: none fails.
        when: before or after it took effect.
        code: what it fails with.

    Attributes:
        calls: every operation so far, such as `write audit.jsonl` or `sql COMMIT`.
        failed: the one that failed.
    """

    def __init__(self, fail_at: int = 0, when: When = "before", code: int = errno.EIO) -> None:
        self.fail_at = fail_at
        self.when = when
        self.code = code
        self.calls: list[str] = []
        self.failed = ""
        self._names: dict[int, str] = {}

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        opened: list[int] = []

        def effect() -> int:
            opened.append(super(FlakyFiles, self).open(path, flags, mode))
            return opened[0]

        try:
            fd = self._do(f"open {_short(path)}", effect)
        except BaseException:
            for leaked in opened:
                os.close(leaked)
            raise
        self._names[fd] = _short(path)
        return fd

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        return self._do(f"write {self._names[fd]}", lambda: os.write(fd, data))

    def sync(self, fd: int) -> None:
        self._do(f"sync {self._names[fd]}", lambda: None)

    def sync_directory(self, path: str) -> None:
        self._do("sync directory", lambda: None)

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        self._do(f"rename to {_short(new)}", lambda: os.replace(old, new))

    def link(self, old: str, new: str) -> None:  # type: ignore[override]
        self._do(f"link {_short(old)}", lambda: os.link(old, new))

    def truncate(self, fd: int, size: int) -> None:  # type: ignore[override]
        self._do("truncate the lock", lambda: os.ftruncate(fd, size))

    def unlink(self, path: str) -> None:  # type: ignore[override]
        self._do(f"unlink {_short(path)}", lambda: os.unlink(path))

    def mkdir(self, path: str, mode: int = 0o777) -> None:  # type: ignore[override]
        self._do(f"mkdir {_short(path)}", lambda: os.mkdir(path, mode))

    def connect(self, path: str) -> sqlite3.Connection:
        files = self

        class Flaky(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                name = f"sql {sql.split('(')[0][:30]}"
                return files._do(name, lambda: super(Flaky, self).execute(_unsynced(sql), *parameters))

            def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                return files._do(f"sql {sql[:20]}", lambda: super(Flaky, self).executemany(sql, *parameters))

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0, factory=Flaky)

    def _do(self, name: str, effect: Callable[[], T]) -> T:
        self.calls.append(name)
        if len(self.calls) != self.fail_at:
            return effect()
        self.failed = name
        if self.when == "after":
            effect()
        if name.startswith("sql"):
            raise sqlite3.OperationalError("disk I/O error")
        raise OSError(self.code, os.strerror(self.code))


class QuickFiles(Files):
    """The real files without syncs, for tests that start hundreds of ledgers."""

    def sync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: str) -> None:
        pass

    def connect(self, path: str) -> sqlite3.Connection:
        class Quick(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                return super().execute(_unsynced(sql), *parameters)

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0, factory=Quick)


class SlowSync(Files):
    """Lets a test act while a sync is under way."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile = meanwhile
        self.syncs = 0

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.syncs += 1
        self.meanwhile()


class NetworkFiles(Files):
    """A directory that claims to be on another kind of filesystem."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def filesystem(self, path: str) -> str:
        return self.kind


def _unsynced(sql: str) -> str:
    return "PRAGMA synchronous=OFF" if sql.startswith("PRAGMA synchronous") else sql


def _short(path: str) -> str:
    return os.path.basename(path).partition(".tmp-")[0]
