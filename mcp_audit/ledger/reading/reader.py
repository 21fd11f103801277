"""Read the records of a log, oldest or newest first, over all its files, from JSONL, gzip or SQLite, and filter them.

Reads what is there: nothing is verified, and a line that cannot be read is skipped with a notice, never an exception.
Memory does not grow with the log; newest first costs no more than the part that is read. A log that is rotated
meanwhile loses and repeats nothing. Logs of the Go version are read as far as they go: their entries have no seq.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from mcp_audit.ledger.evidence import CannotLook, chunks, is_sqlite
from mcp_audit.ledger.reading import database
from mcp_audit.ledger.reading.blocks import IndexBroken
from mcp_audit.ledger.reading.filters import Filter
from mcp_audit.ledger.reading.indexing import discard_index
from mcp_audit.ledger.reading.lines import facts, lines_forward, stretches_backward
from mcp_audit.ledger.reading.lookup import Lookup, Use
from mcp_audit.ledger.reading.segment_stream import files_of, segments_backward, segments_forward
from mcp_audit.ledger.reading.selection import NO_SEQ, Judge, Record, parse
from mcp_audit.ledger.segment_files import SegmentFile, log_of_archive

__all__ = ["NO_SEQ", "Filter", "Record", "parse", "raw_lines", "read"]

_EVER = 1 << 62
_REPORT_EVERY = 1000
Progress = Callable[[str, int, int], None]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def read(
    path: str | os.PathLike[str],
    *,
    newest_first: bool = False,
    every_line: bool = False,
    limit: int | None = None,
    before: int | None = None,
    after: int | None = None,
    index: Use = "use",
    on_notice: Callable[[str], None] = _warn,
    on_progress: Progress | None = None,
    method: str | None = None,
    tool: str | None = None,
    client: str | None = None,
    server: str | None = None,
    outcome: str | None = None,
    credential: str | None = None,
    since: str | None = None,
    until: str | None = None,
    grep: str | None = None,
) -> Iterator[Record]:
    """Yield the exchanges of a log: of its archives beside it, too; of an archive its own.

    Args:
        newest_first: also yields the requests that nobody answered; oldest first cannot know them.
        every_line: yields every line of every type instead.
        limit: stop after so many records.
        before, after: only records with a seq below, above; `before=last.seq` is the next page, newest first.
        index: newest first, a selective filter may `use` the index beside a JSONL log, or `keep` it up to date as
            well; `none` does not look at it. The index is a convenience: it is checked against the lines it leads to,
            but one that was forged with care can leave lines out.
        on_notice: told about lines that were skipped because they cannot be read, and an index that does not fit.
        on_progress: told what is done (`index` is made, log is `read`), bytes done, bytes in all.
        method, tool, client, server, outcome, credential, since, until, grep: see `Filter`.

    Raises:
        CannotLook: the log cannot be opened.
        ValueError: `grep` is no regular expression.
    """
    wanted = Filter(
        method=method,
        tool=tool,
        client=client,
        server=server,
        outcome=outcome,
        credential=credential,
        since=since,
        until=until,
        grep=grep,
    )
    path = os.fspath(path)
    files_of(path)  # whether there is anything is known before the first record is asked for
    after, before = NO_SEQ if after is None else after, _EVER if before is None else before
    judge = Judge(path, wanted, newest_first, every_line, after, before, on_notice)
    use = index if newest_first and not every_line and wanted.selective else "none"
    return _limited(_records(path, judge, use, on_progress), limit)


def _limited(records: Iterator[Record], limit: int | None) -> Iterator[Record]:
    with closing(cast(Any, records)):
        count = 0
        while limit is None or count < limit:
            record = next(records, None)
            if record is None:
                return
            count += 1
            yield record


def _records(path: str, judge: Judge, use: Use, on_progress: Progress | None) -> Iterator[Record]:
    if _is_database(path):
        yield from _from_database(path, judge, use)
    elif use != "none" and log_of_archive(path) is None:
        yield from _indexed(path, judge, use, on_progress)
    elif judge.newest_first:
        yield from _backward(path, judge, on_progress)
    else:
        meter = _Meter(path, on_progress)
        for raw in raw_lines(path, False, judge.on_notice):
            meter.add(raw)
            record = judge.line(raw)
            if record is not None:
                yield record


def _is_database(path: str) -> bool:
    return os.path.exists(path) and is_sqlite(path)


class _Meter:
    """Tells how much of a log was read."""

    def __init__(self, path: str, on_progress: Progress | None) -> None:
        self._on_progress = on_progress
        self._done = self._lines = 0
        self._total = sum(file.size for file in files_of(path)) if on_progress is not None else 0

    def add(self, raw: bytes) -> None:
        if self._on_progress is not None:
            self._done += len(raw) + 1
            self._lines += 1
            if self._lines % _REPORT_EVERY == 0:
                self._on_progress("read", self._done, self._total)


def _from_database(path: str, judge: Judge, use: Use) -> Iterator[Record]:
    if use != "none" and database.searchable(path, judge.wanted):
        for raw, outcome in database.searched(path, judge.wanted, judge.on_notice, judge.after, judge.before):
            record = judge.found(raw, facts(raw), outcome)
            if record is not None:
                yield record
        return
    # Newest first, what closes a request may come before the page that it is on.
    after, before = judge.after, _EVER if judge.newest_first and not judge.every_line else judge.before
    for raw in database.rows(path, judge.newest_first, judge.on_notice, after, before):
        record = judge.line(raw)
        if record is not None:
            yield record


def _backward(
    path: str, judge: Judge, on_progress: Progress | None, resume: tuple[int, int] | None = None
) -> Iterator[Record]:
    """Read everything, newest first; only what begins before `resume` (start of its file, offset) is yielded."""
    meter = _Meter(path, on_progress)
    for segment, stream in segments_backward(path):
        with _seekable(stream) as file:
            for offset, raw in stretches_backward(file, file.seek(0, os.SEEK_END)):
                meter.add(raw)
                record = judge.line(raw)
                if judge.done:
                    return
                if record is not None and (resume is None or (segment.start, offset) < resume):
                    yield record


def _indexed(path: str, judge: Judge, use: Use, on_progress: Progress | None) -> Iterator[Record]:
    """Read newest first, what the index covers through the index."""
    reading = _Indexed(path, judge, use, on_progress)
    try:
        yield from reading.records()
        return
    except IndexBroken as error:
        judge.on_notice(f"{path}.index: not used, the log is read instead: {error}")
        if use == "keep":
            discard_index(path)
    finally:
        reading.lookup.close()
    judge.forget()
    yield from _backward(path, judge, None, reading.place)


class _Indexed:
    """One way through a log, newest first. `place` is (start of the file, offset) of the last record."""

    def __init__(self, path: str, judge: Judge, use: Use, on_progress: Progress | None) -> None:
        self.lookup = Lookup(path, judge.wanted, use, on_progress)
        self.place: tuple[int, int] | None = None
        self._path = path
        self._judge = judge
        self._unindexed = 0

    def records(self) -> Iterator[Record]:
        """Yield them.

        Raises:
            IndexBroken: the index does not fit the log; what came is right, the rest must be read without it.
        """
        self.lookup.begin()
        for segment, stream in segments_backward(self._path):
            for offset, record in self._of_file(segment, stream):
                if record is not None:
                    self.place = (segment.start, offset)
                    yield record
                if self._judge.done:
                    return

    def _of_file(self, segment: SegmentFile, stream: BinaryIO) -> Iterator[tuple[int, Record | None]]:
        lookup = self.lookup
        end = _EVER if segment.gz else stream.seek(0, os.SEEK_END)
        lookup.end = lookup.end or (segment.start, end)
        if segment.gz:
            if lookup.section(segment, stream) is None and lookup.use == "keep" and not lookup.refreshed:
                lookup.refresh()
            section = lookup.section(segment, stream)
            if section is not None and not lookup.blocks(section, _EVER, self._judge.before, self._judge.after):
                return
            with _seekable(stream) as file:
                yield from self._of_stretch(segment, file, file.seek(0, os.SEEK_END))
        else:
            yield from self._of_stretch(segment, stream, end)

    def _of_stretch(self, segment: SegmentFile, file: BinaryIO, end: int) -> Iterator[tuple[int, Record | None]]:
        section = self.lookup.section(segment, file)
        below = end
        if section is None or section.covered < end:
            for offset, raw in stretches_backward(file, end):
                if section is not None and offset < section.covered:
                    break
                below = offset
                yield offset, self._judge.line(raw)
                self._unindexed += len(raw) + 1
                if self.lookup.worth_refreshing(self._unindexed):
                    self.lookup.refresh()
                    section = self.lookup.section(segment, file)
        if section is None or below == 0:
            return
        self.lookup.sample(section, file)
        blocks = self.lookup.blocks(section, below, self._judge.before, self._judge.after)
        for hit in self.lookup.hits(blocks, file, below):
            yield hit.offset, self._judge.found(hit.raw, hit.known, hit.outcome)


def raw_lines(path: str, newest_first: bool, on_notice: Callable[[str], None], from_seq: int = 0) -> Iterator[bytes]:
    """Yield every line of a log without its LF, over all its files; some may be empty or torn.

    Args:
        from_seq: leave out what is easily known to come before this seq; some of it may come all the same.

    Raises:
        CannotLook: the log cannot be opened or read.
    """
    if _is_database(path):
        yield from database.rows(path, newest_first, on_notice, after=from_seq - 1)
    elif newest_first:
        for segment, stream in segments_backward(path):
            with _seekable(stream) as file:
                for _, raw in stretches_backward(file, file.seek(0, os.SEEK_END)):
                    yield raw
            if segment.start <= from_seq:
                return
    else:
        for _, stream in segments_forward(path, from_seq):
            yield from lines_forward(stream)


@contextmanager
def _seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Give a stream that can be read backwards: of a compressed file an unpacked copy."""
    if not hasattr(stream, "peek"):
        yield stream
        return
    with cast(BinaryIO, TemporaryFile()) as copy:
        try:
            for chunk in chunks(stream):
                copy.write(chunk)
            copy.flush()
        except OSError as error:
            raise CannotLook(
                str(stream.name), f"cannot be unpacked: {error}; set TMPDIR to where there is room"
            ) from error
        yield copy
