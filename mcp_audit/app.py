"""The order of a start: log, ledger, upstream, relay. A loaded configuration in, an exit code out.

The ledger is judged before anything is started, so a log that was tampered with never gets a new session; the upstream
is started before the event loop and the relay are loaded, so that both get ready at the same time.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mcp_audit.config import Config, Loaded
from mcp_audit.config.inactive import is_url
from mcp_audit.config.places import state_directory
from mcp_audit.errors import ConfigError, UpstreamStartError
from mcp_audit.relay.process import end_like, start
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.settings import LedgerSettings, RotationSettings
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.version import software

__all__ = ["run"]

_log = logging.getLogger("mcp_audit")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def run(
    loaded: Loaded,
    argv: Sequence[str] | None,
    environ: Mapping[str, str],
    *,
    accept_loss: bool = False,
    reload: Callable[[], Loaded] | None = None,
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
    if config.proxy.transport == "http":
        return _serve(loaded, environ, accept_loss, reload)
    if not argv and is_url(config.proxy.upstream):
        return end_like(_bridge(loaded, environ, accept_loss, parent))
    command = _command(config, argv)
    stamp = Stamp()
    ledger = _open(loaded, environ, accept_loss, stamp)
    try:
        upstream = start(command, _environment(environ, loaded))
    except UpstreamStartError:
        ledger.close("upstream_exit")
        raise
    # What the relay needs is loaded only now, while the upstream starts as well.
    import anyio

    from mcp_audit.proxy import relay_session
    from mcp_audit.relay.descriptors import restore_blocking

    try:
        options = {"use_uvloop": _has_uvloop()}
        ending = anyio.run(
            relay_session, config, ledger, stamp, upstream, command, 0, 1, parent, backend_options=options
        )
    finally:
        restore_blocking()
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    return end_like(ending.returncode)


def _serve(loaded: Loaded, environ: Mapping[str, str], accept_loss: bool, reload: Callable[[], Loaded] | None) -> int:
    """Run the HTTP proxy until a signal ends it, or a ledger without which it must not go on."""
    import anyio

    from mcp_audit.serving import prepare, serve

    front = prepare(loaded.config)
    try:
        stamp = Stamp()
        ledger = _open(loaded, environ, accept_loss, stamp)
        options = {"use_uvloop": _has_uvloop()}
        reason = anyio.run(serve, loaded.config, front, ledger, stamp, reload, backend_options=options)
    finally:
        front.close()
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    return 1 if reason == "shutdown" else 0


def _bridge(loaded: Loaded, environ: Mapping[str, str], accept_loss: bool, parent: int) -> int:
    """Bridge a stdio client to an HTTP upstream; a signal that ended it is the negative of its number."""
    import anyio

    from mcp_audit.bridging import bridge_session, prepare
    from mcp_audit.relay.descriptors import restore_blocking

    upstream = prepare(loaded.config)
    stamp = Stamp()
    ledger = _open(loaded, environ, accept_loss, stamp)
    options = {"use_uvloop": _has_uvloop()}
    try:
        ending = anyio.run(
            bridge_session, loaded.config, upstream, ledger, stamp, 0, 1, parent, backend_options=options
        )
    finally:
        restore_blocking()
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    return ending.returncode


def _open(loaded: Loaded, environ: Mapping[str, str], accept_loss: bool, stamp: Stamp) -> LedgerSink:
    """Open the ledger, or refuse to, and say which it is."""
    ledger = open_ledger(_ledger_settings(loaded, environ, accept_loss), stamp)
    _log.info("the ledger is %s; its verifier key is %s (pin it elsewhere)", ledger.path, ledger.vkey)
    if ledger.note:
        _log.info("newest checkpoint: %s", _on_one_line(ledger.note))
    return ledger


def _set_up_log(config: Config) -> None:
    """Our own words go to stderr; where the upstream's go there as well, a clean run adds none to a client's log."""
    level = config.proxy.log.level
    if level == "auto":
        level = "info" if sys.stderr.isatty() or config.proxy.transport == "http" else "warn"
    handler = logging.StreamHandler()
    handler.setFormatter(
        _JsonLines() if config.proxy.log.format == "json" else logging.Formatter("mcp-audit: %(message)s")
    )
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
        raise ConfigError(
            "proxy.upstream", f"{text!r} cannot be split into words ({error}); close the quotation"
        ) from None
    if not words:
        raise ConfigError("proxy.upstream", "is empty; name the server after two dashes: mcp-audit -- COMMAND ARG...")
    return words


def _environment(environ: Mapping[str, str], loaded: Loaded) -> dict[str, str]:
    """Return ours unchanged, minus what belongs to the proxy; nothing is added, not even by Python."""
    hidden = loaded.secret_env_names | ({"LC_CTYPE"} if _python_chose_the_locale(environ) else frozenset())
    return {name: value for name, value in environ.items() if name not in hidden}


def _python_chose_the_locale(environ: Mapping[str, str]) -> bool:
    """Say whether LC_CTYPE is there only because Python sets it when it starts in the C locale (PEP 538)."""
    try:
        given = Path("/proc/self/environ").read_bytes()
    except OSError:
        # Here a value that the user set cannot be told from Python's; it means the same to the upstream.
        plain = environ.get("LANG", "C") in ("", "C", "POSIX") and not environ.get("LC_ALL")
        return plain and environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8")
    return not any(variable.startswith(b"LC_CTYPE=") for variable in given.split(b"\0"))


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
        policy_sha256=loaded.policy_sha256 or None,
        allow_network_fs=audit.allow_network_fs,
        accept_loss=accept_loss,
        durability=audit.durability,
        rotation=RotationSettings(
            audit.rotation.max_size_bytes,
            audit.rotation.interval,
            audit.rotation.max_files,
            audit.rotation.max_age_days,
            audit.rotation.compress,
        ),
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
