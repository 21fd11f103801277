"""Open the files of one log one after another, in order or backwards, while a writer may be rotating it.

Promise: a rotation, compression or deletion under the reader makes it miss nothing that is there and see nothing twice:
a file is known by its inode, and whoever finds another one at its name looks again. At most one file is open at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from mcp_audit.ledger.evidence import CannotLook, open_bytes
from mcp_audit.ledger.segment_files import (
    SegmentFile,
    Survey,
    is_archive_name,
    log_of_archive,
    look_at,
    plain_name,
    survey,
)

__all__ = ["FileMoved", "files_of", "opened", "segments_backward", "segments_forward"]

_TRIES = 100


class FileMoved(CannotLook):
    """Another file stands at the name by now, or none: look again."""


def files_of(path: str) -> list[SegmentFile]:
    """Return the files of a log in the order of their lines; an archive is returned alone.

    A log of the Go version names itself nowhere: its archives are found by their names.

    Raises:
        CannotLook: there is nothing, or it cannot be read.
    """
    try:
        alone = look_at(path) if log_of_archive(path) is not None else None
        if alone is not None:
            return [alone]
        found = survey(path)
        if _predecessor_missed(found):
            found = survey(path)
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error
    active = found.active
    if active is not None and active.start < 0 and not active.origin:
        return [*_seed_archives(path, found.strangers), active]
    if active is None and not found.others and os.path.exists(path):
        return []  # an empty file
    origin = active.origin if active else next((file.origin for file in reversed(found.others)), "")
    files = found.chosen(origin)
    if not files:
        raise CannotLook(path, "No such file or directory")
    return files


def _predecessor_missed(found: Survey) -> bool:
    """Say whether the file before the active one is not there: pruned, or renamed while we looked around."""
    active = found.active
    if active is None or active.start < 1:
        return False
    name = active.previous_name()
    return all(plain_name(file.name) != name for file in found.others)


def _seed_archives(path: str, strangers: dict[str, str]) -> list[SegmentFile]:
    folder = os.path.dirname(path)
    archives = [os.path.join(folder, name) for name in strangers]
    looked = [look_at(name) for name in sorted(archives, key=_age) if is_archive_name(name, path)]
    return [file for file in looked if file is not None]


def _age(path: str) -> tuple[str, int]:
    """Sort `<log>.<time>.2` before `<log>.<time>.10`."""
    stem, _, number = path.removesuffix(".gz").rpartition(".")
    return (stem, int(number)) if number.isdigit() else (path.removesuffix(".gz"), 0)


@contextmanager
def opened(file: SegmentFile) -> Iterator[BinaryIO]:
    """Open a file for reading from its first byte, decompressed.

    Raises:
        FileMoved: it is not there, or another one is.
        CannotLook: it cannot be opened.
    """
    try:
        stream = open_bytes(file.path)
    except CannotLook as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FileMoved(file.path, error.problem) from error
        raise
    with stream:
        found = os.fstat(stream.fileno())
        if (found.st_dev, found.st_ino) != file.identity:
            raise FileMoved(file.path, "another file has this name by now")
        yield stream


def segments_backward(path: str) -> Iterator[tuple[SegmentFile, BinaryIO]]:
    """Yield the files of a log, the newest first, each open until the next is asked for.

    Raises:
        CannotLook: there is nothing, or it cannot be read.
    """
    files = files_of(path)
    tries = _TRIES
    while files:
        file = files[-1]
        try:
            with opened(file) as stream:
                yield file, stream
        except FileMoved:
            tries -= 1
            if not tries:
                raise
            files = _older(files_of(path), file)
            continue
        files.pop()


def _older(files: list[SegmentFile], wanted: SegmentFile) -> list[SegmentFile]:
    """Of a new list, return `wanted` under the name it has by now, and what is older."""
    if wanted.start < 0:
        return [file for file in files if file.identity == wanted.identity] or files
    return [file for file in files if 0 <= file.start <= wanted.start]


def segments_forward(path: str, from_seq: int = 0) -> Iterator[tuple[SegmentFile, BinaryIO]]:
    """Yield the files of a log, the oldest first, each open until the next is asked for.

    The last one is the newest there is when its end has been read.

    Args:
        from_seq: begin with the file that has this seq, if one has.

    Raises:
        CannotLook: there is nothing, or it cannot be read.
    """
    files = files_of(path)
    while len(files) > 1 and 0 <= files[1].start <= from_seq:
        files.pop(0)
    tries = _TRIES
    while files:
        file = files.pop(0)
        try:
            with opened(file) as stream:
                yield file, stream
        except FileMoved:
            tries -= 1
            if not tries:
                raise
            files = [other for other in files_of(path) if other.start >= file.start or other.start < 0]
            continue
        if not files and file.start >= 0:
            files = [other for other in files_of(path) if other.start > file.start]
