"""What tells a relay to end: a signal to us, and the death of whoever started us."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import anyio

__all__ = ["heed_signals", "watch_parent"]

_WATCH_SECONDS = 1.0


async def heed_signals(stop: Callable[[int], None]) -> None:
    """Call `stop` with each SIGTERM, SIGINT and SIGHUP; runs until cancelled."""
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    heeded = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]  # nohup keeps its word
    # Windows has no signal handlers in the event loop.
    with contextlib.suppress(NotImplementedError), anyio.open_signal_receiver(*heeded) as signals:
        async for number in signals:
            stop(number)


async def watch_parent(parent: int, stop: Callable[[int], None]) -> None:
    """Call `stop` with SIGTERM once the process `parent` is not ours any more; 0 or 1: nobody to watch.

    Its death closes no pipe if somebody else holds them.
    """
    while parent > 1:
        if os.getppid() != parent:
            stop(getattr(signal, "SIGTERM", 15))
            return
        await anyio.sleep(_WATCH_SECONDS)
