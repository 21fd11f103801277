"""One HTTP proxy, wired by hand: configuration and ledger in; listeners, relay, pool and recorder out.

It decides nothing about messages. Sockets are bound before the ledger says that a run began; whatever happens then, the
ledger is closed last.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple

import anyio
from anyio import to_thread

from mcp_audit.config import Config, Loaded
from mcp_audit.errors import ConfigError, McpAuditError
from mcp_audit.ledger.secret import session_key
from mcp_audit.middleware import Gate
from mcp_audit.operations import Operations, Reachability
from mcp_audit.recorder import Recorder
from mcp_audit.relay.http.access import Access
from mcp_audit.relay.http.asgi import AsgiApp
from mcp_audit.relay.http.conversations import Conversations
from mcp_audit.relay.http.forward import ForwardProxy
from mcp_audit.relay.http.handler import HttpRelay
from mcp_audit.relay.http.headers import HeaderRules
from mcp_audit.relay.http.listener import Listener, bind
from mcp_audit.relay.http.metadata import OAuthMetadata
from mcp_audit.relay.http.pool import Pool
from mcp_audit.relay.http.retry import RetryPolicy
from mcp_audit.relay.http.target import BadTarget, Target
from mcp_audit.relay.http.tls import client_context
from mcp_audit.relay.http.visit import HttpLimits, Services
from mcp_audit.session import Session
from mcp_audit.sinks import LedgerSink
from mcp_audit.sinks.stamp import Stamp
from mcp_audit.wire.rewrite import Public
from mcp_audit.wire.rounds import Rounds
from mcp_audit.wiring import (
    LedgerWitness,
    allow_many_connections,
    caller_of,
    gates_of,
    keeping_up,
    recorder_of,
    with_policy_of,
)

__all__ = ["Front", "prepare", "serve"]

_log = logging.getLogger("mcp_audit")


class Front(NamedTuple):
    """What can fail before there is anything to record: the upstream's address, its TLS, our own addresses."""

    target: Target
    tls: ssl.SSLContext | None
    sockets: Sequence[socket.socket]
    operations: Sequence[socket.socket]

    def close(self) -> None:
        """Give the addresses back."""
        for one in (*self.sockets, *self.operations):
            one.close()


def prepare(config: Config) -> Front:
    """Read the upstream's URL and TLS files, and bind the listeners.

    Raises:
        ConfigError: the URL or a file is unusable.
        ListenError: an address cannot be listened on.
    """
    proxy, metrics = config.proxy, config.metrics
    allow_many_connections()
    try:
        target = Target.parse(proxy.upstream)
    except BadTarget as error:
        raise ConfigError("proxy.upstream", str(error)) from None
    tls = client_context(proxy.tls) if target.scheme == "https" else None
    sockets = bind(proxy.bind_address, proxy.port)
    try:
        return Front(target, tls, sockets, bind(metrics.bind_address, metrics.port, setting="metrics"))
    except BaseException:
        for one in sockets:
            one.close()
        raise


async def serve(
    config: Config, front: Front, ledger: LedgerSink, stamp: Stamp, reload: Callable[[], Loaded] | None = None
) -> str:
    """Serve until a signal ends it, or a ledger without which nothing may go on; close the ledger last.

    Args:
        reload: reads the configuration again; its policy counts from then on.

    Returns:
        Why it ended: `signal` or `shutdown`.
    """
    recorder = recorder_of(config, ledger, stamp, "http")
    pool = Pool(front.target, front.tls, server_name=config.proxy.tls.server_name)
    gates = gates_of(config)
    relay = _relay(config, front.target, pool, recorder, ledger, stamp, gates)
    forward = ForwardProxy(relay, front.target, config.proxy.forward_hosts) if _forwards(config) else None
    reason = "shutdown"
    with _signals("SIGTERM", "SIGINT") as ends, _signals("SIGHUP") as hangups:
        try:
            async with keeping_up(recorder, config) as background:
                if reload is not None:
                    background.start_soon(_keep_policy, gates, reload, hangups)
                reason = await _listen(config, front, forward or relay, recorder, ledger, ends)
        finally:
            with anyio.CancelScope(shield=True):
                await pool.close()
                if forward is not None:
                    await forward.close()
            recorder.finish(relay.close(time.monotonic()), "exit", reason)
    return reason


@contextlib.contextmanager
def _signals(*names: str) -> Iterator[AsyncIterator[object]]:
    """Take signals up to the very end of a run: a second one must not kill what is closing the ledger."""
    # Windows has no signal handlers in the event loop; there Ctrl-C ends us as an exception.
    wanted = [getattr(signal, name) for name in names] if sys.platform != "win32" else []
    if not wanted:
        yield _never()
        return
    with anyio.open_signal_receiver(*wanted) as signals:
        yield signals


