"""Where a JSON text holds what the record hides.

Pure; changes nothing, only says what to replace. Two passes. The fast one decodes and walks, and only ever says "surely
clean"; whatever it doubts is decided by the slow one, which goes through the tokens and knows where each stands.
Decoders keep the last of repeated names and lose the others, so the fast pass accounts for every quotation mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mcp_audit.errors import NotStrictJson
from mcp_audit.middleware.fragments import hidden_fragments
from mcp_audit.middleware.sensitive import SensitiveKeys
from mcp_audit.middleware.shapes import Family, find, suspects
from mcp_audit.middleware.splice import HIDDEN, Edit, content_of, escaped, merged, spliced
from mcp_audit.middleware.strict import require_strict
from mcp_audit.wire.strict_json import MAX_DEPTH

__all__ = ["Search"]

_NESTED_LEVELS = 4  # of JSON inside strings inside JSON; what is nested deeper is hidden whole
_SPACE = b" \t\n\r"
_HIDDEN_TEXT = HIDDEN.decode()
_HIDDEN_TOKEN = b'"%s"' % HIDDEN
# The tokens of a text known to be strict JSON; commas count as white space.
_TOKENS = re.compile(
    rb'[ \t\n\r,]*+(?:"((?:[^"\\]++|\\.)*+)"(?:[ \t\n\r]*+(:))?|([\[{])|([\]}])|([^ \t\n\r,:"\[\]{}]++))'
)
_STRING, _COLON, _OPENS, _CLOSES = 1, 2, 3, 4
_Families = Sequence[Family]
_decode = msgspec.json.Decoder().decode


class Search:
    """Find values under sensitive keys and secrets that show by their shape; see `Redactor` for the arguments."""

    def __init__(self, patterns: Iterable[str], allow: Iterable[str], values: bool, nested_json: bool) -> None:
        self._keys = SensitiveKeys(patterns, allow)
        self._values = values
        self.nested = nested_json

    def __call__(self, payload: bytes) -> tuple[list[Edit], list[str] | None] | None:
        """Return the edits that hide what a payload holds and pointers to them, None if it is clean.

        The pointers are None if they would outgrow the payload by far.

        Raises:
            NotStrictJson: it cannot be searched.
        """
        families = suspects(payload) if self._values else ()
        if self._is_surely_clean(payload, 0, families):
            return None
        try:
            payload.decode()  # the tokenizer leaves UTF-8 to us
        except UnicodeDecodeError as error:
            raise NotStrictJson("invalid_utf8", error.start, "not UTF-8") from None
        require_strict(payload)
        walk = _Walk(self, 0, families, _Pointers(4 * len(payload) + 65536))
        edits = walk.edits(payload)
        return (edits, walk.pointers.found) if edits else None

    def _is_surely_clean(self, text: bytes, level: int, families: _Families) -> bool:
        """Say whether nothing in a JSON text is hidden; False also means "look again"."""
        try:
            value = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        hides = self._keys
        are_harmless = hides.harmless.issuperset
        strings: list[str] = []
        names: list[str] = []
        members = depth = 0
        nodes: list[Any] = [value]
        if type(value) is str:
            strings, nodes = nodes, strings
        while nodes:
            depth += 1
            deeper: list[Any] = []
            for node in nodes:
                if type(node) is dict:
                    members += len(node)
                    if not are_harmless(node):
                        for name, value in node.items():
                            if hides[name] and value is not None and value != _HIDDEN_TEXT:
                                return False
                    if families:
                        names += node
                    node = node.values()
                elif type(node) is not list:
                    continue
                for value in node:
                    kind = type(value)
                    if kind is str:
                        strings.append(value)
                    elif kind is dict or kind is list:
                        deeper.append(value)
            nodes = deeper
        if depth > MAX_DEPTH:
            return False
        inner = text.count(b'"') - 2 * (members + len(strings))
        spelled = b"\\" in text and b"\\u0022" in text
        if inner and (spelled or inner != sum([string.count('"') for string in strings])):
            return False  # quotes are missing, so members are: a name was repeated
        return self._are_surely_clean(strings, names, level, families, self.nested and bool(inner or spelled))

    def _are_surely_clean(
        self, strings: list[str], names: list[str], level: int, families: _Families, quotes: bool
    ) -> bool:
        if quotes or families:
            for string in strings:
                if quotes and '"' in string:
                    content = _utf8(string)
                    if _may_be_json(content):
                        if level == _NESTED_LEVELS or not self._is_surely_clean(content, level + 1, families):
                            return False
                        continue
                    if hidden_fragments(content, self._keys) or find(content, families):
                        return False
                elif families and find(_utf8(string), families):
                    return False
            for name in names:
                if find(_utf8(name), families):
                    return False
        return True

    def in_string(self, content: bytes, level: int, families: _Families) -> list[Edit]:
        """Return the edits that hide what a string says, given without quotes and escapes."""
        found: list[Edit] = []
        if self.nested and b'"' in content:
            if _may_be_json(content):
                nested = self._in_nested(content, level + 1, families)
                if nested is not None:
                    return nested
            found = hidden_fragments(content, self._keys)
        if families and (spans := find(content, families)):
            found = merged([*found, *((*span, HIDDEN) for span in spans)])
        return found

    def _in_nested(self, content: bytes, level: int, families: _Families) -> list[Edit] | None:
        """Return the edits inside a string's content that is itself JSON, None if it is not."""
        try:
            if level > _NESTED_LEVELS:
                require_strict(content)
                return [(0, len(content), HIDDEN)]
            if self._is_surely_clean(content, level, families):
                return []
            require_strict(content)
            return _Walk(self, level, families, _Pointers(0)).edits(content)
        except NotStrictJson as error:
            # JSON nested too deeply to be searched is still JSON; anything else is text.
            return [(0, len(content), HIDDEN)] if error.slug == "too_deep" else None

    def hides(self, name: bytes) -> bool:
        """Say whether the value under a name is hidden."""
        return self._keys[_text(name)]


