"""HTTP+SSE, the transport of 2024-11-05: answers travel on the GET stream, and its first event says where to POST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import answer, call, event, get, message, note, post
from http_peers import Asked, Client, Response, Upstream

OPENING = get(target=b"/sse")


def opened(
    hop: Hop, endpoint: bytes = b"/messages?sessionId=s1", **spelling: bytes
) -> tuple[Client, Asked, Response, bytes]:
    """Open a stream; returns it with the `endpoint` event as the client got it."""
    client, asked = hop.ask(OPENING)
    asked.stream((b"Cache-Control", b"no-cache"))
    response = client.response()
    sent = event(endpoint, kind=b"endpoint", **spelling)
    asked.chunk(sent)
    got = b""
    while not got.endswith(sent[-2:]):
        got += response.piece()
    return client, asked, response, got


ENDPOINTS = [
    b"/messages?sessionId=s1", b"/messages/?session_id=%41b", b"messages?x", b"?sessionId=1", b"./m", b"../m",
    b"/base/messages#f",
]  # fmt: skip


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
def test_a_relative_endpoint_passes_untouched(hop: Hop, endpoint: bytes, end: bytes) -> None:
    """Clients resolve it against the address they used."""
    _, asked, response, got = opened(hop, endpoint, end=end)
    assert got == event(endpoint, kind=b"endpoint", end=end)
    asked.end()
    assert response.read() == b""


@pytest.mark.parametrize("path", [b"/messages?sessionId=s1", b"/", b"/a%20b?c=%2F"])
def test_an_absolute_endpoint_on_the_upstreams_origin_loses_its_origin(hop: Hop, path: bytes) -> None:
    """Else the client would go on without us; the record names the rewrite."""
    url = b"http://" + hop.upstream.authority + path
    _, asked, response, got = opened(hop, url)
    assert got == event(url if hop.is_direct else path, kind=b"endpoint")
    asked.end()
    assert response.read() == b""
    hop.record(rewrites=lambda rewrites: bool(rewrites))


@pytest.mark.parametrize(
    "url", [b"http://elsewhere.example/messages", b"https://127.0.0.1:1/m", b"//elsewhere.example/m"]
)
def test_an_absolute_endpoint_elsewhere_passes(hop: Hop, url: bytes) -> None:
    """It is not ours to change; clients refuse it."""
    _, asked, response, got = opened(hop, url)
    assert got == event(url, kind=b"endpoint")
    asked.end()
    response.read()


def test_the_endpoint_event_in_small_pieces(hop: Hop) -> None:
    """Only its `data` line is held, and not for longer than it takes to read it."""
    client, asked = hop.ask(OPENING)
    asked.stream()
    response = client.response()
    sent = event(b"http://" + hop.upstream.authority + b"/messages?s=1", kind=b"endpoint")
    for place in range(len(sent)):
        asked.chunk(sent[place : place + 1])
    expected = sent if hop.is_direct else event(b"/messages?s=1", kind=b"endpoint")
    response.next(expected)
    asked.chunk(event(note("notifications/message", n=1), kind=b"message"))
    response.next(event(note("notifications/message", n=1), kind=b"message"))
    asked.end()
    assert response.read() == b""


def test_an_endless_endpoint_is_let_go(hop: Hop) -> None:
    """No more than 8 KiB are held; beyond that it passes as it is."""
    client, asked = hop.ask(OPENING)
    asked.stream()
    response = client.response()
    sent = event(b"http://" + hop.upstream.authority + b"/" + b"x" * 20_000, kind=b"endpoint")
    asked.chunk(sent[:15_000])
    assert response.piece()
    asked.chunk(sent[15_000:])
    asked.end()
    response.read()


def test_a_later_event_called_endpoint_is_data(hop: Hop) -> None:
    """Only the first event names the endpoint; and only on a GET stream."""
    _, asked, response, _ = opened(hop)
    second = event(b"http://" + hop.upstream.authority + b"/x", kind=b"endpoint")
    asked.chunk(second)
    response.next(second)
    asked.end()
    response.read()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param(b"/messages?s=1", b"/prefix/messages?s=1", id="absolute-path"),
        pytest.param(b"ORIGIN/messages?s=1", b"/prefix/messages?s=1", id="absolute-url"),
        pytest.param(b"messages?s=1", b"messages?s=1", id="relative-path"),
        pytest.param(b"?s=1", b"?s=1", id="query"),
    ],
)
def test_the_prefix_of_the_public_url_is_put_before_a_path(tmp_path: Path, endpoint: bytes, expected: bytes) -> None:
    """A gateway in front of us strips it from what clients send."""
    config = proxy_config(public_url="http://localhost:8080/prefix")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client = hop.client()
        client.ask(OPENING)
        asked = upstream.next()
        asked.stream()
        asked.chunk(event(endpoint.replace(b"ORIGIN", b"http://" + upstream.authority), kind=b"endpoint"))
        response = client.response()
        response.next(event(expected, kind=b"endpoint"))
        asked.end()
        response.read()


def test_answers_on_the_stream_end_the_exchanges_of_the_posts(hop: Hop) -> None:
    """The endpoint is the session; two sessions may use the same ids."""
    streams = [opened(hop, b"/messages?sessionId=%d" % number) for number in range(2)]
    for number, (_, _, _, _) in enumerate(streams):
        hop.golden(post(call(id=1, n=number), target=b"/messages?sessionId=%d" % number), 202, [], b"Accepted")
    for number, (_, asked, response, _) in reversed(list(enumerate(streams))):
        said = event(answer(1, n=number), kind=b"message")
        asked.chunk(said)
        response.next(said)
        if not hop.is_direct:
            line = hop.record(method="tools/call", outcome="answered", result={"n": number})
            assert line["params"]["arguments"] == {"n": number}
    for _, asked, response, _ in streams:
        asked.end()
        response.read()


def test_the_server_asks_on_the_stream_and_the_client_answers_by_post(hop: Hop) -> None:
    """Both directions of a session, each with ids of its own."""
    _, asked, response, _ = opened(hop)
    asked.chunk(event(message("roots/list", 0), kind=b"message"))
    response.until(b"\n\n")
    hop.golden(post(answer(0, roots=[]), target=b"/messages?sessionId=s1"), 202, [], b"Accepted")
    hop.record(method="roots/list", direction="server_to_client", outcome="answered")
    asked.end()
    response.read()


def test_a_denial_is_injected_into_the_stream(enforcing: Hop) -> None:
    """The POST gets 202, as clients expect; the error comes as an event of its own, between two of the server's."""
    _, asked, response, _ = opened(enforcing)
    whole = event(note("notifications/message", n=1), kind=b"message")
    asked.chunk(whole[:20])
    response.next(whole[:20])
    client = enforcing.client()
    client.ask(post(call("delete_file", id="d"), target=b"/messages?sessionId=s1"))
    accepted = client.response()
    accepted.read()
    assert accepted.status == 202
    assert enforcing.upstream.is_idle()
    asked.chunk(whole[20:])
    got = response.until(b"\n\n")
    if got == whole[20:]:
        got += response.until(b"\n\n")
    assert got.startswith(whole[20:]), "it was put into the middle of an event"
    told = read_event(got[len(whole[20:]) :])
    assert (told["id"], told["error"]["data"]["kind"]) == ("d", "policy_denied")
    enforcing.record(outcome="denied", id=told["error"]["data"]["entry_id"])
    asked.chunk(whole)
    response.next(whole)
    asked.end()
    assert response.read() == b""


