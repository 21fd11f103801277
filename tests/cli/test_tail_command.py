"""`mcp-audit tail`: the newest entries, and what others add, once each and only when whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledger_forge import Forge
from rotated_forge import Rotated

from mcp_audit.cli import main
from mcp_audit.cli.tail import Follower


@pytest.fixture
def forge() -> Forge:
    forge = Forge()
    forge.open()
    forge.call(tool="read_file")
    forge.call(tool="delete_file", outcome="denied")
    return forge


@pytest.fixture
def log(tmp_path: Path, forge: Forge) -> Path:
    return forge.write(tmp_path / "audit.jsonl")


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("sqlite", [False, True], ids=["jsonl", "sqlite"])
def test_the_newest(capsys: pytest.CaptureFixture[str], tmp_path: Path, forge: Forge, sqlite: bool) -> None:
    """Oldest of them first; requests only with --all; -n counts what is shown."""
    log = (forge.write_sqlite if sqlite else forge.write)(tmp_path / "audit")

    def seqs(*arguments: str) -> list[int]:
        assert main(["tail", str(log), *arguments]) == 0
        return [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]

    assert seqs() == [0, 2, 4]
    assert seqs("-n", "2") == [2, 4]
    assert seqs("-n", "2", "--all") == [3, 4]
    assert seqs("-n", "0") == []


def test_text(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """One line says when, who, what and how it ended; the log's own events are marked."""
    main(["tail", str(log)])
    assert capsys.readouterr().out.splitlines() == [
        "0  2026-05-25T12:00:01.000000Z  [open]  after=new",
        "2  2026-05-25T12:00:03.000000Z  claude-desktop > filesystem  tools/call  read_file  answered in 18 ms",
        "4  2026-05-25T12:00:05.000000Z  claude-desktop > filesystem  tools/call  delete_file  denied in 18 ms",
    ]


def test_jsonl(capsysbinary: pytest.CaptureFixture[bytes], log: Path, forge: Forge) -> None:
    """In a pipe the ledger's own bytes."""
    main(["tail", str(log), "-n", "1", "--format", "jsonl"])
    assert capsysbinary.readouterr().out == forge.lines[-1]


def test_follow_returns_whole_lines_once(log: Path, forge: Forge) -> None:
    """A line that arrives in pieces comes when its LF does; nothing twice."""
    with Follower(str(log)) as follower:
        assert list(follower.poll()) == []
        forge.call()
        first, second = forge.lines[-2:]
        append(log, first[:10])
        assert list(follower.poll()) == []
        append(log, first[10:] + second[:-1])
        assert list(follower.poll()) == [first[:-1]]
        append(log, second[-1:])
        assert list(follower.poll()) == [second[:-1]]
        assert list(follower.poll()) == []


def test_follow_does_not_miss_a_line_being_written(log: Path, forge: Forge) -> None:
    """What is half written when following begins is returned when it is whole."""
    forge.call()
    first, second = forge.lines[-2:]
    append(log, first + second[:20])
    with Follower(str(log)) as follower:
        append(log, second[20:])
        assert list(follower.poll()) == [second[:-1]]


def test_follow_survives_another_file_at_the_path(log: Path, forge: Forge) -> None:
    """Renamed away and begun anew: the rest of the old file, then the new one from its start."""
    with Follower(str(log)) as follower:
        forge.call()
        append(log, forge.lines[-2])
        log.rename(f"{log}.old")
        append(Path(f"{log}.old"), forge.lines[-1])
        assert list(follower.poll()) == [forge.lines[-2][:-1], forge.lines[-1][:-1]]
        other = Forge()
        other.open("loss")
        other.write(log)
        assert list(follower.poll()) == [other.lines[0][:-1]]


def test_follow_survives_a_cut(log: Path, forge: Forge) -> None:
    """A file that became shorter is read from its start again."""
    with Follower(str(log)) as follower:
        log.write_bytes(b"")
        append(log, forge.lines[0])
        assert list(follower.poll()) == [forge.lines[0][:-1]]


