"""What `verify --strict` asks of each line beyond the chain: is it what the format says, and does it fit the others?

Pure. Collects the first fault and counts the rest. A line can be chained and signed and still be wrong: then its
writer was.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["Strict"]

_HEAD = re.compile(
    rb'\{(?:"type":"request",)?"id":"[^"\\]*","timestamp":"([^"\\]*)","direction":"[^"\\]*","transport":"[^"\\]*",'
    rb'"method":"(?:[^"\\]|\\.)*"(?:,"request_id":"(?:[^"\\]|\\.)*")?(?:,"tool_name":"(?:[^"\\]|\\.)*")?(,"params":)?'
)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
# Nested values are decoded as lists of pairs, arrays as lists: both are `list` here.
_TYPES = {
    str: "id timestamp direction transport method request_id tool_name client_id server_id outcome era "
    "protocol_version session continues definition params_b64 result_b64 raw_b64 signature log prev mac type software "
    "vkey key_id after reason why config_sha256 policy_sha256 cause torn_sha256",
    int: "duration_ms of seq v torn_bytes salvageable checkpoint lost refused withheld dropped",
    list: "policy trace http credential marks rewrites redacted elided unclosed predecessor definitions",
}
_TYPE_OF = {name: type_ for type_, names in _TYPES.items() for name in names.split()}
_OUTCOMES = {
    *("answered", "tool_error", "rpc_error", "denied", "rate_limited"),
    *("cancelled", "timeout", "lost", "notification", "opaque"),
}
_REQUEST = ("direction", "transport", "method", "client_id", "server_id")
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "": (*_REQUEST, "duration_ms", "outcome"),
    "request": _REQUEST,
    "open": ("v", "software", "vkey", "after"),
    "close": ("of",),
    "orphan": ("outcome", "why"),
    "recovery": ("torn_bytes", "torn_sha256", "salvageable", "checkpoint"),
    "gap": ("cause",),
    "segment": ("start", "frontier", "pending", "runs", "vkey", "previous"),
    "prune": ("from", "to", "rule"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Strict:
    """Inspect the good lines of one log in order.

    Args:
        secret: returns the AUDIT_SECRET in force, or None if it is not at hand; asked for each signed line.
        pending: returns the requests that were open before the first line; asked once that line is there.

    Attributes:
        fault: seq and sentence of the first line that does not conform.
        faults: how many do not.
        backwards: how often the time of a line is before that of the line above; a clock was set, or lines lie.
        times: timestamps of the first and the last line.
        signatures: how many `signature` members were checked.
    """

    def __init__(self, secret: Callable[[], bytes | None], pending: Callable[[], Iterable[int]] = tuple) -> None:
        self.fault: tuple[int, str] | None = None
        self.faults = 0
        self.backwards = 0
        self.signatures = 0
        self._secret = secret
        self.times = ("", "")
        self._pending = pending
        self._requests: set[int] | None = None

    def inspect(self, seq: int, line: bytes) -> None:
        """Look at one line, given without its LF."""
        problem = self._problem(seq, line)
        if problem is not None:
            self.faults += 1
            self.fault = self.fault or (seq, problem)

    def _problem(self, seq: int, line: bytes) -> str | None:
        try:
            pairs = _DECODE(line.decode())
        except (ValueError, RecursionError):
            return "it is not strict JSON"
        members = dict(pairs)
        if len(members) != len(pairs):
            return "a member is repeated"
        kind = members.get("type", "")
        problem = _shape_problem(kind, pairs, members) or self._pairing_problem(seq, kind, members)
        if problem is None and "signature" in members:
            problem = self._signature_problem(line, members)
        time = members.get("timestamp")
        if isinstance(time, str):
            first, last = self.times
            self.backwards += time < last
            self.times = (first or time, time)
        return problem

    def _pairing_problem(self, seq: int, kind: str, members: dict[str, Any]) -> str | None:
        """Each `of` of an exchange or orphan names a request line; a second answer to it is marked late."""
        if self._requests is None:
            self._requests = set(self._pending())
        of = members.get("of")
        if kind == "request":
            self._requests.add(seq)
        elif kind in ("", "orphan") and of is not None:
            if of in self._requests:
                self._requests.remove(of)
            elif "late" not in members.get("marks", ()):
                return f"it closes seq {of}, which is no open request"
        return None

    def _signature_problem(self, line: bytes, members: dict[str, Any]) -> str | None:
        secret = self._secret()
        if secret is None:
            return None
        self.signatures += 1
        head = _HEAD.match(line)
        if head is None:
            return "its signature covers members that are not where they belong"
        params = _raw_value(line, head.end()) if head[2] else b""
        stamp = members["timestamp"]
        if "." in stamp:
            stamp = stamp.removesuffix("Z").rstrip("0").rstrip(".") + "Z"
        text = members["id"] + stamp + members["method"] + members.get("tool_name", "")
        # Readers of the seed decode a lone surrogate to U+FFFD, so that is what was signed.
        signed = _SURROGATE.sub("\ufffd", text).encode() + params
        expected = "hmac-sha256:" + hmac.new(secret, signed, "sha256").hexdigest()
        return None if expected == members["signature"] else "its signature does not match"


def _shape_problem(kind: str, pairs: list[tuple[str, Any]], members: dict[str, Any]) -> str | None:
    for name, value in pairs:
        wanted = _TYPE_OF.get(name)
        if wanted is not None and type(value) is not wanted:  # exactly: to Python a bool is an int
            return f"its {name} has the wrong type"
    missing = [name for name in ("id", "timestamp", *_REQUIRED.get(kind, ())) if name not in members]
    if kind == "orphan" and "of" not in members:
        missing += [name for name in ("direction", "method") if name not in members]
    if missing:
        return f"it lacks {missing[0]}"
    if not _TIMESTAMP.fullmatch(members["timestamp"]):
        return "its timestamp is not RFC 3339 UTC with six decimals"
    if kind == "" and members["outcome"] not in _OUTCOMES:
        return f"its outcome is unknown: {members['outcome']}"
    return None


def _raw_value(line: bytes, start: int) -> bytes:
    """Return the bytes of the JSON value that begins at `start`."""
    text = line[start:].decode()
    _, end = json.JSONDecoder().raw_decode(text)
    return text[:end].encode()


def _no_constant(name: str) -> None:
    raise ValueError(name)


_DECODE = json.JSONDecoder(object_pairs_hook=list, parse_constant=_no_constant).decode
