"""How much of a payload the record keeps."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.ledger.entry import Entry, encode
from mcp_audit.middleware.capture import (
    Capture,
    begin_commitment,
    commitment,
    elide,
    end_commitment,
    without_control_bytes,
)

KEY = b"k" * 32


def entry(**payloads: Any) -> Entry:
    return Entry(
        "01KSFJ34FV6W9K6ZD7VJ4Q8X4R", "2026-05-25T12:34:56.123450Z", "client_to_server", "stdio", "m", **payloads
    )


def test_a_commitment_is_what_the_format_says() -> None:
    """c = b64u(H(label || 0 || salt || value)), salt = HMAC(K_red, id || 0 || pointer)[:16]."""
    salt = hmac.new(KEY, b"01AB\0/result", hashlib.sha256).digest()[:16]
    expected = hashlib.sha256(b"mcp-audit/v1 redact\0" + salt + b'{"a":1}').digest()

    assert commitment(KEY, "01AB", "/result", b'{"a":1}') == base64.urlsafe_b64encode(expected).decode().rstrip("=")


def test_a_commitment_can_be_made_while_the_value_streams() -> None:
    """Hashed in pieces it is the same."""
    hashed = begin_commitment(KEY, "01AB", "/raw")
    hashed.update(b'{"a"')
    hashed.update(b":1}")

    assert end_commitment(hashed) == commitment(KEY, "01AB", "/raw", b'{"a":1}')


def test_equal_values_in_different_lines_look_different() -> None:
    """The salt hangs on line and pointer."""
    made = {commitment(KEY, id_, pointer, b"1") for id_ in "ab" for pointer in ("/params", "/result")}

    assert len(made) == 4


@pytest.mark.parametrize("name", ["params", "result", "error", "raw"])
@pytest.mark.parametrize("redacted", [True, False])
def test_payloads_above_the_limit_become_size_and_commitment(name: str, redacted: bool) -> None:
    """Each payload is judged by itself; at exactly its limit it stays."""
    capture = Capture(1024, redact_key=KEY, redacted=redacted)
    at, above = b'"%s"' % (b"x" * 1022), b'"%s"' % (b"x" * 1023)
    small = capture(entry(**{name: at}))
    large = capture(entry(**{"params": b"{}", name: above}))

    assert small.elided == []
    assert small.raw_b64 or getattr(small, name) == at
    assert getattr(large, name) == b""
    assert name == "params" or large.params == b"{}"
    assert large.elided == [
        {"p": f"/{name}", "bytes": 1025, "why": "size", "c": commitment(KEY, large.id, f"/{name}", above)}
    ]


def test_without_a_secret_there_is_no_commitment() -> None:
    """An unsalted hash of a short secret could be guessed."""
    assert Capture(1024)(entry(error=b" " * 2000)).elided == [{"p": "/error", "bytes": 2000, "why": "size"}]


def test_digest_keeps_no_payload() -> None:
    """Every payload becomes its size and commitment, whatever it is; what was elided before stays listed."""
    known = {"p": "/raw", "bytes": 9, "why": "size"}
    shaped = Capture(1024, "digest", KEY)(entry(params=b"{}", result=b"\xff", error=b"{}", elided=[known]))

    assert (shaped.params, shaped.result, shaped.error) == (b"", b"", b"")
    assert [(e["p"], e["bytes"], e["why"]) for e in shaped.elided] == [
        ("/raw", 9, "size"),
        ("/params", 2, "capture"),
        ("/result", 1, "capture"),
        ("/error", 2, "capture"),
    ]


DEEP = b"[" * 512 + b"]" * 512
TOO_DEEP = b"[" * 513 + b"]" * 513


@pytest.mark.parametrize(
    ("payload", "strict"),
    [
        pytest.param(b'{"a":1.10,"a":1e2,"b":123456789012345678901234567890}', True, id="odd-numbers-repeated-names"),
        pytest.param(b'"\\ud800"', True, id="lone-surrogate"),
        pytest.param(b"1e999", True, id="beyond-double"),
        pytest.param(b"1" * 5000, True, id="5000-digits"),
        pytest.param(DEEP, True, id="512-levels"),
        pytest.param(b"[" + b"[[]]," * 400 + b"0]", True, id="many-brackets-not-deep"),
        pytest.param(b" null ", True, id="spaces"),
        pytest.param(TOO_DEEP, False, id="513-levels"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, False, id="100000-levels"),
        pytest.param(b'"\xff"', False, id="invalid-utf8"),
        pytest.param(b'"\xed\xa0\x80"', False, id="surrogate-in-utf8"),
        pytest.param(b"\xef\xbb\xbf{}", False, id="bom"),
        pytest.param(b"NaN", False, id="nan"),
        pytest.param(b'{"a":Infinity}', False, id="infinity"),
        pytest.param(b'"a\x01b"', False, id="control-character"),
        pytest.param(b'{"a":1,}', False, id="trailing-comma"),
        pytest.param(b"{} {}", False, id="two-values"),
        pytest.param(b'{"a"', False, id="cut-off"),
    ],
)
def test_unredacted_payloads_are_spliced_or_encoded(payload: bytes, strict: bool) -> None:
    """With redaction off strict JSON goes into the line as it stands, anything else as base64."""
    shaped = Capture(1 << 20, "full", KEY, redacted=False)(entry(params=payload, result=payload, error=payload))
    if strict:
        assert (shaped.params, shaped.result, shaped.error) == (payload, payload, payload)
        assert shaped.elided == []
    else:
        assert (shaped.params, shaped.result, shaped.error) == (b"", b"", b"")
        assert base64.b64decode(shaped.params_b64) == base64.b64decode(shaped.result_b64) == payload
        assert [(e["p"], e["why"]) for e in shaped.elided] == [("/error", "unredactable")]


def test_opaque_messages_are_encoded() -> None:
    """With redaction off a message that is not JSON-RPC is kept as base64; with it on the redactor drops it."""
    assert base64.b64decode(Capture(1024, "full", redacted=False)(entry(raw=b"noise\n")).raw_b64) == b"noise\n"
    assert Capture(1024)(entry(raw=b"noise\n")).raw == b"noise\n"


def test_only_a_text_with_control_bytes_loses_its_white_space() -> None:
    """A line has no raw newline. White space inside strings is never touched."""
    pretty = b'{\r\n\t"a b" : [ 1 ,\n 2 ],\n "c\\n d\\"" : " x "\n}'

    assert without_control_bytes(pretty) == b'{"a b":[1,2],"c\\n d\\"":" x "}'
    assert without_control_bytes(b'{ "a" : 1 }') == b'{ "a" : 1 }'


def test_elide_takes_the_payload_out() -> None:
    """What is elided is nowhere else in the entry."""
    shaped = entry(result=b"secret")
    elide(shaped, "result", "unredactable", None)

    assert shaped.result == b""
    assert b"secret" not in encode(shaped).body


@settings(deadline=None)
@given(
    st.binary(max_size=60) | st.text(max_size=30).map(str.encode),
    st.sampled_from(["full", "digest", "redacted"]),
    st.integers(1, 40),
)
def test_no_content_raises_or_breaks_the_line(
    payload: bytes, mode: Literal["full", "digest", "redacted"], limit: int
) -> None:
    """Whatever a peer sends, the line is one JSON object without raw control bytes."""
    shaped = Capture(limit, mode, KEY, redacted=False)(
        entry(params=payload, result=payload, error=payload, raw=payload)
    )
    line = encode(shaped).body + b"}"

    assert min(line) >= 0x20
    assert json.loads(line)["id"] == shaped.id
