"""OAuth through the hop: challenges and metadata pass, are rewritten on request, or keep their URL in forward mode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import JSON, answer, call, delete, get, post
from http_peers import Request, Upstream

PUBLIC = "https://mcp.example.com/audit"


def challenge(upstream: Upstream) -> tuple[bytes, bytes]:
    """A challenge that names where the metadata is."""
    url = f"{upstream.url}/.well-known/oauth-protected-resource/mcp"
    return b"WWW-Authenticate", f'Bearer error="invalid_token", resource_metadata="{url}"'.encode()


def metadata(upstream: Upstream) -> bytes:
    """Protected resource metadata, with spaces that must survive."""
    return json.dumps({"resource": f"{upstream.url}/mcp", "authorization_servers": ["https://as.example"]}).encode()


def test_challenges_and_metadata_pass(hop: Hop) -> None:
    """Untouched, under the paths and with the statuses that the server chose."""
    hop.golden(post(call()), 401, [challenge(hop.upstream)])
    hop.golden(get(target=b"/.well-known/oauth-protected-resource/mcp"), 200, [JSON], metadata(hop.upstream))
    hop.golden(get(target=b"/.well-known/oauth-authorization-server"), 404)
    hop.golden(post(call()), 403, [(b"WWW-Authenticate", b'Bearer error="insufficient_scope", scope="a b"')])


def test_the_rewrite_names_the_public_url_in_two_places(tmp_path: Path) -> None:
    """In the challenge and in the document; the rest of both is byte-equal, and both are on record."""
    config = proxy_config(NEUTRAL, public_url=PUBLIC, oauth="{rewrite_metadata: true}")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client = hop.client()
        client.ask(post(call()))
        upstream.next().answer(401, [challenge(upstream)])
        response = client.response()
        assert response.status == 401
        response.read()
        _, value = challenge(upstream)
        assert response.head.get(b"www-authenticate") == value.replace(upstream.url.encode(), PUBLIC.encode())

        client.ask(get(target=b"/.well-known/oauth-protected-resource/mcp"))
        asked = upstream.next()
        assert asked.head.get(b"accept-encoding") == b"identity"
        asked.answer(200, [JSON], metadata(upstream))
        document = client.response().read()
        assert document == metadata(upstream).replace(upstream.url.encode(), PUBLIC.encode())
        hop.record(rewrites=["resource_metadata"])
        hop.record(rewrites=["resource"])


@pytest.mark.parametrize("config", [pytest.param(NEUTRAL, id="neutral"), pytest.param(ENFORCING, id="enforcing")])
def test_forward_mode_keeps_the_url(tmp_path: Path, config: str) -> None:
    """The upstream gets the target in origin form under its own name, and the ledger the call."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config, http_mode="forward")) as hop:
        for number in (1, 2):
            client = hop.client()
            client.ask(post(call(id=number), target=f"{upstream.url}/mcp?x=%2f".encode()))
            asked = upstream.next()
            assert asked.head.start == b"POST /mcp?x=%2f HTTP/1.1"
            asked.answer(200, [JSON], answer(number))
            assert client.response().read() == answer(number)
        hop.record(method="tools/call", request_id="2", outcome="answered")
        if config == ENFORCING:
            client.ask(post(call("delete_file", id=3), target=f"{upstream.url}/mcp".encode()))
            assert json.loads(client.response().read())["error"]["data"]["kind"] == "policy_denied"


def test_forward_mode_is_nobodys_open_relay(tmp_path: Path) -> None:
    """Only the upstream and listed hosts; no CONNECT, no target without a host."""
    with (
        Upstream() as upstream,
        Upstream() as listed,
        Upstream() as other,
        running_proxy(
            tmp_path,
            upstream,
            proxy_config(NEUTRAL, http_mode="forward", forward_hosts=f"['127.0.0.1:{listed.address[1]}']"),
        ) as hop,
    ):
        client = hop.client()
        client.ask(post(b"grant_type=x", (b"Authorization", b"Basic eDp5"), target=f"{listed.url}/token".encode()))
        asked = listed.next()
        assert (asked.body, asked.head.get(b"authorization")) == (b"grant_type=x", b"Basic eDp5")
        asked.answer(200, [JSON], b'{"access_token":"t"}')
        assert client.response().read() == b'{"access_token":"t"}'
        assert hop.exchanges() == [], "what passes unexamined is not recorded"

        for target, status in [(f"{other.url}/x".encode(), 403), (b"/mcp", 400), (b"https://example.com/", 403)]:
            client = hop.client()
            client.ask(Request(b"GET", target, ()))
            assert client.response().status == status
        client = hop.client()
        client.ask(Request(b"CONNECT", b"example.com:443", ()))
        assert client.response().status == 501
        assert upstream.is_idle()
        assert other.is_idle()


@pytest.mark.parametrize("started", [False, True], ids=["waiting", "streaming"])
def test_who_leaves_is_gone_from_an_unexamined_host_as_well(tmp_path: Path, started: bool) -> None:
    """No request outlives its client there."""
    with Upstream() as upstream, Upstream() as listed:
        config = proxy_config(http_mode="forward", forward_hosts=f"['127.0.0.1:{listed.address[1]}']")
        with running_proxy(tmp_path, upstream, config) as hop:
            client = hop.client()
            client.ask(Request(b"GET", f"{listed.url}/x".encode(), ()))
            asked = listed.next()
            if started:
                asked.stream()
                asked.chunk(b"x")
                client.response().next(b"x")
            client.close()
            assert asked.gone.wait(1)


def test_a_session_ends_with_its_delete(hop: Hop) -> None:
    """Whatever the server says to it passes."""
    hop.golden(delete((b"Mcp-Session-Id", b"gone")), 204)
    hop.golden(delete((b"Mcp-Session-Id", b"stays")), 405)
