"""What a test of this folder declares about its fault, and what it then sees: the two halves of docs/faults.md.

Promise: a test cannot see a verdict it did not declare, lose a line that was acknowledged, or end without `verify`.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mcp_audit.ledger import Report, standalone_verify, verify

__all__ = ["Row", "Seen", "lines_of", "recorded", "row"]

SECRET = b"0123456789abcdef0123456789abcdef"
Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: the fault, how it is made, what the proxy does about it, what `verify` may say after.

    `proxy` is empty where no proxy is at work: those are attacks on files.
    """

    fault: str
    by: str
    proxy: str
    verify: tuple[str, ...]
    cases: Mapping[str, tuple[str, str]]


def row(
    fault: str, *, by: str, proxy: str = "", verify: str, cases: Mapping[str, tuple[str, str]] | None = None
) -> Callable[[Test], Test]:
    """Declare a test's row.

    Args:
        verify: the possible verdicts.
        cases: for a test whose parameters each deserve a row: by the parameter's id the fault, and what `verify` says.
    """

    def declare(test: Test) -> Test:
        test.row = Row(fault, by, proxy, tuple(verify.split()), cases or {})  # type: ignore[attr-defined]
        return test

    return declare


class Seen:
    """What one test saw."""

    def __init__(self, declared: Row) -> None:
        self.declared = declared
        self.verdicts: Counter[str] = Counter()
        self.acknowledged = 0

    def check(
        self, log: Path | str, *, expect: str = "", story: object = "", both: bool = True, **options: Any
    ) -> Report:
        """Verify a log and hold the verdict against the row, and against `expect` if given.

        Args:
            both: ask the independent verifier as well; a loop over thousands does so now and then.
        """
        report = verify(log, **{"secrets": [SECRET], "strict": True, **options})
        name = report.verdict.name
        allowed = expect.split() or self.declared.verify
        assert name in allowed, f"{story}: verify says {name}, not {' or '.join(allowed)}: {report.reason}"
        if both and report.checks.get("strict") is not False:
            self._agrees(log, name, options, story)
        self.says(name, story)
        return report

    def says(self, name: str, story: object = "") -> None:
        """Take note of a verdict that another command gave."""
        assert name in self.declared.verify, f"{story}: {name} is not in the row"
        self.verdicts[name] += 1

    def _agrees(self, log: Path | str, name: str, options: dict[str, Any], story: object) -> None:
        """The verifier that shares no code with ours says the same."""
        note = options.get("against")
        vkeys, secrets = options.get("vkeys", ()), options.get("secrets", [SECRET])
        other = standalone_verify.verify(str(log), vkeys, secrets, note.encode() if note else None)
        said = other["verdict"]
        assert said == name, f"{story}: we say {name}, standalone_verify says {said}: {other['reason']}"

    def keeps(self, acknowledged: Iterable[str], found: Collection[str], story: object = "") -> None:
        """Every acknowledged exchange is in the ledger."""
        wanted = set(acknowledged)
        lost = wanted - set(found)
        assert not lost, f"{story}: {len(lost)} acknowledged lines are lost: {sorted(lost)[:5]}"
        self.acknowledged += len(wanted)

    def finish(self) -> str:
        """Return it all for the report."""
        assert self.verdicts, "a fault ends with verify"
        return json.dumps({"verdicts": self.verdicts, "acknowledged": self.acknowledged, "lost": 0})


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Return every line of a log and its archives, oldest first; torn bytes are passed over, `verify` judges them."""
    if log.suffix == ".db":
        with closing(sqlite3.connect(log)) as database:
            return [json.loads(line) for (line,) in database.execute("SELECT line FROM entries ORDER BY seq")]
    found: dict[int, dict[str, Any]] = {}
    for path in log.parent.glob(log.name + "*"):
        data = path.read_bytes() if path.suffix != ".gz" else gzip.decompress(path.read_bytes())
        for raw in data.split(b"\n"):
            if raw.startswith((b'{"type":"', b'{"id":"')) and raw.endswith(b'"}'):
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue
                found.setdefault(line["seq"], line)
    return [found[seq] for seq in sorted(found)]


def recorded(log: Path) -> list[str]:
    """Return the request ids of all answered exchanges."""
    return [line["request_id"] for line in lines_of(log) if line.get("outcome") == "answered" and "type" not in line]
