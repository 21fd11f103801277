"""What the required headers of a modern request say against what its body says.

Pure. Gates decide on the body alone; this only tells that a router which reads headers would have seen another message.
`Mcp-Param-*` is never judged, for that takes the tool's schema. MCP revision 2026-07-28, transports, standard headers.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable

from mcp_audit.wire.careful import read_text
from mcp_audit.wire.model import Kind, Message
from mcp_audit.wire.peers import PROTOCOL_VERSION

__all__ = ["header_mismatch"]

_VERSION, _METHOD, _NAME = b"mcp-protocol-version", b"mcp-method", b"mcp-name"
_SPELLED = {_VERSION: "MCP-Protocol-Version", _METHOD: "Mcp-Method", _NAME: "Mcp-Name"}
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_OPENING, _CLOSING = b"=?base64?", b"?="
_PLAIN = re.compile(rb"[\t\x20-\x7e]*")


def header_mismatch(headers: Iterable[tuple[bytes, bytes]], message: Message) -> str | None:
    """Return how the headers of a POST disagree with the message in its body, None if they do not.

    Only a modern message is compared, that is one whose `_meta` has a protocol version that is a string. A
    notification may come without these headers, as servers take it so; what it has must agree.

    Returns:
        A few words that name the header and quote nothing of the peer's.
    """
    if message.method is None or message.kind not in (Kind.REQUEST, Kind.NOTIFICATION):
        return None
    version = read_text(message.meta.get(PROTOCOL_VERSION))
    if version is None:
        return None
    found: dict[bytes, list[bytes]] = {_VERSION: [], _METHOD: [], _NAME: []}
    for name, value in headers:
        if (values := found.get(name.lower())) is not None:
            values.append(value)
    required = message.kind is Kind.REQUEST
    return (
        _differs(_VERSION, found[_VERSION], version, "_meta", required)
        or _differs(_METHOD, found[_METHOD], message.method, "method", required)
        or _name_differs(found[_NAME], message, required)
    )


def _name_differs(values: list[bytes], message: Message, required: bool) -> str | None:
    member = _NAMED_BY.get(message.method or "")
    if member is None:
        return None
    # Without a name in the body there is nothing to repeat, and a router would act on what a header makes up.
    return _differs(_NAME, values, message.target, f"params.{member}", required and message.target is not None)


def _differs(name: bytes, values: list[bytes], expected: str | None, place: str, required: bool) -> str | None:
    """Compare the values of one header with what the body says at a place."""
    spelled = _SPELLED[name]
    if not values:
        return f"{spelled} is missing" if required else None
    if len(values) > 1:
        return f"{spelled} is there {len(values)} times"
    text = _decoded(values[0].strip(b" \t"))
    if text is None:
        return f"{spelled} is malformed"
    return None if text == expected else f"{spelled} is not what {place} of the body says"


def _decoded(value: bytes) -> str | None:
    """Return the text of a header value, None if it is malformed: not ASCII, or base64 as no encoder writes it."""
    if not value.startswith(_OPENING) or not value.endswith(_CLOSING):
        return value.decode("ascii") if _PLAIN.fullmatch(value) else None
    payload = value[len(_OPENING) : -len(_CLOSING)]
    if len(value) < len(_OPENING) + len(_CLOSING):
        return None  # `=?base64?=`: some take it for an empty payload, some for plain text
    try:
        decoded = b64decode(payload, validate=True)
        return decoded.decode() if b64encode(decoded) == payload else None
    except ValueError:  # of base64 and of UTF-8 alike
        return None
