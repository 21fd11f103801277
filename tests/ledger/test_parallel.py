"""Work in several processes: answers in order, errors and deaths are heard, an interrupt leaves nobody behind."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable

import pytest

from mcp_audit.ledger.checking.parallel import WorkerDied, run_parallel


def double(number: int, report: Callable[[int], None]) -> int:
    report(number)
    return 2 * number


def fail(number: int, _: Callable[[int], None]) -> int:
    raise ValueError(number)


def die(number: int, _: Callable[[int], None]) -> int:
    os._exit(number)


def test_answers_are_in_order_and_progress_adds_up() -> None:
    """More arguments than processes; what each reports is summed."""
    seen: list[int] = []
    assert run_parallel(double, [3, 1, 2], 2, seen.append) == [6, 2, 4]
    assert (len(seen), seen[-1]) == (3, 6)
    assert run_parallel(double, [], 2) == []


def test_errors_are_raised_here() -> None:
    """The first one; nobody is left behind."""
    with pytest.raises(ValueError, match="7"):
        run_parallel(fail, [7, 7], 2)
    assert not multiprocessing.active_children()


def test_a_process_that_dies_is_noticed() -> None:
    """Killed for want of memory, say: an error, no endless wait."""
    with pytest.raises(WorkerDied, match="code 9"):
        run_parallel(die, [9], 1)


def test_an_interrupt_ends_all() -> None:
    """Ctrl-C while others work: they are ended at once."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parallel(double, [1, 2, 3, 4], 2, interrupt)
    assert not multiprocessing.active_children()
