"""The two ends of an HTTP conversation on raw sockets: a scripted upstream and a client that reads byte by byte.

Promise: what is recorded is what was on the wire, and the test alone decides when each piece of an answer goes out.
Nothing here is an HTTP library, so nothing is repaired, added or buffered on the way; every wait has a deadline. Long
because both ends read the same messages with the same few functions.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

__all__ = [
    "DEADLINE",
    "END_OF_CHUNKS",
    "Address",
    "Asked",
    "Client",
    "Head",
    "Headers",
    "Incomplete",
    "Request",
    "Response",
    "Stream",
    "Upstream",
    "chunk",
    "free_port",
]

DEADLINE = 5.0
Address = tuple[str, int]
Headers = list[tuple[bytes, bytes]]
END_OF_CHUNKS = b"0\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_NO_BODY = (204, 304)


class Incomplete(Exception):
    """The peer ended in the middle of what it had announced."""


class Head(NamedTuple):
    """A start line and headers as received; names lower case, values as they came."""

    start: bytes
    headers: Headers
    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        start, *lines = raw[:-4].split(b"\r\n")
        pairs = [line.split(b":", 1) for line in lines]
        return cls(start, [(name.lower(), value.strip(b" \t")) for name, value in pairs], raw)

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a header, in order."""
        return [value for each, value in self.headers if each == name.lower()]

    def get(self, name: bytes) -> bytes | None:
        """Return the one value of a header; None without it."""
        values = self.all(name)
        assert len(values) < 2, values
        return values[0] if values else None


