"""`mcp-audit verify`: the verdict in words, in JSON and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ledger_forge import (
    KEY,
    ORIGIN,
    OTHER_KEY,
    SECRET,
    closed_log,
    rotated_log,
    running_log,
    scrub_environment,
)

from mcp_audit.cli import main


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    scrub_environment(monkeypatch)
    monkeypatch.setenv("AUDIT_SECRET", SECRET.decode())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return closed_log().write(tmp_path / "audit.jsonl")


def verify(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["verify", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_intact(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """A line per file, a verdict that says what was checked and whose key it was, exit 0."""
    code, out, err = verify(capsys, log)

    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"ok    audit.jsonl  seq 0-5  {log.stat().st_size} bytes",
        f"INTACT  {ORIGIN}: 1 of 1 files valid; checked chain, tree, note, mac; "
        f"key not pinned, from beside the log: {KEY.vkey}",
    ]
    assert "key pinned by --vkey" in verify(capsys, log, "--vkey", KEY.vkey)[1]


def test_tampered(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """The place of the first fault, exit 1."""
    log.write_bytes(log.read_bytes().replace(b"read_file", b"make_file", 1))
    code, out, _ = verify(capsys, log)

    assert code == 1
    assert "FAIL  audit.jsonl  seq 0-0" in out
    assert "line 2: seq 1 was changed (mac does not match)" in out
    assert out.splitlines()[-1].startswith(f"TAMPERED  {ORIGIN}: 0 of 1 files valid")


def test_json(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """One object per log and line, with the members a script relies on."""
    running = running_log().write(tmp_path / "running.jsonl")
    code, out, _ = verify(capsys, log, running, "--json")
    first, second = map(json.loads, out.splitlines())

    assert code == 4
    assert (first["verdict"], first["exit"], first["log"], first["path"]) == ("INTACT", 0, ORIGIN, str(log))
    assert set(first) >= {"size", "root", "checkpoint", "checks", "files", "counts", "notices"}
    assert set(first["checkpoint"]) == {"size", "root", "key", "pinned"}
    assert set(first["checks"]) == {"chain", "tree", "note", "mac", "against"}
    assert set(first["files"][0]) == {"name", "status", "first", "last", "bytes", "reason"}
    counts = {"exchanges", "open_requests", "orphans", "recoveries", "torn_bytes", "lost"}
    assert set(first["counts"]) == counts
    assert (second["verdict"], second["exit"]) == ("UNCLEAN", 4)


def test_the_worst_exit_code_wins(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Cannot look, tampered, cannot decide, unclean, intact: the first of these that applies to any log."""
    intact = closed_log().write(tmp_path / "intact")
    unclean = running_log().write(tmp_path / "unclean")
    unknown = closed_log().write(tmp_path / "unknown")
    Path(f"{unknown}.checkpoint").unlink()
    tampered = closed_log().write(tmp_path / "tampered", closed_log().data[:-100])
    logs = [intact, unclean, unknown, tampered, tmp_path / "none"]

    codes = [verify(capsys, *logs[: count + 1])[0] for count in range(len(logs))]
    assert codes == [0, 4, 3, 1, 2]
    _, out, err = verify(capsys, *logs)
    words = [line.split()[0] for line in out.splitlines() if line[:1].isupper() and not line.startswith("FAIL")]
    assert words == ["INTACT", "UNCLEAN", "UNKNOWN", "TAMPERED", "UNREADABLE"]
    assert "there is no log" in err


