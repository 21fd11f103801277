"""The composition root: a loaded configuration in, a running proxy out. The only module that knows all the parts.

It decides nothing about messages; it wires, starts, and makes sure that however a run ends, the ledger is closed last.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from mcp_audit.config import Config, Loaded
from mcp_audit.config.places import state_directory
from mcp_audit.errors import ConfigError, UpstreamStartError
from mcp_audit.middleware import Gate, Processor
from mcp_audit.middleware.capture import Capture, begin_commitment, end_commitment
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.middleware.rate_limit import Limit, RateLimit
from mcp_audit.middleware.redact import Redactor
from mcp_audit.middleware.sign import Sign
from mcp_audit.recorder import Recorder
from mcp_audit.relay.descriptors import restore_blocking
from mcp_audit.relay.process import Upstream, end_like, start
from mcp_audit.relay.stdio import Ending, Limits, StdioRelay
from mcp_audit.session import Session, Step
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.opening import LedgerSettings, open_ledger
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.version import software
from mcp_audit.wire.framing import Hasher, Oversized
from mcp_audit.wire.peers import Caller

__all__ = ["relay_session", "run"]

_log = logging.getLogger("mcp_audit")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def run(
    loaded: Loaded, argv: Sequence[str] | None, environ: Mapping[str, str], *, accept_loss: bool = False
) -> int:
    """Run the proxy until the upstream ends and return its exit code; a signal that killed it kills us as well.

    Raises:
        ConfigError: the upstream command cannot be read.
        LedgerRefused: the ledger was tampered with or cannot be judged; nothing was started.
        UpstreamStartError: the upstream cannot be started; the ledger has the attempt.
    """
    parent = os.getppid() if hasattr(os, "getppid") else 0
    config = loaded.config
    _set_up_log(config)
    command = _command(config, argv)
    stamp = Stamp()
    ledger = open_ledger(_ledger_settings(loaded, environ, accept_loss), stamp)
    _log.info("the ledger is %s; its verifier key is %s (pin it elsewhere)", ledger.path, ledger.vkey)
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    try:
        upstream = start(command, _environment(environ, loaded))
    except UpstreamStartError:
        ledger.close("upstream_exit")
        raise
    try:
        options = {"use_uvloop": _has_uvloop()}
        ending = anyio.run(relay_session, config, ledger, stamp, upstream, command, 0, 1, parent, backend_options=options)
    finally:
        restore_blocking()
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    return end_like(ending.returncode)


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


def _set_up_log(config: Config) -> None:
    """Our own words go to stderr, where the upstream's go as well; a clean run adds none to a client's log."""
    level = config.proxy.log.level
    if level == "auto":
        level = "info" if sys.stderr.isatty() else "warn"
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if config.proxy.log.format == "json" else logging.Formatter("mcp-audit: %(message)s"))
    _log.handlers[:] = [handler]
    _log.setLevel(_LEVELS[level])
    _log.propagate = False


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower().replace("warning", "warn")
        return json.dumps({"program": "mcp-audit", "level": level, "message": record.getMessage()})


def _command(config: Config, argv: Sequence[str] | None) -> list[str]:
    """Return the upstream's argv. There is no shell unless the configuration asks for one."""
    if argv:
        return list(argv)
    text = config.proxy.upstream
    if config.proxy.shell:
        return ["sh", "-c", text]
    try:
        words = shlex.split(text, posix=os.name == "posix")
    except ValueError as error:
        raise ConfigError("proxy.upstream", f"{text!r} cannot be split into words ({error}); close the quotation") from None
    if not words:
        raise ConfigError("proxy.upstream", "is empty; name the server after two dashes: mcp-audit -- COMMAND ARG...")
    return words


def _environment(environ: Mapping[str, str], loaded: Loaded) -> dict[str, str]:
    """Return ours unchanged, minus what belongs to the proxy; nothing is added."""
    return {name: value for name, value in environ.items() if name not in loaded.secret_env_names}


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
    hides = redact.enabled
    processors: list[Processor] = [
        Capture(audit.max_payload_bytes, audit.capture, secrets.redact if secrets else None, redacted=hides)
    ]
    if hides:
        processors.append(
            Redactor(redact.patterns, redact.allow, values=redact.values, nested_json=redact.nested_json)
        )
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


def _ledger_settings(loaded: Loaded, environ: Mapping[str, str], accept_loss: bool) -> LedgerSettings:
    audit = loaded.config.audit
    return LedgerSettings(
        storage=audit.storage,
        path=_ledger_path(loaded, environ),
        secret=loaded.secret,
        origin=audit.origin,
        signing_key=audit.signing_key,
        software=software(),
        config_sha256=loaded.sha256,
        allow_network_fs=audit.allow_network_fs,
        accept_loss=accept_loss,
    )


def _ledger_path(loaded: Loaded, environ: Mapping[str, str]) -> str:
    """Return where the ledger is. Desktop clients start servers in `/`, which cannot hold the default one."""
    audit = loaded.config.audit
    key, path = ("audit.sqlite_path", audit.sqlite_path) if audit.storage == "sqlite" else ("audit.path", audit.path)
    here = Path.cwd()
    if loaded.sources[key] != "default" or (os.access(here, os.W_OK) and here != here.parent):
        return path
    folder = state_directory(environ, sys.platform)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    elsewhere = str(folder / Path(path).name)
    _log.warning("%s cannot hold the ledger, so it is %s (%s sets another place)", here, elsewhere, key)
    return elsewhere


def _has_uvloop() -> bool:
    """Say whether uvloop is here, which halves what waiting for a pipe costs."""
    return importlib.util.find_spec("uvloop") is not None


def _on_one_line(note: str) -> str:
    return note.strip().replace("\n", " | ")
