"""The signature of the Go seed, so that its verifiers go on working: an HMAC over a few members of an exchange line.

Weaker than the line's `mac`, which covers every byte; nothing here is needed to verify a ledger.
"""

from __future__ import annotations

import re

from mcp_audit.ledger.entry import Entry
from mcp_audit.ledger.mac import Mac

__all__ = ["Sign"]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Sign:
    """Set `signature` on exchange lines; it signs params as they stand, so it comes after redaction.

    Args:
        secret: AUDIT_SECRET, not a key derived from it: that is what the seed's verifiers hold.
    """

    def __init__(self, secret: bytes) -> None:
        self._mac = Mac(secret)

    def __call__(self, entry: Entry) -> Entry:
        """Sign an exchange line; request and orphan lines have no signature."""
        if not entry.type:
            who = f"{entry.id}{_seed_time(entry.timestamp)}{entry.method}{entry.tool_name}"
            entry.signature = "hmac-sha256:" + self._mac.hexdigest(_utf8(who) + entry.params).decode()
        return entry


def _seed_time(timestamp: str) -> str:
    """Print a time as Go's RFC3339Nano does: no trailing zeros, and no fraction for a whole second."""
    head, _, fraction = timestamp[:-1].partition(".")
    fraction = fraction.rstrip("0")
    return f"{head}.{fraction}Z" if fraction else head + "Z"


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # Go reads the line's \udXXX as U+FFFD, and verifies what it read
        return _LONE_SURROGATE.sub("\ufffd", text).encode()
