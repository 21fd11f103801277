"""Bytes in, `Payload` out: what one line, body or event says.

Pure. What every JSON reader understands alike is decoded; what some read differently is marked, not guessed at, and no
content makes `parse` raise. This module is the fast path for messages as nearly all are, `wire.careful` the rest.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from mcp_audit.wire.ambiguity import argument_marks, nests_too_deep, unsafe_text, variants
from mcp_audit.wire.careful import MAX_SAFE_INTEGER, PARAMS, TARGETS, parse_carefully, read_meta, read_text, slices
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.model import Direction, Era, Id, Kind, Message, Payload, parse_id
from mcp_audit.wire.strict_json import MAX_DEPTH

__all__ = ["Direction", "Era", "Id", "Kind", "Message", "Payload", "parse", "parse_id"]

# Names of MCP that are like no reserved one; asking a set is faster than folding each.
_PARAMS_KNOWN = PARAMS | {
    "capabilities", "clientInfo", "cursor", "data", "inputResponses", "level", "logger", "message", "progress",
    "progressToken", "protocolVersion", "reason", "requestId", "requestState", "total",
}  # fmt: skip
_ABSENT = Raw(b"")
_SHALLOW = 2 * MAX_DEPTH  # bytes; a shorter text has not brackets enough to be too deep
_REQUEST, _NOTIFICATION, _RESPONSE = (
    Kind.REQUEST,
    Kind.NOTIFICATION,
    Kind.RESPONSE,
)  # members of an enum are slow to find


class _Envelope(Struct, gc=False):
    """A message as nearly all are, decoded in one pass over the text."""

    jsonrpc: str | UnsetType = UNSET
    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: dict[str, Raw] | UnsetType = UNSET
    result: dict[str, Raw] | UnsetType = UNSET
    error: Raw = _ABSENT


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def parse(raw: bytes, direction: Direction, line: bool = True, deep_arguments: bool = False) -> Payload:
    """Say what one transport unit holds.

    Args:
        raw: the unit as received.
        line: a line of a stdio stream, terminator (LF or CRLF) included; else an HTTP body or the data of an SSE event.
        deep_arguments: look for ambiguity everywhere below `params.arguments`, because a gate reads there.
    """
    text = raw
    if not line:
        text = raw.rstrip(b" \t\r\n")  # many encoders end a body with a newline, which is not part of the message
    elif raw and raw[-1] == 10:
        text = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
    # All that the common case needs is done here; a message it cannot vouch for takes the careful way below.
    if (not line or 13 not in text) and (text.isascii() or _is_utf8(text)):
        message = _plain(text, direction, deep_arguments)
        if message is not None:
            return Payload(raw, (message,))
    return parse_carefully(raw, text, direction, line, deep_arguments)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(text: bytes, direction: Direction, deep_arguments: bool) -> Message | None:
    """Return the message if it is compact JSON of the usual members and free of ambiguity, else None.

    `size` is what the decoded members take up in compact JSON. White space, an escaped or repeated name, an unknown
    member, an escape in a string or a `-0` would each make the text longer, so equal lengths prove that there is none,
    down to the members of `params`. Then all members beside `params` or `result` are scalars, so that the first place
    that looks like its name is its name.
    """
    try:
        envelope = _decode_envelope(text)
    except UNDECODABLE:
        return None
    size = 1
    id_ = None
    key = envelope.id
    if isinstance(key, int):
        if not -MAX_SAFE_INTEGER <= key <= MAX_SAFE_INTEGER:
            return None
        text_of_id = str(key)
        token = text_of_id.encode()
        id_ = Id(key, token, text_of_id)
        size += len(token) + 6
    elif isinstance(key, str):
        if not key.isascii() or unsafe_text(key):
            return None
        id_ = Id(key, b'"%b"' % key.encode(), key)
        size += len(key) + 8
    if envelope.jsonrpc is not UNSET:
        size += len(envelope.jsonrpc) + 13
    method = envelope.method
    if method is UNSET:
        return _plain_response(text, direction, id_, envelope, size)
    if envelope.result is not UNSET or envelope.error or (len(text) > _SHALLOW and nests_too_deep(text)):
        return None
    size += len(method) + 12
    kind = _NOTIFICATION if id_ is None else _REQUEST
    params = envelope.params
    if params is UNSET:
        if size != len(text) or method == "tools/call" or unsafe_text(method):
            return None
        return Message(text, direction, kind, id_, method)
    params_size = 1 if params else 2
    for name, value in params.items():
        params_size += len(name) + len(value) + 4
    if size + params_size + 10 != len(text):
        return None
    if not _PARAMS_KNOWN.issuperset(params) and variants(params, PARAMS):
        return None
    target = None
    if method not in TARGETS:
        if unsafe_text(method):
            return None
    else:
        target = read_text(params.get(TARGETS[method]))
        if not target.isprintable() and unsafe_text(target) if target is not None else method == "tools/call":
            return None
    if deep_arguments and "arguments" in params and argument_marks(bytes(params["arguments"])):
        return None
    meta = {}
    if "_meta" in params:
        members = read_meta(params)
        if members.repeated:
            return None
        meta = slices(members)
    start = text.index(b'"params":') + 9
    return Message(text, direction, kind, id_, method, target, (), text[start : start + params_size], b"", b"", meta)


def _plain_response(
    text: bytes, direction: Direction, id_: Id | None, envelope: _Envelope, size: int
) -> Message | None:
    """Finish what `_plain` began for a message without a method."""
    result, error = envelope.result, envelope.error
    if envelope.params is not UNSET or (len(text) > _SHALLOW and nests_too_deep(text)):
        return None
    if result is UNSET:
        if not error or size + len(error) + 9 != len(text):
            return None
        return Message(text, direction, _RESPONSE, id_, error=bytes(error))
    result_size = _compact_size(result)
    if error or size + result_size + 10 != len(text):
        return None
    meta = {}
    if "_meta" in result:
        members = read_meta(result)
        if members.repeated:
            return None
        meta = slices(members)
    start = text.index(b'"result":') + 9
    return Message(text, direction, _RESPONSE, id_, None, None, (), b"", text[start : start + result_size], b"", meta)


def _compact_size(members: dict[str, Raw]) -> int:
    size = 1 if members else 2
    for name, value in members.items():
        size += len(name) + len(value) + 4
    return size
