"""Evidence before effect, and what happens when the ledger takes nothing: refused, withheld, owed, owned up to."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from memory_ledger import (
    TO_CLIENT,
    TO_SERVER,
    Ids,
    MemoryLedger,
    modern,
    notification,
    request,
    result,
    rpc_error,
    sent,
)

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.entry import Unsealed
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.recorder import Recorder
from mcp_audit.session import Session, Step
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.message import Direction

DENY_RM = Policy([Rule("deny", tool_name="rm")], "allow")
LIST = "tools/list"


class Proxy:
    """Session and recorder as a relay drives them, with what reached whom.

    Attributes:
        out: the bytes that were forwarded.
        told: our own errors, decoded.
        said: what the operator was told.
    """

    def __init__(self, ledger: MemoryLedger | None = None, **options: Any) -> None:
        self.ledger = ledger or MemoryLedger()
        self.said: list[str] = []
        self.out: list[bytes] = []
        self.told: list[dict[str, Any]] = []
        self.session = Session([DENY_RM], Ids())
        defaults: dict[str, Any] = {
            "transport": "stdio",
            "block_timeout": 0.0,
            "retry_interval": 0.0,
            "report": self.said.append,
        }
        self.recorder = Recorder(self.ledger, Stamp(), [], **(defaults | options))

    def decide(self, content: Any, direction: Direction = TO_SERVER, now: float = 0.0) -> Step:
        return self.session.receive(sent(content, direction), now)

    async def pass_on(self, *contents: Any, direction: Direction = TO_SERVER, now: float = 0.0) -> None:
        """Let messages that arrived together through, as far as they may."""
        await self.effect([self.decide(content, direction, now) for content in contents])

    async def effect(self, steps: Sequence[Step]) -> None:
        steps = list(steps)
        recorded = await self.recorder.record(steps)
        for index in range(recorded, len(steps)):
            refusal = self.session.refuse(steps[index], self.recorder.cause, 9.0)
            self.recorder.owe(steps[index], refusal)
            steps[index] = refusal
        for step in steps:
            for _, error in step.errors:
                answer = json.loads(error)
                self.told += answer if isinstance(answer, list) else [answer]
            if step.forward is not None and not any(exchange.held for exchange in step.opened):
                self.out.append(step.forward)

    async def answer(self, *contents: Any, now: float = 0.0) -> None:
        await self.pass_on(*contents, direction=TO_CLIENT, now=now)

    async def recovered(self) -> None:
        """Let `keep_trying` bring the ledger back."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.recorder.keep_trying)
            with anyio.fail_after(10):
                while self.recorder.cause:
                    await anyio.sleep(0)
            tasks.cancel_scope.cancel()

    def end(self) -> None:
        self.recorder.finish(self.session.close(10.0), "exit", "eof")

    def kinds(self) -> list[str]:
        """Type of each line, or the outcome of an exchange."""
        return [line.get("type") or line["outcome"] for line in self.ledger.lines]


@asynccontextmanager
async def trying(recorder: Recorder) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recorder.keep_trying)
        yield
        tasks.cancel_scope.cancel()


# Order


async def test_a_call_has_a_line_before_it_is_forwarded_and_one_before_its_answer_is() -> None:
    """The closing line names the request line."""
    proxy = Proxy()
    await proxy.pass_on(request(1), now=1.0)
    assert proxy.kinds() == ["request"]
    await proxy.answer(result(1), now=1.5)

    assert proxy.kinds() == ["request", "answered"]
    assert proxy.ledger.lines[1]["of"] == 0
    assert proxy.ledger.lines[1]["duration_ms"] == 500
    assert len(proxy.out) == 2


@pytest.mark.parametrize(
    ("write_ahead", "ahead"),
    [("tools_call", ["tools/call"]), ("all", ["tools/call", LIST, "ping"]), ("none", [])],
)
async def test_which_requests_have_a_line_ahead(write_ahead: str, ahead: list[str]) -> None:
    """Calls, all in both directions, or none; each exchange is closed by one line either way."""
    proxy = Proxy(write_ahead=write_ahead)
    await proxy.pass_on(request(1), request(2, LIST))
    await proxy.answer(request(1, "ping"))
    await proxy.answer(result(1), result(2))
    await proxy.pass_on(result(1))

    assert [line["method"] for line in proxy.ledger.typed("request")] == ahead
    assert len(proxy.ledger.typed("")) == 3
    assert [line["of"] for line in proxy.ledger.lines if "of" in line] == list(range(len(ahead)))


