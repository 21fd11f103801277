"""Whatever peers, policy, deadlines and a failing ledger do in whatever order: the books balance.

Session and recorder are driven as a relay drives them, against a ledger in memory and against a real one. Each request
carries a number, so that it can be found again on the wire and in the ledger.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio
from fakes import QuickFiles
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from memory_ledger import MODERN, TO_CLIENT, TO_SERVER, MemoryLedger, notification, request, result, rpc_error, sent

from mcp_audit.ledger import verify
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.recorder import Recorder
from mcp_audit.session import Session, Step
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.message import Direction, Payload

T = TypeVar("T")
SECRET = b"0123456789abcdef0123456789abcdef"
NUMBERS = itertools.count(1)
IDS = st.sampled_from([0, 1, "1", "", 2.5])


def numbered(id_: Any, method: str, name: str, era: dict[str, Any]) -> dict[str, Any]:
    number = next(NUMBERS)
    return request(id_, method, name=name, n=number, _meta={**era, "progressToken": number % 3})


calls = st.builds(
    numbered,
    IDS,
    st.sampled_from(["tools/call", "tools/call", "tools/list", "subscriptions/listen"]),
    st.sampled_from(["echo", "echo", "rm"]),
    st.sampled_from([{}, MODERN]),
)
asked_back = st.builds(numbered, IDS, st.sampled_from(["ping", "sampling/createMessage"]), st.just("x"), st.just({}))
answers = st.builds(result, IDS) | st.builds(lambda id_: result(id_, isError=True), IDS) | st.builds(rpc_error, IDS)
told = st.builds(lambda id_: notification("notifications/cancelled", requestId=id_), IDS) | st.sampled_from(
    [notification("notifications/x"), notification("tools/call", name="rm"), notification("notifications/progress")]
)
noise = st.sampled_from([b"noise\n", b"\n", b'{"jsonrpc":"2.0","id":1,"id":1,"result":{}}\n', b"[]\n", {}])


def chunk(message: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Messages that arrive together, batches among them."""
    return st.lists(message | noise | st.lists(message, min_size=1, max_size=3), min_size=1, max_size=3)