async def _never() -> AsyncIterator[object]:
    await anyio.sleep_forever()
    yield None


async def _keep_policy(gates: list[Gate], reload: Callable[[], Loaded], hangups: AsyncIterator[object]) -> None:
    """Read the policy again at each SIGHUP (Windows has none); one that cannot be read leaves the old one in force."""
    async for _ in hangups:
        try:
            loaded = await to_thread.run_sync(reload)
        except McpAuditError as error:
            _log.warning("the policy in force is kept: %s", error)
        else:
            gates[:] = with_policy_of(loaded.config, gates)
            _log.info("the policy was read again: %d rules", len(loaded.config.policy.rules))


async def _listen(
    config: Config,
    front: Front,
    app: AsgiApp,
    recorder: Recorder,
    ledger: LedgerSink,
    ends: AsyncIterator[object],
) -> str:
    """Accept requests until it is time to end, let those under way finish, and return why."""
    draining = False
    metrics = config.metrics
    operations = Operations(
        Access(metrics.bind_address, allowed_hosts=metrics.allowed_hosts, setting="metrics"),
        upstream_problem=Reachability(front.target.host, front.target.port),
        ledger_problem=lambda: recorder.cause,
        newest_note=lambda: ledger.note,
        draining=lambda: draining,
    )
    async with (
        Listener(operations, front.operations) as side,
        Listener(app, front.sockets, forward=_forwards(config)) as main,
    ):
        for scheme, address in [("listening on", main), ("health, readiness and checkpoint on", side)]:
            _log.info("%s http://%s", scheme, _shown(*address.addresses[0]))
        reason = await _until_the_end(recorder, ends)
        draining = True
        await _drain(main, config.proxy.drain_timeout_ms / 1000, ends)
    return reason


async def _drain(listener: Listener, seconds: float, ends: AsyncIterator[object]) -> None:
    """Let requests finish; another signal means: at once."""

    async def hurry() -> None:
        async for _ in ends:
            _log.info("a second signal: the requests and streams that were left are closed")
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hurry)
        if not await listener.drain(seconds):
            _log.info("proxy.drain_timeout_ms is over: the streams that were left are closed")
        tasks.cancel_scope.cancel()


async def _until_the_end(recorder: Recorder, ends: AsyncIterator[object]) -> str:
    """Wait for a signal, or for a ledger without which nothing may go on."""
    reason = "signal"
    async with anyio.create_task_group() as tasks:

        async def heed_the_ledger() -> None:
            nonlocal reason
            await recorder.shutdown_wanted.wait()
            reason = "shutdown"
            tasks.cancel_scope.cancel()

        tasks.start_soon(heed_the_ledger)
        await anext(ends)
        tasks.cancel_scope.cancel()
    return reason


def _relay(
    config: Config,
    target: Target,
    pool: Pool,
    recorder: Recorder,
    ledger: LedgerSink,
    stamp: Stamp,
    gates: Sequence[Gate],
) -> HttpRelay:
    proxy = config.proxy
    rounds = Rounds()  # a request of several rounds may span sessions, as a limit does
    key = session_key(ledger.secrets.secret if ledger.secrets else None, ledger.origin)

    def pseudonym(session_id: bytes) -> str:
        return base64.urlsafe_b64encode(hmac.digest(key, session_id, "sha256")[:16]).rstrip(b"=").decode()

    def new_session(client: str) -> Session:
        return Session(gates, stamp.id, caller_of(config, target.authority.decode(), client), rounds)

    public = Public.parse(proxy.public_url)
    tokens = [(token.name, token.sha256) for token in proxy.auth.tokens]
    services = Services(
        pool=pool,
        recorder=recorder,
        conversations=Conversations(new_session, pseudonym),
        access=Access(
            proxy.bind_address,
            allowed_hosts=proxy.allowed_hosts,
            allowed_origins=proxy.allowed_origins,
            public_url=proxy.public_url,
            tokens=tokens,
            forward=_forwards(config),
        ),
        target=target._replace(path=b"") if _forwards(config) else target,
        rules=HeaderRules(target.authority, proxy.forward_headers, tokens=bool(tokens), public_url=proxy.public_url),
        limits=HttpLimits(proxy.max_message_bytes, proxy.upstream_timeout_ms / 1000, proxy.call_timeout_ms / 1000),
        witness=LedgerWitness(ledger, stamp),
        public=public,
        metadata=OAuthMetadata(target.origin, public) if proxy.oauth.rewrite_metadata else None,
        retry=RetryPolicy(
            proxy.retry.max_retries, proxy.retry.initial_interval_ms / 1000, proxy.retry.max_interval_ms / 1000
        ),
    )
    return HttpRelay(services)


def _forwards(config: Config) -> bool:
    return config.proxy.http_mode == "forward"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
