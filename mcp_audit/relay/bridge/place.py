"""How far a stream was read, and when to ask for the rest of it. Pure."""

from __future__ import annotations

from mcp_audit.wire.sse import SseDecoder

__all__ = ["Place"]

_DEFAULT_PAUSE = 1.0  # seconds, while the server has not said how long to wait
_LEAST_PAUSE = 0.1  # between attempts of which the last brought nothing, whatever the server said
_LONGEST_PAUSE = 30.0
_MAX_DOUBLINGS = 10


class Place:
    """The last event that was read, and how the attempts to go on from there went.

    Attributes:
        last_id: what to send as `Last-Event-ID`, empty if there is nothing to go on from.
        failures: attempts in a row that found no stream.
        cause: why the stream ended, empty for an orderly end.
    """

    def __init__(self) -> None:
        self.last_id = b""
        self.failures = 0
        self.cause = ""
        self._retry: int | None = None  # milliseconds
        self._fruitless = 0

    def connected(self) -> None:
        """A stream is there; it has brought nothing yet."""
        self.failures = 0
        self._fruitless += 1
        self.cause = ""

    def failed(self, cause: str) -> None:
        """There was no stream."""
        self.failures += 1
        self._fruitless += 1
        self.cause = cause

    def advance(self, decoder: SseDecoder, fruitful: bool) -> None:
        """Note what was read; an event without data that only names an id is progress as well."""
        if fruitful or (decoder.last_id and decoder.last_id != self.last_id):
            self._fruitless = 0
        self.last_id = decoder.last_id or self.last_id
        if decoder.retry is not None:
            self._retry = decoder.retry

    @property
    def pause(self) -> float:
        """Seconds to wait before the next attempt: what the server asked for, longer while attempts bring nothing."""
        asked = _DEFAULT_PAUSE if self._retry is None else self._retry / 1000
        if not self._fruitless:
            return asked
        doubled = max(asked, _LEAST_PAUSE) * (1 << min(self._fruitless, _MAX_DOUBLINGS))
        return max(asked, min(doubled, _LONGEST_PAUSE))