class Stream:
    """A socket read by amounts and delimiters, each within the deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    @property
    def is_fresh(self) -> bool:
        """Whether all that was received has been read."""
        return not self._buffer

    def fill(self) -> bool:
        """Wait for more; False at an orderly end, `Incomplete` at a reset."""
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError as error:
            raise Incomplete(f"reset after {bytes(self._buffer[-80:])!r}") from error
        self._buffer += data
        return bool(data)

    def need(self) -> None:
        """Wait for more, or raise `Incomplete`."""
        if not self.fill():
            raise Incomplete(f"closed after {bytes(self._buffer[-80:])!r}")

    def until(self, delimiter: bytes) -> bytes:
        """Read up to and with the delimiter."""
        while (end := self._buffer.find(delimiter)) < 0:
            self.need()
        return self._take(end + len(delimiter))

    def exactly(self, size: int) -> bytes:
        """Read so many bytes."""
        while len(self._buffer) < size:
            self.need()
        return self._take(size)

    def some(self, most: int) -> bytes:
        """Read what is there, waiting for the first byte only."""
        if not self._buffer:
            self.need()
        return self._take(min(most, len(self._buffer)))

    def rest(self) -> bytes:
        """Read all up to the end of the connection."""
        while self.fill():
            pass
        return self._take(len(self._buffer))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


class Body:
    """A message body, piece by piece as it comes, freed from its framing. `None` as length: up to the end."""

    def __init__(self, stream: Stream, head: Head, length: int | None) -> None:
        self._stream = stream
        self.chunked = head.all(b"transfer-encoding") == [b"chunked"]
        self._left = 0 if self.chunked else length
        self.over = not self.chunked and length == 0
        self.raw = bytearray()  # the chunks with their framing

    def piece(self) -> bytes:
        """Return the next bytes; empty at the orderly end, and `Incomplete` at any other."""
        if self.over:
            return b""
        if self.chunked:
            return self._of_chunk()
        if self._left is None:
            if self._stream.is_fresh and not self._stream.fill():
                self.over = True
                return b""
            return self._stream.some(1 << 18)
        data = self._stream.some(self._left)
        self._left -= len(data)
        self.over = not self._left
        return data

    def _of_chunk(self) -> bytes:
        if not self._left:
            line = self._stream.until(b"\r\n")
            self._left = int(line.split(b";")[0], 16)
            self.raw += line
            if not self._left:
                while line != b"\r\n":
                    line = self._stream.until(b"\r\n")
                    self.raw += line
                self.over = True
                return b""
        data = self._stream.some(self._left)
        self._left -= len(data)
        self.raw += data
        if not self._left:
            self.raw += self._stream.exactly(2)
        return data

    def read(self) -> bytes:
        """Return what is left."""
        parts = []
        while data := self.piece():
            parts.append(data)
        return b"".join(parts)


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _framed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers)


@dataclass(frozen=True)
class Request:
    """A request to send; `Host` and `Content-Length` are added where the headers lack them.

    Attributes:
        body: bytes; a tuple of them goes out as chunks; None sends no body and no length.
    """

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | tuple[bytes, ...] | None = None

    def encode(self, host: bytes) -> bytes:
        """Return the bytes on the wire."""
        headers = list(self.headers)
        if not any(name.lower() == b"host" for name, _ in headers):
            headers.insert(0, (b"Host", host))
        body = self.body
        if isinstance(body, tuple):
            headers.append((b"Transfer-Encoding", b"chunked"))
            body = b"".join(map(chunk, body)) + END_OF_CHUNKS
        elif body is not None and not _framed(headers):
            headers.append((b"Content-Length", b"%d" % len(body)))
        lines = [b"%b %b HTTP/1.1" % (self.method, self.target), *(b"%b: %b" % pair for pair in headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")

    @property
    def content(self) -> bytes:
        """The body without framing."""
        return b"".join(self.body) if isinstance(self.body, tuple) else self.body or b""


class Response:
    """What a client reads: the head at once, the body as the test asks for it."""

    def __init__(self, head: Head, stream: Stream, method: bytes) -> None:
        self.head = head
        self.version, status, _, *_ = (*head.start.split(b" ", 2), b"")
        self.status = int(status)
        length = head.get(b"content-length")
        bodyless = method == b"HEAD" or self.status in _NO_BODY
        self._body = Body(stream, head, 0 if bodyless else None if length is None else int(length))
        if bodyless:
            self._body.over = True

    def piece(self) -> bytes:
        """Return the next bytes of the body, as soon as there are any; empty at its orderly end."""
        return self._body.piece()

    def until(self, end: bytes) -> bytes:
        """Return the next bytes up to the given ones, beyond which nothing may have been sent yet."""
        got = bytearray()
        while not got.endswith(end):
            piece = self.piece()
            assert piece, f"the body ended after {bytes(got[-200:])!r}"
            got += piece
        return bytes(got)

    def next(self, data: bytes) -> None:
        """Check that these are the very next bytes, and that no more than these came."""
        assert self.at_least(len(data)) == data

    def at_least(self, size: int) -> bytes:
        """Return the next bytes, so many or more."""
        got = bytearray()
        while len(got) < size:
            piece = self.piece()
            assert piece, f"the body ended after {bytes(got[-200:])!r}"
            got += piece
        return bytes(got)

    def read(self) -> bytes:
        """Return the rest of the body; raises `Incomplete` unless it ends in order."""
        return self._body.read()

    def torn(self) -> bytes:
        """Return the rest of a body that must end out of order."""
        got = bytearray()
        try:
            while piece := self.piece():
                got += piece
        except Incomplete:
            return bytes(got)
        raise AssertionError(f"a broken answer ended as if it were whole: {bytes(got[-200:])!r}")


class Client:
    """One connection of a client."""

    def __init__(self, address: Address) -> None:
        self.sock = socket.create_connection(address, DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.host = b"%b:%d" % (address[0].encode(), address[1])
        self.address: Address = self.sock.getsockname()[:2]
        self.stream = Stream(self.sock)
        self._method = b"POST"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send exact bytes."""
        self.sock.sendall(data)

    def ask(self, request: Request) -> Head:
        """Send a request; returns its head as sent."""
        raw = request.encode(self.host)
        self._method = request.method
        self.send(raw)
        return Head.parse(raw[: raw.index(b"\r\n\r\n") + 4])

    def response(self) -> Response:
        """Wait for the head of the final answer; interim ones are passed over."""
        while True:
            response = Response(Head.parse(self.stream.until(b"\r\n\r\n")), self.stream, self._method)
            if response.status >= 200:
                return response

    def ended(self) -> bytes:
        """Wait until the other side closes; returns what else it sent. A reset is an end, too."""
        try:
            return self.stream.rest()
        except Incomplete:
            return b""

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def close(self) -> None:
        """Close; harmless when repeated."""
        self.sock.close()


def _head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status, *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


