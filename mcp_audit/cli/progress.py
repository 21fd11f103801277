"""A progress bar for work that says itself when it begins: it appears with the first report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from mcp_audit.cli.terminal import progress_bar

__all__ = ["TITLES", "progress_of"]

TITLES = {"index": "indexing", "read": "reading", "export": "exporting"}


@contextmanager
def progress_of(*works: str) -> Iterator[Callable[[str, int, int], None]]:
    """Yield what to call with the work, the bytes done and the bytes in all; works not named here show nothing."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int], None]] = {}

        def report(work: str, done: int, total: int) -> None:
            if work not in works:
                return
            if work not in bars:
                stack.close()  # one bar at a time
                bars.clear()
                bars[work] = stack.enter_context(progress_bar(TITLES[work], total))
            bars[work](min(done, total))

        yield report
