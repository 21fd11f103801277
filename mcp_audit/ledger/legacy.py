"""Logs of the Go program that came before: read their entries, and check the one signature that each may carry.

Reads only. Promise: `valid` is said of what HMAC-SHA256 over id, timestamp, method, tool name and params proves, and
the report always says what that leaves open. This is no ledger: entries have no place, no chain and no checkpoint.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from mcp_audit.ledger.evidence import CannotLook, is_sqlite, open_bytes, open_sqlite
from mcp_audit.ledger.go_encoding import go_time, may_lack_space, respaced, spellings

__all__ = ["LIMITS", "LegacyCounts", "LegacyReport", "check_legacy", "legacy_record", "legacy_records"]

LIMITS = (
    "this signature covers id, timestamp, method, tool name and params of one entry: "
    "it cannot show deleted, added or reordered entries, nor changed results"
)
_DIRECTIONS = {
    **dict.fromkeys(("client→server", "client->server"), "client_to_server"),
    **dict.fromkeys(("server→client", "server->client"), "server_to_client"),
}
_JSON_COLUMNS = ("params", "result", "error")
_TOLD = 20  # invalid entries that a report names; the rest is counted
_SPACE = re.compile(r"[ \t\r\n]*")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _Entry(NamedTuple):
    """One entry: where it stands, its members, and its params in the very bytes that are stored."""

    place: str
    members: dict[str, Any] | None  # None: unreadable
    params: bytes


@dataclass(slots=True)
class LegacyCounts:
    """How many entries are what. `not_checkable`: signed over bytes that the writer's encoder is seen to change."""

    valid: int = 0
    invalid: int = 0
    not_checkable: int = 0
    unsigned: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class LegacyReport:
    """What the signatures of one file say.

    Attributes:
        faults: places of the first invalid entries, in words.
        notices: what a reader of the counts must know; `LIMITS` always is the last.
    """

    path: str
    counts: LegacyCounts = field(default_factory=LegacyCounts)
    faults: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all signed entries are valid, 1 one is invalid, 3 no secret, or entries that cannot be checked."""
        if self.counts.invalid:
            return 1
        return 0 if self.counts.valid and not self.counts.not_checkable else 3

    @property
    def verdict(self) -> str:
        """VALID, INVALID or UNKNOWN: weaker words than those for a ledger, on purpose."""
        return {0: "VALID", 1: "INVALID", 3: "UNKNOWN"}[self.exit_code]

    def to_json(self) -> dict[str, Any]:
        """Return what `verify --legacy --json` prints."""
        return {
            "verdict": self.verdict,
            "exit": self.exit_code,
            "path": self.path,
            "legacy": True,
            "counts": asdict(self.counts),
            "faults": self.faults,
            "notices": self.notices,
        }

    def lines(self) -> list[str]:
        """Return the report in words, the verdict last. Whoever prints them escapes them: the log wrote some of it."""
        name = os.path.basename(self.path)
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(self.counts).items())
        told = [f"FAIL  {name}  {fault}" for fault in self.faults]
        return [*told, *(f"      {notice}" for notice in self.notices), f"{self.verdict}  {self.path}: {counts}"]


def legacy_record(line: bytes) -> dict[str, Any] | None:
    """Return the members of an entry of the Go program, None if `line` (with or without LF) is none.

    Its `direction` is in words, however it was written. It has no `seq`, and a `request_id` only from later versions.
    """
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _normal(members)


def legacy_records(path: str) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log of the Go program, JSONL or SQLite, oldest first; what cannot be read is left out.

    Raises:
        CannotLook: the file cannot be read.
    """
    return (entry.members for entry in _entries(path) if entry.members is not None)


def check_legacy(path: str, *secrets: bytes | None) -> LegacyReport:
    """Check the signature of every entry.

    Args:
        path: a log or an archive of the Go program: JSONL, gzipped or not, or SQLite.
        secrets: values of AUDIT_SECRET; an entry is valid if it fits one of them. None stands for no secret.

    Raises:
        CannotLook: the file cannot be read.
    """
    check = _Check([secret for secret in secrets if secret is not None])
    report = LegacyReport(path)
    for entry in _entries(path):
        check.take(entry, report)
    check.finish(report)
    return report


