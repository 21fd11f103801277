"""Commands that read a ledger, on whatever a forger leaves: an exit code that means something, never a traceback."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_forge import SECRET, closed_log
from log_forger import edited, forged_log

from mcp_audit.cli import main
from mcp_audit.cli.tail import Follower
from mcp_audit.errors import McpAuditError
from mcp_audit.ledger.evidence import CannotLook

COMMANDS = {
    "verify LOG": {0, 1, 2, 3, 4},
    "verify --strict --fast --json --jobs 1 LOG": {0, 1, 2, 3, 4},
    "verify --legacy LOG": {1, 2, 3},
    "query LOG --format jsonl": {0, 2},
    "query LOG --format csv --no-index --since 2020-01-01": {0, 2},
    "query LOG --tool read_file": {0, 2},
    "show LOG 2": {0, 2},
    "show LOG 01KSFJ00000000000000000003": {0, 2},
    "tail LOG --all": {0, 2},
    "stats LOG": {0, 2},
    "export LOG": {0, 2},
    "prove LOG --seq 2": {0, 1, 2, 3},
    "prove LOG --id 01KSFJ00000000000000000003": {0, 1, 2, 3},
}


def code_of(command: str, log: Path) -> tuple[int, str]:
    """Return the exit code and what was said about it; any other exception than a refusal comes through."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main([str(log) if word == "LOG" else word for word in command.split()]), err.getvalue()


def all_codes(log: Path) -> dict[int, str]:
    """Run every command but `verify`, and return each code with the last sentence it came with."""
    return dict(code_of(command, log) for command in COMMANDS if not command.startswith("verify"))


@pytest.mark.parametrize("end", [5, -4], ids=["header", "end"])
def test_gzip_data_that_was_cut(tmp_path: Path, end: int) -> None:
    """One sentence says that the ledger cannot be read; nothing follows it."""
    log = closed_log().write(tmp_path / "audit.jsonl")
    log.write_bytes(gzip.compress(log.read_bytes())[:end])
    for command in COMMANDS:
        code, said = code_of(command, log)
        assert code == 2, command
        assert "--json" in command or said.count("\n") == 1


def test_what_only_begins_like_a_database(tmp_path: Path) -> None:
    """SQLite refuses it before the first row."""
    log = closed_log().write(tmp_path / "audit.db", b"SQLite format 3\0" + b"x" * 5000)
    assert set(all_codes(log)) == {2}
    with pytest.raises(CannotLook), Follower(str(log)):
        pass


@pytest.mark.parametrize("value", ["NULL", "5", "x'00'"])
@pytest.mark.parametrize("place", ["seq = 0", "seq = 2", "seq = 4"])
def test_rows_that_hold_no_text(tmp_path: Path, value: str, place: str) -> None:
    """They are skipped by who reads, and refused by who proves."""
    forge = closed_log()
    log = forge.write_sqlite(tmp_path / "audit.db", notes={forge.chain.size: forge.note or ""})
    edited(log, f"UPDATE entries SET line = {value} WHERE {place}")
    assert code_of("prove LOG --seq 2", log)[0] == 1
    assert set(all_codes(log)) <= {0, 1, 2}
    edited(log, f"UPDATE checkpoints SET note = {value}")
    assert code_of("prove LOG --seq 2", log)[0] == 1
    with Follower(str(log)) as follower:
        follower._seq = -1
        assert all(isinstance(line, bytes) for line in follower.poll())


def test_numbers_that_python_reads_otherwise(tmp_path: Path) -> None:
    """A digit of another kind is no seq."""
    log = closed_log().write(tmp_path / "audit.jsonl")
    assert code_of("show LOG \u00b2", log)[0] == 2


# The suite repeats the same forgeries; `DAMAGED_EXAMPLES=2000` looks for new ones.
@settings(
    max_examples=int(os.environ.get("DAMAGED_EXAMPLES", "40")),
    derandomize="DAMAGED_EXAMPLES" not in os.environ,
    deadline=None,
)
@given(st.data())
def test_no_damage_ends_in_a_traceback(data: st.DataObject) -> None:
    """Every command that reads, on files edited, moved, copied, packed or removed; one that refuses says why."""
    secret = data.draw(st.sampled_from([SECRET, None]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = forged_log(data, folder, secret)
        path = data.draw(st.sampled_from([log, *sorted(folder.glob("audit.jsonl[.-][0-9]*"))]))
        for command, codes in COMMANDS.items():
            code, said = code_of(command, path)
            assert code in codes, command
            assert code != 2 or "--json" in command or said.startswith("mcp-audit"), command
        with contextlib.suppress(McpAuditError), Follower(str(path)) as follower:
            list(follower.poll())
