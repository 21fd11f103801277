"""The command line as a whole: finding commands, spellings of options, `demo`, `--version`."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_audit.cli import COMMANDS, main


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_SECRET", "MCP_AUDIT"))}
    return subprocess.run(
        [sys.executable, "-m", "mcp_audit", *arguments], capture_output=True, text=True, cwd=folder, env=env, input="",
        check=False, timeout=60,
    )  # fmt: skip


def test_the_demo_fits_one_screen_and_says_what_to_type_next(tmp_path: Path) -> None:
    """Three processes, allowed, failing, denied and limited calls, one verdict of each kind."""
    done = run(tmp_path, "demo", "--dir", str(tmp_path / "d"))

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") <= 30
    for word in ("answered", "tool_error", "denied", "rate_limited", "[REDACTED]", "INTACT", "TAMPERED", "type next"):
        assert word in done.stdout
    assert "xyzzy" not in (tmp_path / "d" / "audit.jsonl").read_text()


def test_what_the_demo_says_to_type_next_works(tmp_path: Path) -> None:
    """The commands it prints are the ones a newcomer copies."""
    done = run(tmp_path, "demo", "--dir", str(tmp_path / "d"))
    typed = done.stdout.partition("type next:\n")[2].splitlines()

    assert len(typed) == 3
    for line in typed[:2]:  # the third one needs a server from the npm registry
        assert subprocess.run(shlex.split(line), capture_output=True, check=False, timeout=60).returncode == 0


def test_the_demo_leaves_a_used_folder_alone(tmp_path: Path) -> None:
    """It never writes into what somebody else put there."""
    (tmp_path / "mine").write_text("x")
    done = run(tmp_path, "demo", "--dir", str(tmp_path))

    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert os.listdir(tmp_path) == ["mine"]


def test_version_has_the_shape_of_mcp_audit_for_go(capsys: pytest.CaptureFixture[str]) -> None:
    """`mcp-audit <version> (commit <sha>, built <iso8601>)`, by one dash or two."""
    for option in ("--version", "-version"):
        assert main([option]) == 0
        assert re.fullmatch(r"mcp-audit \S+ \(commit \S+, built \S+\)\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` has one, whatever the command."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    assert ended.value.code == 0
    assert re.search(r"examples?:", capsys.readouterr().out)


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`mcp-audit --help`."""
    assert main(["--help"]) == 0

    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


def test_a_misspelt_command_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    """And a server without its dashes is told where they go."""
    assert main(["verfy"]) == 2
    assert "did you mean `verify`?" in capsys.readouterr().err
    assert main(["npx"]) == 2
    assert "mcp-audit -- npx" in capsys.readouterr().err


def test_options_take_one_dash_or_two_but_the_servers_are_its_own(tmp_path: Path) -> None:
    """As Go's did; what follows `--` is taken literally."""
    script = "import sys; print(sys.argv[1:])"
    done = run(
        tmp_path,
        "-config",
        "none",
        "-no-dashboard",
        "-no-metrics",
        "--",
        sys.executable,
        "-c",
        script,
        "-x",
        "--",
        "-y",
    )

    assert done.stdout == "['-x', '--', '-y']\n"
