"""A tap on an SDK transport: both directions of the wire, in wire order, while the session runs undisturbed.

Promise: a message is noted before the SDK sees it, or once it has left, and none is changed, delayed or dropped.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
from mcp.client._transport import ReadStream, TransportStreams, WriteStream
from mcp.shared.message import SessionMessage

__all__ = ["Frame", "Tap"]

Frame = dict[str, Any]
T = TypeVar("T")


class Tap:
    """Wrap a transport for `Client(server=...)`; `sent` and `received` grow as the session goes on."""

    def __init__(self) -> None:
        self.sent: list[Frame] = []
        self.received: list[Frame] = []
        self._changed = anyio.Event()

    @asynccontextmanager
    async def around(self, transport: Any) -> AsyncIterator[TransportStreams]:
        """Enter `transport` and yield its streams, tapped."""
        async with transport as (read, write):
            yield _TappedRead(read, self), _TappedWrite(write, self)

    async def until_sent(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Wait until the client has sent a frame that `wanted` accepts."""
        return await self._until(self.sent, wanted)

    async def until_received(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Wait until the server has sent a frame that `wanted` accepts."""
        return await self._until(self.received, wanted)

    async def _until(self, frames: list[Frame], wanted: Callable[[Frame], bool]) -> Frame:
        while True:
            for frame in frames:
                if wanted(frame):
                    return frame
            await self._changed.wait()

    def note(self, frames: list[Frame], item: SessionMessage | Exception) -> None:
        """Append one frame and wake whoever waits for it."""
        if isinstance(item, SessionMessage):
            text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
            frames.append(json.loads(text))
        else:
            frames.append({"unreadable": f"{type(item).__name__}: {item}"})
        self._changed.set()
        self._changed = anyio.Event()


class _Tapped(Generic[T]):
    """What both directions share: closing is the inner stream's business."""

    def __init__(self, inner: T, tap: Tap) -> None:
        self._inner: Any = inner
        self._tap = tap

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._inner.__aexit__(kind, error, trace)
        return ended


class _TappedRead(_Tapped[ReadStream[SessionMessage | Exception]]):
    async def receive(self) -> SessionMessage | Exception:
        item: SessionMessage | Exception = await self._inner.receive()
        self._tap.note(self._tap.received, item)
        return item

    def __aiter__(self) -> _TappedRead:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None


class _TappedWrite(_Tapped[WriteStream[SessionMessage]]):
    async def send(self, item: SessionMessage, /) -> None:
        await self._inner.send(item)
        # Only now: a sender that is cancelled before has sent nothing.
        self._tap.note(self._tap.sent, item)
