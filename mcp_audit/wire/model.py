"""The nouns of the wire: what a message is once its bytes are understood.

Pure data; `wire.message` makes it. The relay forwards `Payload.raw`, never anything made from the parsed fields.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec import Struct

from mcp_audit.wire.strict_json import decode_string

__all__ = ["Direction", "Era", "Id", "Kind", "Message", "Payload", "parse_id"]

_decode_text = msgspec.json.Decoder(str).decode


class Direction(StrEnum):
    """Which way a message travels; the values are the ledger's words."""

    TO_SERVER = "client_to_server"
    TO_CLIENT = "server_to_client"

    @property
    def back(self) -> Direction:
        """The other direction: where an answer goes."""
        return Direction.TO_CLIENT if self is Direction.TO_SERVER else Direction.TO_SERVER


class Kind(StrEnum):
    """The four things a JSON-RPC peer can send, as far as we can tell."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"
    OPAQUE = "opaque"


class Era(StrEnum):
    """Which protocol generation a message belongs to (decided per message)."""

    LEGACY = "legacy"
    MODERN = "modern"


class Id(Struct, frozen=True):
    """A JSON-RPC id.

    Attributes:
        key: what to pair by: a str for strings, an int or float for numbers (1 == 1.0, 1 != "1"), None for `null`,
            which pairs with nothing.
        token: its bytes in the message, to answer with.
        text: what the ledger writes: the text of a string, the literal of a number.
    """

    key: str | int | float | None
    token: bytes
    text: str


class Message(Struct, frozen=True):
    """One JSON-RPC object.

    Attributes:
        raw: its bytes; for a batch element the element's slice, else the whole line without terminator, or the whole
            body without white space at its end.
        target: `params.name` of tools/call and prompts/get, `params.uri` of resources/*; None when there is none.
        marks: ambiguity slugs; empty for a message that every parser reads alike.
        params, result, error: undecoded slices of `raw`, empty when absent.
            Strict JSON if `marks` has neither not_json nor invalid_utf8.
        meta: the members of `params._meta` (of `result._meta` in a response), undecoded; empty when absent.
    """

    raw: bytes
    direction: Direction
    kind: Kind
    id: Id | None = None
    method: str | None = None
    target: str | None = None
    marks: tuple[str, ...] = ()
    params: bytes = b""
    result: bytes = b""
    error: bytes = b""
    meta: dict[str, bytes] = {}


class Payload(Struct, frozen=True):
    """One transport unit: a line, a body or an SSE event, terminator included; a batch has several messages.

    A blank line has no messages. Something that is not JSON-RPC has one, of kind OPAQUE; so has a batch that is empty
    or has more than 1000 elements, and such a one is no `batch`.
    """

    raw: bytes
    messages: tuple[Message, ...]
    batch: bool = False


def parse_id(token: bytes) -> Id | None:
    """Return the id that a JSON token spells; None if it is none (a boolean, array or object)."""
    if token.isdigit() and len(token) < 1000:
        return Id(int(token), token, token.decode())
    if token[0] == 0x22:
        try:
            text = _decode_text(token)
        except (msgspec.DecodeError, UnicodeDecodeError):  # a lone surrogate, or what is not UTF-8
            text = decode_string(token.decode(errors="replace").encode())
        return Id(text, token, text)
    if token[0] in b"-0123456789":
        try:
            return Id(int(token), token, token.decode())
        except ValueError:  # a fraction, an exponent, or more digits than Python converts
            return Id(float(token), token, token.decode())
    return Id(None, token, "null") if token == b"null" else None
