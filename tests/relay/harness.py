"""A stdio relay with everything real but the two peers, which are scripts of bytes on pipes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from anyio import to_thread

from mcp_audit.config import Config
from mcp_audit.config.model import Audit, Middleware, Policy, Proxy, RateLimit, Redact
from mcp_audit.proxy import relay_session
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.stamp import Stamp

SECRET = b"0123456789abcdef0123456789abcdef"
UNLIMITED = RateLimit(requests_per_minute=1_000_000)


def neutral(**audit: Any) -> Config:
    """Settings under which nothing is enforced."""
    return Config(
        middleware=Middleware(rate_limit=RateLimit(enabled=False), redact=Redact(enabled=False)),
        audit=Audit(capture="full", **audit),
    )


def enforcing(rules: Sequence[Any] = (), limit: RateLimit = UNLIMITED, proxy: Proxy | None = None) -> Config:
    """Settings under which everything is on and, without rules, everything allowed."""
    return Config(
        middleware=Middleware(rate_limit=limit),
        policy=Policy(enabled=True, rules=tuple(rules)),
        proxy=proxy or Proxy(),
    )


class PipePeer:
    """Stands in for the upstream process: a pair of pipes and an exit that the test decides about."""

    def __init__(self) -> None:
        self.reads, self.stdin = os.pipe()
        self.stdout, self.writes = os.pipe()
        self.exited = anyio.Event()
        self.signals: list[int] = []

    async def wait(self) -> int:
        await self.exited.wait()
        return 0

    def signal_group(self, number: int) -> bool:
        self.signals.append(number)
        return False


class Outcome(NamedTuple):
    to_server: bytes
    to_client: bytes
    lines: list[dict[str, Any]]


async def _write(fd: int, chunks: Sequence[bytes]) -> None:
    def pour() -> None:
        try:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(fd, rest) :]
        finally:
            os.close(fd)

    await to_thread.run_sync(pour)


async def _read(fd: int, into: bytearray) -> None:
    def drain() -> None:
        while chunk := os.read(fd, 65536):
            into.extend(chunk)
        os.close(fd)

    await to_thread.run_sync(drain)


async def relay(
    folder: Path, config: Config, from_client: Sequence[bytes], from_server: Sequence[bytes], storage: str = "jsonl"
) -> Outcome:
    """Send both streams chunk by chunk, end both, and return what came out and what the ledger says."""
    log = folder / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    stamp = Stamp()
    ledger = open_ledger(LedgerSettings(storage=storage, path=str(log), secret=SECRET, software="test"), stamp)
    peer = PipePeer()
    client_reads, client_writes = os.pipe()
    answers_read, answers_write = os.pipe()
    to_server, to_client = bytearray(), bytearray()

    async def end_upstream() -> None:
        async with anyio.create_task_group() as streams:
            streams.start_soon(_write, peer.writes, from_server)
            streams.start_soon(_read, peer.reads, to_server)
            streams.start_soon(_write, client_writes, from_client)
        peer.exited.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_upstream)
        tasks.start_soon(_read, answers_read, to_client)
        await relay_session(config, ledger, stamp, peer, ["server"], client_reads, answers_write)  # type: ignore[arg-type]
    return Outcome(bytes(to_server), bytes(to_client), read_lines(log))


def read_lines(log: Path) -> list[dict[str, Any]]:
    """Return the parsed lines of a ledger."""
    if log.suffix == ".db":
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(log)) as db:
            return [json.loads(line) for (line,) in db.execute("select line from entries order by seq")]
    return [json.loads(line) for line in log.read_bytes().split(b"\n") if line]
