from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.relay.http.headers import HeaderRules, Headers, to_client, value_of, values_of

RULES = HeaderRules(b"up.example:81")
CLIENT = ("192.0.2.7", 5000)
HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Expect",
]
NEVER = ["Cookie", "Set-Cookie", "Proxy-Authorization"]
ALWAYS = [
    "Mcp-Session-Id", "MCP-Protocol-Version", "mcp-method", "Mcp-Name", "Mcp-Param-Region", "Last-Event-ID",
    "Accept", "DPoP", "Origin",
    "Content-Type", "Content-Encoding", "User-Agent", "Accept-Encoding", "Traceparent",
    "Access-Control-Request-Method", "X-Anything",
]  # fmt: skip
TO_CLIENT_ALWAYS = [
    "Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "X-Accel-Buffering", "Access-Control-Expose-Headers",
    "Date", "Server", "Via",
    "Content-Length", "Content-Encoding", "X-Forwarded-For", "Forwarded", "Location", "ETag", "Vary", "Link",
]  # fmt: skip


def sent(headers: Headers, rules: HeaderRules = RULES, length: int = 0) -> Headers:
    return rules.to_upstream(headers, CLIENT, length)


def names(headers: Headers) -> list[bytes]:
    return [name.lower() for name, _ in headers]


@pytest.mark.parametrize("name", HOP + NEVER + ["Authorization"])
def test_what_belongs_to_the_hop_or_to_others_stays_here(name: str) -> None:
    """In any spelling of the name."""
    for spelled in (name, name.lower(), name.upper()):
        assert name.lower().encode() not in names(sent([(b"host", b"h"), (spelled.encode(), b"close")]))


@pytest.mark.parametrize("name", HOP + NEVER)
def test_a_response_keeps_its_hop_to_itself(name: str) -> None:
    """And cookies, which belong to a browser."""
    assert to_client([(name.encode(), b"x"), (b"Kept", b"1")]) == [(b"Kept", b"1")]


@pytest.mark.parametrize("name", ALWAYS)
def test_what_no_rule_names_goes_on_unchanged(name: str) -> None:
    """Bytes that no encoding has a meaning for included, repetitions included, in order."""
    given_ = [(name.encode(), b"\xff 1"), (b"other", b"x"), (name.encode(), b"")]

    assert sent(given_)[1:4] == given_


@pytest.mark.parametrize("name", TO_CLIENT_ALWAYS)
def test_a_response_goes_on_unchanged(name: str) -> None:
    """Nothing is added, and the names keep their spelling."""
    given_ = [(name.encode(), b"\xff 1"), (b"Other", b"x"), (name.encode(), b"")]

    assert to_client(given_) == given_


@pytest.mark.parametrize(
    "connection",
    [[b"X-Hop, close"], [b"close", b"x-hop"], [b" X-HOP\t,"], [b"keep-alive,x-hop"]],
    ids=["list", "two-fields", "spaces", "no-space"],
)
def test_names_listed_in_connection_stay_here(connection: list[bytes]) -> None:
    """Both ways."""
    given_ = [(b"X-Hop", b"1"), *((b"Connection", value) for value in connection), (b"X-Kept", b"2")]

    assert names(to_client(given_)) == [b"x-kept"]
    assert b"x-hop" not in names(sent(given_))
    assert b"x-kept" in names(sent(given_))


@pytest.mark.parametrize(
    "name",
    [
        "Origin",
        "Content-Type",
        "Content-Length",
        "Mcp-Session-Id",
        "MCP-Protocol-Version",
        "Accept",
        "Last-Event-ID",
        "DPoP",
    ],
)
def test_connection_has_no_power_over_what_others_decide_upon(name: str) -> None:
    """`Connection: Origin` would blind the check of the origin."""
    given_ = [(b"connection", name.encode()), (name.encode(), b"v")]

    assert (name.encode(), b"v") in sent(given_)
    assert to_client(given_) == [(name.encode(), b"v")]


def test_connection_cannot_remove_host_or_authorization() -> None:
    """Nor what we set ourselves."""
    rules = HeaderRules(b"up", ["authorization"])
    listed = b"Host, Authorization, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto"
    out = sent([(b"host", b"h"), (b"connection", listed), (b"authorization", b"Bearer x")], rules)

    assert out == [
        (b"host", b"up"),
        (b"authorization", b"Bearer x"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"h"),
    ]


