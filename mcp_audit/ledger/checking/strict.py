"""What `verify --strict` asks of each line beyond the chain: is it what the format says, and does it fit the others?

Pure. Collects the first fault and counts the rest. A line can be chained and signed and still be wrong: then its
writer was. Most lines are plain (`plain.py`); any other is decoded whole. Both ways find the same.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcp_audit.ledger.checking.plain import OUTCOMES, read_plain

__all__ = ["Strict"]

_HEAD = re.compile(
    r'\{(?:"type":"request",)?"id":"[^"\\]*","timestamp":"([^"\\]*)","direction":"[^"\\]*","transport":"[^"\\]*",'
    r'"method":"(?:[^"\\]|\\.)*"(?:,"request_id":"(?:[^"\\]|\\.)*")?(?:,"tool_name":"(?:[^"\\]|\\.)*")?(,"params":)?'
)
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
# Nested values are decoded as lists of pairs, arrays as lists: both are `list` here.
_TYPES = {
    str: "id timestamp direction transport method request_id tool_name client_id server_id outcome era "
    "protocol_version session continues definition params_b64 result_b64 raw_b64 signature log prev mac type software "
    "vkey key_id after reason why config_sha256 policy_sha256 cause torn_sha256",
    int: "duration_ms of seq v torn_bytes salvageable checkpoint lost refused withheld dropped",
    list: "policy trace http credential marks rewrites redacted elided unclosed predecessor definitions",
}
_TYPE_OF = {name: type_ for type_, names in _TYPES.items() for name in names.split()}
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
            text = line.decode()
        except ValueError:
            return "it is not strict JSON"
        try:
            plain = read_plain(text)
        except (ValueError, RecursionError):
            plain = None
        if plain is None:
            return self._decoded_problem(seq, text)
        type_, id_, time, method, tool, params, signature, of = plain
        self._see(time)
        problem = self._pairing_problem(seq, "request" if type_ else "", int(of) if of else None, late=False)
        if problem is None and signature and (secret := self._secret()) is not None:
            signed = (id_[1:-1], time, method[1:-1], tool[1:-1], params)
            problem = self._signature_problem(secret, signature[1:-1], *signed)
        return problem

    def _decoded_problem(self, seq: int, text: str) -> str | None:
        try:
            pairs = _DECODER.decode(text)
        except (ValueError, RecursionError):
            return "it is not strict JSON"
        members = dict(pairs)
        if len(members) != len(pairs):
            return "a member is repeated"
        kind = members.get("type", "")
        problem = _shape_problem(kind, pairs, members)
        if problem is None:
            late = "late" in members.get("marks", ())
            problem = self._pairing_problem(seq, kind, members.get("of"), late)
        if problem is None and "signature" in members and (secret := self._secret()) is not None:
            problem = self._decoded_signature_problem(secret, text, members)
        time = members.get("timestamp")
        if isinstance(time, str):
            self._see(time)
        return problem

    def _see(self, time: str) -> None:
        first, last = self.times
        self.backwards += time < last
        self.times = (first or time, time)

    def _pairing_problem(self, seq: int, kind: str, of: int | None, late: bool) -> str | None:
        """Each `of` of an exchange or orphan names a request line; a second answer to it is marked late."""
        if self._requests is None:
            self._requests = set(self._pending())
        if kind == "request":
            self._requests.add(seq)
        elif kind in ("", "orphan") and of is not None:
            if of in self._requests:
                self._requests.remove(of)
            elif not late:
                return f"it closes seq {of}, which is no open request"
        return None

    def _decoded_signature_problem(self, secret: bytes, text: str, members: dict[str, Any]) -> str | None:
        head = _HEAD.match(text)
        if head is None or (head[2] and text[head.end()].isspace()):
            self.signatures += 1
            return "its signature covers members that are not where they belong"
        params = text[head.end() : _DECODER.raw_decode(text, head.end())[1]] if head[2] else ""
        signed = (members["id"], members["timestamp"], members["method"], members.get("tool_name", ""), params)
        return self._signature_problem(secret, members["signature"], *signed)

    def _signature_problem(
        self, secret: bytes, signature: str, id_: str, time: str, method: str, tool: str, params: str
    ) -> str | None:
        self.signatures += 1
        if "." in time:
            time = time.removesuffix("Z").rstrip("0").rstrip(".") + "Z"
        # Readers of the seed decode a lone surrogate to U+FFFD, so that is what was signed.
        signed = _SURROGATE.sub("\ufffd", id_ + time + method + tool).encode() + params.encode()
        expected = "hmac-sha256:" + hmac.new(secret, signed, "sha256").hexdigest()
        return None if expected == signature else "its signature does not match"


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
    if kind == "" and members["outcome"] not in OUTCOMES:
        return f"its outcome is unknown: {members['outcome']}"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _integer(digits: str) -> int | float:
    """Python refuses integers of more than 4300 digits; a payload may have one, a member of ours has not."""
    return int(digits) if len(digits) < 100 else 0.0


_DECODER = json.JSONDecoder(object_pairs_hook=list, parse_constant=_no_constant, parse_int=_integer)
