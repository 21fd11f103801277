"""Where an entry is, and which checkpoint covers it: what has to be read to prove it, and how much that is.

Reads first lines and notes only. An entry in an archive is to be proved against the archive's own note. Where that is
missing, the following files have to be read as well, up to the first one that has a note: the proof costs more, but
is not refused. A note counts only if it is signed; whether the files lead to its root is for the one who reads them.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mcp_audit.errors import LedgerFileError
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note
from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.evidence import (
    LINE,
    CannotLook,
    chunks,
    is_sqlite,
    look_beside,
    open_bytes,
    open_sqlite,
    small_text,
)
from mcp_audit.ledger.keys import BadKey, VerifierKey
from mcp_audit.ledger.reading.lines import lines_forward
from mcp_audit.ledger.segment_files import SegmentFile, log_of_archive, look_at, segment_files

__all__ = ["FIRST_ROW", "CannotProve", "Plan", "plan", "rows_of", "searched_bytes", "seq_of"]

FIRST_ROW = f"SELECT seq, {LINE} FROM entries ORDER BY seq LIMIT 1"  # noqa: S608
_TELL_BYTES = 1 << 20


class CannotProve(LedgerFileError):
    """An entry cannot be proved: 1 the log is not what was signed, 2 there is no such entry, 3 nothing covers it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an entry will be proved.

    Attributes:
        seq: the entry.
        files: what has to be read, in order; none stands for the database at `path`.
        bytes: how much that is, for a progress bar.
        note, checkpoint: what the entry is proved against; the signature was checked.
    """

    path: str
    seq: int
    files: tuple[SegmentFile, ...]
    bytes: int
    note: str
    checkpoint: Checkpoint


def plan(path: str | os.PathLike[str], seq: int) -> Plan:
    """Find out where an entry is and which checkpoint covers it. Reads first lines and notes only.

    Raises:
        CannotProve, CannotLook, NoEd25519: as `prove` does.
    """
    path = os.fspath(path)
    if os.path.exists(path) and is_sqlite(path):
        return _plan_database(path, seq)
    log = log_of_archive(path) or path
    beside = look_beside(log)  # before the files: a rotation in between then hides nothing
    files = _files(path, log)
    holder = max((place for place, file in enumerate(files) if 0 <= file.start <= seq), default=None)
    if holder is None:
        raise _no_entry(log, seq, files[0].start)
    notes = _Notes(log, seq, _key(log, beside.vkey, files[holder].first_line))
    chosen: tuple[SegmentFile, ...] = ()
    for file in files[holder:]:
        chosen += (file,)
        text = beside.note if file.path == log else small_text(file.note_path)
        checkpoint = notes.opened(text)
        if text is not None and checkpoint is not None and checkpoint.size > seq:
            return Plan(path, seq, chosen, sum(map(_plain_size, chosen)), text, checkpoint)
    raise notes.none_covers()


def _plan_database(path: str, seq: int) -> Plan:
    beside = look_beside(path)
    with rows_of(path) as query:
        first, line = next(query(FIRST_ROW), (0, b""))
        stored = [note for (note,) in query("SELECT note FROM checkpoints ORDER BY size") if isinstance(note, bytes)]
        texts = [note.decode("utf-8", "replace") for note in stored]
    if seq < first:
        raise _no_entry(path, seq, first)
    notes = _Notes(path, seq, _key(path, beside.vkey, line or b""))
    # The oldest note that covers the entry, because it leaves the least to read.
    for text in (*texts, beside.note):
        checkpoint = notes.opened(text)
        if text is not None and checkpoint is not None and checkpoint.size > seq:
            return Plan(path, seq, (), os.path.getsize(path), text, checkpoint)
    raise notes.none_covers()


def seq_of(path: str | os.PathLike[str], id_: str, progress: Callable[[int], None] | None = None) -> int:
    """Return the seq of the line whose `id` is `id_`, such as the `entry_id` in the error of a denied call.

    Raises:
        CannotProve: with exit_code 2 there is none.
        CannotLook: the log cannot be read.
    """
    path = os.fspath(path)
    found: int | None
    if os.path.exists(path) and is_sqlite(path):
        with rows_of(path) as query:
            # As bytes, because an id given on a command line may be anything.
            given = id_.encode("utf-8", "surrogateescape")
            found = next((seq for (seq,) in query("SELECT seq FROM entries WHERE id = CAST(? AS TEXT)", given)), None)
    else:
        wanted = re.compile(rb'\{(?:"type":"[^"\\]*",)?"id":"%s"' % re.escape(id_.encode("utf-8", "surrogateescape")))
        lines = _lines(_files(path, log_of_archive(path) or path), progress or _ignore)
        tails = (TAIL.search(line, max(0, len(line) - 400)) for line in lines if wanted.match(line))
        found = next((int(tail[2]) for tail in tails if tail is not None), None)
    if found is None:
        raise CannotProve(path, f"no entry has the id {id_!r}; `mcp-audit query` and `show` tell the ids there are", 2)
    return found


def searched_bytes(path: str | os.PathLike[str]) -> int:
    """Return how much `seq_of` reads at most; a database has an index.

    Raises:
        CannotProve, CannotLook: as `seq_of` does.
    """
    path = os.fspath(path)
    if os.path.exists(path) and is_sqlite(path):
        return 0
    return sum(map(_plain_size, _files(path, log_of_archive(path) or path)))


class _Notes:
    """The checkpoints that were found for an entry, and why none of them will do."""

    def __init__(self, log: str, seq: int, key: VerifierKey) -> None:
        self._log = log
        self._seq = seq
        self._key = key
        self._size: int | None = None  # of the largest that holds
        self._problem = ""

    def opened(self, text: str | None) -> Checkpoint | None:
        """Return what a note says if it holds."""
        if text is None:
            return None
        try:
            checkpoint = open_note(text, self._key)
        except BadNote as error:
            self._problem = str(error)
            return None
        self._size, self._problem = max(self._size or 0, checkpoint.size), ""  # the newest note decides
        return checkpoint

    def none_covers(self) -> CannotProve:
        """Return why the entry cannot be proved."""
        if self._problem:
            problem = f"the checkpoint does not hold: {self._problem}; see `mcp-audit verify`"
            return CannotProve(self._log, problem, 1)
        if self._size is None:
            return CannotProve(self._log, "there is no checkpoint beside it, and without one nothing is proved", 3)
        covered = f"covers seq 0 to {self._size - 1}" if self._size else "covers nothing yet"
        problem = f"the newest checkpoint {covered}; seq {self._seq} is newer or does not exist"
        return CannotProve(self._log, f"{problem} (a running proxy makes one every audit.checkpoint_interval_ms)", 3)


def _files(path: str, log: str) -> list[SegmentFile]:
    """Return the files of a log, at least one; `path` may be one of its archives, and the only one there is."""
    try:
        here = look_at(path) if path != log else None
        files = segment_files(log, here.origin if here is not None else None)
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error
    if not files:
        raise CannotLook(path, "there is no log; name the file that audit.path or audit.sqlite_path says")
    if files[0].start < 0:
        with open_bytes(files[0].path) as data:
            next(chunks(data), b"")  # damaged gzip data says so itself
        raise CannotProve(path, "its first line names no log: no ledger, or one of the Go program", 3)
    return files


def _lines(files: list[SegmentFile], progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yield the lines of the files, newest file first."""
    done = told = 0
    for file in reversed(files):
        with open_bytes(file.path) as data:
            for line in lines_forward(data):
                yield line
                done += len(line) + 1
                if done - told > _TELL_BYTES:
                    told = done
                    progress(done)


