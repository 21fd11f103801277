"""The gate `rate_limit`: never more than it says, in bounded memory."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.errors import ConfigError
from mcp_audit.middleware import ALLOW, Caller
from mcp_audit.middleware.rate_limit import Limit, RateLimit
from mcp_audit.wire.message import Direction, Kind, Message

CLIENT = Caller("claude", "files")


def call(tool: str | None = "ls", kind: Kind = Kind.REQUEST, method: str = "tools/call") -> Message:
    return Message(b"{}", Direction.TO_SERVER, kind, method=method, target=tool)


def allowed(gate: RateLimit, count: int, now: float, tool: str = "ls", caller: Caller = CLIENT) -> int:
    return sum(gate.check(call(tool), caller, now).allowed for _ in range(count))


def test_a_burst_then_one_token_per_period() -> None:
    """60 a minute with a burst of 3: three at once, then one each second."""
    gate = RateLimit(Limit(60, 3))

    assert allowed(gate, 10, now=100.0) == 3
    assert allowed(gate, 10, now=100.9) == 0
    assert allowed(gate, 10, now=101.0) == 1
    assert allowed(gate, 10, now=103.0) == 2
    assert allowed(gate, 10, now=1000.0) == 3


@pytest.mark.parametrize(
    ("limit", "burst"),
    [
        pytest.param(Limit(60), 60, id="as-many-as-a-minute-allows"),
        pytest.param(Limit(60, 5), 5, id="explicit"),
        pytest.param(Limit(0.5), 1, id="less-than-one-a-minute"),
    ],
)
def test_the_burst(limit: Limit, burst: int) -> None:
    """A burst of 0 means as many as requests_per_minute, and at least one."""
    assert allowed(RateLimit(limit), 100, now=0.0) == burst


def test_the_denial_says_when_it_may_run_again_and_keeps_its_word() -> None:
    """Whoever waits as long as the reason says is let through."""
    gate = RateLimit(Limit(70, 1))
    gate.check(call(), CLIENT, 5.0)
    verdict = gate.check(call(), CLIENT, 5.01)
    wait = re.fullmatch(r"ls may run again in ([0-9.]+) s", verdict.reason)

    assert (verdict.allowed, verdict.gate, verdict.kind, verdict.recorded) == (
        False, "rate_limit", "rate_limited", True,
    )  # fmt: skip
    assert wait is not None
    assert gate.check(call(), CLIENT, 5.01 + float(wait[1])).allowed


def test_each_client_and_each_tool_has_its_own_bucket() -> None:
    """Spending one bucket leaves the others full."""
    gate = RateLimit(Limit(60, 2))

    assert allowed(gate, 5, 0.0, "ls") == 2
    assert allowed(gate, 5, 0.0, "cp") == 2
    assert allowed(gate, 5, 0.0, "ls", Caller("cursor", "files")) == 2


def test_the_first_limit_that_fits_a_tool_counts() -> None:
    """Tools are named or globbed, case-sensitively, in order; the default is for the others."""
    gate = RateLimit(Limit(60, 9), {"write_file": Limit(60, 1), "write*": Limit(60, 2), "w*": Limit(60, 3)})

    assert allowed(gate, 20, 0.0, "write_file") == 1
    assert allowed(gate, 20, 0.0, "write_dir") == 2
    assert allowed(gate, 20, 0.0, "who") == 3
    assert allowed(gate, 20, 0.0, "Write_file") == 9


def test_only_calls_cost_tokens() -> None:
    """Other methods pass untouched; a call sent as a notification counts like any other."""
    gate = RateLimit(Limit(60, 1))
    for _ in range(5):
        assert gate.check(call(method="tools/list"), CLIENT, 0.0) is ALLOW

    assert gate.check(call(kind=Kind.NOTIFICATION), CLIENT, 0.0).allowed
    assert not gate.check(call(), CLIENT, 0.0).allowed


def test_an_endless_tool_name_is_not_repeated_in_full() -> None:
    """The reason goes to the client and into the record, so it is bounded; and such names are told apart."""
    gate = RateLimit(Limit(60, 1))
    long, other = "x" * 1_000_000, "x" * 1_000_000 + "y"
    gate.check(call(long), CLIENT, 0.0)

    assert len(gate.check(call(long), CLIENT, 0.0).reason) < 200
    assert gate.check(call(other), CLIENT, 0.0).allowed
    assert sum(len(tool) for _, tool in gate._full_at) < 1000


@pytest.mark.parametrize("wrong", [(0, 1), (-1, 0), (float("nan"), 1), (60, -1)])
def test_an_impossible_limit_is_an_error(wrong: tuple[float, int]) -> None:
    """Zero would never refill; the sentence says what forbids a tool instead."""
    with pytest.raises(ConfigError, match=r"policy\.rules"):
        Limit(*wrong)


def test_inventing_names_neither_grows_memory_nor_resets_a_spent_bucket() -> None:
    """While the table is full of spent buckets, newcomers share one, and the spent ones stay spent."""
    gate = RateLimit(Limit(60, 2), max_buckets=50)
    assert allowed(gate, 5, 0.0, "victim") == 2
    passed = sum(allowed(gate, 1, 0.0, f"invented{i}") for i in range(10_000))

    assert len(gate._full_at) <= 50
    assert passed == 49 + 2
    assert allowed(gate, 5, 0.5, "victim") == 0


def test_what_was_spent_while_the_table_was_full_stays_spent() -> None:
    """A tool that moves from the shared bucket to one of its own takes its debt along."""
    gate = RateLimit(Limit(60, 3), max_buckets=1)
    allowed(gate, 1, 0.0, "first")

    assert allowed(gate, 5, 0.0, "second") == 3
    assert allowed(gate, 5, 1.0, "second") == 1
    assert {tool for _, tool in gate._full_at} == {"second"}


def test_recovered_buckets_make_room() -> None:
    """A bucket that is full again equals one that never was, so it is forgotten."""
    gate = RateLimit(Limit(60, 1), max_buckets=10)
    for i in range(100):
        allowed(gate, 1, 0.0, f"invented{i}")

    assert allowed(gate, 1, 60.0, "newcomer") == 1
    assert len(gate._full_at) == 1


calls = st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 3, allow_subnormal=False)), min_size=1, max_size=120)


@settings(deadline=None)
@given(calls, st.integers(1, 4), st.sampled_from([30.0, 60.0, 70.0, 600.0]), st.integers(1, 7))
def test_never_more_than_the_burst_and_the_rate_in_any_window(
    calls: list[tuple[str, float]], burst: int, per_minute: float, max_buckets: int
) -> None:
    """For each tool, in every window of t seconds at most burst + rate * t calls pass, however full the table is."""
    gate = RateLimit(Limit(per_minute, burst), max_buckets=max_buckets)
    passed: dict[str, list[float]] = {}
    now = 0.0
    for tool, pause in calls:
        now += pause
        if gate.check(call(tool), CLIENT, now).allowed:
            passed.setdefault(tool, []).append(now)
        assert len(gate._full_at) <= max_buckets
    for times in passed.values():
        for first, start in enumerate(times):
            for last in range(first, len(times)):
                assert last - first + 1 <= burst + per_minute / 60 * (times[last] - start) + 1e-3


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), max_size=80), st.integers(1, 4), st.sampled_from([30.0, 60.0, 600.0]))
def test_a_lone_tool_gets_all_that_it_is_promised(pauses: list[float], burst: int, per_minute: float) -> None:
    """The gate decides exactly like the textbook bucket that holds `burst` tokens and refills at the rate."""
    gate = RateLimit(Limit(per_minute, burst))
    tokens, now, period = float(burst), 0.0, 60 / per_minute
    for pause in pauses:
        now += pause
        tokens = min(burst, tokens + pause / period)
        if abs(tokens - 1) < 1e-3:  # too close for floats to tell
            tokens = 1.0 if gate.check(call(), CLIENT, now).allowed else 0.9
            tokens -= tokens == 1.0
            continue
        assert gate.check(call(), CLIENT, now).allowed is (tokens >= 1)
        tokens -= tokens >= 1
