"""Headers that are copies of what a body says."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.relay.bridge.mirror import ToolHeaders, header_value, standard_headers
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.message import Direction, Message, parse


def message(method: str, **params: Any) -> Message:
    """A request of the client."""
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    return parse(text, Direction.TO_SERVER).messages[0]


def listed(*tools: dict[str, Any]) -> ToolHeaders:
    """What is known once a server listed these tools."""
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}}).encode()
    headers = ToolHeaders()
    headers.learn(Exchange("id", message("tools/list"), parse(answer, Direction.TO_CLIENT).messages[0]))
    return headers


def tool(name: str = "t", **properties: Any) -> dict[str, Any]:
    """A tool definition."""
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


# From the table of the specification, and what it implies.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("us-west1", b"us-west1"),
        ("Hello, 世界", b"=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", b"=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", b"=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", b"=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("=?base64?", b"=?base64?"),
        ("=?BASE64?x?=", b"=?BASE64?x?="),
        ("", b"=?base64??="),
        ("a", b"a"),
        ("a b", b"a b"),
        ("a\tb", b"=?base64?YQli?="),
        ("\x7f", b"=?base64?fw==?="),
    ],
)
def test_a_value_is_encoded_where_plain_would_not_survive(text: str, value: bytes) -> None:
    """The examples of MCP 2026-07-28, and the edges between them."""
    assert header_value(text) == value


@given(st.text())
def test_a_value_can_always_be_sent_and_read_back(text: str) -> None:
    """Nothing breaks out of its header, and nobody reads it differently."""
    value = header_value(text)

    assert all(0x20 <= byte < 0x7F for byte in value)
    assert value == value.strip()
    if value.startswith(b"=?base64?") and value.endswith(b"?="):
        assert base64.b64decode(value[9:-2], validate=True).decode("utf-8", "surrogatepass") == text
    else:
        assert value.decode() == text


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "echo"}, b"echo"),
        ("prompts/get", {"name": "greet"}, b"greet"),
        ("resources/read", {"uri": "file:///ü"}, b"=?base64?ZmlsZTovLy/DvA==?="),
        ("resources/subscribe", {"uri": "file:///x"}, None),
        ("resources/read", {"uri": 7}, None),
        ("tools/list", {"name": "echo"}, None),
    ],
)
def test_only_three_methods_have_a_name(method: str, params: dict[str, Any], name: bytes | None) -> None:
    """`Mcp-Name` is `params.name` or `params.uri` of just these."""
    headers = dict(standard_headers(message(method, **params), "2026-07-28"))

    assert headers[b"Mcp-Method"] == method.encode()
    assert headers.get(b"Mcp-Name") == name


@pytest.mark.parametrize("text", ["x\r\nEvil: 1", "ünï", " x", ""])
def test_what_no_header_can_carry_is_left_out(text: str) -> None:
    """Version and method have no encoded form."""
    assert standard_headers(message(text), text) == []


VALUES: list[tuple[Any, bytes | None]] = [
    ("eu", b"eu"), (42, b"42"), (-7, b"-7"), (True, b"true"), (False, b"false"), (42.0, b"42"), (2**64, b"%d" % 2**64),
    (None, None), (1.5, None), ([1], None), ({}, None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "header"), VALUES)
def test_a_primitive_argument_is_mirrored(value: Any, header: bytes | None) -> None:
    """Null and what has no text of its own are not."""
    headers = listed(tool(a={"type": "string", "x-mcp-header": "A"}))

    assert headers.of(message("tools/call", name="t", arguments={"a": value})) == (
        [] if header is None else [(b"Mcp-Param-A", header)]
    )


def test_an_argument_is_found_at_its_very_path() -> None:
    """Along `properties`, and not where it is missing."""
    inner = {"type": "object", "properties": {"b": {"type": "integer", "x-mcp-header": "B"}}}
    headers = listed(tool(a=inner))

    assert headers.of(message("tools/call", name="t", arguments={"a": {"b": 1}})) == [(b"Mcp-Param-B", b"1")]
    for arguments in ({"b": 1}, {"a": 1}, {"a": {}}, {"a": [{"b": 1}]}):
        assert headers.of(message("tools/call", name="t", arguments=arguments)) == []
    assert headers.of(message("tools/call", name="other", arguments={"a": {"b": 1}})) == []
    assert headers.of(message("prompts/get", name="t", arguments={"a": {"b": 1}})) == []


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"a": {"type": "number", "x-mcp-header": "A"}}, id="number"),
        pytest.param({"a": {"x-mcp-header": "A"}}, id="no-type"),
        pytest.param({"a": {"type": ["string"], "x-mcp-header": "A"}}, id="types"),
        pytest.param({"a": {"type": "string", "x-mcp-header": ""}}, id="empty"),
        pytest.param({"a": {"type": "string", "x-mcp-header": "A B"}}, id="no-token"),
        pytest.param({"a": {"type": "string", "x-mcp-header": "A\r\nX"}}, id="break"),
        pytest.param({"a": {"type": "string", "x-mcp-header": 1}}, id="no-string"),
        pytest.param({"a": {"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}}, id="items"),
        pytest.param({"a": {"anyOf": [{"type": "string", "x-mcp-header": "A"}]}}, id="anyOf"),
        pytest.param({"a": {"$defs": {"d": {"type": "string", "x-mcp-header": "A"}}}}, id="defs"),
        pytest.param(
            {"b": {"type": "string", "x-mcp-header": "A"}, "c": {"type": "string", "x-mcp-header": "a"}}, id="twice"
        ),
    ],
)
def test_an_invalid_annotation_makes_the_whole_definition_invalid(schema: dict[str, Any]) -> None:
    """So nothing is mirrored, not even what would be valid alone."""
    headers = listed(
        tool(z={"type": "string", "x-mcp-header": "Z"}, **schema),
        tool("fine", z={"type": "string", "x-mcp-header": "Z"}),
    )

    assert headers.of(message("tools/call", name="t", arguments={"a": "x", "b": "x", "c": "x", "z": "x"})) == []
    assert headers.of(message("tools/call", name="fine", arguments={"z": "x"})) == [(b"Mcp-Param-Z", b"x")]


def test_data_is_no_annotation() -> None:
    """A default or an example may look like one."""
    schema = {"type": "string", "default": {"x-mcp-header": "A"}, "enum": [{"x-mcp-header": "A"}], "x-mcp-header": "B"}

    assert listed(tool(a=schema)).of(message("tools/call", name="t", arguments={"a": "x"})) == [(b"Mcp-Param-B", b"x")]


def test_the_newest_listing_counts() -> None:
    """A tool that was listed again without annotations has none."""
    headers = listed(tool(a={"type": "string", "x-mcp-header": "A"}))
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool(a={"type": "string"})]}}).encode()
    headers.learn(Exchange("id", message("tools/list"), parse(answer, Direction.TO_CLIENT).messages[0]))

    assert headers.of(message("tools/call", name="t", arguments={"a": "x"})) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "properties", "x-mcp-header", "type", "items", "inputSchema"]), inner)
    ),
    max_leaves=20,
)


@given(JSON, JSON)
def test_no_schema_and_no_arguments_make_it_raise(schema: Any, arguments: Any) -> None:
    """What a server lists and a client calls is anything."""
    headers = listed({"name": "t", "inputSchema": schema})

    for name, value in headers.of(message("tools/call", name="t", arguments=arguments)):
        assert name.startswith(b"Mcp-Param-")
        assert value.isascii()
