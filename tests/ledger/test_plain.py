"""The fast way to read a line finds what decoding it whole finds: never less, never more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checking import strict
from mcp_audit.ledger.checking.plain import read_plain
from mcp_audit.ledger.checking.strict import Strict
from mcp_audit.ledger.entry import Entry, encode

_SECRET = b"0123456789abcdef0123456789abcdef"


def _line(**members: Any) -> bytes:
    known: dict[str, Any] = {
        "id": "01KSFJ34FV6W9K6ZD7VJ4Q8X4R",
        "timestamp": "2026-05-25T12:34:56.123450Z",
        "direction": "client_to_server",
        "transport": "stdio",
        "method": "tools/call",
        "outcome": "answered",
    }
    chain = Chain("host1/fs")
    return chain.seal(encode(Entry(**(known | members))))[:-1]


_FULL = {
    "request_id": "17",
    "tool_name": "read_file",
    "params": b'{"name":"read_file","arguments":{"n":[1,2.5e3,null,true]}}',
    "result": b'{"content":[{"type":"text","text":"a \\" b"}]}',
    "client_id": "desktop \u00e9",
    "server_id": "fs",
    "era": "legacy",
    "protocol_version": "2025-11-25",
    "session": "s",
    "signature": "hmac-sha256:00",
    "of": 3,
}
_EXCHANGE = _line(**_FULL)
_REQUEST = _line(**{**_FULL, "type": "request", "of": None, "signature": "", "result": b""})
_ERROR = _line(error=b'{"code":-32601,"message":"x"}')


def _found(line: bytes) -> tuple[object, ...]:
    inspector = Strict(lambda: _SECRET, lambda: (3,))
    inspector.inspect(7, line)
    return inspector.fault, inspector.faults, inspector.times, inspector.signatures, inspector._requests


def _same(line: bytes) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict, "read_plain", lambda text: None)
        whole = _found(line)
    return _found(line) == whole


@pytest.mark.parametrize("line", [_EXCHANGE, _REQUEST, _ERROR], ids=["exchange", "request", "error"])
def test_what_the_writer_makes_is_plain(line: bytes) -> None:
    """The usual lines take the fast way, and both ways agree about them."""
    assert read_plain(line.decode()) is not None
    assert _same(line)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda line: line.replace(b'"era"', b'"id":"x","era"'), id="repeated"),
        pytest.param(lambda line: line.replace(b',"era"', b',"transport":"x","era"'), id="repeated-later"),
        pytest.param(lambda line: line.replace(b'"era"', b'"type":"open","era"'), id="second-type"),
        pytest.param(lambda line: line.replace(b"answered", b"unknown"), id="outcome"),
        pytest.param(lambda line: line.replace(b'"duration_ms":0', b'"duration_ms":00'), id="leading-zero"),
        pytest.param(lambda line: line.replace(b'"duration_ms":0', b'"duration_ms":true'), id="bool"),
        pytest.param(lambda line: line.replace(b'"duration_ms":0', b'"duration_ms":-1'), id="negative"),
        pytest.param(lambda line: line.replace(b'"duration_ms":0,', b""), id="no-duration"),
        pytest.param(lambda line: line.replace(b"desktop", b"desk\\u0000top"), id="escape"),
        pytest.param(lambda line: line.replace(b"desktop", b"desk\\top"), id="tab-escape"),
        pytest.param(lambda line: line.replace(b"desktop", b"desk\ttop"), id="control"),
        pytest.param(lambda line: line.replace(b"desktop", b"desk\x7ftop"), id="delete"),
        pytest.param(lambda line: line.replace(b"desktop", b"desk\xfftop"), id="no-utf-8"),
        pytest.param(lambda line: line.replace(b"true", b"NaN"), id="nan"),
        pytest.param(lambda line: line.replace(b"true", b"tru"), id="bad-payload"),
        pytest.param(lambda line: line.replace(b"2.5e3", b"9" * 5000), id="long-number"),
        pytest.param(lambda line: line.replace(b"[1,", b"[" * 100_000 + b"[1,"), id="deep"),
        pytest.param(lambda line: line.replace(b"2026-05", "\u0662026-05".encode()), id="arabic-digit"),
        pytest.param(lambda line: line.replace(b'"params":', b'"params": '), id="space"),
        pytest.param(lambda line: line + b" ", id="space-behind"),
        pytest.param(lambda line: line + b"\n", id="line-feed-behind"),
        pytest.param(lambda line: line + line, id="two"),
        pytest.param(lambda line: line.replace(b'"of":3', b'"of":4'), id="of-other"),
        pytest.param(lambda line: line.replace(b'"of":3', b'"marks":["late"],"of":4'), id="late"),
        pytest.param(lambda line: line.replace(b'"of":3', b'"of":3.0'), id="of-float"),
    ],
)
@pytest.mark.parametrize("line", [_EXCHANGE, _REQUEST], ids=["exchange", "request"])
def test_both_ways_agree_about_odd_lines(line: bytes, change: Callable[[bytes], bytes]) -> None:
    """Whatever is wrong with a line, and whatever only looks so, is judged alike."""
    assert _same(change(line))


@given(
    st.sampled_from([_EXCHANGE, _REQUEST, _ERROR]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.sampled_from(b'"\\{}[],:0t \x1f\xc3"')), max_size=4),
)
def test_both_ways_agree_about_changed_bytes(line: bytes, changes: list[tuple[int, int, int]]) -> None:
    """A few bytes replaced, put in or cut out: the same verdict."""
    for place, width, byte in changes:
        place %= len(line)
        line = line[:place] + bytes([byte]) + line[place + width :]
    if line.startswith(b'{"') and line.endswith(b"}"):
        assert _same(line)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(_EXCHANGE))), st.integers(0, 1)), st.randoms())
def test_members_in_any_order_are_judged_alike(missing: dict[str, int], random: Any) -> None:
    """Members moved and left out change nothing between the two ways."""
    pairs = [pair for pair in json.loads(_EXCHANGE).items() if not missing.get(pair[0])]
    random.shuffle(pairs)
    if pairs:
        assert _same(json.dumps(dict(pairs), ensure_ascii=False, separators=(",", ":")).encode())
