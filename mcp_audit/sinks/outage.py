"""What happens while the ledger takes nothing: the lines it is owed, and what it cost, for a `blocked` or `gap` line.

Bounded: beyond the bound a line is counted instead of kept. What was written, even of a batch that failed half way, is
never written or counted again.
"""

from __future__ import annotations

import time

import anyio

from mcp_audit.ledger.entry import Unsealed, encode_typed
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange

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
        self._owed: list[tuple[Unsealed, Exchange]] = []
        self._owed_bytes = 0
        self._account = 0  # of the lines last returned, those that are not owed

    @property
    def owed(self) -> int:
        """How many lines wait to be written."""
        return len(self._owed)

    def owe(self, line: Unsealed, exchange: Exchange) -> None:
        """Keep the line that closes an exchange for later."""
        if len(self._owed) >= _MAX_OWED_LINES or self._owed_bytes + len(line.body) > _MAX_OWED_BYTES:
            self.lost += 1
            return
        self._owed.append((line, exchange))
        self._owed_bytes += len(line.body)

    def lines(self) -> list[Unsealed]:
        """Return the lines that own up to it, then those it owes."""
        stamp = self._stamp
        span = {"from": self._since, "to": stamp.timestamp()}
        counts = {"refused": self.refused, "withheld": self.withheld, "dropped": self.dropped}
        account = [encode_typed("blocked", stamp.id(), stamp.timestamp(), {**span, "cause": self.cause, **counts})]
        if self.lost:
            gap = {"cause": self._gap_cause, "lost": self.lost, **span}
            account.append(encode_typed("gap", stamp.id(), stamp.timestamp(), gap))
        self._account = len(account)
        # A request line that was being written when the trouble began may have got its seq only now.
        return account + [line._replace(of=exchange.seq) for line, exchange in self._owed]

    def wrote(self, count: int) -> None:
        """Take note that the first `count` of `lines` are in the ledger; what they say is not said again."""
        if count:
            self._since = self._stamp.timestamp()
            self.refused = self.withheld = self.dropped = 0
        if count >= self._account:
            self.lost = 0
            self._owed_bytes -= sum(len(line.body) for line, _ in self._owed[: count - self._account])
            del self._owed[: count - self._account]

    def summary(self) -> str:
        """Say what it cost."""
        return (
            f"meanwhile {self.refused} requests were refused, {self.withheld} answers withheld, "
            f"{self.dropped} notifications dropped, {self.lost} entries lost"
        )
