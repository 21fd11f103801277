"""A slow and obvious reading of messages, to hold the fast one against: a recursive parser and the rules as a list."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from mcp_audit.wire.ambiguity import SLUGS

_WS = b" \t\r\n"
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TOP = {"jsonrpc", "id", "method", "params", "result", "error"}
_PARAMS = {"name", "uri", "arguments", "_meta"}
_TARGETS = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "notifications/resources/updated": "uri",
}


class Bad(Exception):
    """Not JSON."""


@dataclass
class Node:
    """A value: its kind, its text, and what is in it. An object's members are (name token, Node)."""

    kind: str
    text: bytes = b""
    members: list[tuple[bytes, Node]] = field(default_factory=list)
    elements: list[Node] = field(default_factory=list)

    def inner(self) -> list[Node]:
        return self.elements + [node for _, node in self.members]

    def walk(self) -> list[Node]:
        return [self] + [node for inner in self.inner() for node in inner.walk()]

    def depth(self) -> int:
        return (self.kind in ("object", "array")) + max((node.depth() for node in self.inner()), default=0)

    def get(self, name: str) -> Node | None:
        """Return the last member of that name."""
        found = [node for token, node in self.members if text_of(token) == name]
        return found[-1] if found else None

    def names(self) -> list[str]:
        return [text_of(token) for token, _ in self.members]


