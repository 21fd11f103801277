"""Queries through SQLite's indexes: the same answers as a scan of the same lines, and only what can match is read."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledger_forge import Forge

from mcp_audit.ledger import read
from mcp_audit.ledger.reading import database
from mcp_audit.ledger.reading.filters import Filter

TOOLS = ["read_file", "delete_file", "ünï", "b", 'quo"te', "\ud800", "", "x\ty"]
FILTERS: list[dict[str, Any]] = [
    *({"tool": tool} for tool in ("read_file", "*file", "ünï,b", 'quo"te', "\ud800", "none", "x\ty")),
    *({"outcome": outcome} for outcome in ("open", "timeout", "lost", "denied,open", "answered", "*")),
    {"tool": "b", "client": "cursor"},
    {"tool": "b", "client": "cursor", "outcome": "lost,open"},
    {"server": "filesystem", "client": "c*"},
    {"method": "tools/*", "tool": "b"},
    {"since": "2026-05-25T12:03:00.000000Z"},
    {"since": "2026-05-25T12:01:00.000000Z", "until": "2026-05-25T12:01:20.000000Z"},
    {"until": "2026-05-25T12:00:20.000000Z", "tool": "b"},
    {"since": "2027", "tool": "b"},
    {"tool": "b", "grep": "1\\.10"},
    {"tool": "b", "before": 200, "after": 100},
    {"tool": "b", "limit": 3},
    {"since": "2026-05-25T12:03:00.000000Z", "before": 150},
    {},
    {"before": 50, "limit": 5},
]


def history(seed: int) -> Forge:
    chance = random.Random(seed)
    forge = Forge()
    forge.open()
    open_: list[int] = []
    for _ in range(300):
        tool, client = chance.choice(TOOLS), chance.choice(["cursor", "claude"])
        step = chance.randrange(7)
        if step == 0:
            forge.call(tool=tool, client_id=client, outcome=chance.choice(["answered", "denied", "lost"]))
        elif step == 1:
            open_.append(forge.entry("request", tool=tool, client_id=client))
        elif step == 2 and open_:
            forge.typed("orphan", of=open_[-1], outcome=chance.choice(["lost", "timeout"]), why="exit")
        elif step == 3 and open_:
            forge.entry(tool=tool, of=open_.pop(chance.randrange(len(open_))))
        elif step == 4:
            forge.entry("orphan", tool=tool, outcome="lost", why="evicted")
        elif step == 5:
            forge.entry(tool=tool, params=b'{"tool_name":"b","outcome":"denied"}')
        else:
            forge.second += 40 if chance.random() < 0.3 else -20 if forge.second > 30 else 0
    return forge


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("asked", FILTERS, ids=str)
def test_the_answer_is_that_of_a_scan(tmp_path: Path, seed: int, asked: dict[str, Any]) -> None:
    """Through indexes, by walking the table, and from the same lines in a file."""
    forge = history(seed)
    log, table = forge.write(tmp_path / "audit.jsonl"), forge.write_sqlite(tmp_path / "audit.db")

    def answer(path: Path, index: str) -> list[tuple[Any, ...]]:
        found = read(path, newest_first=True, index=index, **asked)  # type: ignore[arg-type]
        return [(record.seq, record.line.get("outcome"), record.raw) for record in found]

    expected = answer(log, "none")
    assert answer(table, "none") == expected
    assert answer(table, "use") == expected


def test_only_what_can_match_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand lines the one with the rare tool is fetched, and the table is never walked."""
    forge = Forge()
    forge.open()
    for number in range(500):
        forge.call(tool="rare" if number == 100 else "frequent")
    table = forge.write_sqlite(tmp_path / "audit.db")
    fetched = []
    real = database._Search.line
    monkeypatch.setattr(database._Search, "line", lambda self, seq: fetched.append(seq) or real(self, seq))
    found = [record.seq for record in read(table, newest_first=True, tool="rare")]
    assert (found, fetched) == ([202], [202, 201])

    fetched.clear()
    late = [record.seq for record in read(table, newest_first=True, until="2026-05-25T12:00:05.000000Z")]
    assert late == [2]
    assert len(fetched) < 100, "the time range is looked up once the newest lines did not fit"


def test_a_database_without_the_indexes_is_read_through(tmp_path: Path) -> None:
    """Somebody dropped one: verify objects, a query answers all the same."""
    forge = history(1)
    table = forge.write_sqlite(tmp_path / "audit.db")
    with closing(sqlite3.connect(table)) as connection:
        connection.execute("DROP INDEX entries_of")

    assert not database.searchable(str(table), Filter(tool="b"))
    found = [record.seq for record in read(table, newest_first=True, tool="b")]
    log = forge.write(tmp_path / "audit.jsonl")
    assert found == [record.seq for record in read(log, newest_first=True, tool="b")]
    assert found
