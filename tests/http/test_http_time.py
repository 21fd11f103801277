"""What is late, what is gone and what ends: timeouts, failures of the upstream, clients that leave, signals."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import (
    EVENT_STREAM,
    JSON,
    answer,
    call,
    delete,
    event,
    get,
    message,
    modern,
    note,
    post,
    session_headers,
)  # fmt: skip
from http_peers import Client, Request, Upstream, free_port

CONFIGS = [pytest.param(NEUTRAL, id="neutral"), pytest.param(ENFORCING, id="enforcing")]
AT_ONCE = 1.0  # the aim is 0.1 s; a loaded machine must not fail the test
ERAS = [
    pytest.param(post(call(id="é/1")), -32032, id="legacy"),
    pytest.param(modern(id="é/1"), -31032, id="modern"),
]


def failed(client: Client, status: int, code: int, kind: str, id_: Any = "é/1") -> Any:
    """Read our error in place of an answer."""
    response = client.response()
    body = response.read()
    told = json.loads(body)
    assert response.status == status, body
    assert response.head.get(b"content-type") == b"application/json"
    assert (told["id"], told["error"]["code"], told["error"]["data"]["kind"]) == (id_, code, kind)
    assert told["error"]["data"]["source"] == "mcp-audit"
    return told["error"]["data"]["entry_id"]


# -- an upstream that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "code"), ERAS)
def test_a_reset_before_the_head_is_502(proxy: Hop, request_: Request, code: int) -> None:
    """Never a 4xx, which clients read as an era or a lost session; the id is copied, the line says lost."""
    for how in ("reset", "close"):
        client, asked = proxy.ask(request_)
        getattr(asked, how)()
        entry = failed(client, 502, code, "upstream_unavailable")
        proxy.record(id=entry, outcome="lost", method="tools/call", http={"status": 502})


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Type: appl", b"HTTP/1.1 100 Continue\r\n\r\n", b"SSH-2.0-x\r\n\r\n"],
)
def test_half_a_head_is_502(proxy: Hop, begun: bytes) -> None:
    """So is what is no HTTP at all."""
    client, asked = proxy.ask(post(call(id="é/1")))
    asked.send(begun)
    asked.close()
    failed(client, 502, -32032, "upstream_unavailable")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("request_", "code"), ERAS)
def test_an_upstream_that_refuses_is_502(tmp_path: Path, config: str, request_: Request, code: int) -> None:
    """The proxy serves all the same, and the next call gets through once somebody listens there."""
    port = free_port()
    with (
        Upstream() as unused,
        running_proxy(tmp_path, unused, proxy_config(config), url=f"http://127.0.0.1:{port}") as hop,
    ):
        client = hop.client()
        client.ask(request_)
        entry = failed(client, 502, code, "upstream_unavailable")
        hop.record(id=entry, outcome="lost", http={"status": 502})
        with Upstream(port) as upstream:
            client.ask(post(call()))
            upstream.next().answer(200, [JSON], answer())
            assert client.response().read() == answer()


def test_an_upstream_without_a_name_is_502(tmp_path: Path) -> None:
    """A host that does not resolve."""
    with Upstream() as unused, running_proxy(tmp_path, unused, url="http://no-such-host.invalid/mcp") as hop:
        client = hop.client()
        client.ask(post(call(id="é/1")))
        failed(client, 502, -32032, "upstream_unavailable")


@pytest.mark.parametrize("body", [note("notifications/initialized"), answer(3)], ids=["notification", "response"])
def test_what_expects_no_answer_is_told_by_status_alone(proxy: Hop, body: bytes) -> None:
    """502; nothing that could be taken for an answer to a request."""
    client, asked = proxy.ask(post(body))
    asked.reset()
    response = client.response()
    told = response.read()
    assert response.status == 502
    assert not told or "id" not in json.loads(told)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS)
def test_no_head_in_time_is_504(tmp_path: Path, config: str) -> None:
    """In both eras; the upstream request is closed, and the line says timeout."""
    with (
        Upstream() as upstream,
        running_proxy(tmp_path, upstream, proxy_config(config, upstream_timeout_ms="300")) as hop,
    ):
        for request, code in ((post(call(id="é/1")), -32032), (modern(id="é/1"), -31032)):
            client, asked = hop.ask(request)
            entry = failed(client, 504, code, "upstream_timeout")
            assert asked.gone.wait(AT_ONCE)
            asked.over = True
            hop.record(id=entry, outcome="timeout", http={"status": 504})


def test_there_is_no_timeout_once_the_head_came(tmp_path: Path) -> None:
    """Nor on a GET of a stream or a subscription, whose head may come with the first event."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(upstream_timeout_ms="300")) as hop:
        streaming, call_ = hop.ask(post(call(id=1)))
        call_.stream()
        response = streaming.response()
        listening, stream = hop.ask(get())
        subscribed, subscription = hop.ask(modern("subscriptions/listen", 3))
        impatient, silent = hop.ask(post(call(id=2)))
        failed(impatient, 504, -32032, "upstream_timeout", 2)  # so much time has passed
        assert silent.gone.wait(AT_ONCE)
        silent.over = True
        for asked in (call_, stream, subscription):
            assert not asked.gone.is_set()
        stream.stream()
        stream.end()
        assert listening.response().read() == b""
        subscription.stream()
        subscription.end()
        assert subscribed.response().read() == b""
        call_.chunk(event(answer(1)))
        call_.end()
        assert response.read() == event(answer(1))


