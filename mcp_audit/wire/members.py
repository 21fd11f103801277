"""The members of one JSON object as slices of its text, and how their names are spelled.

Pure, and exact: what a fast decoder leaves in doubt is settled by looking at the text, never by a guess. Nothing here
raises on content but `NotStrictJson`, and nothing recurses, so that no text can exhaust the stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import takewhile
from typing import NamedTuple

import msgspec
from msgspec import Raw
from msgspec.structs import astuple

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.strict_json import MAX_DEPTH, Event, decode_string, events

__all__ = ["UNDECODABLE", "Members", "last_values", "read_elements", "read_members"]

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on content; a `DecodeError` may also mean a lone surrogate, which strict JSON allows."""

_PATIENCE = 200_000  # tokens looked at one by one: a fifth of a second, which a hostile text may cost and no more
_SURROGATE = re.compile("[\ud800-\udfff]")
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_MAX_BATCH = 1000
# An array of more elements than fields is checked to its end, but not kept: 64 MiB of `{},` would take gigabytes.
_Elements = msgspec.defstruct("_Elements", [(f"e{i}", Raw, Raw()) for i in range(_MAX_BATCH + 1)], array_like=True)
_decode_elements = msgspec.json.Decoder(_Elements).decode


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


def read_members(text: bytes | Raw) -> Members:
    """Return the members of an object.

    Raises:
        NotStrictJson: the text is no object, even if `NaN` and `Infinity` are let pass.
    """
    try:
        values = _decode_members(text)
    except UNDECODABLE:
        return _mend(bytes(text)) or _scan_members(bytes(text))
    # A name is at least as long in the text as decoded, so this sum is reached only by an object without white space,
    # escapes and repetitions. It is the common case: nearly every encoder on this wire writes compact JSON.
    size = 1 if values else 2
    for name, value in values.items():
        size += len(name) + len(value) + 4
    if size == len(text):
        return Members(values)
    text = bytes(text)
    if size + 2 * len(values) - 1 == len(text) and _spaced(values) == text:
        return Members(values)
    try:
        if len(values) <= _PATIENCE:
            places = _walk(text, values)
            if places is None:
                return _scan_members(text)
            return Members(values, escaped=[name for name, escaped, _, _ in places if escaped])
    except NotStrictJson:
        pass  # names are repeated, and telling which takes too long
    return Members(values, repeated=values.keys())


def _spaced(values: Mapping[str, Raw]) -> bytes:
    """Write an object as Python's `json.dumps` does by default: a text that equals this has no other members."""
    return b"{" + b", ".join([b'"%b": %b' % (name.encode(), value) for name, value in values.items()]) + b"}"


def last_values(text: bytes | Raw) -> Mapping[str, bytes | Raw]:
    """Return the members of an object nobody decides by, of a repeated name the last; raise as `read_members` does."""
    try:
        return _decode_members(text)
    except UNDECODABLE:
        return read_members(text).values


def read_elements(text: bytes) -> tuple[list[bytes], frozenset[str]]:
    """Return the elements of an array and what is odd about the text as a whole.

    Raises:
        NotStrictJson: the text is no array, even if `NaN` and `Infinity` are let pass; or, as `shape`, it has more than
            1000 elements, which no batch has.
    """
    marks: set[str] = set()
    try:
        elements = [bytes(element) for element in takewhile(len, astuple(_decode_elements(text)))]
    except UNDECODABLE:
        opened, parts, marks = _scan(text)
        if opened is not Event.ARRAY_START:
            raise NotStrictJson("not_json", 0, "not an array") from None
        elements = [value for _, value in parts]
    if len(elements) > _MAX_BATCH:
        raise NotStrictJson("shape", 0, f"a batch of more than {_MAX_BATCH} elements")
    return elements, frozenset(marks)


_FIRST_NAME = re.compile(rb'[ \t\n\r]*("(?:[^"\\]|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
_NEXT_NAME = re.compile(rb'[ \t\n\r]*(?:,[ \t\n\r]*("(?:[^"\\]|\\.)*+")[ \t\n\r]*:[ \t\n\r]*|\})')

_Place = tuple[str, bool, int, int]  # name, whether it has an escape, and where its value is


def _walk(text: bytes, values: Mapping[str, Raw]) -> list[_Place] | None:
    """Step over the members of a valid object of which a decoder made `values`; None if a name must be repeated.

    Every step finds a name and then, at that very place, the value decoded for it. A value that only begins alike, as
    1 does in 12, is found out by the comma or brace that has to follow.
    """
    places: list[_Place] = []
    found = _FIRST_NAME.match(text, text.index(b"{") + 1)
    while found is not None and (token := found[1]) is not None:
        escaped = b"\\" in token
        name = decode_string(token) if escaped else token[1:-1].decode()
        value = bytes(values.get(name, b"\0"))
        start, end = found.end(), found.end() + len(value)
        if not text.startswith(value, start):
            return None
        places.append((name, escaped, start, end))
        found = _NEXT_NAME.match(text, end)
        if found is None:
            return None
    return places if len(places) == len(values) else None


_XX = rb"[0-9a-fA-F]{2}"
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD](?:[89abAB]%(xx)b(?:\\u[dD][c-fC-F]%(xx)b)?|[c-fC-F]%(xx)b)" % {b"xx": _XX})
_REST_OF_STRING = re.compile(rb'(?:[^"\\]|\\.)*+"([ \t\n\r]*:)?')


def _mend(text: bytes) -> Members | None:
    """Return the members of an object that only lone surrogates keep from being decoded; None if more is odd.

    Strict JSON allows such escapes, and programs that cut a text within an emoji send them. Whether a name has one is
    for the tokenizer to say.
    """
    mended = bytearray(text)
    checked = 0  # end of the last string found to be no name
    # An escaped backslash before plain `ud800` is mended, too. That does no harm: of the mended copy only the names are
    # used, which have none of this, and the places of the values.
    for found in _SURROGATE_ESCAPE.finditer(text):
        start = found.start()
        if found.end() - start == 12:
            continue  # a pair
        if start >= checked:
            rest = _REST_OF_STRING.match(text, start)
            if rest is None or rest[1]:
                return None
            checked = rest.end()
        mended[start : start + 6] = b"\\ufffd"
    if not checked:
        return None
    try:
        values = _decode_members(mended)
    except UNDECODABLE:
        return None
    places = _walk(bytes(mended), values)
    if places is None:
        return None
    slices = {name: text[start:end] for name, _, start, end in places}
    return Members(slices, escaped=[name for name, escaped, _, _ in places if escaped])


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
            slug = "too_deep" if level > MAX_DEPTH else "not_json"
            raise NotStrictJson(slug, start, f"no decoder takes it, and it has over {_PATIENCE} tokens")
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
