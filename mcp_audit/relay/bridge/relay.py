"""A stdio client <-> an HTTP upstream: its lines go up as POSTs, what the upstream says comes back as lines.

Promise: as in the relay between two pipes, a message is decided, its line is in the ledger, and only then it has an
effect; and the client's end is waited for, not its patience. Never: an answer, a handshake or a session of our own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import anyio

from mcp_audit.recorder import Recorder
from mcp_audit.relay.bridge.client import ClientSide
from mcp_audit.relay.bridge.streams import Streams
from mcp_audit.relay.bridge.upstream import HttpUpstream
from mcp_audit.relay.descriptors import Reader, Writer
from mcp_audit.relay.stdio import Ending, Limits, Witness
from mcp_audit.relay.watch import heed_signals, watch_parent
from mcp_audit.session import Session, Step
from mcp_audit.wire.framing import Line, LineDecoder
from mcp_audit.wire.message import Direction, Payload, parse

__all__ = ["BridgeRelay"]

_log = logging.getLogger("mcp_audit")


class BridgeRelay:
    """Relays one session between the client on our stdin and stdout and an HTTP upstream.

    Args:
        witness: of messages that are too large.
        parent: process id of whoever started us, taken before it could die; 0 or 1: nobody to watch.
    """

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        upstream: HttpUpstream,
        limits: Limits,
        *,
        witness: Witness,
        stdin: int = 0,
        stdout: int = 1,
        parent: int = 0,
    ) -> None:
        self._session = session
        self._recorder = recorder
        self._upstream = upstream
        self._limits = limits
        self._witness = witness
        self._from_client, self._to_client = Reader(stdin), Writer(stdout)
        self._parent = parent
        self._streams = Streams(upstream, session, limits.max_message_bytes, witness.new_hash, self._lost)
        self._client = ClientSide(
            session,
            recorder,
            self._to_client,
            witness,
            to_server=self._streams.send_error,
            gone=lambda: self._stop("eof"),
            learn=self._streams.tools.learn,
        )
        self._over = anyio.Event()
        self._ending = Ending(0, "eof", "exit")
        self._farewell = anyio.CancelScope()

    async def run(self) -> Ending:
        """Relay until the client has ended and all it asked is answered, or somebody ends us."""
        async with anyio.create_task_group() as watchers:
            watchers.start_soon(heed_signals, self._heed)
            watchers.start_soon(watch_parent, self._parent, self._heed)
            watchers.start_soon(self._watch_ledger)
            async with anyio.create_task_group() as tasks:
                self._streams.start(tasks, self._client)
                tasks.start_soon(self._pump)
                if self._limits.call_timeout:
                    tasks.start_soon(self._enforce_deadlines)
                await self._over.wait()
                tasks.cancel_scope.cancel()
            self._farewell.deadline = anyio.current_time() + self._limits.shutdown_grace
            with self._farewell:
                await self._streams.say_goodbye()
            await self._upstream.close()
            watchers.cancel_scope.cancel()
        self._from_client.close()
        self._to_client.close()
        return self._ending

    async def _pump(self) -> None:
        """Client to upstream. Its end is not the end of the upstream's answers."""
        decoder = LineDecoder(self._limits.max_message_bytes, self._witness.new_hash)
        while data := await self._from_client.read():
            lines = decoder.feed(data)
            if lines:
                await self._pass_on(lines)
        last = decoder.finish()
        if last is not None:
            await self._pass_on([last])
        await self._streams.drained()
        self._stop("eof")

    async def _pass_on(self, lines: Sequence[Line]) -> None:
        """Decide and record what arrived together, then let it take effect in order."""
        now = time.monotonic()
        payloads: list[Payload | None] = []
        steps: list[Step] = []
        for line in lines:
            payload = parse(line, Direction.TO_SERVER) if isinstance(line, bytes) else None
            payloads.append(payload)
            steps.append(self._decide(payload, line, now))
        for payload, step in zip(payloads, await self._client.admit(steps), strict=True):
            await self._client.answer(step)
            if payload is not None and step.forward is not None:
                await self._streams.send(payload, step)

    def _decide(self, payload: Payload | None, line: Line, now: float) -> Step:
        if payload is not None:
            return self._session.receive(payload, now)
        assert not isinstance(line, bytes)
        id_, commitment = self._witness.commit(line)
        return self._session.oversized(line, Direction.TO_SERVER, id_, commitment, now)

    async def _enforce_deadlines(self) -> None:
        timeout = self._limits.call_timeout
        while True:
            await anyio.sleep(min(1.0, timeout / 4))
            step = self._session.overdue(time.monotonic(), timeout)
            await self._client.settle(step)
            self._streams.give_up(step.finished)

    # How a run ends.

    async def _watch_ledger(self) -> None:
        await self._recorder.shutdown_wanted.wait()
        self._stop("shutdown", 1)

    def _heed(self, number: int) -> None:
        self._stop("signal", -number)

    def _lost(self, why: str) -> None:
        if not self._over.is_set():
            _log.error("%s", why)
        self._stop("upstream_exit", 1, "upstream_exit")

    def _stop(self, reason: str, returncode: int = 0, why: str = "exit") -> None:
        """End the run; asked again while we say goodbye, end it at once."""
        if self._over.is_set():
            if reason == "signal":
                self._farewell.cancel()
            return
        self._ending = Ending(returncode, reason, why)
        self._over.set()
