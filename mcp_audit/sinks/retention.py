"""Which archives are too old or too many, and what the `prune` line says about them.

Promise: only a whole beginning of the log goes, and only files whose end and hash the next file states: a gap that
somebody else left is never vouched for. A clock that jumps ahead makes nothing old. Deletes nothing itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from mcp_audit.ledger.merkle import CompactRange
from mcp_audit.ledger.segment import BrokenLine, Segment, prune_members, read_segment
from mcp_audit.ledger.segment_files import SegmentFile, plain_name
from mcp_audit.sinks.rotation import begun_ns, rotated_at
from mcp_audit.sinks.settings import RotationSettings

__all__ = ["Archive", "Retention", "SteadyClock", "archives", "prune_line"]

_DAY_S = 86400


class SteadyClock:
    """The wall clock, but never ahead of where it was at the start plus the time that really passed.

    Args:
        wall, monotonic: seconds; the first since the epoch.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._started = wall() - monotonic()

    def now(self) -> float:
        """Return seconds since the epoch."""
        return min(self._wall(), self._started + self._monotonic())


class Archive(NamedTuple):
    """A file that was put away, and what the one after it says about it: `end` is the seq behind its last line."""

    file: SegmentFile
    end: int
    sha256: str
    after: Segment


@dataclass(slots=True)
class _Kept:
    """Where a log stands behind what was pruned."""

    tree: CompactRange
    pending: set[int]
    runs: set[int]
    key_id: str


def archives(found: Sequence[SegmentFile]) -> list[Archive]:
    """Return the archives, oldest first, up to the first whose successor is missing or names another file.

    Args:
        found: the files of a log in the order of their lines, the active one last.
    """
    known: list[Archive] = []
    for file, following in pairwise(found):
        try:
            segment = read_segment(following.first_line)
        except BrokenLine:
            break
        previous = segment.previous
        if previous is None or previous.start != file.start or segment.start != following.start:
            break
        known.append(Archive(file, segment.start, previous.sha256, segment))
    return known


class Retention:
    """Decides by `max_age_days`, then by `max_files`."""

    def __init__(self, settings: RotationSettings, clock: SteadyClock) -> None:
        self._max_files = settings.max_files
        self._max_age_days = settings.max_age_days
        self._clock = clock

    @property
    def is_on(self) -> bool:
        """Whether anything ever goes."""
        return bool(self._max_files or self._max_age_days)

    def expired(self, known: Sequence[Archive]) -> tuple[list[Archive], str]:
        """Return the archives that are to go, oldest first, and the settings that say so."""
        old = 0
        if self._max_age_days:
            limit = self._clock.now() - self._max_age_days * _DAY_S
            newest = 0.0  # no archive is older than the one before it, though a clock that stood back named it so
            for archive in known:
                newest = max(newest, _put_away_at(archive.file))
                if newest >= limit:
                    break
                old += 1
        count = max(old, len(known) - self._max_files) if self._max_files else old
        rules = [f"max_age_days: {self._max_age_days}"] if old else []
        rules += [f"max_files: {self._max_files}"] if count > old else []
        return list(known[:count]), ", ".join(rules)


def prune_line(going: Sequence[Archive], vkey: str, rule: str) -> dict[str, Any]:
    """Return the members of the `prune` line for archives that go, oldest first."""
    after = going[-1].after
    kept = _Kept(CompactRange(after.start, after.frontier), set(after.pending), set(after.runs), after.key_id)
    segments = [
        {
            "name": os.path.basename(plain_name(archive.file.path)),
            "start": archive.file.start,
            "end": archive.end,
            "sha256": archive.sha256,
        }
        for archive in going
    ]
    return prune_members(kept, vkey, going[0].file.start, rule, segments)


def _put_away_at(file: SegmentFile) -> float:
    """Return the time in a file's name, but none before its first line; its last change, if a tool named it."""
    named = rotated_at(file.path)
    if named is not None:
        return max(named, begun_ns(file.first_line, 0) / 1e9)
    try:
        return os.lstat(file.path).st_mtime
    except OSError:
        return time.time()
