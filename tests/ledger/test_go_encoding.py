"""What Go's encoder did to a raw message is undone in every way it can have been done."""

from __future__ import annotations

import pytest

from mcp_audit.ledger.go_encoding import go_time, may_lack_space, respaced, spellings


@pytest.mark.parametrize(
    ("stored", "printed"),
    [
        ("2026-05-25T12:34:56Z", "2026-05-25T12:34:56Z"),
        ("2026-05-25T12:34:56.123450Z", "2026-05-25T12:34:56.12345Z"),
        ("2026-05-25T12:34:56.000000Z", "2026-05-25T12:34:56Z"),
        ("2026-05-25T12:34:50Z", "2026-05-25T12:34:50Z"),
    ],
)
def test_times_lose_trailing_zeros(stored: str, printed: str) -> None:
    """Only those of the fraction."""
    assert go_time(stored) == printed


def test_spellings_begin_with_what_is_stored() -> None:
    """Then every choice of kinds is unescaped, all of them first; an escaped backslash begins no escape."""
    assert list(spellings(rb'"plain \\u003c"')) == [rb'"plain \\u003c"']
    found = list(spellings(rb'"\u003c\u0026"'))
    assert found == [rb'"\u003c\u0026"', b'"<&"', rb'"\u003c&"', rb'"<\u0026"']


def test_whitespace_goes_between_tokens_only() -> None:
    """Strings stay as they are; what has whitespace already, or no room for it, is left alone."""
    assert list(respaced(b'{"a,b:c":[1,2]}')) == [b'{"a,b:c": [1, 2]}', b'{"a,b:c": [1,2]}', b'{"a,b:c":[1, 2]}']
    assert list(respaced(b'{"a": 1}')) == list(respaced(b'"a"')) == list(respaced(b"")) == []
    assert may_lack_space(b'{"a b":1}')
    assert not may_lack_space(b'{"a" :1}')
