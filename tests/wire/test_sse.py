"""Event streams: the same events whatever the chunks, every byte counted, and what WHATWG's words say of each."""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_audit.wire.framing import HEAD_BYTES, TAIL_BYTES, Oversized
from mcp_audit.wire.sse import FIELD_BYTES, SseDecoder, SseEvent

LIMIT = 1 << 20
Told = tuple[bytes, bytes | None, bytes]


def decode(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[SseEvent], SseDecoder]:
    decoder = SseDecoder(limit)
    return [event for chunk in chunks for event in decoder.feed(chunk)], decoder


def bytewise(stream: bytes) -> list[bytes]:
    return [stream[i : i + 1] for i in range(len(stream))]


def told(events: list[SseEvent]) -> list[Any]:
    """Return what events say, as values that compare."""
    return [(e.type, e.id, e.data if isinstance(e.data, bytes) else (e.data.size, e.data.sha256)) for e in events]


def reference(stream: bytes) -> tuple[list[tuple[Told, int]], bytes, int | None]:
    """Read a whole stream as the standard's text has it; return the events with their ends, last id and retry."""
    events: list[tuple[Told, int]] = []
    last_id, retry = b"", None
    type_, id_, data = b"", None, b""
    at = 3 if stream.startswith(b"\xef\xbb\xbf") else 0
    while found := re.compile(rb"([^\r\n]*)(\r\n|\r|\n)").match(stream, at):
        at = found.end()
        line = found[1]
        if not line:
            last_id = id_ if id_ is not None else last_id
            if data.removesuffix(b"\n"):
                events.append(((type_ or b"message", id_, data.removesuffix(b"\n")), at))
            type_, id_, data = b"", None, b""
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"event":
            type_ = value
        elif name == b"data":
            data += value + b"\n"
        elif name == b"id" and b"\0" not in value:
            id_ = value
        elif name == b"retry" and re.fullmatch(rb"[0-9]{1,15}", value):
            retry = int(value)
    return events, last_id, retry


STREAMS = [
    pytest.param(b"data: {}\n\n", [(b"message", None, b"{}")], id="one"),
    pytest.param(b"event: message\r\ndata: {}\r\n\r\n", [(b"message", None, b"{}")], id="crlf"),
    pytest.param(b"data: {}\r\rdata: []\r\r", [(b"message", None, b"{}"), (b"message", None, b"[]")], id="cr"),
    pytest.param(b"data: a\r\n\ndata: b\n\r\n", [(b"message", None, b"a"), (b"message", None, b"b")], id="mixed-ends"),
    pytest.param(b"data:  x \n\n", [(b"message", None, b" x ")], id="one-space-goes"),
    pytest.param(b"data:{\ndata\ndata: }\n\n", [(b"message", None, b"{\n\n}")], id="lines-are-joined"),
    pytest.param(b"\xef\xbb\xbfdata: x\n\n", [(b"message", None, b"x")], id="bom"),
    pytest.param(b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n", [], id="two-boms"),
    pytest.param(b"\n\xef\xbb\xbfdata: x\n\n", [], id="bom-later"),
    pytest.param(b": ping\n\n:\n\ndata: x\n\n", [(b"message", None, b"x")], id="comments"),
    pytest.param(b"id: 7\nretry: 100\ndata:\n\ndata: x\n\n", [(b"message", None, b"x")], id="priming-event"),
    pytest.param(b"data: x\nid: 8\nevent: endpoint\n\n", [(b"endpoint", b"8", b"x")], id="fields-in-any-order"),
    pytest.param(b"event: a\n\ndata: x\n\n", [(b"message", None, b"x")], id="type-is-not-kept"),
    pytest.param(b"event: a\nevent:\ndata: x\n\n", [(b"message", None, b"x")], id="empty-type"),
    pytest.param(b"id: a\0b\nid: 9\nid: a\0b\ndata: x\n\n", [(b"message", b"9", b"x")], id="nul-in-an-id"),
    pytest.param(b"Data: x\n data: y\ndata : z\ndata2\n\n", [], id="other-names"),
    pytest.param(b"data: x\xe2\x80\xa8y\xc2\x85\x0b\x0c\n\n", [(b"message", None, b"x\xe2\x80\xa8y\xc2\x85\x0b\x0c")],
                 id="other-breaks"),
    pytest.param(b"data: x\n", [], id="no-blank-line"),
    pytest.param(b"data: x", [], id="no-line-end"),
    pytest.param(b"", [], id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "events"), STREAMS)
def test_a_stream_says_what_the_standard_says(stream: bytes, events: list[Told]) -> None:
    """Whole or byte by byte, and the reference agrees."""
    assert told(decode([stream])[0]) == events
    assert told(decode(bytewise(stream))[0]) == events
    assert [event for event, _ in reference(stream)[0]] == events


PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"data", b"data:", b"data: ", b"da", b"ta:",
    b"event: ", b"id:", b"id", b"id: 7\n", b"event: e\r\n", b"retry: 5", b":", b" ", b"x", b"{}", b"\0", b"\xff",
    b"message", b"\xef\xbb\xbf", b"data: {}\n\n", b"data: {}\r\n\r\n", b"event: e\nid: 1\ndata: {}\n\n",
    b"id: 1\ndata:\n\n",
]  # fmt: skip
STREAM = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=25).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(STREAM, st.lists(st.integers(0, 1000), max_size=12))
@example(b"data: x\r\n\r\ndata: y\r\n\r\n", [10, 11])
@example(b"data: x\r\r\n\ndata: y\r\r", [9, 10])
@example(b"\xef\xbb\xbf\r\rdata: x\n\n", [1, 2, 3, 4])
@example(b"\ndata: a\n\ndata: b\r", [])
def test_any_chunks_tell_what_the_reference_reads(stream: bytes, places: list[int]) -> None:
    """Events, last id, retry: as the standard has them. The sizes add up, and each event ends at its blank line."""
    chunks = cut(stream, places)
    expected, last_id, retry = reference(stream)
    events, decoder = decode(chunks)

    assert told(events) == [event for event, _ in expected]
    assert (decoder.last_id, decoder.retry, decoder.position) == (last_id, retry, len(stream))
    for event, (_, end) in zip(events, expected, strict=True):
        # An LF that a chunk parts from its CR is counted with what follows.
        assert event.end == end or (event.end == end - 1 and stream[event.end - 1 : end] == b"\r\n")
    assert [event.end for event in decode([stream])[0]] == [end for _, end in expected]

    rest = decoder.finish()
    sizes = [event.size for event in [*events, *([rest] if rest is not None else [])]]
    assert sum(sizes) == len(stream)
    assert 0 not in sizes
    assert [event.end for event in events] == [sum(sizes[: i + 1]) for i in range(len(events))]


