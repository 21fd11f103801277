"""Compressed copies: what every reader gets out of them, and no more memory than was asked for."""

from __future__ import annotations

import gzip
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.wire.encodings import PIECE_BYTES, BadEncoding, Decoder, decode_whole, decoder_for, is_utf8

TEXT = b'{"jsonrpc":"2.0","id":1,"result":{"text":"' + bytes(range(32, 127)) * 20 + b'"}}'
LIMIT = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


ENCODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"x-gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"identity": bytes,
}


def known(encoding: bytes | None) -> Decoder:
    decoder = decoder_for(encoding)
    assert decoder is not None
    return decoder


def decode(encoding: bytes | None, chunks: list[bytes]) -> tuple[bytes, Decoder]:
    decoder = known(encoding)
    return b"".join(piece for chunk in chunks for piece in decoder.feed(chunk)), decoder


@pytest.mark.parametrize("encoding", ENCODERS)
@settings(max_examples=40, deadline=None)
@given(
    data=st.binary(max_size=300) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.integers(1, 40_000)),
    size=st.integers(1, 400),
)
def test_any_chunks_give_back_what_was_encoded(encoding: bytes, data: bytes, size: int) -> None:
    """Whole or in chunks; no piece is empty or longer than it may be; and the end is known for one."""
    encoded = ENCODERS[encoding](data)
    chunks = [encoded[i : i + size] for i in range(0, len(encoded), size)]
    decoder = known(encoding)
    pieces = [piece for chunk in chunks for piece in decoder.feed(chunk)]

    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    assert (decoder.whole, decoder.odd) == (True, False)
    assert decode_whole(encoding, encoded, len(data)) == data
    assert not data or decode_whole(encoding, encoded, len(data) - 1) is None


@pytest.mark.parametrize(
    ("encoding", "layers"),
    [
        pytest.param(b"gzip, br", [b"gzip", b"br"], id="two"),
        pytest.param(b"br,gzip", [b"br", b"gzip"], id="two-the-other-way"),
        pytest.param(b" GZip ,\tidentity,, Deflate ", [b"gzip", b"deflate"], id="spelling"),
        pytest.param(b"gzip,gzip,gzip", [b"gzip"] * 3, id="three"),
        pytest.param(b"identity", [], id="identity"),
        pytest.param(b"", [], id="empty"),
        pytest.param(None, [], id="none"),
    ],
)
def test_codings_are_undone_from_the_last_to_the_first(encoding: bytes | None, layers: list[bytes]) -> None:
    """The header lists them in the order in which they were applied (RFC 9110 section 8.4)."""
    body = TEXT
    for layer in layers:
        body = ENCODERS[layer](body)

    assert decode_whole(encoding, body, LIMIT) == TEXT
    assert decode(encoding, [body[:50], body[50:51], body[51:]])[0] == TEXT


@pytest.mark.parametrize("encoding", [b"zstd", b"compress", b"gzip, zstd", b"gzip;q=1", b"gz", b"gzip,gzip,gzip,gzip"])
def test_what_we_do_not_know_we_do_not_guess_at(encoding: bytes) -> None:
    """Nor more codings in a row than anybody sends."""
    assert decoder_for(encoding) is None
    assert decode_whole(encoding, TEXT, LIMIT) is None


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"gzip, br"])
def test_a_cut_body_is_known_for_one(encoding: bytes) -> None:
    """What came before the cut is given out, and the whole is not taken for one."""
    body = TEXT
    for layer in encoding.split(b", "):
        body = ENCODERS[layer](body)
    for kept in (1, 2, 10, len(body) // 2, len(body) - 1):
        text, decoder = decode(encoding, [body[:kept]])

        assert TEXT.startswith(text)
        assert not decoder.whole
        assert decode_whole(encoding, body[:kept], LIMIT) is None


@pytest.mark.parametrize("encoding", ENCODERS)
def test_no_body_at_all_is_whole(encoding: bytes) -> None:
    """An answer to HEAD, or a 202, may carry the header and no byte."""
    text, decoder = decode(encoding, [])

    assert (text, decoder.whole, decode_whole(encoding, b"", LIMIT)) == (b"", True, b"")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param(b"gzip", TEXT, id="not-gzip"),
        pytest.param(b"deflate", b"\xff" * 50, id="not-deflate"),
        pytest.param(b"br", b"\xff" * 50, id="not-br"),
        pytest.param(b"gzip", gzip.compress(TEXT)[:-8] + b"\0" * 8, id="wrong-checksum"),
        pytest.param(b"gzip", zlib.compress(TEXT), id="zlib-called-gzip"),
        pytest.param(b"gzip", gzip.compress(TEXT) + b"\x1f\x8bxxxxxxxxxxxxx", id="broken-second-member"),
        pytest.param(b"br", brotli.compress(TEXT) + b"x", id="behind-the-end"),
    ],
)
def test_broken_data_is_an_error_with_a_sentence(encoding: bytes, body: bytes) -> None:
    """Raised where it shows, and never anything else."""
    with pytest.raises(BadEncoding, match=f"^the body is no whole {encoding.decode()}: .+") as caught:
        decode(encoding, [body])

    assert caught.value.coding == encoding.decode()
    assert decode_whole(encoding, body, LIMIT) is None


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"gzip", b"deflate", b"br", b"br, gzip"]), st.binary(max_size=40), st.integers(0, 200), st.data()
)
def test_no_bytes_raise_anything_else(encoding: bytes, noise: bytes, at: int, data: st.DataObject) -> None:
    """Damage anywhere in a body is `BadEncoding`, a cut, or another text; it is never a crash."""
    body = TEXT
    for layer in encoding.split(b", "):
        body = ENCODERS[layer](body)
    damaged = body[:at] + noise + body[at + data.draw(st.integers(0, 40)) :]
    with suppress(BadEncoding):
        decode(encoding, [damaged])
    decode_whole(encoding, damaged, LIMIT)


