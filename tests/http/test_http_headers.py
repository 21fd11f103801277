"""Which headers pass a hop and which do not, both ways; who may talk to the listener."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import ACCEPT, JSON, answer, call, get, post
from http_peers import Request, Upstream

CONFIGS = [pytest.param(NEUTRAL, id="neutral"), pytest.param(ENFORCING, id="enforcing")]

# name, value; whether it passes to the upstream, whether to the client (None: not asked)
TABLE = [
    ("Keep-Alive", "timeout=5", False, False),
    ("Proxy-Connection", "keep-alive", False, False),
    ("Proxy-Authenticate", "Basic", False, False),
    ("TE", "trailers", False, False),
    ("Trailer", "X-Checksum", False, False),
    ("Upgrade", "websocket", False, False),
    ("Cookie", "a=b", False, None),
    ("Set-Cookie", "a=b; Path=/", None, False),
    ("Proxy-Authorization", "Basic eA==", False, False),
    ("Mcp-Session-Id", "session-1", True, True),
    ("MCP-Protocol-Version", "2025-11-25", True, True),
    ("Mcp-Method", "tools/call", True, True),
    ("Mcp-Name", "echo", True, True),
    ("Mcp-Param-Region", "=?base64?w6k=?=", True, True),
    ("Mcp-Whatever-Comes", "1", True, True),
    ("Last-Event-ID", "event/9:~", True, True),
    ("DPoP", "eyJ.a.b", True, True),
    ("DPoP-Nonce", "n", True, True),
    ("Origin", "http://localhost:6274", True, None),
    ("Authorization", "Bearer token-of-the-upstream", True, None),
    ("X-Forwarded-Proto", "https", None, True),
    ("X-Forwarded-For", "192.0.2.1", None, True),
    ("Forwarded", "for=192.0.2.1", False, True),
    ("X-Real-IP", "192.0.2.1", True, True),
    ("User-Agent", "golden/1.0", True, None),
    ("Accept-Language", "de", True, None),
    ("Accept-Encoding", "gzip, br;q=0.5", True, None),
    ("Referer", "http://localhost/", True, None),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True, True),
    ("If-None-Match", '"x"', True, None),
    ("Range", "bytes=0-1", True, None),
    ("Via", "1.1 other", True, True),
    ("Sec-Fetch-Mode", "cors", True, None),
    ("X-Empty", "", True, True),
    ("WWW-Authenticate", 'Bearer resource_metadata="http://127.0.0.1/.well-known/x"', None, True),
    ("Retry-After", "7", None, True),
    ("X-Accel-Buffering", "no", None, True),
    ("Access-Control-Allow-Origin", "*", None, True),
    ("Access-Control-Expose-Headers", "mcp-session-id", None, True),
    ("Date", "Mon, 01 Jan 2001 00:00:00 GMT", None, True),
    ("Server", "scripted/1.0", None, True),
    ("Location", "/elsewhere", None, True),
    ("Cache-Control", "no-cache, no-transform", True, True),
    ("ETag", '"x"', None, True),
    ("Vary", "Accept", None, True),
    ("Strict-Transport-Security", "max-age=1", None, True),
    ("Alt-Svc", "clear", None, True),
]  # fmt: skip


def cases(column: int) -> list[object]:
    """Return the rows that say something about one direction."""
    return [
        pytest.param(row[0].encode(), row[1].encode(), row[column], id=row[0])
        for row in TABLE
        if row[column] is not None
    ]


@pytest.mark.parametrize(("name", "value", "passes"), cases(2))
def test_a_header_to_the_upstream(hop: Hop, name: bytes, value: bytes, passes: bool) -> None:
    """It passes with its bytes or not at all; nothing comes with it."""
    done = hop.golden(post(call(), (name, value)), 200, [JSON], answer())
    assert done.asked.head.all(name) == ([value] if passes or hop.is_direct else [])


@pytest.mark.parametrize(("name", "value", "passes"), cases(3))
def test_a_header_to_the_client(hop: Hop, name: bytes, value: bytes, passes: bool) -> None:
    """It passes with its bytes or not at all; no `Date`, `Server` or `Via` is added."""
    done = hop.golden(post(call()), 200, [JSON, (name, value)], answer())
    assert (value in done.response.head.all(name)) == (passes or hop.is_direct)


def test_nothing_is_added_to_a_bare_answer(hop: Hop) -> None:
    """What is not sent by the upstream is not seen by the client, framing apart."""
    done = hop.golden(post(call()), 200, [JSON], answer())
    names = {name for name, _ in done.response.head.headers}
    assert names - {b"connection", b"keep-alive"} == {b"content-type", b"content-length"}


def test_names_in_connection_are_stripped_unless_they_are_needed(hop: Hop) -> None:
    """`Connection: Origin` must not blind the check of the origin, nor a session lose its id."""
    named = b"X-Hop, close, Origin, Host, Mcp-Session-Id, Mcp-Param-A, Content-Type, Content-Length, Authorization"
    extra = (
        (b"Connection", named), (b"X-Hop", b"1"), (b"Origin", b"http://localhost"), (b"Mcp-Session-Id", b"s"),
        (b"Mcp-Param-A", b"p"), (b"Authorization", b"Bearer t"), (b"X-Kept", b"2"),
    )  # fmt: skip
    done = hop.golden(
        post(call(), *extra), 200,
        [JSON, (b"Connection", b"X-Up, Mcp-Session-Id"), (b"X-Up", b"1"), (b"Mcp-Session-Id", b"s")], answer(),
    )  # fmt: skip
    got = {name for name, _ in done.asked.head.headers}
    assert {b"origin", b"mcp-session-id", b"mcp-param-a", b"content-type", b"authorization", b"x-kept"} <= got
    if not hop.is_direct:
        assert b"x-hop" not in got
        assert b"x-up" not in {name for name, _ in done.response.head.headers}
    assert done.response.head.get(b"mcp-session-id") == b"s"


def test_duplicates_keep_number_and_order(hop: Hop) -> None:
    """Both ways; values are not folded into one line."""
    pairs = [(b"X-Many", b"b"), (b"X-Other", b"o"), (b"X-Many", b"a"), (b"x-many", b"b")]
    challenges = [(b"WWW-Authenticate", b'Bearer realm="x", error="y"'), (b"WWW-Authenticate", b"DPoP algs=ES256")]
    done = hop.golden(post(call(), *pairs), 401, [JSON, *challenges, (b"Vary", b"A"), (b"Vary", b"B")], b"{}")
    assert done.asked.head.all(b"x-many") == [b"b", b"a", b"b"]
    assert done.response.head.all(b"www-authenticate") == [value for _, value in challenges]


@pytest.mark.parametrize("value", [b"\xc3\xa9 \xe2\x98\x83", b"caf\xe9 \xff\x80", b'a"b\\c,d;e=f', b"tab\tinside"])
def test_values_are_bytes(hop: Hop, value: bytes) -> None:
    """No value is decoded and encoded again."""
    hop.golden(post(call(), (b"X-Value", value)), 200, [JSON, (b"X-Value", value)], answer())


def test_a_chunked_body_is_announced_with_its_length(hop: Hop) -> None:
    """The body is read whole, so its length is known; its bytes are the same."""
    body = call(text="x" * 5000)
    done = hop.golden(post((body[:1], body[1:100], body[100:])), 200, [JSON], answer())
    if not hop.is_direct:
        assert done.asked.head.get(b"content-length") == b"%d" % len(body)
        assert done.asked.head.all(b"transfer-encoding") == []


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS"])
def test_a_request_without_body_gets_no_length(hop: Hop, method: bytes) -> None:
    """`Content-Length: 0` where there was none would be another request."""
    done = hop.golden(Request(method, b"/mcp"), 200)
    assert done.asked.head.all(b"content-length") == []
    assert done.asked.head.all(b"transfer-encoding") == []


def test_an_empty_body_keeps_its_length(hop: Hop) -> None:
    """A POST of nothing."""
    done = hop.golden(Request(b"POST", b"/mcp", (), b""), 400)
    assert done.asked.head.get(b"content-length") == b"0"


def test_expect_is_answered_by_the_hop(proxy: Hop) -> None:
    """`100 Continue` comes from whoever reads the body; the upstream, which gets it whole, is not asked."""
    client = proxy.client()
    body = call()
    head = b"POST /mcp HTTP/1.1\r\nHost: %b\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    client.send(head % (client.host, len(body)))
    assert client.stream.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    client.send(body)
    asked = proxy.upstream.next()
    assert asked.body == body
    assert asked.head.all(b"expect") == []
    asked.answer(200, [JSON], answer())
    assert client.response().read() == answer()


def test_an_interim_answer_does_not_replace_the_final_one(hop: Hop) -> None:
    """103 first, then the answer."""
    client, asked = hop.ask(post(call()))
    asked.begin(103, [(b"Link", b"</x>; rel=preload")])
    asked.answer(200, [JSON], answer())
    response = client.response()
    assert (response.status, response.read()) == (200, answer())


def test_a_redirect_is_passed_and_not_followed(hop: Hop) -> None:
    """One request upstream per request of the client."""
    hop.golden(post(call()), 307, [(b"Location", hop.upstream.url.encode() + b"/other")], b"moved")
    assert hop.upstream.is_idle()
    hop.record(method="tools/call", request_id="7", http={"status": 307})


@pytest.mark.parametrize("config", CONFIGS)
def test_authorization_is_stripped_by_default_and_the_first_401_says_so(tmp_path: Path, config: str) -> None:
    """One warning for the whole run, naming the key that forwards it."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config, forward_headers="[]")) as hop:
        hop.authorization = False
        for _ in range(2):
            hop.golden(
                post(call(), (b"Authorization", b"Bearer t")), 401, [JSON, (b"WWW-Authenticate", b"Bearer")], b"{}"
            )
        hop.golden(post(call()), 401, [JSON], b"{}")
        program = hop.program
    assert program.stderr.count("proxy.forward_headers") == 1, program.stderr


