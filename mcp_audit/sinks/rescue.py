"""The rescue copy: all of a log on fresh blocks, after a sync failed or the file was deleted under its writer.

A kernel reports a failed write-back once and drops the pages: the next sync of that file would succeed and lie. What
was written can still be read from the open descriptor, so it is copied, compared with what the writer remembers, synced
elsewhere and given the log's name. Promise: the name changes hands only when the copy is whole and on the medium; the
old file keeps all its bytes, under `<log>.failed-<time>`; an interruption leaves the old log or the new one in place,
and a second name of the old one at most, which the next start removes. For who holds the append lock.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from mcp_audit.ledger.scan import Scanner
from mcp_audit.sinks.files import Files, discard, stands_at, temporary_name, write_all

__all__ = ["Copy", "copy_log", "failed_names", "install_copy", "is_second_name_ours", "settle_interrupted"]

_CHUNK = 1 << 20
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


class Copy(NamedTuple):
    """A synced copy that has no name yet but a temporary one; `fd` is open for appending."""

    fd: int
    temporary: str


def copy_log(files: Files, log: str, fd: int, scanner: Scanner, size: int, root: bytes, tail: bytes) -> Copy:
    """Copy a log from an open descriptor, add `tail`, and sync that.

    Args:
        scanner: a fresh one, which reads the copied bytes.
        size, root: of the tree that it must find in them.
        tail: sealed lines that the new file begins its further life with.

    Raises:
        OSError: it cannot be written, or what is read is not what was written once; nothing is left behind then.
    """
    temporary = temporary_name(log)
    new = files.open(temporary, _FLAGS, 0o600)
    try:
        while data := files.read_at(fd, _CHUNK, scanner.position):
            scanner.feed(data)
            if scanner.fault is not None:
                break
            write_all(files, new, data)
        if scanner.torn() is not None or scanner.chain.size != size or scanner.chain.tree.root() != root:
            raise OSError(errno.EIO, "what the disk gives back is not what was written")
        write_all(files, new, tail)
        files.sync(new)
    except BaseException:
        files.close(new)
        discard(files, temporary)
        raise
    return Copy(new, temporary)


def install_copy(files: Files, log: str, copy: Copy, timestamp: str) -> str:
    """Give a copy the log's name, and what stands there now another one; return that, "" if nothing stands there.

    Args:
        timestamp: RFC 3339, for the other name.

    Raises:
        OSError: the old log stands where it stood, or the new one's name may not survive a power cut.
    """
    kept = ""
    try:
        if os.path.lexists(log):
            kept = _keep(files, log, timestamp)
        _rename(files, copy, log)
    except BaseException:
        if kept:
            discard(files, kept)  # or the log had two names, and no start would take it
        discard(files, copy.temporary)
        raise
    files.sync_directory(os.path.dirname(log))
    return kept


def failed_names(log: str) -> list[str]:
    """Return the paths of what rescues left beside a log, oldest first."""
    directory, name = os.path.split(log)
    shape = re.compile(rf"{re.escape(name)}\.failed-[0-9]{{8}}T[0-9]{{6}}Z(\.[0-9]+)?")
    return [os.path.join(directory, entry) for entry in sorted(os.listdir(directory or ".")) if shape.fullmatch(entry)]


def is_second_name_ours(files: Files, log: str, found: os.stat_result) -> bool:
    """Say whether a log has a second name that a rescue gave it: one that is under way, or was interrupted."""
    return found.st_nlink == 2 and stat.S_ISREG(found.st_mode) and bool(_names_of(files, log, found))


def settle_interrupted(files: Files, log: str) -> None:
    """Remove the second name that a rescue gave the log before it was interrupted; for a start, with the lock."""
    try:
        found = files.lstat(log)
    except FileNotFoundError:
        return
    if is_second_name_ours(files, log, found):
        files.unlink(_names_of(files, log, found)[0])


def _names_of(files: Files, log: str, found: os.stat_result) -> list[str]:
    return [other for other in failed_names(log) if stands_at(files, other, found)]


def _keep(files: Files, log: str, timestamp: str) -> str:
    base = f"{log}.failed-{re.sub(r'[-:]', '', timestamp.partition('.')[0])}Z"
    number = 0
    while True:
        kept = f"{base}.{number}" if number else base
        try:
            files.link(log, kept)
        except FileExistsError:
            number += 1
        else:
            return kept


def _rename(files: Files, copy: Copy, log: str) -> None:
    try:
        files.rename(copy.temporary, log)
    except OSError:
        if not stands_at(files, log, files.fstat(copy.fd)):  # some fail after they took effect
            raise