@settings(max_examples=200, deadline=None)
@given(STREAM, st.lists(st.integers(0, 1000), max_size=6), st.integers(0, 1000))
def test_an_event_put_in_between_changes_no_other(stream: bytes, places: list[int], place: int) -> None:
    """Where the decoder says that it is between events, one of ours goes in and all others stay what they were."""
    place %= len(stream) + 1
    _, decoder = decode(cut(stream[:place], places))
    if not decoder.between_events:
        return
    ours = b"event: message\ndata: ours\n\n"
    before, after = reference(stream[:place])[0], reference(stream)[0]

    mixed = reference(stream[:place] + ours + stream[place:])[0]

    expected = [event for event, _ in after]
    expected.insert(len(before), (b"message", None, b"ours"))
    assert [event for event, _ in mixed] == expected


@pytest.mark.parametrize(
    "part", [b"data: x", b"data: x\n", b"event: a\n", b"id: 1\n", b"id\n", b": comment", b"da", b""]
)
def test_nothing_goes_in_where_an_event_has_begun(part: bytes) -> None:
    """Nor at the very beginning, where a byte order mark may follow."""
    stream = b"data: before\n\n" + part if part else b""

    assert not decode([stream])[1].between_events


@pytest.mark.parametrize("stream", [b"data: x\n\n", b"data: x\r\n\r", b"data: x\n\n: comment\n", b"retry: 5\n"])
def test_our_own_event_may_go_in(stream: bytes) -> None:
    """After an event, and after lines that no event takes anything from."""
    assert decode([stream])[1].between_events


@pytest.mark.parametrize(
    ("stream", "last"),
    [(b"data: x\n\n", 8), (b"data: x\r\r", 8), (b"data: x\r\n\r\n", 9), (b"data: x\r\n\r", 9), (b"data: x\r\n\n", 9)],
)
def test_an_event_is_told_with_the_byte_that_ends_it(stream: bytes, last: int) -> None:
    """A client acts on a CR without waiting for an LF, so its line must be in the ledger by then."""
    decoder = SseDecoder(LIMIT)

    assert [i for i, byte in enumerate(bytewise(stream)) for _ in decoder.feed(byte)] == [last]


def test_an_event_counts_what_stands_before_it() -> None:
    """Comments, other fields and events without data belong to the event that follows them."""
    first, second = b"data: a\n\n", b": c\n\nid: 1\ndata:\n\nretry: 9\nevent: e\ndata: b\n\n"
    events, decoder = decode([first + second + b": more"])

    assert [(event.size, event.end) for event in events] == [
        (len(first), len(first)),
        (len(second), len(first + second)),
    ]
    rest = decoder.finish()
    assert rest is not None
    assert (rest.size, rest.end, rest.data) == (6, len(first + second) + 6, b"")


