r"""What the record hides: values under sensitive keys, and secrets that show by their shape, in copies only.

Pure. Promise: nothing but hidden values changes. Number literals, key order, repeated names, escapes and, unless a line
cannot hold it, white space stay as relayed; a clean payload is the very bytes object that came in. A payload that is
not strict JSON cannot be redacted, so it is dropped, never passed on.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcp_audit.errors import NotStrictJson
from mcp_audit.ledger.entry import Entry
from mcp_audit.middleware.capture import elide, without_control_bytes
from mcp_audit.middleware.search import Search
from mcp_audit.middleware.splice import HIDDEN, spliced

__all__ = ["Redactor"]


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
        self._search = Search(patterns, allow, values, nested_json)
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
        """
        found = self._search(payload)
        if found is None:
            return without_control_bytes(payload), []
        edits, pointers = found
        if pointers is None:
            # A few hidden values under a very long path could make the list of them outgrow any payload.
            return b'"%s"' % HIDDEN, [pointer]
        return without_control_bytes(spliced(payload, edits)), [pointer + hidden for hidden in pointers]

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
        except NotStrictJson:
            elide(entry, name, "unredactable", self._redact_key)
            return False
        if stored is not payload:
            setattr(entry, name, stored)
        if pointers:
            entry.redacted = [*entry.redacted, *({"p": pointer} for pointer in pointers)]
        return True


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