async def test_messages_that_arrive_together_share_one_write() -> None:
    """In their order."""
    proxy = Proxy()
    batches: list[int] = []
    append = proxy.ledger.append

    def counted(batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        batches.append(len(batch))
        return append(batch, wait)

    proxy.ledger.append = counted  # type: ignore[method-assign]
    await proxy.pass_on(request(1), request(2), notification("n"))

    assert batches == [3]
    assert proxy.kinds() == ["request", "request", "notification"]


async def test_what_leaves_no_line_needs_no_ledger() -> None:
    """Blank lines, and requests without a line ahead."""
    proxy = Proxy()
    proxy.ledger.blocked = True

    await proxy.pass_on(b"\n", request(1, LIST))

    assert (len(proxy.out), proxy.ledger.lines) == (2, [])


async def test_a_busy_ledger_is_waited_for_in_a_thread() -> None:
    """Another process has the lock: the event loop goes on."""
    proxy = Proxy()
    proxy.ledger.busy = 1
    threads: list[str] = []
    append = proxy.ledger.append

    def watched(batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        if wait:
            threads.append(threading.current_thread().name)
        return append(batch, wait)

    proxy.ledger.append = watched  # type: ignore[method-assign]
    await proxy.pass_on(request(1))

    assert proxy.kinds() == ["request"]
    assert threads != [threading.main_thread().name]


@pytest.mark.parametrize(("stall", "wary", "in_threads"), [(-1.0, 9.0, 2), (-1.0, -9.0, 0), (9.0, 9.0, 0)])
async def test_a_slow_disk_is_left_to_threads(
    monkeypatch: pytest.MonkeyPatch, stall: float, wary: float, in_threads: int
) -> None:
    """After one write that took long the event loop writes no more, for a while; nothing else could be served."""
    monkeypatch.setattr("mcp_audit.recorder._STALL", stall)
    monkeypatch.setattr("mcp_audit.recorder._WARY", wary)
    proxy = Proxy()
    mains: list[bool] = []
    append = proxy.ledger.append

    def watched(batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        mains.append(threading.current_thread() is threading.main_thread())
        return append(batch, wait)

    proxy.ledger.append = watched  # type: ignore[method-assign]
    for number in range(3):
        await proxy.pass_on(request(number))

    assert mains == [True] + [not in_threads] * 2
    assert proxy.kinds() == ["request"] * 3


async def test_a_deadline_that_passes_while_the_request_line_is_written_closes_that_line() -> None:
    """Whoever closes a request must know the seq of its line, so it waits for its turn."""
    ledger = StuckLedger()
    ledger.busy = 2
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(1))
        await anyio.to_thread.run_sync(ledger.stuck.wait, 10)
        tasks.start_soon(proxy.effect, [proxy.session.overdue(100.0, 1.0)])
        await anyio.sleep(0)
        ledger.go_on.set()

    assert [(kind, line.get("of")) for kind, line in zip(proxy.kinds(), proxy.ledger.lines, strict=True)] == [
        ("request", None),
        ("timeout", 0),
    ]


async def test_a_request_given_up_on_while_it_waits_for_the_ledger_is_never_forwarded() -> None:
    """The client was told that it was not executed, and may have asked again since."""
    proxy = Proxy(StuckLedger(), block_timeout=1e6)
    proxy.ledger.busy = 1
    assert isinstance(proxy.ledger, StuckLedger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(1))
        await anyio.to_thread.run_sync(proxy.ledger.stuck.wait, 10)
        tasks.start_soon(proxy.effect, [proxy.session.overdue(100.0, 1.0)])
        await anyio.wait_all_tasks_blocked()
        proxy.ledger.go_on.set()
    await proxy.pass_on(request(1))

    [error] = [told["error"] for told in proxy.told]
    assert (error["code"], error["data"]["executed"]) == (-32031, False)
    assert proxy.kinds() == ["request", "timeout", "request"]
    assert proxy.ledger.lines[1]["error"] == error
    assert len(proxy.out) == 1


async def test_a_denial_is_on_record_before_it_is_told() -> None:
    """The error names its line; no time passed."""
    proxy = Proxy()
    await proxy.pass_on(request(1, name="rm"), now=5.0)

    [line] = proxy.ledger.lines
    [error] = proxy.told
    assert (line["outcome"], line["duration_ms"], proxy.out) == ("denied", 0, [])
    assert (line["id"], line["error"]) == (error["error"]["data"]["entry_id"], error["error"])
    assert line["policy"] == {"action": "deny", "rule_index": 0}


# The ledger takes nothing


async def test_while_blocked_requests_are_refused_and_nothing_is_forwarded() -> None:
    """All of them, with a line ahead or not; notifications are dropped; `blocked` counts both."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    proxy.ledger.broken = True
    await proxy.pass_on(request(1))
    await proxy.pass_on(modern(2, LIST), notification("n"), request(3, name="rm"))
    await proxy.answer(request(1, "ping"), notification("n"))

    assert proxy.out == []
    assert [(error["id"], error["error"]["code"]) for error in proxy.told] == [
        (1, -32031), (2, -31031), (3, -32031), (1, -32031),
    ]  # fmt: skip
    assert all(error["error"]["data"]["executed"] is False for error in proxy.told)
    assert all(error["error"]["data"]["reason"] == "disk full" for error in proxy.told)
    assert all("entry_id" not in error["error"]["data"] for error in proxy.told)

    proxy.ledger.broken = False
    await proxy.recovered()
    [line] = proxy.ledger.lines
    assert (line["type"], line["cause"]) == ("blocked", "disk full")
    assert (line["refused"], line["withheld"], line["dropped"]) == (4, 0, 2)
    proxy.end()
    assert proxy.kinds() == ["blocked"]


async def test_blank_lines_pass_a_blocked_ledger() -> None:
    """They leave nothing, so nothing is lost; the order stays."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    await proxy.pass_on(b"\n", request(1), b"\r\n")

    assert proxy.out == [b"\n", b"\r\n"]


async def test_a_withheld_answer_is_owned_up_to_and_recorded_once() -> None:
    """The requester learns that the call was executed; its line follows, marked, and closes the request."""
    proxy = Proxy()
    await proxy.pass_on(request(1))
    proxy.ledger.fail_after = 0
    await proxy.answer(result(1, text="hello"))

    [error] = proxy.told
    assert error["error"]["data"]["executed"] is True
    assert len(proxy.out) == 1
    await proxy.recovered()
    proxy.end()

    assert proxy.kinds() == ["request", "blocked", "answered"]
    line = proxy.ledger.lines[2]
    assert (line["of"], line["marks"], line["id"]) == (0, ["withheld"], error["error"]["data"]["entry_id"])
    assert (line["result"], line["error"]) == ({"text": "hello"}, error["error"])
    assert proxy.ledger.lines[1]["withheld"] == 1


async def test_an_answer_waits_for_the_ledger_and_is_delivered_if_it_returns_in_time() -> None:
    """Its call was executed, so it is worth waiting for; nothing is withheld then."""
    proxy = Proxy(block_timeout=30.0)
    await proxy.pass_on(request(1))
    proxy.ledger.fail_after = 0

    async with trying(proxy.recorder):
        with anyio.fail_after(10):
            await proxy.answer(result(1))

    assert (len(proxy.out), proxy.told) == (2, [])
    assert proxy.kinds() == ["request", "blocked", "answered"]
    assert "marks" not in proxy.ledger.lines[2]


async def test_requests_do_not_wait() -> None:
    """However long answers would."""
    proxy = Proxy(block_timeout=1e6)
    proxy.ledger.fail_after = 0

    with anyio.fail_after(10):
        await proxy.pass_on(request(1), notification("n"))

    assert len(proxy.told) == 1


async def test_the_wait_is_counted_from_when_the_ledger_blocked() -> None:
    """Else each answer would hold up those behind it anew."""
    proxy = Proxy(block_timeout=0.2)
    for number in range(20):
        await proxy.pass_on(request(number))
    proxy.ledger.fail_after = 0
    started = anyio.current_time()
    for number in range(20):
        await proxy.answer(result(number))

    assert 0.1 < anyio.current_time() - started < 2.0
    assert len(proxy.told) == 20


@pytest.mark.parametrize("stored", range(4))
async def test_a_batch_cut_short_neither_loses_nor_repeats_a_line(stored: int) -> None:
    """What is in the ledger takes effect, the rest is refused, and each request is closed exactly once."""
    proxy = Proxy()
    proxy.ledger.fail_after = stored
    await proxy.pass_on(request(0), request(1), request(2))
    assert len(proxy.out) == stored
    assert [error["id"] for error in proxy.told] == list(range(stored, 3))
    assert [line["request_id"] for line in proxy.ledger.typed("request")] == [str(n) for n in range(stored)]

    await proxy.recovered()
    await proxy.answer(*(result(number) for number in range(stored)))
    proxy.end()

    closing = [line for line in proxy.ledger.typed("") if line["outcome"] == "answered"]
    assert [line["of"] for line in closing] == list(range(stored))
    assert proxy.kinds().count("blocked") == 1
    assert not proxy.ledger.typed("orphan")


@pytest.mark.parametrize("stored", range(4))
async def test_a_json_batch_cut_short_is_closed(stored: int) -> None:
    """It goes through whole or not at all; request lines that made it are closed as denied, by the ledger."""
    proxy = Proxy()
    proxy.ledger.fail_after = stored
    await proxy.pass_on([request(0), request(1), notification("n")])

    await proxy.recovered()
    proxy.end()
    closed = [line["of"] for line in proxy.ledger.lines if "of" in line]
    if stored == 3:  # the error came after the write
        assert (len(proxy.out), proxy.told) == (1, [])
        assert sorted(closed) == [0, 1]
    else:
        assert (proxy.out, [error["id"] for error in proxy.told]) == ([], [0, 1])
        assert closed == list(range(min(stored, 2)))
        denied = [line for line in proxy.ledger.typed("") if line["outcome"] == "denied"]
        assert all((line["policy"]["gate"], line["duration_ms"]) == ("ledger", 0) for line in denied)
        assert [line["id"] for line in denied] == [
            error["error"]["data"]["entry_id"] for error in proxy.told if "entry_id" in error["error"]["data"]
        ]


async def test_an_error_after_the_write_is_no_reason_to_withhold() -> None:
    """The line is there, so the answer may go at once, whatever the block timeout."""
    proxy = Proxy(block_timeout=1e6)
    await proxy.pass_on(request(1))
    proxy.ledger.fail_after = 1

    with anyio.fail_after(10):
        await proxy.answer(result(1))

    assert (len(proxy.out), proxy.told) == (2, [])


async def test_owed_lines_are_written_once_even_if_their_recovery_fails_half_way() -> None:
    """Counts are not told twice either."""
    proxy = Proxy()
    for number in range(5):
        await proxy.pass_on(request(number))
    proxy.ledger.fail_after = 0
    for number in range(5):
        await proxy.answer(result(number))

    recover, cuts = proxy.ledger.recover, [0, 1, 3, 1]

    def recover_and_fail_again() -> None:
        recover()
        proxy.ledger.fail_after = cuts.pop() if cuts else None

    proxy.ledger.recover = recover_and_fail_again  # type: ignore[method-assign]
    await proxy.recovered()
    proxy.end()

    answered = [line for line in proxy.ledger.typed("") if line["outcome"] == "answered"]
    assert sorted(line["of"] for line in answered) == list(range(5))
    assert sum(line["withheld"] for line in proxy.ledger.typed("blocked")) == 5
    assert not cuts


async def test_a_cancel_while_blocked_closes_its_request() -> None:
    """The notification is dropped; the request, which was forwarded, has its line nevertheless."""
    proxy = Proxy()
    await proxy.pass_on(request(1, LIST))
    proxy.ledger.fail_after = 0
    await proxy.pass_on(notification("notifications/cancelled", requestId=1))
    await proxy.recovered()
    await proxy.answer(result(1))
    proxy.end()

    assert proxy.kinds() == ["blocked", "cancelled", "opaque"]
    assert proxy.ledger.lines[0]["dropped"] == 1
    assert proxy.ledger.lines[0]["refused"] == proxy.ledger.lines[0]["withheld"] == 0
    assert proxy.ledger.lines[2]["marks"] == ["late"]


async def test_continue_lets_everything_flow_and_counts_what_is_missing() -> None:
    """The gap counts lines; what is written later closes only what was written before."""
    proxy = Proxy(on_failure="continue")
    await proxy.pass_on(request(1))
    proxy.ledger.fail_after = 1
    await proxy.pass_on(notification("n"), request(2), request(3, LIST))
    await proxy.answer(result(1), result(2))
    await proxy.pass_on(request(4, name="rm"))

    assert len(proxy.out) == 6
    assert [error["error"]["data"]["kind"] for error in proxy.told] == ["policy_denied"]
    await proxy.recovered()
    await proxy.answer(result(3))
    proxy.end()

    assert proxy.kinds() == ["request", "notification", "blocked", "gap", "answered"]
    assert proxy.ledger.typed("gap")[0]["lost"] == 4  # a request line, two answers, a denial
    assert proxy.ledger.typed("gap")[0]["cause"] == "continue"
    assert not proxy.recorder.shutdown_wanted.is_set()


async def test_shutdown_asks_for_the_end() -> None:
    """And is like fail_operation for what is pending."""
    proxy = Proxy(on_failure="shutdown")
    assert not proxy.recorder.shutdown_wanted.is_set()
    proxy.ledger.fail_after = 0
    await proxy.pass_on(request(1))

    assert proxy.recorder.shutdown_wanted.is_set()
    assert (proxy.out, len(proxy.told)) == ([], 1)


async def test_the_operator_is_told_twice() -> None:
    """Once when it blocks, with cause and setting; once when it is over, with what it cost."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    await proxy.pass_on(request(1), notification("n"))
    await proxy.pass_on(request(2))
    await proxy.recovered()

    assert proxy.said == [
        "/ledger: the ledger takes no entries (disk full); audit.on_failure is fail_operation, retrying every second",
        "the ledger works again; meanwhile 2 requests were refused, 0 answers withheld, 1 notifications dropped, "
        "0 entries lost",
    ]


async def test_the_newest_cause_is_what_peers_are_told() -> None:
    """A retry may find another one."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    proxy.ledger.broken = True
    await proxy.pass_on(request(1))
    async with trying(proxy.recorder):
        with anyio.fail_after(10):
            while proxy.recorder.cause != "disk still full":
                await anyio.sleep(0)
    await proxy.pass_on(request(2))

    assert [error["error"]["data"]["reason"] for error in proxy.told] == ["disk full", "disk still full"]


async def test_too_much_to_owe_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; the ledger says that lines are missing, and why."""
    monkeypatch.setattr("mcp_audit.sinks.outage._MAX_OWED_LINES", 2)
    proxy = Proxy()
    for number in range(5):
        await proxy.pass_on(request(number, LIST))
    proxy.ledger.fail_after = 0
    await proxy.answer(*(result(number) for number in range(5)))
    await proxy.recovered()

    assert proxy.kinds() == ["blocked", "gap", "answered", "answered"]
    assert (proxy.ledger.typed("gap")[0]["lost"], proxy.ledger.typed("gap")[0]["cause"]) == (3, "overflow")


async def test_a_request_that_is_answered_before_its_line_is_written_gets_none() -> None:
    """A server may guess an id that still waits for the ledger; its exchange is closed then, and stays so."""
    proxy = Proxy(block_timeout=1e6)
    await proxy.answer(request("r", "ping"))
    proxy.ledger.fail_after = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, result("r"), request(2))  # the call waits with the answer before it
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(proxy.answer, result(2))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(proxy.recovered)
    proxy.end()

    assert proxy.kinds() == ["blocked", "answered", "answered"]
    assert [line["request_id"] for line in proxy.ledger.typed("")] == ["r", "2"]
    assert proxy.told == []


class StuckLedger(MemoryLedger):
    """A write that waits does not come back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck, self.go_on = threading.Event(), threading.Event()

    def append(self, batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        if wait and not self.stuck.is_set():
            self.stuck.set()
            assert self.go_on.wait(30)
        return super().append(batch, wait)


async def test_a_disk_that_hangs_is_a_ledger_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a write that does not return, requests are refused after a while and then at once; all is closed once."""
    monkeypatch.setattr("mcp_audit.recorder._LEAST_PATIENCE", 0.05)
    ledger = StuckLedger()
    proxy = Proxy(ledger)
    await proxy.pass_on(request(0))
    ledger.busy = 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(1))
        await anyio.to_thread.run_sync(ledger.stuck.wait, 30)
        with anyio.fail_after(10):
            await proxy.pass_on(request(2))
            await proxy.pass_on(request(3))
            await proxy.answer(result(0))
            await proxy.effect([proxy.session.overdue(100.0, 1.0)])
        told = [(error["id"], error["error"]["data"]["executed"]) for error in proxy.told]
        assert told == [(2, False), (3, False), (0, True), (1, False)]
        assert proxy.recorder.cause == "a write takes longer than 0.05 s"
        ledger.go_on.set()
        tasks.start_soon(proxy.recovered)
    proxy.end()

    assert proxy.kinds() == ["request", "request", "blocked", "answered", "timeout"]
    assert [line["of"] for line in proxy.ledger.lines if "of" in line] == [0, 1]
    assert (len(proxy.out), proxy.ledger.closed) == (1, "eof")


async def test_owning_up_does_not_wait_on_the_event_loop_for_a_lock() -> None:
    """While another process has it, the relay goes on refusing; it is tried again."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    await proxy.pass_on(request(1))
    proxy.ledger.busy = 3
    await proxy.recovered()

    assert (proxy.kinds(), proxy.ledger.busy) == (["blocked"], 0)


async def test_a_refusal_that_finds_the_ledger_back_is_accounted_for() -> None:
    """Whoever refuses a step later than the ledger recovered still gets its line written."""
    proxy = Proxy()
    await proxy.pass_on(request(1))
    step = proxy.decide(result(1), TO_CLIENT)
    proxy.recorder.owe(step, proxy.session.refuse(step, "disk full", 9.0))
    async with trying(proxy.recorder):
        await _until(lambda: len(proxy.ledger.lines) == 3)

    assert proxy.kinds() == ["request", "blocked", "answered"]


# Checkpoints


async def test_checkpoints_follow_lines_and_stop_with_them() -> None:
    """One for many lines; none for none."""
    proxy = Proxy()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.recorder.keep_checkpoints, 0.0)
        await anyio.wait_all_tasks_blocked()
        assert proxy.ledger.checkpoints == 0
        await proxy.pass_on(request(1), request(2))
        await _until(lambda: proxy.ledger.checkpoints == 1)
        await anyio.wait_all_tasks_blocked()
        assert proxy.ledger.checkpoints == 1
        tasks.cancel_scope.cancel()


async def test_a_checkpoint_that_fails_blocks_nothing_while_lines_are_taken() -> None:
    """It is retried, and the operator is told once."""
    proxy = Proxy(on_failure="shutdown")
    proxy.ledger.checkpoint_cause = "no checkpoint: No space left on device"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.recorder.keep_checkpoints, 0.0)
        await proxy.pass_on(request(1))
        await _until(lambda: proxy.ledger.attempts >= 3)
        await proxy.pass_on(request(2))
        proxy.ledger.checkpoint_cause = ""
        await _until(lambda: proxy.ledger.checkpoints == 1)
        tasks.cancel_scope.cancel()

    assert len(proxy.out) == 2
    assert not proxy.recorder.shutdown_wanted.is_set()
    assert proxy.said == ["/ledger: no checkpoint: No space left on device; retrying"]


async def test_a_recovery_is_vouched_for_at_once() -> None:
    """Without waiting for the interval."""
    proxy = Proxy()
    proxy.ledger.fail_after = 0
    await proxy.pass_on(request(1))
    async with trying(proxy.recorder):
        await _until(lambda: proxy.ledger.checkpoints == 1)


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0)


