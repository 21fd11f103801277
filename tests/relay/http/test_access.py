from __future__ import annotations

import hashlib

import pytest

from mcp_audit.relay.http.access import Access
from mcp_audit.relay.http.headers import Headers


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def refusal(access: Access, *headers: tuple[bytes, bytes]) -> tuple[int, str] | None:
    """Return status and kind; a good Host is given unless there is one."""
    given: Headers = list(headers)
    if not any(name == b"host" for name, _ in given):
        given.insert(0, (b"host", b"localhost:4422"))
    refused = access.check(given)
    return None if refused is None else (refused.status, refused.kind)


LOCAL = Access("127.0.0.1")
FOREIGN = (403, "origin_rejected")
LOOPBACK_HOSTS = [
    b"localhost", b"localhost:4422", b"LocalHost:1", b"localhost.", b"127.0.0.1", b"127.0.0.1:9", b"127.8.9.1",
    b"[::1]", b"[::1]:9",
    b"[::ffff:127.0.0.1]", b" localhost ",
]  # fmt: skip
EVIL_HOSTS = [
    b"", b"evil.example", b"evil.example:4422", b"localhost.evil.example", b"127.0.0.1.evil.example",
    b"evil.example@localhost",
    b"localhost@evil.example", b"localhost, evil.example", b"localhost/evil", b"localhost:80:evil", b"192.0.2.1",
    b"[::2]", b"0.0.0.0",
    b"[::1].evil", b"localhost\xff", b"2130706433", b"0177.0.0.1", b"xlocalhost", b"localhost evil.example",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACK_HOSTS)
def test_a_loopback_listener_answers_to_loopback_names(host: bytes) -> None:
    """On whatever port."""
    assert refusal(LOCAL, (b"host", host)) is None


@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_a_rebound_name_is_refused(host: bytes) -> None:
    """A web page whose name now points at this machine sends that name."""
    assert refusal(LOCAL, (b"host", host)) == FOREIGN


def test_one_host_it_must_be() -> None:
    """None, or two of which one is good, is not one."""
    refused = LOCAL.check([])
    assert refused is not None
    assert (refused.status, refused.kind) == FOREIGN
    assert refusal(LOCAL, (b"host", b"localhost"), (b"host", b"evil.example")) == FOREIGN


@pytest.mark.parametrize(
    "origin",
    [b"http://localhost", b"http://localhost:6274", b"https://127.0.0.1", b"HTTP://LOCALHOST:1", b"http://[::1]:3"],
)
def test_pages_of_this_machine_may_ask(origin: bytes) -> None:
    """Whatever port they were served from."""
    assert refusal(LOCAL, (b"origin", origin)) is None


@pytest.mark.parametrize(
    "origin",
    [
        b"", b"null", b"http://evil.example", b"http://localhost.evil.example", b"http://localhost@evil.example",
        b"http://",
        b"http://evil.example/http://localhost", b"http://localhost, http://evil.example",
        b"http://localhost http://evil.example",
        b"localhost", b"file://localhost", b"chrome-extension://localhost", b"http://localhost:80:80", b"http://\xff",
    ],
)  # fmt: skip
def test_foreign_pages_may_not(origin: bytes) -> None:
    """Nor what only begins like one of ours, nor one hidden behind a good one."""
    assert refusal(LOCAL, (b"origin", origin)) == FOREIGN
    assert refusal(LOCAL, (b"origin", b"http://localhost"), (b"origin", origin)) == FOREIGN


def test_the_public_url_and_the_lists_pass_as_well() -> None:
    """A host on any port, or on the one that is listed; an origin with its scheme and port."""
    access = Access(
        "localhost",
        allowed_hosts=["mcp.internal", "Ported.internal:81", "2001:db8::1"],
        allowed_origins=["https://App.example", "http://app.example:8080", "null", "vscode-webview://a1"],
        public_url="https://Public.example/prefix",
    )
    for host in (
        b"mcp.internal",
        b"MCP.internal:9",
        b"ported.internal:81",
        b"public.example",
        b"public.example:9",
        b"[2001:db8::1]:7",
    ):
        assert refusal(access, (b"host", host)) is None, host
    for host in (b"ported.internal", b"ported.internal:82", b"other.internal"):
        assert refusal(access, (b"host", host)) == FOREIGN, host
    good = [
        b"https://app.example",
        b"https://app.example:443",
        b"http://app.example:8080",
        b"null",
        b"https://public.example",
    ]
    for origin in [*good, b"vscode-webview://a1", b"http://localhost:1"]:
        assert refusal(access, (b"origin", origin)) is None, origin
    for origin in (b"http://app.example", b"https://app.example:8443", b"http://public.example", b"vscode-webview://b"):
        assert refusal(access, (b"origin", origin)) == FOREIGN, origin


