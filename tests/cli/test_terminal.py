"""What reaches a terminal: only visible text, coloured only for people."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import closed_log

from mcp_audit.cli.terminal import print_table, safe


@given(st.text(st.characters()))
def test_safe_text_is_visible(text: str) -> None:
    """No control, format, surrogate, private or separator character is left; visible ones stay."""
    shown = safe(text)

    assert all(unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for character in shown)
    assert [c for c in text if c.isalnum()] == [c for c in shown if c.isalnum()] or "\\" in shown
    shown.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("naïve 文字 🙂", "naïve 文字 🙂", id="visible"),
        pytest.param("\x1b[31mred", "\\u001b[31mred", id="escape-sequence"),
        pytest.param("a\u202eb", "a\\u202eb", id="right-to-left-override"),
        pytest.param("a\u200bb", "a\\u200bb", id="zero-width"),
        pytest.param("a\r\n\tb", "a\\r\\n\\tb", id="line-breaks"),
        pytest.param("\x9b2J", "\\u009b2J", id="eight-bit-controls"),
        pytest.param("\U000e0041", "\\udb40\\udc41", id="tag-characters"),
        pytest.param("\ud800", "\\ud800", id="lone-surrogate"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """Each as JSON would write it."""
    assert safe(text) == shown


def test_a_plain_table(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe: headings, aligned columns, whole values, nothing else."""
    count = print_table(("name", "ms"), iter([("a" * 200, "7"), ("b", "1000")]), right=("ms",))

    assert count == 2
    assert capsys.readouterr().out.splitlines() == [
        "name" + " " * 196 + "    ms",
        "a" * 200 + "     7",
        "b" + " " * 199 + "  1000",
    ]


def _on_a_terminal(*arguments: str, **environment: str) -> bytes:
    """Run a command with a pseudo-terminal as its stdout and return what it wrote there."""
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "AUDIT_SECRET")}
    command = [sys.executable, "-m", "mcp_audit", *arguments]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.PIPE, env=clean | {"TERM": "xterm", "COLUMNS": "120"} | environment
    )
    os.close(theirs)
    shown = io.BytesIO()
    try:
        while piece := os.read(ours, 4096):
            shown.write(piece)
    except OSError:  # Linux says EIO where others say end of file
        assert process.wait() == 0
    os.close(ours)
    process.communicate()
    return shown.getvalue()


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    """A person sees colours, unless NO_COLOR is set; what is shown is the same."""
    log = str(closed_log().write(tmp_path / "audit.jsonl"))
    for command in (["verify", log], ["query", log], ["show", log, "2"], ["tail", log], ["stats", log]):
        assert b"\x1b[" in _on_a_terminal(*command), command
        assert b"\x1b[" not in _on_a_terminal(*command, NO_COLOR="1"), command
