"""When a stream is asked for again."""

from __future__ import annotations

from mcp_audit.relay.bridge.place import Place
from mcp_audit.wire.sse import SseDecoder


def read(place: Place, stream: bytes) -> None:
    """Read a stream that ends."""
    decoder = SseDecoder(1000)
    place.connected()
    place.advance(decoder, bool(decoder.feed(stream)))


def test_a_server_that_said_nothing_is_asked_after_a_second() -> None:
    """And one that keeps ending its streams keeps being asked at that pace, as long as they bring something."""
    place = Place()
    for _ in range(10):
        read(place, b"data: {}\n\n")

        assert place.pause == 1.0


def test_the_servers_wish_is_honoured() -> None:
    """To the millisecond, zero included, and across connections."""
    place = Place()
    for wish in (20, 0, 60_000):
        read(place, b"retry: %d\nid: %d\ndata:\n\n" % (wish, wish))
        assert place.pause == wish / 1000
    read(place, b"data: {}\n\n")

    assert place.pause == 60.0


def test_an_id_alone_is_progress() -> None:
    """Servers that let clients poll send nothing else."""
    place = Place()
    for number in range(5):
        read(place, b"retry: 10\nid: %d\ndata:\n\n" % number)

    assert (place.last_id, place.pause) == (b"4", 0.01)


def test_attempts_that_bring_nothing_slow_down() -> None:
    """Up to half a minute, whatever the server wished; the first event makes it quick again."""
    place = Place()
    read(place, b"retry: 0\nid: 1\ndata: {}\n\n")
    pauses = []
    for _ in range(12):
        read(place, b": nothing\n\n")
        pauses.append(place.pause)

    assert pauses[:3] == [0.2, 0.4, 0.8]
    assert pauses[-1] == 30.0
    assert place.last_id == b"1"
    read(place, b"data: {}\n\n")
    assert place.pause == 0.0


def test_failures_are_counted_until_a_stream_is_there() -> None:
    """Whoever resumes an answer gives up after some."""
    place = Place()
    place.failed("refused")
    place.failed("503")
    assert (place.failures, place.cause) == (2, "503")
    place.connected()

    assert (place.failures, place.cause) == (0, "")
