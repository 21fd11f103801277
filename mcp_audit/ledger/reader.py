"""Read the records of a log, oldest or newest first, from JSONL, gzip or SQLite, and filter them.

Reads what is there: nothing is verified, and a line that cannot be read is skipped with a notice, never an exception.
Memory does not grow with the log; newest first costs no more than the part that is read.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fnmatch import translate
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from mcp_audit.ledger.evidence import CannotLook, chunks, is_sqlite, open_bytes, open_sqlite

__all__ = ["Filter", "Record", "lines_backward", "lines_forward", "parse", "raw_lines", "read"]

_BLOCK = 1 << 16
_TIMESTAMP = re.compile(rb'"timestamp":"([^"]*)"')
_OUTCOME = re.compile(rb'"outcome":"([a-z_]*)"')
_TAIL = re.compile(
    rb'(?:,"of":([0-9]{1,19}))?,"log":"[^"\\]*","seq":([0-9]{1,19}),"prev":"[0-9a-f]{64}"(?:,"mac":"[0-9a-f]{64}")?\}\Z'
)
_TYPED = b'{"type":"'


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a log.

    Attributes:
        seq: its place.
        line: its members. A request nobody answered has an `outcome` here that its bytes do not have: that of its
            `orphan`, or `open`.
        raw: its bytes, without LF.
    """

    seq: int
    line: dict[str, Any]
    raw: bytes

    @property
    def type(self) -> str:
        """The line's type; empty for an exchange."""
        type_ = self.line.get("type", "")
        return type_ if isinstance(type_, str) else ""


class Filter:
    """Which records are wanted. Names are globs (`read_*`), `outcome` and lists of names are separated by commas.

    Args:
        since, until: timestamps as the log writes them; `since` included, `until` excluded.
        grep: regular expression, searched in the line as it stands in the log.
        credential: the session or provider of an issued credential.

    Raises:
        ValueError: `grep` is no regular expression.
    """

    def __init__(
        self,
        *,
        method: str | None = None,
        tool: str | None = None,
        client: str | None = None,
        server: str | None = None,
        outcome: str | None = None,
        credential: str | None = None,
        since: str | None = None,
        until: str | None = None,
        grep: str | None = None,
    ) -> None:
        named = {"method": method, "tool_name": tool, "client_id": client, "server_id": server, "outcome": outcome}
        self._globs = [(member, _globs(text)) for member, text in named.items() if text]
        self._credential = credential
        self._since = since.encode() if since else b""
        self._until = until.encode() if until else b""
        try:
            self._grep = re.compile(grep) if grep else None
        except re.error as error:
            raise ValueError(f"{grep!r} is no regular expression: {error}") from None

    def may_match(self, raw: bytes) -> bool:
        """Decide what can be decided without parsing; False is final."""
        if self._since or self._until:
            found = _TIMESTAMP.search(raw, 0, 200)
            if found is not None and (found[1] < self._since or (self._until and found[1] >= self._until)):
                return False
        return self._grep is None or self._grep.search(raw.decode("utf-8", "replace")) is not None

    def matches(self, line: dict[str, Any]) -> bool:
        """Decide about the members of a line for which `may_match` was True."""
        for member, wanted in self._globs:
            value = line.get(member)
            if not isinstance(value, str) or not wanted.match(value):
                return False
        if self._credential:
            credential = line.get("credential")
            if not isinstance(credential, dict):
                return False
            return self._credential in (credential.get("session_id"), credential.get("provider"))
        return True


def _globs(text: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(part.strip()) for part in text.split(",")))


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


