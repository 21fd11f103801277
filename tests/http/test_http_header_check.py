"""Modern headers mirror the body: the body decides, and a mirror that lies is refused where anything is enforced."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from http_hop import Hop
from http_messages import JSON, answer, call, error, modern, post


def b64(text: str) -> bytes:
    """Return a header value that ASCII cannot hold, as the specification encodes it."""
    return b"=?base64?" + base64.b64encode(text.encode()) + b"?="


AGREE = [
    pytest.param({}, id="plain"),
    pytest.param({b"Mcp-Name": b"  echo \t"}, id="blanks-around"),
    pytest.param({b"Mcp-Name": b64("echo")}, id="base64-though-ascii"),
    pytest.param({b"Mcp-Param-Region": b"nowhere in the body"}, id="params-are-never-judged"),
    pytest.param({b"Mcp-Session-Id": b"stray"}, id="stray-session"),
]
MISMATCHES = [
    pytest.param({b"Mcp-Method": None}, id="method-missing"),
    pytest.param({b"Mcp-Method": b"tools/list"}, id="method-different"),
    pytest.param({b"Mcp-Method": b"Tools/Call"}, id="method-case"),
    pytest.param({b"Mcp-Method": [b"tools/call", b"tools/call"]}, id="method-repeated"),
    pytest.param({b"Mcp-Method": b""}, id="method-empty"),
    pytest.param({b"Mcp-Name": None}, id="name-missing"),
    pytest.param({b"Mcp-Name": b"delete_file"}, id="name-different"),
    pytest.param({b"Mcp-Name": [b"echo", b"delete_file"]}, id="name-repeated"),
    pytest.param({b"Mcp-Name": b64("delete_file")}, id="name-base64-different"),
    pytest.param({b"Mcp-Name": b"=?base64?!!?="}, id="name-base64-malformed"),
    pytest.param({b"MCP-Protocol-Version": None}, id="version-missing"),
    pytest.param({b"MCP-Protocol-Version": b"2025-11-25"}, id="version-different"),
    pytest.param({b"MCP-Protocol-Version": [b"2026-07-28", b"2025-11-25"]}, id="version-repeated"),
]
BAD = error(-32020, "the server's own words")


@pytest.mark.parametrize("replace", AGREE)
def test_headers_that_agree_pass(hop: Hop, replace: dict[bytes, Any]) -> None:
    """After trimming and decoding."""
    hop.golden(modern(replace=replace), 200, [JSON], answer())
    line = hop.record(method="tools/call", era="modern", protocol_version="2026-07-28", outcome="answered")
    assert "header_mismatch" not in line.get("marks", ())


@pytest.mark.parametrize("name", ["résumé ☃", " leading", "trailing ", "=?base64?eA==?="])
def test_a_name_that_ascii_cannot_hold(hop: Hop, name: str) -> None:
    """It comes as base64, and equals the body's."""
    hop.golden(modern(name=name, replace={b"Mcp-Name": b64(name)}), 200, [JSON], answer())
    assert "header_mismatch" not in hop.record(method="tools/call", tool_name=name).get("marks", ())


@pytest.mark.parametrize("replace", MISMATCHES)
def test_a_mismatch_is_refused_when_enforcing_and_else_the_upstreams_to_reject(
    hop: Hop, replace: dict[bytes, Any]
) -> None:
    """Ours is 400 with -32020 under the id; else the upstream's own passes, and the line is marked."""
    request = modern(replace=replace)
    if not hop.enforces:
        hop.golden(request, 400, [JSON], BAD)
        hop.record(marks=lambda marks: marks and "header_mismatch" in marks)
        return
    client = hop.client()
    client.ask(request)
    response = client.response()
    refused = json.loads(response.read())
    assert response.status == 400
    assert (refused["id"], refused["error"]["code"], refused["error"]["data"]["kind"]) == (7, -32020, "header_mismatch")
    assert hop.upstream.is_idle()
    hop.record(id=refused["error"]["data"]["entry_id"], outcome="denied", http={"status": 400})


@pytest.mark.parametrize(
    ("method", "params"), [("prompts/get", {"name": "p"}), ("resources/read", {"uri": "test://é"})]
)
def test_prompts_and_resources_are_named_too(hop: Hop, method: str, params: dict[str, str]) -> None:
    """By `params.name` and `params.uri`."""
    name = next(iter(params.values()))
    hop.golden(modern(method, replace={b"Mcp-Name": b64(name)}, **params), 200, [JSON], answer())
    request = modern(method, replace={b"Mcp-Name": b"another"}, **params)
    if hop.enforces:
        client = hop.client()
        client.ask(request)
        assert client.response().status == 400
    else:
        hop.golden(request, 400, [JSON], BAD)


@pytest.mark.parametrize("method", ["tools/list", "server/discover", "subscriptions/listen", "no/such"])
def test_other_methods_need_no_name(hop: Hop, method: str) -> None:
    """And one that is there all the same is not compared."""
    hop.golden(modern(method), 200, [JSON], answer())
    hop.golden(modern(method, replace={b"Mcp-Name": b"whatever"}), 200, [JSON], answer())
    assert "header_mismatch" not in hop.record(method=method).get("marks", ())


@pytest.mark.parametrize("name", [b"delete_file", b"echo"])
def test_gates_decide_on_the_body(hop: Hop, name: bytes) -> None:
    """A harmless header does not cover a denied tool, whichever of the two rules speaks first."""
    request = modern(name="delete_file", replace={b"Mcp-Name": name})
    if not hop.enforces:
        hop.golden(request, 200, [JSON], answer())
        return
    client = hop.client()
    client.ask(request)
    response = client.response()
    refused = json.loads(response.read())["error"]
    expected = (200, -31030) if name == b"delete_file" else (400, -32020)
    assert (response.status, refused["code"]) == expected
    assert hop.upstream.is_idle()


def test_legacy_bodies_are_not_compared(hop: Hop) -> None:
    """Headers never decide which era a message is of."""
    lying = [(b"Mcp-Method", b"tools/list"), (b"Mcp-Name", b"x"), (b"MCP-Protocol-Version", b"2026-07-28")]
    hop.golden(post(call(), *lying), 200, [JSON], answer())
    line = hop.record(method="tools/call", era="legacy", outcome="answered")
    assert "header_mismatch" not in line.get("marks", ())
