"""Rewrites: exactly the named bytes, exactly where they are meant, and everything else as it came."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_audit.wire.rewrite import (
    ANNOUNCEMENT_BYTES,
    METADATA_BYTES,
    Announcement,
    Public,
    Rewrite,
    rewrite_challenge,
    rewrite_metadata,
)

ORIGIN = b"http://localhost:8080"
NOWHERE = Public()
PUBLIC = Public.parse("https://mcp.example.com/fs/")


def pass_on(pieces: list[bytes], public: Public = NOWHERE, origin: bytes = ORIGIN) -> tuple[bytes, Announcement]:
    announcement = Announcement(origin, public)
    return b"".join(announcement.feed(piece) for piece in pieces) + announcement.finish(), announcement


def told(uri: bytes, public: Public = NOWHERE, origin: bytes = ORIGIN) -> bytes:
    """Return what a client reads instead of an endpoint."""
    start, end = b"event: endpoint\r\ndata: ", b"\r\n\r\n: more\r\n"
    data, announcement = pass_on([start + uri + end], public, origin)

    assert data.startswith(start)
    assert data.endswith(end)
    new = data[len(start) : -len(end)]
    assert announcement.rewrites == ((Rewrite("endpoint", uri, new),) if new != uri else ())
    assert announcement.endpoint is not None
    assert (announcement.endpoint.uri, announcement.endpoint.told) == (uri, new)
    return new


@pytest.mark.parametrize(
    ("url", "base", "prefix"),
    [
        ("", b"", b""),
        ("https://a.example", b"https://a.example", b""),
        ("https://a.example/", b"https://a.example", b""),
        ("http://a.example:81/x/y/", b"http://a.example:81/x/y", b"/x/y"),
        ("http://[::1]:81/x", b"http://[::1]:81/x", b"/x"),
        ("https://bücher.example/ä b", b"https://xn--bcher-kva.example/%C3%A4%20b", b"/%C3%A4%20b"),
        ("https://a.example/%C3%A4", b"https://a.example/%C3%A4", b"/%C3%A4"),
    ],
)
def test_a_public_url_is_ascii_without_a_last_slash(url: str, base: bytes, prefix: bytes) -> None:
    """So that it can stand in a header, in JSON and before a path."""
    assert Public.parse(url) == (base, prefix)


RELATIVE = [
    b"/messages/?session_id=1",
    b"messages?x=1",
    b"?x=1",
    b"./a/../b",
    b"../m",
    b"/",
    b"/a%2Fb//c",
    b"/x?u=http://u/",
]
ELSEWHERE = [
    pytest.param(b"http://other:8080/m", id="another-host"),
    pytest.param(b"http://localhost:8081/m", id="another-port"),
    pytest.param(b"http://localhost/m", id="no-port"),
    pytest.param(b"https://localhost:8080/m", id="another-scheme"),
    pytest.param(b"http://localhost:8080.evil/m", id="longer-host"),
    pytest.param(b"http://me@localhost:8080/m", id="user"),
    pytest.param(b"http://localhost:8080@evil/m", id="our-origin-as-user"),
    pytest.param(b"//localhost:8080/m", id="network-path"),
    pytest.param(b"http:/localhost:8080/m", id="one-slash"),
    pytest.param(b"http:m", id="scheme-alone"),
    pytest.param(b"mailto:x", id="another-kind"),
    pytest.param(b"http://localhost:8080//evil/m", id="would-become-a-network-path"),
    pytest.param(b"http://localhost:8080/\\evil/m", id="backslash"),
    pytest.param(b"http://localhost:8080\\@evil/m", id="backslash-in-the-host"),
    pytest.param(b"http://localhost:8080/\t/evil", id="tab"),
    pytest.param(b" /m", id="space"),
    pytest.param("/é".encode(), id="not-ascii"),
]


@pytest.mark.parametrize("uri", RELATIVE)
def test_a_relative_endpoint_passes_untouched(uri: bytes) -> None:
    """Clients resolve it against our own address."""
    assert told(uri) == uri


@pytest.mark.parametrize("uri", RELATIVE)
def test_an_absolute_path_gets_the_public_prefix(uri: bytes) -> None:
    """Else a client that came by `/fs/sse` would POST outside of `/fs`."""
    assert told(uri, PUBLIC) == (b"/fs" + uri if uri.startswith(b"/") else uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (b"http://localhost:8080/messages?s=1", b"/messages?s=1"),
        (b"HTTP://LocalHost:8080/Messages", b"/Messages"),
        (b"http://localhost:8080", b"/"),
        (b"http://localhost:8080?s=1", b"/?s=1"),
        (b"http://localhost:8080/a?u=http://localhost:8080/b#c", b"/a?u=http://localhost:8080/b#c"),
    ],
)
def test_an_endpoint_on_the_upstreams_origin_is_reduced(uri: bytes, expected: bytes) -> None:
    """To path and query, for the client does not know the upstream's address or must not use it."""
    assert told(uri) == expected
    assert told(uri, PUBLIC) == b"/fs" + expected


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        (b"http://up/m", b"http://up"),
        (b"http://up:80/m", b"http://up"),
        (b"http://up/m", b"http://up:80"),
        (b"http://up:/m", b"http://up"),
        (b"https://up:443/m", b"https://UP"),
        (b"http://[::1]:81/m", b"http://[::1]:81"),
    ],
)
def test_origins_are_equal_in_any_spelling(uri: bytes, origin: bytes) -> None:
    """RFC 3986 section 6.2.3: a port that is the scheme's own says nothing."""
    assert told(uri, origin=origin) == b"/m"


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_other_endpoints_pass_untouched(uri: bytes) -> None:
    """Other servers', and everything that two readers of URLs may take for different things."""
    assert told(uri) == uri
    assert told(uri, PUBLIC) == uri


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_posts_to_other_servers_have_no_address_here(uri: bytes) -> None:
    """What is sent there does not pass through us."""
    endpoint = pass_on([b"event: endpoint\ndata:" + (b" " + uri) + b"\n\n"])[1].endpoint

    assert endpoint is not None
    assert (endpoint.addresses(b"/sse"), endpoint.upstream_target(b"/sse")) == ((), None)


