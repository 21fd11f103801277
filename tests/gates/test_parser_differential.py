"""No reader sees a forbidden call that the proxy did not see, and no odd but harmless call is held up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "wire"))

from dialects import Node, tools_called
from hostile import FORBIDDEN, HOSTILE, LEGITIMATE, PERMITTED

from mcp_audit.wire.framing import LineDecoder
from mcp_audit.wire.message import Direction, Message, parse


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    try:
        process = Node()
    except FileNotFoundError as error:
        pytest.skip(f"{error}; any version will do")
    yield process
    process.close()


def lines(stream: bytes) -> list[list[Message]]:
    """Return the messages of each line that is not blank, as the relay gets them."""
    decoder = LineDecoder(1 << 26)
    units = [*decoder.feed(stream), decoder.finish() or b""]
    payloads = [parse(unit, Direction.TO_SERVER) for unit in units if isinstance(unit, bytes)]
    return [list(payload.messages) for payload in payloads if payload.messages]


def is_denied(messages: list[Message]) -> bool:
    """Whether a proxy that forbids the tool denies these messages: one that is denied takes its batch with it."""
    return any(m.marks or (m.method == "tools/call" and m.target == FORBIDDEN) for m in messages)


def test_the_tables_are_large_enough() -> None:
    """Forty disguises and twenty harmless oddities at least, each different: a table that shrinks proves less."""
    assert len({raw for _, raw in HOSTILE}) == len(HOSTILE) >= 40
    assert len({raw for _, raw in LEGITIMATE}) >= 20
    assert len({name for name, _ in HOSTILE}) == len(HOSTILE)
    assert len({name for name, _ in LEGITIMATE}) == len(LEGITIMATE)


@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in HOSTILE])
def test_a_call_in_disguise_is_denied(raw: bytes, node: Node) -> None:
    """Some reader would call the tool, so every line of the stream is denied: marked, or seen for what it is."""
    called = set(tools_called(raw)) | node.tools_called(raw)
    assert FORBIDDEN in called, "nobody is fooled by this, so it proves nothing"

    assert all(is_denied(messages) for messages in lines(raw))


@pytest.mark.parametrize("deep_arguments", [False, True])
@pytest.mark.parametrize("raw", [pytest.param(raw, id=name) for name, raw in LEGITIMATE])
def test_an_odd_but_harmless_call_passes(raw: bytes, deep_arguments: bool, node: Node) -> None:
    """Every reader calls the permitted tool, and so do we, without a mark."""
    (message,) = parse(raw, Direction.TO_SERVER, deep_arguments=deep_arguments).messages

    assert node.tools_called(raw) == {PERMITTED}
    assert set(tools_called(raw)) == {PERMITTED}
    assert (message.method, message.target, message.marks) == ("tools/call", PERMITTED, ())


PIECES = [
    b'"method":"tools/call"', b'"method":"ping"', b'"Method":"tools/call"', b'"params":{"name":"delete_file"}',
    b'"params":{"name":"read_file"}', b'"PARAMS":{"name":"delete_file"}', b'"name":"delete_file"', b'"result":{}',
    b'"id":1', b"{", b"}", b"[", b"]", b",", b":", b" ", b"\r", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\\u0000",
    b"\\ud800", b"NaN", b'"', b"\\", b'"n\\u0061me":"delete_file"', b'"params":null', b'"x":{"a":1,"a":2}', b"\xc2\x85",
    b"\x0c", b"\t",
]  # fmt: skip


@st.composite
def disguises(draw: st.DrawFn) -> bytes:
    """Take a known disguise apart and put something in."""
    raw = draw(st.sampled_from([raw for _, raw in HOSTILE if len(raw) < 400]))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        piece = draw(st.sampled_from([b"", *PIECES]))
        comma = draw(st.sampled_from([b"", b","]))
        raw = raw[:at] + piece + comma + raw[at + draw(st.integers(0, 2)) :]
    return raw


@settings(max_examples=400, deadline=None)
@given(disguises())
def test_no_mutation_of_a_disguise_slips_through(node: Node, raw: bytes) -> None:
    """Line by line, as a server reads what we forward: a line in which any reader sees the call is denied."""
    decoder = LineDecoder(1 << 26)
    for line in [*decoder.feed(raw), decoder.finish() or b""]:
        assert isinstance(line, bytes)
        if FORBIDDEN in tools_called(line) or FORBIDDEN in node.tools_called(line):
            assert is_denied(list(parse(line, Direction.TO_SERVER).messages)), line
