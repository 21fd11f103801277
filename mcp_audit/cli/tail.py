"""Show the newest entries, oldest of them first; -f goes on with what is added, by however many processes.

Requests are not shown, their exchanges are; --all shows every line. Nothing is verified here: see `verify`.

example: mcp-audit tail audit.jsonl -f
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import FileIO
from typing import Any, Self

from mcp_audit.cli.filters import LOG_HELP, notice
from mcp_audit.cli.terminal import STYLES, on_terminal, safe, say
from mcp_audit.errors import ConfigError
from mcp_audit.ledger.evidence import CannotLook, is_sqlite, open_sqlite
from mcp_audit.ledger.reading.lines import lines_forward
from mcp_audit.ledger.reading.reader import NO_SEQ, Record, parse, raw_lines
from mcp_audit.ledger.reading.segment_stream import FileMoved, files_of, opened
from mcp_audit.ledger.segment_files import SegmentFile, look_at

__all__ = ["Follower", "add_arguments", "run", "summary"]

_POLL_SECONDS = 0.25
_CHUNK = 1 << 17
_SHOWN_MEMBERS = ("reason", "after", "cause", "lost", "refused", "torn_bytes", "salvageable", "outcome", "why", "of")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tail`."""
    parser.add_argument("log", metavar="LOG", help=LOG_HELP)
    parser.add_argument("-n", dest="count", metavar="N", type=int, default=10, help="how many entries (default: 10)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added; Ctrl-C ends it")
    parser.add_argument("--all", action="store_true", help="every line, requests included")
    parser.add_argument("--format", choices=("text", "jsonl"), default="text")


def run(args: argparse.Namespace) -> int:
    """Print the entries; with -f until interrupted."""
    if args.count < 0:
        raise ConfigError("", f"must be 0 or more, got {args.count}", "-n")
    # Following begins before the newest entries are read: what comes in between is shown once, not missed.
    with Follower(args.log) if args.follow else nullcontext() as follower:
        last = ("", -1)
        for raw in _newest(args.log, args.count, args.all):
            last = _show(raw, args, last)
        while follower is not None:
            for raw in follower.poll():
                last = _show(raw, args, last)
            sys.stdout.flush()
            time.sleep(_POLL_SECONDS)
    return 0


def _newest(path: str, count: int, every: bool) -> list[bytes]:
    newest: deque[bytes] = deque()
    if count == 0:
        return []
    for raw in raw_lines(path, True, notice):
        if raw and (every or _wanted(raw)):
            newest.appendleft(raw)
            if len(newest) >= count:
                break
    return list(newest)


def _wanted(raw: bytes) -> bool:
    return not raw.startswith(b'{"type":"request"')


def _show(raw: bytes, args: argparse.Namespace, last: tuple[str, int]) -> tuple[str, int]:
    """Print one line unless it was shown before; return the log and the highest seq shown."""
    record = parse(raw, args.log, notice)
    if record is None:
        return last
    place = (str(record.line.get("log")), record.seq)
    if place[0] == last[0] and NO_SEQ < place[1] <= last[1]:
        return last
    if args.all or _wanted(raw):
        if args.format == "text":
            say(summary(record), STYLES.get(str(record.line.get("outcome")), "dim" if record.type else ""))
        elif on_terminal(sys.stdout):
            print(json.dumps(record.line))
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(raw + b"\n")
    return place


def summary(record: Record) -> str:
    """Return one line about a record, safe for a terminal."""
    line = record.line
    parts: list[Any] = [record.seq, line.get("timestamp", "")]
    if record.type and record.type != "request":
        parts += [f"[{record.type}]"]
        parts += [f"{name}={line[name]}" for name in _SHOWN_MEMBERS if name in line]
    else:
        parts += [f"{line.get('client_id') or '?'} > {line.get('server_id') or '?'}", line.get("method", "")]
        parts += [line["tool_name"]] if line.get("tool_name") else []
        parts += ["request" if record.type else f"{line.get('outcome')} in {line.get('duration_ms')} ms"]
    return "  ".join(safe(str(part)) for part in parts)


class Follower:
    """What is added to a log from now on. `poll` never waits; a line is returned once it is whole.

    A rotation, or several since the last poll, are followed file by file. A file that a tool or a rescue put in the
    place of ours may repeat lines: who shows them knows their seqs.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._partial = b""
        self._seq = -1
        self._file: FileIO | None = None
        self.poll: Callable[[], Iterator[bytes]]
        if is_sqlite(path):
            self._seq = self._newest_seq()
            self.poll = self._poll_rows
        else:
            self._file, self._start = self._open()
            self._file.seek(_start_of_last_line(self._file))
            self.poll = self._poll_file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> tuple[FileIO, int]:
        """Open what stands at the path, and say with which seq it begins (-1: it does not say)."""
        try:
            file = FileIO(self._path)
            try:
                found = look_at(self._path)
            except OSError:
                file.close()
                raise
        except OSError as error:
            raise CannotLook(self._path, error.strerror or str(error)) from error
        ours = os.fstat(file.fileno())
        same = found is not None and found.identity == (ours.st_dev, ours.st_ino)
        return file, found.start if found is not None and same else -1

    def _poll_file(self) -> Iterator[bytes]:
        assert self._file is not None
        yield from self._read(self._file)
        if not self._replaced(self._file):
            return
        yield from self._read(self._file)  # what came between the last look and the rotation
        for archive in self._rotated_since():
            try:
                with opened(archive) as stream:
                    yield from filter(None, lines_forward(stream))
            except FileMoved:  # compressed at this moment: it has another name when we look again
                return
            self._start = archive.start
        try:
            file, start = self._open()
        except CannotLook:  # between two renames
            return
        self._file.close()
        self._file, self._start, self._partial = file, start, b""
        yield from self._read(self._file)

    def _rotated_since(self) -> list[SegmentFile]:
        """Return the archives that came and went at the path while nobody looked."""
        if self._start < 0:
            return []
        try:
            return [file for file in files_of(self._path)[:-1] if file.start > self._start]
        except CannotLook:
            return []

    def _read(self, file: FileIO) -> Iterator[bytes]:
        while chunk := file.read(_CHUNK):
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            yield from filter(None, lines)

    def _replaced(self, file: FileIO) -> bool:
        """Say whether another file stands at the path (rotation, rescue copy) or ours was cut."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        ours = os.fstat(file.fileno())
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino) or ours.st_size < file.tell()

    def _newest_seq(self) -> int:
        try:
            with open_sqlite(self._path) as connection:
                (newest,) = connection.execute("SELECT max(seq) FROM entries").fetchone()
        except sqlite3.DatabaseError as error:
            raise CannotLook(self._path, f"the database cannot be read: {error}") from error
        return -1 if newest is None else int(newest)

    def _poll_rows(self) -> Iterator[bytes]:
        try:
            with open_sqlite(self._path) as connection:
                (newest,) = connection.execute("SELECT max(seq) FROM entries").fetchone()
                if newest is not None and newest < self._seq:
                    self._seq = -1  # another ledger stands at the path
                rows = connection.execute("SELECT seq, line FROM entries WHERE seq > ? ORDER BY seq", (self._seq,))
                for self._seq, line in rows:
                    yield line if isinstance(line, bytes) else str(line).encode()
        except sqlite3.DatabaseError as error:
            raise CannotLook(self._path, str(error)) from error


def _start_of_last_line(file: FileIO) -> int:
    """Return where to begin so that a line being written now is not missed; what is shown twice is sorted out."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _CHUNK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