class Books(RuleBasedStateMachine):
    """One session and its ledger."""

    on_failures: ClassVar = ["fail_operation", "continue"]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.forwarded: Counter[int] = Counter()  # by number of the request
        self.answered: Counter[int] = Counter()
        self.expected = 0  # lines, if none were lost
        self.errors: list[dict[str, Any]] = []

    # What a test of another ledger replaces

    def open_ledger(self) -> Any:
        self.memory = MemoryLedger()
        return self.memory

    def lines(self) -> list[dict[str, Any]]:
        return [{"seq": seq} | line for seq, line in enumerate(self.memory.lines)]

    def break_ledger(self, stored: int, hopeless: bool) -> None:
        self.memory.fail_after, self.memory.broken = stored, hopeless

    def mend_ledger(self) -> None:
        self.memory.fail_after, self.memory.broken = None, False

    def make_busy(self) -> None:
        self.memory.busy = 1

    # The life of a session

    def do(self, work: Awaitable[T]) -> T:
        async def in_a_task() -> T:
            return await work

        return self.loop.run_until_complete(in_a_task())

    @initialize(data=st.data(), write_ahead=st.sampled_from(["tools_call", "all", "none"]), enforcing=st.booleans())
    def start(self, data: st.DataObject, write_ahead: str, enforcing: bool) -> None:
        self.on_failure = data.draw(st.sampled_from(self.on_failures))
        self.write_ahead = write_ahead
        stamp = Stamp()
        ledger = self.open_ledger()
        gates = [Policy([Rule("deny", tool_name="rm")], "allow")] if enforcing else []
        self.enforcing = enforcing
        self.session = Session(gates, stamp.id)

        async def recorder() -> Recorder:
            return Recorder(
                ledger, stamp, [], transport="stdio", write_ahead=write_ahead, on_failure=self.on_failure,
                block_timeout=0.0, retry_interval=0.0,
            )  # fmt: skip

        self.recorder = self.do(recorder())

    @rule(contents=chunk(calls | answers | told))
    def client_sends(self, contents: list[Any]) -> None:
        self.pass_on(contents, TO_SERVER)

    @rule(contents=chunk(asked_back | answers | told))
    def server_sends(self, contents: list[Any]) -> None:
        self.pass_on(contents, TO_CLIENT)

    @rule(seconds=st.sampled_from([1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        step = self.session.overdue(self.now, 10.0)
        if step.finished:
            self.take_effect([step], [None])

    @rule(stored=st.integers(0, 4), hopeless=st.booleans())
    def something_breaks(self, stored: int, hopeless: bool) -> None:
        self.break_ledger(stored, hopeless)

    @rule()
    def somebody_else_writes(self) -> None:
        self.make_busy()

    @precondition(lambda self: self.recorder.cause)
    @rule()
    def the_ledger_comes_back(self) -> None:
        async def recovered() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.recorder.keep_trying)
                with anyio.fail_after(30):
                    while self.recorder.cause:
                        await anyio.sleep(0)
                tasks.cancel_scope.cancel()

        self.mend_ledger()
        self.do(recovered())

    def pass_on(self, contents: list[Any], direction: Direction) -> None:
        self.now += 0.25
        payloads = [sent(content, direction) for content in contents]
        self.take_effect([self.session.receive(payload, self.now) for payload in payloads], payloads)

    def take_effect(self, steps: list[Step], payloads: list[Any]) -> None:
        for step in steps:
            pending = (exchange for exchange in step.opened if exchange.outcome is Outcome.PENDING)
            self.expected += len(step.finished) + sum(map(self.has_line_ahead, pending))
        count = self.do(self.recorder.record(steps))
        for index, (step, payload) in enumerate(zip(steps, payloads, strict=True)):
            if index < count:
                self.check_evidence(step, payload)
                done = step
            else:
                done = self.session.refuse(step, self.recorder.cause, self.now)
                self.recorder.owe(step, done)
                assert done.forward is None or not (step.opened or step.finished)
            self.follow(step, done)

    def has_line_ahead(self, exchange: Exchange) -> bool:
        assert exchange.request is not None
        calls_only = self.write_ahead == "tools_call" and exchange.request.method == "tools/call"
        return calls_only or self.write_ahead == "all"

    # What must hold

    def check_evidence(self, step: Step, payload: Payload | None) -> None:
        """What takes effect is on record, but for `continue`; what goes on is the object that came."""
        assert step.forward is None or (payload is not None and step.forward is payload.raw)
        if self.on_failure == "continue":
            return
        lines = self.lines()
        written = {line["id"] for line in lines}
        assert all(exchange.id in written and exchange.recorded for exchange in step.finished)
        for exchange in filter(self.has_line_ahead, step.opened):
            if exchange.seq is None:  # it was cancelled by what came with it, so its closing line is its first
                assert exchange.id in written
            else:
                line = next(line for line in lines if line["seq"] == exchange.seq)
                assert (line["type"], line["params"]["n"]) == ("request", number_of(exchange))

    def follow(self, step: Step, done: Step) -> None:
        for exchange in (*step.opened, *step.finished):
            number = number_of(exchange)
            if done.forward is not None:
                assert exchange.verdict.allowed
                self.forwarded[number] += exchange in step.opened
                self.answered[number] += exchange.response is not None and exchange.request is not None
            else:
                self.answered[number] += bool(exchange.error)
        for _, error in done.errors:
            decoded = json.loads(error)
            self.errors += decoded if isinstance(decoded, list) else [decoded]

    def teardown(self) -> None:
        if hasattr(self, "recorder"):
            self.mend_ledger()
            last = self.session.close(self.now)
            self.expected += len(last.finished)

            async def finish() -> None:
                self.recorder.finish(last, "exit", "eof")

            self.do(finish())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.balance()
        else:
            self.loop.close()

    def balance(self) -> None:
        lines = self.lines()
        ids = Counter(line["id"] for line in lines)
        assert max(ids.values(), default=1) == 1
        assert max((count for number, count in self.answered.items() if number), default=0) <= 1
        assert self.session.open_requests == 0
        told = Counter(error["error"]["data"].get("executed") for error in self.errors)
        blocked = [line for line in lines if line.get("type") == "blocked"]
        assert sum(line["refused"] for line in blocked) == told[False]
        assert sum(line["withheld"] for line in blocked) == told[True]
        if self.on_failure == "continue":
            self.balance_with_gaps(lines)
        else:
            self.balance_exactly(lines)

    def balance_with_gaps(self, lines: list[dict[str, Any]]) -> None:
        """Every line is there or counted."""
        lost = sum(line["lost"] for line in lines if line.get("type") == "gap")
        there = sum(line.get("type") in (None, "request", "orphan") for line in lines)
        assert there + lost == self.expected

    def balance_exactly(self, lines: list[dict[str, Any]]) -> None:
        """Each request line is closed once; each request that was forwarded has one end, any other one at most."""
        ahead = {line["seq"]: line for line in lines if line.get("type") == "request"}
        closing = [line for line in lines if line.get("type") in (None, "orphan")]
        assert sorted(line["of"] for line in closing if "of" in line) == sorted(ahead)
        assert not [line for line in lines if line.get("type") == "gap"]
        ends: Counter[int] = Counter()
        for line in closing:
            source = line if "params" in line else ahead.get(line.get("of", -1), line)
            ends[source.get("params", {}).get("n", 0)] += 1
        del ends[0]
        assert all(ends[number] == 1 for number, count in self.forwarded.items() if number and count)
        assert max(ends.values(), default=0) <= 1
        entry_ids = {line["id"] for line in lines}
        assert {e["error"]["data"]["entry_id"] for e in self.errors if "entry_id" in e["error"]["data"]} <= entry_ids


def number_of(exchange: Exchange) -> int:
    """The number of a request, 0 for anything else."""
    if exchange.request is None or b'"n":' not in exchange.request.params:
        return 0
    number: int = json.loads(exchange.request.params)["n"]
    return number


class FailingFiles(QuickFiles):
    """Real files; when armed, the next write stops after a share of its bytes as on a full disk."""

    share: float | None = None

    def write(self, fd: int, data: Any) -> int:
        share, self.share = self.share, None
        if share is None:
            return os.write(fd, data)
        os.write(fd, bytes(data)[: int(len(data) * share)])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class RealBooks(Books):
    """The same with a real ledger on a disk that fills up in the middle of a line; the verifier has the last word."""

    on_failures: ClassVar = ["fail_operation"]

    def open_ledger(self) -> Any:
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "audit.jsonl"
        self.files = FailingFiles()
        return open_ledger(LedgerSettings(path=str(self.log), secret=SECRET, software="test"), Stamp(), self.files)

    def lines(self) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_bytes().split(b"\n"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # torn
        return found

    def break_ledger(self, stored: int, hopeless: bool) -> None:
        self.files.share = stored / 4

    def mend_ledger(self) -> None:
        self.files.share = None

    def make_busy(self) -> None:
        pass

    def balance(self) -> None:
        report = verify(self.log, secrets=[SECRET], strict=True)
        assert report.exit_code == 0, report
        super().balance()
        self.folder.cleanup()


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestRealBooks = RealBooks.TestCase
TestRealBooks.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
