"""Ids and timestamps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from mcp_audit.sinks.stamp import Stamp

MS = 1_000_000
NOON = 1_781_092_800_000 * MS


def ticking(*times: int) -> Callable[[], int]:
    left = iter(times)
    return lambda: next(left)


@given(st.lists(st.integers(0, 2**48 - 1), min_size=1, max_size=50), st.binary(min_size=10, max_size=10))
def test_ids_rise_strictly_whatever_the_clock_does(milliseconds: list[int], random: bytes) -> None:
    """A wall clock that steps back or stands still does not bring back an id."""
    stamp = Stamp(ticking(*(ms * MS for ms in milliseconds)), lambda count: random)

    ids = [stamp.id() for _ in milliseconds]

    assert ids == sorted(set(ids))


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_an_id_is_the_ulid_of_time_and_randomness(ms: int, random: bytes) -> None:
    """python-ulid reads back the millisecond and the random bytes that went in."""
    ulid = ULID.from_str(Stamp(lambda: ms * MS + 999_999, lambda count: random).id())

    assert ulid.milliseconds == ms
    assert ulid.bytes[6:] == random


def test_random_part_is_fresh_for_every_millisecond() -> None:
    """Within a millisecond it counts up, afterwards it is drawn anew."""
    drawn = [b"\0" * 9 + b"\x07", b"\0" * 9 + b"\x02"]
    stamp = Stamp(ticking(NOON, NOON + 1, NOON + MS), lambda count: drawn.pop(0))

    ids = [ULID.from_str(stamp.id()) for _ in range(3)]

    assert [int.from_bytes(ulid.bytes[6:], "big") for ulid in ids] == [7, 8, 2]


def test_overflow_of_the_random_part_borrows_the_next_millisecond() -> None:
    """The largest random part is no dead end."""
    stamp = Stamp(ticking(NOON, NOON, NOON), lambda count: b"\xff" * 10)

    ids = [ULID.from_str(stamp.id()) for _ in range(3)]

    assert [ulid.milliseconds - NOON // MS for ulid in ids] == [0, 1, 1]
    assert ids == sorted(ids)


def test_threads_never_share_an_id() -> None:
    """Four threads, one stamp, no id twice."""
    stamp = Stamp(lambda: NOON)
    made: list[list[str]] = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda ids: ids.extend(stamp.id() for _ in range(2000)), args=[ids]) for ids in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id_ for ids in made for id_ in ids}) == 8000
    assert all(ids == sorted(ids) for ids in made)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        pytest.param(0, "1970-01-01T00:00:00.000000Z", id="epoch"),
        pytest.param(1_779_712_495_123_450_999, "2026-05-25T12:34:55.123450Z", id="nanoseconds-are-cut"),
        pytest.param(1_779_712_495_999_999_999, "2026-05-25T12:34:55.999999Z", id="end-of-a-second"),
    ],
)
def test_timestamps_are_rfc_3339_with_six_decimals(nanoseconds: int, text: str) -> None:
    """Microseconds, cut and never rounded into the next second."""
    assert Stamp(lambda: nanoseconds).timestamp() == text


@given(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=1, max_size=20))
def test_timestamps_say_what_the_clock_says(microseconds: list[int]) -> None:
    """The kept second never sticks, in whatever order the times come."""
    stamp = Stamp(ticking(*(us * 1000 for us in microseconds)))

    for us in microseconds:
        expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
        assert stamp.timestamp() == expected.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
