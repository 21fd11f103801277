"""What every transport is wired with: gates, processors, recorder and witness, made from the configuration.

It decides nothing about messages, and opens nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sys
from collections.abc import AsyncIterator, Sequence

import anyio
from anyio.abc import TaskGroup

from mcp_audit.config import Config
from mcp_audit.middleware import Gate, Processor
from mcp_audit.middleware.capture import Capture, begin_commitment, end_commitment
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.middleware.rate_limit import Limit, RateLimit
from mcp_audit.middleware.redact import Redactor
from mcp_audit.middleware.sign import Sign
from mcp_audit.recorder import Recorder
from mcp_audit.relay.stdio import Limits
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.framing import Hasher, Oversized
from mcp_audit.wire.peers import Caller

__all__ = [
    "LedgerWitness",
    "allow_many_connections",
    "caller_of",
    "gates_of",
    "keeping_up",
    "limits_of",
    "recorder_of",
    "with_policy_of",
]

_log = logging.getLogger("mcp_audit")


def allow_many_connections() -> None:
    """Raise the soft limit of descriptors to the hard one: a stream takes up to two of the usual 1024, or 256."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS knows a lower bound than it tells
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def recorder_of(config: Config, ledger: LedgerSink, stamp: Stamp, transport: str) -> Recorder:
    """Return the recorder of one proxy."""
    return Recorder(
        ledger,
        stamp,
        _processors(config, ledger),
        transport=transport,
        write_ahead=config.audit.write_ahead,
        on_failure=config.audit.on_failure,
        block_timeout=config.audit.block_timeout_ms / 1000,
        queue_size=config.audit.async_.queue_size,
        batch_size=config.audit.async_.batch_size,
        report=_log.warning,
    )


@contextlib.asynccontextmanager
async def keeping_up(recorder: Recorder, config: Config) -> AsyncIterator[TaskGroup]:
    """Keep checkpoints coming and a blocked ledger tried while a relay is at work; yields where more can run beside."""
    async with anyio.create_task_group() as background:
        background.start_soon(recorder.keep_checkpoints, config.audit.checkpoint_interval_ms / 1000)
        background.start_soon(recorder.keep_trying)
        yield background
        background.cancel_scope.cancel()


def limits_of(config: Config) -> Limits:
    """Return the limits of a relay with a client on stdio."""
    proxy = config.proxy
    return Limits(proxy.max_message_bytes, proxy.call_timeout_ms / 1000, proxy.shutdown_grace_ms / 1000)


def caller_of(config: Config, server: str, client: str = "") -> Caller:
    """Return the configured names; what is `auto` is learned.

    Args:
        server: what the server is called until it says its name.
        client: the name that a token proves, which nothing else may replace.
    """
    fixed, named = config.proxy.client_id, config.proxy.server_id
    return Caller(
        client or ("" if fixed == "auto" else fixed),
        server if named == "auto" else named,
        fixed == "auto" and not client,
        named == "auto",
    )


def gates_of(config: Config) -> list[Gate]:
    """Return the gates in the order in which they are asked; rate limits are shared by all who ask the same ones."""
    gates = _policy_of(config)
    limit = config.middleware.rate_limit
    if limit.enabled:
        tools = {name: Limit(tool.requests_per_minute, tool.burst) for name, tool in limit.tools.items()}
        gates.append(RateLimit(Limit(limit.requests_per_minute, limit.burst), tools))
    return gates


def with_policy_of(config: Config, gates: Sequence[Gate]) -> list[Gate]:
    """Return gates with the policy of another configuration; limits go on counting."""
    return [*_policy_of(config), *(gate for gate in gates if not isinstance(gate, Policy))]


def _policy_of(config: Config) -> list[Gate]:
    if not config.policy.enabled:
        return []
    rules = [
        Rule(rule.action, rule.client_id, rule.server_id, rule.tool_name, rule.reason) for rule in config.policy.rules
    ]
    return [Policy(rules, config.policy.default_action)]


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


class LedgerWitness:
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