def test_keys_from_files(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """--vkey takes a file of keys, the right one is found by origin; a wrong key of the origin is tampering."""
    keys = tmp_path / "keys"
    keys.write_text(f"another/log+8cc2bbf4+AQOhB7\n\n{KEY.vkey}\n")
    assert verify(capsys, log, "--vkey", keys)[0] == 2
    keys.write_text(f"{KEY.vkey}\n")
    assert verify(capsys, log, "--vkey", keys)[0] == 0
    keys.write_text(OTHER_KEY.vkey)
    assert verify(capsys, log, "--vkey", keys)[0] == 1


def test_macs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log: Path, tmp_path: Path) -> None:
    """With the keyring they are checked, with --no-mac or without a secret they are not, and that is said."""
    assert "not checked: mac" in verify(capsys, log, "--no-mac")[1]
    monkeypatch.delenv("AUDIT_SECRET")
    assert "the MACs of 6 lines were not checked: no secret was given" in verify(capsys, log)[1]
    keyring = tmp_path / "keyring"
    keyring.write_bytes(b"another secret of thirty-two byte\n" + SECRET + b"\n")
    assert "checked chain, tree, note, mac;" in verify(capsys, log, "--keyring", keyring)[1]


def test_against_an_older_note(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """The log must extend what somebody kept."""
    longer = closed_log(calls=3)
    note = tmp_path / "kept"
    note.write_text(longer.note or "")
    code, out, _ = verify(capsys, log, "--against", note)
    assert (code, "rolled back or cut" in out) == (1, True)
    note.write_text(closed_log().note or "")
    assert verify(capsys, log, "--against", note)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["--vkey", "nonsense"], "neither a file nor a verifier key", id="vkey"),
        pytest.param(["--vkey", "a+b+c"], "no verifier key", id="vkey-malformed"),
        pytest.param(["--keyring", "/nonexistent"], "No such file", id="keyring"),
        pytest.param(["--against", "/nonexistent"], "No such file", id="against-missing"),
        pytest.param(["--against", "/dev/null"], "no note of a log", id="against-empty"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], log: Path, arguments: list[str], sentence: str) -> None:
    """Exit 2 and one sentence on stderr; nothing on stdout."""
    code, out, err = verify(capsys, log, *arguments)

    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_secret_in_the_keyring_may_be_too_short(
    capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path
) -> None:
    """It is refused like any other, naming the file."""
    keyring = tmp_path / "keyring"
    keyring.write_text("short\n")
    code, _, err = verify(capsys, log, "--keyring", keyring)
    assert (code, "5 bytes" in err, str(keyring) in err) == (2, True, True)


def test_a_log_cannot_write_on_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """File names and reasons come out escaped: no log paints INTACT over its own verdict."""
    forge = closed_log()
    forge.typed("gap", cause="\x1b[2J\u202eINTACT")
    forge.sign()
    code, out, _ = verify(capsys, forge.write(tmp_path / "audit\x1b[1m.jsonl"), "--strict")

    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "\\u001b[2J\\u202eINTACT" in out


def test_archives(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line for each file, in the order of their entries; a missing one is a line, too, with what it held."""
    forge = rotated_log()
    log = forge.write(tmp_path / "audit.jsonl")
    code, out, _ = verify(capsys, log, "--jobs", "1")
    first, second = (item.name for item in forge.archives)
    assert code == 0
    assert [line.split()[:4] for line in out.splitlines()[:3]] == [
        ["ok", first, "seq", "0-4"],
        ["ok", second, "seq", "5-9"],
        ["ok", "audit.jsonl", "seq", "10-15"],
    ]
    assert "3 of 3 files valid" in out
    assert verify(capsys, log, "--fast")[0] == 0
    assert verify(capsys, tmp_path / second)[0] == 0

    (tmp_path / first).unlink()
    code, out, _ = verify(capsys, log, "--json")
    report = json.loads(out)
    assert (code, report["verdict"]) == (1, "TAMPERED")
    assert report["files"][0] == {
        "name": first,
        "status": "FAIL",
        "first": 0,
        "last": 4,
        "bytes": 0,
        "reason": "seq 0 to 4 are missing, and no prune line lets them go",
    }


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_how_many_processes(capsys: pytest.CaptureFixture[str], log: Path, jobs: str) -> None:
    """At least one."""
    with pytest.raises(SystemExit):
        verify(capsys, log, f"--jobs={jobs}")
    assert "is no number of processes" in capsys.readouterr().err
