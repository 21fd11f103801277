"""What is wrong with bytes that are no line of a log, and what of them could be saved.

Pure. A sentence names the entry that should stand there, so that whoever reads it knows which record to doubt.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import NamedTuple

from mcp_audit.ledger.chain import Chain

__all__ = ["TAIL", "BadBytes", "Fault", "Torn", "is_salvageable", "why_broken"]

TAIL = re.compile(
    rb',"log":"([A-Za-z0-9._/-]{1,200})","seq":(0|[1-9][0-9]{0,18}),"prev":"([0-9a-f]{64})"(,"mac":"[0-9a-f]{64}")?\}\Z'
)


class Fault(NamedTuple):
    """The first place where a log does not hold: `line` counts from 1, `seq` is the entry that should stand there."""

    line: int
    seq: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Torn:
    """Bytes at the end of a log that are no line of it.

    Attributes:
        count: how many.
        sha256: their hash, hex.
        salvageable: how many whole lines among them carry a valid MAC (without the key: a whole tail of this log). A
            torn write leaves none or few, an edit many.
        fault: where they begin and what is wrong there.
    """

    count: int
    sha256: str
    salvageable: int
    fault: Fault


class BadBytes:
    """Bytes between two good lines, or at the end, while they are being collected."""

    __slots__ = ("count", "fault", "hash", "salvageable")

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.hash = hashlib.sha256()
        self.count = 0
        self.salvageable = 0

    def add(self, data: bytes) -> None:
        self.hash.update(data)
        self.count += len(data)


def is_salvageable(chain: Chain, line: bytes) -> bool:
    """Say whether a line that does not continue the chain is nevertheless a whole one of this log."""
    if chain.mac is not None:
        return chain.mac.fits(line)
    tail = TAIL.search(line, max(0, len(line) - 400))
    return tail is not None and tail[1].decode() == chain.origin


def why_broken(chain: Chain, line: bytes, why: str) -> str:
    """Return what is wrong with a line in the place of the chain's next one; `why` if nothing here explains it."""
    seq = chain.size
    tail = TAIL.search(line, max(0, len(line) - 400))
    if tail is None:
        return f"seq {seq} is damaged: these bytes are no whole line of a ledger"
    if tail[1].decode() != chain.origin:
        return f"seq {seq} is missing: a line of another log stands here ({tail[1].decode()})"
    if int(tail[2]) != seq:
        return f"seq {seq} is missing: seq {int(tail[2])} stands here"
    if chain.mac is not None and chain.key_id and tail[4] and not chain.mac.fits(line):
        return f"seq {seq} was changed (mac does not match)"
    if tail[3] == chain.prev:
        return f"seq {seq} was changed ({why})"
    if seq:
        return f"seq {seq - 1} or {seq} was changed (prev does not match)"
    return "seq 0 was changed (its prev is not zero)"
