"""Secrets that show by their shape."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.middleware.redact import Redactor
from mcp_audit.middleware.shapes import FAMILIES, find, suspects
from mcp_audit.middleware.splice import HIDDEN, merged, spliced

RANDOM = "0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX2yZ3"  # put together here, so that no scanner takes this file for a leak
JWT = "ey" + "JhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + RANDOM
KEY_BLOCK = "-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEpAIBAAKC\nabc=\n-----END RSA PRIVATE" + " KEY-----"


def stored(text: str) -> str:
    """Hide what `find` says, after `suspects` had its say about the text as JSON."""
    raw = text.encode()
    spans = find(raw, suspects(raw))
    return spliced(raw, merged([(*span, HIDDEN) for span in spans])).decode()


@pytest.mark.parametrize(
    ("before", "secret", "after"),
    [
        pytest.param("id ", "AKIA" + "IOSFODNN7EXAMPLE", " ok", id="aws-key-id"),
        pytest.param("", "ASIA" + "IOSFODNN7EXAMPLE", "", id="aws-temporary-key-id"),
        pytest.param("AWS_SECRET_ACCESS_KEY=", RANDOM, "\n", id="aws-secret-in-environment"),
        pytest.param("aws_secret_access_key = ", RANDOM[:38] + "/+", "\n", id="aws-secret-in-credentials-file"),
        pytest.param("see ", JWT, ".", id="jwt"),
        pytest.param("", "eyJhbGciOiJkaXIifQ" + "..aXY.Y2lwaGVydGV4dA.dGFn", "", id="jwe"),
        pytest.param("x\n", KEY_BLOCK, "\ny", id="pem"),
        pytest.param("x ", KEY_BLOCK[:60], "", id="pem-cut-off"),
        pytest.param("", "-----BEGIN OPENSSH PRIVATE" + " KEY-----\nabc", "", id="openssh"),
        pytest.param("", "-----BEGIN PGP PRIVATE" + " KEY BLOCK-----\nabc", "", id="pgp"),
        pytest.param("(", "ghp_" + RANDOM[:36], ")", id="github-classic"),
        pytest.param("", "gho_" + RANDOM[:36], "", id="github-oauth"),
        pytest.param("", "ghu_" + RANDOM[:36], "", id="github-user-to-server"),
        pytest.param("", "ghs_" + RANDOM[:36], "", id="github-installation"),
        pytest.param("", "ghr_" + RANDOM[:36], "", id="github-refresh"),
        pytest.param("", "github_pat_" + RANDOM[:22] + "_" + RANDOM, "", id="github-fine-grained"),
        pytest.param("", "xoxb-" + "1234567890-abcdefghij", "", id="slack-bot"),
        pytest.param("", "xoxd-" + "abc%2Bdefghijkl", "", id="slack-cookie"),
        pytest.param("", "xapp-" + "1-A0B1C2-1234567890-abc", "", id="slack-app"),
        pytest.param("key=", "sk-" + RANDOM, "", id="openai"),
        pytest.param("", "sk-proj-" + "abc_DEF-" + RANDOM, "", id="openai-project"),
        pytest.param("", "sk-ant-api03-" + RANDOM + "-AA", "", id="anthropic"),
        pytest.param("Authorization: Bearer ", "abc.def-ghi", "\r\n", id="bearer-header"),
        pytest.param("-H 'authorization: bearer ", "short", "'", id="bearer-in-a-command"),
        pytest.param("Bearer ", "mF_9.B5f-4.1JqM==", " x", id="bearer-token"),
        pytest.param("postgres://bob:", "hunter2", "@db:5432/x", id="url-password"),
        pytest.param("https://bob:", "p@ss:w*rd", "@host/", id="url-password-with-signs"),
        pytest.param("redis://:", "hunter2", "@cache", id="url-without-user"),
    ],
)
def test_known_shapes_are_hidden_and_nothing_else(before: str, secret: str, after: str) -> None:
    """Only the secret goes; what stands around it stays."""
    assert stored(before + secret + after) == before + "[REDACTED]" + after


@pytest.mark.parametrize(
    "text",
    [
        "AKIA is a prefix; AKIAIOSFODNN7EXAMPLEandmore is none",
        "task-management-and-more-things, risk-assessment-of-2024-and-later",
        "sk-loading-spinner-container-wrapper",
        "the bearer of bad news; Bearer authentication is required",
        'WWW-Authenticate: Bearer resource_metadata="https://x.example/.well-known/y", error="invalid_token"',
        "curl -H 'Authorization: Bearer $TOKEN'",
        "https://example.com:8080/a@b, bob@example.com, ssh://git@host/x",
        "https://bob@host/",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "ghp_short xoxb-short eyJ0 sk-1",
        "xoxo, see you",
        "a.eyJabcdefgh",
    ],
)
def test_what_only_looks_similar_stays(text: str) -> None:
    """Ordinary text is evidence, and is kept."""
    assert stored(text) == text


def test_secrets_that_touch_are_both_hidden() -> None:
    """Where one ends with a sign that may stand inside the other, neither shields the other."""
    assert stored(KEY_BLOCK + JWT) == "[REDACTED][REDACTED]"


@pytest.mark.parametrize("escaped", [r"\u0067hp_", r"g\u0068p_", r"ghp\u005f", r"\\u0067hp_", r"\u005cu0067hp_"])
def test_a_secret_is_found_however_its_letters_are_spelled(escaped: str) -> None:
    """An escape for an ASCII letter makes every family a suspect, at any level of JSON in strings."""
    assert suspects(b'{"a":"%s"}' % escaped.encode()) == FAMILIES


def test_escapes_of_other_letters_are_no_reason_to_suspect() -> None:
    """Encoders that write only ASCII escape accents and dashes everywhere."""
    assert suspects(rb'{"a":"caf\u00e9 \u2014 \ud83d\ude00 \n"}') == ()


MEGABYTE = 1_000_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    [
        "eyJ", "eyJaaaaaaaaa.", "eyJaaaaaaaaa", "ghp_", "ghp_a", "github_pat_", "sk-", "sk-a", "sk-a-", "xox", "xoxa-",
        "xapp-", "AKIAA", "://", "://a:", "://a:b", "://:", "a:b@", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----",
        "-----END ", "bearer ", "bearer a", "Bearer aaaaaaaaaaaaaaaaa=", "earer", "authorization:bearer ",
        "authorization: ", "secret_access_key=", "secret_access_key=a", "aB3_", "\\", "@",
    ],
)  # fmt: skip
def test_a_megabyte_made_to_be_slow_is_not(unit: str) -> None:
    """Every expression is linear; a quadratic one would need an hour for this."""
    find((unit * (MEGABYTE // len(unit))).encode(), FAMILIES)


secret_pieces = st.sampled_from(
    ["AKIA", "IOSFODNN7EXAMPLE", "ghp_", RANDOM, JWT, "sk-", "bearer ", "://", ":", "@", "xoxb-", "[REDACTED]", " ",
     "a", "1", "_", "-", ".", "=", "\n", "\u2014", '"', "\\", "/", "x", KEY_BLOCK, "authorization: "]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(secret_pieces, max_size=12).map("".join))
def test_hiding_twice_is_hiding_once(text: str) -> None:
    """What stands in place of a secret makes no new one out of its surroundings."""
    once = stored(text)
    assert stored(once) == once


def as_sent(text: str, ascii_only: bool, levels: int) -> bytes:
    """Return a JSON string that says a text, or that says JSON that says it."""
    for _ in range(levels):
        text = json.dumps(text, ensure_ascii=ascii_only)
    return text.replace("/", "\\/" if ascii_only else "/").encode()


@settings(deadline=None)
@given(st.lists(secret_pieces, max_size=12).map("".join), st.booleans(), st.integers(1, 3))
def test_a_family_with_a_hit_is_always_suspected(text: str, ascii_only: bool, levels: int) -> None:
    """The cheap look at a whole JSON text may raise false alarms, and never misses."""
    suspected = suspects(as_sent(text, ascii_only, levels))
    for family in FAMILIES:
        assert not find(text.encode(), [family]) or family in suspected


def test_values_can_be_switched_off() -> None:
    """With `values: false` only keys decide."""
    text = b'{"text":"ghp_%s"}' % RANDOM.encode()

    assert Redactor(("token",), values=False).redact(text) == (text, [])
    assert Redactor(("token",)).redact(text) == (b'{"text":"[REDACTED]"}', ["/text"])