def test_a_denial_on_an_idle_stream_comes_at_once(enforcing: Hop) -> None:
    """Nobody waits for the server's next event."""
    _, asked, response, _ = opened(enforcing)
    client = enforcing.client()
    client.ask(post(call("delete_file", id=4), target=b"/messages?sessionId=s1"))
    assert client.response().status == 202
    assert read_event(response.until(b"\n\n"))["id"] == 4
    asked.end()
    response.read()


def test_a_denial_reaches_only_its_own_session(enforcing: Hop) -> None:
    """The other stream stays silent."""
    _, first, one, _ = opened(enforcing, b"/messages?sessionId=1")
    _, second, two, _ = opened(enforcing, b"/messages?sessionId=2")
    client = enforcing.client()
    client.ask(post(call("delete_file", id=4), target=b"/messages?sessionId=2"))
    assert client.response().status == 202
    assert read_event(two.until(b"\n\n"))["id"] == 4
    first.end()
    assert one.read() == b""
    second.end()
    two.read()


def test_a_denial_without_a_stream_is_403(enforcing: Hop) -> None:
    """A path that no stream named, after its stream ended."""
    _, asked, response, _ = opened(enforcing)
    asked.end()
    response.read()
    client = enforcing.client()
    client.ask(post(call("delete_file", id=4), target=b"/messages?sessionId=s1"))
    refused = client.response()
    told = json.loads(refused.read())
    assert refused.status == 403
    assert told["error"]["data"]["kind"] == "policy_denied"
    assert enforcing.upstream.is_idle()


def read_event(raw: bytes) -> Any:
    """Return the message of a `message` event."""
    lines = raw.replace(b"\r\n", b"\n").strip(b"\n").split(b"\n")
    assert b"event: message" in lines, raw
    (data,) = [line for line in lines if line.startswith(b"data: ")]
    return json.loads(data[6:])


def test_a_call_deadline_is_told_on_the_stream(tmp_path: Path) -> None:
    """Where the answer would have come; one that comes later is on record and not delivered. The server's own requests
    have no deadline, for it could not be told.
    """
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(call_timeout_ms="300")) as hop:
        _, asked, response, _ = opened(hop)
        asked.chunk(event(message("roots/list", 1)))
        response.next(event(message("roots/list", 1)))
        hop.golden(post(call(id=5), target=b"/messages?sessionId=s1"), 202)
        told = read_event(response.until(b"\n\n"))
        assert (told["id"], told["error"]["data"]["kind"]) == (5, "upstream_timeout")
        hop.record(method="tools/call", request_id="5", outcome="timeout")
        asked.chunk(event(answer(5)) + event(note("notifications/message", n=1)))
        response.next(event(note("notifications/message", n=1)))
        hop.record(marks=lambda marks: marks and "late" in marks)
        hop.golden(post(answer(1), target=b"/messages?sessionId=s1"), 202)
        hop.record(method="roots/list", outcome="answered")
        asked.end()
        assert response.read() == b""


def test_an_address_announced_twice_outlives_its_first_stream(enforcing: Hop) -> None:
    """The newer stream gets the denials, also after the older one ended."""
    _, first, one, _ = opened(enforcing)
    _, second, two, _ = opened(enforcing)
    first.end()
    one.read()
    client = enforcing.client()
    client.ask(post(call("delete_file", id=4), target=b"/messages?sessionId=s1"))
    assert client.response().status == 202
    assert read_event(two.until(b"\n\n"))["id"] == 4
    second.end()
    two.read()


@pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def test_a_session_that_ends_leaves_its_calls_lost(tmp_path: Path, config: str) -> None:
    """Its stream was the only way for answers."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop:
        client, asked, _, _ = opened(hop)
        hop.golden(post(call(id=1), target=b"/messages?sessionId=s1"), 202)
        client.close()
        assert asked.gone.wait(1)
        asked.over = True
        hop.lost(1)
