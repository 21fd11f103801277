"""Whether a payload may be spliced into a line: RFC 8259 to the letter, and not too deep.

Pure. A decoder answers for nearly every text; the tokenizer for those that it refuses and the standard allows.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.strict_json import MAX_DEPTH, events

__all__ = ["is_strict", "require_strict"]

_decode = msgspec.json.Decoder().decode


def is_strict(text: bytes) -> bool:
    """Say whether a text is strict JSON in UTF-8, at most `MAX_DEPTH` levels deep."""
    try:
        text.decode()
        require_strict(text)
    except (NotStrictJson, UnicodeDecodeError):
        return False
    return True


def require_strict(text: bytes) -> None:
    """Check that a text is RFC 8259 JSON of at most `MAX_DEPTH` levels. Lone surrogates in it may be raw.

    Raises:
        NotStrictJson: it is not.
    """
    try:
        level: list[Any] = [_decode(text)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # The decoder refuses some that the standard allows: lone surrogates, numbers beyond any type.
        for _ in events(text):
            pass
        return
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    depth = -1
    while level:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node if type(node) is list else ())
            if type(child) is dict or type(child) is list
        ]
    if depth >= MAX_DEPTH:
        raise NotStrictJson("too_deep", 0, f"nested deeper than {MAX_DEPTH} levels")
