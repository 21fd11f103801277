"""`mcp-audit query`: newest first, filtered, in four formats, and harmless to whoever reads it."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledger_forge import Forge, LogKey
from rotated_forge import Rotated

from mcp_audit.cli import main
from mcp_audit.cli.filters import when
from mcp_audit.errors import ConfigError

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def forge() -> Forge:
    forge = Forge()
    forge.open()
    forge.call(tool="read_file")
    forge.entry(tool="delete_file", outcome="denied")
    forge.entry("request", tool="slow")
    return forge


@pytest.fixture
def log(tmp_path: Path, forge: Forge) -> Path:
    return forge.write(tmp_path / "audit.jsonl")


def query(capsysbinary: pytest.CaptureFixture[bytes], *arguments: object) -> tuple[str, str]:
    assert main(["query", *map(str, arguments)]) == 0
    out, err = capsysbinary.readouterr()
    return out.decode(), err.decode()


def test_table(capsysbinary: pytest.CaptureFixture[bytes], log: Path) -> None:
    """Columns have the entry's own names; rows stand newest first."""
    out, err = query(capsysbinary, log)
    lines = [line.split() for line in out.splitlines()]

    assert lines[0] == ["seq", "timestamp", "method", "tool_name", "client_id", "server_id", "outcome", "duration_ms"]
    assert [(line[0], line[3], line[6]) for line in lines[1:]] == [
        ("4", "slow", "open"),
        ("3", "delete_file", "denied"),
        ("2", "read_file", "answered"),
    ]
    assert err == ""


def test_jsonl_is_the_ledger_s_own_bytes(capsysbinary: pytest.CaptureFixture[bytes], log: Path, forge: Forge) -> None:
    """In a pipe an exchange comes out byte for byte; an unanswered request with its outcome."""
    assert main(["query", str(log), "--format", "jsonl"]) == 0
    lines = capsysbinary.readouterr().out.splitlines(keepends=True)

    assert lines[1:] == [forge.lines[3], forge.lines[2]]
    assert json.loads(lines[0]) == {**json.loads(forge.lines[4]), "outcome": "open"}


def test_json_and_csv(capsysbinary: pytest.CaptureFixture[bytes], log: Path) -> None:
    """One array; one header and one row each, payloads as JSON text."""
    entries = json.loads(query(capsysbinary, log, "--format", "json")[0])
    rows = list(csv.DictReader(io.StringIO(query(capsysbinary, log, "--format", "csv")[0])))

    assert [entry["seq"] for entry in entries] == [4, 3, 2]
    assert [row["seq"] for row in rows] == ["4", "3", "2"]
    assert json.loads(rows[2]["result"]) == {"content": [], "isError": False}
    assert rows[2]["outcome"] == entries[2]["outcome"] == "answered"


@pytest.mark.parametrize("format_", ["table", "json", "jsonl", "csv"])
def test_nothing_found(capsysbinary: pytest.CaptureFixture[bytes], log: Path, format_: str) -> None:
    """Still valid output of its format, and a word on stderr."""
    out, err = query(capsysbinary, log, "--tool", "none", "--format", format_)

    assert err == "mcp-audit: no entry fits\n"
    assert {"table": out.startswith("seq"), "json": out == "[]\n", "jsonl": out == "", "csv": out.count("\n") == 1}[
        format_
    ]


def test_filters_and_limit(capsysbinary: pytest.CaptureFixture[bytes], log: Path) -> None:
    """They narrow; a limit that cuts says so, one that just suffices does not."""
    assert len(query(capsysbinary, log, "--tool", "*_file", "--outcome", "denied")[0].splitlines()) == 2
    out, err = query(capsysbinary, log, "--limit", "2")
    assert (len(out.splitlines()), "newest 2" in err) == (3, True)
    assert query(capsysbinary, log, "--limit", "3")[1] == ""
    assert (
        len(query(capsysbinary, log, "--limit", "0", "--since", "2026-05-25", "--until", "2026-05-25")[0].splitlines())
        == 4
    )


