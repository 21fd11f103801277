"""Content codings undone on a copy: what a compressed body says, a bounded piece at a time.

Pure. Promise: no input makes one piece longer than `PIECE_BYTES`, whatever it would unpack to, so that whoever stops
asking has spent no more than he asked for. Never: an encoder, and never what is forwarded. RFC 9110 section 8.4.1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from mcp_audit.errors import McpAuditError

__all__ = ["PIECE_BYTES", "BadEncoding", "Decoder", "decode_whole", "decoder_for", "is_utf8"]

PIECE_BYTES = 65536
_MAX_CODINGS = 3  # each may multiply by a thousand; nobody sends more than one
_GZIP, _ZLIB, _RAW = 31, 15, -15  # what zlib calls its formats


class BadEncoding(McpAuditError):
    """A body is not what its Content-Encoding says."""

    def __init__(self, coding: str, problem: str) -> None:
        super().__init__(coding, problem)
        self.coding = coding
        self.problem = problem

    def __str__(self) -> str:
        return f"the body is no whole {self.coding}: {self.problem}"


class _Coding(Protocol):
    """One coding being undone.

    Attributes:
        whole: what was fed may be all there is.
        odd: some readers of this format would have taken what was fed for less, or for something else.
    """

    whole: bool
    odd: bool

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` holds in pieces of bounded size; none is empty."""
        ...


