"""What is remembered, and when a message may go on: nothing passes before its line is in the ledger.

Owns order and durability: builds the lines of a step, has the processors shape them, appends, and says how many steps
may take effect. When the ledger takes nothing it decides by `audit.on_failure`, retries every second, and accounts for
what was refused, withheld or dropped meanwhile. It never touches traffic and never raises on content. Long because what
may go on, and what is owed when it may not, is one decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import anyio
from anyio import to_thread

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.middleware import Processor
from mcp_audit.session import Step
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.committer import Committer, store
from mcp_audit.sinks.outage import Outage
from mcp_audit.sinks.scribe import Due, Prepared, Scribe
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange, Outcome

__all__ = ["Recorder"]

_LEAST_PATIENCE = 1.0  # seconds that a write may take without being trouble, however short the block timeout
_STALL = 0.05  # seconds; a write that took longer held up everything else on the event loop
_WARY = 5.0  # seconds for which threads write after that


class Recorder:
    """Writes the lines of each step before the step takes effect.

    A `durable` ledger is written by threads and synced before anything of a batch takes effect; another one is written
    here, as long as lock and disk answer at once.

    Args:
        ledger: takes the lines; only it knows their seq.
        stamp: ids and timestamps of lines.
        processors: shape each entry, in order; one that raises costs the entry its payloads, never leaks one.
        transport: `stdio` or `http`, as the lines name it.
        write_ahead: which requests get a line before they are forwarded: `tools_call`, `all` or `none`.
        on_failure: `fail_operation`, `continue` or `shutdown`.
        block_timeout: seconds that an answer waits for a blocked ledger, counted from when it blocked.
        retry_interval: seconds between attempts to bring a blocked ledger back.
        queue_size, batch_size: entries that may be written before one sync, and with one write; others must wait.
        report: is told one sentence when the ledger blocks and when it works again, and when a processor first fails.
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
        retry_interval: float = 1.0,
        queue_size: int = 4096,
        batch_size: int = 128,
        report: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._ledger = ledger
        self._stamp = stamp
        self._scribe = Scribe(stamp, processors, transport, write_ahead, report)
        self._on_failure = on_failure
        self._block_timeout = block_timeout
        self._retry_interval = retry_interval
        self._report = report
        self._complaints: set[str] = set()
        self._batch_size = batch_size
        # A turn lasts until seqs are noted: a line that closes a request must know that request's.
        self._committer = Committer(self._write, queue_size)
        self._outage: Outage | None = None
        self._left: list[Exchange] = []  # what was waiting for the ledger when the session ended
        self._trouble = anyio.Event()
        self._dirty = anyio.Event()
        self._is_dirty = False
        self._wary_until = 0.0  # the disk did not answer at once
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
        if self._outage is None and self._append_at_once(steps):
            return len(steps)
        requests = [exchange for step in steps for exchange in step.opened]
        for exchange in requests:
            exchange.held = True
        try:
            passed = await self._record_patiently(steps)
        except anyio.get_cancelled_exc_class():
            self._leave_behind(steps)
            raise
        for exchange in requests:
            exchange.held = exchange.outcome is Outcome.TIMEOUT  # told that it was not executed, so it must not be
        return passed

    def owe(self, step: Step, refusal: Step) -> None:
        """Account for a step that was refused: keep the lines it still owes, count what the peers did not get."""
        if self._outage is None:  # the ledger came back between the failure and now; the next retry settles this
            self._outage = Outage("", self._stamp, self._on_failure)
            self._trouble.set()
        outage = self._outage
        for exchange in refusal.finished:
            outage.owe(self._scribe.closing(exchange), exchange)
        outage.refused += sum(exchange.outcome is Outcome.DENIED for exchange in step.opened)
        for exchange in step.finished:
            if exchange.may_have_run:
                outage.withheld += 1
            elif exchange.error:
                outage.refused += 1
            elif exchange.outcome is not Outcome.CANCELLED:
                outage.dropped += 1

    async def keep_checkpoints(self, interval: float) -> None:
        """Publish a signed checkpoint while lines arrive, at most every `interval` seconds; runs until cancelled."""
        while True:
            await self._dirty.wait()
            await anyio.sleep(interval)
            await self._checkpoint()

    async def keep_trying(self) -> None:
        """Bring a blocked ledger back, trying every second; runs until cancelled."""
        while True:
            await self._trouble.wait()
            await anyio.sleep(self._retry_interval)
            try:
                async with self._committer.turn:
                    if self._ledger.blocked:
                        await to_thread.run_sync(self._ledger.recover)
                    told = self._own_up(wait=False)
                if not told:  # what keeps us from it may be work for a thread
                    await self._checkpoint()
                    continue
            except LedgerUnavailable as error:
                self._block(error)
            else:
                await self._checkpoint()  # at once: it vouches for a recovery and for what is missing

    def finish(self, step: Step, why: str, reason: str) -> None:
        """Write what the session leaves open as `orphan` lines and close the ledger. Blocks; call it last.

        Args:
            why: `exit` or `upstream_exit`: what kept the answers from coming.
            reason: of the ledger's `close` line: eof, signal, upstream_exit or shutdown.
        """
        lines = [self._scribe.closing(exchange) for exchange in self._left]
        lines += [self._scribe.orphan(exchange, why) for exchange in step.finished]
        try:
            if self._ledger.blocked:
                self._ledger.recover()
            self._own_up(wait=True)
            if lines:
                self._ledger.append(lines)
        except LedgerUnavailable as error:
            unwritten = len(lines) + (self._outage.owed if self._outage is not None else -len(error.appended))
            meanwhile = f"; {self._outage.summary()}" if self._outage is not None else ""
            self._report(f"{error}; {unwritten} lines could not be written before the exit{meanwhile}")
        try:
            self._ledger.close(reason)
        except LedgerUnavailable as error:
            self._report(f"{error}; the ledger was left without its closing line")

    # -- appending -----------------------------------------------------------------------------------------------------

    def _append_at_once(self, steps: Sequence[Step]) -> bool:
        """Append if nobody else is at it; return whether all that the steps need is in the ledger."""
        if self._ledger.durable or self._committer.busy or (self._wary_until and self._is_wary()):
            return False
        if not (due := self._scribe.due(steps)):
            return True
        lines = self._scribe.lines(due)
        began = time.monotonic()
        try:
            seqs = self._ledger.append(lines, wait=False)
            self._beware(began)
        except LedgerUnavailable as error:
            self._failed(error, due)
            return False
        if seqs is not None:
            self._wrote(due, seqs)
        return seqs is not None

    async def _append_in_turn(self, steps: Sequence[Step]) -> bool:
        """Append as soon as the ledger is free; return whether all that the steps need is in the ledger."""
        if not (due := self._scribe.due(steps)):
            return True
        patience = max(self._block_timeout, _LEAST_PATIENCE)
        if not await self._committer.commit(self._scribe.prepare(due), len(due), patience):  # the disk hangs
            self._block(LedgerUnavailable(self._ledger.path, f"a write takes longer than {patience:g} s"))
            return False
        return not self._scribe.due(steps)

    async def _write(self, batch: Sequence[Prepared]) -> None:
        due, lines = self._scribe.still_due(batch)
        began = time.monotonic()
        try:
            if lines:
                self._wrote(due, await to_thread.run_sync(store, self._ledger, lines, self._batch_size))
                self._beware(began)
        except LedgerUnavailable as error:
            self._failed(error, due)

    def _is_wary(self) -> bool:
        return time.monotonic() < self._wary_until

    def _beware(self, began: float) -> None:
        """Leave writing to threads for a while if the disk was slow, or nothing else would be served meanwhile."""
        now = time.monotonic()
        if now - began > _STALL:
            self._wary_until = now + _WARY

    async def _record_patiently(self, steps: Sequence[Step]) -> int:
        while True:
            outage = self._outage
            if outage is None:
                if await self._append_in_turn(steps):
                    return len(steps)
                continue
            if self._on_failure == "continue":
                outage.lost += len(self._scribe.due(steps))
                return len(steps)
            passed = next((i for i, step in enumerate(steps) if not _may_pass(step)), len(steps))
            if not any(map(_is_answer, steps[passed:])) or not await self._works_again_in_time(outage):
                return passed

    async def _works_again_in_time(self, outage: Outage) -> bool:
        with anyio.move_on_after(outage.started + self._block_timeout - time.monotonic()):
            await outage.over.wait()
        return outage.over.is_set()

    def _wrote(self, due: Due, seqs: Sequence[int]) -> None:
        """Note which lines are in the ledger: `seqs` belong to the leading ones."""
        for (exchange, closes), seq in zip(due, seqs, strict=False):
            if closes:
                exchange.recorded = True
            else:
                exchange.seq = seq
        if not self._is_dirty:
            self._mark_dirty()

    def _mark_dirty(self) -> None:
        self._is_dirty = True
        self._dirty.set()

    # -- trouble -------------------------------------------------------------------------------------------------------

    def _failed(self, error: LedgerUnavailable, due: Due) -> None:
        if error.appended:
            self._wrote(due, error.appended)
        self._block(error)

    def _block(self, error: LedgerUnavailable) -> None:
        if self._outage is None:
            self._outage = Outage(error.cause, self._stamp, self._on_failure)
            self._trouble.set()
            self._report(f"{error}; audit.on_failure is {self._on_failure}, retrying every second")
            if self._on_failure == "shutdown":
                self.shutdown_wanted.set()
        self._outage.cause = error.cause

    def _own_up(self, wait: bool) -> bool:
        """Write what an outage cost and the lines still owed; return False if another process kept us from it.

        On the event loop, so that nothing joins meanwhile; hence not by waiting for a lock while the relay is at work.
        """
        outage = self._outage
        if outage is None:
            return True
        summary = outage.summary()
        try:
            if self._ledger.append(outage.lines(), wait) is None:
                return False
        except LedgerUnavailable as error:
            outage.wrote(len(error.appended))
            raise
        self._outage = None
        self._trouble = anyio.Event()
        outage.over.set()
        self._report(f"the ledger works again; {summary}")
        return True

    async def _checkpoint(self) -> None:
        self._dirty, self._is_dirty = anyio.Event(), False
        try:
            await to_thread.run_sync(self._ledger.checkpoint)
        except LedgerUnavailable as error:
            if self._ledger.blocked:
                self._block(error)
                return
            self._mark_dirty()  # lines are still taken, so nobody has to wait
            if error.cause not in self._complaints:
                self._complaints.add(error.cause)
                self._report(f"{self._ledger.path}: {error.cause}; retrying")

    def _leave_behind(self, steps: Sequence[Step]) -> None:
        """Keep the lines of what was waiting for the ledger as the session ended; of what is open, `finish` is told."""
        for exchange in (exchange for step in steps for exchange in step.finished if not exchange.recorded):
            if exchange.may_have_run:
                exchange.marks += ("withheld",)
            if exchange.outcome not in (Outcome.NOTIFICATION, Outcome.OPAQUE):  # these went nowhere
                self._left.append(exchange)


def _may_pass(step: Step) -> bool:
    """Say whether a step may take effect during an outage: its lines are written, and it asks for nothing new."""
    return all(e.recorded for e in step.finished) and all(e.seq is not None for e in step.opened)


def _is_answer(step: Step) -> bool:
    return any(exchange.request is not None and exchange.response is not None for exchange in step.finished)