# The end


async def test_what_is_open_at_the_end_is_orphaned() -> None:
    """With its request line's seq, or a request's members if it has none; then the ledger closes."""
    proxy = Proxy()
    await proxy.pass_on(request(1), request(2, LIST))
    proxy.recorder.finish(proxy.session.close(9.0), "upstream_exit", "upstream_exit")

    with_line, without = proxy.ledger.typed("orphan")
    assert (with_line["of"], with_line["outcome"], with_line["why"]) == (0, "lost", "upstream_exit")
    assert "method" not in with_line
    assert (without["method"], without["request_id"], "of" in without) == (LIST, "2", False)
    assert proxy.ledger.closed == "upstream_exit"


async def test_an_end_while_blocked_tries_once_more() -> None:
    """What is owed and what is open is written if that succeeds."""
    proxy = Proxy()
    await proxy.pass_on(request(1), request(2))
    proxy.ledger.fail_after = 0
    await proxy.answer(result(1))
    proxy.end()

    assert proxy.kinds() == ["request", "request", "blocked", "answered", "orphan"]
    assert sorted(line["of"] for line in proxy.ledger.lines if "of" in line) == [0, 1]
    assert proxy.ledger.closed == "eof"


async def test_an_end_while_blocked_for_good_is_said() -> None:
    """How many lines are missing, and that the ledger lacks its end."""
    proxy = Proxy()
    await proxy.pass_on(request(1), request(2))
    proxy.ledger.fail_after = 0
    proxy.ledger.broken = True
    await proxy.answer(result(1))
    proxy.end()

    assert proxy.said[-2:] == [
        "/ledger: the ledger takes no entries (disk still full); 2 lines could not be written before the exit; "
        "meanwhile 0 requests were refused, 1 answers withheld, 0 notifications dropped, 0 entries lost",
        "/ledger: the ledger takes no entries (disk full); the ledger was left without its closing line",
    ]


