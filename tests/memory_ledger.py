"""A ledger in memory that fails on purpose, and messages to send: what the tests of session and recorder share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.keys import Secrets
from mcp_audit.wire.message import Direction, Payload, parse

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "modern-client", "version": "1"},
}


class MemoryLedger:
    """A `LedgerSink` whose lines are parsed objects.

    Attributes:
        fail_after: of the next append, how many lines are stored before it fails; None: it succeeds.
        broken: `recover` fails, too.
        busy: how many appends without `wait` find the lock taken.
        checkpoint_cause: what keeps a checkpoint from being made while lines are taken.
        checkpoints, attempts: how many were made and tried.
    """

    durable = False
    path = "/ledger"
    origin = "test"
    vkey = ""
    note = ""
    secrets: Secrets | None = None

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.blocked = False
        self.fail_after: int | None = None
        self.broken = False
        self.busy = 0
        self.checkpoint_cause = ""
        self.checkpoints = self.attempts = 0
        self.syncs = 0
        self.closed = ""

    def append(self, batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        if not wait and self.busy:
            self.busy -= 1
            return None
        if self.blocked:
            raise LedgerUnavailable(self.path, "disk full")
        stored, self.fail_after = self.fail_after, None
        first = len(self.lines)
        kept = batch if stored is None else batch[:stored]
        self.lines += [json.loads(line.body + b"}") | ({} if line.of is None else {"of": line.of}) for line in kept]
        seqs = list(range(first, len(self.lines)))
        if stored is not None:
            self.blocked = True
            raise LedgerUnavailable(self.path, "disk full", tuple(seqs))
        return seqs

    def sync(self) -> None:
        self.syncs += 1

    def recover(self) -> None:
        if self.broken:
            raise LedgerUnavailable(self.path, "disk still full")
        self.blocked = False

    def checkpoint(self) -> str | None:
        self.attempts += 1
        if self.blocked or self.checkpoint_cause:
            raise LedgerUnavailable(self.path, self.checkpoint_cause or "disk full")
        self.checkpoints += 1
        return "note"

    def close(self, reason: str = "shutdown") -> None:
        if self.blocked:
            raise LedgerUnavailable(self.path, "disk full")
        self.closed = reason

    def typed(self, type_: str) -> list[dict[str, Any]]:
        """The lines of one type; "" for exchange lines."""
        return [line for line in self.lines if line.get("type", "") == type_]


class Ids:
    """Makes the ids of lines: L0, L1, ..."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self) -> str:
        return f"L{next(self._numbers)}"


def encoded(message: Any) -> bytes:
    """A message as a compact line, or bytes as they are."""
    return message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode() + b"\n"


def sent(message: Any, direction: Direction = TO_SERVER) -> Payload:
    """The payload of one line."""
    return parse(encoded(message), direction)


def request(id_: Any, method: str = "tools/call", **params: Any) -> dict[str, Any]:
    """A request; a `tools/call` calls the tool `echo` unless told otherwise."""
    if method == "tools/call":
        params = {"name": "echo", **params}
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def modern(id_: Any, method: str = "tools/call", **params: Any) -> dict[str, Any]:
    """A request of the modern era."""
    return request(id_, method, **{"_meta": MODERN, **params})


def notification(method: str, **params: Any) -> dict[str, Any]:
    """A notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def result(id_: Any, **members: Any) -> dict[str, Any]:
    """An answer."""
    return {"jsonrpc": "2.0", "id": id_, "result": members}


def rpc_error(id_: Any, code: int = -32601) -> dict[str, Any]:
    """An answer that is an error."""
    return {"jsonrpc": "2.0", "id": id_, "error": {"code": code, "message": "no"}}
