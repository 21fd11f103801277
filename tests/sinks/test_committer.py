"""Group commit: who waits together is written together, in order, without a timer; who leaves hurts nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import exchange
from memory_ledger import MemoryLedger

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.sinks.committer import Committer, store

FOREVER = 1e6


class Medium:
    """Takes batches, and keeps each under way until it is let go.

    Attributes:
        batches: what was written, a list per write.
        gate: set while writes come back at once.
        broken: the error that writes end in, if any.
    """

    def __init__(self, limit: int = 1000, open_: bool = True) -> None:
        self.batches: list[list[Any]] = []
        self.gate = anyio.Event()
        self.broken: Exception | None = None
        self.under_way = 0
        if open_:
            self.gate.set()
        self.committer = Committer(self.write, limit)

    async def write(self, batch: Sequence[Any]) -> None:
        assert not self.under_way
        self.under_way += 1
        self.batches.append(list(batch))
        try:
            await self.gate.wait()
            await checkpoint()
            if self.broken is not None:
                raise self.broken
        finally:
            self.under_way -= 1

    async def commit(self, item: Any, entries: int = 1, patience: float = FOREVER) -> bool:
        return await self.committer.commit(item, entries, patience)


async def test_a_lone_entry_does_not_wait_for_company() -> None:
    """There is no timer: it is a batch of its own at once."""
    medium = Medium()

    assert await medium.commit("a")
    assert await medium.commit("b")

    assert medium.batches == [["a"], ["b"]]
    assert not medium.committer.busy


async def test_what_queues_during_a_write_is_the_next_batch() -> None:
    """64 callers need two writes, and come back in the order they came."""
    medium = Medium(open_=False)
    back: list[int] = []

    async def call(number: int) -> None:
        assert await medium.commit(number)
        back.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, 0)
        await anyio.wait_all_tasks_blocked()
        for number in range(1, 64):
            tasks.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        assert (medium.batches, back) == ([[0]], [])
        medium.gate.set()

    assert medium.batches == [[0], list(range(1, 64))]
    assert sorted(back) == list(range(64))
    assert not medium.committer.busy


async def test_a_full_batch_holds_the_others_back() -> None:
    """No more entries than the limit go together; the order of arrival stays; one that is larger goes alone."""
    medium = Medium(limit=4, open_=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(medium.commit, "a")
        await anyio.wait_all_tasks_blocked()
        for item, entries in [("b", 2), ("c", 2), ("d", 1), ("e", 9), ("f", 4), ("g", 1)]:
            tasks.start_soon(medium.commit, item, entries)
        await anyio.wait_all_tasks_blocked()
        medium.gate.set()

    assert medium.batches == [["a"], ["b", "c"], ["d"], ["e"], ["f"], ["g"]]


async def test_whoever_loses_patience_takes_his_entries_with_him() -> None:
    """They are not written behind his back; those behind him still are."""
    medium = Medium(open_=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(medium.commit, "stuck")
        await anyio.wait_all_tasks_blocked()
        assert not await medium.commit("impatient", patience=0.0)
        tasks.start_soon(medium.commit, "patient")
        await anyio.wait_all_tasks_blocked()
        medium.gate.set()

    assert medium.batches == [["stuck"], ["patient"]]


async def test_who_finds_the_turn_taken_loses_patience_as_well() -> None:
    """Somebody else is changing the ledger; the next one in the queue tries for himself."""
    medium = Medium()
    answers: list[bool] = []

    async def impatient() -> None:
        answers.append(await medium.commit("impatient", patience=0.0))

    async with anyio.create_task_group() as tasks, medium.committer.turn:
        assert medium.committer.busy
        tasks.start_soon(impatient)
        tasks.start_soon(medium.commit, "patient")
        while not answers:
            await checkpoint()
        assert (answers, medium.batches) == ([False], [])

    assert medium.batches == [["patient"]]
    assert not medium.committer.busy


@pytest.mark.parametrize("victim", range(4))
async def test_a_cancelled_sender_leaves_the_others_theirs(victim: int) -> None:
    """Whether it writes, is next, or waits behind: each of the rest is written exactly once."""
    medium = Medium(open_=False)
    scopes = [anyio.CancelScope() for _ in range(4)]

    async def call(number: int) -> None:
        with scopes[number]:
            assert await medium.commit(number)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(call, number)
            await anyio.wait_all_tasks_blocked()
        scopes[victim].cancel()
        await anyio.wait_all_tasks_blocked()
        medium.gate.set()

    written = [number for batch in medium.batches for number in batch]
    assert sorted(written) == [number for number in range(4) if number != victim or victim == 0]
    assert not medium.committer.busy


@pytest.mark.parametrize("how", ["cancelled", "impatient"])
async def test_what_is_being_written_cannot_be_taken_back(how: str) -> None:
    """Whoever would leave then stays until it is known what became of his entries."""
    medium = Medium(open_=False)
    scope = anyio.CancelScope()
    left: list[str] = []

    async def leave() -> None:
        with scope:
            assert await medium.commit("b", patience=0.0 if how == "impatient" else FOREVER)
        left.append("b")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(medium.commit, "a")
        tasks.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        assert medium.batches == [["a", "b"]]
        if how == "cancelled":
            scope.cancel()
        for _ in range(10):
            await checkpoint()
        assert not left
        medium.gate.set()

    assert left == ["b"]


async def test_a_write_that_raises_ends_the_wait_of_its_batch_only() -> None:
    """The error is the writer's; the others come back and look what became of their entries."""
    medium = Medium(open_=False)
    medium.broken = RuntimeError("boom")
    outcomes: dict[str, bool | str] = {}

    async def call(name: str) -> None:
        try:
            outcomes[name] = await medium.commit(name)
        except RuntimeError as error:
            outcomes[name] = str(error)
            medium.broken = None

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "a")
        await anyio.wait_all_tasks_blocked()
        for name in "bc":
            tasks.start_soon(call, name)
        await anyio.wait_all_tasks_blocked()
        medium.gate.set()

    assert outcomes == {"a": "boom", "b": True, "c": True}
    assert medium.batches == [["a"], ["b", "c"]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6), st.booleans()), max_size=24), st.integers(1, 8))
