"""What a response says: which bodies are read, when a message may be complete, and where our own errors go."""

from __future__ import annotations

import gzip
import hashlib
import zlib

import pytest

from mcp_audit.relay.http import outbound as module
from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.outbound import EventAudit, EventStream, WholeAudit, kind_of
from mcp_audit.wire.framing import Oversized
from mcp_audit.wire.message import Kind, Payload

ANSWER = b'{"id":7,"result":{"a":"}]"}}'
GZIP = [(b"content-encoding", b"gzip")]
LIMIT = 1000


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param(b"application/json", "json", id="json"),
        pytest.param(b" Application/JSON ;charset=utf-8", "json", id="spelling"),
        pytest.param(b"application/problem+json", "json", id="suffix"),
        pytest.param(b"text/json", "json", id="another"),
        pytest.param(b"text/event-stream", "events", id="events"),
        pytest.param(b"TEXT/Event-Stream; x=y", "events", id="events-spelling"),
        pytest.param(b"application/json; x=text/event-stream", "json", id="json-first"),
        pytest.param(b"x; application/json, text/event-stream", "events", id="events-within"),
        pytest.param(b"text/html", "", id="html"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_a_type_counts_as_clients_look_for_it(value: bytes, kind: str) -> None:
    """Wherever the word stands."""
    assert kind_of([(b"Content-Type", value)]) == kind


def whole(headers: Headers | None = None, max_bytes: int = LIMIT) -> WholeAudit:
    return WholeAudit(headers or [], max_bytes, hashlib.sha256)


def told(found: object) -> tuple[Kind, tuple[str, ...]]:
    """Return kind and marks of the only message."""
    assert isinstance(found, Payload)
    (message,) = found.messages
    return message.kind, message.marks


@pytest.mark.parametrize("headers", [[], GZIP], ids=["plain", "gzip"])
def test_a_piece_that_may_complete_the_message_is_known_for_it(headers: Headers) -> None:
    """Whoever reads along has it with the closing brace, white space or not behind it; nobody before."""
    packer = zlib.compressobj(wbits=31)
    audit = whole(headers)
    seen = []
    for piece in (b" ", ANSWER[:5], b" ", ANSWER[5:], b"\r\n"):
        packed = packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) if headers else piece
        list(audit.feed(packed))
        seen.append(audit.may_be_whole)
    list(audit.feed(packer.flush() if headers else b""))

    assert seen == [True, False, False, True, True]
    assert told(audit.finish()) == (Kind.RESPONSE, ())


@pytest.mark.parametrize(
    ("headers", "body", "cut", "kind"),
    [
        pytest.param(GZIP, gzip.compress(ANSWER)[:-4], False, Kind.OPAQUE, id="not-whole"),
        pytest.param(GZIP, gzip.compress(ANSWER)[:-8], True, Kind.RESPONSE, id="cut-behind-the-text"),
        pytest.param([], ANSWER[:-1], True, Kind.OPAQUE, id="cut-before-its-end"),
        pytest.param([], ANSWER, True, Kind.RESPONSE, id="cut-behind-it"),
        pytest.param([(b"content-encoding", b"zstd")], ANSWER, False, Kind.OPAQUE, id="unknown"),
    ],
)
def test_what_a_body_says_is_what_can_be_read_of_it(headers: Headers, body: bytes, cut: bool, kind: Kind) -> None:
    """One that broke off by its text, one that did not only if its coding is whole."""
    audit = whole(headers)
    list(audit.feed(body))

    assert told(audit.finish(cut))[0] is kind


def test_a_blank_body_says_nothing_and_a_long_one_its_size() -> None:
    """The copy is cut."""
    blank, long = whole(), whole(max_bytes=len(ANSWER) - 1)
    list(blank.feed(b" \n"))
    list(long.feed(ANSWER))

    assert blank.finish() is None
    found = long.finish()
    assert isinstance(found, Oversized)
    assert found.size == len(ANSWER)


@pytest.mark.parametrize("kind", ["json", "events"])
def test_a_bomb_is_given_up_and_others_have_their_turn(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It yields again and again until it has seen more than any text would unpack to."""
    monkeypatch.setattr(module, "_UNPACKED", 1 << 20)
    audit = whole(GZIP) if kind == "json" else EventAudit(GZIP, LIMIT, hashlib.sha256)
    turns = list(audit.feed(gzip.compress(b" " * (8 << 20))))

    assert 8 < len(turns) < 32
    if isinstance(audit, EventAudit):
        (heard,) = turns[-1]
        assert told(heard.message) == (Kind.OPAQUE, ("unknown_encoding",))
    else:
        assert audit.unreadable
    assert not [turn for turn in audit.feed(b"more of it") if turn]


def test_events_are_told_where_they_stand() -> None:
    """Counted from the piece that ends them, so that one can be left out; an address is no message."""
    audit = EventAudit([], LIMIT, hashlib.sha256)
    assert list(audit.feed(b"event: endpoint\ndata: /m\n\ndata: {")) == []
    ((one, two),) = audit.feed(b"}\n\n: c\ndata: 1\n\ndata: ")

    assert (one.start, one.end, two.start, two.end) == (-7, 3, 3, 16)
    assert not audit.between_events


async def test_an_error_of_ours_waits_for_the_end_of_an_event() -> None:
    """Bytes of the upstream keep their order, and none of its events is torn."""
    out: list[bytes] = []

    async def write(piece: bytes, more: bool) -> None:
        out.append(piece)

    stream = EventStream(write)
    await stream.inject(b"1")
    await stream.write(b"data: a", between=False)
    await stream.inject(b"2")
    await stream.inject(b"3")
    await stream.write(b"b\n\n", between=True)

    ours = [b"event: message\ndata: %d\n\n" % number for number in (1, 2, 3)]
    assert out == [ours[0], b"data: a", b"b\n\n", ours[1] + ours[2]]


@pytest.mark.parametrize("why", ["over", "fixed"])
async def test_who_comes_too_late_to_a_stream_is_told_so(why: str) -> None:
    """Nothing follows its end, and nothing is put into one that cannot hold it."""
    out: list[tuple[bytes, bool]] = []

    async def write(piece: bytes, more: bool) -> None:
        out.append((piece, more))

    stream = EventStream(write, malleable=why == "over")
    if why == "over":
        assert await stream.inject(b"1")
        await stream.end()

    assert not await stream.inject(b"2")
    assert [more for _, more in out] == ([True, False] if why == "over" else [])


async def test_an_event_that_never_ends_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many errors of ours wait for its end; who has another one is told that it cannot be sent."""
    monkeypatch.setattr(module, "_WAITING", 2)

    async def write(piece: bytes, more: bool) -> None:
        pass

    stream = EventStream(write)
    await stream.write(b"data: a", between=False)

    assert [await stream.inject(b"1") for _ in range(4)] == [True, True, False, False]
