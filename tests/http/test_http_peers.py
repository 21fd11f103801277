"""The helpers of the golden tests show what is on the wire, or the golden tests would show nothing."""

from __future__ import annotations

import pytest
from http_messages import ACCEPT, JSON, answer, call, event, post
from http_peers import Client, Incomplete, Request, Upstream, free_port


def test_the_upstream_records_exact_bytes_and_frees_chunks() -> None:
    """Spelling, order and framing are kept in `raw`; `body` is free of framing."""
    with Upstream() as upstream, Client(upstream.address) as client:
        sent = b"POST /x HTTP/1.1\r\nhOsT: h\r\nA:  b \r\nTransfer-Encoding: chunked\r\n\r\n"
        sent += b"3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nTrailer: t\r\n\r\n"
        client.send(sent)
        asked = upstream.next()
        assert asked.raw == sent
        assert asked.body == b"abcd"
        assert asked.head.headers == [(b"host", b"h"), (b"a", b"b"), (b"transfer-encoding", b"chunked")]


def test_two_requests_on_one_connection() -> None:
    """Each is handed over by itself."""
    with Upstream() as upstream, Client(upstream.address) as client:
        for number in range(2):
            client.ask(post(call(id=number)))
            asked = upstream.next()
            assert asked.body == call(id=number)
            asked.answer(200, [JSON], answer(number))
            assert client.response().read() == answer(number)
        assert upstream.connections == 1


def test_pieces_arrive_when_the_test_sends_them() -> None:
    """`next` sees one event before the following one is written."""
    with Upstream() as upstream, Client(upstream.address) as client:
        client.ask(Request(b"GET", b"/", (ACCEPT,)))
        asked = upstream.next()
        asked.stream()
        response = client.response()
        for number in range(3):
            asked.chunk(event(b"%d" % number))
            response.next(event(b"%d" % number))
        asked.end()
        assert response.read() == b""


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_broken_answer_is_not_a_whole_one(how: str, framing: str) -> None:
    """Neither a reset nor a close in the middle of a body passes for its end."""
    with Upstream() as upstream, Client(upstream.address) as client:
        client.ask(post(call()))
        asked = upstream.next()
        if framing == "chunked":
            asked.stream()
            asked.chunk(b"half")
        else:
            asked.begin(200, [(b"Content-Length", b"8")])
            asked.send(b"half")
        response = client.response()
        response.next(b"half")
        getattr(asked, how)()
        with pytest.raises(Incomplete):
            response.read()


def test_the_upstream_sees_its_client_go() -> None:
    """By an orderly close as well as by a reset."""
    with Upstream() as upstream:
        for leave in (Client.close, Client.reset):
            with Client(upstream.address) as client:
                client.ask(post(call()))
                asked = upstream.next()
                assert not asked.gone.is_set()
                assert upstream.unanswered() == [asked]
                leave(client)
                assert asked.gone.wait(5)
        assert upstream.wait_until_closed(5) == 0


def test_half_a_request_is_kept_as_torn() -> None:
    """It is no request, and its bytes can be looked at."""
    with Upstream() as upstream:
        with Client(upstream.address) as client:
            client.send(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
        assert upstream.torn.get(timeout=5) == b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"
        assert upstream.is_idle()


def test_a_closed_upstream_refuses() -> None:
    """As a server does that is not running."""
    with Upstream() as upstream:
        address = upstream.address
    for closed in (address, ("127.0.0.1", free_port())):
        with pytest.raises(ConnectionRefusedError):
            Client(closed)
