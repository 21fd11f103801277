"""Where two JSON readers may differ about one text: repeated, escaped and look-alike names, depth, odd numbers.

Pure, and exact: a doubt of the fast path is settled by the strict tokenizer, never by a guess. Nothing here raises on
content but `NotStrictJson`, and nothing recurses, so that no text can exhaust the stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Raw

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.strict_json import MAX_DEPTH, Event, decode_string, events

__all__ = [
    "SLUGS",
    "UNDECODABLE",
    "Members",
    "argument_marks",
    "in_order",
    "last_values",
    "nests_too_deep",
    "read_elements",
    "read_members",
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

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on content; a `DecodeError` may also mean a lone surrogate, which strict JSON allows."""

_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_MAX_DIGITS = 4300  # CPython refuses to convert longer integers
_PATIENCE = 200_000  # tokens looked at one by one: a fifth of a second, which a hostile text may cost and no more
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_elements = msgspec.json.Decoder(list[Raw]).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Members(NamedTuple):
    """The members of one object, values undecoded; of a repeated name the last value.

    Attributes:
        repeated: names that occur more than once.
        escaped: names that are spelled with an escape.
        marks: what else is odd about the text as a whole.
    """

    values: Mapping[str, bytes | Raw]
    repeated: Collection[str] = ()
    escaped: Collection[str] = ()
    marks: frozenset[str] = frozenset()


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


def read_members(text: bytes | Raw) -> Members:
    """Return the members of an object.

    Raises:
        NotStrictJson: the text is no object, even if `NaN` and `Infinity` are let pass.
    """
    try:
        values = _decode_members(text)
    except UNDECODABLE:
        return _scan_members(bytes(text))
    # A name is at least as long in the text as decoded, so this sum is reached only by an object without white space,
    # escapes and repetitions. It is the common case: nearly every encoder on this wire writes compact JSON.
    size = 1 if values else 2
    for name, value in values.items():
        size += len(name) + len(value) + 4
    if size == len(text):
        return Members(values)
    try:
        if len(values) <= _PATIENCE:
            return _walk(bytes(text), values) or _scan_members(bytes(text))
    except NotStrictJson:
        pass  # names are repeated, and telling which takes too long
    return Members(values, repeated=values.keys())


def last_values(text: bytes | Raw) -> Mapping[str, bytes | Raw]:
    """Return the members of an object nobody decides by, of a repeated name the last; raise as `read_members` does."""
    try:
        return _decode_members(text)
    except UNDECODABLE:
        return read_members(text).values


def read_elements(text: bytes) -> tuple[list[bytes], frozenset[str]]:
    """Return the elements of an array and what is odd about the text as a whole.

    Raises:
        NotStrictJson: the text is no array, even if `NaN` and `Infinity` are let pass.
    """
    try:
        return [bytes(element) for element in _decode_elements(text)], frozenset()
    except UNDECODABLE:
        scan = _scan(text)
    if scan.opened is not Event.ARRAY_START:
        raise NotStrictJson("not_json", 0, "not an array")
    return [value for _, value in scan.parts], frozenset(scan.marks)


_MEMBER = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
_SEPARATOR = re.compile(rb"[ \t\n\r]*([,}])")


def _walk(text: bytes, values: Mapping[str, Raw]) -> Members | None:
    """Step over the members of a valid object of which a decoder made `values`; None if a name must be repeated.

    Every step finds a name and then, at that very place, the value decoded for it. A value that only begins alike, as
    1 does in 12, is found out by the separator that has to follow.
    """
    escaped = []
    position, steps = text.index(b"{") + 1, 0
    while found := _MEMBER.match(text, position):
        token = found[1]
        name = token[1:-1].decode() if b"\\" not in token else decode_string(token)
        if b"\\" in token:
            escaped.append(name)
        value = bytes(values.get(name, b"\0"))
        if not text.startswith(value, found.end()):
            return None
        separator = _SEPARATOR.match(text, found.end() + len(value))
        if separator is None:
            return None
        steps += 1
        if separator[1] == b"}":
            break
        position = separator.end()
    return Members(values, escaped=escaped) if steps == len(values) else None


class _Scan(NamedTuple):
    """What the tokenizer saw: the outermost container's kind and its parts as (name token, value)."""

    opened: Event
    parts: list[tuple[bytes, bytes]]
    marks: set[str]


def _scan(text: bytes) -> _Scan:
    """Split the outermost container, however deep the text is, and mark oddities of any level."""
    parts: list[tuple[bytes, bytes]] = []
    marks: set[str] = set()
    opened = Event.LITERAL
    level = begin = 0
    name = b""
    for count, (event, start, end) in enumerate(events(text, max_depth=len(text), constants=True)):
        if count == _PATIENCE:
            raise NotStrictJson("not_json", start, f"no decoder takes it, and it has over {_PATIENCE} tokens")
        if event is Event.KEY:
            token = text[start:end]
            if b"\\u" in token and _SURROGATE.search(_decoded(token)):
                marks.add("bad_text")
            if level == 1:
                name = token
            continue
        if event is Event.OBJECT_START or event is Event.ARRAY_START:
            if level == 0:
                opened = event
            elif level == 1:
                begin = start
            level += 1
            continue
        if event is Event.OBJECT_END or event is Event.ARRAY_END:
            level -= 1
            start = begin
        elif event is Event.LITERAL and text[start] not in b"tfn":
            marks |= {"not_json", "number_range"}
        if level == 1:
            parts.append((name, text[start:end]))
    return _Scan(opened, parts, marks)


def _scan_members(text: bytes) -> Members:
    scan = _scan(text)
    if scan.opened is not Event.OBJECT_START:
        raise NotStrictJson("not_json", 0, "not an object")
    values: dict[str, bytes | Raw] = {}
    repeated, escaped = set(), set()
    for token, value in scan.parts:
        name = _decoded(token)
        if name in values:
            repeated.add(name)
        if b"\\" in token:
            escaped.add(name)
        values[name] = value
    return Members(values, repeated, escaped, frozenset(scan.marks))


def _decoded(token: bytes) -> str:
    """Decode a name as a reader does that substitutes what is not UTF-8; such a text is marked for it anyway."""
    if b"\\" not in token:
        return token[1:-1].decode(errors="replace")
    name: str = json.loads(token.decode(errors="replace"))
    return name


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
    """Whether a valid JSON text nests deeper than `MAX_DEPTH`; linear, and without a Python loop over bytes."""
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
    for peeled in range(32):  # each pass takes the innermost pairs, so it lowers the depth by exactly one
        if peeled + len(skeleton) // 2 <= MAX_DEPTH:
            return False
        skeleton = skeleton.replace(b"()", b"")
    level, limit = 0, MAX_DEPTH - 32
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
