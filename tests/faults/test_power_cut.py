"""The power goes: under `fsync` nothing that was acknowledged is lost, under `write` the next start recovers."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from fakes import QuickFiles
from host import loop_mount
from launch import ANSWERS, Zygote
from ledgers import STAMP, crash, exchange, request, settings
from medium import Medium, PowerCut, Tail
from rows import Seen, lines_of, recorded, row

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.settings import RotationSettings

Names = Literal["synced", "all"]
ROTATION = RotationSettings(max_size_bytes=1500)
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

# Whoever outlives a killed proxy by a moment, with this folder as its own, keeps it from being unmounted.
ELSEWHERE = ["env", "-C", "/", *ANSWERS]


class Life:
    """A first run, a crash, a second run that ends in order; `acknowledged` was promised to stay."""

    def __init__(self, folder: Path, files: Medium, durability: str) -> None:
        self.acknowledged: list[str] = []
        self.exit_code = 0
        self.durable = durability == "fsync"
        self.files = files
        self.open = lambda: open_ledger(
            settings(folder, origin="o", software="t", durability=durability, rotation=ROTATION), STAMP, files
        )

    def run(self) -> Life:
        """Go on until the end or the power cut."""
        sink = None
        try:
            sink = self.open()
            self.append(sink, "a", "b")
            self.checkpoint(sink)
            self.append(sink, "c")
            self.append(sink)
            crash(sink)
            sink = self.open()
            self.append(sink, "d", "e", "f")
            self.append(sink, "g")
            self.checkpoint(sink)
            self.append(sink, "h")
            self.close(sink)
        except PowerCut:
            if sink is not None:
                crash(sink)
        except LedgerRefused as refused:
            self.exit_code = refused.exit_code
        self.files.release()
        return self

    def checkpoint(self, sink) -> None:  # type: ignore[no-untyped-def]
        try:
            sink.checkpoint()
        except LedgerUnavailable:
            return

    def close(self, sink) -> None:  # type: ignore[no-untyped-def]
        try:
            sink.close()
        except LedgerUnavailable:
            crash(sink)

    def append(self, sink, *texts: str) -> None:  # type: ignore[no-untyped-def]
        try:
            sink.append([exchange(text) for text in texts] or [request()])
            if self.durable:
                sink.sync()
                self.acknowledged += texts
        except LedgerUnavailable:
            return
        finally:
            if sink.blocked and not self.files.down:
                with suppress(LedgerUnavailable):
                    sink.recover()


def after_the_cut(seen: Seen, folder: Path, acknowledged: list[str], story: object) -> None:
    """Start on what is left: it must not be refused, and what was promised must be there."""
    log = folder / "audit.jsonl"
    try:
        sink = open_ledger(settings(folder, origin="o", software="t"), STAMP, QuickFiles())
    except LedgerRefused as refused:
        pytest.fail(f"{story}: {refused}")
    sink.append([exchange("after")])
    sink.close()
    seen.check(log, story=story)
    seen.keeps([*acknowledged, "after"], [line["params"]["text"] for line in lines_of(log) if "params" in line], story)


WORST: list[tuple[Tail, Names]] = [("lost", "synced"), ("half", "all"), ("zeros", "all"), ("kept", "synced")]


@row(
    "power cut before any operation of creation, append, sync, checkpoint, rotation, restart, close",
    by="a model of page cache and medium; what was not synced is dropped, halved, zeroed or kept; names as well",
    proxy="starts again, recovers by appending; under `fsync` every acknowledged line is there",
    verify="INTACT",
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("durability", ["write", "fsync"])
@pytest.mark.parametrize("each", [1, pytest.param(4, marks=pytest.mark.long)], ids=["one-aftermath", "all-aftermaths"])
@pytest.mark.slow
def test_the_power_may_go_at_any_instant(tmp_path: Path, seen: Seen, durability: str, each: int) -> None:
    """No instant leaves a ledger that is refused, or one that lost what was promised."""
    number = 0
    whole_life(tmp_path, durability)
    for number in range(2, 1000):
        old = tmp_path / f"old-{number}"
        old.mkdir()
        medium = Medium(cut_at=number)
        life = Life(old, medium, durability).run()
        if not medium.down:
            break
        for turn in range(each):
            tail, names = WORST[(number + turn) % len(WORST)]
            new = tmp_path / f"new-{number}-{turn}"
            medium.restore(old, new, tail, names)
            after_the_cut(
                seen,
                new,
                life.acknowledged,
                f"cut before operation {number} ({medium.calls[-1]}), tail {tail}, names {names}",
            )
    assert number > 100


@row(
    "a sync reports EIO once and loses its pages, later the power goes",
    by="the same model; each sync of the scenario fails in turn, all later ones succeed and lie; durability `fsync`",
    proxy="copies the log to fresh blocks, so that what it acknowledged afterwards is on the medium",
    verify="INTACT",
)
@pytest.mark.timeout(600)
def test_a_sync_that_failed_is_not_believed(tmp_path: Path, seen: Seen) -> None:
    """The bytes of a log whose sync failed once are never relied upon."""
    calls = whole_life(tmp_path, "fsync")
    syncs = [number for number, call in enumerate(calls, 1) if call.startswith("sync ")]
    for number in syncs:
        old, new = tmp_path / f"old-{number}", tmp_path / f"new-{number}"
        old.mkdir()
        medium = Medium(eio_at=number)
        life = Life(old, medium, "fsync").run()
        medium.restore(old, new, "lost", "synced")
        assert life.exit_code in (0, 2)
        after_the_cut(seen, new, life.acknowledged, f"operation {number} ({calls[number - 1]}) failed")


def whole_life(tmp_path: Path, durability: str) -> list[str]:
    """Return the operations of a life in which nothing fails."""
    (tmp_path / "whole").mkdir()
    whole = Medium()
    life = Life(tmp_path / "whole", whole, durability).run()
    assert life.acknowledged == (list("abcdefgh") if durability == "fsync" else [])
    assert whole.calls.count("rename to audit.jsonl") > 2, "it rotates"
    return whole.calls


@row(
    "power cut of a real ext4",
    by="shutdown ioctl without journal flush on a loop mount while a real proxy is under load, then kill and remount",
    proxy="`fsync`: every answered call is there; `write`: recovers what the journal kept",
    verify="INTACT UNCLEAN",
)
@pytest.mark.parametrize("durability", ["write", "fsync"])
def test_an_ext4_that_is_shut_down(tmp_path: Path, seen: Seen, zygote: Zygote, durability: str) -> None:
    """Three times in a row on one file system."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    log = folder / "audit.jsonl"
    config = f"audit: {{durability: {durability}, checkpoint_interval_ms: 20, block_timeout_ms: 100}}\n"
    answered: list[str] = []
    for run in range(3):
        with loop_mount(image, folder), zygote.start(folder, config, server=ELSEWHERE) as proxy:
            proxy.pour([f"{run}-{n}" for n in range(120)], answers=40 + 25 * run)
            shut_down(folder)
            proxy.kill()
            answered += proxy.answered
        with loop_mount(image, folder):
            seen.check(log, expect="UNCLEAN")
            if durability == "fsync":
                seen.keeps(answered, recorded(log), f"cut {run}")
    with loop_mount(image, folder):
        with zygote.start(folder, config, server=ELSEWHERE) as proxy:
            assert proxy.works("later")
            assert proxy.end() == 0
        seen.check(log, expect="INTACT")
        seen.keeps([*(answered if durability == "fsync" else ()), "later"], recorded(log))


def shut_down(folder: Path) -> None:
    """Stop a file system as a power cut does: nothing more reaches the medium."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)
