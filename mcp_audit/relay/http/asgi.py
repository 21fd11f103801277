"""One request and its response between a client's connection and an ASGI application.

Promise: the head goes out as soon as the application gives it and each piece of the body after it, with no header added
but what frames it; a response that the application leaves unfinished never looks finished. It never reads ahead for the
application, asks a client to go on (100) only when the body is wanted, and tells of a client's leaving at once.

Source: ASGI HTTP specification 2.3, with three keys of our own: `raw_target` in the scope is the request target as it
was received, `reason` in `http.response.start` is the reason phrase to send, and `ours` in `http.disconnect` says that
it was not the client who ended it.
"""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

__all__ = ["AsgiApp", "Carrier", "Message", "Receive", "RequestCycle", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("mcp_audit")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES = {status.value: status.phrase.encode() for status in http.HTTPStatus}
_BAD_NAME = re.compile(rb"[\x00-\x20\x7f:]|^$")
_SPLITS = re.compile(rb"[\x00\r\n]")  # what would let a header or a reason become another header
_FAILED = b"mcp-audit: the proxy failed at this request; its log says why\n"


class Carrier(Protocol):
    """The connection, as a request sees it."""

    @property
    def paused(self) -> bool:
        """The client reads slower than we write."""

    async def drained(self) -> None:
        """Wait until it has caught up, or is gone."""

    def write(self, *parts: bytes) -> None:
        """Send now."""

    def want_body(self) -> None:
        """The application waits for the request's body."""

    def finished(self, cycle: RequestCycle) -> None:
        """The response is complete."""

    def break_off(self, cycle: RequestCycle) -> None:
        """End the connection so that the client knows the response is not complete."""


class RequestCycle:
    """The state of one request; the connection feeds it, the application drains it.

    Args:
        keep_alive: what the client asked for; also whether the connection survives the response.
        expects_continue: the client waits for a 100 before it sends the body.
    """

    __slots__ = (
        "_body",
        "_carrier",
        "_chunked",
        "_delivered",
        "_event",
        "_ours",
        "_remaining",
        "_scope",
        "_without_body",
        "body_complete",
        "disconnected",
        "expects_continue",
        "keep_alive",
        "response_complete",
        "response_started",
    )

    def __init__(self, carrier: Carrier, scope: Scope, keep_alive: bool, expects_continue: bool) -> None:
        self._carrier = carrier
        self._scope = scope
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self._event = asyncio.Event()
        self._body = bytearray()
        self.body_complete = False
        self._delivered = False  # to its end
        self.disconnected = False
        self._ours = False  # it was we who ended it
        self.response_started = False
        self.response_complete = False
        self._chunked = False
        self._without_body = False
        self._remaining: int | None = None  # bytes of the body still owed, if its length was announced

    @property
    def unframed(self) -> bool:
        """The response's body ends where the connection ends, so a plain close would look like its end."""
        return self.response_started and not self._chunked and self._remaining is None and not self._without_body

    # What the connection tells.

    @property
    def unread(self) -> int:
        """Bytes of the body that the application has not taken yet."""
        return len(self._body)

    def feed(self, piece: bytes) -> None:
        """Take a piece of the request's body."""
        self.expects_continue = False  # it has not waited
        self._body += piece
        self._event.set()

    def end_body(self) -> None:
        """The request is complete."""
        self.body_complete = True
        self._event.set()

    def disconnect(self, ours: bool = False) -> None:
        """The client is gone, or we let go of it: from now on nothing is sent, and the application is told."""
        self.disconnected = True
        self._ours = ours
        self._body.clear()
        self._event.set()

    # What the application does.

    async def run(self, app: AsgiApp) -> None:
        """Let the application answer; whatever it does, the client is not left waiting."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception as error:
            _log.error("a request failed inside the proxy", exc_info=error)
        finally:
            # Also when cancelled, which is how a drain ends those that do not finish.
            if not (self.response_complete or self.disconnected):
                self._leave_unfinished()

    def _leave_unfinished(self) -> None:
        if self.response_started:
            self._carrier.break_off(self)
            return
        self.keep_alive = False
        length = b"%d" % len(_FAILED)
        self._start(500, None, [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)])
        self._send_body(_FAILED, more=False)

    async def receive(self) -> Message:
        """Return the next piece of the body, or that the client is gone; after the body that is all there is."""
        while True:
            if self.disconnected or self.response_complete:
                return {"type": "http.disconnect"} | ({"ours": True} if self._ours else {})
            if self._body or (self.body_complete and not self._delivered):
                piece = bytes(self._body)
                self._body.clear()
                self._delivered = self.body_complete
                return {"type": "http.request", "body": piece, "more_body": not self.body_complete}
            if not self.body_complete:
                if self.expects_continue and not self.response_started:
                    self.expects_continue = False
                    self._carrier.write(_CONTINUE)
                self._carrier.want_body()
            self._event.clear()
            await self._event.wait()

    async def send(self, message: Message) -> None:
        """Send a part of the response; waits while the client is slower than the application.

        Raises:
            RuntimeError: not a sequence of messages that makes a response.
        """
        if self._carrier.paused and not self.disconnected:
            await self._carrier.drained()
        if self.disconnected:
            return
        kind = message["type"]
        if kind == "http.response.start" and not self.response_started:
            self._start(message["status"], message.get("reason"), message.get("headers", ()))
        elif kind == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"{kind!r} is out of place in this response")

    def _start(self, status: int, reason: bytes | None, headers: Any) -> None:
        """Write the head. Framing is ours: `Connection` and `Transfer-Encoding` of the application are not used."""
        phrase = _PHRASES.get(status, b"") if reason is None else reason
        if not 200 <= status <= 999 or _SPLITS.search(phrase):
            raise RuntimeError(f"{status} {phrase!r} is not the status of a response")
        parts = [b"HTTP/1.1 %d " % status, phrase, b"\r\n"]
        for name, value in headers:
            if _BAD_NAME.search(name) or _SPLITS.search(value):
                raise RuntimeError(f"{name!r} is not a header that can be sent")
            lower = name.lower()
            if lower == b"content-length" and self._remaining is None:
                self._remaining = int(value)
            elif lower in (b"connection", b"transfer-encoding"):
                self.keep_alive = self.keep_alive and not (lower == b"connection" and b"close" in value.lower())
                continue
            parts += (name, b": ", value, b"\r\n")
        if not self.body_complete:
            self.keep_alive = False  # whoever answers early does not wait for the rest of the question
        self._without_body = self._scope["method"] == "HEAD" or status in (204, 304)
        if self._remaining is None and not self._without_body and self._scope["http_version"] == "1.1":
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        self.response_started = True
        self._carrier.write(b"".join(parts))

    def _send_body(self, body: bytes, more: bool) -> None:
        if self._without_body:
            self._remaining = 0
        elif self._chunked:
            parts = (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
            self._carrier.write(*parts, *(() if more else (b"0\r\n\r\n",)))
        else:
            if self._remaining is not None:
                if len(body) > self._remaining:
                    raise RuntimeError("the body is longer than its Content-Length")
                self._remaining -= len(body)
            self._carrier.write(body)
        if more:
            return
        if self._remaining:
            raise RuntimeError("the body is shorter than its Content-Length")
        self.response_complete = True
        self._event.set()
        self._carrier.finished(self)
