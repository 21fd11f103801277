"""An exchange in, the `Entry` that tells of it out: what the processors then shape and the ledger keeps.

Pure: callers pass id and timestamp. Payloads are the slices of the messages as received; nothing is hidden or checked
here, and nothing raises on content.
"""

from __future__ import annotations

import re
from typing import Any

from mcp_audit.ledger.entry import Entry
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.message import Kind

__all__ = ["closing_entry", "orphan_entry", "request_entry", "without_payloads"]

_PAYLOADS = ("params", "result", "error", "raw")
_VERDICT = ("action", "rule_index", "reason", "gate")
# W3C Trace Context: version, trace id, parent span id, flags, as a JSON string.
_TRACEPARENT = re.compile(rb'"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-[^"]*)?"')


def request_entry(exchange: Exchange, id_: str, timestamp: str, transport: str) -> Entry:
    """Return the line that is written before a request is forwarded."""
    entry = _entry(exchange, id_, timestamp, transport)
    entry.type = "request"
    return entry


def closing_entry(exchange: Exchange, id_: str, timestamp: str, transport: str) -> Entry:
    """Return the line of a finished exchange; `id_` is the exchange's own, which errors of ours have named."""
    entry = _entry(exchange, id_, timestamp, transport)
    entry.outcome = exchange.outcome.value
    entry.duration_ms = int((exchange.ended - exchange.started) * 1000)
    entry.error = exchange.error
    entry.of = exchange.seq
    response = exchange.response
    if response is not None:
        entry.result = response.result
        entry.error = exchange.error or response.error
    if exchange.oversized:
        large: dict[str, Any] = {"p": "/raw", "bytes": exchange.oversized, "why": "size"}
        entry.elided = [large | {"c": exchange.commitment} if exchange.commitment else large]
    return entry


def orphan_entry(exchange: Exchange, id_: str, timestamp: str, transport: str, why: str) -> Entry:
    """Return the line of a request that nobody answered; `why` says what kept the answer from coming."""
    entry = _entry(exchange, id_, timestamp, transport)
    entry.type, entry.why, entry.of = "orphan", why, exchange.seq
    entry.outcome = exchange.outcome.value
    return entry


def without_payloads(entry: Entry) -> Entry:
    """Strip an entry that no processor has seen, or one has failed on, of all that might have had to be hidden."""
    for name in _PAYLOADS:
        if size := len(getattr(entry, name)):
            entry.elided = [*entry.elided, {"p": f"/{name}", "bytes": size, "why": "unredactable"}]
            setattr(entry, name, b"")
    if entry.policy:  # what a gate of somebody else's adds to its verdict may be what cannot be written
        entry.policy = {name: entry.policy[name] for name in _VERDICT if name in entry.policy}
    return entry


def _entry(exchange: Exchange, id_: str, timestamp: str, transport: str) -> Entry:
    """Build what request, exchange and orphan lines share."""
    request = exchange.request
    message = request or exchange.response
    entry = Entry(id_, timestamp, exchange.direction.value, transport, "")
    if request is not None and (exchange.outcome is Outcome.OPAQUE or request.kind is Kind.OPAQUE):
        entry.raw = request.raw
    elif message is not None:
        if message.id is not None and message.id.key is not None:
            entry.request_id = message.id.text
        if request is not None:
            method = entry.method = request.method or ""
            entry.params = request.params
            if method == "tools/call":
                entry.tool_name = request.target or ""
            if "traceparent" in request.meta:
                entry.trace = _trace(request.meta["traceparent"])
    entry.client_id, entry.server_id = exchange.client_id, exchange.server_id
    entry.era, entry.protocol_version = exchange.era.value, exchange.version
    entry.session = exchange.session
    if exchange.status:
        entry.http = {"status": exchange.status}
    entry.continues = exchange.continues
    entry.marks = list(exchange.marks)
    entry.rewrites = list(exchange.rewrites)
    if exchange.verdict.recorded:
        entry.policy = _policy(exchange)
    return entry


def _policy(exchange: Exchange) -> dict[str, Any]:
    verdict = exchange.verdict
    said: dict[str, Any] = {"action": "allow" if verdict.allowed else "deny", "rule_index": verdict.rule}
    if verdict.reason:
        said["reason"] = verdict.reason
    if verdict.gate and verdict.gate != "policy":
        said["gate"] = verdict.gate
    return said | verdict.extra


def _trace(token: bytes) -> dict[str, str] | None:
    found = _TRACEPARENT.fullmatch(token)
    return {"trace_id": found[1].decode(), "span_id": found[2].decode()} if found else None
