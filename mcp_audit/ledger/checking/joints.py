"""Do the files of a log belong together: is each the one that the next goes on from, and is none missing?

Pure. The last file is judged by the newest checkpoint. From there each `segment` line is believed, because it is a leaf
like any other, and it says what the file before it must be; so whoever replaces, cuts or removes a file contradicts a
line that was signed. Where a file and the line about it disagree, the file is at fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from mcp_audit.ledger.checking.segment_check import Finding
from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.notices import Prune
from mcp_audit.ledger.segment_files import SegmentFile, plain_name

__all__ = ["Joined", "Missing", "Part", "join"]


class Part(NamedTuple):
    """One file of a log and what was found in it."""

    file: SegmentFile
    finding: Finding


class Missing(NamedTuple):
    """Lines that no file has: `first` and `last` seq, and the name their last file had, if known."""

    name: str
    first: int
    last: int
    reason: str


@dataclass(slots=True)
class Joined:
    """What was found between the files: `faults` by place in the list."""

    faults: dict[int, str] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def join(parts: Sequence[Part], prunes: Sequence[Prune], strangers: Mapping[str, str]) -> Joined:
    """Compare the end of each file with the beginning of the next.

    Args:
        parts: in order of their lines; of a file that was only hashed the end becomes known here.
        prunes: the `prune` lines that count.
        strangers: files that are called like archives but are none of this log, and what they are.
    """
    joined = Joined()
    if parts:
        _gap(joined, 0, parts[0], prunes, strangers)
    for place in reversed(range(len(parts) - 1)):
        before, after = parts[place], parts[place + 1]
        if after.finding.segment is None:
            continue  # its first line is damaged, which is its own fault and says nothing about others
        if before.finding.nodes is None:
            before.finding.size = after.finding.start
        if before.finding.fault is not None:
            continue
        fault = _misfit(before, after)
        if fault is not None:
            # A line that is itself in doubt accuses nobody.
            if after.finding.fault is None:
                joined.faults[place] = fault
        elif before.finding.size < after.finding.start:
            _gap(joined, before.finding.size, after, prunes, strangers)
    _leftovers(joined, parts, prunes)
    return joined


def _misfit(before: Part, after: Part) -> str | None:
    """Return how a file is not the one that the next goes on from; None also if others are missing between them."""
    found, segment = before.finding, after.finding.segment
    assert segment is not None
    start, previous = segment.start, segment.previous
    says = f"as the segment line at seq {start} in {after.file.name} says"
    if previous is not None and previous.start == found.start and found.size < start:
        return f"seq {found.size} to {start - 1} are missing: the file went on to seq {start - 1}, {says}"
    if found.size > start:
        return f"seq {start} to {found.size - 1} do not belong here: the file ended at seq {start - 1}, {says}"
    if found.size < start:
        return None
    tail = TAIL.search(after.file.first_line)
    if found.nodes is not None and (found.nodes != segment.frontier or tail is None or tail[3] != found.prev):
        return f"seq {found.start} to {start - 1} are not the lines the log goes on from: the file was replaced, {says}"
    state = (frozenset(segment.pending), frozenset(segment.runs), segment.key_id)
    if found.nodes is not None and state != (found.pending, found.runs, found.key_id):
        return f"seq {found.start} to {start - 1} do not end with the open requests, runs and key {says[3:]}"
    if previous is None or previous.start != found.start:
        return f"the file begins at seq {found.start}, not where it began, {says}"
    if previous.bytes != found.length or (found.sha256 and found.sha256 != previous.sha256):
        return f"seq {found.start} to {start - 1}: these are not the {previous.bytes} bytes the file had, {says}"
    return None


def _gap(joined: Joined, first: int, after: Part, prunes: Sequence[Prune], strangers: Mapping[str, str]) -> None:
    """Judge the absence of the lines from `first` up to the beginning of a file."""
    start = after.finding.start
    # Oldest go first, so a prune line lets go all before its end; those about earlier lines went with them.
    allowed = max((p for p in prunes if p.from_ < start), key=lambda prune: prune.to, default=None)
    if start <= first:
        return
    if allowed is not None and start <= allowed.to:
        joined.notices.append(
            f"seq {first} to {start - 1} are gone, as the prune line at seq {allowed.seq} allows ({allowed.rule})"
        )
        return
    first = max(first, allowed.to if allowed else 0)
    segment = after.finding.segment
    previous = segment.previous if segment else None
    name = previous.name if previous else ""
    reason = f"seq {first} to {start - 1} are missing, and no prune line lets them go"
    if previous is not None and previous.start > first:
        reason += "; more than one file is not here"
    found = next((strangers[other] for other in (name, name + ".gz") if other in strangers), "")
    if found:
        reason += f"; the file in this place is not it: {found}"
    joined.missing.append(Missing(name, first, start - 1, reason))


def _leftovers(joined: Joined, parts: Sequence[Part], prunes: Sequence[Prune]) -> None:
    end = max((prune.to for prune in prunes), default=0)
    names = [part.file.name for part in parts if part.finding.fault is None and part.finding.size <= end]
    if names:
        joined.notices.append(f"a prune line lets these files go, but they are still here: {', '.join(names)}")
    for before, after in pairwise(parts):
        named = after.file.name_of(before.file)
        if named and plain_name(before.file.name) != named:
            joined.notices.append(f"{before.file.name} was archived as {named}: it was renamed")
