"""One bridged session, wired by hand: configuration and ledger in; session, recorder, upstream and relay out.

It decides nothing about messages. Whatever happens to the relay, the ledger is closed last.
"""

from __future__ import annotations

import logging
import time

from mcp_audit.config import Config
from mcp_audit.relay.bridge.relay import BridgeRelay
from mcp_audit.relay.bridge.upstream import HttpUpstream
from mcp_audit.relay.stdio import Ending
from mcp_audit.session import Session
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wiring import (
    LedgerWitness,
    allow_many_connections,
    caller_of,
    gates_of,
    keeping_up,
    limits_of,
    recorder_of,
)

__all__ = ["bridge_session", "prepare"]

_log = logging.getLogger("mcp_audit")


def prepare(config: Config) -> HttpUpstream:
    """Return the upstream, which nothing is asked yet.

    Raises:
        ConfigError: the URL, a header or a TLS file cannot be used.
    """
    proxy = config.proxy
    allow_many_connections()
    return HttpUpstream(proxy.upstream, proxy.bridge.headers, proxy.tls, proxy.upstream_timeout_ms / 1000)


async def bridge_session(
    config: Config,
    upstream: HttpUpstream,
    ledger: LedgerSink,
    stamp: Stamp,
    stdin: int = 0,
    stdout: int = 1,
    parent: int = 0,
) -> Ending:
    """Bridge the client on stdin and stdout to the upstream; whatever happens, close the ledger last."""
    # Said where every client shows it, for who asks for transparency must not take this for it.
    _log.warning(
        "bridging stdio to %s, which is not transparent: transports differ, and so may what both sides see",
        upstream.host,
    )
    session = Session(gates_of(config), stamp.id, caller_of(config, upstream.host))
    recorder = recorder_of(config, ledger, stamp, "stdio")
    relay = BridgeRelay(
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