class Decoder:
    """Undo the codings of one body. Once `feed` has raised, or was not exhausted, the decoder is of no more use."""

    def __init__(self, codings: list[_Coding]) -> None:
        self._codings = codings

    @property
    def whole(self) -> bool:
        """Whether what was fed is a whole body, or none; false if it was cut off."""
        return all(coding.whole for coding in self._codings)

    @property
    def odd(self) -> bool:
        """Whether readers differ about it: a second gzip member, bytes behind the end, deflate without zlib header."""
        return any(coding.odd for coding in self._codings)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` holds, in pieces of at most `PIECE_BYTES`.

        Raises:
            BadEncoding: the bytes are not in the format; pieces before them have been yielded.
        """
        # In slices, for zlib hands back what it has not come to, and that would be copied once per piece.
        for start in range(0, len(data), PIECE_BYTES):
            yield from _undo(self._codings, data[start : start + PIECE_BYTES] if len(data) > PIECE_BYTES else data)


def decoder_for(content_encoding: bytes | None) -> Decoder | None:
    """Return a decoder for a Content-Encoding (several header lines joined by commas), None for one we do not know.

    None, an empty value and `identity` mean that the body is what it is.
    """
    names = [name.strip(b" \t").lower() for name in (content_encoding or b"").split(b",")]
    codings: list[_Coding] = []
    for name in reversed([name for name in names if name not in (b"", b"identity")]):
        coding = _coding(name)
        if coding is None or len(codings) == _MAX_CODINGS:
            return None
        codings.append(coding)
    return Decoder(codings)


def decode_whole(content_encoding: bytes | None, body: bytes, max_bytes: int) -> bytes | None:
    """Return what a whole body says to every reader alike; None if we cannot tell.

    That is: an unknown coding, data that is broken or cut off, more than `max_bytes`, or what some readers would take
    for something else, so that a gate must not decide on it.
    """
    decoder = decoder_for(content_encoding)
    if decoder is None:
        return None
    pieces, size = [], 0
    try:
        for start in range(0, len(body), PIECE_BYTES):
            for piece in decoder.feed(body[start : start + PIECE_BYTES]):
                size += len(piece)
                if size > max_bytes:
                    return None
                pieces.append(piece)
            if decoder.odd:  # at once, for a body of empty gzip members would take a second per megabyte
                return None
    except BadEncoding:
        return None
    return b"".join(pieces) if decoder.whole else None


def is_utf8(content_type: bytes | None) -> bool:
    """Whether every reader takes a body of this type for UTF-8: its type names no other charset, and one at most.

    JSON has no charset parameter, but some servers decode by it, and in UTF-7 the same ASCII bytes are another text.
    """
    found = 0
    for parameter in (content_type or b"").split(b";")[1:]:
        name, _, value = parameter.partition(b"=")
        if b"charset" in name.lower():
            found += 1
            if value.strip(b" \t").strip(b"\"'").lower() not in (b"utf-8", b"utf8"):
                return False
    return found <= 1


def _undo(codings: list[_Coding], data: bytes) -> Iterator[bytes]:
    """Run data through the codings, the last applied first, without ever holding more than a piece of each."""
    if not codings:
        yield data
        return
    for piece in codings[0].feed(data):
        yield from _undo(codings[1:], piece)


def _coding(name: bytes) -> _Coding | None:
    if name in (b"gzip", b"x-gzip"):
        return _Zlib("gzip", _GZIP)
    if name == b"deflate":
        return _Zlib("deflate", _ZLIB)
    return _Brotli.new() if name == b"br" else None


class _Zlib:
    """gzip, of several members if need be; and deflate, with the zlib header that it should have or without."""

    def __init__(self, name: str, bits: int) -> None:
        self.whole = True
        self.odd = False
        self._name = name
        self._bits = bits
        self._stream = zlib.decompressobj(bits)
        self._begun_to_read = self._ended = False
        self._begun = b""  # the first bytes of a deflate body, until they are enough to tell which it is

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._bits == _ZLIB and not self._begun_to_read:
            data = self._format_known(data)
        more = bool(data)
        while more:
            if self._stream.eof and not (data and self._next_member(data)):
                return
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise BadEncoding(self._name, str(error)) from None
            self.whole = self._stream.eof
            if piece:
                yield piece
            data = self._stream.unused_data or self._stream.unconsumed_tail
            # After a full piece more may be inside the stream, although no input is left.
            more = bool(data) or len(piece) == PIECE_BYTES

    def _next_member(self, data: bytes) -> bool:
        """Say what to do with bytes behind the end: begin another gzip member, or pass over them as readers do."""
        self.odd = True
        self._ended = self._ended or self._bits != _GZIP or data[:1] != b"\x1f"
        if self._ended:
            return False
        self._stream = zlib.decompressobj(self._bits)
        return True

    def _format_known(self, data: bytes) -> bytes:
        """Return data once it is enough to tell zlib from raw deflate; nothing before."""
        self.whole = False
        data = self._begun + data
        if len(data) < 2:
            self._begun = data
            return b""
        self._begun_to_read = True
        if data[0] & 15 != 8 or int.from_bytes(data[:2], "big") % 31:  # RFC 1950 section 2.2
            self._bits = _RAW
            self._stream = zlib.decompressobj(_RAW)
            self.odd = True
        return data


class _Brotli:
    """br, by the package `brotli`."""

    def __init__(self, decompressor: Any, error: type[Exception]) -> None:
        self.whole = True
        self.odd = False
        self._stream = decompressor
        self._error = error

    @classmethod
    def new(cls) -> _Brotli | None:
        """Return a new one; None without the package, or with one so old that it knows no bound."""
        try:
            import brotli  # type: ignore[import-untyped]
        except ImportError:
            return None
        decompressor = brotli.Decompressor()
        return cls(decompressor, brotli.error) if hasattr(decompressor, "can_accept_more_data") else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = bool(data)
        while more:
            try:
                piece = self._stream.process(data, output_buffer_limit=PIECE_BYTES)
            except self._error as error:
                raise BadEncoding("br", str(error)) from None
            self.whole = self._stream.is_finished()
            # The limit is one of buffers, and a piece may be half as long again.
            for start in range(0, len(piece), PIECE_BYTES):
                yield piece[start : start + PIECE_BYTES]
            data = b""
            more = bool(piece) or not self._stream.can_accept_more_data()
