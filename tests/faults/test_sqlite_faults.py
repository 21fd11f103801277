"""What can happen to a database: locked by another program, a page gone bad, its write-ahead log deleted."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from launch import Zygote
from rows import Seen, recorded, row

CONFIG = "audit: {block_timeout_ms: 200, checkpoint_interval_ms: 20}\n"


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    """The command line of a proxy that writes a database."""
    return "--storage", "sqlite", "--log", str(tmp_path / "audit.db")


@row(
    "the database is locked by another program",
    by="`BEGIN IMMEDIATE` of another connection while a real proxy is at work, released later",
    proxy="waits, then refuses calls; goes on without a restart",
    verify="INTACT",
)
@pytest.mark.timeout(120)
def test_a_locked_database(tmp_path: Path, seen: Seen, zygote: Zygote, options: tuple[str, ...]) -> None:
    """Nothing passes unrecorded meanwhile."""
    log = tmp_path / "audit.db"
    with zygote.start(tmp_path, CONFIG, *options) as proxy:
        assert proxy.works("before")
        with closing(sqlite3.connect(log, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert not proxy.works("locked")
            other.execute("ROLLBACK")
        proxy.works_again("after")
        assert proxy.end() == 0

    assert proxy.refused[0]["error"]["data"]["executed"] is False
    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))


@row(
    "a page of the database is corrupt",
    by="512 bytes of each page of a closed database are overwritten, one page at a time",
    proxy="refuses to start (exit 1 or 3) and keeps the evidence, unless it reads nothing from that page",
    verify="TAMPERED INTACT",
)
def test_a_corrupt_page(tmp_path: Path, seen: Seen, zygote: Zygote, options: tuple[str, ...]) -> None:
    """No page that holds anything can be hurt unseen."""
    log = tmp_path / "audit.db"
    with zygote.start(tmp_path, CONFIG, *options) as proxy:
        for n in range(20):
            assert proxy.works(n, text="x" * 300)
        assert proxy.end() == 0
    note = Path(f"{log}.checkpoint")
    whole, signed = log.read_bytes(), note.read_bytes()
    spared = 0
    unread: list[int] = []
    for page in range(len(whole) // 4096):
        start = page * 4096 + (100 if page == 0 else 0)
        hurt = whole[:start] + b"\xa5" * 512 + whole[start + 512 :]
        log.write_bytes(hurt)
        note.write_bytes(signed)
        if seen.check(log, story=page).verdict.name == "INTACT":
            spared += 1
            continue
        with zygote.start(tmp_path, CONFIG, *options) as later:
            if later.end() == 0:
                unread.append(page)
                seen.check(log, expect="TAMPERED", story=page)
            else:
                assert later.status in (1, 3), page
    assert spared <= 1
    assert len(unread) <= 3
    log.write_bytes(whole)
    note.write_bytes(signed)
    seen.check(log, expect="INTACT")
    seen.keeps(proxy.answered, recorded(log))


@row(
    "the write-ahead log of the database is deleted after a crash",
    by="kill -9, then `rm audit.db-wal`",
    proxy="refuses to start (exit 1 or 3): what the checkpoint covers is missing",
    verify="TAMPERED",
)
def test_a_deleted_write_ahead_log(tmp_path: Path, seen: Seen, zygote: Zygote, options: tuple[str, ...]) -> None:
    """Lines that were signed and lived there are gone, and that is said."""
    log = tmp_path / "audit.db"
    with zygote.start(tmp_path, CONFIG, *options) as proxy:
        for n in range(10):
            assert proxy.works(n)
        with closing(sqlite3.connect(log)) as reader:  # keeps what follows from being moved into the database
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entries").fetchone()
            for n in range(10, 20):
                assert proxy.works(n)
            wait_for_checkpoint(log, 30)
            proxy.kill()
            without = log.read_bytes()
    Path(f"{log}-shm").unlink(missing_ok=True)
    Path(f"{log}-wal").unlink(missing_ok=True)
    log.write_bytes(without)

    seen.check(log)
    with zygote.start(tmp_path, CONFIG, *options) as later:
        assert later.end() in (1, 3)


def wait_for_checkpoint(log: Path, size: int) -> None:
    """Return when the sidecar covers that many lines."""
    sidecar = Path(f"{log}.checkpoint")
    while int(sidecar.read_text().split("\n")[1]) < size:
        os.sched_yield()
