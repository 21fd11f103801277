"""Pieces of JSON inside other text."""

from __future__ import annotations

import pytest

from mcp_audit.middleware.fragments import hidden_fragments
from mcp_audit.middleware.sensitive import SensitiveKeys
from mcp_audit.middleware.splice import spliced

KEYS = SensitiveKeys(("password", "token"), ("max_tokens",))


def stored(text: str) -> str:
    raw = text.encode()
    return spliced(raw, hidden_fragments(raw, KEYS)).decode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('log: {"password": "x", "b": 1}', 'log: {"password": "[REDACTED]", "b": 1}', id="log-line"),
        pytest.param('{"token":NaN,"b":NaN}', '{"token":"[REDACTED]","b":NaN}', id="not-quite-json"),
        pytest.param('{"a":1}\n{"token":[1,"]"],"b":2}', '{"a":1}\n{"token":"[REDACTED]","b":2}', id="json-lines"),
        pytest.param('{"token":{"a":"}{","b":[1]}} x', '{"token":"[REDACTED]"} x', id="object"),
        pytest.param('{"token":{"a":1', '{"token":"[REDACTED]"', id="cut-off-in-an-object"),
        pytest.param('{"token":"ab', '{"token":"[REDACTED]"', id="cut-off-in-a-string"),
        pytest.param('{"token":"ab\\"c", "d":1,', '{"token":"[REDACTED]", "d":1,', id="quote-in-the-value"),
        pytest.param('{"token":"ab\\\\", "d":1,', '{"token":"[REDACTED]", "d":1,', id="backslash-at-the-end"),
        pytest.param(
            'curl -d "{\\"password\\":\\"x y\\",\\"b\\":1}"',
            'curl -d "{\\"password\\":\\"[REDACTED]\\",\\"b\\":1}"',
            id="escaped-for-a-shell",
        ),
        pytest.param(
            '{\\"password\\":\\"a\\\\\\"b\\",\\"c\\":1}',
            '{\\"password\\":\\"[REDACTED]\\",\\"c\\":1}',
            id="escaped-with-a-quote-in-the-value",
        ),
        pytest.param('{\\"token\\":{\\"a\\":\\"}\\"}}', '{\\"token\\":\\"[REDACTED]\\"', id="escaped-object"),
        pytest.param('{"pass\\u0077ord" :\n "x",}', '{"pass\\u0077ord" :\n "[REDACTED]",}', id="escaped-letter"),
        pytest.param('{"token": secret_value}', '{"token": "[REDACTED]"}', id="no-literal-of-json"),
        pytest.param('{"token": null, "x": 1,}', '{"token": null, "x": 1,}', id="null"),
        pytest.param('{"token": "[REDACTED]",}', '{"token": "[REDACTED]",}', id="hidden-already"),
        pytest.param('{"max_tokens": 5,}', '{"max_tokens": 5,}', id="allowed"),
        pytest.param('{"a": "password", "b": "token"}', '{"a": "password", "b": "token"}', id="as-values"),
        pytest.param('"token"', '"token"', id="no-colon"),
        pytest.param('the token: "abc"', 'the token: "abc"', id="no-quotes"),
        pytest.param('"token":', '"token":', id="no-value"),
        pytest.param('": x', '": x', id="no-name"),
    ],
)
def test_values_under_sensitive_names_are_hidden(text: str, expected: str) -> None:
    """Also in what is no JSON by itself, and the rest of the text stays."""
    assert stored(text) == expected
    assert stored(expected) == expected


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ['"', '\\"', "\\", '"a', '"a":', '"token":', '"token":"', '"token":\\"', '"token":[', '"token":[]', '"token":["\\',
     '"token" ', '"token":  ', '\\"token\\":\\"', '":', '":\\n', '"token":"a",'],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", '"token":"', '"token":['])
@pytest.mark.slow
def test_a_megabyte_made_to_be_slow_is_not(unit: str, prefix: str) -> None:
    """The search is linear; a quadratic one would need hours for this."""
    text = (prefix + unit * (1_000_000 // len(unit))).encode()
    hidden_fragments(text, KEYS)
