"""Whose log it is: its name, the key that signs its checkpoints, the keys of its MACs.

Promise: a key never signs two histories of one name, and a key that others can read is not used. The private key is
written by whoever creates the log and never changed.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import stat
from dataclasses import dataclass

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.keys import BadKey, LogKey, Secrets, VerifierKey, check_origin, default_origin, derive
from mcp_audit.sinks.files import Files, read_small, replace

__all__ = ["Identity", "create_key", "identify", "read_key", "read_verifier"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The keys of one log; `secrets` is None without AUDIT_SECRET."""

    key: LogKey
    verifier: VerifierKey
    secrets: Secrets | None

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.key.origin

    @property
    def key_id(self) -> str:
        """Names the MAC key, empty without one."""
        return self.secrets.key_id if self.secrets else ""


def identify(key: LogKey, secret: bytes | None) -> Identity:
    """Derive everything that depends on the log's name."""
    return Identity(key, VerifierKey.parse(key.vkey), derive(secret, key.origin) if secret is not None else None)


def read_key(files: Files, path: str, origin: str) -> LogKey | None:
    """Return the log's private key, or None if it does not exist.

    Args:
        origin: the configured name, which the key must have (a `/2` may follow after an accepted loss), or "".

    Raises:
        LedgerRefused: unreadable (3), readable by others or of another log (2).
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerRefused(path, f"the log key cannot be read ({error.strerror})", 3) from error
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and os.name != "nt":
        raise LedgerRefused(path, "others can read this log key; run `chmod 600` on it, or make a new one", 2)
    data = read_small(files, os.path.realpath(path))
    try:
        key = LogKey.parse((data or b"").decode())
    except (BadKey, UnicodeDecodeError) as error:
        raise LedgerRefused(path, f"it holds no usable log key ({error}); restore it from a backup", 3) from error
    if origin and not re.fullmatch(re.escape(origin) + r"(/[0-9]+)?", key.origin):
        raise LedgerRefused(
            path, f"it is the key of {key.origin}, audit.origin says {origin}; correct one or use another log", 2
        )
    return key


def create_key(files: Files, path: str, log: str, origin: str, taken: frozenset[str]) -> LogKey:
    """Make the key of a new log and store it.

    Args:
        origin: the configured name; empty for one made from host, file and chance.
        taken: names that signed a history before; the new one differs.
    """
    if origin:
        check_origin(origin)
        number = 2
        name = origin
        while name in taken:
            name = f"{origin}/{number}"
            number += 1
    else:
        stem = os.path.basename(log).partition(".")[0]
        name = default_origin(socket.gethostname(), stem, secrets.token_hex(4))
    key = LogKey.generate(name)
    replace(files, path, key.to_text().encode() + b"\n")
    return key


def read_verifier(files: Files, path: str) -> str | None:
    """Return the vkey in a `.pub`, or None if the file does not exist."""
    data = read_small(files, path)
    return None if data is None else data.decode("utf-8", "replace").strip()
