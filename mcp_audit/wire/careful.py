"""The careful way to read a unit: any bytes at all, every oddity marked, the fields read as well as can be.

Pure, and it never raises on content. `wire.message` comes here with what its fast path cannot vouch for, so clarity
goes before speed; but no step is worse than linear, for hostile texts end up here.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.ambiguity import argument_marks, in_order, nests_too_deep, text_marks, unsafe_text, variants
from mcp_audit.wire.members import UNDECODABLE, Members, last_values, read_elements, read_members
from mcp_audit.wire.model import Direction, Id, Kind, Message, Payload, parse_id
from mcp_audit.wire.strict_json import decode_string

__all__ = ["MAX_SAFE_INTEGER", "PARAMS", "TARGETS", "parse_carefully", "read_meta", "read_text", "slices"]

_ENVELOPE = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))
PARAMS = frozenset(("name", "uri", "arguments", "_meta"))
"""The members of `params` that gates and servers act on."""

TARGETS = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "notifications/resources/updated": "uri",
}
"""Which member of `params` names what a method acts on."""

MAX_SAFE_INTEGER = 2**53 - 1
_NOTHING = Members({})
_decode_text = msgspec.json.Decoder(str).decode


def parse_carefully(raw: bytes, text: bytes, direction: Direction, line: bool, deep_arguments: bool) -> Payload:
    """Return the payload of a unit `raw`, which is `text` and perhaps a terminator."""
    if not text.strip(b" \t\r\n"):
        return Payload(raw, ())
    marks = text_marks(text, line)
    # Some readers skip a byte order mark, so what stands behind it is what they would act on.
    body = text.removeprefix(b"\xef\xbb\xbf")
    if nests_too_deep(body):
        marks.add("too_deep")
    try:
        if not body.lstrip(b" \t\r\n").startswith(b"["):
            return Payload(raw, (_object(text, read_members(body), direction, marks, deep_arguments),))
        elements, odd = read_elements(body)
    except NotStrictJson as error:
        marks.add(error.slug)
        if error.slug == "not_json":
            marks.discard("too_deep")  # the brackets of what is not JSON were counted, which says nothing
        return Payload(raw, (Message(text, direction, Kind.OPAQUE, marks=in_order(marks)),))
    marks |= odd
    if not elements:
        return Payload(raw, (Message(text, direction, Kind.OPAQUE, marks=in_order(marks | {"shape"})),))
    return Payload(raw, tuple(_element(e, direction, marks, deep_arguments) for e in elements), True)


def _element(text: bytes, direction: Direction, marks: set[str], deep_arguments: bool) -> Message:
    """Return one message of a batch; `marks` are those of the batch as a whole."""
    try:
        members = read_members(text)
    except NotStrictJson:
        return Message(text, direction, Kind.OPAQUE, marks=in_order(marks | {"shape"}))
    return _object(text, members, direction, marks, deep_arguments)


def _object(raw: bytes, members: Members, direction: Direction, marks: set[str], deep_arguments: bool) -> Message:
    """Return the message that an object is, its oddities marked and its fields read as well as can be."""
    found = marks | _name_marks(members, _ENVELOPE)
    values = members.values
    method = read_text(values.get("method"))
    if ("method" in values) + ("result" in values) + ("error" in values) > 1:
        found.add("shape")
    if method is None and "method" in values:
        found.add("shape")
    if method is not None and unsafe_text(method):
        found.add("bad_text")
    target, meta = None, _NOTHING
    if "params" in values or method == "tools/call":
        target, meta = _read_params(method, values.get("params", b"null"), found, deep_arguments)
    elif "result" in values:
        meta = _result_meta(values["result"], found)
    id_ = _read_id(members, found)
    return Message(
        raw,
        direction,
        _kind(method, values),
        id_,
        method,
        target,
        in_order(found),
        bytes(values.get("params", b"")),
        bytes(values.get("result", b"")),
        bytes(values.get("error", b"")),
        slices(meta),
    )


def _kind(method: str | None, values: Mapping[str, bytes | Raw]) -> Kind:
    if method is not None:
        return Kind.REQUEST if "id" in values else Kind.NOTIFICATION
    return Kind.RESPONSE if "result" in values or "error" in values else Kind.OPAQUE


def _read_id(members: Members, found: set[str]) -> Id | None:
    """Return the id to answer with: one that occurs once and is plainly spelled."""
    token = members.values.get("id")
    if token is None:
        return None
    id_ = parse_id(bytes(token))
    found.update(("shape",) if id_ is None else id_marks(id_))
    return None if "id" in members.repeated or "id" in members.escaped else id_


def _read_params(
    method: str | None, token: bytes | Raw, found: set[str], deep_arguments: bool
) -> tuple[str | None, Members]:
    """Return target and `_meta`; add to `found` what is odd about them."""
    try:
        params = read_members(token)
    except NotStrictJson:
        if bytes(token) != b"null" or method == "tools/call":
            found.add("shape")
        return None, _NOTHING
    found |= _name_marks(params, PARAMS)
    member = TARGETS.get(method or "")
    target = read_text(params.values.get(member)) if member is not None else None
    if target is None and method == "tools/call":
        found.add("shape")
    if target is not None and unsafe_text(target):
        found.add("bad_text")
    if deep_arguments and "arguments" in params.values:
        found |= argument_marks(bytes(params.values["arguments"]))
    meta = read_meta(params.values)
    if meta.repeated:
        found.add("duplicate_key")
    return target, meta


def _result_meta(token: bytes | Raw, found: set[str]) -> Members:
    try:
        meta = read_meta(last_values(token))
    except NotStrictJson:
        return _NOTHING
    if meta.repeated:
        found.add("duplicate_key")
    return meta


def _name_marks(members: Members, reserved: frozenset[str]) -> set[str]:
    """Return what is odd about the names of an object whose `reserved` members carry the meaning."""
    found = set(members.marks)
    if members.repeated:
        found.add("duplicate_key")
    if variants(members.values, reserved):
        found.add("case_variant_key")
    if not reserved.isdisjoint(members.escaped):
        found.add("escaped_key")
    if any("\0" in name for name in members.escaped):  # a reader in C may take `method\0` for `method`
        found.add("bad_text")
    return found


def read_text(token: bytes | Raw | None) -> str | None:
    """Return the text of a string token, None for any other; what is not UTF-8 is substituted."""
    if token is None:
        return None
    try:
        return _decode_text(token)
    except UNDECODABLE:
        token = bytes(token)
        return decode_string(token.decode(errors="replace").encode()) if token.startswith(b'"') else None


def id_marks(id_: Id) -> tuple[str, ...]:
    """Return why an id may not come back as it was sent."""
    key = id_.key
    if isinstance(key, str):
        return ("bad_text",) if unsafe_text(key) else ()
    return () if key is None or -MAX_SAFE_INTEGER <= key <= MAX_SAFE_INTEGER else ("number_range",)


def read_meta(members: Mapping[str, bytes | Raw]) -> Members:
    """Read the `_meta` of params or of a result; one that is no object has no members."""
    token = members.get("_meta")
    if token is None:
        return _NOTHING
    try:
        return read_members(token)
    except NotStrictJson:
        return _NOTHING


def slices(members: Members) -> dict[str, bytes]:
    """Return the members as a message keeps them."""
    return {name: bytes(value) for name, value in members.values.items()}
