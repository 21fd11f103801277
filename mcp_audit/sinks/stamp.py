"""Who and when: the id and the timestamp that every line carries.

Promise: ids of one `Stamp` rise strictly, even when the wall clock steps back; timestamps say what the wall clock says.
Thread-safe. Nothing here orders the ledger: `seq` does.

An id is a ULID (github.com/ulid/spec): 48 bits of Unix milliseconds and 80 random bits in 26 characters. `python-ulid`
spends 5 us on one and 14 ms on being imported, which every start of a session would pay. Here two characters come out
of a table at a time and the millisecond's ten are kept, which takes 1 us; the tests decode every shape with
`python-ulid`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

__all__ = ["Stamp"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]  # ten bits each
_RANDOM_BITS = 80
_MS_NS = 1_000_000


class Stamp:
    """Makes ids and timestamps.

    Args:
        clock: nanoseconds since the Unix epoch.
        randomness: returns as many random bytes as asked for.
    """

    __slots__ = ("_clock", "_lock", "_low", "_ms", "_next_ms_ns", "_prefix", "_randomness", "_second", "_slow_prefix")

    def __init__(
        self, clock: Callable[[], int] = time.time_ns, randomness: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._clock = clock
        self._randomness = randomness
        self._lock = threading.Lock()
        self._ms = -1024
        self._next_ms_ns = 0  # from here on the id gets a new millisecond
        self._prefix = self._slow_prefix = ""
        self._low = 0
        self._second = (-1, "")

    def id(self) -> str:
        """Return a new ULID, greater than every one before it."""
        with self._lock:
            low = self._low + 1
            now = self._clock()
            # Within the millisecond, and while the clock is behind where it has been, the random part counts up.
            if now >= self._next_ms_ns:
                self._enter(now // _MS_NS)
                low = int.from_bytes(self._randomness(_RANDOM_BITS // 8), "big")
            elif low >> _RANDOM_BITS:
                self._enter(self._ms + 1)
                low = 0
            self._low = low
            prefix = self._prefix
        pairs = _PAIRS
        return (
            f"{prefix}{pairs[low >> 70]}{pairs[low >> 60 & 1023]}{pairs[low >> 50 & 1023]}{pairs[low >> 40 & 1023]}"
            f"{pairs[low >> 30 & 1023]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
        )

    def now_ns(self) -> int:
        """Return the wall clock's time in nanoseconds since the Unix epoch."""
        return self._clock()

    def timestamp(self) -> str:
        """Return the wall clock's time as RFC 3339 UTC with six decimals."""
        second, rest = divmod(self._clock(), 1_000_000_000)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = (second, text)
        return f"{text}{rest // 1000:06d}Z"

    def _enter(self, ms: int) -> None:
        # Most ids are the first of their millisecond; eight of its ten characters last for a second.
        if ms >> 10 != self._ms >> 10:
            self._slow_prefix = "".join(_PAIRS[ms >> shift & 1023] for shift in (40, 30, 20, 10))
        self._ms = ms
        self._next_ms_ns = (ms + 1) * _MS_NS
        self._prefix = self._slow_prefix + _PAIRS[ms & 1023]
