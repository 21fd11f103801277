"""The newest 100 entries of a large log: unfiltered, and of a tool that few entries have; JSONL with index, and SQLite.

Each figure is also a ratio to a floor measured in the same run: reading the last 128 KiB of the file, or SQLite's own
`SELECT ... LIMIT 100`. The goal for a million entries is 50 ms, warm.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mcp_audit.ledger import read
from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.entry import Entry, Unsealed, encode, encode_typed
from mcp_audit.ledger.keys import LogKey, derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.reading.indexing import refreshed_index
from mcp_audit.ledger.reading.segment_stream import files_of
from mcp_audit.ledger.sqlite_schema import STATEMENTS

__all__ = ["run", "table"]

ENTRIES = 1_000_000
QUICK_ENTRIES = 20_000
NEWEST = 100
RARE = "delete_branch"  # one entry in 997
_TOOLS = ("read_file", "write_file", "list_directory", "search", "fetch", "query_database", "send_message", "get_issue")
_REPEAT = 7
_FLOOR_BYTES = 128 << 10
_ROWS = 5_000
# Encoded once, as the writer does; what differs from entry to entry is filled in.
_BODY = encode(
    Entry(
        id="%(number)026d",
        timestamp="%(time)b",
        direction="client_to_server",
        transport="stdio",
        method="tools/call",
        request_id="%(number)d",
        tool_name="%(tool)b",
        params=b'{"name":"%(tool)b","arguments":{"path":"/srv/data/%(number)d"}}',
        result=b'{"content":[{"type":"text","text":"%s"}],"isError":false}' % (b"lorem ipsum " * 38),
        duration_ms=18,
        client_id="claude-desktop",
        server_id="filesystem",
        outcome="answered",
        era="legacy",
        protocol_version="2025-11-25",
    )
).body


def run(quick: bool) -> dict[str, Any]:
    """Return the figures, times in ms."""
    entries = QUICK_ENTRIES if quick else ENTRIES
    with tempfile.TemporaryDirectory(prefix="mcp-audit-bench-") as folder:
        log, database = Path(folder, "audit.jsonl"), Path(folder, "audit.db")
        _write(log, database, entries)
        built = _timed_once(lambda: _build(log))
        figures: dict[str, Any] = {
            "entries": entries,
            "log_mib": log.stat().st_size / 2**20,
            "database_mib": database.stat().st_size / 2**20,
            "index_mib": Path(f"{log}.index").stat().st_size / 2**20,
            "index_build_s": built / 1000,
            "floors_ms": {"jsonl": _timed(lambda: _tail(log)), "sqlite": _timed(lambda: _select(database))},
        }
        for name, path in (("jsonl", log), ("sqlite", database)):
            for kind, filters in (("newest", {}), ("rare", {"tool": RARE})):
                taken = _timed(partial(_newest, path, **filters))
                figures[f"{name}_{kind}_ms"] = taken
                figures[f"{name}_{kind}_ratio"] = taken / figures["floors_ms"][name]
    return figures


def table(figures: dict[str, Any]) -> str:
    """Return the figures for people."""
    rows = [
        f"newest {NEWEST} of {figures['entries']:,} entries"
        f" (JSONL {figures['log_mib']:.0f} MiB, SQLite {figures['database_mib']:.0f} MiB;"
        f" index {figures['index_mib']:.1f} MiB, made in {figures['index_build_s']:.1f} s)"
    ]
    for name, kind in (("jsonl", "newest"), ("jsonl", "rare"), ("sqlite", "newest"), ("sqlite", "rare")):
        what = f"{name} {'unfiltered' if kind == 'newest' else 'one tool in 997'}"
        taken, ratio = figures[f"{name}_{kind}_ms"], figures[f"{name}_{kind}_ratio"]
        rows.append(f"  {what:24} {taken:8.1f} ms  {ratio:7.1f} x floor ({figures['floors_ms'][name]:.2f} ms)")
    return "\n".join(rows)


def _write(log: Path, database: Path, entries: int) -> None:
    origin = "bench.example/query"
    key = LogKey(origin, bytes(32))
    chain = Chain(origin, Mac(derive(b"0123456789abcdef0123456789abcdef", origin).mac))
    lines = _lines(chain, key.vkey, entries)
    with (
        log.open("wb") as file,
        closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as connection,
        ThreadPoolExecutor(1) as thread,
    ):
        # Without a journal and with the indexes from the start, so that SQLite reads each line's JSON once for all.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            connection.execute(f"PRAGMA {pragma}")
        for statement in STATEMENTS:
            connection.execute(statement)
        inserted = thread.submit(_insert, connection, 0, [])
        for first in range(0, entries + 1, _ROWS):
            batch = list(islice(lines, _ROWS))
            file.writelines(batch)
            inserted.result()
            inserted = thread.submit(_insert, connection, first, batch)
        inserted.result()
        connection.execute("PRAGMA journal_mode=WAL")
    Path(f"{log}.pub").write_text(key.vkey + "\n", encoding="utf-8")


def _insert(connection: sqlite3.Connection, first: int, lines: list[bytes]) -> None:
    connection.execute("BEGIN")
    rows = ((seq, line[:-1].decode()) for seq, line in enumerate(lines, first))
    connection.executemany("INSERT INTO entries (seq, line) VALUES (?, ?)", rows)
    connection.execute("COMMIT")


def _lines(chain: Chain, vkey: str, entries: int) -> Iterator[bytes]:
    """Yield an opening and `entries` exchanges of about 1.2 kB, two seconds apart."""
    opening = {"v": 1, "software": "bench", "vkey": vkey, "after": "new"}
    yield chain.seal(encode_typed("open", f"{0:026d}", "2026-01-01T00:00:00.000000Z", opening))
    begun = 1_767_225_600
    for number in range(1, entries + 1):
        tool = RARE if number % 997 == 0 else _TOOLS[number % len(_TOOLS)]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(begun + 2 * number))
        yield chain.seal(Unsealed(_BODY % {b"number": number, b"time": stamp.encode(), b"tool": tool.encode()}))


def _build(log: Path) -> None:
    end = (files_of(str(log))[-1].start, log.stat().st_size)
    index = refreshed_index(str(log), None, end)
    if index is None:
        raise RuntimeError(f"no index could be written beside {log}")
    index.close()


def _newest(path: Path, **filters: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an index that is dropped is no figure
        found = sum(1 for _ in read(path, newest_first=True, limit=NEWEST, **filters))  # type: ignore[arg-type,misc]
    if found != (NEWEST if not filters else min(NEWEST, found)):
        raise RuntimeError(f"{path}: {found} entries instead of {NEWEST}")
    return found


def _tail(log: Path) -> None:
    with log.open("rb") as file:
        file.seek(-min(_FLOOR_BYTES, log.stat().st_size), os.SEEK_END)
        file.read()


def _select(database: Path) -> None:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute("SELECT seq, line FROM entries ORDER BY seq DESC LIMIT 100").fetchall()


def _timed(work: Callable[[], object]) -> float:
    """Return the median of several runs after one that warms up."""
    work()
    return statistics.median(_timed_once(work) for _ in range(_REPEAT))


def _timed_once(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1000
