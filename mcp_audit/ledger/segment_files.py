"""The files of one log: its archives beside it and the active file, in the order of their lines.

What a file is, its first line says: an `open` or a `segment` of this log; names are hints, since tools rename and
compress. Reads only first lines, so it costs next to nothing however large the log is. Nothing is verified here.
Imports little, because writers start with every session and look for their archives, too.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from itertools import pairwise
from typing import Any, BinaryIO, cast

from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.regular import open_regular

__all__ = [
    "SegmentFile",
    "Survey",
    "archive_notes",
    "is_archive_name",
    "is_complete",
    "log_of_archive",
    "look_at",
    "plain_name",
    "segment_files",
    "survey",
]

# What the ledger itself keeps beside a log, and beside an archive: never a segment, however it begins.
_OURS = (".checkpoint", ".index", ".key", ".live", ".lock", ".pub")
# What follows the log's name in that of an archive; logrotate's `dateext` writes `-20260611`.
_JOINT = re.compile(r"\.|-[0-9]")
# The old inode after a failed sync, kept as evidence: a copy of the active file, and not to be believed.
_FAILED = re.compile(r"\.failed-[0-9]{8}T[0-9]{6}Z")
_ARCHIVE = re.compile(r"(.+)\.[0-9]{8}T[0-9]{6}Z(?:\.[0-9]+)?(?:\.gz)?", re.DOTALL)
_MAX_NAME = 255 - len(".checkpoint")
_GZIP = b"\x1f\x8b"
_LEADS = (b'{"type":"open",', b'{"type":"segment",')
_BLOCK = 1 << 13
_MAX_FIRST_LINE = 1 << 26  # a `segment` names every open request; a million of them fit


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of a log.

    Attributes:
        path, name: where it is; `name` is the last part of `path`.
        start: seq of its first line; -1 for an active file whose first line does not say.
        origin: the log that its first line names; empty if it names none.
        gz: whether it is compressed.
        first_line: without LF; empty if `start` is -1.
        identity: device and inode, which stay when the file is renamed.
        size: bytes on the disk.
    """

    path: str
    name: str
    start: int
    origin: str
    gz: bool
    first_line: bytes
    identity: tuple[int, int]
    size: int

    @property
    def note_path(self) -> str:
        """Where an archive's own note is: named after the uncompressed file."""
        return plain_name(self.path) + ".checkpoint"

    def previous_name(self) -> str:
        """Return the name that the file before this one had when it was archived; empty if this is the first."""
        return self._previous()[0]

    def name_of(self, before: SegmentFile) -> str:
        """Return the name under which `before` was archived if it is the file right before this one, else nothing."""
        name, start = self._previous()
        return name if start == before.start else ""

    def _previous(self) -> tuple[str, int]:
        if not self.first_line.startswith(_LEADS[1]):
            return "", -1
        try:
            previous = json.loads(self.first_line)["previous"]
            name, start = previous["name"], previous["start"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return "", -1
        known = isinstance(name, str) and isinstance(start, int) and _can_be_called(os.path.basename(name))
        return (os.path.basename(name), start) if known else ("", -1)


@dataclass(frozen=True, slots=True)
class Survey:
    """All that is beside a log and could be a part of it.

    Attributes:
        active: the file at the log's own path, None if there is none or it is empty.
        others: the files beside it that begin like a segment of any log, by `start`; copies included.
        strangers: names of files that are called like an archive of this log but do not begin like one, or cannot be
            read, and what they are.
    """

    active: SegmentFile | None
    others: tuple[SegmentFile, ...]
    strangers: dict[str, str]

    def chosen(self, origin: str) -> list[SegmentFile]:
        """Return one file for each `start` of the log `origin`, in order, the active file last.

        Where several files have the same start, as after a crash while compressing, the one that the next segment
        names is taken, then one that is called like an archive, then the uncompressed one.
        """
        newest_first = [self.active] if self.active is not None else []
        end = self.active.start if self.active is not None and self.active.origin == origin else None
        alike: dict[int, list[SegmentFile]] = {}
        for file in self.others:
            if file.origin == origin and (end is None or file.start < end):
                alike.setdefault(file.start, []).append(file)
        for start in sorted(alike, reverse=True):
            named = newest_first[-1].name_of(alike[start][0]) if newest_first else ""
            newest_first.append(min(alike[start], key=lambda file: _rank(file, named)))
        return newest_first[::-1]


def segment_files(log: str, origin: str | None = None) -> list[SegmentFile]:
    """Return the files of the log at path `log` in the order of their lines, the active one last.

    Args:
        log: path of the active file, which need not be there: a rotation may be under way, or was interrupted.
        origin: whose files are wanted; by default that of the active file, else of the checkpoint beside it.

    Returns:
        Empty if there is nothing. Of a SQLite ledger only the file itself, as `start` -1.

    Raises:
        OSError: the folder or the active file cannot be read.
    """
    found = survey(log)
    if origin is None:
        origin = (found.active.origin if found.active else "") or _origin_of_sidecar(log)
    return found.chosen(origin)


def survey(log: str) -> Survey:
    """Look at the first line of every file that could be a part of the log.

    Raises:
        OSError: the folder or the active file cannot be read.
    """
    others = []
    strangers = {}
    for path in _candidates(log):
        try:
            found = look_at(path)
        except FileNotFoundError:  # renamed or deleted meanwhile; who needs it will miss it and look again
            continue
        except OSError as error:
            strangers[os.path.basename(path)] = f"it cannot be read: {error.strerror or error}"
            continue
        if found is not None and found.start >= 0:
            others.append(found)
        elif found is not None and is_archive_name(path, log):
            strangers[found.name] = "its first line is not that of a segment"
    # Last, because a rotation renames it away: then it is a new file, and its predecessor is missed, not seen twice.
    try:
        active = look_at(log)
    except FileNotFoundError:
        active = None
    others = [file for file in others if active is None or file.identity != active.identity]
    return Survey(active, tuple(sorted(others, key=lambda file: (file.start, file.name))), strangers)


def look_at(path: str) -> SegmentFile | None:
    """Return what one file is by its first line, or None if it is empty.

    Raises:
        OSError: it cannot be read.
    """
    with BufferedReader(cast(RawIOBase, open_regular(path)), _BLOCK) as file:
        found = os.fstat(file.fileno())
        if not found.st_size:
            return None
        gz = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        try:
            line = _first_line(_unzipped(file) if gz else file)
        except (EOFError, zlib.error, ValueError):
            line = b""
    tail = TAIL.search(line, max(0, len(line) - 400)) if line else None
    start, origin = (int(tail[2]), tail[1].decode()) if tail else (-1, "")
    identity = (found.st_dev, found.st_ino)
    return SegmentFile(path, os.path.basename(path), start, origin, gz, line if tail else b"", identity, found.st_size)


def archive_notes(log: str) -> Iterator[str]:
    """Yield the names of the archives of a log whose checkpoints are here, whether the archives are or not."""
    with os.scandir(os.path.dirname(log) or ".") as entries:
        for entry in entries:
            name = entry.name.removesuffix(".checkpoint")
            path = os.path.join(os.path.dirname(log), name)
            if name != entry.name and is_archive_name(path, log) and entry.is_file(follow_symlinks=False):
                yield name


def is_complete(files: Sequence[SegmentFile]) -> bool:
    """Say whether, going by first lines, no file is missing between the beginning of the log and its end."""
    return files[0].start == 0 and all(after.name_of(before) for before, after in pairwise(files))


def plain_name(path: str) -> str:
    """Return the path an archive has, or had, uncompressed."""
    return path.removesuffix(".gz")


def is_archive_name(path: str, log: str) -> bool:
    """Say whether a path is what a rotation of `log` calls an archive: `<log>.<time>[.n][.gz]`."""
    match = _ARCHIVE.fullmatch(path)
    return match is not None and match[1] == log


def log_of_archive(path: str) -> str | None:
    """Return the path of the log that an archive belongs to, or None if the path is not that of an archive.

    A log has its key beside it. An archive is called like one, or a tool renamed it by adding to the log's name.
    """
    if os.path.lexists(path + ".pub"):
        return None
    match = _ARCHIVE.fullmatch(path)
    if match is not None:
        return match[1]
    folder, name = os.path.split(path)
    for end in reversed(range(1, len(name))):
        log = os.path.join(folder, name[:end])
        if _JOINT.match(name, end) and os.path.lexists(log + ".pub"):
            return log
    return None


def _candidates(log: str) -> Iterator[str]:
    folder, name = os.path.split(log)
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            rest = entry.name.removeprefix(name)
            if rest == entry.name or not _JOINT.match(rest) or rest.endswith(_OURS) or _FAILED.match(rest):
                continue
            if entry.is_file(follow_symlinks=False):
                yield os.path.join(folder, entry.name)


def _can_be_called(name: str) -> bool:
    """Say whether a file can have this name; what no ledger wrote must not get as far as a system call."""
    try:
        return 0 < len(os.fsencode(name)) <= _MAX_NAME and "\0" not in name
    except UnicodeEncodeError:
        return False


def _rank(file: SegmentFile, named: str) -> tuple[bool, bool, bool, str]:
    return plain_name(file.name) != named, _ARCHIVE.fullmatch(file.name) is None, file.gz, file.name


def _unzipped(file: Any) -> BinaryIO:
    import gzip  # only where there is compressed data

    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _first_line(file: BinaryIO) -> bytes:
    """Return the first line without LF if it may begin a segment, else nothing."""
    line = file.readline(_BLOCK)
    if not line.startswith(_LEADS):
        return b""
    if len(line) == _BLOCK:
        line += file.readline(_MAX_FIRST_LINE)
    return line.removesuffix(b"\n")


def _origin_of_sidecar(log: str) -> str:
    """Return the name of the log that the checkpoint beside it is about, unverified; empty if there is none."""
    try:
        with open_regular(log + ".checkpoint", follow=False) as file:
            return file.readline(_BLOCK).decode("utf-8", "replace").removesuffix("\n")
    except OSError:
        return ""
