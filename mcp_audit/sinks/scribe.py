"""Exchanges in, lines out: which lines steps need, and their text, made by entry, processors and encoder in turn.

Promise: there is always a line. A processor that fails, or leaves what cannot be encoded, costs the line its payloads;
none is ever written that a processor did not have its say about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from mcp_audit.ledger.entry import Entry, Unsealed, encode
from mcp_audit.middleware import Processor
from mcp_audit.middleware.entries import closing_entry, orphan_entry, request_entry, without_payloads
from mcp_audit.session import Step
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange, Outcome

__all__ = ["Due", "Prepared", "Scribe"]

Due = list[tuple[Exchange, bool]]
"""Lines that have to be written, in order: whose, and whether it is the line that closes or the one ahead."""

Prepared = list[tuple[Exchange, bool, Unsealed]]
"""The same with their text."""


class Scribe:
    """Writes lines that have no place in a ledger yet.

    Args:
        stamp: ids and timestamps of lines.
        processors: shape each entry, in order.
        transport: `stdio` or `http`, as the lines name it.
        write_ahead: which requests get a line before they are forwarded: `tools_call`, `all` or `none`.
        report: is told one sentence when a processor first fails in some way.
    """

    def __init__(
        self,
        stamp: Stamp,
        processors: Sequence[Processor],
        transport: str,
        write_ahead: str,
        report: Callable[[str], None],
    ) -> None:
        self._stamp = stamp
        self._processors = tuple(processors)
        self._transport = transport
        self._write_ahead = write_ahead
        self._report = report
        self._reported: set[str] = set()

    def due(self, steps: Sequence[Step]) -> Due:
        """Return what steps still need before they may take effect."""
        due: Due = []
        for step in steps:
            for exchange in step.opened:
                if self._is_written_ahead(exchange) and _is_due(exchange, False):
                    due.append((exchange, False))
            for exchange in step.finished:
                if _is_due(exchange, True):
                    due.append((exchange, True))
        return due

    def prepare(self, due: Due) -> Prepared:
        """Make their text ahead of their turn."""
        return [(*each, line) for each, line in zip(due, self.lines(due), strict=True)]

    def still_due(self, batch: Iterable[Prepared]) -> tuple[Due, list[Unsealed]]:
        """Return what of prepared lines is needed now that their turn has come, and its text with the seqs known now.

        A line that closes a request names its seq, which may have become known only since.
        """
        left = [each for prepared in batch for each in prepared if _is_due(*each[:2])]
        lines = [line._replace(of=exchange.seq) if closes else line for exchange, closes, line in left]
        return [(exchange, closes) for exchange, closes, _ in left], lines

    def lines(self, due: Due) -> list[Unsealed]:
        """Return their text."""
        return [self.closing(exchange) if closes else self.request(exchange) for exchange, closes in due]

    def request(self, exchange: Exchange) -> Unsealed:
        """Return the line that is written before a request is forwarded."""
        return self._line(request_entry, exchange, self._stamp.id())

    def closing(self, exchange: Exchange) -> Unsealed:
        """Return the line of a finished exchange; of one that nobody answered in any way an `orphan`."""
        if exchange.outcome is Outcome.LOST and not exchange.error and not exchange.status:
            return self.orphan(exchange, exchange.why or "exit")
        return self._line(closing_entry, exchange, exchange.id)

    def orphan(self, exchange: Exchange, why: str) -> Unsealed:
        """Return the line of a request that nobody answered."""
        return self._line(partial(orphan_entry, why=why), exchange, self._stamp.id())

    def _is_written_ahead(self, exchange: Exchange) -> bool:
        if self._write_ahead == "tools_call":
            return exchange.request is not None and exchange.request.method == "tools/call"
        return self._write_ahead == "all"

    def _line(self, make: Callable[[Exchange, str, str, str], Entry], exchange: Exchange, id_: str) -> Unsealed:
        timestamp = self._stamp.timestamp()
        entry = make(exchange, id_, timestamp, self._transport)
        try:
            for process in self._processors:
                entry = process(entry)
            return encode(entry)
        except Exception as error:
            problem = type(error).__name__
            if problem not in self._reported:  # whoever can make a processor fail must not fill our log as well
                self._reported.add(problem)
                self._report(f"a processor failed ({problem}): entry {id_} and others like it are without payloads")
            return encode(without_payloads(make(exchange, id_, timestamp, self._transport)))


def _is_due(exchange: Exchange, closes: bool) -> bool:
    if closes:
        return not exchange.recorded
    # One that ended while the ledger was waited for is closed already, so it gets no line ahead any more.
    return exchange.seq is None and exchange.outcome is Outcome.PENDING
