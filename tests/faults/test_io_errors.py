"""The disk reports errors, lies about them, or takes its time; the real process under injected system calls."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import FlakyFiles, QuickFiles
from host import strace
from launch import launch
from ledgers import crash, exchange, request, start
from proxy import ECHO, python
from rows import Seen, lines_of, recorded, row

from mcp_audit.errors import LedgerRefused, LedgerUnavailable

pytestmark = pytest.mark.slow

QUICK = "audit: {block_timeout_ms: 200, checkpoint_interval_ms: 10}\n"


class Torn(FlakyFiles):
    """The N-th operation fails; a write is cut in half first, with or without an error."""

    def __init__(self, fail_at: int = 0, error: bool = False) -> None:
        super().__init__(fail_at)
        self.error = error

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        if len(self.calls) + 1 != self.fail_at:
            return super().write(fd, data)
        self.calls.append(f"write {self._names[fd]}")
        self.failed = self.calls[-1]
        written = os.write(fd, bytes(data)[: len(data) // 2])
        if self.error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return written


def appended(sink: Any, *texts: str) -> list[str]:
    """Append, recover if that fails, and return the texts that were acknowledged."""
    try:
        sink.append([exchange(text) for text in texts])
    except LedgerUnavailable as error:
        done = list(texts[: len(error.appended)])
        try:
            sink.recover()
        except LedgerUnavailable:
            return done
        return [*done, *(appended(sink, *texts[len(done) :]) if len(done) < len(texts) else [])]
    return list(texts)


@row(
    "EIO, a short write, or half a write and then EIO, at any operation",
    by="the injectable storage layer fails the N-th operation of a scenario, for all N; JSONL and SQLite",
    proxy="counts what is whole, blocks, recovers without a restart; after a failed sync believes only a new copy",
    verify="INTACT",
)
@pytest.mark.parametrize(
    ("storage", "kind"), [("jsonl", "eio"), ("jsonl", "short"), ("jsonl", "torn"), ("sqlite", "eio")]
)
def test_any_operation_may_fail(tmp_path: Path, seen: Seen, storage: str, kind: str) -> None:
    """Every acknowledged line is there, once, in its place; the next start goes on."""
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        files: FlakyFiles = FlakyFiles(number) if kind == "eio" else Torn(number, error=kind == "torn")
        acknowledged: list[str] = []
        exit_code = 2
        try:
            sink = start(folder, storage, files=files, origin="o", software="t")
        except LedgerRefused as refused:
            exit_code = refused.exit_code
        else:
            acknowledged += appended(sink, "a")
            for texts in (["b", "c", "d"], ["e"]):
                with suppress(LedgerUnavailable):
                    sink.checkpoint()
                acknowledged += appended(sink, *texts)
            try:
                sink.close()
            except LedgerUnavailable:
                crash(sink)
        assert exit_code == 2, files.failed
        if not files.failed:
            break
        story = f"operation {number}: {kind} at {files.failed}"
        sink = start(folder, storage, files=QuickFiles())
        sink.append([exchange("after")])
        sink.close()
        seen.check(sink.path, story=story)
        found = [line["params"]["text"] for line in lines_of(Path(sink.path)) if "params" in line]
        assert found == [*acknowledged, "after"], story
        seen.keeps(acknowledged, found, story)
    assert number > 30


class Crash(BaseException):
    """The process is gone."""


class Crashing(QuickFiles):
    """Dies before its N-th operation."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        self._step()
        return super().open(path, flags, mode)

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        self._step()
        return os.write(fd, data)

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        self._step()
        os.replace(old, new)

    def sync(self, fd: int) -> None:
        self._step()

    def _step(self) -> None:
        self.count += 1
        if self.count == self.at:
            raise Crash


@row(
    "two crashes in a row during recovery",
    by="a torn log; the first restart dies before its N-th operation, the second before its M-th, the third may finish",
    proxy="settles all of it, each open request once",
    verify="INTACT",
)
def test_recovery_may_crash_twice(tmp_path: Path, seen: Seen) -> None:
    """For all N, and for each several M."""
    log = tmp_path / "audit.jsonl"
    sink = start(tmp_path, files=QuickFiles(), origin="o", software="t")
    sink.append([request(), exchange("kept")])
    sink.checkpoint()
    sink.append([request()])
    crash(sink)
    with log.open("ab") as file:
        file.write(b'{"id":"torn')
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    probe = Crashing(0)
    start(tmp_path, files=probe).close()
    for first in range(1, probe.count + 1):
        for second in range(1 + first % 7, probe.count + 7, 7):
            for path in tmp_path.iterdir():
                if path not in files:
                    path.unlink()
            for path, data in files.items():
                path.write_bytes(data)
            for at in (first, second):
                sink = None
                try:
                    sink = start(tmp_path, files=Crashing(at))
                    sink.close()
                except Crash:
                    if sink is not None:
                        crash(sink)
            start(tmp_path, files=QuickFiles()).close()
            story = f"crash at {first}, then at {second}"
            seen.check(log, story=story)
            found = lines_of(log)
            assert [line["of"] for line in found if line.get("type") == "orphan"] == [1, 3], story
            seen.keeps(["kept"], [line["params"]["text"] for line in found if "params" in line], story)
            assert log.read_bytes().startswith(files[log])


