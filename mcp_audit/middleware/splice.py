r"""Replace places of a text and keep every other byte, also through the escapes of a JSON string.

Pure. An edit is (start, end, replacement) in bytes; lists of edits are in order and do not overlap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["HIDDEN", "Edit", "content_of", "escaped", "merged", "spliced"]

HIDDEN = b"[REDACTED]"

Edit = tuple[int, int, bytes]

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^u])",
)
_SIMPLE = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def content_of(body: bytes) -> bytes:
    """Return what a JSON string says, given what stands between its quotes. Lone surrogates survive, 3 bytes each."""
    return _ESCAPE.sub(lambda found: _meaning(found[0]), body) if b"\\" in body else body


def escaped(body: bytes, edits: Iterable[Edit]) -> list[Edit]:
    """Translate edits of `content_of(body)` into edits of `body`. Replacements are printable ASCII."""
    if b"\\" not in body:
        return [(start, end, _quoted(new)) for start, end, new in edits]
    places = _Places(body)
    return [(places.of(start), places.of(end), _quoted(new)) for start, end, new in edits]


def spliced(text: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the text with its edits made."""
    parts: list[bytes] = []
    position = 0
    for start, end, new in edits:
        parts += (text[position:start], new)
        position = end
    parts.append(text[position:])
    return b"".join(parts)


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """Put edits in order; those that overlap become one, which says what the first to start says."""
    result: list[Edit] = []
    for start, end, new in sorted(edits, key=lambda edit: (edit[0], -edit[1])):
        if result and start < result[-1][1]:
            first, last, said = result[-1]
            result[-1] = (first, max(last, end), said)
        else:
            result.append((start, end, new))
    return result


class _Places:
    """Where each byte of a string's content stands in its escaped body; must be asked in ascending order."""

    def __init__(self, body: bytes) -> None:
        self._escapes = _ESCAPE.finditer(body)
        self._content = self._body = 0  # the same place in both, after the last escape passed
        self._next = next(self._escapes, None)

    def of(self, place: int) -> int:
        while self._next is not None:
            plain = self._next.start() - self._body
            if place <= self._content + plain:
                break
            self._content += plain + len(_meaning(self._next[0]))
            self._body = self._next.end()
            self._next = next(self._escapes, None)
        return self._body + place - self._content


def _meaning(escape: bytes) -> bytes:
    if escape[1] != 0x75:
        letter = escape[1:]
        return _SIMPLE.get(letter, letter)
    if len(escape) == 12:
        high, low = int(escape[2:6], 16), int(escape[8:12], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)).encode()
    return chr(int(escape[2:6], 16)).encode("utf-8", "surrogatepass")


def _quoted(new: bytes) -> bytes:
    return new.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
