"""Bytes of a connection to requests: heads within limits, bodies without their framing, and where each one ends.

Sans-I/O: no clock, no socket. Promise: what comes out depends on the bytes, not on how they were cut; a body belongs to
the request whose head announced it, whatever that head says of other protocols; trailers never join the headers. A
parser error is a refusal, never a guess. Source: RFC 9112.
"""

from __future__ import annotations

import logging
from typing import NamedTuple, Protocol

import httptools

from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.request_head import Refusal, examine

__all__ = ["ListenerLimits", "RequestHead", "RequestReader", "RequestSink"]

_log = logging.getLogger("mcp_audit")


class ListenerLimits(NamedTuple):
    """What one client gets; sizes in bytes, times in seconds."""

    head_bytes: int = 65536
    headers: int = 128
    target_bytes: int = 16384
    head_seconds: float = 10.0  # from the first byte of a head to its last
    body_seconds: float = 30.0  # between two pieces of a body
    idle_seconds: float = 75.0  # between two requests


class RequestHead(NamedTuple):
    """The head of a request: `target` as received, `path` and `query` parts of it, header names in lower case."""

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    version: str
    headers: Headers
    keep_alive: bool
    expects_continue: bool


class RequestSink(Protocol):
    """Takes what is read, in order: `begin`, any number of `body`, `end`. May raise `Refusal`, which ends it all."""

    def begin(self, head: RequestHead) -> None:
        """A request has begun."""

    def body(self, piece: bytes) -> None:
        """Its body goes on."""

    def end(self) -> None:
        """It is complete."""


class RequestReader:
    """Reads one connection; once it raised, nothing that follows can be told apart.

    Attributes:
        in_head: some bytes of a head are here, its end is not.
        in_body: a head is here, the end of its body is not.
    """

    __slots__ = (
        "_barren",
        "_forward",
        "_head",
        "_head_size",
        "_headers",
        "_limits",
        "_muted",
        "_parser",
        "_sink",
        "_target",
        "in_body",
        "in_head",
    )

    def __init__(self, sink: RequestSink, limits: ListenerLimits, forward: bool) -> None:
        self._sink = sink
        self._limits = limits
        self._forward = forward
        self._parser = httptools.HttpRequestParser(self)
        self._muted = False  # the parser is reading a head that we wrote
        self._head: RequestHead | None = None
        self._head_size = 0
        self._barren = 0  # bytes in a row that brought neither the end of a head nor any body
        self._target = b""
        self._headers: Headers = []
        self.in_head = False
        self.in_body = False

    def feed(self, piece: bytes) -> None:
        """Read on; the sink hears of what `piece` completes. Small pieces bound what one of them can start.

        Raises:
            Refusal: not a request, or beyond a limit.
        """
        self._barren += len(piece)
        if not self.in_body and piece.strip(b"\r\n"):  # empty lines before a request begin none
            self.in_head = True
        self._parse(piece)
        if self._barren > self._limits.head_bytes:
            # Not only heads: also trailers and chunk extensions, which the parser keeps or skips for ever.
            status = 400 if self.in_body else 431
            raise Refusal(status, f"{self._barren} bytes brought neither the end of a head nor any body")

    def close(self) -> None:
        """Let go of the parser, which knows us as we know it."""
        del self._parser

    def _parse(self, piece: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if isinstance(cause, Refusal):
                raise cause from None
            _log.error("a request could not be read", exc_info=cause or error)
            raise Refusal(500, "the proxy failed at this request; its log says why") from None
        except httptools.HttpParserError as error:
            raise Refusal(400, f"not an HTTP/1.1 request: {error}") from None
        else:
            return
        self._ignore_upgrade()
        if rest:
            self._parse(rest)

    def _ignore_upgrade(self) -> None:
        """Go on as if `Upgrade` had not been there.

        The parser takes what follows such a head for another protocol, the request's own body included, and so would
        let that body be the next request. A new parser is told how the body is framed and reads on.
        """
        assert self._head is not None
        framing = [
            name + b": " + value + b"\r\n"
            for name, value in self._head.headers
            if name in (b"content-length", b"transfer-encoding")
        ]
        close = b"" if self._head.keep_alive else b"Connection: close\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._muted = True
        self._parse(b"POST / HTTP/1.1\r\n" + b"".join(framing) + close + b"\r\n")

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a head."""
        if not self._muted:
            self.in_head = True
            self._head_size = 0
            self._target = b""
            self._headers = []

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        if not self._muted:
            self._target += piece
            if len(self._target) > self._limits.target_bytes:
                raise Refusal(414, f"a request target may have {self._limits.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after a body, its trailers, are dropped."""
        if self._muted or self.in_body:
            return
        self._head_size += len(name) + len(value) + 4
        if self._head_size + len(self._target) > self._limits.head_bytes:
            raise Refusal(431, f"the head of a request may have {self._limits.head_bytes} bytes")
        if len(self._headers) >= self._limits.headers:
            raise Refusal(431, f"a request may have {self._limits.headers} headers")
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Examine the head."""
        if self._muted:
            self._muted = False
            return
        version, method = self._parser.get_http_version(), self._parser.get_method()
        path, query = examine(method, self._target, version, self._headers, self._forward)
        # A connection that ends after each response is all that HTTP/1.0 is owed.
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        expects = version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers
        )
        self._head = RequestHead(method, self._target, path, query, version, self._headers, keep_alive, expects)
        self._barren = 0
        self.in_head, self.in_body = False, True
        self._sink.begin(self._head)

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body, dechunked."""
        self._barren = 0
        self._sink.body(piece)

    def on_message_complete(self) -> None:
        """The request is complete, unless the parser only gave up at an upgrade."""
        if not self._parser.should_upgrade():
            self._barren = 0
            self.in_body = False
            self._sink.end()
