"""The tokenizer takes exactly what RFC 8259 allows, and knows where every token stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.strict_json import Event, decode_string, events

PIECES = ['"', "\\", "{", "}", "[", "]", ",", ":", " ", "\t", "\n", "\x0b", "0", "1", "-", ".", "e", "+", "true",
          "null", "NaN", "Infinity", '"a"', '"\\u00e9"', '"\\ud800"', "\\x", "\x00", "\x1f", "\x7f",
          "é", "//"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)


def constant(name: str) -> Any:
    raise ValueError(name)


@settings(max_examples=1000, deadline=None)
@given(TEXTS, st.booleans())
@example("[1,2", False)
@example('{"a":1,}', False)
@example("-Infinity", True)
def test_it_takes_what_a_strict_parser_takes(text: str, constants: bool) -> None:
    """The standard library agrees, `NaN` and `Infinity` refused unless they are let pass."""
    try:
        json.loads(text, parse_constant=None if constants else constant)
        valid = True
    except ValueError:
        valid = False

    if valid:
        assert list(events(text.encode(), constants=constants))
    else:
        with pytest.raises(NotStrictJson) as caught:
            list(events(text.encode(), constants=constants))
        assert caught.value.slug == "not_json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1, "\t"]))
def test_the_tokens_are_slices_of_the_text(value: Any, indent: Any) -> None:
    """Keys, strings and scalars decode where they stand; what is left out is space and punctuation."""
    text = json.dumps(value, indent=indent).encode()
    position, rest = 0, b""
    for event, start, end in events(text):
        token = text[start:end]
        rest += text[position:start]
        position = end
        if event in (Event.KEY, Event.STRING):
            assert decode_string(token) == json.loads(token)
        elif event in (Event.NUMBER, Event.LITERAL):
            json.loads(token)
        else:
            assert token in (b"{", b"}", b"[", b"]")

    assert not (rest + text[position:]).translate(None, b" \t\n\r,:")


@pytest.mark.parametrize("opener", [b"[", b'{"a":'])
def test_depth_is_counted_and_costs_no_stack(opener: bytes) -> None:
    """512 levels pass, the 513th is refused, and a million can be asked for."""
    closer = b"]" if opener == b"[" else b"}"

    def tokens(depth: int, **options: int) -> int:
        return sum(1 for _ in events(opener * depth + b"1" + closer * depth, **options))

    assert tokens(512) > 1024
    with pytest.raises(NotStrictJson, match="nested deeper than 512") as caught:
        tokens(513)
    assert caught.value.slug == "too_deep"
    assert tokens(100_000, max_depth=100_000) > 200_000
