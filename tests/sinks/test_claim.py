"""One key, one log: a key that is kept elsewhere does not sign two histories of one name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fakes import QuickFiles
from ledgers import start, verdict

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.claim import claim_key


def test_a_second_log_with_the_same_key_is_refused(tmp_path: Path) -> None:
    """Two trees under one name would contradict each other; the sentence names the first log and the way out."""
    key = str(tmp_path / "keys" / "log.key")
    (tmp_path / "keys").mkdir()
    first = start(tmp_path / "one", signing_key=key)
    first.close()

    with pytest.raises(LedgerRefused, match=r"signs the log .*one/audit.jsonl.*mcp-audit keygen") as refused:
        start(tmp_path / "two", signing_key=key)

    assert refused.value.exit_code == 2
    assert not (tmp_path / "two" / "audit.jsonl").exists()
    assert not (tmp_path / "two" / "audit.jsonl.checkpoint").exists()
    start(tmp_path / "one", signing_key=key).close()
    assert verdict(first.path) == "INTACT"


def test_a_copied_log_is_refused_while_the_original_is_there(tmp_path: Path) -> None:
    """Both would go on from the same line."""
    key = str(tmp_path / "log.key")
    start(tmp_path / "one", signing_key=key).close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    with pytest.raises(LedgerRefused, match="second history"):
        start(tmp_path / "two", signing_key=key)


def test_a_moved_log_takes_its_claim_along(tmp_path: Path) -> None:
    """It is the only history, wherever it is; the old place can then not use the key any more."""
    key = str(tmp_path / "log.key")
    start(tmp_path / "one", signing_key=key).close()
    (tmp_path / "one").rename(tmp_path / "two")

    moved = start(tmp_path / "two", signing_key=key)
    moved.close()

    assert verdict(moved.path) == "INTACT"
    with pytest.raises(LedgerRefused, match=r"two/audit\.jsonl"):
        start(tmp_path / "one", signing_key=key)


def test_a_key_beside_its_log_needs_no_claim(tmp_path: Path) -> None:
    """Nobody else uses it by mistake."""
    start(tmp_path).close()

    assert not list(tmp_path.glob("*.claim"))


class Sealed(QuickFiles):
    """A folder that cannot be written to."""

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return super().open(path, flags, mode)


def test_a_sealed_folder_takes_no_claim(tmp_path: Path) -> None:
    """A secret that is mounted read-only is no reason to refuse."""
    claim_key(Sealed(), str(tmp_path / "log.key"), "origin", "/log")

    assert not list(tmp_path.iterdir())
