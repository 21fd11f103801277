"""`mcp-audit prove` and `check-proof`: hand out one entry, check it elsewhere."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from pathlib import Path

import pytest
from ledger_forge import KEY, ORIGIN, OTHER_KEY, Forge, closed_log, running_log

from mcp_audit.cli import main
from mcp_audit.ledger import check_proof


@pytest.fixture
def forge() -> Forge:
    return closed_log(calls=3)


@pytest.fixture(params=["jsonl", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path, forge: Forge) -> Path:
    return (forge.write_sqlite if request.param == "sqlite" else forge.write)(tmp_path / "audit")


@pytest.fixture
def proof(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "entry-4.tlog-proof"
    assert main(["prove", str(log), "--seq", "4", "-o", str(path)]) == 0
    capsys.readouterr()
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_from_hand_to_hand(capsys: pytest.CaptureFixture[str], log: Path, forge: Forge, tmp_path: Path) -> None:
    """One writes a file, the other needs it and the key: the entry comes out, and who vouches for it."""
    path = tmp_path / "e.tlog-proof"
    code, out, err = run(capsys, "prove", log, "--seq", 4, "-o", path)
    assert (code, out) == (0, "")
    assert err.startswith(f"{path}: seq 4 of {ORIGIN}, proved by its checkpoint of size 8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    for name in os.listdir(tmp_path):
        if not name.startswith("e."):
            (tmp_path / name).unlink()
    code, out, err = run(capsys, "check-proof", path, "--vkey", KEY.vkey)
    assert code == 0
    assert json.loads(out) == json.loads(forge.lines[4])
    assert err == f"PROVED: seq 4 of {ORIGIN}, by its checkpoint of size 8, which {KEY.vkey} signed\n"


def test_through_a_pipe(
    capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, log: Path, forge: Forge, tmp_path: Path
) -> None:
    """Without -o the exact text goes to stdout; `-` reads it; --raw is the line as it stands in the ledger."""
    assert main(["prove", str(log), "--seq", "4"]) == 0
    text, err = capsysbinary.readouterr()
    assert err == b""
    assert check_proof(text.decode(), [KEY.vkey]).seq == 4

    keys = tmp_path / "keys"
    keys.write_text(f"{OTHER_KEY.vkey}\n{KEY.vkey}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["check-proof", "-", "--vkey", str(keys), "--raw"]) == 0
    assert capsysbinary.readouterr().out == forge.lines[4]


def test_by_the_id_a_denied_caller_was_told(capsys: pytest.CaptureFixture[str], log: Path, forge: Forge) -> None:
    """The entry_id in the error is enough."""
    id_ = json.loads(forge.lines[4])["id"]
    code, out, _ = run(capsys, "prove", log, "--id", id_)

    assert code == 0
    assert check_proof(out, [KEY.vkey]).seq == 4
    code, _, err = run(capsys, "prove", log, "--id", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert code == 2
    assert "no entry has the id '01ARZ3NDEKTSV4RRFFQ69G5FAV'" in err


def test_the_exit_codes_of_prove(capsys: pytest.CaptureFixture[str], tmp_path: Path, forge: Forge) -> None:
    """1 not what was signed, 2 cannot look, 3 not covered yet; one sentence each."""
    running = running_log().write(tmp_path / "running")
    changed = forge.write(tmp_path / "changed", forge.data.replace(b"forge", b"forgs"))
    for arguments, code, sentence in [
        ((running, "--seq", 3), 3, "the newest checkpoint covers seq 0 to 2; seq 3 is newer or does not exist"),
        ((changed, "--seq", 3), 1, "nothing can be proved, it is not what was signed: line 2: seq 0 or 1 was changed"),
        ((tmp_path / "none", "--seq", 3), 2, "there is no log"),
        ((running, "--seq", -3), 2, "there is no entry -3"),
    ]:
        found, out, err = run(capsys, "prove", *arguments)
        assert (found, out) == (code, ""), arguments
        assert sentence in err
        assert err.count("\n") == 1


def test_an_entry_has_to_be_named(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """By seq or id, not by both."""
    for arguments in ([], ["--seq", "1", "--id", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(["prove", str(log), *arguments])
        assert caught.value.code == 2
        assert "--seq" in capsys.readouterr().err


def test_nothing_but_a_proof_is_written_over(capsys: pytest.CaptureFixture[str], log: Path, proof: Path) -> None:
    """`-o` may be followed by the log's own name."""
    before = log.read_bytes()
    code, _, err = run(capsys, "prove", log, "--seq", 1, "-o", log)
    assert code == 2
    assert "is there and is no proof" in err
    assert log.read_bytes() == before

    assert run(capsys, "prove", log, "--seq", 1, "-o", proof)[0] == 0
    assert check_proof(proof.read_text(), [KEY.vkey]).seq == 1
    code, _, err = run(capsys, "prove", log, "--seq", 1, "-o", proof.parent / "no" / "folder")
    assert (code, "name a file that may be written" in err) == (2, True)


def test_the_exit_codes_of_check_proof(
    capsys: pytest.CaptureFixture[str], proof: Path, forge: Forge, tmp_path: Path
) -> None:
    """0 it holds, 1 false, 2 unreadable, 3 no key; one sentence each, nothing on stdout unless it holds."""
    line = tmp_path / "line"
    line.write_bytes(forge.lines[4])
    other = tmp_path / "other"
    other.write_bytes(forge.lines[3])
    text = proof.read_text()
    false = tmp_path / "false"
    false.write_text(text.replace("\n8\n", "\n9\n"))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    pinned = ("--vkey", KEY.vkey)
    for arguments, code, sentence in [
        ((proof, *pinned, "--line", line), 0, "PROVED: seq 4"),
        ((proof, *pinned, "--line", other), 1, "FALSE: the entry in the proof is not the one that was given"),
        ((proof, "--vkey", OTHER_KEY.vkey), 1, "FALSE: its checkpoint does not hold: it has no signature of the key"),
        ((false, *pinned), 1, "FALSE: "),
        ((line, *pinned), 2, "this is no proof"),
        ((binary, *pinned), 2, "not UTF-8"),
        ((tmp_path / "none", *pinned), 2, "name a readable file"),
        ((proof, "--vkey", "nonsense"), 2, "neither a file nor a verifier key"),
        ((proof, *pinned, "--line", tmp_path / "none"), 2, "--line"),
        ((proof,), 3, "a verifier key you trust"),
    ]:
        found, out, err = run(capsys, "check-proof", *arguments)
        assert found == code, (arguments, err)
        assert (out == "") == (code != 0)
        assert sentence in err
        assert err.count("\n") == 1


def test_nothing_in_a_proof_reaches_the_terminal_raw(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Neither the entry of a proof that holds nor the claims of one that does not."""
    forge = Forge()
    forge.open()
    forge.entry(result='{"text":"\u202eevil\x7f"}'.encode())
    forge.sign()
    log = forge.write(tmp_path / "audit.jsonl")
    code, text, _ = run(capsys, "prove", log, "--seq", 1)
    assert code == 0
    path = tmp_path / "proof"
    path.write_text(text)
    code, out, _ = run(capsys, "check-proof", path, "--vkey", KEY.vkey)
    assert code == 0
    assert "\u202e" not in out
    assert "\\u202e" in out

    path.write_text(text.replace(f"\n\n{ORIGIN}\n", "\n\n\u202eevil\n"))
    code, _, err = run(capsys, "check-proof", path, "--vkey", KEY.vkey)
    assert code == 2
    assert "\u202e" not in err