def test_several_logs_are_one_timeline(capsysbinary: pytest.CaptureFixture[bytes], log: Path, tmp_path: Path) -> None:
    """Entries of all logs, JSONL and SQLite, by time."""
    other = Forge(None, "other/log", LogKey("other/log", bytes(32)))
    other.second = 3
    other.open()
    other.entry(tool="between")
    database = other.write_sqlite(tmp_path / "other.db")
    out, _ = query(capsysbinary, log, database, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))

    assert [row["timestamp"] for row in rows] == sorted((row["timestamp"] for row in rows), reverse=True)
    assert {row["log"] for row in rows} == {"audit.example/host1/fs", "other/log"}


EVIL = "\x1b]0;pwned\x07\x1b[2Jr\u202eeteled\u200b\u2028\x7f\x9b"


@pytest.mark.parametrize("format_", ["table", "json"])
def test_audited_text_stays_text(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, format_: str) -> None:
    """No control, bidi or zero-width character of a tool's name reaches the reader's terminal."""
    forge = Forge()
    forge.open()
    forge.call(tool=EVIL)
    out, _ = query(capsysbinary, forge.write(tmp_path / "audit.jsonl"), "--format", format_)

    assert re.fullmatch(r"[\x20-\x7e\n]*", out)
    assert "\\u202e" in out


def test_a_spreadsheet_does_not_run_a_tool_s_name(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """Cells that would be formulas begin with an apostrophe."""
    forge = Forge()
    forge.open()
    forge.call(tool="=cmd|' /C calc'!A0")
    out, _ = query(capsysbinary, forge.write(tmp_path / "audit.jsonl"), "--format", "csv")

    assert "'=cmd" in out


def test_broken_lines_are_skipped(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path, forge: Forge) -> None:
    """With a notice on stderr, made safe; the command still succeeds."""
    log = forge.write(tmp_path / "audit.jsonl", forge.data + b"\x1b[2J broken")
    out, err = query(capsysbinary, log)

    assert len(out.splitlines()) == 4
    assert "skipped 11 bytes" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--since", "yesterday-ish"], "'yesterday-ish' is no time", id="since"),
        pytest.param(["--since", "999999999w"], "is no time", id="since-before-history"),
        pytest.param(["--grep", "("], "no regular expression", id="grep"),
        pytest.param(["--limit", "-1"], "0 (all) or more", id="limit"),
    ],
)
def test_usage_errors(
    capsysbinary: pytest.CaptureFixture[bytes], log: Path, arguments: list[str], sentence: str
) -> None:
    """Exit 2 and one sentence that names the option."""
    assert main(["query", str(log), *arguments]) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert sentence in err.decode()
    assert arguments[0] in err.decode()


