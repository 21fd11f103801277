"""Make the proof of one entry: read what its checkpoint covers in the file that holds it, and nothing else.

Promise: a proof that is made holds; what the log's files say is believed only once it leads to a signed root. Reads
only, in constant memory but for what is open. A log may be in use, rotated and pruned meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO

from mcp_audit.ledger.chain import BrokenLine, Chain
from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.evidence import LINE, CannotLook, chunks, open_bytes
from mcp_audit.ledger.merkle import PathRange
from mcp_audit.ledger.proving.proof import Proof
from mcp_audit.ledger.proving.prover_plan import FIRST_ROW, CannotProve, Plan, plan, rows_of
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import Segment, read_segment
from mcp_audit.ledger.segment_files import SegmentFile

__all__ = ["carry_out", "prove"]

_ROWS = 256
_ROWS_BELOW = f"SELECT seq, {LINE} FROM entries WHERE seq < ? ORDER BY seq"  # noqa: S608
_ATTEMPTS = 3


class _Moved(Exception):
    """A file was rotated, compressed or pruned away between looking and reading."""


def prove(path: str | os.PathLike[str], seq: int) -> str:
    """Return the proof that entry `seq` is in the log at `path`: C2SP tlog-proof text, see `check_proof`.

    Raises:
        CannotProve: with exit_code 1 the log is not what was signed (`verify` says where), with 2 there is no such
            entry, with 3 no checkpoint covers it yet.
        CannotLook: the log cannot be read.
        NoEd25519: `cryptography` is missing.
    """
    return carry_out(plan(path, seq))


def carry_out(planned: Plan, progress: Callable[[int], None] | None = None) -> str:
    """Read what was planned and return the proof.

    Args:
        progress: told now and then how many bytes were read so far.

    Raises:
        CannotProve: the log is not what the checkpoint signed.
        CannotLook: a file cannot be read.
    """
    for attempt in range(_ATTEMPTS):
        todo = plan(planned.path, planned.seq) if attempt else planned
        reading = _Reading(todo, progress or (lambda done: None))
        try:
            return reading.segments() if todo.files else reading.database()
        except _Moved:
            continue
    raise CannotLook(planned.path, "its files were moved again and again while they were read; try again")


class _Reading:
    """One pass over what a plan names. The chain says which bytes are lines; its tree collects the path."""

    def __init__(self, todo: Plan, progress: Callable[[int], None]) -> None:
        self._todo = todo
        self._progress = progress
        self._line = b""
        self._done = 0
        self._chain = Chain(todo.checkpoint.origin, keyring={})  # no secret: a signed root says more than MACs

    def segments(self) -> str:
        """Read the files of the plan."""
        first, *_ = files = self._todo.files
        try:
            self._begin(first.first_line, read_segment(first.first_line) if first.start else None)
        except BrokenLine as error:
            raise self._tampered(f"{first.name} begins with a line that does not fit: {error}") from None
        for file in files:
            scanner = self._scanner()
            with _opened(file) as data:
                for chunk in chunks(data):
                    scanner.feed(chunk)
                    if self._is_done(scanner, len(chunk)):
                        break
            scanner.finish()
            # Only the last file may end in torn bytes, and only past its checkpoint.
            if scanner.fault is not None or (file is not files[-1] and scanner.torn() is not None):
                break
        return self._proof(scanner)

    def database(self) -> str:
        """Read the rows, in one snapshot."""
        with rows_of(self._todo.path) as query:
            first, line = next(query(FIRST_ROW), (0, b""))
            if first > self._todo.seq:
                raise _Moved
            try:
                self._begin(line or b"", _pruned_to(first, query) if first else None)
            except BrokenLine as error:
                raise self._tampered(f"its first row does not fit: {error}") from None
            scanner = self._scanner()
            rows = query(_ROWS_BELOW, self._todo.checkpoint.size)
            while batch := list(islice(rows, _ROWS)):
                scanner.feed_rows(batch)
                if self._is_done(scanner, sum(len(line or b"") for _, line in batch)):
                    break
        return self._proof(scanner)

    def _begin(self, line: bytes, segment: Segment | None) -> None:
        """Stand right before the first line; what lies to the left of it, its segment says."""
        if segment is not None:
            tail = TAIL.search(line, max(0, len(line) - 400))
            self._chain.stand_at(segment, tail[3] if tail else b"")
        tree = self._chain.tree
        self._chain.tree = PathRange(self._todo.seq, self._todo.checkpoint.size, tree.size, tree.nodes)

    def _scanner(self) -> Scanner:
        return Scanner(self._chain, [self._todo.checkpoint.size], self._keep)

    def _keep(self, seq: int, line: bytes) -> None:
        if seq == self._todo.seq:
            self._line = line

    def _is_done(self, scanner: Scanner, count: int) -> bool:
        self._done += count
        self._progress(self._done)
        return scanner.fault is not None or self._chain.size >= self._todo.checkpoint.size

    def _proof(self, scanner: Scanner) -> str:
        checkpoint = self._todo.checkpoint
        if scanner.roots.get(checkpoint.size) != checkpoint.root:  # what comes after its size is no business of ours
            raise self._tampered(scanner.contradiction(checkpoint) or "the checkpoint's root is not reached")
        tree = self._chain.tree
        assert isinstance(tree, PathRange)
        assert tree.path is not None  # the checkpoint's size was reached
        return Proof(self._todo.seq, tree.path, self._todo.note, self._line).to_text()

    def _tampered(self, problem: str) -> CannotProve:
        return CannotProve(self._todo.path, f"nothing can be proved, it is not what was signed: {problem}", 1)


@contextmanager
def _opened(file: SegmentFile) -> Iterator[BinaryIO]:
    """Open the very file that was looked at."""
    try:
        data = open_bytes(file.path)
    except CannotLook as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _Moved from error
        raise
    with data:
        found = os.fstat(data.fileno())
        if (found.st_dev, found.st_ino) != file.identity:
            raise _Moved
        yield data


def _pruned_to(first: int, query: Callable[..., Iterator[Any]]) -> Segment:
    """Return what the `prune` line says that let the rows before `first` go. The newest is near the end."""
    prunes = (
        "SELECT line FROM entries WHERE typeof(line) = 'text' AND line GLOB '{\"type\":\"prune\"*' ORDER BY seq DESC"
    )
    for (line,) in query(prunes):
        segment = read_segment(line)
        if segment.start == first:
            return segment
    raise BrokenLine(f"rows before seq {first} are missing, and no prune line lets them go")