def test_a_call_deadline_answers_in_place_of_the_upstream(tmp_path: Path) -> None:
    """Our error under the id, whether the stream is open or not; an answer that comes later is not delivered."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(call_timeout_ms="300")) as hop:
        client, asked = hop.ask(post(call(id="é/1")))
        entry = failed(client, 504, -32032, "upstream_timeout")
        hop.record(id=entry, outcome="timeout")
        asked.over = True

        client, asked = hop.ask(post(call(id=2)))
        asked.stream()
        response = client.response()
        told = response.until(b"\n\n")
        assert b'"upstream_timeout"' in told
        assert b'"id":2' in told
        asked.chunk(event(answer(2)))
        asked.chunk(event(note("notifications/message", n=1)))
        asked.end()
        rest = response.read()
        assert answer(2) not in rest
        hop.record(request_id="2", outcome="timeout")
        hop.record(marks=lambda marks: marks and "late" in marks)


@pytest.mark.parametrize("fixed", ["compressed", "of-known-length"])
def test_a_deadline_ends_a_stream_that_cannot_hold_an_error(tmp_path: Path, fixed: str) -> None:
    """Nothing can be put into it, and no answer taken out of it: it ends where it is, as broken as it is."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(call_timeout_ms="300")) as hop:
        client, asked = hop.ask(post(call()))
        sent = event(note("notifications/message", n=1))
        if fixed == "compressed":
            sent = gzip.compress(sent)[:-8]
            asked.stream((b"Content-Encoding", b"gzip"))
            asked.chunk(sent)
        else:
            asked.begin(200, [EVENT_STREAM, (b"Content-Length", b"500")])
            asked.send(sent)
        assert client.response().torn() == sent
        assert asked.gone.wait(AT_ONCE)
        asked.over = True
        hop.record(method="tools/call", outcome="timeout")


