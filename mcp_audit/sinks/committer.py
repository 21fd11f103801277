"""Group commit: whoever finds the ledger free writes for all who wait; what queues meanwhile is the next batch.

Promise: nobody returns before a write that had his entries in it has come back; batches keep the order of arrival; no
timer, so a lone entry never waits for company. A full batch leaves the rest for the next one, which holds their senders
back. Someone who is cancelled or gives up takes his entries with him and leaves the others theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import anyio

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.sinks import LedgerSink

__all__ = ["Committer", "store"]

T = TypeVar("T")


class _Waiter(Generic[T]):
    """One sender: `woken` when his entries are written (`done`), or when it is on him to write."""

    __slots__ = ("done", "entries", "item", "woken")

    def __init__(self, item: T, entries: int) -> None:
        self.item = item
        self.entries = entries
        self.woken = anyio.Event()
        self.done = False


class Committer(Generic[T]):
    """Gathers what several senders want written.

    Args:
        write: writes the items of a batch, and notes what became of each; it is never called while another call is
            under way or `turn` is taken.
        limit: how many entries a batch may have; a single item may have more.

    Attributes:
        turn: held while a batch is written. Whoever else changes the ledger takes it, too.
    """

    def __init__(self, write: Callable[[Sequence[T]], Awaitable[None]], limit: int) -> None:
        self.turn = anyio.Lock()
        self._write = write
        self._limit = limit
        self._queue: deque[_Waiter[T]] = deque()
        self._leader: _Waiter[T] | None = None  # None: the queue is empty; else he is the first in it, or at work

    @property
    def busy(self) -> bool:
        """Whether somebody is writing or waiting for it."""
        return self._leader is not None or self.turn.locked()

    async def commit(self, item: T, entries: int, patience: float) -> bool:
        """Return when a write that had `item` in it came back; False if its turn did not come in `patience` seconds.

        A write that has begun is waited for however long it takes: it cannot be taken back. One that was cancelled
        counts as come back; the caller looks what became of his entries.
        """
        waiter = _Waiter(item, entries)
        self._queue.append(waiter)
        if self._leader is None:
            self._leader = waiter
        elif not await self._woken(waiter, patience):
            return False
        return waiter.done or await self._lead(waiter, patience)

    async def _woken(self, waiter: _Waiter[T], patience: float) -> bool:
        try:
            with anyio.move_on_after(patience):
                await waiter.woken.wait()
        except BaseException:
            await self._leave(waiter)
            raise
        if not waiter.woken.is_set():
            await self._leave(waiter)
        return waiter.woken.is_set()

    async def _lead(self, waiter: _Waiter[T], patience: float) -> bool:
        """Write what has queued, as the one who does it."""
        try:
            with anyio.move_on_after(patience) as wait:
                await self.turn.acquire()
        except BaseException:
            await self._leave(waiter)
            raise
        if wait.cancelled_caught:
            await self._leave(waiter)
            return False
        batch = self._take()
        try:
            await self._write([each.item for each in batch])
        finally:
            self.turn.release()
            for each in batch:
                each.done = True
                each.woken.set()
            self._appoint()
        return True

    def _take(self) -> list[_Waiter[T]]:
        queue = self._queue
        batch = [queue.popleft()]
        room = self._limit - batch[0].entries
        while queue and queue[0].entries <= room:
            room -= queue[0].entries
            batch.append(queue.popleft())
        return batch

    def _appoint(self) -> None:
        """Leave the lead to whoever has waited longest."""
        self._leader = self._queue[0] if self._queue else None
        if self._leader is not None:
            self._leader.woken.set()

    async def _leave(self, waiter: _Waiter[T]) -> None:
        """Take back what is not being written yet; else wait until it is known what became of it."""
        if waiter in self._queue:
            self._queue.remove(waiter)
            if self._leader is waiter:
                self._appoint()
        elif not waiter.done:
            with anyio.CancelScope(shield=True):
                await waiter.woken.wait()


def store(ledger: LedgerSink, lines: Sequence[Unsealed], batch_size: int) -> list[int]:
    """Append, at most `batch_size` lines per write, and sync once if the ledger is durable; return the seqs. Blocks.

    Raises:
        LedgerUnavailable: `appended` names what may be acted on nevertheless; nothing, if the sync failed.
    """
    seqs: list[int] = []
    try:
        for start in range(0, len(lines), batch_size):
            seqs += ledger.append(lines[start : start + batch_size]) or ()
    except LedgerUnavailable as error:
        seqs += error.appended
        if ledger.durable and seqs:
            ledger.sync()
        raise LedgerUnavailable(error.path, error.cause, tuple(seqs)) from error
    if ledger.durable:
        ledger.sync()
    return seqs
