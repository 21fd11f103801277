"""One proxied session, wired by hand: configuration, ledger and upstream in; gates, processors, recorder and relay out.

It decides nothing about messages. Whatever happens to the relay, the ledger is closed last.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence

import anyio

from mcp_audit.config import Config
from mcp_audit.middleware import Gate, Processor
from mcp_audit.middleware.capture import Capture, begin_commitment, end_commitment
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.middleware.rate_limit import Limit, RateLimit
from mcp_audit.middleware.redact import Redactor
from mcp_audit.middleware.sign import Sign
from mcp_audit.recorder import Recorder
from mcp_audit.relay.process import Upstream
from mcp_audit.relay.stdio import Ending, Limits, StdioRelay
from mcp_audit.session import Session
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.framing import Hasher, Oversized
from mcp_audit.wire.peers import Caller

__all__ = ["relay_session"]

_log = logging.getLogger("mcp_audit")


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
    session = Session(_gates(config), stamp.id, _caller(config, command))
    recorder = Recorder(
        ledger,
        stamp,
        _processors(config, ledger),
        transport="stdio",
        write_ahead=config.audit.write_ahead,
        on_failure=config.audit.on_failure,
        block_timeout=config.audit.block_timeout_ms / 1000,
        queue_size=config.audit.async_.queue_size,
        batch_size=config.audit.async_.batch_size,
        report=_log.warning,
    )
    relay = StdioRelay(
        session,
        recorder,
        upstream,
        Limits(
            config.proxy.max_message_bytes,
            config.proxy.call_timeout_ms / 1000,
            config.proxy.shutdown_grace_ms / 1000,
        ),
        witness=_Witness(ledger, stamp),
        stdin=stdin,
        stdout=stdout,
        parent=parent,
    )
    ending = Ending(1, "shutdown", "exit")
    try:
        async with anyio.create_task_group() as background:
            background.start_soon(recorder.keep_checkpoints, config.audit.checkpoint_interval_ms / 1000)
            background.start_soon(recorder.keep_trying)
            ending = await relay.run()
            background.cancel_scope.cancel()
    finally:
        recorder.finish(session.close(time.monotonic()), ending.why, ending.reason)
    return ending


def _caller(config: Config, command: Sequence[str]) -> Caller:
    """Return the configured names; what is `auto` is learned, and until then the server is called by its program."""
    client, server = config.proxy.client_id, config.proxy.server_id
    program = os.path.basename(command[0])
    return Caller(
        "" if client == "auto" else client, program if server == "auto" else server, client == "auto", server == "auto"
    )


def _gates(config: Config) -> list[Gate]:
    gates: list[Gate] = []
    if config.policy.enabled:
        rules = [
            Rule(rule.action, rule.client_id, rule.server_id, rule.tool_name, rule.reason)
            for rule in config.policy.rules
        ]
        gates.append(Policy(rules, config.policy.default_action))
    limit = config.middleware.rate_limit
    if limit.enabled:
        tools = {name: Limit(tool.requests_per_minute, tool.burst) for name, tool in limit.tools.items()}
        gates.append(RateLimit(Limit(limit.requests_per_minute, limit.burst), tools))
    return gates


def _processors(config: Config, ledger: LedgerSink) -> list[Processor]:
    audit, redact, secrets = config.audit, config.middleware.redact, ledger.secrets
    redact_key = secrets.redact if secrets else None
    hides = redact.enabled
    processors: list[Processor] = [Capture(audit.max_payload_bytes, audit.capture, redact_key, redacted=hides)]
    if hides:
        processors.append(Redactor(redact.patterns, redact.allow, redact.values, redact.nested_json, redact_key))
    if audit.sign and secrets:
        processors.append(Sign(secrets.secret))
    return processors


class _Witness:
    """Commits to messages that are too large to be kept: id and salt are chosen before the first byte is hashed."""

    def __init__(self, ledger: LedgerSink, stamp: Stamp) -> None:
        self._key = ledger.secrets.redact if ledger.secrets else None
        self._stamp = stamp

    def new_hash(self) -> _IdentifiedHash:
        id_ = self._stamp.id()
        return _IdentifiedHash(id_, begin_commitment(self._key, id_, "/raw") if self._key else hashlib.sha256())

    def commit(self, message: Oversized) -> tuple[str, str]:
        hasher = message.hasher
        assert isinstance(hasher, _IdentifiedHash)
        return hasher.id, end_commitment(hasher) if self._key else ""


class _IdentifiedHash:
    """A hash that remembers whose line it is for."""

    def __init__(self, id_: str, hashed: Hasher) -> None:
        self.id = id_
        self.update = hashed.update
        self.digest = hashed.digest
