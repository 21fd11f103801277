"""The bytes of our own JSON-RPC errors: the only messages the proxy ever authors.

Pure. Each error names its author in `data.source` and copies the id of what it answers byte for byte, so that nobody
takes it for the server's and every client can pair it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from mcp_audit.wire.model import Era

__all__ = ["REFUSALS", "SOURCE", "Refusal", "error_object", "error_response"]

SOURCE = "mcp-audit"


class Refusal(NamedTuple):
    """One kind of error: its text and its code in each era (MCP 2026-07-28 reserves -32020 to -32099 for itself)."""

    message: str
    legacy: int
    modern: int

    def code(self, era: Era) -> int:
        """Return the code for an answer to a message of `era`."""
        return self.modern if era is Era.MODERN else self.legacy


REFUSALS: Mapping[str, Refusal] = {
    "rate_limited": Refusal("rate limited", -32029, -31029),
    "policy_denied": Refusal("policy denied", -32030, -31030),
    "audit_unavailable": Refusal("audit unavailable", -32031, -31031),
    "upstream_unavailable": Refusal("upstream unavailable", -32032, -31032),
    "upstream_timeout": Refusal("upstream timed out", -32032, -31032),
    "ambiguous_message": Refusal("ambiguous message", -32600, -32600),
    "message_too_large": Refusal("message too large", -32600, -32600),
    "batch_rejected": Refusal("batch rejected", -32600, -32600),
    "origin_rejected": Refusal("origin rejected", -32600, -32600),
    "header_mismatch": Refusal("header mismatch", -32020, -32020),
}


def error_object(kind: str, era: Era, entry_id: str | None, data: Mapping[str, object]) -> bytes:
    """Return the `error` member: code, message, and `data` with its author, kind and ledger entry in front.

    Args:
        kind: a key of `REFUSALS`.
        entry_id: of the ledger line that tells the story; None where the ledger could take none.
        data: what else `error.data` says, such as `reason`.
    """
    refusal = REFUSALS[kind]
    told: dict[str, object] = {"source": SOURCE, "kind": kind}
    if entry_id is not None:
        told["entry_id"] = entry_id
    told.update(data)
    # ASCII: a U+2028 in a reason would break clients that split lines there, and a lone surrogate has no UTF-8.
    return json.dumps(
        {"code": refusal.code(era), "message": refusal.message, "data": told}, separators=(",", ":"), allow_nan=False
    ).encode()


def error_response(id_token: bytes, kind: str, era: Era, entry_id: str | None, data: Mapping[str, object]) -> bytes:
    """Return a whole error response without terminator.

    Args:
        id_token: the id as its message spelled it, or `null`; empty for an error that answers no request.
    """
    id_member = b'"id":%b,' % id_token if id_token else b""
    return b'{"jsonrpc":"2.0",%b"error":%b}' % (id_member, error_object(kind, era, entry_id, data))
