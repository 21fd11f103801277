"""Our own errors: the exact bytes, and a code for each kind and era."""

from __future__ import annotations

import json

import pytest

from mcp_audit.wire.message import Era
from mcp_audit.wire.refusal import REFUSALS, error_object, error_response

LEGACY, MODERN = Era.LEGACY, Era.MODERN


def test_the_bytes_of_a_denial() -> None:
    """Compact, the id byte for byte, author and kind first: the shape that clients may rely on."""
    data = {"action": "deny", "rule_index": 0, "reason": "no"}

    assert error_response(b"7.0", "policy_denied", LEGACY, "01J", data) == (
        b'{"jsonrpc":"2.0","id":7.0,"error":{"code":-32030,"message":"policy denied","data":{"source":"mcp-audit",'
        b'"kind":"policy_denied","entry_id":"01J","action":"deny","rule_index":0,"reason":"no"}}}'
    )


@pytest.mark.parametrize(
    ("kind", "message", "legacy", "modern"),
    [
        ("rate_limited", "rate limited", -32029, -31029),
        ("policy_denied", "policy denied", -32030, -31030),
        ("audit_unavailable", "audit unavailable", -32031, -31031),
        ("upstream_unavailable", "upstream unavailable", -32032, -31032),
        ("upstream_timeout", "upstream timed out", -32032, -31032),
        ("ambiguous_message", "ambiguous message", -32600, -32600),
        ("message_too_large", "message too large", -32600, -32600),
        ("batch_rejected", "batch rejected", -32600, -32600),
        ("origin_rejected", "origin rejected", -32600, -32600),
        ("header_mismatch", "header mismatch", -32020, -32020),
    ],
)
def test_each_kind_has_a_code_per_era(kind: str, message: str, legacy: int, modern: int) -> None:
    """MCP 2026-07-28 reserves the range of the legacy codes, so modern requests get others."""
    for era, code in ((LEGACY, legacy), (MODERN, modern)):
        error = json.loads(error_object(kind, era, None, {}))
        assert error == {"code": code, "message": message, "data": {"source": "mcp-audit", "kind": kind}}


def test_no_kind_is_left_out() -> None:
    """The table above is the whole list."""
    assert len(REFUSALS) == 10


@pytest.mark.parametrize("token", [b"0", b'""', b'"\\ud800"', b"1e2", b"null", b"123456789012345678901234567890"])
def test_the_id_is_not_spelled_anew(token: bytes) -> None:
    """A client compares what it sent; 1e2 must not become 100."""
    response = error_response(token, "rate_limited", MODERN, None, {})

    assert response.startswith(b'{"jsonrpc":"2.0","id":%b,"error":{' % token)


def test_an_error_without_a_request_has_no_id() -> None:
    """A denied notification is answered over HTTP, where there is no id to give."""
    assert b'"id"' not in error_response(b"", "policy_denied", LEGACY, None, {})


def test_a_reason_cannot_break_a_line_or_the_encoding() -> None:
    """Whatever a tool is called, the answer is one line of ASCII."""
    response = error_response(b"1", "policy_denied", LEGACY, None, {"reason": 'é\u2028\ud800\n"'})

    assert response.isascii()
    assert b"\n" not in response
    assert json.loads(response)["error"]["data"]["reason"] == 'é\u2028\ud800\n"'
