"""Headers against body: what a router reads must be what the server reads."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request, encode_header_value

from mcp_audit.wire.header_check import header_mismatch
from mcp_audit.wire.message import Direction, Message, parse
from mcp_audit.wire.peers import PROTOCOL_VERSION

VERSION = "2026-07-28"
META = {PROTOCOL_VERSION: VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}, "_meta": META}}
Headers = list[tuple[bytes, bytes]]


def message(body: dict[str, Any]) -> Message:
    (found,) = parse(json.dumps(body).encode(), Direction.TO_SERVER, line=False).messages
    return found


def request(method: str = "tools/call", **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}


def headers(
    version: bytes | None = VERSION.encode(), method: bytes | None = b"tools/call", name: bytes | None = b"echo"
) -> Headers:
    pairs = [(b"MCP-Protocol-Version", version), (b"Mcp-Method", method), (b"Mcp-Name", name)]
    return [(b"Accept", b"*/*"), *((key, value) for key, value in pairs if value is not None)]


B64 = b"=?base64?w6k=?="  # é


def sentinel(text: str) -> bytes:
    return b"=?base64?%b?=" % b64encode(text.encode())


@pytest.mark.parametrize(
    ("body", "given"),
    [
        pytest.param(CALL, headers(), id="equal"),
        pytest.param(CALL, [(name.upper(), value) for name, value in headers()], id="upper-case"),
        pytest.param(CALL, [(name.lower(), value) for name, value in headers()], id="lower-case"),
        pytest.param(CALL, headers(b" \t2026-07-28 ", b"\ttools/call", b"  echo  "), id="white-space"),
        pytest.param(CALL, headers(name=sentinel("echo")), id="base64-of-plain-text"),
        pytest.param(request(name="é☃"), headers(name=sentinel("é☃")), id="base64"),
        pytest.param(request(name=" a "), headers(name=sentinel(" a ")), id="base64-with-spaces"),
        pytest.param(request(name=""), headers(name=b""), id="empty"),
        pytest.param(request(name=""), headers(name=sentinel("")), id="empty-base64"),
        pytest.param(request(name="=?base64?aGk"), headers(name=b"=?base64?aGk"), id="half-a-sentinel-is-text"),
        pytest.param(request(name="=?BASE64?aGk=?="), headers(name=b"=?BASE64?aGk=?="), id="the-sentinel-has-one-case"),
        pytest.param(request("resources/read", uri="é"), headers(method=b"resources/read", name=B64), id="uri"),
        pytest.param(request("prompts/get", name="p"), headers(method=b"prompts/get", name=b"p"), id="prompt"),
        pytest.param(request("tools/list"), headers(method=b"tools/list", name=None), id="no-name-needed"),
        pytest.param(request("tools/list"), headers(method=b"tools/list", name=b"x"), id="a-name-nobody-asked-for"),
        pytest.param(request("prompts/get"), headers(method=b"prompts/get", name=None), id="no-name-anywhere"),
        pytest.param(CALL, [*headers(), (b"Mcp-Param-X", b"1"), (b"Mcp-Param-X", b"2")], id="params-are-not-judged"),
    ],
)  # fmt: skip
def test_headers_that_repeat_the_body_agree(body: dict[str, Any], given: Headers) -> None:
    """However they are spelled."""
    assert header_mismatch(given, message(body)) is None


@pytest.mark.parametrize(
    ("body", "given", "words"),
    [
        pytest.param(CALL, headers(version=None), "MCP-Protocol-Version is missing", id="no-version"),
        pytest.param(CALL, headers(method=None), "Mcp-Method is missing", id="no-method"),
        pytest.param(CALL, headers(name=None), "Mcp-Name is missing", id="no-name"),
        pytest.param(CALL, headers(version=b"2025-11-25"), "MCP-Protocol-Version is not what _meta", id="version"),
        pytest.param(CALL, headers(method=b"tools/list"), "Mcp-Method is not what method", id="method"),
        pytest.param(CALL, headers(method=b"Tools/Call"), "Mcp-Method is not what method", id="case-of-a-value"),
        pytest.param(CALL, headers(name=b"ping"), "Mcp-Name is not what params.name", id="name"),
        pytest.param(CALL, headers(name=sentinel("ping")), "Mcp-Name is not what params.name", id="base64-name"),
        pytest.param(CALL, headers(name=b'"echo"'), "Mcp-Name is not what params.name", id="quoted"),
        pytest.param(CALL, headers(name=b"echo, echo"), "Mcp-Name is not what params.name", id="list"),
        pytest.param(CALL, [*headers(), (b"mcp-name", b"echo")], "Mcp-Name is there 2 times", id="twice-alike"),
        pytest.param(CALL, [(b"MCP-METHOD", b"ping"), *headers()], "Mcp-Method is there 2 times", id="twice"),
        pytest.param(request(name="é"), headers(name="é".encode()), "Mcp-Name is malformed", id="utf8"),
        pytest.param(request(name="é"), headers(name="é".encode("latin-1")), "Mcp-Name is malformed", id="latin-1"),
        pytest.param(CALL, headers(name=b"=?base64?ZWNobw?="), "Mcp-Name is malformed", id="no-padding"),
        pytest.param(CALL, headers(name=b"=?base64?ZWNob!==?="), "Mcp-Name is malformed", id="no-base64"),
        pytest.param(CALL, headers(name=b"=?base64?ZWNobx==?="), "Mcp-Name is malformed", id="odd-last-bits"),
        pytest.param(CALL, headers(name=b"=?base64? ZWNobw==?="), "Mcp-Name is malformed", id="space-in-base64"),
        pytest.param(CALL, headers(name=b"=?base64?/w==?="), "Mcp-Name is malformed", id="base64-of-no-utf8"),
        pytest.param(request(name=""), headers(name=b"=?base64?="), "Mcp-Name is malformed", id="overlapping-sentinel"),
        pytest.param(
            request("resources/read", uri="a"),
            headers(method=b"resources/read", name=b"b"),
            "Mcp-Name is not what params.uri",
            id="uri",
        ),
        pytest.param(
            request("prompts/get"),
            headers(method=b"prompts/get", name=b"p"),
            "Mcp-Name is not what params.name",
            id="made-up-name",
        ),
        pytest.param(CALL, [], "MCP-Protocol-Version is missing", id="none-at-all"),
    ],
)  # fmt: skip
def test_a_disagreement_is_named(body: dict[str, Any], given: Headers, words: str) -> None:
    """Missing, repeated, malformed or different; the words quote nothing that a peer wrote."""
    reason = header_mismatch(given, message(body))

    assert reason is not None
    assert reason.startswith(words)


LEGACY = [
    pytest.param({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}, id="no-meta"),
    pytest.param(request() | {"params": {"name": "x", "_meta": {PROTOCOL_VERSION: 7}}}, id="version-is-no-string"),
    pytest.param({"jsonrpc": "2.0", "id": 1, "result": {"_meta": META}}, id="response"),
    pytest.param({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}, id="initialize"),
]


@pytest.mark.parametrize("body", LEGACY)
def test_legacy_messages_are_never_compared(body: dict[str, Any]) -> None:
    """Whatever the headers say: they do not decide the era."""
    assert header_mismatch(headers(method=b"else", name=b"else"), message(body)) is None
    assert header_mismatch([], message(body)) is None


def test_a_notification_may_come_without_headers_but_not_with_wrong_ones() -> None:
    """Servers require them of requests only."""
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "_meta": META}}

    assert header_mismatch([], message(body)) is None
    assert header_mismatch(headers(method=b"notifications/cancelled", name=None), message(body)) is None
    assert header_mismatch(headers(method=b"tools/call", name=None), message(body)) is not None
    assert header_mismatch([(b"mcp-protocol-version", b"2025-11-25")], message(body)) is not None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["=?base64??=", "=?base64?eA==?=", " a", "é", ""]
)


@given(TEXTS)
def test_what_an_sdk_writes_agrees(name: str) -> None:
    """Any name, through the encoder of the official SDK; but `=?base64?=`, about which the SDKs differ."""
    given = headers(name=encode_header_value(name).encode())

    assert header_mismatch(given, message(request(name=name))) is None


VALUES = st.sampled_from(
    [b"echo", b"echo ", b"ech", sentinel("echo"), b"=?base64?ZWNobw?=", b"=?base64?ZWNobx==?=", b"=?base64?", b""]
)


@given(VALUES, VALUES | st.none(), st.sampled_from(["echo", "", "=?base64?"]))
def test_what_an_sdk_rejects_disagrees(value: bytes, method: bytes | None, name: str) -> None:
    """Nothing passes here that the official SDK's server would call a mismatch."""
    method = b"tools/call" if method is None else method
    given = headers(method=method, name=value)
    body = request(name=name)
    if header_mismatch(given, message(body)) is None:
        lines = {key.decode().lower(): text.decode().strip(" \t") for key, text in given}
        assert isinstance(classify_inbound_request(body, headers=lines), InboundModernRoute)
