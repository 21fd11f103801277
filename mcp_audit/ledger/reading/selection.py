"""Decide line by line what of a log is shown, and as what: one record for each exchange and each unanswered request.

Pure. Nothing is verified; a line that cannot be read is left out with a notice, never an exception.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcp_audit.ledger.legacy import legacy_record
from mcp_audit.ledger.reading.filters import Filter
from mcp_audit.ledger.reading.lines import Facts, facts

__all__ = ["NO_SEQ", "Judge", "Record", "parse"]

NO_SEQ = -1
_TYPED = b'{"type":"'


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a log.

    Attributes:
        seq: its place; `NO_SEQ` in a log of the Go version.
        line: its members. A request nobody answered has an `outcome` here that its bytes do not have: that of its
            `orphan`, or `open`. So has an entry of the Go version, which tells by its `result` or `error` alone.
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


class Judge:
    """Decides about every line whether it is shown, and how."""

    def __init__(
        self,
        path: str,
        wanted: Filter,
        newest_first: bool,
        every_line: bool,
        after: int,
        before: int,
        on_notice: Callable[[str], None],
    ) -> None:
        self.wanted = wanted
        self.newest_first = newest_first
        self.every_line = every_line
        self.after = after
        self.before = before
        self.on_notice = on_notice
        self.done = False  # newest first: what comes now is at or below `after`
        self._path = path
        # Newest first, whatever closes a request comes before it: outcome of the orphan, empty for an exchange line.
        self._closed: dict[int, bytes] = {}

    def forget(self) -> None:
        """Begin anew."""
        self._closed.clear()

    def line(self, raw: bytes) -> Record | None:
        """Return the record of the next line in order, None if it is not shown."""
        if not raw:
            return None
        if self.every_line:
            return self._record(raw, None)
        if not self.newest_first:
            return None if raw.startswith(_TYPED) else self._record(raw, None)
        known = facts(raw)
        outcome = None
        if known is not None:
            self._note(known)
            outcome = self._closed.pop(known.seq, b"open") if known.kind == b"request" else None
        return self.found(raw, known, outcome)

    def _note(self, known: Facts) -> None:
        if self.after >= known.seq and self.after != NO_SEQ:
            self.done = True
        if known.of is not None and known.kind == b"":
            self._closed[known.of] = b""
        elif known.of is not None and known.kind == b"orphan":
            self._closed.setdefault(known.of, known.values[-1] or b"lost")

    def found(self, raw: bytes, known: Facts | None, outcome: bytes | None) -> Record | None:
        """Return the record of a line found out of order, None if it is not shown.

        Args:
            known: what it says; None if it is no line of a ledger.
            outcome: how a request ended, empty if an exchange line has it all; None if unknown or no request.
        """
        if known is None:
            return self._record(raw, None)
        if known.kind == b"request":
            outcome = self._closed.pop(known.seq, outcome if outcome is not None else b"open")
            if not outcome:
                return None
        elif known.kind == b"orphan" and known.of is None:
            outcome = known.values[-1]
        elif known.kind:
            return None
        if not self.after < known.seq < self.before:
            return None
        if not self.wanted.may_fit(known, outcome if outcome is not None else known.values[-1]):
            return None
        return self._record(raw, outcome)

    def _record(self, raw: bytes, outcome: bytes | None) -> Record | None:
        if not self.wanted.may_match(raw):
            return None
        record = parse(raw, self._path, self.on_notice)
        if record is None or not (record.seq == NO_SEQ or self.after < record.seq < self.before):
            return None
        if outcome is not None:
            record.line["outcome"] = outcome.decode("utf-8", "replace")
        return record if self.wanted.matches(record.line) else None


def parse(raw: bytes, path: str, on_notice: Callable[[str], None]) -> Record | None:
    """Return the record of a line, or None after saying that it cannot be read."""
    try:
        line = json.loads(raw)
        seq = line["seq"]
        if isinstance(seq, int):
            return Record(seq, line, raw)
    except (ValueError, KeyError, TypeError, RecursionError):
        old = legacy_record(raw)
        if old is not None:
            return Record(NO_SEQ, _with_outcome(old), raw)
    begin = raw[:40].decode("utf-8", "replace")
    on_notice(f"{path}: skipped {len(raw)} bytes that are no line of a ledger, beginning {begin!r}")
    return None


def _with_outcome(line: dict[str, Any]) -> dict[str, Any]:
    """Say how an exchange of the Go version ended, as far as it tells."""
    result = line.get("result")
    if line.get("error") is not None:
        line.setdefault("outcome", "rpc_error")
    elif isinstance(result, dict) and result.get("isError") is True:
        line.setdefault("outcome", "tool_error")
    elif result is not None:
        line.setdefault("outcome", "answered")
    return line
