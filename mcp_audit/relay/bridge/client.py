"""The client's side of the bridge: what it is told, and what must be in the ledger before.

Promise: a message becomes one line, and only the line breaks between its tokens change; what is recorded is the line
that goes out, so an answer that no reader takes for JSON is not mended in secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mcp_audit.recorder import Recorder
from mcp_audit.relay.descriptors import Writer
from mcp_audit.relay.stdio import Witness
from mcp_audit.session import Session, Step
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.framing import Line
from mcp_audit.wire.message import Direction, Payload, parse

__all__ = ["ClientSide"]

_BREAKS_AS_SPACES = bytes.maketrans(b"\r\n", b"  ")


class ClientSide:
    """Takes what the upstream says to the client, and what both are told by us.

    Args:
        writer: to the client.
        witness: of messages that are too large.
        to_server: sends an error of ours to the upstream, in place of the client's answer.
        gone: is called when the client reads no more.
        learn: is shown every exchange that ended, once its line is in the ledger.
    """

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        writer: Writer,
        witness: Witness,
        *,
        to_server: Callable[[bytes], None],
        gone: Callable[[], None],
        learn: Callable[[Exchange], None],
        read: Callable[[bytes, Direction], Payload] = parse,
    ) -> None:
        self._session = session
        self._recorder = recorder
        self._writer = writer
        self._witness = witness
        self._to_server = to_server
        self._gone = gone
        self._learn = learn
        self._read = read
        self._deliveries = 0

    @property
    def busy(self) -> bool:
        """Whether something is on its way to the client."""
        return self._deliveries > 0

    async def deliver(self, messages: Sequence[Line]) -> None:
        """Decide and record what came together, then write each message as a line."""
        now = time.monotonic()
        self._deliveries += 1
        try:
            for step in await self.admit([self._hear(message, now) for message in messages]):
                if step.forward is not None:
                    await self._write(step.forward)
                await self.answer(step)
        finally:
            self._deliveries -= 1

    async def settle(self, step: Step) -> None:
        """Record what we decided ourselves, then tell those it concerns."""
        self._deliveries += 1
        try:
            if step.finished:
                for admitted in await self.admit([step]):
                    await self.answer(admitted)
        finally:
            self._deliveries -= 1

    async def admit(self, steps: Sequence[Step]) -> list[Step]:
        """Return what may take effect of each step: itself once it is on record, a refusal, or nothing."""
        admitted = list(steps)
        recorded = await self._recorder.record(admitted)
        for index, step in enumerate(steps):
            if index >= recorded:
                admitted[index] = self._session.refuse(step, self._recorder.cause, time.monotonic())
                self._recorder.owe(step, admitted[index])
            elif any(exchange.held for exchange in step.opened):  # given up on, and told so
                admitted[index] = Step()
            else:
                for exchange in step.finished:
                    self._learn(exchange)
        return admitted

    async def answer(self, step: Step) -> None:
        """Send the errors of a step, each the way it has to go."""
        for to, error in step.errors:
            if to is Direction.TO_SERVER:
                self._to_server(error)
            else:
                await self._write(error + b"\n")

    def _hear(self, message: Line, now: float) -> Step:
        if isinstance(message, bytes):
            line = message.strip(b"\r\n").translate(_BREAKS_AS_SPACES) + b"\n"
            return self._session.receive(self._read(line, Direction.TO_CLIENT), now)
        id_, commitment = self._witness.commit(message)
        return self._session.oversized(message, Direction.TO_CLIENT, id_, commitment, now)

    async def _write(self, line: bytes) -> None:
        try:
            await self._writer.write(line)
        except (BrokenPipeError, ConnectionResetError):
            self._gone()
