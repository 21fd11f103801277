"""What is remembered, and when a message may go on: nothing passes before its line is in the ledger.

Owns order and durability: builds the lines of a step, has the processors shape them, appends, and says how many steps
may take effect. When the ledger takes nothing it decides by `audit.on_failure`, retries every second, and accounts for
what was refused, withheld or dropped meanwhile. It never touches traffic and never raises on content.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
from anyio import to_thread

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.entry import Entry, Unsealed, encode, encode_typed
from mcp_audit.middleware import Processor
from mcp_audit.session import Step
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.message import Kind

__all__ = ["Recorder"]

_RETRY_SECONDS = 1.0
_MAX_OWED_LINES = 10_000
_MAX_OWED_BYTES = 64 * 1024 * 1024
_PAYLOADS = ("params", "result", "error", "raw")


class Recorder:
    """Writes the lines of each step before the step takes effect.

    Args:
        ledger: takes the lines; only it knows their seq.
        stamp: ids and timestamps of lines.
        processors: shape each entry, in order; one that raises costs the entry its payloads, never leaks one.
        transport: `stdio` or `http`, as the lines name it.
        write_ahead: which requests get a line before they are forwarded: `tools_call`, `all` or `none`.
        on_failure: `fail_operation`, `continue` or `shutdown`.
        block_timeout: seconds that an answer waits for a blocked ledger, counted from when it blocked.
        report: is told one sentence when the ledger blocks and when it works again.
    """

    def __init__(
        self,
        ledger: LedgerSink,
        stamp: Stamp,
        processors: Sequence[Processor],
        *,
        transport: str,
        write_ahead: str = "tools_call",
        on_failure: str = "fail_operation",
        block_timeout: float = 5.0,
        report: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._ledger = ledger
        self._stamp = stamp
        self._processors = tuple(processors)
        self._transport = transport
        self._write_ahead = write_ahead
        self._on_failure = on_failure
        self._block_timeout = block_timeout
        self._report = report
        self._outage: _Outage | None = None
        self._dirty = anyio.Event()
        self._is_dirty = False
        self._trouble = anyio.Event()
        self.shutdown_wanted = anyio.Event()

    @property
    def cause(self) -> str:
        """Why the ledger takes nothing, empty while it works; `data.reason` of the errors that peers get."""
        return self._outage.cause if self._outage is not None else ""

    async def record(self, steps: Sequence[Step]) -> int:
        """Append the lines of all steps with one write, and return how many leading steps may take effect.

        The others must be refused (`Session.refuse`) and handed to `owe`. Answers wait for a blocked ledger, up to the
        block timeout, since their call was executed; requests are turned back at once.
        """
        while True:
            lines, owners = self._lines(steps)
            if not lines:
                return len(steps)
            try:
                seqs = self._ledger.append(lines, wait=False)
                if seqs is None:
                    seqs = await to_thread.run_sync(self._ledger.append, lines)
            except LedgerUnavailable as error:
                outage, missing = self._block(error), len(lines) - len(error.appended)
                _settle(owners, error.appended)
            else:
                _settle(owners, seqs or ())
                if not self._is_dirty:
                    self._is_dirty = True
                    self._dirty.set()
                return len(steps)
            if self._on_failure == "continue":
                outage.lost += missing
                return len(steps)
            if not any(map(_is_answer, steps)) or not await self._works_again_in_time(outage):
                return next((i for i, step in enumerate(steps) if not self._is_recorded(step)), len(steps))

    def owe(self, step: Step, refusal: Step) -> None:
        """Account for a step that was refused: keep the lines it still owes, count what left none."""
        if self._outage is None:  # the ledger came back between the failure and now; the next retry settles this
            self._outage = _Outage("", self._stamp.timestamp())
            self._trouble.set()
        outage = self._outage
        for exchange in refusal.finished:
            outage.owe(self._closing_line(exchange))
        outage.withheld += sum(_is_executed(exchange) for exchange in step.finished)
        outage.refused += len(step.opened) + sum(bool(e.verdict.gate) and not e.verdict.allowed for e in step.finished)
        outage.dropped += sum(e.outcome in (Outcome.NOTIFICATION, Outcome.OPAQUE) for e in step.finished)

    async def keep_checkpoints(self, interval: float) -> None:
        """Publish a signed checkpoint while lines arrive, at most every `interval` seconds; runs until cancelled."""
        while True:
            await self._dirty.wait()
            await anyio.sleep(interval)
            self._dirty, self._is_dirty = anyio.Event(), False
            try:
                await to_thread.run_sync(self._ledger.checkpoint)
            except LedgerUnavailable as error:
                self._block(error)

    async def keep_trying(self) -> None:
        """Bring a blocked ledger back, trying every second; runs until cancelled."""
        while True:
            await self._trouble.wait()
            await anyio.sleep(_RETRY_SECONDS)
            try:
                if self._ledger.blocked:
                    await to_thread.run_sync(self._ledger.recover)
                self._own_up()
            except LedgerUnavailable as error:
                self._block(error)

    def finish(self, step: Step, why: str, reason: str) -> None:
        """Write what the session leaves open as `orphan` lines and close the ledger. Blocks; call it last.

        Args:
            why: `exit` or `upstream_exit`: what kept the answers from coming.
            reason: of the ledger's `close` line: eof, signal, upstream_exit or shutdown.
        """
        try:
            if self._ledger.blocked:
                self._ledger.recover()
            self._own_up()
            orphans = [self._orphan(exchange, why) for exchange in step.finished]
            if orphans:
                self._ledger.append(orphans)
        except LedgerUnavailable as error:
            owed = len(self._outage.lines) if self._outage is not None else 0
            self._report(f"{error}; {owed + len(step.finished)} lines could not be written before the exit")
        try:
            self._ledger.close(reason)
        except LedgerUnavailable as error:
            self._report(f"{error}; the ledger was left without its closing line")

    def _own_up(self) -> None:
        """Write what an outage cost and the lines still owed; called on the event loop, so nothing joins meanwhile."""
        outage = self._outage
        if outage is None:
            return
        account = outage.account(self._stamp)
        try:
            self._ledger.append([*account, *outage.lines])
        except LedgerUnavailable as error:
            del outage.lines[: max(0, len(error.appended) - len(account))]
            raise
        self._outage = None
        self._trouble = anyio.Event()
        outage.over.set()
        self._report(f"the ledger works again; {outage.summary()}")

    def _block(self, error: LedgerUnavailable) -> _Outage:
        if self._outage is None:
            self._outage = _Outage(error.cause, self._stamp.timestamp())
            self._trouble.set()
            self._report(f"{error}; audit.on_failure is {self._on_failure}, retrying every second")
            if self._on_failure == "shutdown":
                self.shutdown_wanted.set()
        self._outage.cause = error.cause
        return self._outage

    async def _works_again_in_time(self, outage: _Outage) -> bool:
        with anyio.move_on_after(outage.started + self._block_timeout - time.monotonic()):
            await outage.over.wait()
        return outage.over.is_set()

    def _is_recorded(self, step: Step) -> bool:
        return all(e.recorded for e in step.finished) and all(
            e.seq is not None for e in step.opened if self._is_written_ahead(e)
        )

    def _is_written_ahead(self, exchange: Exchange) -> bool:
        request = exchange.request
        if request is None or self._write_ahead == "none":
            return False
        return self._write_ahead == "all" or request.method == "tools/call"

    def _lines(self, steps: Sequence[Step]) -> tuple[list[Unsealed], list[tuple[Exchange, bool]]]:
        """Return the lines that steps still need, and for each its exchange and whether it closes it."""
        lines: list[Unsealed] = []
        owners: list[tuple[Exchange, bool]] = []
        for step in steps:
            for exchange in step.opened:
                if exchange.seq is None and self._is_written_ahead(exchange):
                    lines.append(self._request_line(exchange))
                    owners.append((exchange, False))
            for exchange in step.finished:
                if not exchange.recorded:
                    lines.append(self._closing_line(exchange))
                    owners.append((exchange, True))
        return lines, owners

    def _request_line(self, exchange: Exchange) -> Unsealed:
        entry = self._entry(exchange, self._stamp.id())
        entry.type = "request"
        return self._shaped(entry)

    def _closing_line(self, exchange: Exchange) -> Unsealed:
        entry = self._entry(exchange, exchange.id)
        entry.outcome = exchange.outcome.value
        entry.duration_ms = int((exchange.ended - exchange.started) * 1000)
        entry.error = exchange.error
        entry.of = exchange.seq
        response = exchange.response
        if response is not None:
            entry.result = response.result
            entry.error = exchange.error or response.error
        if exchange.oversized:
            entry.params = entry.result = entry.raw = b""
            large: dict[str, Any] = {"p": "/raw", "bytes": exchange.oversized, "why": "size"}
            entry.elided = [large | {"c": exchange.commitment} if exchange.commitment else large]
        return self._shaped(entry)

    def _orphan(self, exchange: Exchange, why: str) -> Unsealed:
        entry = self._entry(exchange, self._stamp.id())
        entry.type, entry.why, entry.of = "orphan", why, exchange.seq
        entry.outcome = exchange.outcome.value
        return self._shaped(entry)

    def _entry(self, exchange: Exchange, id_: str) -> Entry:
        """Build what request, exchange and orphan lines share."""
        request, response = exchange.request, exchange.response
        entry = Entry(id_, self._stamp.timestamp(), exchange.direction.value, self._transport, "")
        message = request or response
        if exchange.outcome is Outcome.OPAQUE and request is not None:
            entry.raw = request.raw
        elif request is not None:
            entry.method = request.method or ""
            entry.params = request.params
            if entry.method == "tools/call":
                entry.tool_name = request.target or ""
            if request.kind is Kind.OPAQUE:
                entry.raw = request.raw
        if message is not None and message.id is not None and not entry.raw:
            entry.request_id = message.id.text
        entry.client_id, entry.server_id = exchange.client_id, exchange.server_id
        entry.era, entry.protocol_version = exchange.era.value, exchange.version
        entry.continues = exchange.continues
        entry.marks = list(exchange.marks)
        if exchange.verdict.recorded:
            entry.policy = _policy(exchange)
        if request is not None and "traceparent" in request.meta:
            entry.trace = _trace(request.meta["traceparent"])
        return entry

    def _shaped(self, entry: Entry) -> Unsealed:
        """Run the processors. One that fails costs the entry what it carries; the line is written all the same."""
        try:
            for process in self._processors:
                entry = process(entry)
        except Exception as error:
            self._report(f"a processor failed ({type(error).__name__}), the payload of entry {entry.id} is not stored")
            for name in _PAYLOADS:
                if size := len(getattr(entry, name)):
                    entry.elided = [*entry.elided, {"p": f"/{name}", "bytes": size, "why": "unredactable"}]
                    setattr(entry, name, b"")
            entry.params_b64 = entry.result_b64 = entry.raw_b64 = entry.signature = ""
        return encode(entry)


class _Outage:
    """What happens while the ledger takes nothing; becomes a `blocked` or `gap` line when it is over."""

    def __init__(self, cause: str, since: str) -> None:
        self.cause = cause
        self.since = since
        self.started = time.monotonic()
        self.over = anyio.Event()
        self.lines: list[Unsealed] = []
        self.owed_bytes = 0
        self.refused = self.withheld = self.dropped = self.lost = 0

    def owe(self, line: Unsealed) -> None:
        """Keep a line for later; beyond the bound it is counted instead."""
        if len(self.lines) >= _MAX_OWED_LINES or self.owed_bytes + len(line.body) > _MAX_OWED_BYTES:
            self.lost += 1
            return
        self.lines.append(line)
        self.owed_bytes += len(line.body)

    def account(self, stamp: Stamp) -> list[Unsealed]:
        """Return the lines that own up to the outage."""
        span = {"from": self.since, "to": stamp.timestamp()}
        counts = {"refused": self.refused, "withheld": self.withheld, "dropped": self.dropped}
        lines = [encode_typed("blocked", stamp.id(), stamp.timestamp(), {**span, "cause": self.cause, **counts})]
        if self.lost:
            gap = {"cause": "continue", "lost": self.lost, **span}
            lines.append(encode_typed("gap", stamp.id(), stamp.timestamp(), gap))
        return lines

    def summary(self) -> str:
        """Say what it cost."""
        return (
            f"meanwhile {self.refused} requests were refused, {self.withheld} answers withheld, "
            f"{self.dropped} notifications dropped, {self.lost} entries lost"
        )


def _settle(owners: Iterable[tuple[Exchange, bool]], seqs: Sequence[int]) -> None:
    """Note which lines are in the ledger: `seqs` belong to the leading owners."""
    for (exchange, closes), seq in zip(owners, seqs, strict=False):
        if closes:
            exchange.recorded = True
        else:
            exchange.seq = seq


def _is_executed(exchange: Exchange) -> bool:
    return exchange.request is not None and exchange.response is not None


def _is_answer(step: Step) -> bool:
    return any(map(_is_executed, step.finished))


def _policy(exchange: Exchange) -> dict[str, Any]:
    verdict = exchange.verdict
    said: dict[str, Any] = {"action": "allow" if verdict.allowed else "deny", "rule_index": verdict.rule}
    if verdict.reason:
        said["reason"] = verdict.reason
    if verdict.gate and verdict.gate != "policy":
        said["gate"] = verdict.gate
    return said | verdict.extra


def _trace(token: bytes) -> dict[str, str] | None:
    """Read a W3C traceparent (a JSON string token): version, trace id, parent span id, flags."""
    parts = token.strip(b'"').split(b"-")
    if len(parts) < 4 or len(parts[1]) != 32 or len(parts[2]) != 16 or not (parts[1] + parts[2]).isalnum():
        return None
    return {"trace_id": parts[1].decode(), "span_id": parts[2].decode()}
