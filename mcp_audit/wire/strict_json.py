"""A strict RFC 8259 tokenizer that knows where every token stands in the text.

Pure. Slower than a decoder, so it serves only what a decoder cannot do: texts with repeated names, with lone
surrogates, or of which one value has to be replaced and every other byte kept. It is iterative: depth costs no stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from mcp_audit.errors import NotStrictJson

__all__ = ["MAX_DEPTH", "Event", "Token", "decode_string", "events"]

MAX_DEPTH = 512  # SQLite's JSON stops at 1000, recursion limits of decoders range from about 500 to 10,000


class Event(IntEnum):
    """What a token is. A KEY is the name of a member; everything else is a value or the edge of one."""

    OBJECT_START = 1
    OBJECT_END = 2
    ARRAY_START = 3
    ARRAY_END = 4
    KEY = 5
    STRING = 6
    NUMBER = 7
    LITERAL = 8


class Token(NamedTuple):
    """One token: text[start:end], quotes included for strings and keys."""

    event: Event
    start: int
    end: int


# Possessive repeats: a string of millions of escapes would otherwise cost a gigabyte of backtracking state.
_GRAMMAR = (
    rb"[ \t\n\r]*(?:"
    rb'("[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")'
    rb"|(-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)"
    rb"|(%b)"
    rb"|([{}\[\],:]))"
)
_TOKEN = re.compile(_GRAMMAR % rb"true|false|null")
_TOKEN_OR_CONSTANT = re.compile(_GRAMMAR % rb"true|false|null|NaN|-?Infinity")
_STRING, _NUMBER, _LITERAL = 1, 2, 3
_SPACE = re.compile(rb"[ \t\n\r]*")


def decode_string(token: bytes) -> str:
    """Decode a string token, quotes included. Lone surrogates survive as such.

    Raises:
        UnicodeDecodeError: the token is not UTF-8.
    """
    text: str = json.loads(token.decode())
    return text


def events(text: bytes, max_depth: int = MAX_DEPTH, constants: bool = False) -> Iterator[Token]:
    """Yield the tokens of exactly one JSON value, structure checked, commas and colons left out.

    UTF-8 is not checked here; do that once, on the whole text. With `constants`, `NaN` and `Infinity` pass as literals:
    lenient readers take them, so a gate wants to see what such a text says to them.

    Raises:
        NotStrictJson: `not_json`, or `too_deep` past `max_depth` levels; tokens before it have been yielded.
    """
    stack: list[int] = []  # OBJECT_START or ARRAY_START of what is open
    position, end = 0, len(text)
    want = "value"  # value, value-or-end, key, key-or-end, colon, comma-or-end, nothing
    match = (_TOKEN_OR_CONSTANT if constants else _TOKEN).match
    while want != "nothing":
        found = match(text, position)
        if found is None:
            raise NotStrictJson("not_json", position, "not strict JSON")
        group, position = found.lastindex or 0, found.end()
        start = found.start(group)
        if want == "colon":
            if text[start] != 0x3A:
                raise NotStrictJson("not_json", start, "a colon is missing")
            want = "value"
            continue
        if group == 4:
            sign = text[start]
            if sign == 0x2C:  # ,
                if want != "comma-or-end":
                    raise NotStrictJson("not_json", start, "a comma too many")
                want = "key" if stack[-1] == Event.OBJECT_START else "value"
                continue
            if sign in b"{[" and want in ("value", "value-or-end"):
                opened = Event.OBJECT_START if sign == 0x7B else Event.ARRAY_START
                stack.append(opened)
                if len(stack) > max_depth:
                    raise NotStrictJson("too_deep", start, f"nested deeper than {max_depth} levels")
                yield Token(opened, start, position)
                want = "key-or-end" if opened == Event.OBJECT_START else "value-or-end"
                continue
            opener = Event.OBJECT_START if sign == 0x7D else Event.ARRAY_START
            allowed = ("comma-or-end", "key-or-end" if sign == 0x7D else "value-or-end")
            if sign not in b"}]" or not stack or stack[-1] != opener or want not in allowed:
                raise NotStrictJson("not_json", start, "misplaced punctuation")
            stack.pop()
            yield Token(Event.OBJECT_END if sign == 0x7D else Event.ARRAY_END, start, position)
        elif want in ("key", "key-or-end"):
            if group != _STRING:
                raise NotStrictJson("not_json", start, "a member has no name")
            yield Token(Event.KEY, start, position)
            want = "colon"
            continue
        elif want in ("value", "value-or-end"):
            kind = Event.STRING if group == _STRING else Event.NUMBER if group == _NUMBER else Event.LITERAL
            yield Token(kind, start, position)
        else:
            raise NotStrictJson("not_json", start, "a comma is missing")
        want = "comma-or-end" if stack else "nothing"
    rest = _SPACE.match(text, position)
    if rest is not None and rest.end() != end:
        raise NotStrictJson("not_json", rest.end(), "bytes after the value")
