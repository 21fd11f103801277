"""What Go's JSON encoder does to a raw message after it was signed, and how to find the signed bytes again.

Pure. Promise: one of the texts returned here is what was signed, if the encoder only escaped `<`, `>`, `&`, U+2028 and
U+2029 and dropped whitespace in one of the usual styles. Which one it is, only the signature can tell.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations

__all__ = ["go_time", "may_lack_space", "respaced", "spellings"]

# Go's encoder writes these characters of a raw message as escapes, after it was signed.
_GO_ESCAPES = {b"003c": b"<", b"003e": b">", b"0026": b"&", b"2028": "\u2028".encode(), b"2029": "\u2029".encode()}
_ESCAPE = re.compile(rb"\\(?:u(003c|003e|0026|2028|2029)|.)", re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[,:]', re.DOTALL)
_OUTSIDE = re.compile(rb'"(?:[^"\\]|\\.)*"|(\s)', re.DOTALL)
_SPACINGS = ({b",": b", ", b":": b": "}, {b":": b": "}, {b",": b", "})


def go_time(timestamp: str) -> str:
    """Print a time as Go's RFC3339Nano does: without trailing zeros."""
    head, dot, fraction = timestamp.removesuffix("Z").partition(".")
    fraction = fraction.rstrip("0")
    return f"{head}.{fraction}Z" if dot and fraction else f"{head}Z"


def spellings(params: bytes) -> Iterator[bytes]:
    """Yield the texts that Go's encoder may have turned into `params`: as stored, then with characters unescaped.

    A client may have written some of the escapes itself, so every choice among the kinds that occur is tried.
    """
    yield params
    kinds = sorted({match[1] for match in _ESCAPE.finditer(params) if match[1]})
    for count in range(len(kinds), 0, -1):
        for chosen in combinations(kinds, count):
            yield _unescaped(params, chosen)


def _unescaped(params: bytes, kinds: Collection[bytes]) -> bytes:
    return _ESCAPE.sub(lambda match: _GO_ESCAPES[match[1]] if match[1] in kinds else match[0], params)


def respaced(params: bytes) -> Iterator[bytes]:
    """Yield the texts with the whitespace that common encoders put between tokens, which Go's encoder drops."""
    if may_lack_space(params):
        for spacing in _SPACINGS:
            yield from (_spaced(text, spacing) for text in spellings(params))


def _spaced(params: bytes, spacing: Mapping[bytes, bytes]) -> bytes:
    return _TOKEN.sub(lambda match: spacing.get(match[0], match[0]), params)


def may_lack_space(params: bytes) -> bool:
    """Tell whether a writer may have dropped whitespace from `params`: there is room for it, and none was kept."""
    return params[:1] in (b"{", b"[") and not any(match[1] for match in _OUTSIDE.finditer(params))