def read(
    path: str | os.PathLike[str],
    *,
    newest_first: bool = False,
    every_line: bool = False,
    limit: int | None = None,
    on_notice: Callable[[str], None] = _warn,
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
    """Yield the exchanges of a log.

    Args:
        newest_first: also yields the requests that nobody answered; oldest first cannot know them.
        every_line: yields every line of every type instead.
        limit: stop after so many records.
        on_notice: told about lines that were skipped because they cannot be read.
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
    is_sqlite(path)  # whether it opens is known before the first record is asked for
    return _read(path, wanted, newest_first, every_line, limit, on_notice)


def _read(
    path: str, wanted: Filter, newest_first: bool, every_line: bool, limit: int | None, on_notice: Callable[[str], None]
) -> Iterator[Record]:
    unanswered = _Unanswered() if newest_first and not every_line else None
    count = 0
    for raw in raw_lines(path, newest_first, on_notice):
        if limit is not None and count >= limit:
            return
        outcome = None
        if unanswered is not None:
            outcome = unanswered.outcome_of(raw)
            if outcome == "":
                continue
        elif not every_line and raw.startswith(_TYPED):
            continue
        if not raw or not wanted.may_match(raw):
            continue
        record = parse(raw, path, on_notice)
        if record is not None:
            if outcome is not None:
                record.line["outcome"] = outcome
            if wanted.matches(record.line):
                count += 1
                yield record


class _Unanswered:
    """Newest first, whatever closes a request comes before it: so one pass knows which requests nobody answered."""

    def __init__(self) -> None:
        self._closed: dict[int, str] = {}  # outcome of the orphan; empty: an exchange line has it all

    def outcome_of(self, raw: bytes) -> str | None:
        """Return the outcome of a request nobody answered, None to show the line as it is, "" to pass it over."""
        tail = _TAIL.search(raw, max(0, len(raw) - 500))
        if tail is None:
            return None  # not a whole line: the notice comes when it is parsed
        of = int(tail[1]) if tail[1] else None
        if not raw.startswith(_TYPED):
            if of is not None:
                self._closed[of] = ""
            return None
        kind = raw[len(_TYPED) : raw.find(b'"', len(_TYPED))]
        if kind == b"request":
            return self._closed.pop(int(tail[2]), "open")
        if kind == b"orphan":
            found = _OUTCOME.search(raw, 0, 200)
            outcome = found[1].decode() if found else "lost"
            if of is None:
                return outcome
            self._closed.setdefault(of, outcome)
        return ""


def parse(raw: bytes, path: str, on_notice: Callable[[str], None]) -> Record | None:
    """Return the record of a line, or None after saying that it cannot be read."""
    try:
        line = json.loads(raw)
        seq = line["seq"]
        if isinstance(seq, int):
            return Record(seq, line, raw)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # said in the notice below, whatever it was
    begin = raw[:40].decode("utf-8", "replace")
    on_notice(f"{path}: skipped {len(raw)} bytes that are no line of a ledger, beginning {begin!r}")
    return None


def raw_lines(path: str, newest_first: bool, on_notice: Callable[[str], None]) -> Iterator[bytes]:
    """Yield every line without its LF; some may be empty or torn.

    Raises:
        CannotLook: the log cannot be opened or read.
    """
    if is_sqlite(path):
        yield from _rows(path, newest_first, on_notice)
        return
    with open_bytes(path) as file:
        if not newest_first:
            yield from lines_forward(file)
        elif hasattr(file, "peek"):  # gzip: cannot be read backwards
            with cast(BinaryIO, TemporaryFile()) as copy:
                for chunk in chunks(file):
                    copy.write(chunk)
                yield from lines_backward(copy)
        else:
            yield from lines_backward(file)


def _rows(path: str, newest_first: bool, on_notice: Callable[[str], None]) -> Iterator[bytes]:
    order = "DESC" if newest_first else "ASC"
    try:
        with open_sqlite(path) as connection, closing(connection.cursor()) as cursor:
            for (line,) in cursor.execute(f"SELECT line FROM entries ORDER BY seq {order}"):  # noqa: S608
                yield line
    except sqlite3.OperationalError as error:
        raise CannotLook(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        on_notice(f"{path}: the database is corrupt, the rest is not shown: {error}")


def lines_forward(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file from where it stands, without their LF; the last one may be incomplete."""
    parts: list[bytes] = []
    for chunk in chunks(file):
        first, *rest = chunk.split(b"\n")
        parts.append(first)
        if rest:
            yield b"".join(parts)
            parts = [rest.pop()]
            yield from rest
    if any(parts):
        yield b"".join(parts)


def lines_backward(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a seekable file, last one first, without their LF; reads blocks from its end."""
    position = file.seek(0, os.SEEK_END)
    parts: list[bytes] = []  # of the line whose beginning has not been read yet, last part first
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        file.seek(position)
        pieces = file.read(size).split(b"\n")
        parts.append(pieces.pop())
        if pieces:
            yield b"".join(reversed(parts))
            parts = [pieces[0]]
            yield from reversed(pieces[1:])
    if parts:
        yield b"".join(reversed(parts))
