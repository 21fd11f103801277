"""Answers that are not what they are said to be, or not whole: none reaches a client that is not on record before."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from pathlib import Path

import pytest
from http_hop import Hop, proxy_config, running_proxy
from http_messages import EVENT_STREAM, JSON, answer, call, event, get, message, modern, post
from http_peers import Request, Upstream

MIB = 1 << 20


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param(b"application/json-rpc", id="json-rpc"),
        pytest.param(b"application/jsonx", id="begins-like-it"),
        pytest.param(b"text/json", id="text-json"),
        pytest.param(b"text/plain; was=application/json", id="parameter"),
        pytest.param(b"TEXT/PLAIN", id="plain"),
        pytest.param(None, id="none"),
    ],
)
def test_an_answer_is_on_record_whatever_it_is_called(hop: Hop, content_type: bytes | None) -> None:
    """SDKs look for a word in the type, lenient clients not even for that: what they act on must not pass unseen."""
    headers = [] if content_type is None else [(b"Content-Type", content_type)]
    hop.golden(post(call()), 200, headers, answer(7, n=1))
    if not hop.is_direct:
        assert hop.record(method="tools/call", of=lambda of: of is not None)["outcome"] == "answered"


def test_events_are_on_record_whatever_they_are_called(hop: Hop) -> None:
    """As above; the type has a parameter before the word."""
    hop.golden(post(call()), 200, [(b"Content-Type", b"x; y=text/event-stream")], event(answer(7, n=1)))
    hop.record(method="tools/call", outcome="answered")


def test_a_message_in_an_event_called_endpoint_is_on_record(hop: Hop) -> None:
    """Clients of later revisions know no such event."""
    hop.golden(post(call()), 200, [EVENT_STREAM], event(answer(7, n=1), kind=b"endpoint"))
    hop.record(method="tools/call", outcome="answered")


def test_a_page_in_place_of_an_answer_is_no_message(proxy: Hop) -> None:
    """It passes, and leaves nothing but the line of the request it does not answer."""
    proxy.golden(post(call()), 404, [(b"Content-Type", b"text/html")], b"<p>{not found}")
    line = proxy.record(method="tools/call", outcome="lost")
    assert line["http"]["status"] == 404
    assert len(proxy.exchanges()) == 1


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_an_answer_that_breaks_off_behind_its_last_brace_is_on_record(hop: Hop, encoding: str) -> None:
    """Its framing is broken, its text is whole, and who reads along may act on it."""
    client, asked = hop.ask(post(call()))
    packer = zlib.compressobj(wbits=31)
    whole = answer(7, n=1)
    packed = packer.compress(whole) + packer.flush(zlib.Z_SYNC_FLUSH) if encoding == "gzip" else whole
    asked.stream((b"Content-Encoding", encoding.encode()), kind=JSON[1])
    asked.chunk(packed)
    asked.close()
    assert client.response().torn() == packed
    hop.record(method="tools/call", outcome="answered")


@pytest.mark.parametrize("encoding", [b"gzip", b"made-up"])
def test_a_compressed_json_answer_comes_piece_by_piece(hop: Hop, encoding: bytes) -> None:
    """What was sent is there before more is, also of what nobody here can read."""
    packer = zlib.compressobj(wbits=31)
    whole = answer(7, text=random.Random(1).randbytes(30_000).hex())
    first = packer.compress(whole[:30_000]) + packer.flush(zlib.Z_SYNC_FLUSH)
    rest = packer.compress(whole[30_000:]) + packer.flush()
    client, asked = hop.ask(post(call()))
    asked.stream((b"Content-Encoding", encoding), kind=JSON[1])
    asked.chunk(first)
    response = client.response()
    response.next(first)
    asked.chunk(rest)
    asked.end()
    assert response.read() == rest
    hop.record(outcome="answered" if encoding == b"gzip" else "opaque")


def test_an_endless_answer_is_not_kept(tmp_path: Path) -> None:
    """Each of its bytes might end the message; beyond the limit only the newest piece is held back."""
    config = proxy_config(max_message_bytes=str(MIB))
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        before = hop.program.memory
        client, asked = hop.ask(post(call()))
        asked.stream(kind=JSON[1])
        asked.chunk(b"}" * 2 * MIB)
        response = client.response()
        got = 0
        for number in range(40):
            asked.chunk(b"}" * MIB)
            got += len(response.at_least(number * MIB + MIB - got))
            assert hop.program.memory - before < 16 * MIB
        asked.end()
        assert got + len(response.read()) == 42 * MIB
        hop.record(method="", outcome="opaque", marks=["too_large"])


@pytest.mark.parametrize("kind", [JSON, EVENT_STREAM], ids=["json", "events"])
def test_a_bomb_in_an_answer_keeps_nobody_waiting(tmp_path: Path, kind: tuple[bytes, bytes]) -> None:
    """Kilobytes that unpack to three gigabytes: the copy is given up, and others are served meanwhile."""
    packer = zlib.compressobj(9, wbits=31)
    first, again = (packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    body = gzip.compress(first + 3000 * again)
    assert len(body) < 16_000
    with Upstream() as upstream, running_proxy(tmp_path, upstream) as hop:
        client, asked = hop.ask(post(call()))
        asked.answer(200, [kind, (b"Content-Encoding", b"gzip, gzip")], body)
        began = time.monotonic()
        hop.golden(post(call(id=8)), 200, [JSON], answer(8))
        assert time.monotonic() - began < 1
        assert client.response().read() == body
        hop.record(outcome="opaque", marks=["unknown_encoding"])


def test_a_document_that_breaks_off_breaks_off(tmp_path: Path) -> None:
    """Also one that was to be rewritten; the failure is the upstream's, and no one is told that it was the proxy's."""
    config = proxy_config(public_url="https://public.example/x", oauth="{rewrite_metadata: true}")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client = hop.client()
        client.ask(get(target=b"/.well-known/oauth-protected-resource"))
        asked = upstream.next()
        asked.begin(200, [JSON, (b"Content-Length", b"50")])
        asked.send(b'{"resource":')
        asked.close()
        response = client.response()
        assert response.status == 200
        assert response.torn() == b'{"resource":'


def test_two_answers_of_one_id_pair_with_their_own_requests(hop: Hop) -> None:
    """Modern requests stand alone, though they are sent along with the same session of long ago."""

    def named(tool: str) -> Request:
        request = modern(name=tool)
        return Request(request.method, request.target, (*request.headers, (b"Mcp-Session-Id", b"stray")), request.body)

    slow, first = hop.ask(named("slow"))
    fast, second = hop.ask(named("fast"))
    for client, asked, tool in ((fast, second, "fast"), (slow, first, "slow")):
        asked.answer(200, [JSON, (b"Mcp-Session-Id", b"another")], answer(7, who=tool))
        client.response().read()
        if not hop.is_direct:
            line = hop.record(method="tools/call", result={"who": tool})
            assert line["params"]["name"] == tool
    # Nor does what the server does not know of one of them end the session.
    hop.golden(named("gone"), 404, [JSON], b'{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}')
    hop.golden(post(message("tools/list", 9)), 200, [JSON], answer(9))
