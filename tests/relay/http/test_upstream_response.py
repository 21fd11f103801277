"""The framing of answers without a network: what any cut of the bytes into reads must not change."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.errors import BrokenBody, UpstreamUnavailable
from mcp_audit.relay.http.response import Response


class NoLink:
    """Remembers what an answer asked of its connection."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause_reading(self) -> None:
        self.asked.append("pause")

    def resume_reading(self) -> None:
        self.asked.append("resume")

    def abort(self) -> None:
        self.asked.append("abort")


class Outcome(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    broken: bool
    reusable: bool


def take(stream: bytes, cuts: list[int], method: bytes = b"GET") -> Outcome:
    """Feed a stream cut at the given places, then its end, and return what a reader sees."""

    async def run() -> Outcome:
        response = Response(NoLink(), method, asyncio.get_running_loop())
        edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
        for begin, end in pairwise(edges):
            if not response.ended:
                response.feed(stream[begin:end])
        response.stream_ended()
        pieces: list[bytes] = []
        broken = False
        try:
            await response.arrived()
            while piece := await response.read():
                pieces.append(piece)
        except (BrokenBody, UpstreamUnavailable):
            broken = True
        return Outcome(response.status, response.headers, b"".join(pieces), broken, response.reusable)

    return asyncio.run(run())


names = st.from_regex(rb"X-[A-Za-z0-9-]{0,12}", fullmatch=True)
values = st.from_regex(rb"([!-~\x80-\xff]([ -~\x80-\xff]*[!-~\x80-\xff])?)?", fullmatch=True)
headers = st.lists(st.tuples(names, values), max_size=6)
bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=5)
cuts = st.lists(st.integers(0, 3000), max_size=12)


def head(fields: list[tuple[bytes, bytes]]) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"


@settings(deadline=None)
@given(headers, bodies, cuts)
def test_a_chunked_answer_survives_any_cut(
    fields: list[tuple[bytes, bytes]], body: list[bytes], cuts: list[int]
) -> None:
    """Headers are as sent, and the body is the chunks' content, wherever reads begin and end."""
    fields = [*fields, (b"Transfer-Encoding", b"chunked")]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in body)

    assert take(head(fields) + chunks + b"0\r\n\r\n", cuts) == (200, fields, b"".join(body), False, True)


@settings(deadline=None)
@given(headers, st.binary(max_size=600), cuts)
def test_an_answer_with_length_survives_any_cut(
    fields: list[tuple[bytes, bytes]], body: bytes, cuts: list[int]
) -> None:
    """The same with a Content-Length."""
    fields = [*fields, (b"Content-Length", b"%d" % len(body))]

    assert take(head(fields) + body, cuts) == (200, fields, body, False, True)


@settings(deadline=None)
@given(bodies, st.data())
def test_a_prefix_never_looks_whole(body: list[bytes], data: st.DataObject) -> None:
    """An answer cut short anywhere ends abnormally, after the part that came."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in body)
    stream = head([(b"Transfer-Encoding", b"chunked")]) + chunks + b"0\r\n\r\n"
    short = data.draw(st.integers(0, len(stream) - 1))

    seen = take(stream[:short], [])

    assert seen.broken
    assert not seen.reusable
    assert b"".join(body).startswith(seen.body)


@settings(deadline=None)
@given(st.binary(max_size=400), cuts)
def test_no_bytes_make_it_fail_otherwise(stream: bytes, cuts: list[int]) -> None:
    """Whatever an upstream sends is an answer or an abnormal end, never another exception."""
    for prefix in (b"", b"HTTP/1.1 ", head([(b"Transfer-Encoding", b"chunked")]), b"HTTP/1.1 200 OK\r\nContent-Length"):
        assert take(prefix + stream, cuts).status in range(1000)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=50))
def test_more_than_was_asked_for_ends_the_connection(surplus: bytes) -> None:
    """What follows an answer in the same read is not the answer to the next request."""
    seen = take(head([(b"Content-Length", b"2")]) + b"ok" + surplus, [])

    assert (seen.body, seen.broken) == (b"ok", False)
    assert seen.reusable is (surplus.strip(b"\r\n") == b""), "empty lines between answers are harmless"


def test_reading_pauses_and_goes_on() -> None:
    """At 256 KiB that wait, and not before; taking them is what resumes it."""

    async def run() -> None:
        link = NoLink()
        response = Response(link, b"GET", asyncio.get_running_loop())
        response.feed(head([(b"Content-Length", b"1000000")]))
        response.feed(bytes(262_143))
        assert link.asked == []
        response.feed(b"x")
        response.feed(b"x")
        assert link.asked == ["pause"]
        assert len(await response.read()) == 262_145
        assert link.asked == ["pause", "resume"]
        response.abort()
        response.abort()
        assert link.asked == ["pause", "resume", "abort"]

    asyncio.run(run())
