"""Run one function over many arguments in several processes, with progress, and stop at once when interrupted.

Processes are started afresh (`spawn`), so the caller's main module must be importable without side effects. A process
that dies takes the whole run with it, as an error; nothing waits for an answer that cannot come.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from mcp_audit.errors import LedgerError

__all__ = ["WorkerDied", "run_parallel"]

A = TypeVar("A")
R = TypeVar("R")
Progress = Callable[[int], None]
Channel = Any  # a Connection; on Windows a PipeConnection, which is another type


class WorkerDied(LedgerError):
    """A process that was checking a part of a log ended without an answer."""

    exit_code = 2

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"a checking process ended with code {self.code}; check again with --jobs 1"


def run_parallel(
    function: Callable[[A, Progress], R], arguments: Sequence[A], jobs: int, progress: Progress | None = None
) -> list[R]:
    """Return `function(argument, report)` for each argument, in their order.

    Args:
        function: a module's own function, found again by name in the other processes. It may call `report` with how
            much of its argument is done.
        jobs: how many processes at most.
        progress: called with the sum of what was reported.

    Raises:
        WorkerDied: a process was killed.
        BaseException: the first that `function` raised; the other processes are stopped.
    """
    return _Crew(function, arguments, progress).run(min(jobs, len(arguments)))


class _Crew(Generic[A, R]):
    def __init__(self, function: Callable[[A, Progress], R], arguments: Sequence[A], progress: Progress | None) -> None:
        self._function = function
        self._arguments = arguments
        self._progress = progress
        self._waiting = deque(range(len(arguments)))
        self._done = [0] * len(arguments)
        self._results: dict[int, R] = {}

    def run(self, jobs: int) -> list[R]:
        context = get_context("spawn")
        workers: dict[Channel, BaseProcess] = {}
        try:
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(self._function, theirs), daemon=True)
                process.start()
                theirs.close()
                workers[ours] = process
                self._next(ours)
            while len(self._results) < len(self._arguments):
                ready: list[Channel] = list(wait(list(workers)))
                for connection in ready:
                    try:
                        self._hear(connection, *connection.recv())
                    except EOFError:
                        workers[connection].join()
                        raise WorkerDied(workers[connection].exitcode) from None
        finally:
            for connection, worker in workers.items():
                worker.terminate()
                worker.join()
                connection.close()
        return [self._results[place] for place in range(len(self._arguments))]

    def _hear(self, connection: Channel, kind: str, place: int, value: Any) -> None:
        if kind == "failed":
            raise value
        if kind == "done":
            self._results[place] = value
            self._next(connection)
        else:
            self._done[place] = value
            if self._progress is not None:
                self._progress(sum(self._done))

    def _next(self, connection: Channel) -> None:
        if self._waiting:
            place = self._waiting.popleft()
            connection.send((place, self._arguments[place]))


def _work(function: Callable[[Any, Progress], Any], connection: Channel) -> None:
    """Answer one argument after the other; the parent ends us."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    while True:
        try:
            place, argument = connection.recv()
        except EOFError:
            sys.exit()

        def report(done: int, place: int = place) -> None:
            connection.send(("progress", place, done))

        try:
            connection.send(("done", place, function(argument, report)))
        except Exception as error:
            try:
                connection.send(("failed", place, error))
            except OSError:  # nobody listens any more
                sys.exit()