def test_a_401_without_a_strip_is_no_reason_to_warn(tmp_path: Path) -> None:
    """The client had no credentials to lose."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(forward_headers="[]")) as hop:
        hop.golden(post(call()), 401, [JSON], b"{}")
        program = hop.program
    assert "forward_headers" not in program.stderr


@pytest.mark.parametrize("name", ["Cookie", "Set-Cookie", "Proxy-Authorization", "cookie"])
def test_cookies_cannot_be_asked_for(tmp_path: Path, name: str) -> None:
    """Listing one in `forward_headers` is a configuration error: exit 2 and a sentence."""
    (tmp_path / "config.yaml").write_text(proxy_config(forward_headers=f"[{name}]"))
    run = [sys.executable, "-m", "mcp_audit", "--config", "config.yaml", "--transport", "http"]
    done = subprocess.run(
        [*run, "--upstream", "http://127.0.0.1:1", "--port", "0"],
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"proxy.forward_headers" in done.stderr


def test_forwarded_headers_are_set_anew_from_the_connection(proxy: Hop) -> None:
    """Whatever the client claims about others is dropped."""
    claims = [(b"X-Forwarded-For", b"192.0.2.9"), (b"X-Forwarded-Host", b"evil"), (b"X-Forwarded-Proto", b"https"),
              (b"Forwarded", b"for=192.0.2.9"), (b"X-Forwarded-For", b"192.0.2.8")]  # fmt: skip
    client, asked = proxy.ask(post(call(), *claims))
    head = asked.head
    assert head.all(b"x-forwarded-for") == [b"127.0.0.1"]
    assert head.all(b"x-forwarded-host") == [client.host]
    assert head.all(b"x-forwarded-proto") == [b"http"]
    assert head.all(b"forwarded") == []
    asked.answer(200, [JSON], answer())
    assert client.response().read() == answer()


def test_forwarded_headers_name_the_public_url(tmp_path: Path) -> None:
    """Scheme and host are those that clients use."""
    config = proxy_config(public_url="https://mcp.example.com/proxy")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client = hop.client()
        client.ask(post(call(), (b"Host", b"mcp.example.com")))
        asked = upstream.next()
        assert asked.head.all(b"x-forwarded-proto") == [b"https"]
        assert asked.head.all(b"x-forwarded-host") == [b"mcp.example.com"]
        assert asked.head.all(b"x-forwarded-for") == [b"127.0.0.1"]
        assert asked.head.get(b"host") == upstream.authority
        asked.answer(200, [JSON], answer())
        assert client.response().read() == answer()


# -- who may talk to the listener --------------------------------------------------------------------------------------

ALLOWED = [
    pytest.param(b"Host", b"localhost", id="host-localhost"),
    pytest.param(b"Host", b"localhost:4422", id="host-localhost-port"),
    pytest.param(b"Host", b"LOCALHOST:1", id="host-any-case"),
    pytest.param(b"Host", b"127.0.0.1:9", id="host-ipv4"),
    pytest.param(b"Host", b"[::1]:9", id="host-ipv6"),
    pytest.param(b"Origin", b"http://localhost:6274", id="origin-localhost"),
    pytest.param(b"Origin", b"https://127.0.0.1", id="origin-ipv4"),
    pytest.param(b"Origin", b"http://[::1]:3", id="origin-ipv6"),
]
EVIL = [
    pytest.param((b"Host", b"evil.example"), id="host-rebound"),
    pytest.param((b"Host", b"evil.example:4422"), id="host-rebound-port"),
    pytest.param((b"Host", b"localhost.evil.example"), id="host-prefix"),
    pytest.param((b"Host", b"127.0.0.1.evil.example"), id="host-like-an-address"),
    pytest.param((b"Origin", b"http://evil.example"), id="origin"),
    pytest.param((b"Origin", b"http://localhost.evil.example"), id="origin-prefix"),
    pytest.param((b"Origin", b"null"), id="origin-null"),
    pytest.param((b"Origin", b"http://localhost@evil.example"), id="origin-userinfo"),
    pytest.param((b"Origin", b"http://evil.example/http://localhost"), id="origin-path"),
    pytest.param((b"Origin", b"http://localhost, http://evil.example"), id="origin-list"),
]


@pytest.mark.parametrize(("name", "value"), ALLOWED)
def test_loopback_names_may_talk_to_a_loopback_listener(hop: Hop, name: bytes, value: bytes) -> None:
    """Whatever their port."""
    hop.golden(post(call(), (name, value)), 200, [JSON], answer())


@pytest.mark.parametrize("pair", EVIL)
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_foreign_host_or_origin_is_refused(proxy: Hop, pair: tuple[bytes, bytes], method: bytes) -> None:
    """403 with our error; the upstream hears nothing, and the next client is served."""
    client = proxy.client()
    client.ask(Request(method, b"/mcp", (JSON, ACCEPT, pair), call() if method == b"POST" else None))
    response = client.response()
    refused = json.loads(response.read())
    assert response.status == 403
    assert refused["error"]["code"] == -32600
    assert refused["error"]["data"]["source"] == "mcp-audit"
    assert refused["error"]["data"]["kind"] == "origin_rejected"
    assert proxy.upstream.is_idle()
    proxy.golden(post(call()), 200, [JSON], answer())


def test_two_origins_are_refused(proxy: Hop) -> None:
    """One of them may be what the upstream looks at."""
    client = proxy.client()
    client.ask(post(call(), (b"Origin", b"http://localhost"), (b"Origin", b"http://evil.example")))
    assert client.response().status == 403
    assert proxy.upstream.is_idle()


def test_allowed_hosts_and_origins_are_added_to_loopback(tmp_path: Path) -> None:
    """Those of `public_url` as well."""
    config = proxy_config(
        allowed_hosts="[mcp.internal]", allowed_origins='["https://app.example"]', public_url="https://public.example/p"
    )
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        for pair in [
            (b"Host", b"mcp.internal"), (b"Host", b"mcp.internal:4422"), (b"Host", b"public.example"),
            (b"Host", b"localhost"), (b"Origin", b"https://app.example"), (b"Origin", b"https://public.example"),
            (b"Origin", b"http://localhost"),
        ]:  # fmt: skip
            client = hop.client()
            client.ask(post(call(), pair))
            upstream.next().answer(200, [JSON], answer())
            assert client.response().status == 200, pair
        for pair in [
            (b"Host", b"other.internal"),
            (b"Origin", b"http://app.example"),
            (b"Origin", b"https://app.example:8"),
        ]:
            client = hop.client()
            client.ask(post(call(), pair))
            assert client.response().status == 403, pair


def test_tokens_are_ours_and_name_the_client(tmp_path: Path) -> None:
    """Without a valid one 401; with one the client has a name, and the upstream never sees the token."""
    digest = hashlib.sha256(b"let-me-in-0123456789").hexdigest()
    config = proxy_config(ENFORCING, forward_headers="[]", auth="{tokens: [{name: alice, sha256: " + digest + "}]}")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        bad = [
            (),
            ((b"Authorization", b"Bearer wrong"),),
            ((b"Authorization", b"Basic eA=="),),
            ((b"Authorization", b"Bearer "),),
        ]
        for headers in bad:
            client = hop.client()
            client.ask(post(call(), *headers))
            response = client.response()
            response.read()
            assert response.status == 401
            assert (response.head.get(b"www-authenticate") or b"").startswith(b"Bearer")
        for word in (b"Bearer", b"bearer"):
            client = hop.client()
            client.ask(post(call(), (b"Authorization", word + b" let-me-in-0123456789")))
            asked = upstream.next()
            assert asked.head.all(b"authorization") == []
            asked.answer(200, [JSON], answer())
            assert client.response().read() == answer()
        hop.record(method="tools/call", outcome="answered", client_id="alice")
        assert b"let-me-in" not in hop.program.ledger.read_bytes()


def test_credentials_never_reach_the_ledger(proxy: Hop) -> None:
    """Neither the token nor the session id, which is recorded as a pseudonym."""
    secrets = [b"Bearer golden-secret-1", b"golden-secret-2", base64.b64encode(b"golden:secret-3")]
    names = [b"Authorization", b"Mcp-Session-Id", b"Proxy-Authorization"]
    proxy.golden(post(call(), *zip(names, secrets, strict=True)), 200, [JSON], answer())
    line = proxy.record(method="tools/call", outcome="answered")
    assert line["session"]
    stored = proxy.program.ledger.read_bytes()
    assert not [secret for secret in secrets if secret in stored]


def test_a_get_is_asked_with_what_the_client_accepts(hop: Hop) -> None:
    """No `Accept-Encoding` or `Accept` of ours."""
    done = hop.golden(get(), 405)
    assert done.asked.head.get(b"accept") == b"text/event-stream"
    assert done.asked.head.all(b"accept-encoding") == done.asked.head.all(b"user-agent") == []