@pytest.mark.parametrize("stored", range(3))
async def test_an_end_that_fails_half_way_counts_what_is_missing(stored: int) -> None:
    """Lines that made it are not counted."""
    proxy = Proxy()
    await proxy.pass_on(request(1), request(2))
    proxy.ledger.fail_after = stored
    proxy.end()

    assert f"; {2 - stored} lines could not be written" in proxy.said[0]


async def test_an_answer_that_waits_when_the_session_ends_is_not_lost() -> None:
    """The pump that held it is cancelled; its line is written at the end, marked, and closes its request."""
    proxy = Proxy(block_timeout=1e6)
    await proxy.pass_on(request(1), request(2, LIST), request(3))
    proxy.ledger.fail_after = 0
    async with anyio.create_task_group() as pumps:
        pumps.start_soon(proxy.answer, result(1), rpc_error(2), notification("n"))
        await anyio.wait_all_tasks_blocked()
        pumps.cancel_scope.cancel()
    proxy.end()

    assert len(proxy.out) == 3
    assert proxy.kinds() == ["request", "request", "blocked", "answered", "rpc_error", "orphan"]
    assert [line.get("marks") for line in proxy.ledger.typed("")] == [["withheld"], ["withheld"]]
    assert sorted(line["of"] for line in proxy.ledger.lines if "of" in line) == [0, 1]