class Parser:
    """A JSON parser as in a textbook; it lets NaN and Infinity pass as `constant`."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> Node:
        node = self.value()
        self.space()
        if self.at != len(self.text):
            raise Bad
        return node

    def space(self) -> None:
        while self.text[self.at : self.at + 1] in (b" ", b"\t", b"\r", b"\n"):
            self.at += 1

    def accept(self, token: bytes) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def value(self) -> Node:
        self.space()
        start = self.at
        node = self.bare_value()
        node.text = self.text[start : self.at]
        return node

    def bare_value(self) -> Node:
        if self.accept(b"{"):
            return self.object()
        if self.accept(b"["):
            return self.array()
        if self.text[self.at : self.at + 1] == b'"':
            self.string()
            return Node("string")
        for literal in (b"true", b"false", b"null"):
            if self.accept(literal):
                return Node("literal")
        for constant in (b"NaN", b"Infinity", b"-Infinity"):
            if self.accept(constant):
                return Node("constant")
        number = _NUMBER.match(self.text, self.at)
        if number is None:
            raise Bad
        self.at = number.end()
        return Node("number")

    def string(self) -> bytes:
        start = self.at
        if not self.accept(b'"'):
            raise Bad
        while not self.accept(b'"'):
            if self.at >= len(self.text) or self.text[self.at] < 0x20:
                raise Bad
            if self.accept(b"\\"):
                escape = self.text[self.at : self.at + 1]
                if escape == b"u":
                    if re.fullmatch(rb"u[0-9a-fA-F]{4}", self.text[self.at : self.at + 5]) is None:
                        raise Bad
                elif escape not in (b'"', b"\\", b"/", b"b", b"f", b"n", b"r", b"t"):
                    raise Bad
            self.at += 1
        return self.text[start : self.at]

    def object(self) -> Node:
        node = Node("object")
        self.space()
        if self.accept(b"}"):
            return node
        while True:
            self.space()
            name = self.string()
            self.space()
            if not self.accept(b":"):
                raise Bad
            node.members.append((name, self.value()))
            self.space()
            if self.accept(b"}"):
                return node
            if not self.accept(b","):
                raise Bad

    def array(self) -> Node:
        node = Node("array")
        self.space()
        if self.accept(b"]"):
            return node
        while True:
            node.elements.append(self.value())
            self.space()
            if self.accept(b"]"):
                return node
            if not self.accept(b","):
                raise Bad


def text_of(token: bytes) -> str:
    text: str = json.loads(token.decode(errors="replace"))
    return text


def _string(node: Node | None) -> str | None:
    return text_of(node.text) if node is not None and node.kind == "string" else None


def _surrogate(text: str) -> bool:
    return any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def _unsafe(text: str) -> bool:
    return _surrogate(text) or any(ord(c) < 0x20 or 0x7F <= ord(c) <= 0x9F for c in text)


def _names(node: Node, reserved: set[str]) -> set[str]:
    marks = set()
    names = node.names()
    if len(set(names)) < len(names):
        marks.add("duplicate_key")
    if any(name not in reserved and name.casefold() in reserved for name in names):
        marks.add("case_variant_key")
    if any(b"\\" in token and text_of(token) in reserved for token, _ in node.members):
        marks.add("escaped_key")
    if any("\0" in name for name in names):
        marks.add("bad_text")
    return marks


def _id(node: Node) -> tuple[Any, bytes, str] | None:
    """Key, token, text."""
    if node.kind == "string":
        return text_of(node.text), node.text, text_of(node.text)
    if node.kind == "number":
        digits = node.text.lstrip(b"-")
        key = int(node.text) if digits.isdigit() and len(digits) <= 4300 else float(node.text)
        return key, node.text, node.text.decode()
    return (None, b"null", "null") if node.text == b"null" else None


def _overflows(number: bytes) -> bool:
    return abs(float(number)) == float("inf") or sum(chr(b).isdigit() for b in number) > 4300


def _arguments(node: Node) -> set[str]:
    marks = set()
    for inner in node.walk():
        names = inner.names()
        if len(set(names)) < len(names):
            marks.add("duplicate_key")
        if inner.kind == "number" and _overflows(inner.text):
            marks.add("number_range")
    return marks


def _object(raw: bytes, node: Node, unit: set[str], deep: bool) -> dict[str, Any]:
    marks = unit | _names(node, _TOP)
    method_node, params, result, error = (node.get(name) for name in ("method", "params", "result", "error"))
    method = _string(method_node)
    if [method_node, result, error].count(None) < 2 or (method_node is not None and method is None):
        marks.add("shape")
    if method is not None and _unsafe(method):
        marks.add("bad_text")
    id_node = node.get("id")
    id_ = _id(id_node) if id_node is not None else None
    if id_node is not None and id_ is None:
        marks.add("shape")
    if id_ is not None and isinstance(id_[0], str) and _unsafe(id_[0]):
        marks.add("bad_text")
    if id_ is not None and isinstance(id_[0], (int, float)) and abs(id_[0]) > 2**53 - 1:
        marks.add("number_range")
    if [token for token, _ in node.members if text_of(token) == "id"] != [b'"id"']:
        id_ = None
    target, meta = None, None
    if params is not None and params.kind == "object":
        marks |= _names(params, _PARAMS)
        target = _string(params.get(_TARGETS[method])) if method in _TARGETS else None
        arguments = params.get("arguments")
        if deep and arguments is not None:
            marks |= _arguments(arguments)
        meta = params.get("_meta")
    elif params is not None and params.text != b"null":
        marks.add("shape")
    elif params is None and method != "tools/call" and result is not None:
        meta = result.get("_meta")
    if method == "tools/call" and target is None:
        marks.add("shape")
    if target is not None and _unsafe(target):
        marks.add("bad_text")
    if meta is not None and len(set(meta.names())) < len(meta.names()):
        marks.add("duplicate_key")
    kind = "opaque"
    if method is not None:
        kind = "notification" if id_node is None else "request"
    elif result is not None or error is not None:
        kind = "response"
    return {
        "raw": raw,
        "kind": kind,
        "id": id_,
        "method": method,
        "target": target,
        "marks": _order(marks),
        "params": params.text if params is not None else b"",
        "result": result.text if result is not None else b"",
        "error": error.text if error is not None else b"",
        "meta": {text_of(token): value.text for token, value in meta.members} if meta is not None else {},
    }


def _order(marks: set[str]) -> tuple[str, ...]:
    return tuple(sorted(marks, key=SLUGS.index))


def _opaque(raw: bytes, marks: set[str]) -> dict[str, Any]:
    nothing = {"id": None, "method": None, "target": None, "params": b"", "result": b"", "error": b"", "meta": {}}
    return nothing | {"raw": raw, "kind": "opaque", "marks": _order(marks)}


def read(raw: bytes, line: bool = True, deep_arguments: bool = False) -> list[dict[str, Any]]:
    """Return what `parse` should say of each message."""
    text = raw
    if not line:
        text = text.rstrip(_WS)
    elif text.endswith(b"\n"):
        text = text[:-2] if text.endswith(b"\r\n") else text[:-1]
    if all(byte in _WS for byte in text):
        return []
    unit = set()
    if line and b"\r" in text:
        unit.add("bare_cr")
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        unit.add("invalid_utf8")
    if text.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        unit.add("bom")
    if 0 in text:
        unit.add("utf16")
    body = text[3:] if text.startswith(b"\xef\xbb\xbf") else text
    try:
        top = Parser(body).whole()
    except Bad:
        return [_opaque(text, unit | {"not_json"})]
    if top.kind not in ("object", "array"):
        return [_opaque(text, unit | {"not_json"})]
    if any(node.kind == "constant" for node in top.walk()):
        unit |= {"not_json", "number_range"}
    if any(_surrogate(name) for node in top.walk() for name in node.names()):
        unit.add("bad_text")
    if top.depth() > 512:
        unit.add("too_deep")
    if top.kind == "object":
        return [_object(text, top, unit, deep_arguments)]
    if not top.elements:
        return [_opaque(text, unit | {"shape"})]
    return [
        _object(node.text, node, unit, deep_arguments)
        if node.kind == "object"
        else _opaque(node.text, unit | {"shape"})
        for node in top.elements
    ]
