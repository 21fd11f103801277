"""Which ledger to open, and how: what the configuration says, without where it said so."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LedgerSettings", "RotationSettings"]


@dataclass(frozen=True, slots=True)
class RotationSettings:
    """When a ledger starts a new file, and which old lines go. Zero and empty: never.

    Args:
        max_size_bytes: rotate once the file is larger.
        interval: `hourly` or `daily`: rotate when an hour or a day (UTC) has passed.
        max_files: how many archives stay.
        max_age_days: how long an archive stays after its rotation; of a database, a line.
        compress: `none` or `gzip`: what happens to an archive.
    """

    max_size_bytes: int = 0
    interval: str = ""
    max_files: int = 0
    max_age_days: int = 0
    compress: str = "none"


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
        durability: `write`, or `fsync` if an appended line must survive a power cut.
        rotation: when files end, and which go.
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
    durability: str = "write"
    rotation: RotationSettings = RotationSettings()