def test_a_late_answer_is_not_cut_out_of_a_compressed_stream(tmp_path: Path) -> None:
    """It comes on another stream of the session, which ends before it; other bytes are never left out for it."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(call_timeout_ms="300")) as hop:
        headers = session_headers()
        client, asked = hop.ask(post(call(id="é/1"), *headers))
        failed(client, 504, -32032, "upstream_timeout")
        asked.over = True
        client, asked = hop.ask(get(*headers))
        asked.stream((b"Content-Encoding", b"gzip"))
        packer = zlib.compressobj(wbits=31)
        packed = packer.compress(event(note("notifications/message", n=1))) + packer.flush(zlib.Z_SYNC_FLUSH)
        asked.chunk(packed)
        response = client.response()
        response.next(packed)
        asked.chunk(packer.compress(event(answer("é/1")) + event(note("x"))) + packer.flush())
        assert response.torn() == b""
        asked.over = True
        hop.record(marks=lambda marks: marks and "late" in marks)


# -- clients that leave ------------------------------------------------------------------------------------------------

LEAVING = pytest.mark.parametrize("leave", ["close", "reset"])


@LEAVING
@pytest.mark.parametrize("when", ["before-head", "after-head", "between-events", "in-json"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_client_that_leaves_is_gone_upstream_at_once(hop: Hop, era: str, when: str, leave: str) -> None:
    """In both eras, as a direct connection would show; what differs is what it means."""
    client, asked = hop.ask(modern() if era == "modern" else post(call(), *session_headers(b"left")))
    if when == "in-json":
        asked.begin(200, [JSON, (b"Content-Length", b"50")])
        asked.send(b'{"a":')
        client.response().at_least(4)
    elif when != "before-head":
        asked.stream()
        response = client.response()
        if when == "between-events":
            asked.chunk(event(note("notifications/message", n=1)))
            response.until(b"\n\n")
    began = time.monotonic()
    getattr(client, leave)()
    assert asked.gone.wait(AT_ONCE), "the upstream still thinks that somebody listens"
    assert time.monotonic() - began < AT_ONCE
    asked.over = True
    if era == "modern":
        hop.record(method="tools/call", outcome="cancelled")
    elif not hop.is_direct:
        hop.golden(post(call(id=8)), 200, [JSON], answer(8))
        assert not [line for line in hop.exchanges() if line.get("request_id") == "7"], "a disconnect is no cancel"


@LEAVING
def test_a_client_that_leaves_a_get_stream(hop: Hop, leave: str) -> None:
    """The stream ends upstream, before its head and after."""
    for started in (False, True):
        client, asked = hop.ask(get())
        if started:
            asked.stream()
            client.response()
        getattr(client, leave)()
        assert asked.gone.wait(AT_ONCE)
        asked.over = True


def test_a_client_that_half_closes_still_gets_its_answer(hop: Hop) -> None:
    """To have nothing more to send is not to leave; where it counts as leaving, the upstream must be told."""
    client, asked = hop.ask(post(call()))
    client.finish()
    if not asked.gone.wait(0.3):
        asked.answer(200, [JSON], answer())
        assert client.response().read() == answer()
    asked.over = True


def test_a_legacy_answer_resumed_elsewhere_ends_its_exchange(hop: Hop) -> None:
    """The POST's stream is lost; the answer comes on a GET with `Last-Event-ID`, in the same session."""
    headers = session_headers(b"resumed")
    client, asked = hop.ask(post(call(id=5), *headers))
    asked.stream()
    response = client.response()
    asked.chunk(b"id: 1\nretry: 10\ndata:\n\n")
    response.until(b"\n\n")
    client.close()
    assert asked.gone.wait(AT_ONCE)
    asked.over = True

    client, asked = hop.ask(get(*headers, (b"Last-Event-ID", b"1")))
    asked.stream()
    asked.chunk(event(answer(5, n=1), b"2"))
    asked.end()
    assert client.response().read() == event(answer(5, n=1), b"2")
    line = hop.record(method="tools/call", request_id="5", outcome="answered")
    if not hop.is_direct:
        assert line["result"] == {"n": 1}
        assert len([each for each in hop.exchanges() if each.get("request_id") == "5"]) == 1


