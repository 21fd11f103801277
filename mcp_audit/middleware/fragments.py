r"""Pieces of JSON inside other text: a body on a command line, a log line, JSON that is cut off or not quite JSON.

Pure. Finds the values under sensitive names, in linear time. What a name governs is taken generously: where a value has
no clear end, the rest of the text belongs to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mcp_audit.middleware.splice import HIDDEN, Edit

__all__ = ["hidden_fragments"]

# The end of a name. Names are read backwards from here, because far more quotes open and close other things.
_COLON = re.compile(rb'"[ \t\r\n]{0,64}+:(?:[ \t\r\n]|\\{1,15}+[nrt]){0,64}+')
_LONGEST_NAME = 160  # bytes
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})")
_PLAIN = re.compile(rb"[^\s,;}\]\"'\\]++")
# A string that never ends takes the rest; were it no match, each of its quotes would start a search to the end.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def hidden_fragments(text: bytes, keys: Mapping[str, bool]) -> list[Edit]:
    """Return the edits that hide each value under a sensitive name, in order."""
    edits: list[Edit] = []
    position = 0
    while found := _COLON.search(text, position):
        closing = found.start()
        name = text[max(position, closing - _LONGEST_NAME) : closing]
        name = name[name.rfind(b'"') + 1 :]
        position = found.end()
        bare = name.rstrip(b"\\")
        if bare and keys[_decoded(bare)]:
            # The backslashes before the closing quote tell how often this JSON is escaped.
            quote = name[len(bare) :] + b'"'
            end = _end_of_value(text, position, quote)
            if text[position:end] not in (b"", b"null", quote + HIDDEN + quote):
                edits.append((position, end, quote + HIDDEN + quote))
            position = end
    return edits


def _decoded(name: bytes) -> str:
    text = name.decode("utf-8", "replace")  # a name that is too long may begin in the middle of a character
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text) if "\\" in text else text


def _end_of_value(text: bytes, start: int, quote: bytes) -> int:
    if text.startswith(quote, start):
        return _end_of_string(text, start + len(quote), quote)
    if text[start : start + 1] in (b"{", b"["):
        # Where quotes are escaped, a bracket inside a string cannot be told from others: all the rest is hidden.
        return _end_of_container(text, start) if quote == b'"' else len(text)
    plain = _PLAIN.match(text, start)
    return plain.end() if plain else start


def _end_of_string(text: bytes, start: int, quote: bytes) -> int:
    """Return where a string ends whose quotes are escaped like `quote`; quotes inside it are escaped more often."""
    if quote == b'"':
        position = start
        while (position := text.find(b'"', position)) >= 0:
            before = position
            while before > start and text[before - 1] == 0x5C:
                before -= 1
            if (position - before) % 2 == 0:
                return position + 1
            position += 1
        return len(text)
    position = start
    while (position := text.find(quote, position)) >= 0:
        # A longer run of backslashes is a quote inside the value.
        if position == start or text[position - 1] != 0x5C:
            return position + len(quote)
        position += len(quote)
    return len(text)


def _end_of_container(text: bytes, start: int) -> int:
    """Return where the brackets balance, strings left aside; the end of the text if they never do."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text, start):
        sign = found[0]
        if sign in (b"{", b"["):
            depth += 1
        elif sign in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                return found.end()
    return len(text)
