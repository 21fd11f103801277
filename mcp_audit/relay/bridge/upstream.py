"""The HTTP side of the bridge: one URL, asked with whatever headers a message needs, answered piece by piece.

Promise: nothing is followed, repeated, remembered as a cookie, or read from the environment's proxies, and no answer
has a time limit once its head is there. Never: a decision about messages.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio

from mcp_audit import __version__
from mcp_audit.config.model import UpstreamTls
from mcp_audit.errors import BrokenBody, ConfigError
from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.pool import Pool, Response
from mcp_audit.relay.http.target import BadTarget, Target
from mcp_audit.relay.http.tls import client_context
from mcp_audit.wire.encodings import BadEncoding, decoder_for

__all__ = ["Aborted", "Answer", "Cancellable", "HttpUpstream"]

T = TypeVar("T")

_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")  # RFC 9110 section 5.5, and text beyond Latin-1 as UTF-8
_OURS = (
    "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "last-event-id",
    "te", "trailer", "transfer-encoding", "upgrade",
)  # fmt: skip


class Aborted(Exception):
    """We ended it ourselves."""


class Cancellable:
    """Waits that somebody else may end, while what is done with their results is never cut in two."""

    def __init__(self) -> None:
        self._aborted = False
        self._scope: anyio.CancelScope | None = None

    def abort(self) -> None:
        """End the present wait and all later ones."""
        self._aborted = True
        if self._scope is not None:
            self._scope.cancel()

    async def wait(self, wanted: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Wait for the result of a call.

        Raises:
            Aborted: instead of the result.
        """
        if not self._aborted:
            with anyio.CancelScope() as self._scope:
                try:
                    return await wanted(*arguments)
                finally:
                    self._scope = None
        raise Aborted


class Answer:
    """A response whose body is still to come."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.status = response.status
        self._headers = [(name.lower(), value.strip()) for name, value in response.headers]
        encoding = b", ".join(value for name, value in self._headers if name == b"content-encoding")
        self._decoder = decoder_for(encoding)
        self._decoded: Iterator[bytes] = iter(())

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header (its name in lower case), empty without it."""
        return next((value for each, value in self._headers if each == name), b"")

    @property
    def media_type(self) -> str:
        """What the body claims to be, such as `text/event-stream`; empty if it claims nothing."""
        return self.header(b"content-type").partition(b";")[0].strip().lower().decode("latin-1")

    async def read(self) -> bytes:
        """Return the next piece of the body, decoded and of bounded size; empty at its end.

        Raises:
            BrokenBody: it ended before its end, or cannot be decoded.
        """
        decoder = self._decoder
        if decoder is None:
            coding = self.header(b"content-encoding")[:40].decode("latin-1")
            raise BrokenBody(f"its Content-Encoding {coding!r} is not known")
        try:
            while not (text := next(self._decoded, b"")):
                piece = await self._response.read()
                if not piece:
                    if not decoder.whole:
                        raise BrokenBody("its encoding is cut off")
                    return b""
                self._decoded = decoder.feed(piece)
        except BadEncoding as error:
            raise BrokenBody(str(error)) from None
        return text


class HttpUpstream:
    """Where the server is, and the connections to it.

    Args:
        url: of the MCP endpoint.
        added: headers of every request (`proxy.bridge.headers`); what MCP itself needs wins over them.
        header_timeout: seconds from connecting to the head of an answer; 0: for ever.

    Raises:
        ConfigError: the URL, a header or a file of `tls` cannot be used.
    """

    def __init__(self, url: str, added: Mapping[str, str], tls: UpstreamTls, header_timeout: float = 0.0) -> None:
        try:
            self._target = Target.parse(url)
        except BadTarget as error:
            raise ConfigError("proxy.upstream", str(error)) from None
        self.header_timeout = header_timeout
        self._added: Headers = [
            (b"Host", self._target.authority),
            (b"User-Agent", b"mcp-audit/" + __version__.encode()),
        ]
        for name, value in added.items():
            header = _checked(name, value)
            self._added = [each for each in self._added if each[0].lower() != header[0].lower()] + [header]
        context = client_context(tls) if self._target.scheme == "https" else None
        self._pool = Pool(self._target, context, server_name=tls.server_name)

    @property
    def host(self) -> str:
        """The host of the URL."""
        return self._target.host

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        patient: bool = False,
        sent: Callable[[], None] = lambda: None,
        waits: Cancellable | None = None,
    ) -> AsyncIterator[Answer]:
        """Send one request and yield its answer, whose connection is closed at the end unless it was read to its own.

        Args:
            patient: the head may take for ever, since a stream may have nothing to say yet.
            sent: called once the request is on its way.
            waits: may end the wait for the head.

        Raises:
            UpstreamUnavailable: there is no answer.
            TimeoutError: the head did not come in time.
            Aborted: `waits` was aborted.
        """
        names = {name.lower() for name, _ in headers}
        all_headers = [each for each in self._added if each[0].lower() not in names]
        all_headers += headers
        if method == "POST":
            all_headers.append((b"Content-Length", b"%d" % len(body)))
        limit = None if patient else self.header_timeout or None

        async def wanted() -> Response:
            with anyio.fail_after(limit):
                return await self._pool.request(method.encode(), self._target.own_target, all_headers, body, sent=sent)

        response = await (waits or Cancellable()).wait(wanted)
        try:
            yield Answer(response)
        finally:
            response.abort()

    async def close(self) -> None:
        """Give all connections up."""
        await self._pool.close()


def _checked(name: str, value: str) -> tuple[bytes, bytes]:
    """Return a configured header as bytes. Its value may be a secret, so no sentence shows it."""
    if name.lower() in _OURS or name.lower().startswith("mcp-"):
        raise ConfigError("proxy.bridge.headers", f"must not set {name}, which depends on each message")
    value = value.strip(" \t\r\n")
    if not _FIELD_VALUE.fullmatch(value):
        raise ConfigError("proxy.bridge.headers", f"{name} has a control character in its value; put it on one line")
    try:
        return name.encode("ascii"), value.encode("utf-8")
    except UnicodeEncodeError:  # so does Python read bytes of an environment variable that are no text
        problem = f"{name} has a value that is not UTF-8; give it as text"
        raise ConfigError("proxy.bridge.headers", problem) from None
