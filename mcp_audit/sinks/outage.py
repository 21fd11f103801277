"""What happens while the ledger takes nothing: the lines it is owed, and what it cost, for a `blocked` or `gap` line.

Bounded: beyond the bound a line is counted instead of kept. What was written, even of a batch that failed half way, is
never written or counted again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from mcp_audit.ledger.entry import Unsealed, encode_typed
from mcp_audit.sinks.stamp import Stamp

__all__ = ["Outage"]

_MAX_OWED_LINES = 10_000
_MAX_OWED_BYTES = 64 * 1024 * 1024


class Outage:
    """One time during which nothing could be appended.

    Attributes:
        cause: why, as the system said it last.
        started: when, in monotonic seconds.
        over: set when all of it is written down.
        refused, withheld, dropped: requests, answers and notifications that the peers did not get.
        lost: entries that are in the ledger's place nowhere.
    """

    def __init__(self, cause: str, stamp: Stamp, on_failure: str) -> None:
        self.cause = cause
        self.started = time.monotonic()
        self.over = anyio.Event()
        self.refused = self.withheld = self.dropped = self.lost = 0
        self._stamp = stamp
        self._since = stamp.timestamp()
        self._gap_cause = "continue" if on_failure == "continue" else "overflow"
        self._owed: list[Unsealed] = []
        self._owed_bytes = 0

    @property
    def owed(self) -> int:
        """How many lines wait to be written."""
        return len(self._owed)

    def owe(self, line: Unsealed) -> None:
        """Keep a line for later."""
        if len(self._owed) >= _MAX_OWED_LINES or self._owed_bytes + len(line.body) > _MAX_OWED_BYTES:
            self.lost += 1
            return
        self._owed.append(line)
        self._owed_bytes += len(line.body)

    def settlement(self) -> list[tuple[Unsealed, Callable[[], None]]]:
        """Return the lines that own up to it, then those it owes; call what comes with a line once that is written."""
        stamp = self._stamp
        span = {"from": self._since, "to": stamp.timestamp()}
        counts = {"refused": self.refused, "withheld": self.withheld, "dropped": self.dropped}
        blocked = encode_typed("blocked", stamp.id(), stamp.timestamp(), {**span, "cause": self.cause, **counts})
        lines = [(blocked, self._account_given)]
        if self.lost:
            gap = {"cause": self._gap_cause, "lost": self.lost, **span}
            lines.append((encode_typed("gap", stamp.id(), stamp.timestamp(), gap), self._gap_admitted))
        return [*lines, *((line, self._oldest_written) for line in self._owed)]

    def summary(self) -> str:
        """Say what it cost."""
        return (
            f"meanwhile {self.refused} requests were refused, {self.withheld} answers withheld, "
            f"{self.dropped} notifications dropped, {self.lost} entries lost"
        )

    def _account_given(self) -> None:
        self._since = self._stamp.timestamp()
        self.refused = self.withheld = self.dropped = 0

    def _gap_admitted(self) -> None:
        self.lost = 0

    def _oldest_written(self) -> None:
        self._owed_bytes -= len(self._owed.pop(0).body)