@row(
    "`kill -9` of a restart at its writes, renames and syncs, one after another",
    by="`strace` delivers SIGKILL at the system call; real process, no cleaning up in between",
    proxy="the next start settles what all of them left",
    verify="INTACT",
)
@pytest.mark.timeout(180)
def test_restarts_are_killed_at_their_system_calls(tmp_path: Path, seen: Seen) -> None:
    """A crash loop in the middle of recovery leaves a log that the first start that lives makes whole."""
    log = tmp_path / "audit.jsonl"
    with launch(tmp_path) as proxy:
        assert proxy.works("kept")
        proxy.kill()
    with log.open("ab") as file:
        file.write(b'{"id":"torn')
    for injection in ("write:signal=KILL:when=1", "write:signal=KILL:when=2", "fdatasync:signal=KILL:when=1"):
        with launch(tmp_path, under=strace(injection, path=log, threads=False)) as dying:
            assert dying.end() != 0
    with launch(tmp_path) as later:
        assert later.works("later")
        assert later.end() == 0

    seen.check(log)
    seen.keeps([*proxy.answered, *later.answered], recorded(log))


@row(
    "fdatasync of the log reports EIO once; the next one succeeds and lies",
    by="`strace -e inject=fdatasync:error=EIO:when=N` on the log of a real process under load",
    proxy="syncs that file never again: copies it to fresh blocks, keeps the old one as `.failed-<time>`, goes on",
    verify="INTACT",
)
@pytest.mark.parametrize("number", [2, 4])
def test_a_failed_sync_is_not_believed(tmp_path: Path, seen: Seen, number: int) -> None:
    """Calls go on, the log has a new inode, its `open` says `replaced`, and everything is in it."""
    log = tmp_path / "audit.jsonl"
    with launch(tmp_path) as proxy:
        assert proxy.works("before")
        assert proxy.end() == 0
    inode = log.stat().st_ino
    answered = list(proxy.answered)
    with launch(tmp_path, QUICK, under=strace(f"fdatasync:error=EIO:when={number}", path=log)) as proxy:
        for n in range(10):
            proxy.ask(n)
            time.sleep(0.02)  # so that several checkpoints are due
        proxy.works_again("later")
        assert proxy.end() == 0

    seen.check(log)
    seen.keeps([*answered, *proxy.answered], recorded(log))
    assert log.stat().st_ino != inode
    assert [path for path in tmp_path.iterdir() if ".failed-" in path.name]
    assert "replaced" in [line.get("after") for line in lines_of(log)]


@row(
    "write of the log reports EIO",
    by="`strace -e inject=write:error=EIO:when=3..5` on the log of a real process",
    proxy="refuses calls, recovers without a restart",
    verify="INTACT",
)
def test_a_failed_write_is_recovered_from(tmp_path: Path, seen: Seen) -> None:
    """And the outage is owned up to."""
    log = tmp_path / "audit.jsonl"
    with launch(tmp_path) as proxy:
        assert proxy.end() == 0
    with launch(tmp_path, QUICK, under=strace("write:error=EIO:when=3..5", path=log)) as proxy:
        for n in range(6):
            proxy.ask(n)
        assert proxy.refused
        proxy.works_again("later")
        assert proxy.end() == 0

    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))
    assert [line for line in lines_of(log) if line.get("type") == "blocked"]


@row(
    "a disk that is slow",
    by="`strace` delays every write of the log by 20 ms; 200 calls of 20 kB at once",
    proxy="holds the sender back: all calls are answered, memory stays bounded",
    verify="INTACT",
)
def test_a_slow_disk_holds_the_sender_back(tmp_path: Path, seen: Seen) -> None:
    """No deadlock, no refusal, and no queue that grows with what is sent."""
    log = tmp_path / "audit.jsonl"
    with launch(tmp_path) as proxy:
        assert proxy.end() == 0
    with launch(tmp_path, server=python(ECHO), under=strace("write:delay_enter=20000", path=log)) as proxy:
        assert proxy.works("first")
        (child,) = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
        before = resident(child)
        proxy.pour([f"{n}-" + "x" * 20000 for n in range(200)], answers=200)
        assert resident(child) - before < 64 << 20
        assert proxy.end() == 0

    assert not proxy.refused
    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))


def resident(pid: str) -> int:
    """Bytes of memory that a process has used at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.split("\n") if line.startswith("VmHWM"))