def test_every_entry_is_written_once_or_its_sender_is_told(senders: list[tuple[int, int, bool]], limit: int) -> None:
    """Whatever the sizes, delays and cancellations: no entry is lost, doubled, or overtakes one that came earlier."""
    medium = Medium(limit)
    back: list[int] = []

    async def call(number: int, entries: int, delay: int, leave: bool) -> None:
        for _ in range(delay):
            await checkpoint()
        with anyio.move_on_after(0.0 if leave else None):
            assert await medium.commit(number, entries)
            back.append(number)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number, sender in enumerate(senders):
                tasks.start_soon(call, number, *sender)

    anyio.run(main)

    written = [number for batch in medium.batches for number in batch]
    assert len(set(written)) == len(written)
    assert set(back) <= set(written)
    assert {number for number, sender in enumerate(senders) if not sender[2]} <= set(back)
    for batch in medium.batches:
        assert len(batch) == 1 or sum(senders[number][0] for number in batch) <= limit
    assert not medium.committer.busy


# store


class DurableLedger(MemoryLedger):
    """Counts what it is asked, and fails a sync.

    Attributes:
        calls: `append N` and `sync`, in order.
        unsynced: what the next sync ends in.
    """

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.unsynced = ""

    def append(self, batch: Sequence[Any], wait: bool = True) -> list[int] | None:
        self.calls.append(f"append {len(batch)}")
        return super().append(batch, wait)

    def sync(self) -> None:
        self.calls.append("sync")
        if self.unsynced:
            raise LedgerUnavailable(self.path, self.unsynced)


def test_many_writes_one_sync() -> None:
    """At most `batch_size` lines per write; only then the sync."""
    ledger = DurableLedger()

    assert store(ledger, [exchange() for _ in range(7)], 3) == list(range(7))
    assert ledger.calls == ["append 3", "append 3", "append 1", "sync"]


def test_a_ledger_that_is_not_durable_is_not_synced() -> None:
    """Checkpoints do that."""
    ledger = DurableLedger()
    ledger.durable = False

    store(ledger, [exchange()], 3)

    assert ledger.calls == ["append 1"]


def test_what_was_appended_before_a_failure_is_synced_before_it_is_believed() -> None:
    """The disk was full after two lines: those two count."""
    ledger = DurableLedger()
    ledger.fail_after = 2

    with pytest.raises(LedgerUnavailable, match="disk full") as unavailable:
        store(ledger, [exchange() for _ in range(5)], 3)

    assert unavailable.value.appended == (0, 1)
    assert ledger.calls == ["append 3", "sync"]


@pytest.mark.parametrize("fail_after", [pytest.param(None, id="all-appended"), pytest.param(1, id="cut-short")])
def test_nothing_is_believed_after_a_failed_sync(fail_after: int | None) -> None:
    """Although all of it may be in the file."""
    ledger = DurableLedger()
    ledger.fail_after = fail_after
    ledger.unsynced = "Input/output error"

    with pytest.raises(LedgerUnavailable, match="Input/output error") as unavailable:
        store(ledger, [exchange() for _ in range(2)], 3)

    assert unavailable.value.appended == ()