@pytest.mark.parametrize(
    ("uri", "local", "upstream"),
    [
        (b"/messages/?s=1", (b"/messages/?s=1", b"/fs/messages/?s=1"), b"/messages/?s=1"),
        (b"http://localhost:8080/m?s=1#f", (b"/m?s=1", b"/fs/m?s=1"), b"/m?s=1"),
        (b"m?s=1", (b"/m?s=1",), b"/deep/m?s=1"),
        (b"../m", (b"/m",), b"/m"),
        (b"?s=1", (b"/sse?s=1",), b"/deep/sse?s=1"),
    ],
)
def test_where_posts_will_arrive_and_what_they_mean(uri: bytes, local: tuple[bytes, ...], upstream: bytes) -> None:
    """Relative to where the client's GET came in, and to where it went on: the two paths may differ."""
    endpoint = pass_on([b"event: endpoint\ndata: " + uri + b"\n\n"], PUBLIC)[1].endpoint

    assert endpoint is not None
    assert endpoint.addresses(b"/sse?x=1") == local
    assert endpoint.upstream_target(b"/deep/sse") == upstream


WANTED = b"event: endpoint\ndata: http://localhost:8080/m\n\n"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(WANTED, b"event: endpoint\ndata: /m\n\n", id="usual"),
        pytest.param(WANTED * 2, b"event: endpoint\ndata: /m\n\n" + WANTED, id="only-the-first"),
        pytest.param(b"data: {}\n\n" + WANTED, None, id="not-the-first"),
        pytest.param(b"event: message\ndata: http://localhost:8080/m\n\n", None, id="another-type"),
        pytest.param(
            b"\xef\xbb\xbfdata:http://localhost:8080/m\r\revent:endpoint\r\r" + WANTED, None, id="no-type-yet"
        ),
        pytest.param(
            b"\xef\xbb\xbfdata:http://localhost:8080/m\revent:endpoint\r\r",
            b"\xef\xbb\xbfdata:/m\revent:endpoint\r\r",
            id="bom-cr",
        ),
        pytest.param(
            b": hi\n\nretry: 5\nid: 1\ndata\n\n" + WANTED,
            b": hi\n\nretry: 5\nid: 1\ndata\n\nevent: endpoint\ndata: /m\n\n",
            id="comments-and-priming",
        ),
        pytest.param(b"event: endpoint\ndata: http://localhost:8080/m\ndata:\n\n", None, id="two-data-lines"),
        pytest.param(b"event: endpoint\ndata\ndata: http://localhost:8080/m\n\n", None, id="bare-data-line"),
        pytest.param(b"event: endpoint\nxdata: http://localhost:8080/m\n\n", None, id="no-data"),
        pytest.param(
            b"event: endpoint\n:data: a\ndata: http://localhost:8080/m\ndatax: b\n\n",
            b"event: endpoint\n:data: a\ndata: /m\ndatax: b\n\n",
            id="lines-that-look-alike",
        ),
        pytest.param(WANTED[:-1], None, id="never-ends"),
        pytest.param(
            b"event: endpoint\ndata: http://localhost:8080/" + b"m" * ANNOUNCEMENT_BYTES + b"\n\n", None, id="too-long"
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_only_the_first_event_is_rewritten_and_only_an_endpoint(
    stream: bytes, expected: bytes | None, size: int
) -> None:
    """Line ends, other fields, comments, a byte order mark: everything but the address stays, in any chunks."""
    data, announcement = pass_on([stream[i : i + size] for i in range(0, len(stream), size)])

    assert data == (stream if expected is None else expected)
    assert bool(announcement.rewrites) == (expected is not None)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b"data", b": c", b"id: 1", b"event: endpoint", WANTED])
        | st.binary(max_size=5),
        max_size=12,
    ).map(b"".join),
    st.lists(st.integers(0, 1000), max_size=6),
)
@example(WANTED, [3, 20])
def test_nothing_else_is_ever_changed(stream: bytes, places: list[int]) -> None:
    """What comes out is what went in, but for the one address that was reported."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    data, announcement = pass_on([stream[start:end] for start, end in pairwise(edges)])

    for rewrite in announcement.rewrites:
        assert (rewrite.old, rewrite.new) == (b"http://localhost:8080/m", b"/m")
        stream = stream.replace(rewrite.old, rewrite.new, 1)
    assert data == stream


def test_only_an_event_that_may_be_the_endpoint_is_held() -> None:
    """Comments and events without data go on at once; an event goes on with its last byte; then all does."""
    announcement = Announcement(ORIGIN, NOWHERE)

    assert announcement.feed(b": ping\n\n") == b": ping\n\n"
    assert announcement.feed(b": pong\n") == b": pong\n"
    assert announcement.feed(b"id: 1\ndata:\n\n") == b"id: 1\ndata:\n\n"
    assert announcement.feed(b"event: endpoint\n") == b""
    assert announcement.feed(b"data: http://localhost:8080/m\n") == b""
    assert not announcement.over
    assert announcement.feed(b"\n") == b"event: endpoint\ndata: /m\n\n"
    assert announcement.over
    assert announcement.feed(b"dat") == b"dat"
    assert announcement.finish() == b""


def test_no_more_is_held_than_an_address_needs() -> None:
    """A stream that begins with a long event is no HTTP+SSE, and must not wait for its end."""
    announcement = Announcement(ORIGIN, NOWHERE)
    start = b"data: " + b"x" * (ANNOUNCEMENT_BYTES - 6)

    assert announcement.feed(start) == b""
    assert announcement.feed(b"y") == start + b"y"
    assert announcement.feed(b"z") == b"z"


METADATA = b"http://localhost:8080/.well-known/oauth-protected-resource/mcp"
MOVED = b"https://mcp.example.com/fs/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    "value",
    [
        b'Bearer resource_metadata="%b"',
        b'Bearer realm="x", error="invalid_token", resource_metadata="%b", scope="a b"',
        b'Bearer realm="resource_metadata=\\"http://localhost:8080/\\"",Resource_Metadata = "%b"',
        b'DPoP algs="ES256", resource_metadata="%b"',
        b"Bearer resource_metadata=%b",
        b"Bearer resource_metadata=%b, scope=x",
        b'Basic realm="x", Bearer resource_metadata="%b"',
        b'Basic abc==, Bearer\tresource_metadata="%b"',
    ],
)
def test_a_challenge_names_the_metadata_at_our_address(value: bytes) -> None:
    """The origin is replaced and the path stays, whatever stands around it."""
    data, rewrites = rewrite_challenge(value % METADATA, ORIGIN, PUBLIC)

    assert data == value % MOVED
    assert rewrites == (Rewrite("resource_metadata", METADATA, MOVED),)


def test_each_challenge_of_a_value_is_rewritten() -> None:
    """Schemes are offered side by side in one header."""
    value = b'DPoP resource_metadata="%b", Bearer resource_metadata="%b"'
    data, rewrites = rewrite_challenge(value % (METADATA, METADATA), ORIGIN, PUBLIC)

    assert data == value % (MOVED, MOVED)
    assert len(rewrites) == 2


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer",
        b"",
        b'Bearer realm="http://localhost:8080/"',
        b'Bearer realm="resource_metadata=http://localhost:8080/"',
        b'Bearer x_resource_metadata="http://localhost:8080/"',
        b'Bearer resource_metadata="http://other:8080/"',
        b'Bearer resource_metadata="http://localhost:8080.evil/"',
        b'Bearer resource_metadata="http://localhost:8080@evil/"',
        b'Bearer resource_metadata="/relative"',
        b'Bearer resource_metadata=" http://localhost:8080/"',
        b'Bearer resource_metadata="http:\\//localhost:8080/"',
        b'Bearer resource_metadata="http://localhost:8080/',
        b'Bearer resource_metadata="http://localhost:8080/", realm="open',
        b'Bearer "resource_metadata="http://localhost:8080/',
    ],
)
def test_other_challenges_pass_untouched(value: bytes) -> None:
    """The very object."""
    data, rewrites = rewrite_challenge(value, ORIGIN, PUBLIC)

    assert data is value
    assert rewrites == ()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            b'{"resource":"http://localhost:8080/mcp","a":1e2}',
            b'{"resource":"https://mcp.example.com/fs/mcp","a":1e2}',
            id="compact",
        ),
        pytest.param(
            b'\n{ "x": {"resource": "http://localhost:8080/"} ,\r\n"resource" :\t"http://localhost:8080" }\n',
            b'\n{ "x": {"resource": "http://localhost:8080/"} ,\r\n"resource" :\t"https://mcp.example.com/fs" }\n',
            id="spaced-and-nested",
        ),
        pytest.param(
            b'{"resource":"http:\\/\\/localhost:8080\\/mcp"}',
            b'{"resource":"https://mcp.example.com/fs\\/mcp"}',
            id="escaped-slashes",
        ),
        pytest.param(
            b'{"resource":"http://LOCALHOST:8080/?a=b","u":"http://localhost:8080/"}',
            b'{"resource":"https://mcp.example.com/fs/?a=b","u":"http://localhost:8080/"}',
            id="query",
        ),
    ],
)
def test_metadata_names_the_resource_at_our_address(body: bytes, expected: bytes) -> None:
    """One string of one member, cut out and replaced; numbers, order, white space and escapes stay."""
    data, (rewrite,) = rewrite_metadata(body, ORIGIN, PUBLIC)

    assert data == expected
    assert rewrite.name == "resource"
    assert body.replace(b'"' + rewrite.old + b'"', b'"' + rewrite.new + b'"') == data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"resource"',
        b'["resource","http://localhost:8080/"]',
        b'[{"resource":"http://localhost:8080/"}]',
        b'{"a":{"resource":"http://localhost:8080/"}}',
        b'{"Resource":"http://localhost:8080/"}',
        b'{"resource":"http://other/"}',
        b'{"resource":"http://localhost:80800/"}',
        b'{"resource":"http://localhost:8080@evil/"}',
        b'{"resource":"http://localhost:8080\\u0040evil/"}',
        b'{"resource":"http\\u003a//localhost:8080/"}',
        b'{"resource":"http://localhost:8080\\\\/"}',
        b'{"resource":["http://localhost:8080/"]}',
        b'{"resource":7}',
        b'{"resource":null}',
        b'{"resource":"http://localhost:8080/","resource":"http://localhost:8080/"}',
        b'{"resource":"http://localhost:8080/","resourc\\u0065":"http://evil/"}',
        b'{"resourc\\u0065":"http://localhost:8080/"}',
        b'{"resource":"http://localhost:8080/"} x',
        b'{"resource":"http://localhost:8080/",}',
        b'{"resource":"http://localhost:8080/',
        b'\xef\xbb\xbf{"resource":"http://localhost:8080/"}',
        b'{"resource":"http://localhost:8080/","x":"\xff"}',
        b'{"resource":"http://localhost:8080/","x":NaN}',
        b"[" * 1000,
        '{"resource":"http://localhost:8080/"}'.encode("utf-16"),
        b'{"resource":"http://localhost:8080/"}' + b" " * METADATA_BYTES,
    ],
)
def test_other_bodies_pass_untouched(body: bytes) -> None:
    """The very object, without raising."""
    data, rewrites = rewrite_metadata(body, ORIGIN, PUBLIC)

    assert data is body
    assert rewrites == ()


def test_without_a_public_url_nothing_is_rewritten() -> None:
    """There is nothing to name instead."""
    challenge, body = b'Bearer resource_metadata="%b"' % METADATA, b'{"resource":"%b"}' % METADATA

    assert rewrite_challenge(challenge, ORIGIN, NOWHERE).data is challenge
    assert rewrite_metadata(body, ORIGIN, NOWHERE).data is body


NAMES = st.sampled_from(["resource", "a", "b"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(METADATA.decode()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_a_rewritten_body_differs_in_one_value(value: object, indent: int | None, ascii_only: bool) -> None:
    """A reader finds what it would have found, with another resource."""
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    data, rewrites = rewrite_metadata(body, ORIGIN, PUBLIC)

    if isinstance(value, dict) and value.get("resource") == METADATA.decode() and len(rewrites) == 1:
        assert json.loads(data) == value | {"resource": MOVED.decode()}
    else:
        assert data is body
        assert not isinstance(value, dict) or value.get("resource") != METADATA.decode()


@given(
    st.binary(max_size=60),
    st.sampled_from([b"", b'Bearer resource_metadata="http://localhost:8080/', b'{"resource":"']),
)
def test_no_bytes_raise(noise: bytes, start: bytes) -> None:
    """Whatever a peer sends."""
    rewrite_challenge(start + noise, ORIGIN, PUBLIC)
    rewrite_metadata(start + noise, ORIGIN, PUBLIC)
    told(noise.replace(b"\r", b"").replace(b"\n", b"") or b"x")
