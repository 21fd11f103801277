"""The messages of the golden tests: short to write, exact to the byte."""

# ruff: noqa: A002 - `id` is what JSON-RPC calls it
from __future__ import annotations

import json
from typing import Any

from http_peers import Request

__all__ = [
    "ACCEPT", "EVENT_STREAM", "JSON", "PLAIN_JSON", "answer", "call", "delete", "error", "event", "get", "message",
    "modern", "modern_body", "note", "post", "session_headers",
]  # fmt: skip

Pair = tuple[bytes, bytes]
JSON: Pair = (b"Content-Type", b"application/json")
PLAIN_JSON = (JSON,)
EVENT_STREAM: Pair = (b"Content-Type", b"text/event-stream")
ACCEPT: Pair = (b"Accept", b"application/json, text/event-stream")
MODERN_VERSION = "2026-07-28"
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def encode(value: Any) -> bytes:
    """Return compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def message(method: str, id: Any = 7, **params: Any) -> bytes:
    """Return a request of the legacy era."""
    return encode({"jsonrpc": "2.0", "id": id, "method": method, "params": params})


def note(method: str, **params: Any) -> bytes:
    """Return a notification."""
    return encode({"jsonrpc": "2.0", "method": method, "params": params})


def call(tool: str = "echo", id: Any = 7, **arguments: Any) -> bytes:
    """Return a tools/call of the legacy era."""
    return message("tools/call", id, name=tool, arguments=arguments)


def answer(id: Any = 7, **result: Any) -> bytes:
    """Return a result."""
    return encode({"jsonrpc": "2.0", "id": id, "result": result})


def error(code: int, text: str, id: Any = 7) -> bytes:
    """Return a server's error."""
    return encode({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}})


def event(data: bytes, id: bytes = b"", kind: bytes = b"", end: bytes = b"\n") -> bytes:
    """Return a server-sent event."""
    lines = [*([b"event: " + kind] if kind else ()), *([b"id: " + id] if id else ()), b"data: " + data, b"", b""]
    return end.join(lines)


def post(body: bytes | tuple[bytes, ...], *headers: Pair, target: bytes = b"/mcp") -> Request:
    """Return the POST of a body, as clients send it."""
    return Request(b"POST", target, (JSON, ACCEPT, *headers), body)


def get(*headers: Pair, target: bytes = b"/mcp") -> Request:
    """Return the GET of an event stream."""
    return Request(b"GET", target, ((b"Accept", b"text/event-stream"), *headers))


def delete(*headers: Pair, target: bytes = b"/mcp") -> Request:
    """Return the end of a session."""
    return Request(b"DELETE", target, headers)


def session_headers(session: bytes = b"session-1", version: bytes = b"2025-11-25") -> tuple[Pair, Pair]:
    """Return the headers of every request in a legacy session."""
    return (b"Mcp-Session-Id", session), (b"MCP-Protocol-Version", version)


def modern_body(method: str = "tools/call", id: Any = 7, **params: Any) -> bytes:
    """Return a request of the modern era; a tools/call calls `echo` unless told otherwise."""
    if method == "tools/call":
        params = {"name": "echo", "arguments": {}} | params
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "golden", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return encode({"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}})


def modern(
    method: str = "tools/call", id: Any = 7, *, replace: dict[bytes, Any] | None = None, **params: Any
) -> Request:
    """Return the POST of a modern request with the headers that mirror its body.

    Args:
        replace: headers to send otherwise: a value, a list of values, or None for none.
    """
    body = modern_body(method, id, **params)
    mirrored: dict[bytes, Any] = {b"MCP-Protocol-Version": MODERN_VERSION.encode(), b"Mcp-Method": method.encode()}
    if method in _NAMED:
        mirrored[b"Mcp-Name"] = json.loads(body)["params"][_NAMED[method]].encode()
    mirrored |= replace or {}
    pairs = [(n, v) for n, given in mirrored.items() for v in ([given] if isinstance(given, bytes) else given or ())]
    return post(body, *pairs)
