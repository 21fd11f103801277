"""When a segment is full, what its archive is called, and what is beside the log: rotation without its disk work.

Promise: a name is given once, also to an archive that is long pruned, so no note is ever overwritten by that of another
archive. Times are the wall clock's, in UTC. Nothing here locks, writes or renames.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import time

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.checkpoint import BadNote, read_unverified
from mcp_audit.sinks.files import Files, read_small
from mcp_audit.sinks.settings import RotationSettings

__all__ = ["Trigger", "archive_path", "begun_ns", "rotated_at"]

_SECOND_NS = 1_000_000_000
_INTERVALS = {"hourly": 3600, "daily": 86400}
_TIME = re.compile(r"\.([0-9]{8}T[0-9]{6})Z(?:\.[0-9]+)?(?:\.gz)?\Z")
_NEVER = 1 << 63


class Trigger:
    """Says after an append whether the segment is to be put away.

    Args:
        settings: size and interval; with neither it never is.
        begun: nanoseconds since the epoch at which the segment began.
    """

    def __init__(self, settings: RotationSettings, begun: int) -> None:
        self._max_bytes = settings.max_size_bytes or _NEVER
        seconds = _INTERVALS.get(settings.interval, 0)
        second = begun // _SECOND_NS
        # A missed cutoff is not caught up: whatever hour the next line comes in, it makes one archive.
        self._cutoff = (second - second % seconds + seconds) * _SECOND_NS if seconds else _NEVER

    def is_due(self, size: int, lines: int, now: int) -> bool:
        """Say so for a segment of `size` bytes and `lines` lines, its first included; `now` in ns since the epoch."""
        return lines > 1 and (size > self._max_bytes or now >= self._cutoff)


def begun_ns(first_line: bytes, otherwise: int) -> int:
    """Return when a segment began, by its first line, in ns since the epoch; `otherwise` if that does not say."""
    try:
        text = json.loads(first_line)["timestamp"]
        return calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) * _SECOND_NS
    except (ValueError, KeyError, TypeError, RecursionError):
        return otherwise


def archive_path(files: Files, log: str, now: int, size: int) -> str:
    """Return the path of a new archive: `<log>.<time>`, with `.1`, `.2` in the same second.

    Args:
        now: ns since the epoch.
        size: of the tree at its end. A note of that size which has no archive is what an interrupted rotation left;
            its name is used again.
    """
    base = f"{log}.{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now // _SECOND_NS))}"
    number = 0
    while True:
        path = f"{base}.{number}" if number else base
        if not os.path.lexists(path) and not os.path.lexists(path + ".gz") and _is_free(files, path, size):
            return path
        number += 1


def rotated_at(path: str) -> float | None:
    """Return the rotation time in an archive's name, in seconds since the epoch; None for a name without one."""
    found = _TIME.search(path)
    try:
        return float(calendar.timegm(time.strptime(found[1], "%Y%m%dT%H%M%S"))) if found else None
    except ValueError:
        return None


def _is_free(files: Files, path: str, size: int) -> bool:
    note = path + ".checkpoint"
    if not os.path.lexists(note):
        return True
    try:
        return read_unverified((read_small(files, note) or b"").decode("utf-8", "replace")).size == size
    except (BadNote, LedgerRefused, OSError):
        return False