@contextmanager
def rows_of(path: str) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a function that asks the database; all answers come from one snapshot."""
    try:
        with open_sqlite(path) as connection:
            yield lambda sql, *values: iter(connection.execute(sql, values))
    except sqlite3.DatabaseError as error:
        raise CannotLook(path, f"the database cannot be read: {error}") from error


def _key(log: str, beside: str | None, first_line: bytes) -> VerifierKey:
    """Return the key that the log itself says is its own. Whether to trust it decides who checks the proof."""
    try:
        claimed = json.loads(first_line)["vkey"]
    except (ValueError, KeyError, TypeError, RecursionError):
        claimed = None
    for vkey in (beside, claimed):
        try:
            return VerifierKey.parse(vkey or "")
        except (BadKey, AttributeError):
            continue
    raise CannotProve(log, "neither a .pub beside it nor its first line has a verifier key", 3)


def _no_entry(log: str, seq: int, first: int) -> CannotProve:
    pruned = f"; its entries begin at seq {first}, older ones were pruned or moved" if first > 0 else ""
    return CannotProve(log, f"there is no entry {seq}{pruned}", 2)


def _plain_size(file: SegmentFile) -> int:
    """Return how many bytes will be read; of gzip, its trailer says it up to 4 GiB."""
    if not file.gz:
        return file.size
    try:
        with open(file.path, "rb") as data:
            data.seek(-4, os.SEEK_END)
            return int.from_bytes(data.read(4), "little")
    except OSError:
        return file.size


def _ignore(done: int) -> None:
    pass
