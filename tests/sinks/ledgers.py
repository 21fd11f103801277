"""What the tests of the writers share: settings, lines to write, and a look at what is in a log."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mcp_audit.ledger import Report, verify
from mcp_audit.ledger.entry import Entry, Unsealed, encode
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.jsonl import JsonlSink
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.sqlite import SqliteSink
from mcp_audit.sinks.stamp import Stamp

SECRET = b"0123456789abcdef0123456789abcdef"
OTHER_SECRET = b"fedcba9876543210fedcba9876543210"
STAMP = Stamp()
Sink = JsonlSink | SqliteSink


def settings(folder: Path, storage: str = "jsonl", **changes: Any) -> LedgerSettings:
    """The settings of a ledger in `folder`."""
    path = folder / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    return LedgerSettings(**{"path": str(path), "storage": storage, "secret": SECRET, "software": "test 1", **changes})


def start(folder: Path, storage: str = "jsonl", files: Files | None = None, **changes: Any) -> Sink:
    """Open the ledger in `folder`."""
    return open_ledger(settings(folder, storage, **changes), STAMP, files)


def crash(sink: Sink) -> None:
    """Let go of everything as the kernel does when a process is killed."""
    sink.abandon()
    sink._locks.close()


def exchange(text: str = "hello", of: int | None = None) -> Unsealed:
    """An exchange line."""
    params = json.dumps({"text": text}).encode()
    return encode(
        Entry(
            STAMP.id(),
            STAMP.timestamp(),
            "client_to_server",
            "stdio",
            "tools/call",
            params=params,
            outcome="answered",
            of=of,
        )
    )


def request(text: str = "hello") -> Unsealed:
    """A request line."""
    return encode(Entry(STAMP.id(), STAMP.timestamp(), "client_to_server", "stdio", "tools/call", type="request"))


def appended(sink: Sink, *batch: Unsealed) -> list[int]:
    """Append and return the seqs."""
    seqs = sink.append(batch)
    assert seqs is not None
    return seqs


def lines(path: str | Path) -> list[dict[str, Any]]:
    """Every whole line of a log."""
    if Path(path).read_bytes().startswith(b"SQLite"):
        with closing(sqlite3.connect(path)) as connection:
            rows = [row[0] for row in connection.execute("SELECT line FROM entries ORDER BY seq")]
    else:
        rows = [row for row in Path(path).read_bytes().split(b"\n") if row.endswith(b"}")]
    return [json.loads(row) for row in rows]


def types(path: str | Path) -> list[str]:
    """The type of every line, `exchange` for those without one."""
    return [line.get("type", "exchange") for line in lines(path)]


def check(path: str | Path, *secrets: bytes) -> Report:
    """Verify with the secret."""
    return verify(path, secrets=secrets or [SECRET], strict=True)


def verdict(path: str | Path) -> str:
    """The verdict's name."""
    return check(path).verdict.name