def test_a_missing_log(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """Exit 2, naming it."""
    assert main(["query", str(tmp_path / "none.jsonl")]) == 2
    assert b"none.jsonl: No such file" in capsysbinary.readouterr().err


@pytest.mark.parametrize(
    ("text", "end_of_day", "expected"),
    [
        pytest.param("2h", False, "2026-11-01T10:00:00.000000Z", id="hours"),
        pytest.param("90 s", False, "2026-11-01T11:58:30.000000Z", id="seconds"),
        pytest.param("1w", True, "2026-10-25T12:00:00.000000Z", id="weeks"),
        pytest.param("2026-11-01", False, "2026-11-01T00:00:00.000000Z", id="date"),
        pytest.param("2026-11-01", True, "2026-11-02T00:00:00.000000Z", id="until-includes-the-day"),
        pytest.param("2026-11-01T12:00", True, "2026-11-01T12:00:00.000000Z", id="minute"),
        pytest.param("2026-11-01T12:00+02:00", False, "2026-11-01T10:00:00.000000Z", id="offset"),
        pytest.param("2026-11-01T12:00:00.5Z", False, "2026-11-01T12:00:00.500000Z", id="zulu"),
    ],
)
def test_times(text: str, end_of_day: bool, expected: str) -> None:
    """As people write them, to what the ledger writes."""
    assert when(text, NOW, "--since", end_of_day) == expected


def test_times_that_are_none() -> None:
    """The message shows how to write one."""
    with pytest.raises(ConfigError, match="--since: '2 moons' is no time; write 2h"):
        when("2 moons", NOW, "--since")


def test_an_index_is_kept_beside_a_large_log(
    capsysbinary: pytest.CaptureFixture[bytes], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made by the first query by name; not by --no-index, not for what needs none, not beside a small ledger."""
    index = Path(f"{log}.index")
    expected = query(capsysbinary, log, "--tool", "delete_*")
    assert not index.exists()
    monkeypatch.setattr("mcp_audit.ledger.reading.lookup._UNINDEXED", 0)
    for arguments in (["--tool", "delete_*", "--no-index"], []):
        query(capsysbinary, log, *arguments)
        assert not index.exists()
    assert query(capsysbinary, log, "--tool", "delete_*") == expected
    assert index.exists()
    assert query(capsysbinary, log, "--tool", "delete_*") == expected


def test_a_damaged_index_is_said(
    capsysbinary: pytest.CaptureFixture[bytes], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in its place: one sentence on stderr, and the answer all the same."""
    monkeypatch.setattr("mcp_audit.ledger.reading.lookup._UNINDEXED", 0)
    expected = query(capsysbinary, log, "--tool", "read_file", "--no-index")[0]
    Path(f"{log}.index").symlink_to(log)
    out, err = query(capsysbinary, log, "--tool", "read_file")
    assert out == expected
    assert "audit.jsonl.index: not used, the log is read instead" in err


def test_archives_are_part_of_the_ledger(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """Entries of all files, newest first; an archive given by name is read alone."""
    forge = Rotated()
    forge.open()
    forge.call()
    forge.rotate(compress=True)
    forge.call()
    log = forge.write_files(tmp_path)

    entries = json.loads(query(capsysbinary, log, "--format", "json")[0])
    assert [entry["seq"] for entry in entries] == [5, 2]
    archive = json.loads(query(capsysbinary, tmp_path / f"{forge.name(0)}.gz", "--format", "json")[0])
    assert [entry["seq"] for entry in archive] == [2]


def test_a_ledger_of_the_go_version(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """Its entries have no seq: the table shows the id that `show` takes."""
    log = tmp_path / "audit.jsonl"
    log.write_text(
        '{"id":"01A","timestamp":"2026-05-25T12:34:56Z","direction":"client→server","method":"tools/call",'
        '"tool_name":"x","result":{},"duration_ms":3}\n',
        "utf-8",
    )
    row = query(capsysbinary, log, "--tool", "x")[0].splitlines()[1].split()
    assert row == ["01A", "2026-05-25T12:34:56Z", "tools/call", "x", "answered", "3"]


def test_a_database_of_the_go_version(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    """The table `audit_entries` is read as the lines it stands for."""
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection, connection:
        columns = ("id", "timestamp", "direction", "method", "tool_name", "params", "error")
        connection.execute(f"CREATE TABLE audit_entries ({', '.join(columns)})")
        for number in (1, 2):
            row = (f"0{number}", f"2026-05-25T12:34:5{number}Z", "client→server", "tools/call", "x", '{"n":1.10}', None)
            connection.execute("INSERT INTO audit_entries VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    out = query(capsysbinary, tmp_path / "audit.db", "--format", "json", "--tool", "x")[0]
    entries = json.loads(out)

    assert [entry["id"] for entry in entries] == ["02", "01"]
    assert entries[0]["params"] == {"n": 1.1}
    assert entries[0]["direction"] == "client_to_server"
