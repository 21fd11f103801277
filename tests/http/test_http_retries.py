"""What may be asked twice is asked twice only if somebody wants it; a tool is never called twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_hop import ENFORCING, Hop, proxy_config, running_proxy
from http_messages import JSON, answer, call, encode, get, message, modern, note, post
from http_peers import Request, Upstream

SAFE = [
    pytest.param(Request(b"HEAD", b"/mcp"), id="HEAD"),
    pytest.param(Request(b"OPTIONS", b"/mcp"), id="OPTIONS"),
    pytest.param(Request(b"GET", b"/.well-known/x", ((b"Accept", b"application/json"),)), id="GET"),
    *(
        pytest.param(post(message(method)), id=method)
        for method in (
            "server/discover", "ping", "tools/list", "resources/list", "resources/templates/list", "resources/read",
            "prompts/list", "prompts/get", "completion/complete",
        )
    ),
    pytest.param(post(b"[" + message("ping", 1) + b"," + message("tools/list", 2) + b"]"), id="batch"),
    pytest.param(modern("tools/list"), id="modern"),
]  # fmt: skip
UNSAFE = [
    pytest.param(post(call()), id="tools/call"),
    pytest.param(modern(), id="modern-tools/call"),
    pytest.param(post(message("initialize")), id="initialize"),
    pytest.param(post(message("no/such")), id="unknown"),
    pytest.param(post(message("resources/subscribe")), id="subscribe"),
    pytest.param(post(note("notifications/x")), id="notification"),
    pytest.param(post(answer(3)), id="response"),
    pytest.param(post(b"[" + message("ping", 1) + b"," + call(id=2) + b"]"), id="batch-with-a-call"),
    pytest.param(post(message("resources/read", uri="x", requestState="s")), id="with-state"),
    pytest.param(post(message("prompts/get", name="x", inputResponses={})), id="with-responses"),
    pytest.param(get(), id="stream"),
    pytest.param(Request(b"DELETE", b"/mcp"), id="DELETE"),
    pytest.param(Request(b"PUT", b"/mcp", (JSON,), encode({"jsonrpc": "2.0", "id": 1, "method": "ping"})), id="PUT"),
]


@pytest.mark.parametrize("request_", [*SAFE, *UNSAFE])
@pytest.mark.parametrize("status", [429, 503])
def test_nothing_is_repeated_by_default(hop: Hop, request_: Request, status: int) -> None:
    """A 429 or a 503 passes, with its `Retry-After`."""
    hop.golden(request_, status, [JSON, (b"Retry-After", b"0")], b"" if request_.method == b"HEAD" else b"busy")
    assert hop.upstream.is_idle()


@pytest.fixture(scope="module")
def retrying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hop]:
    """The program with two retries."""
    config = proxy_config(ENFORCING, retry="{max_retries: 2, initial_interval_ms: 20, max_interval_ms: 2000}")
    with Upstream() as upstream, running_proxy(tmp_path_factory.mktemp("retry"), upstream, config) as hop:
        yield hop


@pytest.mark.parametrize("request_", SAFE)
@pytest.mark.parametrize("status", [429, 503])
def test_what_is_safe_is_repeated(retrying: Hop, request_: Request, status: int) -> None:
    """The same bytes again; the client sees the answer that came in the end."""
    client, asked = retrying.ask(request_)
    first = asked.raw
    asked.answer(status)
    again = retrying.upstream.next()
    assert (again.head.start, again.body) == (asked.head.start, asked.body)
    assert sorted(again.head.headers) == sorted(asked.head.headers), first
    again.answer(200, [JSON])
    response = client.response()
    response.read()
    assert response.status == 200
    client.close()


@pytest.mark.parametrize("request_", UNSAFE)
def test_what_is_not_safe_is_never_repeated(retrying: Hop, request_: Request) -> None:
    """The 503 passes at once."""
    client, asked = retrying.ask(request_)
    asked.answer(503, [(b"Retry-After", b"0")], b"busy")
    response = client.response()
    assert (response.status, response.read()) == (503, b"busy")
    assert retrying.upstream.is_idle()
    client.close()


def test_retries_end(retrying: Hop) -> None:
    """After two, the last answer passes with its body; each attempt is recorded."""
    client, asked = retrying.ask(post(message("tools/list", "ends")))
    for number in range(2):
        asked.answer(503, (), b"busy %d" % number)
        asked = retrying.upstream.next()
    asked.answer(503, (), b"busy at last")
    response = client.response()
    assert (response.status, response.read()) == (503, b"busy at last")
    assert retrying.upstream.is_idle()
    client.close()


@pytest.mark.parametrize("status", [400, 404, 500, 502, 504])
def test_other_statuses_are_answers(retrying: Hop, status: int) -> None:
    """Only 429 and 503 ask for patience."""
    client, asked = retrying.ask(post(message("tools/list")))
    asked.answer(status)
    assert client.response().status == status
    assert retrying.upstream.is_idle()
    client.close()


def test_retry_after_is_honoured(retrying: Hop) -> None:
    """A second is a second."""
    client, asked = retrying.ask(post(message("tools/list")))
    began = time.monotonic()
    asked.answer(429, [(b"Retry-After", b"1")])
    again = retrying.upstream.next()
    assert time.monotonic() - began >= 0.95
    again.answer(200, [JSON], answer())
    assert client.response().read() == answer()
    client.close()


def test_who_is_asked_to_come_back_much_later_is_told_so(retrying: Hop) -> None:
    """We may not wait for so long, and do not come uninvited; the client may know better."""
    client, asked = retrying.ask(post(message("tools/list")))
    asked.answer(503, [(b"Retry-After", b"3600")], b"later")
    response = client.response()
    assert (response.status, response.head.get(b"retry-after"), response.read()) == (503, b"3600", b"later")
    assert retrying.upstream.is_idle()
    client.close()


def test_a_reset_after_the_request_went_out_is_no_connect_error(retrying: Hop) -> None:
    """It may have been served: 502."""
    client, asked = retrying.ask(post(message("tools/list")))
    asked.reset()
    assert client.response().status == 502
    assert retrying.upstream.is_idle()
    client.close()


def test_a_refused_connection_is_tried_again(tmp_path: Path) -> None:
    """An upstream that is just starting is waited for as long as the retries last."""
    from http_peers import free_port

    port = free_port()
    config = proxy_config(retry="{max_retries: 10, initial_interval_ms: 100, max_interval_ms: 300}")
    with Upstream() as unused, running_proxy(tmp_path, unused, config, url=f"http://127.0.0.1:{port}") as hop:
        client = hop.client()
        client.ask(post(message("tools/list")))
        with Upstream(port) as upstream:
            upstream.next().answer(200, [JSON], answer())
            assert client.response().read() == answer()


def test_a_client_that_leaves_ends_the_retries(tmp_path: Path) -> None:
    """Nobody is waiting any more."""
    config = proxy_config(retry="{max_retries: 1, initial_interval_ms: 60000, max_interval_ms: 60000}")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client, asked = hop.ask(post(message("tools/list")))
        asked.answer(503)
        asked.gone.wait(0.2)
        client.reset()
        hop.golden(post(call(id=8)), 200, [JSON], answer(8))