@dataclass(eq=False)
class Asked:
    """A request as the upstream got it, and the means to answer it.

    Attributes:
        raw: its exact bytes.
        gone: set when the other side closes or resets the connection.
        over: the answer went out completely, so that the connection may idle.
    """

    head: Head
    body: bytes
    raw: bytes
    sock: socket.socket
    gone: threading.Event = field(default_factory=threading.Event)
    over: bool = False

    @property
    def method(self) -> bytes:
        return self.head.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.head.start.split(b" ")[1]

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Send exact bytes; `last`: they complete the answer."""
        self.over = self.over or last
        self.sock.sendall(data)

    def answer(self, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> None:
        """Send a whole answer; the length is added where the headers have none."""
        headers = list(headers)
        if not _framed(headers) and status not in _NO_BODY:
            headers.append((b"Content-Length", b"%d" % len(body)))
        self.send(_head(status, headers) + body, last=True)

    def begin(self, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Send a head."""
        self.send(_head(status, headers))

    def stream(self, *headers: tuple[bytes, bytes], kind: bytes = b"text/event-stream") -> None:
        """Send the head of a chunked answer."""
        self.begin(200, [(b"Content-Type", kind), *headers, (b"Transfer-Encoding", b"chunked")])

    def chunk(self, data: bytes) -> None:
        """Send one chunk."""
        self.send(chunk(data))

    def end(self) -> None:
        """Send the last chunk."""
        self.send(END_OF_CHUNKS, last=True)

    def close(self) -> None:
        """Close in an orderly way, at whatever point."""
        self.over = True
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Close with RST."""
        self.over = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # The reader thread sits in `recv`, which keeps the connection; told that nothing comes, it closes.
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)
        assert self.gone.wait(DEADLINE)


class Upstream:
    """A server that does nothing by itself: it reads requests and hands them to the test, which answers."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._asked: queue.Queue[Asked] = queue.Queue()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, Asked | None] = {}
        self._changed = threading.Condition(self._lock)
        self.torn: queue.Queue[bytes] = queue.Queue()
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> Address:
        return ("127.0.0.1", self.port)

    @property
    def authority(self) -> bytes:
        return b"127.0.0.1:%d" % self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections exist."""
        with self._lock:
            return len(self._open)

    def next(self, deadline: float = DEADLINE) -> Asked:
        """Wait for the next complete request."""
        try:
            return self._asked.get(timeout=deadline)
        except queue.Empty:
            raise AssertionError(f"no request within {deadline} s") from None

    def is_idle(self) -> bool:
        """Whether every request that came was taken by the test."""
        return self._asked.empty()

    def unanswered(self) -> list[Asked]:
        """The open connections whose last answer did not go out completely."""
        with self._lock:
            return [asked for asked in self._open.values() if asked is not None and not asked.over]

    def wait_until_left(self, deadline: float) -> list[Asked]:
        """Wait until nobody waits for an answer any more; returns those who still do at the deadline."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting(), deadline)
            return self._waiting()

    def _waiting(self) -> list[Asked]:
        return [asked for asked in self._open.values() if asked is not None and not asked.over]

    def wait_until_closed(self, deadline: float) -> int:
        """Wait until no connection is left; returns how many there are at the deadline."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open, deadline)
            return len(self._open)

    def hang_up(self) -> None:
        """Close every connection and forget every request; go on listening."""
        with self._lock:
            socks = list(self._open)
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.wait_until_closed(DEADLINE)
        for waiting in (self._asked, self.torn):
            with suppress(queue.Empty):
                while True:
                    waiting.get_nowait()

    def close(self) -> None:
        """Stop listening, which refuses what comes, and end every connection."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(DEADLINE)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self.connections += 1
                self._open[sock] = None
                self._changed.notify_all()
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        """Read requests until the other side leaves."""
        stream = _Recording(sock)
        last: Asked | None = None
        try:
            while True:
                last = self._read(stream, sock)
                with self._lock:
                    self._open[sock] = last
                self._asked.put(last)
        except (Incomplete, OSError):
            if stream.got:
                self.torn.put(bytes(stream.got))
        finally:
            if last is not None:
                last.gone.set()
            with self._changed:
                del self._open[sock]
                self._changed.notify_all()
            sock.close()

    @staticmethod
    def _read(stream: _Recording, sock: socket.socket) -> Asked:
        head = Head.parse(stream.until(b"\r\n\r\n"))
        length = head.get(b"content-length")
        body = Body(stream, head, int(length or 0)).read()
        raw = bytes(stream.got)
        stream.got.clear()
        return Asked(head, body, raw, sock)


class _Recording(Stream):
    """A stream that keeps what was received since the last request began."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.got = bytearray()

    def fill(self) -> bool:
        before = len(self._buffer)
        more = super().fill()
        self.got += self._buffer[before:]
        return more


def free_port() -> int:
    """Return a port of loopback where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
