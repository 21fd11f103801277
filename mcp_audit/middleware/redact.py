r"""What the record hides: values under sensitive keys, and secrets that show by their shape, in copies only.

Pure. Promise: nothing but hidden values changes. Number literals, key order, repeated names, escapes and, unless a line
cannot hold it, white space stay as relayed; a clean payload is the very bytes object that came in. A payload that is
not strict JSON cannot be redacted, so it is dropped, never passed on.

Two passes. The fast one decodes and walks, and only ever says "surely clean"; whatever it doubts is decided by the slow
one, which goes through the tokens and knows where each stands. Decoders keep the last of repeated names and lose the
others, so the fast pass accounts for every quotation mark of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mcp_audit.errors import NotStrictJson
from mcp_audit.ledger.entry import Entry
from mcp_audit.middleware.capture import elide, without_control_bytes
from mcp_audit.middleware.fragments import hidden_fragments
from mcp_audit.middleware.sensitive import SensitiveKeys
from mcp_audit.middleware.shapes import Family, find, suspects
from mcp_audit.middleware.splice import HIDDEN, Edit, content_of, escaped, merged, spliced
from mcp_audit.wire.strict_json import MAX_DEPTH, Event, events

__all__ = ["Redactor"]

_NESTED_LEVELS = 4  # of JSON inside strings inside JSON; what is nested deeper is hidden whole
_SPACE = b" \t\n\r"
_HIDDEN_TOKEN = b'"' + HIDDEN + b'"'
_HIDDEN_TEXT = HIDDEN.decode()
_CLEAN: list[Edit] = []
_Families = Sequence[Family]
_decode = msgspec.json.Decoder().decode


class Redactor:
    """The processor that hides. Sets `redacted` to a pointer for each value or string in which it hid something.

    A hidden value is replaced whole, whatever its type; null stays, for it holds nothing. In a string only the secret
    goes. A secret's shape in a member's name is hidden, too, and pointers use the name as stored.

    Args:
        patterns: parts of keys whose values are hidden; see `SensitiveKeys`.
        allow: exact keys that no pattern hides; what is under them is still looked at.
        values: also hide known shapes of secrets.
        nested_json: also look into JSON inside strings.
        redact_key: of commitments to payloads that are dropped; None without a secret.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        allow: Iterable[str] = (),
        values: bool = True,
        nested_json: bool = True,
        redact_key: bytes | None = None,
    ) -> None:
        self._keys = SensitiveKeys(patterns, allow)
        self._values = values
        self._nested = nested_json
        self._redact_key = redact_key
        self._memory = _Memory()

    def __call__(self, entry: Entry) -> Entry:
        """Hide what must be hidden, and drop what cannot be searched."""
        if entry.params:
            self._params(entry)
        if entry.result:
            self._payload(entry, "result", entry.result)
        if entry.error:
            self._payload(entry, "error", entry.error)
        if entry.raw:
            elide(entry, "raw", "unredactable", self._redact_key)
        return entry

    def redact(self, payload: bytes, pointer: str = "") -> tuple[bytes, list[str]]:
        """Return a payload as it may be stored, and pointers to what was hidden in it, each beginning with `pointer`.

        Raises:
            NotStrictJson: it cannot be redacted.
            UnicodeDecodeError: likewise.
        """
        families = suspects(payload) if self._values else ()
        pointers: list[str] = []
        if not self._is_surely_clean(payload, 0, families):
            payload.decode()  # the tokenizer leaves UTF-8 to us
            notes = _Notes(pointer, 4 * len(payload) + 65536)
            edits = self._search(payload, 0, families, notes)
            if notes.too_many:
                # A few hidden values under a very long path could make the list of them outgrow any payload.
                return _HIDDEN_TOKEN, [pointer]
            payload, pointers = spliced(payload, edits) if edits else payload, notes.pointers
        return without_control_bytes(payload), pointers

    def _params(self, entry: Entry) -> None:
        """Redact params once for the two lines that carry them."""
        params = entry.params
        known = self._memory.take(params)
        if known is None:
            if self._payload(entry, "params", params) and entry.type == "request":
                self._memory.keep(params, entry.params, entry.redacted)
            return
        entry.params, redacted = known
        entry.redacted = [*entry.redacted, *redacted] if redacted else entry.redacted

    def _payload(self, entry: Entry, name: str, payload: bytes) -> bool:
        try:
            stored, pointers = self.redact(payload, "/" + name)
        except (NotStrictJson, UnicodeDecodeError):
            elide(entry, name, "unredactable", self._redact_key)
            return False
        if stored is not payload:
            setattr(entry, name, stored)
        if pointers:
            entry.redacted = [*entry.redacted, *({"p": pointer} for pointer in pointers)]
        return True

    # The fast pass.

    def _is_surely_clean(self, text: bytes, level: int, families: _Families) -> bool:
        """Say whether nothing in a JSON text is hidden; False also means "look again"."""
        try:
            level_nodes: list[Any] = [_decode(text)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        keys = self._keys
        strings: list[str] = []
        names: list[str] = []
        members = depth = 0
        if type(level_nodes[0]) is str:
            strings.append(level_nodes.pop())
        while level_nodes:
            depth += 1
            deeper: list[Any] = []
            for node in level_nodes:
                if type(node) is dict:
                    members += len(node)
                    for key, value in node.items():
                        kind = type(value)
                        if keys[key] and value is not None and value != _HIDDEN_TEXT:
                            return False
                        if kind is str:
                            strings.append(value)
                        elif kind is dict or kind is list:
                            deeper.append(value)
                    if families:
                        names += node
                else:
                    for value in node:
                        kind = type(value)
                        if kind is str:
                            strings.append(value)
                        elif kind is dict or kind is list:
                            deeper.append(value)
            level_nodes = deeper
        if depth > MAX_DEPTH:
            return False
        inner = text.count(b'"') - 2 * (members + len(strings))
        spelled = b"\\" in text and b"\\u0022" in text
        if inner and (spelled or inner != sum([string.count('"') for string in strings])):
            return False  # members are missing: a name was repeated (or quotes stand where we do not count them)
        quotes = self._nested and bool(inner or spelled)
        if quotes or families:
            for string in strings:
                if (families or '"' in string) and self._search_content(_utf8(string), level, families, quotes):
                    return False
            for name in names:
                if find(_utf8(name), families):
                    return False
        return True

    # The slow pass.

    def _search(self, text: bytes, level: int, families: _Families, notes: _Notes | None) -> list[Edit]:
        """Return the edits that hide what a strict JSON text holds; at the outermost level note where.

        Raises:
            NotStrictJson: it is not strict JSON.
        """
        edits: list[Edit] = []
        path: list[_Step] = []
        hide_next = False
        hidden_from, open_brackets = -1, 0
        for event, start, end in events(text):
            opens = event is Event.OBJECT_START or event is Event.ARRAY_START
            closes = event is Event.OBJECT_END or event is Event.ARRAY_END
            if hidden_from >= 0:
                open_brackets += opens - closes
                if not open_brackets:
                    edits.append((hidden_from, end, _HIDDEN_TOKEN))
                    hidden_from = -1
                continue
            if closes:
                path.pop()
                continue
            if event is Event.KEY:
                body = text[start + 1 : end - 1]
                name = content_of(body)
                hide_next = self._keys[_text(name)]
                found = merged([(*span, HIDDEN) for span in find(name, families)]) if families else _CLEAN
                path[-1].name = spliced(name, found)
                if found:
                    edits += _shifted(escaped(body, found), start + 1)
                    _note(notes, path)
                continue
            if path and path[-1].index is not None:
                path[-1].index += 1
            if hide_next:
                hide_next = False
                if opens:
                    hidden_from, open_brackets = start, 1
                elif text[start:end] in (b"null", _HIDDEN_TOKEN):
                    continue
                else:
                    edits.append((start, end, _HIDDEN_TOKEN))
                _note(notes, path)
            elif opens:
                path.append(_Step(-1 if event is Event.ARRAY_START else None))
            elif event is Event.STRING:
                body = text[start + 1 : end - 1]
                found = self._search_content(content_of(body), level, families, self._nested)
                if found:
                    edits += _shifted(escaped(body, found), start + 1)
                    _note(notes, path)
        return edits

    def _search_content(self, content: bytes, level: int, families: _Families, quotes: bool) -> list[Edit]:
        """Return the edits that hide what a string says; `quotes`: look into JSON."""
        found = _CLEAN
        if quotes and b'"' in content:
            if content[:1] in b'{["' or content[:1] in _SPACE:
                nested = self._search_nested(content, level + 1, families)
                if nested is not None:
                    return nested
            found = hidden_fragments(content, self._keys)
        if families and (spans := find(content, families)):
            found = merged([*found, *((*span, HIDDEN) for span in spans)])
        return found

    def _search_nested(self, content: bytes, level: int, families: _Families) -> list[Edit] | None:
        """Return the edits inside a string's content that is itself JSON, None if it is not."""
        trimmed = content.strip(_SPACE)
        if trimmed[:1] + trimmed[-1:] not in (b"{}", b"[]", b'""'):
            return None
        try:
            if level > _NESTED_LEVELS:
                for _ in events(content):
                    pass
                return [(0, len(content), HIDDEN)]
            if self._is_surely_clean(content, level, families):
                return _CLEAN
            return self._search(content, level, families, None)
        except NotStrictJson as error:
            # JSON nested too deeply to be searched is still JSON; anything else is text.
            return [(0, len(content), HIDDEN)] if error.slug == "too_deep" else None


class _Step:
    """One container on the way to a value: the name of the present member, or the index of the present item."""

    __slots__ = ("index", "name")

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.name = b""


class _Notes:
    """Pointers to what was hidden, up to a total size."""

    def __init__(self, base: str, limit: int) -> None:
        self.pointers: list[str] = []
        self.too_many = False
        self._base = base
        self._room = limit

    def add(self, path: list[_Step]) -> None:
        if self.too_many:
            return
        parts = [self._base]
        for step in path:
            part = str(step.index) if step.index is not None else _text(step.name)
            parts.append(part.replace("~", "~0").replace("/", "~1"))
        pointer = "/".join(parts)
        self._room -= len(pointer)
        self.too_many = self._room < 0
        self.pointers.append(pointer)


class _Memory:
    """What became of params, from the request line until the exchange line has them again: the same bytes object.

    Keyed by identity, which is safe because the object is kept alive with its entry here.
    """

    _MAX_KEPT = 256
    _MAX_BYTES = 4 * 1024 * 1024

    def __init__(self) -> None:
        self._kept: dict[int, tuple[bytes, bytes, list[dict[str, str]]]] = {}
        self._bytes = 0

    def keep(self, params: bytes, stored: bytes, redacted: list[dict[str, str]]) -> None:
        if len(params) > self._MAX_BYTES // 4:
            return
        self._kept[id(params)] = (params, stored, redacted)
        self._bytes += len(params)
        while len(self._kept) > self._MAX_KEPT or self._bytes > self._MAX_BYTES:
            oldest, _, _ = self._kept.pop(next(iter(self._kept)))
            self._bytes -= len(oldest)

    def take(self, params: bytes) -> tuple[bytes, list[dict[str, str]]] | None:
        found = self._kept.pop(id(params), None)
        if found is None:
            return None
        self._bytes -= len(params)
        return found[1], found[2]


def _note(notes: _Notes | None, path: list[_Step]) -> None:
    if notes is not None:
        notes.add(path)


def _shifted(edits: Iterable[Edit], by: int) -> list[Edit]:
    return [(start + by, end + by, new) for start, end, new in edits]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
