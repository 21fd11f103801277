"""Edits through the escapes of a JSON string."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.middleware.splice import HIDDEN, content_of, escaped, merged, spliced


@pytest.mark.parametrize(
    ("body", "content"),
    [
        pytest.param(rb"plain", b"plain", id="plain"),
        pytest.param(rb"\"\\\/\b\f\n\r\t", b'"\\/\b\f\n\r\t', id="short-escapes"),
        pytest.param(rb"\u0041\u00e9\u20ac", "Aé€".encode(), id="one-two-three-bytes"),
        pytest.param(rb"\ud83d\ude00", "😀".encode(), id="pair"),
        pytest.param(rb"\ud83dx\ude00", b"\xed\xa0\xbdx\xed\xb8\x80", id="lone-surrogates"),
        pytest.param(rb"\ud83d\ud83d\ude00", b"\xed\xa0\xbd" + "😀".encode(), id="lone-before-pair"),
        pytest.param(rb"\\u0041", b"\\u0041", id="escaped-backslash"),
    ],
)
def test_what_a_string_says(body: bytes, content: bytes) -> None:
    """Escapes are read as RFC 8259 says; what is no character survives."""
    assert content_of(body) == content


def test_edits_that_overlap_become_one() -> None:
    """The first to start says what is put there; touching edits stay two."""
    assert merged([(5, 9, b"b"), (0, 6, b"a"), (9, 10, b"c"), (20, 21, b"d")]) == [
        (0, 9, b"a"),
        (9, 10, b"c"),
        (20, 21, b"d"),
    ]


spelling = st.sampled_from(["plain", "ascii", "all", "mixed"])


def spell(text: str, how: str) -> str:
    """Write the body of a JSON string in one of the ways that encoders have, or that nobody has."""
    if how == "plain":
        return json.dumps(text, ensure_ascii=False)[1:-1]
    if how == "ascii":
        return json.dumps(text)[1:-1]
    every = 1 if how == "all" else 2
    return "".join(
        json.dumps(character)[1:-1] if i % every else "".join(f"\\u{ord(half):04X}" for half in _utf16(character))
        for i, character in enumerate(text)
    )


def _utf16(unit: str) -> list[str]:
    code = ord(unit)
    if code < 0x10000:
        return [unit]
    return [chr(0xD800 + ((code - 0x10000) >> 10)), chr(0xDC00 + ((code - 0x10000) & 0x3FF))]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=6), st.text(min_size=1, max_size=6)), max_size=4), st.text(max_size=6), spelling
)
def test_only_the_edited_places_change(pieces: list[tuple[str, str]], tail: str, how: str) -> None:
    """However a string is spelled, all but the edited places keep their very bytes."""
    content, body, expected = b"", b"", b""
    edits = []
    for kept, hidden in pieces:
        start = len(content) + len(kept.encode())
        edits.append((start, start + len(hidden.encode()), b'"%s"' % HIDDEN))
        content += (kept + hidden).encode()
        body += (spell(kept, how) + spell(hidden, how)).encode()
        expected += spell(kept, how).encode() + b'\\"%s\\"' % HIDDEN
    content, body, expected = (
        content + tail.encode(),
        body + spell(tail, how).encode(),
        expected + spell(tail, how).encode(),
    )

    assert content_of(body) == content
    assert spliced(body, escaped(body, content_of(body), edits)) == expected
