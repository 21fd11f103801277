"""One line of the ledger before it is sealed: its members, their order, and its exact bytes.

Pure, standard library only: an auditor imports this without the proxy. Nothing here decides what is hidden;
the payload slices of an `Entry` go into the line as they stand, so they must be strict JSON without raw
bytes below 0x20 by the time `encode` is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, NamedTuple

__all__ = ["Entry", "Unsealed", "encode", "encode_typed", "json_bytes"]


class Unsealed(NamedTuple):
    """A line that has no place yet: the object without its closing brace, and the seq of the line it closes."""

    body: bytes
    of: int | None = None


@dataclass(slots=True)
class Entry:
    """One exchange, or one request before it is forwarded (`type` "request"), or one nobody answered ("orphan").

    Payloads (`params`, `result`, `error`, `raw`) are slices of the message as relayed, empty when absent; `raw` is a
    whole message that is not JSON-RPC and is stored only through `raw_b64`. Strings are empty and containers None
    when absent, and are then left out of the line, but for those the format always writes.
    """

    id: str
    timestamp: str
    direction: str
    transport: str
    method: str
    type: str = ""
    request_id: str | None = None
    tool_name: str = ""
    params: bytes = b""
    result: bytes = b""
    error: bytes = b""
    raw: bytes = b""
    duration_ms: int = 0
    client_id: str = ""
    server_id: str = ""
    outcome: str = ""
    why: str = ""
    policy: Mapping[str, Any] | None = None
    era: str = ""
    protocol_version: str = ""
    session: str = ""
    trace: Mapping[str, str] | None = None
    http: Mapping[str, Any] | None = None
    continues: str = ""
    credential: Mapping[str, Any] | None = None
    definition: str = ""
    marks: list[str] = field(default_factory=list)
    rewrites: list[str] = field(default_factory=list)
    redacted: list[dict[str, str]] = field(default_factory=list)
    elided: list[dict[str, Any]] = field(default_factory=list)
    params_b64: str = ""
    result_b64: str = ""
    raw_b64: str = ""
    signature: str = ""
    of: int | None = None


def json_bytes(value: Any) -> bytes:
    """Encode as the ledger does: no spaces, only what JSON demands is escaped, lone surrogates as `\\udXXX`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "backslashreplace")


def _string(value: str) -> bytes:
    return encode_basestring(value).encode("utf-8", "backslashreplace")


def encode(entry: Entry) -> Unsealed:
    """Return the unsealed line of an entry. Members and their order: docs/reference/ledger.md."""
    before_exchange = entry.type in ("request", "orphan")
    parts: list[bytes] = [b'{"type":"%s",' % entry.type.encode()] if before_exchange else [b"{"]
    add = parts.append
    add(b'"id":"%s","timestamp":"%s"' % (entry.id.encode(), entry.timestamp.encode()))
    if entry.type == "orphan":
        add(b',"outcome":%s,"why":%s' % (_string(entry.outcome), _string(entry.why)))
        if entry.of is not None:
            return Unsealed(b"".join(parts), entry.of)
    add(
        b',"direction":"%s","transport":"%s","method":%s'
        % (entry.direction.encode(), entry.transport.encode(), _string(entry.method))
    )
    if entry.request_id is not None:
        add(b',"request_id":' + _string(entry.request_id))
    if entry.tool_name:
        add(b',"tool_name":' + _string(entry.tool_name))
    if entry.params:
        add(b',"params":' + entry.params)
    if not before_exchange:
        if entry.result:
            add(b',"result":' + entry.result)
        if entry.error:
            add(b',"error":' + entry.error)
        add(b',"duration_ms":%d' % entry.duration_ms)
    add(b',"client_id":%s,"server_id":%s' % (_string(entry.client_id), _string(entry.server_id)))
    if not before_exchange:
        add(b',"outcome":"%s"' % entry.outcome.encode())
    _add_context(entry, parts, before_exchange)
    if not before_exchange:
        if entry.result_b64:
            add(b',"result_b64":"%s"' % entry.result_b64.encode())
        if entry.raw_b64:
            add(b',"raw_b64":"%s"' % entry.raw_b64.encode())
        if entry.signature:
            add(b',"signature":"%s"' % entry.signature.encode())
    return Unsealed(b"".join(parts), entry.of)


def _add_context(entry: Entry, parts: list[bytes], before_exchange: bool) -> None:
    """Add `policy` to `params_b64`, which request and exchange lines share."""
    add = parts.append
    if entry.policy:
        add(b',"policy":' + json_bytes(entry.policy))
    if entry.era:
        add(b',"era":"%s"' % entry.era.encode())
    if entry.protocol_version:
        add(b',"protocol_version":' + _string(entry.protocol_version))
    if entry.session:
        add(b',"session":' + _string(entry.session))
    if entry.trace:
        add(b',"trace":' + json_bytes(entry.trace))
    if entry.http and not before_exchange:
        add(b',"http":' + json_bytes(entry.http))
    if entry.continues:
        add(b',"continues":' + _string(entry.continues))
    if entry.credential:
        add(b',"credential":' + json_bytes(entry.credential))
    if entry.definition:
        add(b',"definition":' + _string(entry.definition))
    if entry.marks:
        add(b',"marks":' + json_bytes(entry.marks))
    if entry.rewrites:
        add(b',"rewrites":' + json_bytes(entry.rewrites))
    if entry.redacted:
        add(b',"redacted":' + json_bytes(entry.redacted))
    if entry.elided:
        add(b',"elided":' + json_bytes(entry.elided))
    if entry.params_b64:
        add(b',"params_b64":"%s"' % entry.params_b64.encode())


def encode_typed(type_: str, id_: str, timestamp: str, members: Mapping[str, Any], of: int | None = None) -> Unsealed:
    """Return the unsealed line of any other type, such as `open`; absent (None) members are left out."""
    line = {"type": type_, "id": id_, "timestamp": timestamp}
    line.update({name: value for name, value in members.items() if value is not None})
    return Unsealed(json_bytes(line)[:-1], of)
