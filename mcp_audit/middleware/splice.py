r"""Replace places of a text and keep every other byte, also through the escapes of a JSON string.

Pure. An edit is (start, end, replacement) in bytes; lists of edits are in order and do not overlap.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring, encode_basestring_ascii

__all__ = ["HIDDEN", "Edit", "content_of", "escaped", "merged", "spliced"]

HIDDEN = b"[REDACTED]"

Edit = tuple[int, int, bytes]

_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[^u])",
)


def content_of(body: bytes) -> bytes:
    """Return what a strict JSON string says, given what stands between its quotes.

    Lone surrogates survive, as three bytes each.
    """
    if b"\\" not in body:
        return body
    text: str = json.loads(f'"{body.decode("utf-8", "surrogatepass")}"')
    return text.encode("utf-8", "surrogatepass")


def escaped(body: bytes, content: bytes, edits: Iterable[Edit]) -> list[Edit]:
    """Translate edits of `content`, which is `content_of(body)`, into edits of `body`.

    Replacements are printable ASCII.
    """
    if body is content:
        return [(start, end, _quoted(new)) for start, end, new in edits]
    widths = _Widths(body, content)
    return [(widths.to(start), widths.to(end), _quoted(new)) for start, end, new in edits]


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


class _Widths:
    """Where places of a string's content stand in its body; must be asked in ascending order."""

    def __init__(self, body: bytes, content: bytes) -> None:
        self._content = content
        self._place = self._answer = 0
        # Nearly all bodies are just as one of the two usual encoders writes them, and then it can tell the widths;
        # going through the escapes one by one takes thirty times as long.
        text = _text(content)
        self._encode: Callable[[str], str] | None = None
        for encode in (encode_basestring, encode_basestring_ascii):
            if encode(text)[1:-1].encode("utf-8", "surrogatepass") == body:
                self._encode = encode
                return
        self._escapes = _ESCAPE.finditer(body)
        self._next = next(self._escapes, None)

    def to(self, place: int) -> int:
        if self._encode is not None:
            piece = self._encode(_text(self._content[self._place : place]))
            self._answer += len(piece.encode("utf-8", "surrogatepass")) - 2
            self._place = place
            return self._answer
        while self._next is not None:  # here the last place known is the end of the last escape passed
            plain = self._next.start() - self._answer
            if place <= self._place + plain:
                break
            self._place += plain + len(content_of(self._next[0]))
            self._answer = self._next.end()
            self._next = next(self._escapes, None)
        return self._answer + place - self._place


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")


def _quoted(new: bytes) -> bytes:
    return new.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
