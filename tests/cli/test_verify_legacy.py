"""`mcp-audit verify --legacy`: counts, limits and exit codes for logs of the Go program."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from ledger_forge import scrub_environment

from mcp_audit.cli import main
from mcp_audit.ledger.legacy import LIMITS

SECRET = "short"


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    scrub_environment(monkeypatch)
    monkeypatch.setenv("AUDIT_SECRET", SECRET)


def entry(number: int, prefix: str = "") -> str:
    """One line as the Go program writes it."""
    covered = {"id": f"01HY{number}", "timestamp": "2026-05-25T12:34:56Z", "method": "tools/call", "tool_name": "x"}
    params = '{"name":"x"}'
    signature = hmac.new(SECRET.encode(), ("".join(covered.values()) + params).encode(), hashlib.sha256).hexdigest()
    members = {**covered, "direction": "client→server", "params": json.loads(params), "signature": prefix + signature}
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit.jsonl"
    path.write_text(entry(1) + entry(2, "hmac-sha256:"))
    return path


def verify(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["verify", "--legacy", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_valid(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """Exit 0; the limits come before the verdict."""
    code, out, err = verify(capsys, log)

    assert (code, err) == (0, "")
    counts = "2 valid, 0 invalid, 0 not checkable, 0 unsigned, 0 unreadable"
    assert out.splitlines() == [f"      {LIMITS}", f"VALID  {log}: {counts}"]


def test_invalid_and_archives(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """Archives are further arguments; each has its verdict, and the worst decides."""
    archive = log.with_name("audit.jsonl.20260610T214605Z")
    archive.write_text((entry(1) + entry(2)).replace("01HY2", "01\x1b[1m".replace("\x1b", "\\u001b")))
    code, out, _ = verify(capsys, log, archive)

    assert code == 1
    assert "FAIL  audit.jsonl.20260610T214605Z  line 2: entry 01\\u001b[1m is not what was signed" in out
    assert [line.split()[0] for line in out.splitlines() if line[:1].isupper()] == ["VALID", "FAIL", "INVALID"]


def test_json(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """One object per log and line, also for what cannot be read."""
    code, out, _ = verify(capsys, log, tmp_path / "none", "--json")
    first, second = map(json.loads, out.splitlines())

    assert code == 2
    assert (first["verdict"], first["exit"], first["counts"]["valid"], first["notices"]) == ("VALID", 0, 2, [LIMITS])
    assert (second["verdict"], second["exit"]) == ("UNREADABLE", 2)


def test_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, log: Path, tmp_path: Path
) -> None:
    """Without one: exit 3. From a file, or from a keyring: found."""
    monkeypatch.delenv("AUDIT_SECRET")
    assert verify(capsys, log)[0] == 3
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("AUDIT_SECRET_FILE", str(file))
    assert verify(capsys, log)[0] == 0
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    assert verify(capsys, log)[0] == 2
    monkeypatch.delenv("AUDIT_SECRET")
    monkeypatch.delenv("AUDIT_SECRET_FILE")
    file.write_text(f"another\n{SECRET}\n")
    assert verify(capsys, log, "--keyring", file)[0] == 0


@pytest.mark.parametrize(
    "flag", [["--vkey", "x"], ["--against", "x"], ["--no-mac"], ["--strict"], ["--fast"]], ids=lambda flag: flag[0]
)
def test_flags_that_would_promise_too_much(capsys: pytest.CaptureFixture[str], log: Path, flag: list[str]) -> None:
    """They are refused rather than ignored."""
    code, out, err = verify(capsys, log, *flag)

    assert (code, out) == (2, "")
    assert flag[0] in err
