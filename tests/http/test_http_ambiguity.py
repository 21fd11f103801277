"""What two parsers read differently: refused over HTTP where anything is enforced, and else passed and marked."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from http_hop import Hop
from http_messages import ACCEPT, JSON, call, error, message, post
from http_peers import Request

sys.path.insert(0, str(Path(__file__).parent.parent / "wire"))

from hostile import FORBIDDEN, HOSTILE, LEGITIMATE

# Only where lines are messages does a carriage return divide one.
_MEANINGLESS_HERE = {"cr-inside-legal-json"}
DISGUISES = [pytest.param(text, id=name) for name, text in HOSTILE if name not in _MEANINGLESS_HERE]
ODD = [pytest.param(text, id=name) for name, text in LEGITIMATE]

SLUGS = [
    pytest.param("not_json", b"{not json", "null", id="not_json"),
    pytest.param("not_json", b"", None, id="empty"),
    pytest.param("not_json", call() + call(), "null", id="two"),
    pytest.param("invalid_utf8", call(text="x").replace(b'"x"', b'"\xff"'), 7, id="invalid_utf8"),
    pytest.param("bom", b"\xef\xbb\xbf" + call(), 7, id="bom"),
    pytest.param("utf16", call().decode().encode("utf-16"), "null", id="utf16"),
    pytest.param("duplicate_key", call().replace(b'"name"', b'"name":"read_file","name"'), 7, id="duplicate_key"),
    pytest.param("case_variant_key", call().replace(b'"method"', b'"Method"'), 7, id="case_variant_key"),
    pytest.param("escaped_key", call().replace(b'"method"', b'"m\\u0065thod"'), 7, id="escaped_key"),
    pytest.param("number_range", call(id=2**53), None, id="number_range"),
    pytest.param(
        "too_deep", call().replace(b'"arguments":{', b'"arguments":{"a":' + b"[" * 600 + b"]" * 600), None, id="deep"
    ),
    pytest.param("bad_text", call("read\x00file"), 7, id="bad_text"),
    pytest.param("shape", call().replace(b'{"jsonrpc"', b'{"result":1,"jsonrpc"'), 7, id="shape"),
]


@pytest.mark.parametrize(("slug", "body", "id_"), SLUGS)
def test_an_ambiguous_body(hop: Hop, slug: str, body: bytes, id_: object) -> None:
    """400 with -32600 and the slug; with nothing to enforce the bytes pass, and the line has the slug."""
    request = post(body)
    if not hop.enforces:
        hop.golden(request, 400, [JSON], error(-32700, "Parse error"))
        if body:
            hop.record(outcome="opaque", marks=lambda marks: marks and slug in marks)
        return
    if not body:
        hop.golden(request, 400, [JSON], error(-32700, "Parse error"))
        return
    client = hop.client()
    client.ask(request)
    response = client.response()
    raw = response.read()
    refused = json.loads(raw)
    assert response.status == 400, raw
    assert (refused["error"]["code"], refused["error"]["data"]["kind"]) == (-32600, "ambiguous_message")
    line = hop.record(id=refused["error"]["data"]["entry_id"], outcome="denied", http={"status": 400})
    assert refused["error"]["data"]["reason"] in line["marks"]
    assert slug in line["marks"]
    if id_ is not None:
        assert refused["id"] == (None if id_ == "null" else id_)
    assert hop.upstream.is_idle()


@pytest.mark.parametrize("body", DISGUISES)
def test_no_disguise_of_a_denied_call_reaches_the_upstream(enforcing: Hop, body: bytes) -> None:
    """Whatever the spelling, encoding or shape; it is refused in words, and recorded."""
    client = enforcing.client()
    client.ask(Request(b"POST", b"/mcp", (JSON, ACCEPT), body))
    response = client.response()
    told = response.read()
    assert response.status in (200, 400, 403), told
    assert b'"source":"mcp-audit"' in told
    assert enforcing.upstream.is_idle()
    assert enforcing.record(outcome="denied", http={"status": response.status})


@pytest.mark.parametrize("body", DISGUISES)
def test_with_nothing_to_enforce_every_body_passes(neutral: Hop, body: bytes) -> None:
    """Byte for byte; the upstream decides, and the line keeps what it can."""
    neutral.golden(post(body), 400, [JSON], error(-32600, "Invalid Request"))
    neutral.record(direction="client_to_server")


@pytest.mark.parametrize("body", ODD)
def test_legal_but_odd_is_not_ambiguous(hop: Hop, body: bytes) -> None:
    """It passes where everything is enforced."""
    headers = [(b"MCP-Protocol-Version", b"2026-07-28"), (b"Mcp-Method", b"tools/call"), (b"Mcp-Name", b"read_file")]
    hop.golden(post(body, *headers), 202)
    if not hop.is_direct:
        assert not [line["marks"] for line in hop.lines() if "marks" in line]


def test_server_messages_are_always_forwarded(hop: Hop) -> None:
    """However odd; they are recorded as what they are."""
    for body in (b"{not json", b"\xef\xbb\xbf{}", call(FORBIDDEN), b"[1]", message("tools/call", 1)):
        hop.golden(post(call(id=1)), 200, [JSON], body)