def test_an_upstream_that_ends_a_legacy_stream_early_may_go_on_elsewhere(hop: Hop) -> None:
    """An orderly end without an answer is how servers make clients poll."""
    headers = session_headers(b"polled")
    client, asked = hop.ask(post(call(id=6), *headers))
    asked.stream()
    asked.chunk(b"id: 1\nretry: 10\ndata:\n\n")
    asked.end()
    assert client.response().read() == b"id: 1\nretry: 10\ndata:\n\n"
    assert not [line for line in hop.exchanges() if line.get("request_id") == "6"]
    client, asked = hop.ask(get(*headers, (b"Last-Event-ID", b"1")))
    asked.stream()
    asked.chunk(event(answer(6)))
    asked.end()
    client.response().read()
    hop.record(method="tools/call", request_id="6", outcome="answered")


def test_a_session_that_ends_leaves_what_was_open_as_lost(proxy: Hop) -> None:
    """DELETE ends it; no pending request is dropped without a word."""
    headers = session_headers(b"ended")
    client, asked = proxy.ask(post(call(id=9), *headers))
    asked.stream()
    asked.end()
    client.response().read()
    proxy.golden(delete(*headers), 200)
    proxy.lost(1)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_stream_that_is_idle_for_two_minutes_lives(tmp_path: Path) -> None:
    """No clock cuts a stream; the default configuration, whose limit on heads is 30 s."""
    config = proxy_config(upstream_timeout_ms="30000")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client, asked = hop.ask(get())
        asked.stream()
        response = client.response()
        assert not asked.gone.wait(120)
        asked.chunk(event(note("notifications/message", n=1)))
        assert response.until(b"\n\n")
        asked.end()
        assert response.read() == b""


# -- signals -----------------------------------------------------------------------------------------------------------


def test_sigterm_lets_what_runs_finish(tmp_path: Path) -> None:
    """No new connections; the answer under way arrives whole; exit 0."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(drain_timeout_ms="8000")) as hop:
        client, asked = hop.ask(post(call()))
        asked.stream()
        response = client.response()
        hop.program.signal(signal.SIGTERM)
        until = time.monotonic() + 3
        while _accepts(hop):
            assert time.monotonic() < until, "it still takes connections"
        asked.chunk(event(answer()))
        asked.end()
        assert response.read() == event(answer())
        assert hop.program.wait() == 0
        hop.record(method="tools/call", outcome="answered")


def _accepts(hop: Hop) -> bool:
    try:
        with Client(hop.address):
            return True
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it waited in the queue of a listener that closed
        return False


def test_what_the_drain_breaks_off_was_not_cancelled(tmp_path: Path) -> None:
    """It was not the client who left, so in neither era does the record say so."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(drain_timeout_ms="100")) as hop:
        waiting = [hop.ask(request) for request in (modern(id=1), post(call(id=2)), modern(id=3))]
        waiting[2][1].stream()
        waiting[2][0].response()
        hop.program.signal(signal.SIGTERM)
        assert hop.program.wait() == 0
        for _, asked in waiting:
            asked.over = True
        assert hop.ends() == {"1": ["lost"], "2": ["lost"], "3": ["lost"]}
        orphans = [line for line in hop.lines() if line.get("type") == "orphan"]
        assert {line["why"] for line in orphans} == {"exit"}


def test_a_second_signal_ends_the_drain_and_not_the_ledger(tmp_path: Path) -> None:
    """Whoever is in a hurry loses what was open, but not the record of it."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(drain_timeout_ms="60000")) as hop:
        _, asked = hop.ask(post(call(), *session_headers()))
        hop.program.signal(signal.SIGTERM)
        until = time.monotonic() + 3
        while _accepts(hop):
            assert time.monotonic() < until, "it still takes connections"
        hop.program.signal(signal.SIGINT)
        assert hop.program.wait() == 0
        asked.over = True
        assert hop.ends() == {"7": ["lost"]}
        assert hop.lines()[-1]["type"] == "close"


@pytest.mark.parametrize("open_", ["stream", "waiting"])
def test_sigterm_closes_streams_after_the_drain(tmp_path: Path, open_: str) -> None:
    """An idle stream does not keep it alive; the upstream sees it close; exit 0; open calls are on the record."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(drain_timeout_ms="300")) as hop:
        client, asked = hop.ask(get() if open_ == "stream" else post(call()))
        if open_ == "stream":
            asked.stream()
            client.response()
        began = time.monotonic()
        hop.program.signal(signal.SIGTERM)
        assert hop.program.wait() == 0
        assert time.monotonic() - began < 5
        assert asked.gone.wait(AT_ONCE)
        asked.over = True
        if open_ == "waiting":
            assert [line for line in hop.lines() if line.get("outcome") == "lost"]


