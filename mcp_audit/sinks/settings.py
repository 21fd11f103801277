"""Which ledger to open, and how: what the configuration says, without where it said so."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LedgerSettings"]


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Which ledger, and how.

    Args:
        path: the log; relative to the current directory.
        storage: `jsonl` or `sqlite`.
        secret: AUDIT_SECRET; None for a log without MACs.
        origin: the log's name; empty: what the key says, or a new name.
        signing_key: path of the private key; empty: `<log>.key`.
        software: name and version of the writer, for `open` lines.
        config_sha256, policy_sha256: of the bytes of the files in force, for `open` lines.
        allow_network_fs: use a network filesystem although locks and syncs may not hold there.
        accept_loss: set a log aside that cannot be gone on with, and begin a new one.
        busy_timeout_ms: how long to wait for another process that has a SQLite ledger locked.
    """

    path: str
    storage: str = "jsonl"
    secret: bytes | None = None
    origin: str = ""
    signing_key: str = ""
    software: str = "mcp-audit"
    config_sha256: str = ""
    policy_sha256: str | None = None
    allow_network_fs: bool = False
    accept_loss: bool = False
    busy_timeout_ms: int = 5000