@pytest.mark.parametrize(
    ("end", "data"),
    [
        pytest.param(b"data: {", b"{", id="in-a-data-line"),
        pytest.param(b"event: x\ndata: {}\n", b"{}", id="no-blank-line"),
        pytest.param(b"data: a\ndata: b", b"a\nb", id="second-line"),
        pytest.param(b"data: a\ndat", b"a", id="half-a-name"),
        pytest.param(b": comment", b"", id="comment"),
        pytest.param(b"data:", b"", id="no-data-yet"),
    ],
)
def test_an_unfinished_end_is_told_apart(end: bytes, data: bytes) -> None:
    """What the stream broke off in is no event, and can be recorded as what it was."""
    for chunks in ([b"data: whole\n\n" + end], bytewise(b"data: whole\n\n" + end)):
        events, decoder = decode(chunks)
        rest = decoder.finish()

        assert told(events) == [(b"message", None, b"whole")]
        assert rest is not None
        assert (rest.size, rest.data) == (len(end), data)
        assert decoder.finish() is None


def test_a_line_cut_off_sets_nothing() -> None:
    """Half a `retry` is another number, and half an id another id."""
    _, decoder = decode([b"retry: 10\nid: 1\n\nid: 22\n\nretry: 2"])
    decoder.finish()

    assert (decoder.retry, decoder.last_id) == (10, b"22")


@settings(max_examples=60, deadline=None)
@given(st.integers(90, 110), st.integers(1, 4), st.lists(st.integers(0, 1000), max_size=6))
def test_data_over_the_limit_is_cut_and_the_stream_goes_on(size: int, lines: int, places: list[int]) -> None:
    """Data of exactly the limit is kept. Of more its size, its hash and both ends are, and the next event is whole."""
    data = b"\n".join([b"x" * ((size - lines + 1) // lines)] * lines)
    stream = b"".join(b"data: %b\r\n" % line for line in data.split(b"\n")) + b"\r\ndata: next\n\n"

    first, second = decode(cut(stream, places), limit=100)[0]

    if len(data) <= 100:
        assert first.data == data
    else:
        assert isinstance(first.data, Oversized)
        assert (first.data.size, first.data.sha256) == (len(data), hashlib.sha256(data).digest())
        assert (first.data.head, first.data.tail) == (data, data)
    assert second.data == b"next"
    assert first.size + second.size == len(stream)


def peak(decoder: SseDecoder, chunks: list[bytes]) -> tuple[list[SseEvent], int]:
    """Feed chunks; return the events and how much memory was taken at most meanwhile."""
    tracemalloc.start()
    try:
        return [event for chunk in chunks for event in decoder.feed(chunk)], tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huge_event_takes_no_memory() -> None:
    """Past the limit nothing is kept but the two ends."""
    chunk = bytes(range(32, 127)) * 700
    (event,), memory = peak(SseDecoder(1000), [b"data: ", *[chunk] * 40, b"\n\n"])

    whole = chunk * 40
    assert isinstance(event.data, Oversized)
    assert (event.data.size, event.data.sha256) == (len(whole), hashlib.sha256(whole).digest())
    assert (event.data.head, event.data.tail) == (whole[:HEAD_BYTES], whole[-TAIL_BYTES:])
    assert memory < 10 * len(chunk) < len(whole) / 2


@pytest.mark.parametrize("field", [b"id", b"event", b":", b"unknown"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_endless_field_takes_no_memory(field: bytes, chunked: bool) -> None:
    """Of any other line 8 KiB are looked at; an id longer than that is none, for half an id is another one."""
    stream = field + b":" + b"y" * 100_000 + b"\ndata: x\n\n"
    chunks = [stream[i : i + 1000] for i in range(0, len(stream), 1000)] if chunked else [stream]
    (event,), memory = peak(SseDecoder(LIMIT), chunks)

    assert (event.size, event.data, event.id) == (len(stream), b"x", None)
    assert len(event.type) <= FIELD_BYTES
    assert memory < 4 * FIELD_BYTES < len(stream)


@pytest.mark.timeout(10)
def test_a_long_line_is_searched_once() -> None:
    """Its chunks cost what they hold, not what came before them."""
    decoder = SseDecoder(1 << 30)
    decoder.feed(b"data: ")
    for _ in range(512):
        decoder.feed(b"x" * (1 << 16))
    (event,) = decoder.feed(b"\n\n")

    assert isinstance(event.data, bytes)
    assert len(event.data) == 1 << 25


@pytest.mark.parametrize("unit", [b"\n", b"\r", b"\r\n", b":\n", b"data\n", b"\r:", b"data:x\r\r", b"a" * 100 + b"\r"])
@pytest.mark.timeout(20)
def test_hostile_streams_cost_little(unit: bytes) -> None:
    """A megabyte made of the smallest lines is read in linear time, in one chunk or in many."""
    stream = unit * (1_000_000 // len(unit))
    for size in (len(stream), 1000):
        decode([stream[i : i + size] for i in range(0, len(stream), size)])
