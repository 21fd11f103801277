"""Fold the bytes of a log into its chain: where it ends, what is torn, what contradicts its checkpoint.

Sans I/O: feed bytes, ask afterwards. Both the checker and the start of a writer use it, so they cannot disagree about
what is intact. Promise: constant memory but for one line and what is still open; a line counts only if it continues
the chain; bytes that are no such line are accepted only if the next good line is a `recovery` that describes them.
Long because the offsets, the held bytes and the bad bytes are one invariant: together they are `position`.

How a writer uses it:

    chain = Chain(origin, mac, keyring={key_id: mac})     # keyring={} without a secret
    scanner = Scanner(chain, watch=[checkpoint.size])     # the sidecar, read before the log
    for chunk in chunks_of(log):
        scanner.feed(chunk)                               # without the lock
    ...                                                   # take the append lock, feed what peers added meanwhile
    scanner.finish()                                      # under the lock no line is still being written
    sentence = scanner.contradiction(checkpoint)          # not None: tampered with, refuse
    lead, recovery = scanner.mend(checkpoint.size)        # what the next write starts with
    data = lead + (chain.seal(a `recovery` line with these members) if recovery else b"")
    data += chain.seal(...)                               # and so on; write it at the end of the file
    scanner.wrote(len(data))

To catch up under the lock: read from `scanner.position`, `feed`, `finish`, look at `fault`, compare `chain.key_id` with
one's own (a foreign one: stop), `mend`. After a short write: `chain.rewind(mark)`, then feed what did reach the file.
`finish` may also be called without the lock: a line that a peer is still writing then counts as torn until fed whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from mcp_audit.ledger.batch import Lines, follow_many
from mcp_audit.ledger.chain import BrokenLine, Chain
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.damage import BadBytes, Fault, Torn, is_salvageable, why_broken
from mcp_audit.ledger.notices import NOTED, Notice, Prune, notice_of, prune_of
from mcp_audit.ledger.segment import Segment, read_segment

__all__ = ["FORMAT_VERSION", "MAX_LINE_BYTES", "Scanner"]

FORMAT_VERSION = 1
MAX_LINE_BYTES = 1 << 30
_LONG = 1 << 20
_MAX_NOTICES = 1000
_TYPED = b'{"type":"'
_KINDS = frozenset(
    b"open close request orphan config blocked gap recovery tools segment prune exchange".split()  # others are `other`
)
_PREV = re.compile(rb'"prev":"([0-9a-f]{64})"(?:,"mac":"[0-9a-f]{64}")?\}\Z')
_NO_BYTES = hashlib.sha256(b"").hexdigest()


class Scanner:
    """See the module docstring.

    Args:
        chain: where the log stands before the first byte; it advances with every good line. A fresh one begins
            wherever the first line says; one that comes from the file before must be gone on with by the first line.
        watch: sizes at which the root is kept, such as that of the sidecar.
        inspect: called with seq and bytes of every good line, in order.

    Attributes:
        end: offset right behind the last good line, its LF included if it is there.
        roots: watched sizes that were reached, and the root the tree had then.
        fault: bad bytes that a good line follows without vouching for them, or another contradiction inside the
            log: final, the rest is not looked at. Bad bytes at the end are no fault but `torn()`.
        kinds: how many lines of each type; `exchange` for those without one, `other` for the rest.
        lost, torn_bytes: sums over `gap` and `recovery` lines.
        unchecked, without_mac: good lines whose MAC no key at hand could check; that have none.
        segment: what the first line says if it is a `segment`, or what `stand_at` was given; None for a file that
            begins with `open`.
        prunes: what its `prune` lines let go.
        future: format version of an `open` line that is newer than this code, else 0.
    """

    def __init__(
        self, chain: Chain, watch: Iterable[int] = (), inspect: Callable[[int, bytes], None] | None = None
    ) -> None:
        self.chain = chain
        self.end = 0
        self.roots: dict[int, bytes] = {}
        self.fault: Fault | None = None
        self.kinds: Counter[str] = Counter()
        self.lost = 0
        self.torn_bytes = 0
        self.future = 0
        self.segment: Segment | None = None
        self.notices: list[Notice] = []
        self.prunes: list[Prune] = []
        self._begun = False  # the first line is there
        self._inspect = inspect
        self._first = chain.size
        self._watch = sorted(set(watch), reverse=True)
        self._parts: list[bytes] = []  # of the line whose LF has not come yet
        self._held = 0  # bytes in them
        self._lf_due = False  # the last line was taken at the end of the file
        self._region: BadBytes | None = None
        self._swallowing = False  # inside a line too long to be one
        self._bad_lines = 0
        self._since = chain.size  # where the present MAC key came into force
        self._unchecked = 0
        self._without_mac = 0
        self._reach()

    def stand_at(self, segment: Segment, prev: bytes) -> None:
        """Begin in the middle of a database whose earlier rows were pruned; see `Chain.stand_at`."""
        self.chain.stand_at(segment, prev)
        self.segment = segment
        self._first = self._since = self.chain.size
        self._begun = True
        self._reach()

    def watch(self, sizes: Iterable[int]) -> None:
        """Keep the root at these sizes, too. Call it before the first byte."""
        self._watch = sorted({*self._watch, *sizes}, reverse=True)
        self._reach()

    @property
    def position(self) -> int:
        """How many bytes were fed or written, that is where to go on reading."""
        return self.end + (self._region.count if self._region else 0) + self._held

    @property
    def unterminated(self) -> bool:
        """Whether the bytes so far end inside a line."""
        return bool(self._parts) or self._swallowing

    @property
    def unchecked(self) -> int:
        chain = self.chain
        return self._unchecked + (chain.size - self._since if chain.key_id and chain.mac is None else 0)

    @property
    def without_mac(self) -> int:
        return self._without_mac + (0 if self.chain.key_id else self.chain.size - self._since)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the file."""
        if self.fault is not None or not data:
            return
        self.chain.unmark()
        if self._lf_due:
            self._lf_due = False
            if data.startswith(b"\n"):
                self.end += 1
                data = data[1:]
        if self._swallowing:
            part, lf, data = data.partition(b"\n")
            self._bad_bytes(part + lf)
            self._bad_lines += len(lf)
            self._swallowing = not lf
        lines = Lines(data, b"".join(self._parts) if b"\n" in data else b"")
        if lines:
            self._parts.clear()
            self._held = 0
        self._lines(lines)
        self._hold(lines.rest)

    def feed_rows(self, rows: Iterable[tuple[int, bytes | None]]) -> None:
        """Take the next rows of a SQLite ledger. A commit is all or nothing, so bad bytes are a fault at once.

        Args:
            rows: None in the place of a line: what is stored there is no text.
        """
        if self.fault is not None:
            return
        self.chain.unmark()
        expected = self.chain.size
        self._begun = self._begun or expected > 0  # whoever created the database need not read the first rows
        lines: list[bytes] = []
        fault: Fault | None = None
        for seq, line in rows:
            if seq != expected:
                fault = Fault(expected - self._first + 1, expected, f"seq {expected} is missing: row {seq} stands here")
                break
            if line is None:
                fault = Fault(expected - self._first + 1, seq, f"seq {seq} was changed (it is no text)")
                break
            if b"\n" in line:
                fault = Fault(expected - self._first + 1, seq, f"seq {seq} was changed (it holds a line feed)")
                break
            lines.append(line)
            expected += 1
        self._lines(Lines(b"\n".join([*lines, b""])))
        if self._region is not None:
            fault = self._region.fault
        self.fault = self.fault or fault

    def finish(self) -> None:
        """Take the end of the file for an LF: a last line that is whole but for it counts."""
        if self.fault is not None or not self._parts:
            return
        try:
            self._take(b"".join(self._parts))
        except BrokenLine:
            return
        self.end -= 1
        self._lf_due = True
        self._parts.clear()
        self._held = 0

    def torn(self) -> Torn | None:
        """Return the bytes at the end that are no line of this log, or None if there are none."""
        region = self._region
        if region is None and not self._parts:
            return None
        tail = b"".join(self._parts)
        region = region or BadBytes(self._diagnose(tail))
        digest = region.hash.copy()
        digest.update(tail)
        salvageable = region.salvageable + (1 if tail and is_salvageable(self.chain, tail) else 0)
        return Torn(region.count + len(tail), digest.hexdigest(), salvageable, region.fault)

    def mend(self, checkpoint: int) -> tuple[bytes, dict[str, Any] | None]:
        """Return what the next write must begin with, and the members of the `recovery` to seal right after it.

        Both are empty when nothing is torn. Call it only after `contradiction` returned None: a recovery must not
        cover what was already signed.

        Args:
            checkpoint: size of the newest checkpoint.
        """
        torn = self.torn()
        if torn is None:
            return (b"\n" if self._lf_due else b""), None
        if self.chain.size < checkpoint:
            raise ValueError("a recovery must not cover lines below the checkpoint")
        lead = b"\n" if self._parts or self._swallowing else b""
        digest = self._region.hash.copy() if self._region else hashlib.sha256()
        digest.update(b"".join(self._parts) + lead)
        return lead, {
            "torn_bytes": torn.count + len(lead),
            "torn_sha256": digest.hexdigest(),
            "salvageable": torn.salvageable,
            "checkpoint": checkpoint,
        }

    def wrote(self, count: int) -> None:
        """Note that `count` bytes, sealed with `chain`, were written at the end of the file."""
        self.end = self.position + count
        self._parts.clear()
        self._held = 0
        self._region = None
        self._lf_due = self._swallowing = False
        self._begun = True

    def contradiction(self, checkpoint: Checkpoint | None) -> str | None:
        """Return how the log contradicts itself or its checkpoint in one sentence, or None. Call `finish` before.

        A contradiction means tampering or loss: no crash leaves one.
        """
        if self.fault is not None:
            return str(self.fault)
        torn = self.torn()
        if not self._begun and torn is not None:
            return f"line 1: the first line is not the whole opening line of a log ({torn.fault.reason})"
        if checkpoint is None or checkpoint.size in self.roots:
            return self._root_contradiction(checkpoint)
        missing = f"seq {self.chain.size} to {checkpoint.size - 1}, which the checkpoint covers, "
        if torn is not None:
            return f"{torn.fault}; {missing}are not intact"
        if self.chain.size == 0:
            return f"{missing}are missing: the log is empty"
        return f"{missing}are missing: the log ends after seq {self.chain.size - 1}"

    def _root_contradiction(self, checkpoint: Checkpoint | None) -> str | None:
        if checkpoint is None or self.roots[checkpoint.size] == checkpoint.root:
            return None
        last = checkpoint.size - 1
        return f"seq {last} was changed, or the chain was rebuilt: the root over seq 0 to {last} is not the signed one"

    def _lines(self, lines: Lines) -> None:
        """Follow exchange and request lines many at a time, which is the hot path, and the others one by one."""
        chain = self.chain
        index = 0
        while index < len(lines) and self.fault is None:
            if self._region is None and self._begun:
                stop = min(len(lines), index + self._watch[-1] - chain.size) if self._watch else len(lines)
                followed, requests = follow_many(chain, lines, index, stop)
                self.end += lines.size(index, index + followed)
                self.kinds.update(exchange=followed - requests, request=requests)
                if self._inspect is not None:
                    for place in range(followed):
                        self._inspect(chain.size - followed + place, lines[index + place])
                self._reach()
                index += followed
                if index == stop:
                    continue
            self._careful(lines[index])
            index += 1

    def _careful(self, line: bytes) -> None:
        try:
            self._take(line)
        except BrokenLine as error:
            self._bad(line, error)

    def _take(self, line: bytes) -> None:
        """Follow one line of any kind, and judge bad bytes before it."""
        typed = line.startswith(_TYPED)
        kind = line[len(_TYPED) : line.find(b'"', len(_TYPED))] if typed else b"exchange"
        members: dict[str, Any] = {}
        if kind in NOTED:
            try:
                members = json.loads(line)
            except (ValueError, RecursionError):
                raise BrokenLine("it is not JSON") from None
        chain = self.chain
        place = self._place()
        if kind == b"segment" and not self._begun:
            self._begin(line)
        seq = chain.size
        before = (chain.key_id, chain.mac)
        chain.follow(line)
        if kind == b"open":
            self._key_changed(seq, *before)
        misplaced = self._misplaced(kind, seq)
        self._begun = True
        if misplaced:
            self.fault = Fault(place, seq, misplaced)
        elif kind == b"recovery" or self._region is not None:
            self._vouch(kind, members, place, seq)
        if self.fault is None:
            self.end += len(line) + 1
            self.kinds[kind.decode() if kind in _KINDS else "other"] += 1
            if members:
                self._note(kind, members, seq)
            if self._inspect is not None:
                self._inspect(seq, line)
            self._reach()

    def _begin(self, line: bytes) -> None:
        """Take the first line of a file that is not the log's first."""
        self.segment = read_segment(line)
        prev = _PREV.search(line)
        if not self.chain.size and prev is not None:
            self.chain.stand_at(self.segment, prev[1])
            self._first = self._since = self.chain.size
            self._reach()

    def _misplaced(self, kind: bytes, seq: int) -> str:
        """Return what is wrong with a line of this type standing here, or nothing."""
        if seq == 0 and kind != b"open":
            return "seq 0 is not the opening line of a log"
        if not self._begun and seq and kind != b"segment":
            return f"seq {seq} begins a file, but it is no segment line"
        if self._begun and kind == b"segment":
            return f"seq {seq} is a segment line in the middle of a file"
        return ""

    def _vouch(self, kind: bytes, members: dict[str, Any], place: int, seq: int) -> None:
        """Accept bad bytes only if a `recovery` follows that describes exactly them and covers nothing signed."""
        region, self._region = self._region, None
        if kind != b"recovery":
            assert region is not None
            self.fault = region.fault
            return
        count = region.count if region else 0
        digest = region.hash.hexdigest() if region else _NO_BYTES
        checkpoint = members.get("checkpoint")
        if members.get("torn_bytes") != count or members.get("torn_sha256") != digest:
            reason = f"the recovery at seq {seq} describes other bytes than the {count} before it"
            if region is not None:
                place, reason = region.fault.line, f"{region.fault.reason}; {reason}"
            self.fault = Fault(place, seq, reason)
        elif not isinstance(checkpoint, int) or checkpoint > seq:
            self.fault = Fault(place, seq, f"the recovery at seq {seq} covers lines that a checkpoint had signed")
        else:
            self.torn_bytes += count
            self.end += count

    def _note(self, kind: bytes, members: dict[str, Any], seq: int) -> None:
        if kind == b"open" and members.get("v") != FORMAT_VERSION:
            version = members.get("v")
            self.future = version if isinstance(version, int) and version else -1
        elif kind == b"prune":
            self.prunes += prune_of(members, seq)
        elif kind == b"gap":
            lost = members.get("lost")
            self.lost += lost if isinstance(lost, int) else 0
        notice = notice_of(kind, members, seq)
        if notice is not None and len(self.notices) < _MAX_NOTICES:
            self.notices.append(notice)

    def _key_changed(self, seq: int, key_id: str, mac: object) -> None:
        if not key_id:
            self._without_mac += seq - self._since
        elif mac is None:
            self._unchecked += seq - self._since
        self._since = seq

    def _reach(self) -> None:
        while self._watch and self._watch[-1] <= self.chain.size:
            size = self._watch.pop()
            if size == self.chain.size:
                self.roots[size] = self.chain.tree.root()

    def _bad(self, line: bytes, error: BrokenLine) -> None:
        if self._region is None:
            self._region = BadBytes(self._diagnose(line, str(error)))
        if is_salvageable(self.chain, line):
            self._region.salvageable += 1
        self._region.add(line + b"\n")
        self._bad_lines += 1

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line; one that cannot be ours is hashed away instead of kept."""
        if not part:
            return
        if self._swallowing:
            self._bad_bytes(part)
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held > MAX_LINE_BYTES or (self._held > _LONG and not self._parts[0].startswith(b'{"')):
            self._bad_bytes(b"".join(self._parts))
            self._parts.clear()
            self._held = 0
            self._swallowing = True

    def _bad_bytes(self, data: bytes) -> None:
        if self._region is None:
            self._region = BadBytes(self._diagnose(b""))
        self._region.add(data)

    def _diagnose(self, line: bytes, why: str = "its line feed is missing") -> Fault:
        return Fault(self._place(), self.chain.size, why_broken(self.chain, line, why))

    def _place(self) -> int:
        """Return the number of the line that is looked at, from 1."""
        return self.chain.size - self._first + self._bad_lines + 1