async def test_a_cancelled_wait_for_a_busy_ledger_loses_nothing() -> None:
    """Whether the line was written or not is known when the thread returns."""
    ledger = StuckLedger()
    ledger.busy = 1
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as pumps:
        pumps.start_soon(proxy.pass_on, request(1))
        await anyio.to_thread.run_sync(ledger.stuck.wait, 10)
        pumps.cancel_scope.cancel()
        ledger.go_on.set()
    proxy.end()

    assert proxy.kinds() == ["request", "orphan"]
    assert proxy.ledger.lines[1]["of"] == 0


# Durability fsync


class DurableLedger(MemoryLedger):
    """A ledger whose lines count when a sync came back; each sync waits until it is let go.

    Attributes:
        synced: how many lines are safe.
        gate: set while syncs come back at once.
        unsynced: what the next sync ends in.
    """

    durable = True

    def __init__(self, open_: bool = True) -> None:
        super().__init__()
        self.synced = 0
        self.syncing, self.gate = threading.Event(), threading.Event()
        self.unsynced = ""
        if open_:
            self.gate.set()

    def sync(self) -> None:
        super().sync()
        seen = len(self.lines)
        self.syncing.set()
        assert self.gate.wait(30)
        if self.unsynced:
            self.blocked = self.broken = True
            raise LedgerUnavailable(self.path, self.unsynced)
        self.synced = seen


