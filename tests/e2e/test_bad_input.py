"""Bad input is one clear sentence, the documented exit code, and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from proxy import ECHO, NEUTRAL, call, command, converse, entries, environment, python, verified


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the one sentence on stderr; stdout must be empty."""
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.startswith("mcp-audit: "), text
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param("proxy:\n  prot: 1\n", ["config.yaml:2", "proxy.prot", "did you mean `port`"], id="misspelt"),
        pytest.param("audit: {durability: sometimes}\n", ["config.yaml:1", "write", "fsync"], id="not-a-choice"),
        pytest.param("proxy: {port: many}\n", ["config.yaml:1", "proxy.port"], id="wrong-type"),
        pytest.param("proxy:\n\tport: 1\n", ["config.yaml:2"], id="tab"),
        pytest.param("audit: {secret: change-me}\n", ["audit.secret", "32"], id="short-secret"),
        pytest.param("proxy: {transport: http}\n", ["config.yaml:1", "proxy.transport"], id="not-yet"),
    ],
)
def test_a_wrong_setting_stops_the_start(tmp_path: Path, config: str, expected: list[str]) -> None:
    """Exit 2, file and line, the key, what is allowed; no ledger and no server were started."""
    env = environment()
    del env["AUDIT_SECRET"]
    done = subprocess.run(
        command(tmp_path, python("open('started', 'w')"), config), input=b"", capture_output=True, env=env,
        cwd=tmp_path, check=False,
    )  # fmt: skip

    text = said(done)
    assert done.returncode == 2
    assert all(part in text for part in expected), text
    assert sorted(os.listdir(tmp_path)) == ["config.yaml"]


def test_a_misspelt_option_is_guessed(tmp_path: Path) -> None:
    """Exit 2 and a did-you-mean."""
    done = converse(tmp_path, python(ECHO), b"", NEUTRAL, "--no-dashbord")

    assert done.returncode == 2
    assert "did you mean --no-dashboard?" in done.stderr.decode()


def test_without_a_server_the_sentence_says_where_it_goes(tmp_path: Path) -> None:
    """`mcp-audit` alone, and `mcp-audit npx ...` without the dashes."""
    for arguments in ([], ["npx", "server"]):
        done = subprocess.run(
            [sys.executable, "-m", "mcp_audit", *arguments], input=b"", capture_output=True, cwd=tmp_path,
            env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert "mcp-audit -- " in done.stderr.decode()


@pytest.mark.parametrize("where", ["missing/parent/is/a/file", "a_directory", "fifo", "link"])
def test_a_ledger_that_cannot_be_opened_stops_the_start(tmp_path: Path, where: str) -> None:
    """No server without a ledger: a file in the way, a directory, a FIFO, a symbolic link."""
    (tmp_path / "missing").write_text("a file")
    (tmp_path / "a_directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    done = converse(tmp_path, python("open('started', 'w')"), b"", NEUTRAL, "--log", str(tmp_path / where))

    assert done.returncode in (1, 2, 3)
    assert where.split("/")[0] in said(done)
    assert not (tmp_path / "started").exists()


def test_a_ledger_that_was_tampered_with_stops_the_start(tmp_path: Path) -> None:
    """Exit 1, nothing appended, no server; --accept-loss sets the old log aside unchanged and begins a new one."""
    converse(tmp_path, python(ECHO), call(1) + call(2))
    log = tmp_path / "audit.jsonl"
    forged = log.read_bytes().replace(b'"request_id":"1"', b'"request_id":"7"')
    log.write_bytes(forged)
    done = converse(tmp_path, python("open('started', 'w')"), b"")

    assert done.returncode == 1
    assert "verify" in said(done)
    assert log.read_bytes() == forged
    assert not (tmp_path / "started").exists()

    again = converse(tmp_path, python(ECHO), call(3), NEUTRAL, "--accept-loss")
    assert again.returncode == 0
    assert verified(tmp_path) == 0
    aside = next(tmp_path.glob("audit.jsonl.lost-*"))
    assert (aside / "audit.jsonl").read_bytes() == forged
    assert [line.get("type") for line in entries(tmp_path)][:2] == ["open", "gap"]


def test_a_ledger_with_macs_needs_its_secret(tmp_path: Path) -> None:
    """Exit 3: a log never loses its MACs by being opened without the secret."""
    converse(tmp_path, python(ECHO), call(1))
    env = environment()
    del env["AUDIT_SECRET"]
    done = subprocess.run(
        command(tmp_path, python(ECHO)), input=b"", capture_output=True, env=env, cwd=tmp_path, check=False
    )

    assert done.returncode == 3
    assert "AUDIT_SECRET" in said(done)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The private key of the log is 0600 or it is not used."""
    converse(tmp_path, python(ECHO), call(1))
    (tmp_path / "audit.jsonl.key").chmod(0o644)
    done = converse(tmp_path, python(ECHO), b"")

    assert done.returncode in (2, 3)
    assert "chmod" in said(done)


def test_files_are_private(tmp_path: Path) -> None:
    """0600 for all but the verifier key, which is for everybody."""
    converse(tmp_path, python(ECHO), call(1))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("audit.jsonl*")}

    assert modes.pop("audit.jsonl.pub") == 0o644
    assert set(modes.values()) == {0o600}


def test_a_start_in_a_folder_that_cannot_hold_the_ledger_uses_the_state_directory(tmp_path: Path) -> None:
    """Desktop clients start servers in `/`; stderr says where the ledger went."""
    settings = tmp_path / "config.yaml"
    settings.write_text(NEUTRAL)
    run = [sys.executable, "-m", "mcp_audit", "--config", str(settings), "--", *python(ECHO)]
    done = subprocess.run(
        run, input=call(1), capture_output=True, cwd="/", env=environment(XDG_STATE_HOME=str(tmp_path)), check=False
    )

    assert done.returncode == 0
    assert str(tmp_path / "mcp-audit" / "audit.jsonl") in done.stderr.decode()
    assert entries(tmp_path / "mcp-audit")