def test_on_another_address_the_upstream_decides_unless_a_list_is_set() -> None:
    """Who lists origins has said nothing about hosts; who lists hosts wants no foreign pages either."""
    evil = ((b"host", b"evil.example"), (b"origin", b"http://evil.example"))
    assert refusal(Access("0.0.0.0"), *evil) is None
    assert refusal(Access("192.0.2.1", public_url="http://public.example"), *evil) is None
    origins = Access("0.0.0.0", allowed_origins=["https://app.example"])
    assert refusal(origins, evil[0]) is None
    assert refusal(origins, *evil) == FOREIGN
    hosts = Access("::", allowed_hosts=["mcp.internal"])
    assert refusal(hosts, evil[0]) == FOREIGN
    assert refusal(hosts, (b"host", b"mcp.internal"), evil[1]) == FOREIGN
    assert refusal(hosts, (b"host", b"mcp.internal")) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST."])
def test_every_way_to_say_loopback_is_guarded(address: str) -> None:
    """The default must not be opened by another spelling."""
    assert refusal(Access(address), (b"host", b"evil.example")) == FOREIGN


def test_a_forward_proxy_does_not_judge_hosts() -> None:
    """Its clients name the upstream; no web page can send an absolute target. Pages are still judged."""
    access = Access("127.0.0.1", forward=True)

    assert refusal(access, (b"host", b"up.example")) is None
    assert refusal(access, (b"host", b"up.example"), (b"origin", b"http://evil.example")) == FOREIGN


TOKENS = Access(
    "127.0.0.1", tokens=[("alice", digest("one")), ("bob", digest("two").upper()), ("alice", digest("three"))]
)


@pytest.mark.parametrize(
    ("value", "name"),
    [(b"Bearer one", "alice"), (b"bearer two", "bob"), (b"BEARER   three", "alice"), (b" Bearer one ", "alice")],
)
def test_a_token_names_its_client(value: bytes, name: str) -> None:
    """A client may have several, so that one can be replaced while both work."""
    headers = [(b"host", b"localhost"), (b"authorization", value)]

    assert TOKENS.check(headers) is None
    assert TOKENS.client_name(headers) == name


@pytest.mark.parametrize(
    "values",
    [[], [b""], [b"Bearer"], [b"Bearer "], [b"Bearer four"], [b"Basic b25l"], [b"one"],
     [b"Bearer one two"], [b"Bearerone"],
     [b"Bearer one", b"Bearer one"], [b"Bearer one, Bearer two"], [b"Bearer \xff"],
     [b"Bearer " + digest("one").encode()]],
)  # fmt: skip
def test_without_a_valid_token_it_is_401(values: list[bytes]) -> None:
    """With the challenge that tells a client what is asked, and without a word about what it sent."""
    headers = [(b"host", b"localhost"), *((b"authorization", value) for value in values)]
    refused = TOKENS.check(headers)

    assert refused is not None
    assert refused.status == 401
    assert refused.headers == ((b"www-authenticate", b'Bearer realm="mcp-audit"'),)
    assert b"one" not in refused.reason.encode().replace(b"none", b"")
    assert TOKENS.client_name(headers) is None


@pytest.mark.parametrize(
    ("method", "extra", "passes"),
    [
        pytest.param("OPTIONS", [], True, id="preflight"),
        pytest.param("OPTIONS", [(b"content-length", b"2")], False, id="with-a-body"),
        pytest.param("OPTIONS", [(b"transfer-encoding", b"chunked")], False, id="with-chunks"),
        pytest.param("POST", [], False, id="no-options"),
    ],
)
def test_a_browser_may_ask_what_it_may_do(method: str, extra: list[tuple[bytes, bytes]], passes: bool) -> None:
    """It does so without credentials, so nobody with a browser could ever use a proxy that wanted them there."""
    asking = [(b"host", b"127.0.0.1"), (b"origin", b"http://localhost"), (b"access-control-request-method", b"POST")]
    assert (TOKENS.check([*asking, *extra], method) is None) is passes
    refused = TOKENS.check([*asking[:2], *extra], method)
    assert refused is not None
    assert refused.status == 401
    evil = [(name, b"http://evil.example" if name == b"origin" else value) for name, value in asking]
    assert TOKENS.check(evil, method) is not None


def test_without_tokens_nobody_has_a_name_from_them() -> None:
    """Authorization then is the upstream's."""
    assert LOCAL.client_name([(b"authorization", b"Bearer one")]) is None
    assert refusal(LOCAL, (b"authorization", b"Bearer one")) is None


def test_a_foreign_page_is_not_told_about_tokens() -> None:
    """Who must not ask at all learns nothing else."""
    assert refusal(TOKENS, (b"origin", b"http://evil.example")) == FOREIGN


def test_a_refusal_says_what_was_found_and_what_to_change() -> None:
    """In one line, however long or odd the header was."""
    refused = LOCAL.check([(b"host", b"evil\xff" + b"x" * 5000)])

    assert refused is not None
    assert "proxy.allowed_hosts" in refused.reason
    assert len(refused.reason) < 300
    assert refused.reason.isprintable()
    refused = Access("::1", setting="metrics").check([(b"host", b"evil.example")])
    assert refused is not None
    assert "metrics.allowed_hosts" in refused.reason
