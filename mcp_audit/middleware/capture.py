"""How much of a payload the record keeps: as it is, as base64, or only its size and a commitment to it.

Pure. First of the processors: it decides by size and by `audit.capture`; what a payload hides is decided later. Where
nothing is redacted it also makes payloads fit for a line, which the redactor does otherwise. Nothing here raises on
content, and no prefix of a payload is ever kept: half a JSON text cannot be redacted.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode, urlsafe_b64encode
from typing import Any, Literal

from mcp_audit.ledger.entry import Entry
from mcp_audit.middleware.strict import is_strict
from mcp_audit.wire.framing import Hasher

__all__ = ["Capture", "begin_commitment", "commitment", "elide", "end_commitment", "without_control_bytes"]

_PAYLOADS = ("params", "result", "error", "raw")
# Strings whole, and what stands between white space.
_PIECES = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^ \t\n\r"]++')


class Capture:
    """The first processor.

    Args:
        max_payload_bytes: larger payloads become a size and a commitment.
        mode: `audit.capture`; `digest` makes a size and a commitment of every payload.
        redact_key: of commitments; None without a secret, and then there are none.
        redacted: a redactor follows, which makes payloads fit for the line itself.
    """

    def __init__(
        self,
        max_payload_bytes: int,
        mode: Literal["redacted", "full", "digest"] = "redacted",
        redact_key: bytes | None = None,
        redacted: bool = True,
    ) -> None:
        self._limit = max_payload_bytes
        self._digest = mode == "digest"
        self._verbatim = not redacted
        self._key = redact_key

    def __call__(self, entry: Entry) -> Entry:
        """Cut an entry down to what may be kept."""
        limit = self._limit
        if self._digest or self._verbatim:
            for name in _PAYLOADS:
                if payload := getattr(entry, name):
                    self._keep(entry, name, payload)
        elif (
            len(entry.params) > limit or len(entry.result) > limit or len(entry.error) > limit or len(entry.raw) > limit
        ):
            for name in _PAYLOADS:
                if len(getattr(entry, name)) > limit:
                    elide(entry, name, "size", self._key)
        return entry

    def _keep(self, entry: Entry, name: str, payload: bytes) -> None:
        if len(payload) > self._limit:
            elide(entry, name, "size", self._key)
        elif self._digest:
            elide(entry, name, "capture", self._key)
        elif name == "raw":
            entry.raw, entry.raw_b64 = b"", b64encode(payload).decode()
        elif is_strict(payload):
            setattr(entry, name, without_control_bytes(payload))
        elif name == "error":
            elide(entry, name, "unredactable", self._key)
        else:
            setattr(entry, name, b"")
            setattr(entry, name + "_b64", b64encode(payload).decode())


def elide(entry: Entry, name: str, why: str, redact_key: bytes | None) -> None:
    """Replace a payload of an entry by its size and, given a key, a commitment to its bytes."""
    payload: bytes = getattr(entry, name)
    pointer = "/" + name
    element: dict[str, Any] = {"p": pointer, "bytes": len(payload), "why": why}
    if redact_key is not None:
        element["c"] = commitment(redact_key, entry.id, pointer, payload)
    entry.elided = [*entry.elided, element]
    setattr(entry, name, b"")


def begin_commitment(redact_key: bytes, id_: str, pointer: str) -> Hasher:
    """Start a commitment to a value that is hashed while it streams: update it with the value, then end it.

    The salt can be derived again by whoever has the secret, and no other, so that a short value cannot be guessed.
    """
    salt = hmac.digest(redact_key, f"{id_}\0{pointer}".encode(), "sha256")[:16]
    return hashlib.sha256(b"mcp-audit/v1 redact\0" + salt)


def end_commitment(hashed: Hasher) -> str:
    """Return a finished commitment as the ledger writes it."""
    return urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode()


def commitment(redact_key: bytes, id_: str, pointer: str, value: bytes) -> str:
    """Return the commitment to a value: the raw JSON bytes at `pointer` of the line `id_`."""
    hashed = begin_commitment(redact_key, id_, pointer)
    hashed.update(value)
    return end_commitment(hashed)


def without_control_bytes(text: bytes) -> bytes:
    """Return strict JSON as a line can hold it: if any byte is below 0x20, without white space outside strings."""
    if b"\n" in text or b"\r" in text or b"\t" in text:
        return b"".join(_PIECES.findall(text))
    return text
