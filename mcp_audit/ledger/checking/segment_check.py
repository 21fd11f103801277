"""Check one file of a log by itself: what holds inside it, and in what state it begins and ends.

Reads only. A file that begins with a `segment` line needs nothing of the files before it, so files are checked in any
order and in several processes; whether they belong together is judged afterwards. Orders and findings can be pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checking.strict import Strict
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.damage import TAIL, Torn
from mcp_audit.ledger.evidence import CannotLook, bytes_taken, chunks, open_bytes, scan_file
from mcp_audit.ledger.keys import key_id_of, mac_key
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.notices import Notice, Prune, prune_of
from mcp_audit.ledger.rows import Rows, scan_sqlite
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import BrokenLine, Segment, read_segment
from mcp_audit.ledger.segment_files import look_at

__all__ = ["Finding", "Moved", "Order", "StrictFinding", "check_file"]

_PRUNE = b'\n{"type":"prune"'
_MAX_PRUNE = 1 << 24


class Moved(Exception):
    """The file at a path is not the one that was there when the log was looked at: a writer is at work."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to check of one file.

    Attributes:
        identity: device and inode that the file must have; None: any.
        note: the newest checkpoint that covers lines of this file, None if there is none to compare with.
        watch: sizes at which the root is wanted, too.
        secrets: values of AUDIT_SECRET.
        sqlite: it is a database.
        alive: a writer is at work on this very file.
        digest: the SHA-256 of its (uncompressed) bytes is wanted, too.
        hash_only: nothing but that is wanted.
        prunes: in a file that is only hashed, its `prune` lines are wanted, too.
    """

    path: str
    origin: str
    identity: tuple[int, int] | None = None
    note: Checkpoint | None = None
    watch: tuple[int, ...] = ()
    secrets: tuple[bytes, ...] = ()
    sqlite: bool = False
    strict: bool = False
    alive: bool = False
    digest: bool = False
    hash_only: bool = False
    prunes: bool = False


@dataclass(frozen=True, slots=True)
class StrictFinding:
    """What `Strict` found; `first_time` and `last_time` are those of the first and last line."""

    fault: tuple[int, str] | None
    faults: int
    backwards: int
    first_time: str
    last_time: str


@dataclass(slots=True)
class Finding:
    """What one file turned out to be.

    Attributes:
        start, size: seq of its first line, and behind its last good one. Hashed only, it has no known end: `size` is
            `start` then.
        length, sha256: of the uncompressed file; the hash is empty if nobody asked for it.
        segment: what its first line says, None if that is `open`. For a pruned database: what the `prune` line says.
        nodes, prev, pending, runs, key_id: the state behind its last good line; `nodes` is None if only hashed.
        roots: tree hashes at the watched sizes it reaches.
        fault: its first contradiction, in a sentence; None if it holds.
        holds: whether all up to its last good line is as it was written, whatever a checkpoint says.
        torn: bytes at its end that are no line.
        rows: what stands around the rows of a database; None for a file of lines.
        prunes: its `prune` lines.
        other attributes: see `Scanner`.
    """

    start: int = 0
    size: int = 0
    length: int = 0
    sha256: str = ""
    segment: Segment | None = None
    nodes: tuple[bytes, ...] | None = None
    prev: bytes = b""
    pending: frozenset[int] = frozenset()
    runs: frozenset[int] = frozenset()
    key_id: str = ""
    root: bytes = b""
    roots: dict[int, bytes] = field(default_factory=dict)
    fault: str | None = None
    holds: bool = True
    torn: Torn | None = None
    rows: Rows | None = None
    prunes: list[Prune] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    notices: list[Notice] = field(default_factory=list)
    lost: int = 0
    torn_bytes: int = 0
    future: int = 0
    unchecked: int = 0
    without_mac: int = 0
    strict: StrictFinding | None = None


def check_file(order: Order, progress: Callable[[int], None] | None = None) -> Finding:
    """Check what `order` says.

    Args:
        progress: called now and then with the number of bytes read from the disk.

    Raises:
        Moved: another file is at the path, or none.
        CannotLook: it cannot be read.
    """
    if order.hash_only:
        return _hash(order, progress)
    by_id = {key_id_of(mac_key(secret, order.origin)): secret for secret in order.secrets}
    chain = Chain(
        order.origin, keyring={key_id: Mac(mac_key(secret, order.origin)) for key_id, secret in by_id.items()}
    )
    watch = {*order.watch, *([order.note.size] if order.note else [])}
    strict: Strict | None = None
    if order.strict:
        strict = Strict(lambda: by_id.get(chain.key_id), lambda: scanner.segment.pending if scanner.segment else ())
    scanner = Scanner(chain, watch, strict.inspect if strict else None)
    finding = Finding()
    digest = hashlib.sha256() if order.digest else None
    if order.sqlite:
        finding.rows = scan_sqlite(order.path, scanner, order.note.size if order.note else None, progress)
    else:
        with _open(order) as file:
            finding.length = scan_file(file, scanner, order.alive, progress, digest)
    _conclude(finding, scanner, order.note)
    finding.sha256 = digest.hexdigest() if digest else ""
    if strict is not None:
        finding.strict = StrictFinding(strict.fault, strict.faults, strict.backwards, *strict.times)
    return finding


def _open(order: Order) -> BinaryIO:
    try:
        file = open_bytes(order.path)
    except CannotLook as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise Moved(order.path) from error
        raise
    found = os.fstat(file.fileno())
    if order.identity not in (None, (found.st_dev, found.st_ino)):
        file.close()
        raise Moved(order.path)
    return file


def _conclude(finding: Finding, scanner: Scanner, note: Checkpoint | None) -> None:
    chain, segment = scanner.chain, scanner.segment
    finding.start = segment.start if segment else 0
    finding.size = chain.size
    finding.segment = segment
    finding.nodes, finding.prev, finding.key_id = tuple(chain.tree.nodes), chain.prev, chain.key_id
    finding.pending, finding.runs = frozenset(chain.pending), frozenset(chain.runs)
    finding.root = chain.tree.root()
    finding.roots = scanner.roots
    finding.fault = scanner.contradiction(note)
    finding.holds = scanner.fault is None
    finding.torn = scanner.torn()
    finding.prunes, finding.kinds, finding.notices = scanner.prunes, scanner.kinds, scanner.notices
    finding.lost, finding.torn_bytes, finding.future = scanner.lost, scanner.torn_bytes, scanner.future
    finding.unchecked, finding.without_mac = scanner.unchecked, scanner.without_mac


def _hash(order: Order, progress: Callable[[int], None] | None) -> Finding:
    """Learn no more than the file's hash, what its first line says, and its `prune` lines."""
    finding = Finding()
    try:
        begin = look_at(order.path)
    except FileNotFoundError as error:
        raise Moved(order.path) from error
    line = begin.first_line if begin else b""
    try:
        finding.segment = read_segment(line) if line.startswith(b'{"type":"segment"') else None
    except BrokenLine as error:
        finding.fault = f"line 1: {error}"
    finding.start = finding.size = begin.start if begin else 0
    digest = hashlib.sha256()
    prunes = _PruneLines()
    with _open(order) as file:
        for number, chunk in enumerate(chunks(file)):
            digest.update(chunk)
            if order.prunes:
                prunes.feed(chunk)
            finding.length += len(chunk)
            if progress is not None and number % 32 == 0:
                progress(bytes_taken(file))
    finding.sha256 = digest.hexdigest()
    finding.prunes = prunes.found
    return finding


class _PruneLines:
    """Find the `prune` lines in bytes that a hash vouches for."""

    def __init__(self) -> None:
        self.found: list[Prune] = []
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        place = data.find(_PRUNE)
        while place >= 0:
            end = data.find(b"\n", place + 1)
            if end < 0:
                self._rest = data[place:] if len(data) - place <= _MAX_PRUNE else b""
                return
            self._take(data[place + 1 : end])
            place = data.find(_PRUNE, end)
        self._rest = data[1 - len(_PRUNE) :]

    def _take(self, line: bytes) -> None:
        tail = TAIL.search(line)
        with suppress(ValueError, RecursionError):  # the hash that would vouch for the line is not compared yet
            self.found += prune_of(json.loads(line), int(tail[2])) if tail is not None else []