def test_sighup_is_no_reason_to_end(tmp_path: Path) -> None:
    """It reloads the policy; whoever is being served notices nothing."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(ENFORCING)) as hop:
        client, asked = hop.ask(post(call()))
        hop.program.signal(signal.SIGHUP)
        asked.answer(200, [JSON], answer())
        assert client.response().read() == answer()
        hop.golden(post(call(id=8)), 200, [JSON], answer(8))
        assert hop.program.process.poll() is None


def test_sighup_reloads_the_policy(tmp_path: Path) -> None:
    """A rule that was added to the policy's file counts from then on; a broken file keeps the old rules."""
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules: []\n")
    config = proxy_config(NEUTRAL + "policy: {enabled: true, file: policy.yaml}\n")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        hop.golden(post(call("delete_file")), 200, [JSON], answer())
        for text in ("rules: [{action: deny, tool_name: delete_file}]\n", "rules: {broken\n"):
            policy.write_text(text)
            os.kill(hop.program.process.pid, signal.SIGHUP)
            until = time.monotonic() + 5
            while True:
                client = hop.client()
                client.ask(post(call("delete_file")))
                if upstream.is_idle() and b"policy_denied" in _body_or_nothing(client, upstream):
                    break
                assert time.monotonic() < until


def _body_or_nothing(client: Client, upstream: Upstream) -> bytes:
    """Return the proxy's answer; one that the upstream has to give is given."""
    client.sock.settimeout(0.3)
    try:
        return client.response().read()
    except TimeoutError:
        upstream.next().answer(200, [JSON], answer())
        client.response().read()
        return b""


def test_an_idle_connection_is_dropped_before_servers_drop_theirs(proxy: Hop) -> None:
    """After two seconds; until then it is used again."""
    client = proxy.client()
    before = proxy.upstream.connections
    proxy.golden(post(message("tools/list")), 200, [JSON], answer(), client=client)
    done = proxy.golden(post(message("tools/list", 8)), 200, [JSON], answer(8), client=client)
    assert proxy.upstream.connections == before + 1
    assert done.asked.gone.wait(4)


def test_a_connection_the_upstream_closed_is_not_used_again(proxy: Hop) -> None:
    """Idle connections end at any time; no call fails for it, and none is sent twice."""
    for number in range(5):
        done = proxy.golden(post(call(id=number)), 200, [JSON], answer(number))
        done.asked.close()
        assert done.asked.gone.wait(1)
    for number in range(5):
        done = proxy.golden(post(call(id=number)), 200, [(b"Connection", b"close"), JSON], answer(number))
        done.asked.close()


def test_tools_call_is_never_sent_twice(proxy: Hop) -> None:
    """A connection that breaks under it is 502: it may have run."""
    warm = proxy.golden(post(call(id=1)), 200, [JSON], answer(1))
    client, asked = proxy.ask(post(call(id="é/1")))
    asked.reset()
    failed(client, 502, -32032, "upstream_unavailable")
    assert proxy.upstream.is_idle()
    assert warm.asked.method == b"POST"


def test_an_answer_before_the_request_was_read(hop: Hop) -> None:
    """An upstream may answer early and close; its answer is not lost in the error of the upload."""
    client = hop.client()
    client.ask(post(call(text="x" * 100)))
    asked = hop.upstream.next()
    asked.answer(413, [EVENT_STREAM, (b"Connection", b"close")], b"too much")
    asked.close()
    response = client.response()
    assert (response.status, response.read()) == (413, b"too much")
