"""Request bodies: whole or not at all, and what a copy of them says."""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.relay.http.inbound import ClientGone, Receive, read_body, understand
from mcp_audit.wire.framing import Line, Oversized
from mcp_audit.wire.message import Kind, Payload

CALL = b'{"id":7,"method":"tools/call","params":{"name":"echo"}}'
FORM = (b"content-type", b"application/x-www-form-urlencoded")
LIMIT = 100


def events(*pieces: bytes, complete: bool = True) -> Receive:
    """Return what an application gets of a body."""
    rest: list[dict[str, Any]] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    rest.append({"type": "http.request"} if complete else {"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return rest.pop(0)

    return receive


async def read(*pieces: bytes, complete: bool = True) -> Line:
    return await read_body(events(*pieces, complete=complete), LIMIT, hashlib.sha256)


@pytest.mark.parametrize("cut", [1, 7, LIMIT])
async def test_a_body_is_what_came_however_it_came(cut: int) -> None:
    """Up to the limit, and with it."""
    body = bytes(range(LIMIT))

    assert await read(*(body[start : start + cut] for start in range(0, LIMIT, cut))) == body


async def test_of_a_body_that_is_too_long_no_more_is_read_than_tells() -> None:
    """Who is refused stops uploading; the rest would be waited for in vain."""
    told = await read(b"x" * LIMIT, b"y", complete=False)

    assert isinstance(told, Oversized)
    assert (told.size, told.head) == (LIMIT + 1, b"x" * LIMIT + b"y")


@pytest.mark.parametrize("pieces", [(), (b"half",)], ids=["nothing", "half"])
async def test_a_body_that_breaks_off_is_none(pieces: tuple[bytes, ...]) -> None:
    """It must not go on as if it were whole."""
    with pytest.raises(ClientGone):
        await read(*pieces, complete=False)


@pytest.mark.parametrize(
    ("headers", "body", "kind", "marks"),
    [
        pytest.param([], CALL, Kind.REQUEST, (), id="no-type"),
        pytest.param([(b"content-type", b"text/plain")], CALL, Kind.REQUEST, (), id="other-type"),
        pytest.param([FORM], CALL, Kind.REQUEST, (), id="call-as-form"),
        pytest.param([FORM], b"grant_type=x&code=%7B", Kind.OPAQUE, (), id="form"),
        pytest.param([], b"grant_type=x", Kind.OPAQUE, ("not_json",), id="form-by-another-name"),
        pytest.param([(b"content-encoding", b"identity")], CALL, Kind.REQUEST, (), id="identity"),
        pytest.param([(b"content-encoding", b"gzip")], gzip.compress(CALL), Kind.REQUEST, (), id="gzip"),
        pytest.param(
            [(b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")],
            gzip.compress(gzip.compress(CALL)),
            Kind.REQUEST,
            (),
            id="gzip-twice",
        ),
        pytest.param([(b"content-encoding", b"gzip")], CALL, Kind.OPAQUE, ("unknown_encoding",), id="not-gzip"),
        pytest.param(
            [(b"content-encoding", b"gzip")],
            gzip.compress(b" " * 2000 + CALL),
            Kind.OPAQUE,
            ("unknown_encoding",),
            id="too-long-decoded",
        ),
        pytest.param([(b"content-encoding", b"zstd")], CALL, Kind.OPAQUE, ("unknown_encoding",), id="zstd"),
        pytest.param(
            [(b"content-type", b"application/json; charset=utf-7")],
            CALL,
            Kind.OPAQUE,
            ("unknown_encoding",),
            id="utf-7",
        ),
        pytest.param(
            [(b"content-type", b"application/json"), FORM], CALL, Kind.OPAQUE, ("unknown_encoding",), id="two-types"
        ),
    ],
)
def test_a_body_is_a_message_whatever_it_is_called(
    headers: list[tuple[bytes, bytes]], body: bytes, kind: Kind, marks: tuple[str, ...]
) -> None:
    """But for a form, which no parser takes for one, and what readers may decode to different texts."""
    payload = understand(body, headers, 1000)

    assert payload.raw is body
    assert [(message.kind, message.marks) for message in payload.messages] == [(kind, marks)]


@pytest.mark.parametrize("headers", [[], [(b"content-encoding", b"gzip")], [FORM]])
def test_a_blank_body_says_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    """As that of a GET."""
    assert understand(b" \r\n\t", headers, 1000) == Payload(b" \r\n\t", ())


@given(st.binary(max_size=200), st.sampled_from([b"", b"gzip", b"deflate", b"br", b"x"]))
def test_no_body_is_changed_and_none_raises(body: bytes, encoding: bytes) -> None:
    """What goes on is the very object."""
    assert understand(body, [(b"content-encoding", encoding)], 1000).raw is body
