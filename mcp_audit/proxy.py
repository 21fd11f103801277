"""One proxied session, wired by hand: configuration, ledger and upstream in; gates, processors, recorder and relay out.

It decides nothing about messages. Whatever happens to the relay, the ledger is closed last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from mcp_audit.config import Config
from mcp_audit.relay.process import Upstream
from mcp_audit.relay.stdio import Ending, StdioRelay
from mcp_audit.session import Session
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wiring import LedgerWitness, caller_of, gates_of, keeping_up, limits_of, recorder_of

__all__ = ["relay_session"]


async def relay_session(
    config: Config,
    ledger: LedgerSink,
    stamp: Stamp,
    upstream: Upstream,
    command: Sequence[str],
    stdin: int = 0,
    stdout: int = 1,
    parent: int = 0,
) -> Ending:
    """Wire one session to its pumps and its ledger; whatever happens, close the ledger last."""
    session = Session(gates_of(config), stamp.id, caller_of(config, os.path.basename(command[0])))
    recorder = recorder_of(config, ledger, stamp, "stdio")
    relay = StdioRelay(
        session,
        recorder,
        upstream,
        limits_of(config),
        witness=LedgerWitness(ledger, stamp),
        stdin=stdin,
        stdout=stdout,
        parent=parent,
    )
    ending = Ending(1, "shutdown", "exit")
    try:
        async with keeping_up(recorder, config):
            ending = await relay.run()
    finally:
        recorder.finish(session.close(time.monotonic()), ending.why, ending.reason)
    return ending
