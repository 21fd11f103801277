"""The append lock and the presence lock."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks import locks as module
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.locks import Locks


def pair(tmp_path: Path) -> tuple[Locks, Locks]:
    """Two writers; each has its own descriptors, as two processes have."""
    log = str(tmp_path / "audit.jsonl")
    return Locks(Files(), log), Locks(Files(), log)


def test_one_appends_at_a_time(tmp_path: Path) -> None:
    """Who does not wait is told at once."""
    first, second = pair(tmp_path)

    assert first.acquire(wait=False)
    assert not second.acquire(wait=False)
    first.release()
    assert second.acquire(wait=False)
    first.close()
    second.close()


def test_alone_means_nobody_has_joined(tmp_path: Path) -> None:
    """Two that have joined are not alone, the last one is."""
    first, second = pair(tmp_path)

    assert first.is_alone()
    first.join()
    assert not second.is_alone()
    second.join()
    first.close()
    assert second.is_alone()
    second.close()


def test_a_start_looks_three_times_before_it_believes_in_peers(tmp_path: Path) -> None:
    """A verifier holds the presence lock for an instant; it is no writer. Peers may append between the tries."""
    other = Locks(Files(), str(tmp_path / "audit.jsonl"))
    other.join()
    naps: list[bool] = []

    def nap(seconds: float) -> None:
        naps.append(other.acquire(wait=False))
        other.release()
        if len(naps) == 2:
            other.close()

    starter = Locks(Files(), str(tmp_path / "audit.jsonl"), sleep=nap)

    assert starter.acquire_to_start()
    assert naps == [True, True]
    starter.close()


def test_a_lock_that_is_never_released_is_named(tmp_path: Path) -> None:
    """A start does not hang on a frozen peer."""
    frozen = Locks(Files(), str(tmp_path / "audit.jsonl"))
    frozen.acquire(wait=True)
    starter = Locks(Files(), str(tmp_path / "audit.jsonl"), sleep=lambda seconds: None)

    with pytest.raises(LedgerRefused, match=r"audit\.jsonl\.lock.*fuser"):
        starter.acquire_to_start()

    frozen.close()
    starter.close()


@pytest.mark.parametrize("suffix", ["lock", "live"])
@pytest.mark.parametrize("again", [pytest.param(True, id="replaced"), pytest.param(False, id="removed")])
def test_a_lock_file_that_a_cleaner_removed_is_followed(tmp_path: Path, suffix: str, again: bool) -> None:
    """Two writers that lock two files of one name would both append."""
    old = Locks(Files(), str(tmp_path / "audit.jsonl"))
    old.acquire(wait=True)
    old.join()
    (tmp_path / f"audit.jsonl.{suffix}").unlink()
    if again:
        (tmp_path / f"audit.jsonl.{suffix}").touch(0o600)
    old.renew()
    new = Locks(Files(), str(tmp_path / "audit.jsonl"))

    assert not new.acquire(wait=False)
    assert not new.is_alone()
    old.close()
    assert new.acquire(wait=False)
    assert new.is_alone()
    new.close()


def test_a_lock_file_that_was_replaced_and_is_held_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """Whoever holds the new one may have been stopped; the old one is kept, so that the next look asks again."""
    old = Locks(Files(), str(tmp_path / "audit.jsonl"), sleep=lambda seconds: None)
    old.acquire(wait=True)
    (tmp_path / "audit.jsonl.lock").unlink()
    frozen = Locks(Files(), str(tmp_path / "audit.jsonl"))
    frozen.acquire(wait=True)

    with pytest.raises(LedgerRefused, match=r"audit\.jsonl\.lock.*fuser"):
        old.renew()
    frozen.close()
    old.renew()

    old.release()
    old.close()


def test_closing_lets_go_of_every_descriptor(tmp_path: Path) -> None:
    """Also after the lock files were opened again."""
    before = len(os.listdir("/proc/self/fd"))
    locks = Locks(Files(), str(tmp_path / "audit.jsonl"))
    (tmp_path / "audit.jsonl.lock").unlink()
    (tmp_path / "audit.jsonl.live").unlink()
    locks.renew()

    locks.close()

    assert len(os.listdir("/proc/self/fd")) == before


class FakeMsvcrt:
    """One byte that one descriptor can lock."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.taken = False

    def locking(self, fd: int, mode: int, count: int) -> None:
        if self.taken:
            raise OSError("locked")
        self.taken = True


def test_without_flock_a_second_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the first writer keeps the log to itself."""
    fake: dict[str, Any] = {"msvcrt": FakeMsvcrt()}
    monkeypatch.setattr(module, "_module", fake.get)
    first = Locks(Files(), str(tmp_path / "audit.jsonl"))

    assert first.acquire_to_start()
    assert first.acquire(wait=False)
    first.release()
    first.join()
    first.renew()
    with pytest.raises(LedgerRefused, match="give each its own"):
        Locks(Files(), str(tmp_path / "audit.jsonl"))
    first.close()


def test_without_any_locks_every_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better no ledger than one that two processes write over each other."""
    monkeypatch.setattr(module, "_module", SimpleNamespace(get=lambda name: None).get)

    with pytest.raises(LedgerRefused, match="no file locks"):
        Locks(Files(), str(tmp_path / "audit.jsonl"))


def test_the_writers_import_without_posix_modules() -> None:
    """Windows has no fcntl; importing must not need it."""
    code = (
        "import sys; sys.modules['fcntl'] = None; sys.modules['pwd'] = None; sys.modules['resource'] = None\n"
        "import mcp_audit.sinks.opening, mcp_audit.sinks.locks\n"
        "print(mcp_audit.sinks.locks._module('fcntl'))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "None\n"
    assert importlib.import_module("fcntl")