class _Walk:
    """The slow pass over one text."""

    def __init__(self, search: Search, level: int, families: _Families, pointers: _Pointers) -> None:
        self._search = search
        self._level = level
        self._families = families
        self._nested = search.nested
        self.pointers = pointers
        self._path: list[_Step] = []
        self._edits: list[Edit] = []

    def edits(self, text: bytes) -> list[Edit]:
        """Return the edits that hide what a text holds that `require_strict` has passed."""
        path = self._path
        hide_next = False
        hidden_from, open_brackets = -1, 0
        for token in _TOKENS.finditer(text):
            kind = token.lastindex or 0
            if hidden_from >= 0:
                open_brackets += (kind == _OPENS) - (kind == _CLOSES)
                if not open_brackets:
                    self._hide(hidden_from, token.end())
                    hidden_from = -1
                continue
            if kind == _CLOSES:
                path.pop()
                continue
            if kind == _COLON:
                hide_next = self._name(token[_STRING], token.start(_STRING))
                continue
            if path and path[-1].index is not None:
                path[-1].index += 1
            if hide_next:
                hide_next = False
                if kind == _OPENS:
                    hidden_from, open_brackets = token.start(_OPENS), 1
                    continue
                start = token.start(kind) - 1 if kind == _STRING else token.start(kind)
                if text[start : token.end()] not in (b"null", _HIDDEN_TOKEN):
                    self._hide(start, token.end())
            elif kind == _OPENS:
                path.append(_Step(-1 if token[_OPENS] == b"[" else None))
            elif kind == _STRING and (self._families or self._nested):
                body = token[_STRING]
                content = content_of(body)
                found = self._search.in_string(content, self._level, self._families)
                self._splice(body, content, found, token.start(_STRING))
        return self._edits

    def _name(self, body: bytes, at: int) -> bool:
        """Take the name of a member; return whether its value is hidden."""
        name = content_of(body)
        found = merged([(*span, HIDDEN) for span in find(name, self._families)]) if self._families else []
        self._path[-1].name = spliced(name, found)
        self._splice(body, name, found, at)
        return self._search.hides(name)

    def _hide(self, start: int, end: int) -> None:
        self._edits.append((start, end, _HIDDEN_TOKEN))
        self.pointers.add(self._path)

    def _splice(self, body: bytes, content: bytes, found: list[Edit], at: int) -> None:
        """Add edits of the content of a string whose body begins at `at`."""
        if found:
            self._edits += [(at + start, at + end, new) for start, end, new in escaped(body, content, found)]
            self.pointers.add(self._path)


class _Step:
    """One container on the way to a value: the name of the present member, or the index of the present item."""

    __slots__ = ("index", "name")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.name = b""


class _Pointers:
    """RFC 6901 pointers to what was hidden, up to `room` characters; `found` is None once there are more."""

    def __init__(self, room: int) -> None:
        self.found: list[str] | None = []
        self._room = room

    def add(self, path: list[_Step]) -> None:
        if self.found is None:
            return
        parts = [""]
        for step in path:
            part = str(step.index) if step.index is not None else _text(step.name)
            parts.append(part.replace("~", "~0").replace("/", "~1"))
        self.found.append("/".join(parts))
        self._room -= len(self.found[-1])
        if self._room < 0:
            self.found = None


def _may_be_json(content: bytes) -> bool:
    """Say whether a string's content begins and ends like a JSON object, array or string."""
    if content[0] not in b'{["' and content[0] not in _SPACE:
        return False
    trimmed = content.strip(_SPACE)
    return trimmed[:1] + trimmed[-1:] in (b"{}", b"[]", b'""')


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