def test_follow_a_database(tmp_path: Path, forge: Forge) -> None:
    """Rows that are added, once each."""
    log = forge.write_sqlite(tmp_path / "audit.db")
    with Follower(str(log)) as follower:
        assert list(follower.poll()) == []
        forge.call()
        forge.write_sqlite(log)
        assert list(follower.poll()) == [line[:-1] for line in forge.lines[-2:]]
        assert list(follower.poll()) == []


def test_follow_as_a_command(log: Path, forge: Forge) -> None:
    """`tail -f` prints what two writers append by turns, and ends with an interrupt."""
    command = [sys.executable, "-m", "mcp_audit", "tail", "-f", "-n", "1", str(log)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith(b"4  ")
            for writer in range(4):
                forge.call(tool=f"writer_{writer % 2}")
                append(log, b"".join(forge.lines[-2:]))
                assert f"writer_{writer % 2}  answered".encode() in process.stdout.readline()
        finally:
            process.send_signal(2)
        _, error = process.communicate()
    assert (process.returncode, error) == (130, b"")


def test_a_missing_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Exit 2, naming it, followed or not."""
    for arguments in ([], ["-f"]):
        assert main(["tail", str(tmp_path / "none"), *arguments]) == 2
        assert "No such file" in capsys.readouterr().err


def test_follow_goes_through_rotations(tmp_path: Path) -> None:
    """Two rotations between two looks, one of them compressed: every line once, in order."""
    forge = Rotated()
    forge.open()
    log = forge.write_files(tmp_path)
    with Follower(str(log)) as follower:
        assert list(follower.poll()) == []
        begun = len(forge.lines)
        forge.call()
        append(log, b"".join(forge.lines[begun:]))
        log.rename(tmp_path / forge.name(0))
        forge.rotate()
        forge.call()
        forge.rotate(compress=True)
        forge.call()
        (tmp_path / forge.name(0)).rename(tmp_path / "kept")
        forge.write_files(tmp_path)
        (tmp_path / "kept").rename(tmp_path / forge.name(0))

        assert [line + b"\n" for line in follower.poll()] == forge.lines[begun:]
        forge.call()
        append(log, b"".join(forge.lines[-2:]))
        assert [line + b"\n" for line in follower.poll()] == forge.lines[-2:]


def test_follow_waits_between_two_renames(tmp_path: Path, forge: Forge) -> None:
    """For a moment there is no file at the path: that is no end, and nothing is missed."""
    log = forge.write(tmp_path / "audit.jsonl")
    with Follower(str(log)) as follower:
        log.rename(tmp_path / "audit.jsonl.20260610T214605Z")
        assert list(follower.poll()) == []
        (tmp_path / "audit.jsonl.20260610T214605Z").rename(log)
        forge.call()
        append(log, b"".join(forge.lines[-2:]))
        assert [line + b"\n" for line in follower.poll()] == forge.lines[-2:]


def test_follow_a_database_that_is_replaced(tmp_path: Path, forge: Forge) -> None:
    """A new ledger at the path begins at seq 0 again."""
    database = forge.write_sqlite(tmp_path / "audit.db")
    with Follower(str(database)) as follower:
        assert list(follower.poll()) == []
        other = Forge(origin="other/log")
        other.open()
        other.write_sqlite(database)
        assert [line + b"\n" for line in follower.poll()] == other.lines


def test_entries_of_the_go_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have no seq; all of them are shown."""
    log = tmp_path / "audit.jsonl"
    line = (
        '{"id":"%s","timestamp":"2026-05-25T12:34:56Z","direction":"client→server","method":"tools/call","result":{}}\n'
    )
    log.write_text(line % "01A" + line % "01B", "utf-8")
    assert main(["tail", str(log)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
