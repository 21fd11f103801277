"""Lines out of chunks: nothing lost, added or reordered, whatever the chunks; and what is left of a line too long."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.wire.framing import HEAD_BYTES, TAIL_BYTES, Bounded, LineDecoder, Oversized, recover, recover_id
from mcp_audit.wire.model import Direction, Kind

TO_SERVER = Direction.TO_SERVER


def decode(chunks: list[bytes], max_bytes: int = 1 << 20) -> list[bytes | Oversized]:
    decoder = LineDecoder(max_bytes)
    lines = [line for chunk in chunks for line in decoder.feed(chunk)]
    last = decoder.finish()
    return lines if last is None else [*lines, last]


def shape(lines: list[bytes | Oversized]) -> list[Any]:
    """Return lines as values that compare."""
    return [line if isinstance(line, bytes) else (line.size, line.sha256, line.head, line.tail) for line in lines]


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        pytest.param(b"{}\n", [b"{}\n"], id="one"),
        pytest.param(b"{}\r\n\n", [b"{}\r\n", b"\n"], id="crlf-then-blank"),
        pytest.param(b"{}\r{}\n", [b"{}\r{}\n"], id="a-cr-ends-nothing"),
        pytest.param(
            b"a\xe2\x80\xa8b\xc2\x85c\x0b\x0c\n", [b"a\xe2\x80\xa8b\xc2\x85c\x0b\x0c\n"], id="nor-other-breaks"
        ),
        pytest.param(b"{}", [b"{}"], id="no-newline-at-the-end"),
        pytest.param(b"{}\n\r", [b"{}\n", b"\r"], id="a-lone-cr-at-the-end"),
        pytest.param(b"", [], id="nothing"),
        pytest.param(b"\n\n\n", [b"\n", b"\n", b"\n"], id="blanks"),
    ],
)
def test_chunk_boundaries_carry_no_meaning(stream: bytes, lines: list[bytes]) -> None:
    """Byte by byte or whole, the same lines come out."""
    assert decode([stream[i : i + 1] for i in range(len(stream))]) == lines
    assert decode([stream]) == lines


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"\r\n", b"\r"])))
def test_nothing_is_lost_added_or_reordered(chunks: list[bytes]) -> None:
    """Transparency: the lines rebuild the stream exactly, and each but the last ends with its only LF."""
    lines = [line for line in decode(chunks) if isinstance(line, bytes)]

    assert b"".join(lines) == b"".join(chunks)
    assert all(line.index(b"\n") == len(line) - 1 for line in lines[:-1])


def obvious(stream: bytes, max_bytes: int) -> list[Any]:
    """Split at LF, then replace each line whose text is too long."""
    *whole, last = stream.split(b"\n")
    expected: list[Any] = []
    for line, terminated in [(line, True) for line in whole] + ([(last, False)] if last else []):
        text = line.removesuffix(b"\r") if terminated else line
        if len(text) <= max_bytes:
            expected.append(line + b"\n" * terminated)
        else:
            expected.append((len(text), hashlib.sha256(text).digest(), text[:HEAD_BYTES], text[-TAIL_BYTES:]))
    return expected


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\n", b"\r\n", b"\r", b"abcdefgh"])), st.integers(0, 12))
def test_the_limit_counts_text_however_it_was_chunked(chunks: list[bytes], max_bytes: int) -> None:
    """A line of exactly the limit passes, with LF or CRLF; a longer one is described, and the next is normal."""
    stream = b"".join(chunks)

    assert shape(decode(chunks, max_bytes)) == obvious(stream, max_bytes)
    assert shape(decode([stream], max_bytes)) == obvious(stream, max_bytes)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\r\n", b"\r", b""])
@pytest.mark.parametrize("size", [9, 10, 11])
def test_the_limit_holds_byte_by_byte(size: int, end: bytes) -> None:
    """A CR that comes just past the limit may be half a terminator, and only the next byte tells."""
    stream = b"x" * size + end + b"next\n"

    assert shape(decode([stream[i : i + 1] for i in range(len(stream))], 10)) == obvious(stream, 10)
    assert shape(decode([stream[: size + 1], stream[size + 1 :]], 10)) == obvious(stream, 10)
    assert shape(decode([stream[:size] + end], 10)) == obvious(stream[:size] + end, 10)


@pytest.mark.parametrize("step", [1000, 4096, 4097, 65536, 70001, 300_000])
def test_head_tail_and_hash_of_a_long_line(step: int) -> None:
    """Whatever size the pieces have, 64 KiB and 4 KiB are kept and all is hashed."""
    text = bytes(i * 7 % 251 for i in range(200_000)).replace(b"\n", b"x").replace(b"\r", b"y")
    stream = b"before\n" + text + b"\r\nafter\n"
    chunks = [stream[i : i + step] for i in range(0, len(stream), step)]

    assert shape(decode(chunks, 100_000)) == obvious(stream, 100_000)


def test_a_whole_line_is_handed_on_as_it_is() -> None:
    """No copy: the very bytes object that was read travels through."""
    decoder, chunk = LineDecoder(100), b'{"id":1}\n'
    (line,) = decoder.feed(chunk)

    assert line is chunk


def test_the_hash_can_be_salted() -> None:
    """A commitment hashes a salt first; each line that is too long gets a hasher of its own, and names it."""
    made = []

    def salted() -> Any:
        made.append(hashlib.sha256(b"salt"))
        return made[-1]

    lines = LineDecoder(3, salted).feed(b"long1\nok\nlong2\n")

    assert [line.sha256 for line in lines if isinstance(line, Oversized)] == [
        hashlib.sha256(b"salt" + text).digest() for text in (b"long1", b"long2")
    ]
    assert [line.hasher for line in lines if isinstance(line, Oversized)] == made


def test_a_line_too_long_takes_little_memory_and_a_trickle_little_time() -> None:
    """Once over the limit only both ends are kept; and a long line in tiny pieces costs time in proportion."""
    decoder = LineDecoder(1000)
    for _ in range(1000):
        assert decoder.feed(b"x" * 65536) == []
    discarded = decoder._discarded
    assert discarded is not None
    assert len(discarded._head) + len(discarded._tail) <= HEAD_BYTES + TAIL_BYTES + 1
    assert not decoder._unfinished

    def trickle(size: int) -> float:
        slow = LineDecoder(1 << 30)
        started = time.process_time()
        for _ in range(size // 100):
            slow.feed(b"x" * 100)
        return time.process_time() - started

    trickle(100_000)
    assert trickle(8_000_000) < 40 * max(trickle(800_000), 0.001)


BIG = '"' + "x" * 100_000 + '"'


@pytest.mark.parametrize(
    ("text", "kind", "method", "key"),
    [
        pytest.param('{"id":7,"method":"m","params":{"a":%s}}', Kind.REQUEST, "m", 7, id="request"),
        pytest.param('{"method":"m","params":{"a":%s},"id":7}', Kind.REQUEST, "m", 7, id="id-last"),
        pytest.param('{"params":{"a":%s},"method":"m","id":"a}"} ', Kind.REQUEST, "m", "a}", id="both-last"),
        pytest.param('{"params":{"a":%s} , "id" : "q\\\\\\"" ,\t"method":"m"}', Kind.REQUEST, "m", 'q\\"', id="spaced"),
        pytest.param('{"method":"m","params":{"a":%s}}', Kind.NOTIFICATION, "m", None, id="notification"),
        pytest.param('{"id":7,"result":{"a":%s}}', Kind.RESPONSE, None, 7, id="response"),
        pytest.param('{"id":7,"result":%s}', Kind.RESPONSE, None, 7, id="result-is-the-long-string"),
        pytest.param('{"result":{"a":%s},"id":7,"jsonrpc":"2.0"}', Kind.RESPONSE, None, 7, id="response-id-last"),
        pytest.param('{"id":null,"error":{"data":%s}}', Kind.RESPONSE, None, None, id="null"),
        pytest.param('{"id":7,"result":{"a":%s},"id":7}', Kind.RESPONSE, None, 7, id="both-agree"),
        pytest.param('{"id":7,"result":{"a":%s},"id":7.0}', Kind.RESPONSE, None, 7, id="both-agree-in-value"),
        pytest.param('{"id":7,"result":{"a":%s},"id":8}', Kind.RESPONSE, None, None, id="disagree"),
        pytest.param('{"id":7,"result":{"a":%s},"id":"7"}', Kind.RESPONSE, None, None, id="disagree-in-type"),
        pytest.param('{"id":7,"id":7,"result":{"a":%s}}', Kind.RESPONSE, None, None, id="twice"),
        pytest.param('{"\\u0069d":7,"result":{"a":%s}}', Kind.RESPONSE, None, None, id="escaped"),
        pytest.param('{"id":7,"result":{"a":%s},"i\\u0064":8}', Kind.RESPONSE, None, None, id="escaped-in-the-tail"),
        pytest.param('{"id":true,"result":{"a":%s}}', Kind.RESPONSE, None, None, id="boolean"),
        pytest.param('{"id":{"id":7},"result":{"a":%s}}', Kind.RESPONSE, None, None, id="object"),
        pytest.param('{"result":{"a":%s,"id":7}}', Kind.RESPONSE, None, None, id="id-of-an-inner-object"),
        pytest.param('{"result":{"id":7,"a":%s}}', Kind.RESPONSE, None, None, id="id-inside-the-head"),
        pytest.param('{"x":{"a":%s},"id":7}', Kind.OPAQUE, None, 7, id="neither"),
        pytest.param('{"params":{"a":%s},"id":7}', Kind.REQUEST, None, 7, id="params-tell-a-request"),
        pytest.param('{"a":%s,"x":",\\"id\\":7"}', Kind.OPAQUE, None, None, id="id-in-a-string"),
        pytest.param('[{"id":7,"result":{"a":%s}}]', Kind.OPAQUE, None, None, id="batch"),
        pytest.param("noise %s", Kind.OPAQUE, None, None, id="noise"),
    ],
)
def test_what_the_two_ends_tell(text: str, kind: Kind, method: str | None, key: Any) -> None:
    """Kind, method and id of a message whose middle is gone; never a guess between two ids."""
    (line,) = decode([(text % BIG + "\n").encode()], max_bytes=1000)
    assert isinstance(line, Oversized)
    message = recover(line, TO_SERVER)
    id_ = message.id

    assert (message.kind, message.method, message.raw, message.params) == (kind, method, b"", b"")
    assert (id_.key if id_ is not None else None) == key
    assert recover_id(line.head, line.tail) == id_


@pytest.mark.parametrize("cut", range(1, 25))
def test_a_member_cut_off_by_the_end_of_the_head_is_not_believed(cut: int) -> None:
    """12 of 1234 is no id, and neither is half a name."""
    text = b'{"x":"' + b"x" * (HEAD_BYTES - 8 - cut) + b'","id":123456789,"result":{"a":"' + b"y" * 99_999 + b'"}}\n'
    (line,) = decode([text], max_bytes=1000)
    assert isinstance(line, Oversized)
    found = recover_id(line.head, line.tail)

    whole = b'"id":123456789,' in line.head
    assert found is None if not whole else (found is not None and found.key == 123456789)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["jsonrpc", "method", "x", "params"]),
        st.text() | st.integers() | st.lists(st.text(), max_size=2) | st.just("y" * 5000),
        max_size=4,
    ),
    st.integers(-(2**53), 2**53) | st.text(),
    st.booleans(),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.integers(1, 200),
)
def test_an_id_that_is_recovered_is_the_right_one(
    members: dict[str, Any], id_: int | str, first: bool, separators: tuple[str, str], head: int
) -> None:
    """However the ends are cut, what is found is the id; and an id at either end is found."""
    text = json.dumps(({"id": id_} | members) if first else (members | {"id": id_}), separators=separators).encode()
    line = Oversized(len(text), b"", text[:head], text[-TAIL_BYTES:], hashlib.sha256())
    found = recover(line, TO_SERVER).id

    token = json.dumps(id_).encode()
    member = b'"id"' + separators[1].encode() + token
    ends_meet = len(text) - head <= TAIL_BYTES
    in_head = first and len(member) + (1 if isinstance(id_, str) else 2) <= head  # a number needs to be seen to end
    in_tail = not first and len(member) < TAIL_BYTES - 10 and text.rindex(member) >= head
    assert (found is not None and found.key == id_) if ends_meet or in_head or in_tail else found is None


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_ends_make_recovery_raise(head: bytes, tail: bytes) -> None:
    """Noise tells nothing, and that is all."""
    recover(Oversized(1, b"", head, tail, hashlib.sha256()), TO_SERVER)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 100))
def test_a_body_is_kept_up_to_the_limit(pieces: list[bytes], limit: int) -> None:
    """Whatever the pieces; of a longer one size, hash and both ends are known."""
    body, whole = Bounded(limit), b"".join(pieces)
    for piece in pieces:
        body.add(piece)

    expected = whole if len(whole) <= limit else (len(whole), hashlib.sha256(whole).digest(), whole, whole)
    assert shape([body.end()]) == [expected]


def test_a_body_of_one_piece_is_that_piece() -> None:
    """It is not copied, which matters if it is long."""
    piece = b"{}" * 1000
    body = Bounded(len(piece))
    body.add(b"")
    body.add(piece)

    assert body.end() is piece


def test_a_body_byte_by_byte_takes_no_more_memory() -> None:
    """A list of its pieces would be many times its size."""
    body = Bounded(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(100_000):
            body.add(b"x")
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()

    assert body.end() == b"x" * 100_000


@pytest.mark.parametrize(
    "text", [b'{\n "id": 7,\n "result": {\n%b', b'{\n "result": {\n%b,\n "id": 7\n}\n', b'{"id": 7\n,"a":%b']
)
def test_the_id_of_a_body_in_lines_is_recovered(text: bytes) -> None:
    """A body, unlike a line, may have a line break behind a number."""
    body = Bounded(10)
    body.add(text % (b"{}," * HEAD_BYTES + b"{}"))
    cut = body.end()

    assert isinstance(cut, Oversized)
    found = recover(cut, TO_SERVER).id
    assert found is not None
    assert found.key == 7
