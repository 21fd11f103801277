"""AUDIT_SECRET and what a log derives from it: keys for MACs, commitments and session pseudonyms.

Promise: every derived key is tied to one purpose and one origin, and nothing here prints a secret.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcp_audit.errors import LedgerError

__all__ = [
    "MIN_SECRET_BYTES",
    "BadKey",
    "Secrets",
    "check_secret",
    "derive",
    "key_id_of",
    "mac_key",
    "read_secret",
    "session_key",
]

MIN_SECRET_BYTES = 32


class BadKey(LedgerError, ValueError):
    """A secret, a key or the name of a log is not usable; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What one log derives from AUDIT_SECRET; its repr shows the public `key_id` only.

    Attributes:
        secret: AUDIT_SECRET itself, for the seed-compatible `signature`.
        mac: key of every line's `mac`.
        redact: key of the salts of commitments.
        session: key that turns session ids into pseudonyms.
        key_id: 8 hex digits that name `mac` in `open` lines.
    """

    secret: bytes = field(repr=False)
    mac: bytes = field(repr=False)
    redact: bytes = field(repr=False)
    session: bytes = field(repr=False)
    key_id: str


def check_secret(secret: bytes) -> bytes:
    """Return `secret`, or refuse one that can be guessed.

    Raises:
        BadKey: it has fewer than `MIN_SECRET_BYTES` bytes.
    """
    if len(secret) < MIN_SECRET_BYTES:
        raise BadKey(
            f"AUDIT_SECRET has {len(secret)} bytes and needs at least {MIN_SECRET_BYTES}; "
            "make one with `mcp-audit keygen --secret FILE` and set AUDIT_SECRET_FILE"
        )
    return secret


def derive(secret: bytes, origin: str) -> Secrets:
    """Return the keys of the log `origin`.

    Raises:
        BadKey: the secret is too short.
    """
    check_secret(secret)
    mac = mac_key(secret, origin)
    return Secrets(
        secret=secret,
        mac=mac,
        redact=_labelled(secret, b"mcp-audit/v1 redact", origin),
        session=_labelled(secret, b"mcp-audit/v1 session", origin),
        key_id=key_id_of(mac),
    )


def mac_key(secret: bytes, origin: str) -> bytes:
    """Return the key of the MACs in the log `origin`."""
    return _labelled(secret, b"mcp-audit/v1 mac", origin)


def key_id_of(mac: bytes) -> str:
    """Return the public name of a MAC key: 8 hex digits."""
    return hashlib.sha256(b"mcp-audit/v1 kid\x00" + mac).hexdigest()[:8]


def session_key(secret: bytes | None, origin: str) -> bytes:
    """Return the key of session pseudonyms. Without a secret it is public: they are then stable, not private."""
    if secret is None:
        return hashlib.sha256(b"mcp-audit/v1 session\x00" + origin.encode()).digest()
    return _labelled(secret, b"mcp-audit/v1 session", origin)


def read_secret(environ: Mapping[str, str]) -> bytes | None:
    """Return AUDIT_SECRET, or what AUDIT_SECRET_FILE holds less one final LF, or None when neither is set.

    Raises:
        BadKey: both are set, the file cannot be read, or the secret is too short.
    """
    value, path = environ.get("AUDIT_SECRET"), environ.get("AUDIT_SECRET_FILE")
    if value is not None and path is not None:
        raise BadKey("AUDIT_SECRET and AUDIT_SECRET_FILE are both set; unset one of them")
    if value is not None:
        return check_secret(value.encode("utf-8", "surrogateescape"))
    if path is None:
        return None
    try:
        return check_secret(Path(path).read_bytes().removesuffix(b"\n"))
    except OSError as error:
        raise BadKey(f"AUDIT_SECRET_FILE {path}: {error.strerror}; name a readable file") from error


def _labelled(secret: bytes, label: bytes, origin: str) -> bytes:
    return hmac.digest(secret, label + b"\x00" + origin.encode(), "sha256")