async def test_nothing_takes_effect_before_the_sync() -> None:
    """Not the request that waits for it, although its line is written; afterwards everything, answers too."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(1), request(2, name="rm"))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        assert (len(ledger.lines), proxy.out, proxy.told) == (2, [], [])
        ledger.gate.set()
    await proxy.answer(result(1))

    assert (len(proxy.out), len(proxy.told), ledger.synced, ledger.syncs) == (2, 1, 3, 2)
    proxy.end()


async def test_callers_share_syncs() -> None:
    """64 calls that come while one is synced need one more; their answers as well. There is no timer."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(0))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        for number in range(1, 64):
            tasks.start_soon(proxy.pass_on, request(number))
        await anyio.wait_all_tasks_blocked()
        ledger.gate.set()
    assert (ledger.syncs, len(proxy.out)) == (2, 64)
    assert [line["request_id"] for line in ledger.lines] == [str(number) for number in range(64)]

    async with anyio.create_task_group() as tasks:
        for number in range(64):
            tasks.start_soon(proxy.answer, result(number))
    assert ledger.syncs == 3
    assert [line["of"] for line in ledger.lines[64:]] == list(range(64))
    proxy.end()


async def test_a_batch_is_as_large_as_configured() -> None:
    """Entries per write, and entries per sync; who does not fit waits for the next one."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger, queue_size=8, batch_size=3)
    sizes: list[int] = []
    append = ledger.append

    def counted(batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        assert wait
        sizes.append(len(batch))
        return append(batch, wait)

    ledger.append = counted  # type: ignore[method-assign]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(0))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        for number in range(1, 21):
            tasks.start_soon(proxy.pass_on, request(number))
        await anyio.wait_all_tasks_blocked()
        ledger.gate.set()

    assert sizes == [1, 3, 3, 2, 3, 3, 2, 3, 1]
    assert ledger.syncs == 4


async def test_a_request_that_ends_while_its_line_is_synced_is_closed_by_its_seq() -> None:
    """The closing line was made before that seq was known."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(1))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        tasks.start_soon(proxy.effect, [proxy.session.overdue(100.0, 1.0)])
        await anyio.wait_all_tasks_blocked()
        ledger.gate.set()

    assert [(kind, line.get("of")) for kind, line in zip(proxy.kinds(), ledger.lines, strict=True)] == [
        ("request", None),
        ("timeout", 0),
    ]


