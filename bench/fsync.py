"""Entries per second that are on the medium before anybody acts on them: 64 concurrent callers against one.

Group commit is the subject: one caller waits for a sync each time, many share it. Both are measured in turns in one
run, JSONL and SQLite, durability `fsync` and, for comparison, `write`; the floor is the disk's own: append as many
bytes and fdatasync, nothing else. The goal is 8 times as many entries with 64 callers.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from bench.machine import columns, filesystem
from mcp_audit.ledger.entry import Entry, Unsealed, encode
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.committer import Committer, store
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.settings import LedgerSettings
from mcp_audit.sinks.stamp import Stamp

__all__ = ["run", "table"]

CALLERS = 64
GOAL = 8.0
_LINE_BYTES = 1200
_QUEUE, _BATCH = 4096, 128  # the defaults
_PATIENCE_S = 60.0
_STORAGES = ("jsonl", "sqlite")
_SECRET = b"0123456789abcdef0123456789abcdef"


def run(quick: bool) -> dict[str, Any]:
    """Return the figures: entries per second, and how they compare."""
    seconds, rounds = (0.15, 1) if quick else (1.0, 3)
    with tempfile.TemporaryDirectory(prefix="mcp-audit-bench-") as folder:
        figures: dict[str, Any] = {
            "filesystem": filesystem(folder),
            "line_bytes": _LINE_BYTES,
            "callers": CALLERS,
            "fdatasync_alone_ms": _floor(folder, seconds),
        }
        for durability in ("fsync", "write"):
            for storage in _STORAGES:
                figures[f"{storage}_{durability}"] = _compare(folder, storage, durability, seconds, rounds)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Return them for people."""
    floor = figures["fdatasync_alone_ms"]
    rows: list[Sequence[object]] = [
        ["", "1 caller/s", f"{figures['callers']} callers/s", "ratio", "entries a batch", "1 caller / floor"]
    ]
    for durability in ("fsync", "write"):
        for storage in _STORAGES:
            found = figures[f"{storage}_{durability}"]
            against = f"{found['one_to_floor']:.1f}x" if durability == "fsync" else ""
            rows.append(
                [
                    f"{storage} {durability}",
                    f"{found['one_per_s']:,.0f}",
                    f"{found['many_per_s']:,.0f}",
                    f"{found['ratio']:.1f}x",
                    f"{found['entries_per_batch']:.0f}",
                    against,
                ]
            )
    return (
        f"{columns(rows)}\n"
        f"floor: {figures['line_bytes']} bytes and fdatasync take {floor:.3f} ms on {figures['filesystem'] or '?'}; "
        f"the goal for fsync is a ratio of {GOAL:g}x"
    )


def _floor(folder: str, seconds: float) -> float:
    """Return the median milliseconds of one write and fdatasync."""
    data = b"x" * (_LINE_BYTES - 1) + b"\n"
    sync = getattr(os, "fdatasync", os.fsync)
    fd = os.open(os.path.join(folder, "floor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    taken = []
    try:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            os.write(fd, data)
            sync(fd)
            taken.append(time.perf_counter() - began)
    finally:
        os.close(fd)
    return statistics.median(taken) * 1000


def _compare(folder: str, storage: str, durability: str, seconds: float, rounds: int) -> dict[str, float]:
    """Measure both in turns, so that what else the machine does falls on both."""
    path = str(Path(folder, f"{storage}-{durability}", "audit.log"))
    settings = LedgerSettings(path, storage, _SECRET, origin="bench/fsync", durability=durability)
    ledger = open_ledger(settings, Stamp())
    try:
        one: list[float] = []
        many: list[float] = []
        batches: list[float] = []
        for _ in range(rounds):
            for callers, found in ((1, one), (CALLERS, many)):
                ledger.checkpoint()  # as the proxy does now and then; or SQLite's write-ahead log only grows
                per_second, per_batch = anyio.run(_measure, ledger, callers, seconds)
                found.append(per_second)
            batches.append(per_batch)
    finally:
        ledger.close()
    best_of_one = statistics.median(one)
    floor = _floor(folder, seconds) / 1000
    return {
        "one_per_s": best_of_one,
        "many_per_s": statistics.median(many),
        "ratio": statistics.median(many) / best_of_one,
        "entries_per_batch": statistics.median(batches),
        "one_to_floor": 1 / best_of_one / floor,
    }


async def _measure(ledger: LedgerSink, callers: int, seconds: float) -> tuple[float, float]:
    """Return entries per second, and entries per batch, of so many callers that each wait for theirs."""
    entry = _entry()
    entries = batches = 0

    async def write(batch: Sequence[Unsealed]) -> None:
        nonlocal entries, batches
        await to_thread.run_sync(store, ledger, batch, _BATCH)
        entries += len(batch)
        batches += 1

    committer = Committer(write, _QUEUE)
    end = time.perf_counter() + seconds

    async def call() -> None:
        nonlocal entries, batches
        while time.perf_counter() < end:
            if ledger.durable or committer.busy:
                await committer.commit(entry, 1, _PATIENCE_S)
            elif ledger.append([entry], wait=False) is not None:
                entries += 1
                batches += 1
                await anyio.lowlevel.checkpoint()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(callers):
            tasks.start_soon(call)
    return entries / (time.perf_counter() - began), entries / max(1, batches)


def _entry() -> Unsealed:
    stamp = Stamp()
    params = json.dumps({"name": "read_file", "arguments": {"path": "/tmp/example.txt"}}).encode()
    line = Entry(
        stamp.id(), stamp.timestamp(), "client_to_server", "stdio", "tools/call", params=params, outcome="answered"
    )
    line.result = b'{"content":[{"type":"text","text":"%s"}]}' % (b"x" * (_LINE_BYTES - 700))
    return encode(line)
