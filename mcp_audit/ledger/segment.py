"""Where a file of a log begins and what an older part took with it: the members of `segment` and `prune` lines.

Pure. Promise: such a line holds all that a checker needs to go on from there without the lines before it - the tree so
far as its compact range, what was still open, whose keys are in force - and what it says about them is bound by the
root that every later checkpoint signs. Nothing here decides whether a claim is true; `Chain` and the verifier do.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from mcp_audit.ledger.merkle import CompactRange

__all__ = ["BrokenLine", "Previous", "Segment", "State", "prune_members", "read_segment", "segment_members"]

_HASH_BYTES = 32


class BrokenLine(ValueError):
    """A line is not the one that continues the chain; the message says what does not fit."""


class State(Protocol):
    """Where a log stands; a `Chain` is one."""

    tree: CompactRange
    pending: set[int]
    runs: set[int]
    key_id: str


class Previous(NamedTuple):
    """The file before a segment, uncompressed: its name when it was put away, first seq, size and SHA-256 (hex)."""

    name: str
    start: int
    bytes: int
    sha256: str


class Segment(NamedTuple):
    """The state of a log right before the line with seq `start`.

    Attributes:
        frontier: roots of the perfect subtrees over all leaves before, largest first.
        pending, runs: seqs of requests nobody has answered yet, and of runs that were not closed.
        vkey, key_id: the verifier key, and the MAC key in force ("": none).
        previous: the file before; None in a `prune` line.
    """

    start: int
    frontier: tuple[bytes, ...]
    pending: tuple[int, ...]
    runs: tuple[int, ...]
    vkey: str
    key_id: str
    previous: Previous | None = None


def segment_members(chain: State, vkey: str, previous: Previous) -> dict[str, Any]:
    """Return the members of the `segment` line that comes next in `chain`."""
    return {"start": chain.tree.size, **_state(chain, vkey), "previous": previous._asdict()}


def prune_members(
    at: State, vkey: str, from_: int, rule: str, segments: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the members of a `prune` line: the lines from `from_` up to where `at` stands, exclusive, may go.

    Args:
        at: the chain as it stood right before the first line that stays.
        rule: the setting that says so, such as `max_age_days: 30`.
        segments: name, start, end (exclusive) and sha256 of each file that goes; none for a database.
    """
    gone = {"segments": list(segments)} if segments else {}
    return {"from": from_, "to": at.tree.size, **gone, "rule": rule, **_state(at, vkey)}


def _state(chain: State, vkey: str) -> dict[str, Any]:
    keys = {"vkey": vkey, **({"key_id": chain.key_id} if chain.key_id else {})}
    frontier = [b64encode(node).decode() for node in chain.tree.nodes]
    return {"frontier": frontier, "pending": sorted(chain.pending), "runs": sorted(chain.runs), **keys}


def read_segment(line: bytes) -> Segment:
    """Return what a `segment` or `prune` line says.

    Raises:
        BrokenLine: it is neither, or a member has no sensible value.
    """
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenLine("it is not JSON") from None
    kind = members.get("type") if isinstance(members, dict) else None
    if kind not in ("segment", "prune"):
        raise BrokenLine("it begins no segment")
    try:
        start = _seq(members["start" if kind == "segment" else "to"])
        segment = Segment(
            start,
            tuple(map(_node, _list(members["frontier"]))),
            _seqs(members["pending"], start),
            _seqs(members["runs"], start),
            _text(members["vkey"]),
            _text(members.get("key_id", "")),
            _previous(members["previous"]) if kind == "segment" else None,
        )
    except (KeyError, TypeError, ValueError, NotBase64):
        raise BrokenLine(f"its members are not those of a {kind} line") from None
    if start < 1 or len(segment.frontier) != start.bit_count():
        raise BrokenLine("its frontier does not belong to its start")
    return segment


def _previous(value: object) -> Previous:
    if not isinstance(value, dict):
        raise TypeError
    digest = _text(value["sha256"])
    if len(bytes.fromhex(digest)) != _HASH_BYTES or digest != digest.lower():
        raise ValueError
    return Previous(_text(value["name"]), _seq(value["start"]), _seq(value["bytes"]), digest)


def _node(value: object) -> bytes:
    text = _text(value)
    node = b64decode(text, validate=True)
    if len(node) != _HASH_BYTES or b64encode(node).decode() != text:
        raise ValueError
    return node


def _seqs(value: object, below: int) -> tuple[int, ...]:
    seqs = tuple(map(_seq, _list(value)))
    if list(seqs) != sorted(set(seqs)) or (seqs and seqs[-1] >= below):
        raise ValueError
    return seqs


def _seq(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