class _Check:
    """Sorts the entries of one file."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = secrets
        self._spacious: set[str] = set()  # clients seen to send whitespace between tokens
        # Places of mismatches, by the client whose lost whitespace could explain them; None: nothing could.
        self._unsettled: dict[str | None, list[str]] = {}

    def take(self, entry: _Entry, report: LegacyReport) -> None:
        counts, members = report.counts, entry.members
        if members is None:
            counts.unreadable += 1
        elif not members.get("signature"):
            counts.unsigned += 1
        elif not self._secrets:
            counts.not_checkable += 1
        else:
            self._check(entry, members, report)

    def _check(self, entry: _Entry, members: dict[str, Any], report: LegacyReport) -> None:
        found = str(members["signature"]).removeprefix("hmac-sha256:").lower()
        client = str(members.get("client_id"))
        if self._fits(members, spellings(entry.params), found):
            report.counts.valid += 1
        elif self._fits(members, respaced(entry.params), found):
            report.counts.valid += 1
            self._spacious.add(client)
        elif "\ufffd" in f"{members['method']}{members.get('tool_name')}":
            report.counts.not_checkable += 1  # bytes that were no UTF-8 were signed, and are gone
        else:
            place = f"{entry.place}: entry {members['id']} is not what was signed"
            self._unsettled.setdefault(client if may_lack_space(entry.params) else None, []).append(place)

    def _fits(self, members: dict[str, Any], params: Iterable[bytes], found: str) -> bool:
        heads = {_head(members, members["timestamp"]), _head(members, go_time(members["timestamp"]))}
        return any(
            hmac.compare_digest(
                hmac.digest(secret, head + text, "sha256").hex().encode(), found.encode("utf-8", "replace")
            )
            for text in params
            for secret in self._secrets
            for head in heads
        )

    def finish(self, report: LegacyReport) -> None:
        """Settle the mismatches now that it is known whose whitespace the writer dropped, and say what is open."""
        counts = report.counts
        for client, places in self._unsettled.items():
            if client in self._spacious:
                counts.not_checkable += len(places)
            else:
                counts.invalid += len(places)
                report.faults += places[: _TOLD - len(report.faults)]
        report.notices += _notices(counts, bool(self._secrets), bool(self._spacious))


def _notices(counts: LegacyCounts, secret: bool, spacious: bool) -> list[str]:
    notices = []
    if not secret:
        notices.append("no signature was checked: set AUDIT_SECRET or AUDIT_SECRET_FILE to the secret of that log")
    if counts.invalid > _TOLD:
        notices.append(f"{counts.invalid - _TOLD} more entries are not what was signed")
    if counts.invalid and not counts.valid:
        notices.append("no signature fits: is this the secret of that log?")
    if counts.not_checkable and spacious:
        notices.append("some params were signed with whitespace that the log no longer has: those cannot be checked")
    if counts.unsigned:
        notices.append(
            f"{counts.unsigned} entries carry no signature: anybody who could write there may have made them"
        )
    if counts.unreadable:
        notices.append(f"{counts.unreadable} lines are no entries: torn by a crash, or damaged")
    return [*notices, LIMITS]


def _head(members: dict[str, Any], timestamp: str) -> bytes:
    text = f"{members['id']}{timestamp}{members['method']}{members.get('tool_name') or ''}"
    return _LONE_SURROGATE.sub("\ufffd", text).encode()


def _normal(members: Any) -> dict[str, Any] | None:
    """Return the members of an entry with its direction in words, None if it is no entry of the Go program."""
    if not isinstance(members, dict) or "log" in members:
        return None
    members.setdefault("method", "")
    if not all(isinstance(members.get(name), str) for name in ("id", "timestamp", "method")):
        return None
    direction = members.get("direction")
    if isinstance(direction, str):
        members["direction"] = _DIRECTIONS.get(direction.replace(" ", ""), direction)
    return members


def _entries(path: str) -> Iterator[_Entry]:
    return _from_sqlite(path) if is_sqlite(path) else _from_lines(path)


def _from_lines(path: str) -> Iterator[_Entry]:
    try:
        with closing(open_bytes(path)) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    members = legacy_record(line)
                    yield _Entry(f"line {number}", members, _raw_member(line, "params") if members else b"")
    except (OSError, EOFError, zlib.error) as error:
        raise CannotLook(path, f"cannot be read to its end: {error}") from error


def _from_sqlite(path: str) -> Iterator[_Entry]:
    """The Go program's table. Its columns are the members; which of them there are depends on its version."""
    try:
        with open_sqlite(path) as database:  # text comes as bytes: as it is stored
            table = database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'audit_entries' AND type = 'table'")
            if table.fetchone() is None:
                raise CannotLook(path, "holds no table audit_entries; for a ledger leave --legacy out")
            rows = database.execute("SELECT * FROM audit_entries ORDER BY rowid")
            names = [column[0] for column in rows.description]
            for number, row in enumerate(rows, 1):
                columns = {name: value for name, value in zip(names, row, strict=True) if value not in (None, b"")}
                params = columns.get("params", b"")
                yield _Entry(f"row {number}", _from_row(columns), params if isinstance(params, bytes) else b"")
    except sqlite3.Error as error:
        raise CannotLook(path, f"cannot be read to its end: {error}") from error


def _from_row(columns: Mapping[str, Any]) -> dict[str, Any] | None:
    members = {}
    for name, value in columns.items():
        members[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if name in _JSON_COLUMNS:
            with suppress(ValueError, TypeError, RecursionError):  # changed into no JSON: the signature will tell
                members[name] = json.loads(members[name])
    return _normal(members)


def _raw_member(line: bytes, name: str) -> bytes:
    """Return the bytes of a top-level member of a valid JSON object, b"" if it is not there; the last one counts."""
    text, raw = line.decode(), ""
    value_at = json.JSONDecoder().raw_decode
    at = _past_space(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = value_at(text, at)
        begin = _past_space(text, _past_space(text, at) + 1)
        _, end = value_at(text, begin)
        raw = text[begin:end] if key == name else raw
        at = _past_space(text, end)
        at = _past_space(text, at + 1) if text[at] == "," else at
    return raw.encode()


def _past_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
