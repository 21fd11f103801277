"""The verdict over a database: its table of checkpoints agrees with its rows, and rows are gone only as allowed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from ledger_forge import KEY, ORIGIN, OTHER_KEY, SECRET, Forge, closed_log

from mcp_audit.ledger import Report, Verdict, verify
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.segment import prune_members


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


def check(path: Path, **options: Any) -> Report:
    return verify(path, **({"secrets": [SECRET]} | options))


def pruned(to: int = 4) -> tuple[Forge, Mapping[int, str]]:
    """A log whose rows before `to` may go: a request before it is answered after it."""
    forge = Forge()
    forge.open()
    forge.call()
    request = forge.entry("request")
    notes = {}
    at = None
    while forge.chain.size < 8:
        if forge.chain.size == to:
            at = forge.chain.copy()
            notes[to] = forge.sign()
        forge.call()
    assert at is not None
    forge.typed("prune", **prune_members(at, KEY.vkey, 0, "max_age_days: 30"))
    forge.entry(of=request)
    forge.close()
    notes[forge.chain.size] = forge.sign()
    return forge, notes


def test_pruned_rows(log: Path) -> None:
    """The prune line gives the state before the first row; pairing, chain and root go on from there."""
    forge, notes = pruned()
    report = check(forge.write_sqlite(log, 4, notes), strict=True)

    assert (report.verdict, report.reason, report.checks["strict"]) == (Verdict.INTACT, "", True)
    assert [(file.first, file.last) for file in report.files] == [(4, forge.chain.size - 1)]
    assert report.counts["open_requests"] == 0
    assert check(forge.write_sqlite(log, 0, notes)).verdict is Verdict.INTACT


@pytest.mark.parametrize("first", [1, 3, 5, 6])
def test_other_rows_are_gone_than_were_pruned(log: Path, first: int) -> None:
    """Fewer or more: no prune line leads to the first row that is there."""
    forge, notes = pruned()
    report = check(forge.write_sqlite(log, first, notes))

    assert report.verdict is Verdict.TAMPERED
    assert f"seq 0 to {first - 1} are missing and no prune line lets them go" in report.reason


def test_an_unsigned_prune_line(log: Path) -> None:
    """Appended behind the checkpoint by whoever can write there, it lets nothing go."""
    forge = closed_log(None)
    at = Forge(None).chain
    for line in forge.lines[:3]:
        at.follow(line[:-1])
    forge.typed("prune", **prune_members(at, KEY.vkey, 0, "max_age_days: 30"))
    assert check(forge.write_sqlite(log)).verdict is Verdict.UNCLEAN
    report = check(forge.write_sqlite(log, 3))

    assert report.verdict is Verdict.TAMPERED
    assert "seq 0 to 2 are missing, and the prune line that lets them go was never signed" in report.reason


def test_a_prune_line_that_lies_about_the_state(log: Path) -> None:
    """Its frontier is bound by the root that is signed; its pending requests by the line itself."""
    forge, notes = pruned()
    forge.lines[8] = forge.lines[8].replace(b'"pending":[3]', b'"pending":[2]')
    assert check(forge.write_sqlite(log, 4, notes)).verdict is Verdict.TAMPERED


NOTES = [
    pytest.param({4: signed_note(Checkpoint(ORIGIN, 4, bytes(32)), KEY)}, "up to seq 3 are not those", id="root"),
    pytest.param({4: signed_note(Checkpoint(ORIGIN, 4, bytes(32)), OTHER_KEY)}, "does not verify", id="signature"),
    pytest.param({5: signed_note(Checkpoint(ORIGIN, 4, bytes(32)), KEY)}, "says that it covers 4", id="size"),
    pytest.param({4: "garbage"}, "of size 4 in the database does not verify", id="garbage"),
    pytest.param({9: signed_note(Checkpoint(ORIGIN, 9, bytes(32)), KEY)}, "seq 6 to 8 are missing", id="more-rows"),
]


@pytest.mark.parametrize(("notes", "reason"), NOTES)
def test_every_checkpoint_in_the_table_counts(log: Path, notes: Mapping[int, str], reason: str) -> None:
    """Signature, size and root of each, not only of the one beside the database."""
    report = check(closed_log().write_sqlite(log, 0, notes))

    assert report.verdict is Verdict.TAMPERED
    assert reason in report.reason


def test_rows_cut_with_the_sidecar_but_not_the_table(log: Path) -> None:
    """Rolling back rows and the file beside them is seen by the table, if that was forgotten."""
    whole, part = closed_log(calls=3), closed_log(calls=3)
    part.lines = part.lines[:5]
    part.note = signed_note(Checkpoint(ORIGIN, 5, _root(part.lines)), KEY)
    report = check(part.write_sqlite(log, 0, {8: whole.note or ""}))

    assert report.verdict is Verdict.TAMPERED
    assert "seq 5 to 7 are missing: a checkpoint covers them" in report.reason


def _root(lines: list[bytes]) -> bytes:
    chain = Forge().chain
    for line in lines:
        chain.follow(line[:-1])
    return chain.tree.root()


def test_a_note_that_is_no_text(log: Path) -> None:
    """A value of another type is a note that does not verify, not a crash."""
    closed_log().write_sqlite(log)
    with closing(sqlite3.connect(log, isolation_level=None)) as connection:
        connection.execute("INSERT INTO checkpoints VALUES (3, x'ff00')")
    assert check(log).verdict is Verdict.TAMPERED
