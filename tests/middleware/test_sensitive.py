"""Which keys hide their values."""

from __future__ import annotations

import pytest

from mcp_audit.middleware.sensitive import SensitiveKeys

PATTERNS = ("password", "token", "secret", "api_key", "private_key")
ALLOW = ("max_tokens", "progressToken")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("password", id="whole"),
        pytest.param("db_password_2", id="inside"),
        pytest.param("PassWord", id="case"),
        pytest.param("ｐａｓｓｗｏｒｄ", id="fullwidth"),
        pytest.param("paſſword", id="long-s"),
        pytest.param("pass\u00adword", id="soft-hyphen"),
        pytest.param("pass\u200bword", id="zero-width-space"),
        pytest.param("apiKey", id="camel-case"),
        pytest.param("X-API-Key", id="header"),
        pytest.param("api key", id="two-words"),
        pytest.param("privateKeyPem", id="camel-case-inside"),
        pytest.param("MAX_TOKENS", id="allow-is-exact"),
        pytest.param("max_tokens ", id="allow-is-whole"),
        pytest.param("requestState", id="state-of-a-round-trip"),
        pytest.param("REQUESTSTATE", id="state-in-capitals"),
        pytest.param("password\ud800", id="lone-surrogate"),
        pytest.param("x" * 1000 + "token", id="long"),
    ],
)
def test_names_that_hide(name: str) -> None:
    """A pattern is found as a part of the name, in any case, width and joining."""
    assert SensitiveKeys(PATTERNS, ALLOW)[name]


@pytest.mark.parametrize(
    "name",
    ["", "path", "pass word", "passwor", "max_tokens", "progressToken", "request_state", "apikiey", "tok_en", "\ud800"],
)
def test_names_that_do_not(name: str) -> None:
    """What no pattern is part of, and what `allow` lists exactly as written."""
    assert not SensitiveKeys(PATTERNS, ALLOW)[name]


def test_the_state_of_a_round_trip_cannot_be_allowed() -> None:
    """Who holds MCP's requestState can continue the request, so no setting shows it."""
    assert SensitiveKeys((), ("requestState",))["requestState"]


def test_patterns_are_folded_like_names() -> None:
    """A pattern in capitals or full width finds plain names; one without content finds nothing."""
    assert SensitiveKeys(("ＴＯＫＥＮ",))["mytoken"]
    assert not SensitiveKeys(("", "\u200b", "_"))["anything"]


def test_memory_is_bounded() -> None:
    """Names come from peers: neither their number nor their length is theirs to choose."""
    keys = SensitiveKeys(PATTERNS)
    for i in range(10_000):
        assert not keys[f"name{i}"]
    assert not keys["x" * 100_000]

    assert len(keys) <= 4096
    assert len(keys.harmless) <= 4096
    assert max(map(len, keys)) <= 128
