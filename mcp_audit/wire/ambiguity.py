"""Where two JSON readers may differ about one text: repeated, escaped and look-alike names, depth, odd numbers.

Pure. Nothing here raises on content, loops over bytes in Python on the common path, or recurses, so that no text can
exhaust the stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

import msgspec

from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.strict_json import MAX_DEPTH

__all__ = [
    "SLUGS",
    "argument_marks",
    "in_order",
    "nests_too_deep",
    "text_marks",
    "unsafe_text",
    "variants",
]

SLUGS = (
    "not_json",
    "bare_cr",
    "invalid_utf8",
    "bom",
    "utf16",
    "duplicate_key",
    "case_variant_key",
    "escaped_key",
    "number_range",
    "too_deep",
    "bad_text",
    "shape",
    "header_mismatch",
    "unknown_encoding",
)
"""Every reason to call a message ambiguous, in the order in which a message names its own."""

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_MAX_DIGITS = 4300  # CPython refuses to convert longer integers
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def in_order(found: Collection[str]) -> tuple[str, ...]:
    """Return the slugs found, in the order of `SLUGS`."""
    return tuple(slug for slug in SLUGS if slug in found) if found else ()


def text_marks(text: bytes, line: bool) -> set[str]:
    """Return what is odd about the bytes of a whole unit, its terminator removed, whatever JSON they hold."""
    found = set()
    if line and b"\r" in text:
        found.add("bare_cr")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            found.add("invalid_utf8")
        if text.startswith(_BYTE_ORDER_MARKS):
            found.add("bom")
    if b"\x00" in text:
        found.add("utf16")
    return found


def variants(names: Iterable[str], reserved: frozenset[str]) -> bool:
    """Whether a name equals a reserved one for readers that ignore case, and only for them."""
    return any(name not in reserved and name.casefold() in reserved for name in names)


def unsafe_text(text: str) -> bool:
    """Whether a name or id has a control character or lone surrogate, which readers replace, reject or cut off at."""
    return not text.isprintable() and _CONTROL_OR_SURROGATE.search(text) is not None


# In a valid text whose escaped quotes are gone, an even number of quotes before a bracket means it is structure.
_PARENTHESES = bytes.maketrans(b"{[]}", b"(())")
_NEITHER_BRACKET_NOR_QUOTE = bytes(byte for byte in range(256) if byte not in b'{[]}"')
_QUOTED = re.compile(rb'"[()]*+"')


def nests_too_deep(text: bytes) -> bool:
    """Whether a valid JSON text nests deeper than `MAX_DEPTH`; in linear time, and mostly without a loop over bytes."""
    if len(text) < 2 * MAX_DEPTH:
        return False
    # bytes.replace searches with memchr, which beats bytes.count thirtyfold where brackets are few.
    if len(text) - len(text.replace(b"{", b"").replace(b"[", b"")) <= MAX_DEPTH:
        return False
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Removing two adjacent quotes leaves the parity of every bracket alone, whichever strings they belonged to.
    skeleton = text.translate(_PARENTHESES, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")
    if b'"' in skeleton:
        skeleton = _QUOTED.sub(b"", skeleton)
    limit = MAX_DEPTH
    while len(skeleton) // 2 > limit:
        size = len(skeleton)
        skeleton = skeleton.replace(b"()", b"")  # takes the innermost pairs, so it lowers the depth by exactly one
        limit -= 1
        if len(skeleton) > size * 7 // 8:
            break  # bracket by bracket is faster now, and passes that take little would not be linear
    else:
        return False
    level = 0
    for byte in skeleton:
        level += 1 if byte == 0x28 else -1
        if level > limit:
            return True
    return False


_SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 300  # a double overflows from 309 digits on


def argument_marks(text: bytes) -> set[str]:
    """Return what is ambiguous inside call arguments, for gates that look there: repeated names, numbers out of range.

    The text is a valid value, but for `NaN` and `Infinity`; lone surrogates in names are found by whoever reads the
    whole message.
    """
    try:
        # What an encoder writes has no repeated names, nor has text that equals it; nor exponents that overflow.
        if _encode(_decode_any(text)) == text and _LONG_NUMBER not in text.translate(_SAME_DIGITS):
            return set()
    except (*UNDECODABLE, ValueError):
        pass  # what follows settles it
    marks: set[str] = set()

    def check_names(pairs: list[tuple[str, None]]) -> None:
        if len(dict(pairs)) != len(pairs):
            marks.add("duplicate_key")

    def check_number(number: str) -> None:
        if _out_of_range(number):
            marks.add("number_range")

    try:
        json.loads(
            text.decode(errors="replace"),
            object_pairs_hook=check_names,
            parse_int=check_number,
            parse_float=check_number,
            parse_constant=lambda _: None,
        )
    except RecursionError:
        marks.add("too_deep")  # twice as deep as allowed, so this is no news
    return marks


def _out_of_range(number: str) -> bool:
    """Whether a number overflows a double or has more digits than Python converts."""
    if len(number) < 300 and "e" not in number and "E" not in number:
        return False
    return abs(float(number)) == float("inf") or sum(map(str.isdigit, number)) > _MAX_DIGITS
