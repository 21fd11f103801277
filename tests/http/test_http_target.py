"""Every method, path and query reaches the upstream as received; a path of the upstream's URL is a prefix."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_hop import Hop, proxy_config, running_proxy
from http_messages import JSON, answer, call, get, post
from http_peers import Request, Upstream


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"PROPFIND", b"REPORT"])
def test_every_method_passes(hop: Hop, method: bytes) -> None:
    """With whatever the upstream makes of it."""
    hop.golden(Request(method, b"/mcp"), 405, [(b"Allow", b"POST")], b"not this one")


def test_head_has_a_length_and_no_body(hop: Hop) -> None:
    """The announced length is that of the body a GET would have had; the connection stays usable."""
    client, asked = hop.ask(Request(b"HEAD", b"/mcp"))
    asked.answer(200, [JSON, (b"Content-Length", b"1234")])
    response = client.response()
    hop.check_head(response, 200, [(b"content-type", b"application/json"), (b"content-length", b"1234")])
    assert response.read() == b""
    hop.golden(get(), 405, client=client)


def test_a_preflight_request_is_the_upstreams_business(hop: Hop) -> None:
    """CORS headers pass both ways."""
    asked = Request(
        b"OPTIONS", b"/mcp",
        ((b"Origin", b"http://localhost:6274"), (b"Access-Control-Request-Method", b"POST"),
         (b"Access-Control-Request-Headers", b"content-type,mcp-protocol-version,mcp-session-id")),
    )  # fmt: skip
    hop.golden(
        asked, 204,
        [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Allow-Headers", b"*"),
         (b"Access-Control-Expose-Headers", b"mcp-session-id"), (b"Vary", b"Origin")],
    )  # fmt: skip


@pytest.mark.parametrize(
    "target",
    [
        b"/", b"/mcp", b"/mcp/", b"//mcp//x", b"/mcp?", b"/mcp?a=1&a=2&b", b"/mcp?q=%41%2f+%20&x=a;b",
        b"/a%2Fb%20c%C3%A9",
        b"/%7Euser/~user", b"/mcp?u=http://x/y?z", b"/mcp;v=1/@:!$&'()*+,=", b"/a%2e%2e/b", b"/mcp?" + b"q" * 4000,
        b"/.well-known/oauth-protected-resource/mcp", b"/.well-known/oauth-authorization-server", b"/register",
    ],
)  # fmt: skip
def test_path_and_query_are_sent_as_received(hop: Hop, target: bytes) -> None:
    """Percent-encoding included: nothing is decoded, normalised or completed."""
    hop.golden(Request(b"GET", target), 404, [JSON], b"{}")


@pytest.mark.parametrize(
    "target",
    [
        b"/healthz",
        b"/readyz",
        b"/metrics",
        b"/checkpoint",
        b"/docs",
        b"/openapi.json",
        b"/favicon.ico",
        b"/api/entries",
    ],
)
def test_the_listener_serves_no_path_of_its_own(hop: Hop, target: bytes) -> None:
    """What an operator asks of the proxy is asked at another port."""
    hop.golden(Request(b"GET", target), 200, [(b"Content-Type", b"text/plain")], b"the upstream's")


MAPPED = [
    pytest.param(b"/", b"/base/mcp", id="root-is-the-path"),
    pytest.param(b"/?a=%20", b"/base/mcp?a=%20", id="root-with-query"),
    pytest.param(b"/base/mcp", b"/base/mcp", id="the-path-stays"),
    pytest.param(b"/base/mcp?x=1", b"/base/mcp?x=1", id="the-path-with-query"),
    pytest.param(b"/base/mcp/sub%2F?x", b"/base/mcp/sub%2F?x", id="below-stays"),
    pytest.param(b"/.well-known/oauth-protected-resource", b"/.well-known/oauth-protected-resource", id="well-known"),
    pytest.param(b"/messages?s=1", b"/base/mcp/messages?s=1", id="others-are-appended"),
    pytest.param(b"/base", b"/base/mcp/base", id="above-is-another"),
    pytest.param(b"/base/mcpx", b"/base/mcp/base/mcpx", id="a-longer-name-is-another"),
    pytest.param(b"/.well-knownx", b"/base/mcp/.well-knownx", id="nearly-well-known"),
]


def test_an_upstream_with_a_path(tmp_path: Path) -> None:
    """`/` becomes the path; what is at or below it and `/.well-known/` stay; anything else is put below it."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, path="/base/mcp") as hop:
        client = hop.client()
        for case in MAPPED:
            target, expected = case.values
            assert isinstance(target, bytes)
            client.ask(Request(b"GET", target))
            asked = upstream.next()
            assert asked.target == expected, case.id
            asked.answer(404)
            assert client.response().status == 404


def test_the_pool_takes_the_upstreams_name_from_its_url(tmp_path: Path) -> None:
    """`localhost` stays a name in `Host`, for servers that list the names they answer to."""
    with Upstream() as upstream:
        url = f"http://localhost:{upstream.port}/mcp"
        with running_proxy(tmp_path, upstream, proxy_config(), url=url) as hop:
            client = hop.client()
            client.ask(post(call()))
            asked = upstream.next()
            assert asked.head.get(b"host") == b"localhost:%d" % upstream.port
            asked.answer(200, [JSON], answer())
            assert client.response().read() == answer()