@pytest.mark.parametrize(
    ("encoding", "body", "text"),
    [
        pytest.param(b"gzip", gzip.compress(TEXT) + gzip.compress(b"more"), TEXT + b"more", id="two-members"),
        pytest.param(b"gzip", gzip.compress(TEXT) + b"\0" * 20, TEXT, id="padding"),
        pytest.param(b"gzip", gzip.compress(TEXT) + b"xx\x1f\x1f", TEXT, id="behind-the-end"),
        pytest.param(b"deflate", raw_deflate(TEXT), TEXT, id="raw-deflate"),
        pytest.param(b"deflate", zlib.compress(TEXT) + b"x", TEXT, id="behind-zlib"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_what_readers_differ_about_is_read_but_not_decided_on(
    encoding: bytes, body: bytes, text: bytes, size: int
) -> None:
    """A reader that stops at the first member sees another message than one that goes on, so no gate may trust it."""
    got, decoder = decode(encoding, [body[i : i + size] for i in range(0, len(body), size)])

    assert (got, decoder.odd) == (text, True)
    assert decode_whole(encoding, body, LIMIT) is None


BOMB = 50 << 20


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"gzip, gzip", b"br, br", b"gzip, br"])
@pytest.mark.slow
def test_a_bomb_takes_no_memory(encoding: bytes) -> None:
    """Fifty megabytes out of a few bytes come in pieces, and whoever stops asking pays for no more."""
    body = b"\0" * BOMB
    for layer in encoding.split(b", "):
        body = ENCODERS[layer](body)
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in known(encoding).feed(body))
        assert (size, decode_whole(encoding, body, LIMIT)) == (BOMB, None)
        assert tracemalloc.get_traced_memory()[1] < 2 * LIMIT
        first = next(known(encoding).feed(body))
    finally:
        tracemalloc.stop()

    assert len(first) <= PIECE_BYTES


@pytest.mark.timeout(20)
def test_long_bodies_cost_what_they_hold() -> None:
    """Not the square of it: neither noise that does not shrink, nor gzip members with nothing inside."""
    noise = random.Random(1).randbytes(16 << 20)
    assert decode_whole(b"gzip", gzip.compress(noise, 1), len(noise)) == noise

    members = gzip.compress(b"") * 100_000
    assert decode_whole(b"gzip", members, LIMIT) is None
    assert decode(b"gzip", [members[:65536]])[1].odd


@pytest.mark.parametrize("missing", [None, object()], ids=["not-installed", "without-a-bound"])
def test_brotli_is_unknown_where_it_cannot_be_bounded(monkeypatch: pytest.MonkeyPatch, missing: object) -> None:
    """A version that knows no limit would unpack a bomb at once."""

    class Old:
        error = ValueError
        Decompressor = staticmethod(lambda: object())

    monkeypatch.setitem(sys.modules, "brotli", None if missing is None else Old)

    assert decoder_for(b"br") is None
    assert decoder_for(b"gzip") is not None


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, True),
        (b"application/json", True),
        (b"application/json; charset=utf-8", True),
        (b'application/json ;Charset = "UTF-8"', True),
        (b"application/json; profile=x", True),
        (b"application/json; charset=utf-7", False),
        (b"application/json; charset=us-ascii", False),
        (b"application/json; charset=utf-16le", False),
        (b"application/json; charset=utf-8; charset=utf-7", False),
        (b"application/json; charset=utf-8; charset=utf-8", False),
        (b"application/json; charset*=utf-8''utf-7", False),
        (b"application/json; charset", False),
    ],
)
def test_a_charset_other_than_utf8_is_another_text(content_type: bytes | None, expected: bool) -> None:
    """Some servers decode a body by this parameter, and then what we parsed is not what they do."""
    assert is_utf8(content_type) is expected
