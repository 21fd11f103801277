"""Our stdin and stdout <-> an upstream process: two pumps that never wait for each other.

A pump holds at most one read and one unfinished message; when the peer's pipe is full it stops reading, and that is
all the back-pressure there is. A message is decided, its line is in the ledger, and then the very bytes received go
out. Nothing here looks into a message, and nothing but the two writers touches the peers' pipes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import anyio
from anyio.abc import TaskGroup

from mcp_audit.recorder import Recorder
from mcp_audit.relay.descriptors import Reader, Writer
from mcp_audit.relay.process import Upstream
from mcp_audit.relay.watch import heed_signals, watch_parent
from mcp_audit.session import Session, Step
from mcp_audit.wire.framing import Hasher, LineDecoder, Oversized
from mcp_audit.wire.message import Direction, Payload, parse

__all__ = ["Ending", "Limits", "StdioRelay", "Witness"]

_STRAY_PIPE_SECONDS = 1.0  # of silence on a pipe that a grandchild holds, after client and upstream are gone
_GROUP_POLL_SECONDS = 0.02


class Witness(Protocol):
    """Keeps the size and hash of messages that are too large to be kept whole."""

    def new_hash(self) -> Hasher:
        """Begin to hash a message while it is discarded."""
        ...

    def commit(self, message: Oversized) -> tuple[str, str]:
        """Return the id of the line that will record it, and the commitment to its bytes (empty without a secret)."""
        ...


class Limits(NamedTuple):
    """Sizes in bytes, times in seconds; a `call_timeout` of 0 means never."""

    max_message_bytes: int
    call_timeout: float = 0.0
    shutdown_grace: float = 1.5


class Ending(NamedTuple):
    """How a run ended: the upstream's returncode, `reason` of the ledger's close line, `why` of its orphans."""

    returncode: int
    reason: str
    why: str


class StdioRelay:
    """Relays one session between the client on our stdin and stdout and an upstream process.

    Args:
        witness: of messages that are too large.
        read: bytes of a line and its direction to a `Payload`.
        parent: process id of whoever started us, taken before it could die; 0 or 1: nobody to watch.
    """

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        upstream: Upstream,
        limits: Limits,
        *,
        witness: Witness,
        read: Callable[[bytes, Direction], Payload] = parse,
        stdin: int = 0,
        stdout: int = 1,
        parent: int = 0,
    ) -> None:
        self._session = session
        self._recorder = recorder
        self._upstream = upstream
        self._limits = limits
        self._witness = witness
        self._read = read
        self._from_client, self._to_client = Reader(stdin), Writer(stdout)
        self._from_server, self._to_server = Reader(upstream.stdout), Writer(upstream.stdin)
        self._client_ended, self._server_ended = anyio.Event(), anyio.Event()
        self._parent = parent
        self._stopping = ""  # why we were asked to end, empty while we were not
        self._kill_at = 0.0

    async def run(self) -> Ending:
        """Relay until the upstream has ended and all it said is delivered; then nothing of it is left running."""
        async with anyio.create_task_group() as tasks:
            for job in (self._pump_client, self._pump_server, self._watch_ledger):
                tasks.start_soon(job, tasks)
            tasks.start_soon(heed_signals, lambda number: self._stop(tasks, "signal", number))
            tasks.start_soon(watch_parent, self._parent, lambda number: self._stop(tasks, "signal", number))
            if self._limits.call_timeout:
                tasks.start_soon(self._enforce_deadlines)
            returncode = await self._upstream.wait()
            asked = bool(self._stopping) or self._client_ended.is_set()
            await self._drained()
            await self._bury()
            tasks.cancel_scope.cancel()
        reason = self._stopping or ("eof" if asked else "upstream_exit")
        return Ending(returncode, reason, "exit" if asked else "upstream_exit")

    async def _pump_client(self, tasks: TaskGroup) -> None:
        """Client to upstream. Its end is the end of the upstream's stdin, never of the upstream's answers."""
        try:
            await self._pump(self._from_client, Direction.TO_SERVER)
        except (BrokenPipeError, ConnectionResetError):
            self._from_client.close()  # the upstream reads no more, so the client meets what it would meet directly
        self._to_server.close()
        self._client_ended.set()

    async def _pump_server(self, tasks: TaskGroup) -> None:
        """Upstream to client."""
        try:
            await self._pump(self._from_server, Direction.TO_CLIENT)
        except (BrokenPipeError, ConnectionResetError):
            self._from_server.close()  # the client reads no more: let the upstream meet the same error
            self._stop(tasks, "eof", getattr(signal, "SIGTERM", 15))
        self._to_client.close()
        self._server_ended.set()

    async def _pump(self, reader: Reader, direction: Direction) -> None:
        decoder = LineDecoder(self._limits.max_message_bytes, self._witness.new_hash)
        while data := await reader.read():
            lines = decoder.feed(data)
            if lines:
                await self._pass_on(lines, direction)
        last = decoder.finish()
        if last is not None:
            await self._pass_on([last], direction)

    async def _pass_on(self, lines: Sequence[bytes | Oversized], direction: Direction) -> None:
        """Decide, record, then let it take effect: the lines that arrived together share one write to the ledger."""
        now = time.monotonic()
        steps = [self._decide(line, direction, now) for line in lines]
        await self._take_effect(steps, self._to_server if direction is Direction.TO_SERVER else self._to_client)

    def _decide(self, line: bytes | Oversized, direction: Direction, now: float) -> Step:
        if isinstance(line, bytes):
            return self._session.receive(self._read(line, direction), now)
        id_, commitment = self._witness.commit(line)
        return self._session.oversized(line, direction, id_, commitment, now)

    async def _take_effect(self, steps: list[Step], onward: Writer | None) -> None:
        recorded = await self._recorder.record(steps)
        for index in range(recorded, len(steps)):
            refusal = self._session.refuse(steps[index], self._recorder.cause, time.monotonic())
            self._recorder.owe(steps[index], refusal)
            steps[index] = refusal
        for index in range(recorded):
            if any(exchange.held for exchange in steps[index].opened):  # given up on, and told so
                steps[index] = Step()
        if len(steps) == 1 and not steps[0].errors:
            if steps[0].forward is not None and onward is not None:
                await onward.write(steps[0].forward)
            return
        waiting: list[bytes] = []
        for step in steps:
            if step.forward is not None:
                waiting.append(step.forward)
            if step.errors and waiting and onward is not None:
                await onward.write(b"".join(waiting))
                waiting.clear()
            for to, error in step.errors:
                await self._answer(to, error)
        if waiting and onward is not None:
            await onward.write(b"".join(waiting))

    async def _answer(self, to: Direction, error: bytes) -> None:
        """Send an error of ours, between the peer's lines."""
        if to is Direction.TO_SERVER:
            await self._to_server.write(error + b"\n")
            return
        try:
            await self._to_client.write(error + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self._from_server.close()  # as if the upstream's pump had met it

    async def _enforce_deadlines(self) -> None:
        timeout = self._limits.call_timeout
        while True:
            await anyio.sleep(min(1.0, timeout / 4))
            step = self._session.overdue(time.monotonic(), timeout)
            if step.finished:
                await self._take_effect([step], None)

    # How a run ends.

    async def _watch_ledger(self, tasks: TaskGroup) -> None:
        await self._recorder.shutdown_wanted.wait()
        self._stop(tasks, "shutdown", getattr(signal, "SIGTERM", 15))

    def _stop(self, tasks: TaskGroup, reason: str, number: int) -> None:
        """Pass a signal on to all of the upstream, which may then finish within the grace; again: kill it at once."""
        if self._stopping:
            self._kill_at = time.monotonic()
            self._upstream.signal_group(getattr(signal, "SIGKILL", number))
            return
        self._stopping = reason
        self._kill_at = time.monotonic() + self._limits.shutdown_grace
        self._upstream.signal_group(number)
        self._to_server.close()
        self._client_ended.set()
        tasks.start_soon(self._kill_after_grace)

    async def _kill_after_grace(self) -> None:
        await anyio.sleep(self._limits.shutdown_grace)
        self._upstream.signal_group(getattr(signal, "SIGKILL", 9))

    async def _drained(self) -> None:
        """Wait until all that the upstream wrote is delivered; a grandchild may go on while a client is there."""

        async def give_up_on_strays() -> None:
            await self._client_ended.wait()
            # Quiet, not late: what is still under way is delivered, however long a slow disk or client takes.
            while (left := _STRAY_PIPE_SECONDS - self._from_server.quiet_for()) > 0:  # noqa: ASYNC110
                await anyio.sleep(left)
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_up_on_strays)
            await self._server_ended.wait()
            tasks.cancel_scope.cancel()

    async def _bury(self) -> None:
        """End what the upstream left behind: kindly, or after a signal for good within the grace."""
        if not self._stopping:
            self._upstream.signal_group(getattr(signal, "SIGTERM", 15))
            return
        # No event tells that a process group is empty.
        while time.monotonic() < self._kill_at and self._upstream.signal_group(0):  # noqa: ASYNC110
            await anyio.sleep(_GROUP_POLL_SECONDS)
        self._upstream.signal_group(getattr(signal, "SIGKILL", 9))