@pytest.mark.parametrize("on_failure", ["fail_operation", "shutdown", "continue"])
async def test_a_failed_sync_lets_nothing_take_effect(on_failure: str) -> None:
    """All who shared it are refused, or go on unrecorded if that is what the operator wants."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger, on_failure=on_failure)
    ledger.unsynced = "it could not be synced"
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(proxy.pass_on, request(number))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        ledger.gate.set()

    assert proxy.recorder.cause == "it could not be synced"
    assert proxy.recorder.shutdown_wanted.is_set() is (on_failure == "shutdown")
    if on_failure == "continue":
        assert (len(proxy.out), proxy.told) == (3, [])
    else:
        assert (proxy.out, len(proxy.told)) == ([], 3)
        assert all(error["error"]["data"]["executed"] is False for error in proxy.told)
    proxy.end()
    assert any("could not be written" in sentence or "without its closing line" in sentence for sentence in proxy.said)


@pytest.mark.parametrize("stored", range(4))
async def test_what_a_full_disk_took_is_synced_before_it_is_believed(stored: int) -> None:
    """The lines that made it take effect, the others are refused; when space returns each request is closed once."""
    ledger = DurableLedger()
    proxy = Proxy(ledger)
    ledger.fail_after = stored
    await proxy.pass_on(request(0), request(1), request(2))

    assert (len(proxy.out), ledger.synced) == (stored, stored)
    await proxy.recovered()
    await proxy.answer(*(result(number) for number in range(stored)))
    proxy.end()
    assert [line["of"] for line in ledger.typed("") if line["outcome"] == "answered"] == list(range(stored))


async def test_a_slow_disk_refuses_instead_of_piling_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a sync that does not return, requests are turned back; what was under way goes on when it returns."""
    monkeypatch.setattr("mcp_audit.recorder._LEAST_PATIENCE", 0.05)
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.pass_on, request(0))
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        with anyio.fail_after(10):
            await proxy.pass_on(request(1))
            await proxy.pass_on(request(2))
        assert [error["id"] for error in proxy.told] == [1, 2]
        assert (len(ledger.lines), proxy.out) == (1, [])
        ledger.gate.set()
    assert len(proxy.out) == 1
    await proxy.recovered()
    await proxy.answer(result(0))
    proxy.end()

    assert proxy.kinds() == ["request", "blocked", "answered"]
    assert ledger.lines[1]["refused"] == 2


@pytest.mark.parametrize("victim", range(3))
async def test_a_pump_that_goes_away_during_a_sync_loses_nothing(victim: int) -> None:
    """Whoever drives the sync, shares it or waits for the next one: each request is closed exactly once."""
    ledger = DurableLedger(open_=False)
    proxy = Proxy(ledger)
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def call(number: int) -> None:
        with scopes[number]:
            await proxy.pass_on(request(number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, 0)
        tasks.start_soon(call, 1)
        await anyio.to_thread.run_sync(ledger.syncing.wait, 30)
        tasks.start_soon(call, 2)
        await anyio.wait_all_tasks_blocked()
        scopes[victim].cancel()
        ledger.gate.set()
    proxy.end()

    opened = {index for index, line in enumerate(ledger.lines) if line.get("type") == "request"}
    closed = [line["of"] for line in ledger.lines if "of" in line]
    assert sorted(closed) == sorted(opened)
    assert len(ledger.lines) == 2 * len(opened) + (victim == 2)
    assert ledger.closed == "eof"
