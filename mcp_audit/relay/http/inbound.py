"""The body of a request: read whole, then understood as far as it is a message.

What is forwarded are the bytes received; what is decoded or parsed here is a copy.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from msgspec.structs import replace

from mcp_audit.relay.http.headers import Headers, value_of, values_of
from mcp_audit.wire.encodings import decode_whole, is_utf8
from mcp_audit.wire.framing import Bounded, Hasher, Line
from mcp_audit.wire.header_check import header_mismatch
from mcp_audit.wire.message import Direction, Kind, Message, Payload, parse

__all__ = ["ClientGone", "Receive", "read_body", "understand"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_FORM = b"application/x-www-form-urlencoded"
# What its serializer writes (WHATWG URL), and what some clients leave as it is; no brace, bracket, quote or line end.
_FORM_TEXT = re.compile(rb"[A-Za-z0-9*._+%&=~!$'(),;:@/?-]*+")
_SPACE = b" \t\r\n"


class ClientGone(Exception):
    """The client has closed its connection."""


async def read_body(receive: Receive, max_bytes: int, new_hash: Callable[[], Hasher]) -> Line:
    """Return the body of a request; of one that is too long, what is known once it is: who is told no stops uploading.

    Raises:
        ClientGone: it did not arrive whole.
    """
    body = Bounded(max_bytes, new_hash)
    more = True
    while more and not body.exceeded:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ClientGone
        if piece := event.get("body", b""):
            body.add(piece)
        more = event.get("more_body", False)
    return body.end()


def understand(body: bytes, headers: Headers, max_bytes: int) -> Payload:
    """Return what a body says; one without content, and one that is no message, has no messages.

    Args:
        max_bytes: of a body that is compressed, when decoded.
    """
    if not body.strip(_SPACE):
        return Payload(body, ())
    encoding = value_of(headers, b"content-encoding")
    text = body
    if encoding is not None:
        decoded = decode_whole(encoding, body, max_bytes)
        if decoded is None:
            return _opaque(body, "unknown_encoding")
        text = decoded
    content_types = values_of(headers, b"content-type")
    if len(content_types) > 1 or not is_utf8(*content_types or (None,)):
        return _opaque(body, "unknown_encoding")
    if content_types and content_types[0].partition(b";")[0].strip().lower() == _FORM and _FORM_TEXT.fullmatch(text):
        return _opaque(body)  # OAuth's: nothing that any parser could take for a message
    payload = parse(text, Direction.TO_SERVER, line=False)
    messages = [_checked(message, headers) for message in payload.messages]
    return Payload(body, tuple(messages), payload.batch)


def _checked(message: Message, headers: Headers) -> Message:
    if header_mismatch(headers, message) is None:
        return message
    return replace(message, marks=(*message.marks, "header_mismatch"))


def _opaque(body: bytes, *marks: str) -> Payload:
    return Payload(body, (Message(body, Direction.TO_SERVER, Kind.OPAQUE, marks=marks),))
