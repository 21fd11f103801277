"""The chain of a log: seal new lines, follow lines that others sealed.

Pure: bytes in, bytes out; no files, no clock. Every hash covers the exact bytes of a line without its LF. A line's
RFC 6962 leaf hash is also the `prev` of the next line, so one hash serves chain and tree. A line that does not fit
changes nothing.
"""

from __future__ import annotations

import json
from binascii import hexlify
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.mac import MAC_BYTES, MAC_LEAD, Mac
from mcp_audit.ledger.merkle import CompactRange
from mcp_audit.ledger.segment import BrokenLine, Segment, read_segment

__all__ = ["NO_PREV", "OF_LEAD", "BrokenLine", "Chain", "Mark", "of_before"]

NO_PREV = b"0" * 64
OF_LEAD = b',"of":'
_TYPED = b'{"type":"'
_EXCHANGE = b'{"id":"'
_OPEN = b'{"type":"open"'


class Mark(NamedTuple):
    """A state of a `Chain` to rewind to; only the newest one can be."""

    size: int
    nodes: tuple[bytes, ...]
    prev: bytes
    key_id: str


class Chain:
    """Where a log stands: its origin, its tree, the last leaf, and what is still open.

    Args:
        origin: the log's name.
        mac: seals new lines; without it they get no MAC.
        tree, prev: where the chain starts, if not at the log's first line.
        keyring: MAC keys by key_id, for following lines sealed under several secrets. Given one, an `open` that
            names a key_id sets `mac` to that key, or to None if the keyring lacks it: its lines are then followed
            with their MACs unchecked. Without one `mac` judges all.

    Attributes:
        tree: the compact range over all lines so far; `tree.size` is the seq of the next line.
        pending: seqs of `request` lines that no line has closed yet.
        runs: seqs of `open` lines whose run has not been closed.
        key_id: of the last `open` line; lines must carry a MAC while it is not empty.
    """

    __slots__ = ("_keyring", "_undo", "key_id", "log_lead", "mac", "origin", "pending", "prev", "runs", "tree")

    def __init__(
        self,
        origin: str,
        mac: Mac | None = None,
        tree: CompactRange | None = None,
        prev: bytes = NO_PREV,
        keyring: Mapping[str, Mac] | None = None,
    ) -> None:
        self.origin = origin
        self.log_lead = b',"log":"%s","seq":' % origin.encode("ascii")
        self.mac = mac
        self._keyring = keyring
        self.tree = tree or CompactRange()
        self.prev = prev
        self.pending: set[int] = set()
        self.runs: set[int] = set()
        self.key_id = ""
        # How to take back what happened to `pending` and `runs` since the last mark; None while there is no mark.
        # Copying the sets for every append would cost as much as there are calls in flight.
        self._undo: list[tuple[set[int], int, bool]] | None = None

    @property
    def size(self) -> int:
        """How many lines there are, which is the seq of the next one."""
        return self.tree.size

    def stand_at(self, segment: Segment, prev: bytes) -> None:
        """Begin in the middle of a log: right before the line that `segment` is about. Only a fresh chain can.

        Args:
            prev: leaf of the line before, hex, as the first line that is there has it.

        Raises:
            BrokenLine: the two contradict each other.
        """
        if self.tree.size:
            raise ValueError("only a chain without lines can begin at a segment")
        if segment.start & 1 and hexlify(segment.frontier[-1]) != prev:
            raise BrokenLine("its prev is not the last leaf of its frontier")
        self.tree = CompactRange(segment.start, segment.frontier)
        self.prev = prev
        self.pending.update(segment.pending)
        self.runs.update(segment.runs)
        self.key_id = segment.key_id
        if self._keyring is not None:
            self.mac = self._keyring.get(segment.key_id)

    def copy(self) -> Chain:
        """Return an independent chain that stands where this one does, without its mark."""
        chain = Chain(self.origin, self.mac, self.tree.copy(), self.prev, self._keyring)
        chain.pending, chain.runs, chain.key_id = set(self.pending), set(self.runs), self.key_id
        return chain

    def mark(self) -> Mark:
        """Return the present state, for `rewind`."""
        self._undo = []
        return Mark(self.tree.size, tuple(self.tree.nodes), self.prev, self.key_id)

    def unmark(self) -> None:
        """Drop the newest mark. A long `follow` needs this: what could be taken back is kept in memory."""
        self._undo = None

    def rewind(self, mark: Mark) -> None:
        """Go back to the newest mark, because lines sealed since did not reach the disk."""
        self.tree = CompactRange(mark.size, mark.nodes)
        self.prev = mark.prev
        self.key_id = mark.key_id
        for seqs, seq, was_in in reversed(self._undo or ()):
            (seqs.add if was_in else seqs.discard)(seq)
        self._undo = []

    def seal(self, unsealed: Unsealed) -> bytes:
        """Give a line its place: return it whole, LF included, and advance."""
        body, of = unsealed
        head = body if of is None else body + OF_LEAD + b"%d" % of
        head += self.log_lead + b'%d,"prev":"%s"' % (self.tree.size, self.prev)
        line = head + MAC_LEAD + self.mac.hexdigest(head + b"}") + b'"}' if self.mac else head + b"}"
        if line.startswith(_TYPED):
            kind = _kind(line)
            self._track(kind, _members(line) if kind in (b"open", b"close") else {}, of)
        elif of is not None:
            self._remove(self.pending, of)
        self._advance(line)
        return line + b"\n"

    def follow(self, line: bytes) -> None:
        """Advance past a line that somebody else sealed, given without its LF.

        The MAC is checked if this chain has the key; without it, only its presence is.

        Raises:
            BrokenLine: the line does not continue this chain; nothing has changed.
        """
        typed = line.startswith(_TYPED)
        if line.startswith(_OPEN):
            self._follow_open(line)
            return
        of = self._place(line, self.mac, self.key_id)
        if not typed and not line.startswith(_EXCHANGE):
            raise BrokenLine("it begins like no line of a ledger")
        if typed:
            kind = _kind(line)
            if kind == b"segment":
                self._agree(read_segment(line))
            self._track(kind, _members(line) if kind == b"close" else {}, of)
        elif of is not None:
            self._remove(self.pending, of)
        self._advance(line)

    def advance(self, leaves: list[bytes], prev: bytes) -> None:
        """Go past lines that were found to fit, given their leaves and the last leaf as hex. `leaves` is used up."""
        self.tree.extend(leaves)
        self.prev = prev

    def _follow_open(self, line: bytes) -> None:
        """An `open` may name a new key, which already authenticates it. A log gains MACs so; it never loses them."""
        members = _members(line)
        key_id = members.get("key_id", "")
        if not isinstance(key_id, str) or (self.key_id and not key_id):
            raise BrokenLine("it opens a run without key_id although the log has MACs")
        mac = self.mac if self._keyring is None else self._keyring.get(key_id)
        of = self._place(line, mac, key_id)
        self._track(_kind(line), members, of)
        self.mac = mac
        self._advance(line)

    def _agree(self, segment: Segment) -> None:
        """Require a segment to begin in the state that the lines before it left."""
        found = (self.tree.size, tuple(self.tree.nodes), self.pending, self.runs, self.key_id)
        start, frontier, pending, runs, _, key_id, _ = segment
        if found != (start, frontier, set(pending), set(runs), key_id):
            raise BrokenLine("its start, frontier, pending, runs or key_id are not those of the lines before it")

    def _place(self, line: bytes, mac: Mac | None, key_id: str) -> int | None:
        """Check that a line stands where it belongs and return its `of`: one comparison proves log, order and link."""
        expected = self.log_lead + b'%d,"prev":"%s"' % (self.tree.size, self.prev)
        if key_id:
            end = len(line) - MAC_BYTES
            if not line.startswith(MAC_LEAD, end) or not line.endswith(b'"}'):
                raise BrokenLine("it has no mac although the log has one since its last open")
        else:
            end = len(line) - 1
            if not line.endswith(b"}"):
                raise BrokenLine("it is not a whole line")
        if end < 0 or not line.endswith(expected, 0, end):
            raise BrokenLine("it does not follow the line before it (log, seq or prev)")
        if key_id and mac is not None and mac.hexdigest(line[:end] + b"}") != line[-66:-2]:
            raise BrokenLine("its mac does not match")
        return of_before(line, end - len(expected))

    def _advance(self, line: bytes) -> None:
        leaf = sha256(b"\x00" + line).digest()
        self.prev = hexlify(leaf)
        self.tree.add(leaf)

    def _add(self, seqs: set[int], seq: int) -> None:
        seqs.add(seq)
        if self._undo is not None:
            self._undo.append((seqs, seq, False))

    def _remove(self, seqs: set[int], seq: int) -> None:
        if seq in seqs:
            seqs.remove(seq)
            if self._undo is not None:
                self._undo.append((seqs, seq, True))

    def _track(self, kind: bytes, members: Mapping[str, Any], of: int | None) -> None:
        """Follow what a line with a type opens and closes. Only rare lines are parsed."""
        if kind == b"request":
            self._add(self.pending, self.tree.size)
        elif kind == b"orphan":
            if of is not None:
                self._remove(self.pending, of)
        elif kind in (b"open", b"close"):
            for closed in members["unclosed"]:
                self._remove(self.runs, closed)
            if kind == b"close" and of is not None:
                self._remove(self.runs, of)
            elif kind == b"open":
                # An open with `of` (after "replaced") goes on with a run: its close names the run's first open.
                if of is None:
                    self._add(self.runs, self.tree.size)
                self.key_id = members.get("key_id", "")


def _kind(line: bytes) -> bytes:
    return line[len(_TYPED) : line.find(b'"', len(_TYPED))]


def _members(line: bytes) -> dict[str, Any]:
    """Return the members of a rare line; `unclosed` is always there, a list of seqs."""
    try:
        members: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        raise BrokenLine("it is not JSON") from None
    unclosed = members.setdefault("unclosed", [])
    if not isinstance(unclosed, list) or not all(isinstance(seq, int) for seq in unclosed):
        raise BrokenLine("its unclosed is no list of seqs")
    return members


def of_before(line: bytes, end: int) -> int | None:
    """Return N of a `,"of":N` that ends at `end`. Payload text cannot look like that: it would end in a quote."""
    start = line.rfind(OF_LEAD, max(end - len(OF_LEAD) - 20, 0), end)
    if start >= 0:
        digits = line[start + len(OF_LEAD) : end]
        if digits.isdigit():
            return int(digits)
    return None