@pytest.mark.parametrize(
    ("forward", "tokens", "passes", "worth_a_word"),
    [
        pytest.param([], False, False, True, id="default"),
        pytest.param(["AUTHORIZATION"], False, True, False, id="listed"),
        pytest.param([], True, False, False, id="ours"),
        pytest.param(["Authorization"], True, False, False, id="ours-though-listed"),
    ],
)
def test_authorization_goes_on_only_if_asked_for_and_not_ours(
    forward: list[str], tokens: bool, passes: bool, worth_a_word: bool
) -> None:
    """A credential that stays here without being asked for explains a 401 of the upstream."""
    rules = HeaderRules(b"up", forward, tokens=tokens)
    headers = [(b"host", b"h"), (b"authorization", b"Bearer x")]

    assert (b"authorization" in names(sent(headers, rules))) is passes
    assert rules.withholds_authorization(headers) is worth_a_word
    assert rules.withholds_authorization([(b"host", b"h")]) is False


def test_host_is_the_upstreams_in_its_place() -> None:
    """Also where the client sent none; a forward proxy keeps the client's."""
    given_ = [(b"accept", b"*/*"), (b"host", b"h:1"), (b"x", b"1")]

    assert sent(given_)[:3] == [(b"accept", b"*/*"), (b"host", b"up.example:81"), (b"x", b"1")]
    assert sent([(b"x", b"1")])[:2] == [(b"host", b"up.example:81"), (b"x", b"1")]
    assert sent(given_, HeaderRules(None))[:3] == given_


def test_what_clients_claim_about_the_way_is_replaced() -> None:
    """By what the connection says; other headers of that family are nobody's business here."""
    claims = [(name, b"evil") for name in (b"x-forwarded-for", b"X-Forwarded-Proto", b"x-forwarded-host", b"Forwarded")]
    out = sent([(b"host", b"localhost:4422"), *claims, (b"x-forwarded-port", b"9")])

    assert out == [
        (b"host", b"up.example:81"),
        (b"x-forwarded-port", b"9"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"localhost:4422"),
    ]


def test_the_public_url_says_how_clients_reach_us() -> None:
    """Scheme and host; the address of the client is still the connection's, without the zone of our own network."""
    rules = HeaderRules(b"up", public_url="https://mcp.example.com:8443/prefix")
    out = rules.to_upstream([(b"host", b"h")], ("fe80::1%eth0", 1))

    assert out[1:] == [
        (b"x-forwarded-for", b"fe80::1"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"mcp.example.com:8443"),
    ]
    assert rules.public_url == "https://mcp.example.com:8443/prefix"
    assert names(HeaderRules(b"up").to_upstream([], None)) == [b"host", b"x-forwarded-proto"]


def test_only_a_chunked_body_gets_a_length_of_ours() -> None:
    """The body is whole by then; a length that came with it was checked, and stays as it is."""
    assert values_of(sent([(b"transfer-encoding", b"chunked")], length=7), b"content-length") == [b"7"]
    assert values_of(sent([(b"transfer-encoding", b"chunked")]), b"content-length") == [b"0"]
    assert values_of(sent([(b"content-length", b"007")], length=7), b"content-length") == [b"007"]
    assert values_of(sent([], length=0), b"content-length") == []
    both = [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")]
    assert values_of(sent(both, length=7), b"content-length") == [b"7"]


def test_a_field_is_found_by_its_name() -> None:
    """Several of one name are one list."""
    headers = [(b"Accept", b"a"), (b"accept", b"b"), (b"x", b"")]

    assert values_of(headers, b"accept") == [b"a", b"b"]
    assert value_of(headers, b"accept") == b"a, b"
    assert value_of(headers, b"x") == b""
    assert value_of(headers, b"y") is None


NAMES = [name.encode() for name in HOP + NEVER + ALWAYS + TO_CLIENT_ALWAYS]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=12) | st.just(b"x-anything, close")), max_size=12))
def test_what_arrives_is_a_part_of_what_was_sent(headers: Headers) -> None:
    """The order of equal names survives, towards the client all order does, and the rules are idempotent there."""
    passed = to_client(headers)
    remaining = iter(headers)

    assert all(field in remaining for field in passed)
    assert to_client(passed) == passed
    up = sent(headers)
    ours = {b"host", b"content-length", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    remaining = iter(headers)
    assert all(field in remaining for field in up if field[0].lower() not in ours)
