"""The request headers that MCP 2026-07-28 wants copied from a message, for a client that could not send any.

Pure. Promise: a header says what the body says, or is left out; nothing of a message can break out of its header.
Source: modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http#request-metadata
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mcp_audit.relay.http.headers import Headers
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.message import Message

__all__ = ["ToolHeaders", "header_value", "standard_headers"]


_NAMED = ("tools/call", "prompts/get", "resources/read")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_PRIMITIVE = ("string", "integer", "boolean")
_ANNOTATION = "x-mcp-header"
_MAX_TOOLS = 10_000  # of which headers are remembered; a server that lists more would grow us without end
_MAX_DEPTH = 64  # of nested `properties`
# Keywords of JSON Schema 2020-12 below which an annotation makes a tool definition invalid.
_SCHEMAS = (
    "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "unevaluatedProperties", "not",
    "if", "then", "else", "contentSchema",
)  # fmt: skip
_LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS_OF_SCHEMAS = ("patternProperties", "dependentSchemas", "$defs", "definitions")

_Path = tuple[str, ...]


class _Tool(msgspec.Struct):
    name: str
    inputSchema: msgspec.Raw = msgspec.Raw(b"null")


class _Tools(msgspec.Struct):
    tools: list[_Tool]


class _Arguments(msgspec.Struct):
    arguments: dict[str, Any] = {}


_decode_tools = msgspec.json.Decoder(_Tools).decode
_decode_arguments = msgspec.json.Decoder(_Arguments).decode
_decode_any = msgspec.json.Decoder().decode


def header_value(text: str) -> bytes:
    """Return a value as `Mcp-Name` and `Mcp-Param-*` carry it: plain, or in Base64 where plain would not survive."""
    looks_encoded = text.startswith("=?base64?") and text.endswith("?=")
    if _PLAIN.fullmatch(text) and not looks_encoded:
        return text.encode()
    return b"=?base64?%b?=" % base64.b64encode(text.encode("utf-8", "surrogatepass"))


def standard_headers(message: Message, version: str) -> Headers:
    """Return `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` of a modern message.

    The first two have no encoded form, so one that no header can carry is left out, and the server says so.
    """
    headers: Headers = []
    if _PLAIN.fullmatch(version):
        headers.append((b"MCP-Protocol-Version", version.encode()))
    if message.method is not None and _PLAIN.fullmatch(message.method):
        headers.append((b"Mcp-Method", message.method.encode()))
    if message.method in _NAMED and message.target is not None:
        headers.append((b"Mcp-Name", header_value(message.target)))
    return headers


class ToolHeaders:
    """Which arguments of which tools are mirrored as `Mcp-Param-*`, as far as the tools were listed through us."""

    def __init__(self) -> None:
        self._paths: dict[str, dict[_Path, str]] = {}

    def learn(self, exchange: Exchange) -> None:
        """Take what an answer to `tools/list` says; of a tool listed again the newest definition counts."""
        request, response = exchange.request, exchange.response
        if request is None or response is None or request.method != "tools/list" or not response.result:
            return
        try:
            listed = _decode_tools(response.result)
        except UNDECODABLE:
            return
        for tool in listed.tools:
            paths = _annotated(bytes(tool.inputSchema))
            if not paths:
                self._paths.pop(tool.name, None)
            elif tool.name in self._paths or len(self._paths) < _MAX_TOOLS:
                self._paths[tool.name] = paths

    def of(self, call: Message) -> Headers:
        """Return the headers of a `tools/call`: one for each annotated argument that has a value."""
        paths = self._paths.get(call.target or "") if call.method == "tools/call" else None
        if not paths:
            return []
        try:
            arguments = _decode_arguments(call.params).arguments
        except UNDECODABLE:
            return []
        headers: Headers = []
        for path, name in paths.items():
            text = _rendered(_value_at(arguments, path))
            if text is not None:
                headers.append((b"Mcp-Param-" + name.encode(), header_value(text)))
        return headers


def _annotated(schema: bytes) -> dict[_Path, str]:
    """Return header names by path of property; nothing of a schema that annotates what it must not.

    Such a definition is invalid as a whole, and a server that published it expects nothing from it.
    """
    # Most schemas have none; an escape in the keyword is legal, so it is reason enough to look.
    if _ANNOTATION.encode() not in schema and b"\\u" not in schema:
        return {}
    try:
        root = _decode_any(schema)
    except UNDECODABLE:
        return {}
    found: dict[_Path, str] = {}
    taken: set[str] = set()
    waiting: list[tuple[_Path | None, Any]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        if _ANNOTATION in node:
            name = node[_ANNOTATION]
            fits = isinstance(name, str) and _TOKEN.fullmatch(name) and name.lower() not in taken
            if not path or not fits or node.get("type") not in _PRIMITIVE:
                return {}
            found[path] = name
            taken.add(name.lower())
        waiting += _below(path, node)
    return found


def _below(path: _Path | None, node: Mapping[str, Any]) -> list[tuple[_Path | None, Any]]:
    """Return the schemas inside a schema; a path only for those that nothing but `properties` leads to."""
    inner: list[tuple[_Path | None, Any]] = [(None, node[key]) for key in _SCHEMAS if key in node]
    inner += [(None, each) for key in _LISTS_OF_SCHEMAS if isinstance(node.get(key), list) for each in node[key]]
    inner += [
        (None, each) for key in _MAPS_OF_SCHEMAS if isinstance(node.get(key), dict) for each in node[key].values()
    ]
    properties = node.get("properties")
    if isinstance(properties, dict):
        reached = path is not None and len(path) < _MAX_DEPTH
        inner += [((*path, name) if reached and path is not None else None, each) for name, each in properties.items()]
    return inner


def _value_at(arguments: Any, path: _Path) -> Any:
    for name in path:
        if not isinstance(arguments, dict) or name not in arguments:
            return None
        arguments = arguments[name]
    return arguments


def _rendered(value: Any) -> str | None:
    """Return a primitive as text, None for what has no header: null, numbers that are no integers, containers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 42.0 is an integer to JSON Schema
    if isinstance(value, int):
        try:
            return str(value)
        except ValueError:  # more digits than Python converts
            return None
    return value if isinstance(value, str) else None
