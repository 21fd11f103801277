from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mcp_audit.relay.http.target import BadTarget, Target, absolute, split_target


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        pytest.param("http://up:8080/mcp", ("http", "up", 8080, b"/mcp", b""), b"up:8080", id="plain"),
        pytest.param("HTTPS://Up.Example", ("https", "up.example", 443, b"", b""), b"up.example", id="case"),
        pytest.param("http://up.example/", ("http", "up.example", 80, b"", b""), b"up.example", id="lone-slash"),
        pytest.param("http://up.example:80/a", ("http", "up.example", 80, b"/a", b""), b"up.example", id="own-port"),
        pytest.param("http://h:443/a", ("http", "h", 443, b"/a", b""), b"h:443", id="other-port"),
        pytest.param("http://[::1]:5/", ("http", "::1", 5, b"", b""), b"[::1]:5", id="ipv6"),
        pytest.param("http://h/a%2Fb;v=1//c/", ("http", "h", 80, b"/a%2Fb;v=1//c/", b""), b"h", id="as-written"),
        pytest.param("http://h/caf\u00e9x", ("http", "h", 80, b"/caf%C3%A9x", b""), b"h", id="encoded"),
        pytest.param("http://b\u00fc.de/", ("http", "xn--b-eha.de", 80, b"", b""), b"xn--b-eha.de", id="idna"),
        pytest.param("https://h/m?key=a%20b&c", ("https", "h", 443, b"/m", b"key=a%20b&c"), b"h", id="query"),
    ],
)  # fmt: skip
def test_a_url_is_an_address_and_a_path(url: str, target: tuple[object, ...], authority: bytes) -> None:
    """The path stays as it is written; the port is named in `Host` only if it is not the scheme's."""
    parsed = Target.parse(url)

    assert parsed == target
    assert parsed.authority == authority
    assert parsed.origin == parsed.scheme.encode() + b"://" + authority
    assert parsed.own_target == (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:8080", "/mcp", "ftp://h/", "http://", "http:///x", "http://h:99999/", "http://h:x/",
        "http://[::1/",
        "http://u:secret@h/", "http://u@h/", "http://h/#f", "http://h/a b", "http://h/\n", "http://h/\x7f",
        " http://h/",
        "http://" + "x" * 70 + "\u00fc.example",
    ],
)  # fmt: skip
def test_what_is_no_upstream_is_refused_without_showing_a_password(url: str) -> None:
    """One sentence that says what was found and what is wanted."""
    with pytest.raises(BadTarget) as caught:
        Target.parse(url)

    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.args)


ONE_TO_ONE = Target.parse("http://h")
PREFIXED = Target.parse("http://h/base/mcp")
SLASHED = Target.parse("http://h/base/mcp/")


@pytest.mark.parametrize(
    ("target", "raw", "expected"),
    [
        pytest.param(ONE_TO_ONE, b"/", b"/", id="no-path-root"),
        pytest.param(ONE_TO_ONE, b"//a/../..%2f?x=%20?y", b"//a/../..%2f?x=%20?y", id="no-path-anything"),
        pytest.param(ONE_TO_ONE, b"*", b"*", id="asterisk"),
        pytest.param(PREFIXED, b"*", b"*", id="asterisk-with-path"),
        pytest.param(PREFIXED, b"/", b"/base/mcp", id="root"),
        pytest.param(PREFIXED, b"/?a=%20", b"/base/mcp?a=%20", id="root-query"),
        pytest.param(PREFIXED, b"/?", b"/base/mcp?", id="root-lone-mark"),
        pytest.param(PREFIXED, b"/base/mcp", b"/base/mcp", id="itself"),
        pytest.param(PREFIXED, b"/base/mcp/", b"/base/mcp/", id="itself-slash"),
        pytest.param(PREFIXED, b"/base/mcp/a%2Fb?x", b"/base/mcp/a%2Fb?x", id="below"),
        pytest.param(PREFIXED, b"/base/mcp/a/../b/./c", b"/base/mcp/a/../b/./c", id="dots-that-stay-inside"),
        pytest.param(PREFIXED, b"/base/mcpx", b"/base/mcp/base/mcpx", id="longer-name"),
        pytest.param(PREFIXED, b"/base", b"/base/mcp/base", id="above"),
        pytest.param(PREFIXED, b"/x", b"/base/mcp/x", id="other"),
        pytest.param(PREFIXED, b"//x", b"/base/mcp//x", id="double-slash"),
        pytest.param(PREFIXED, b"/.well-known/a/b", b"/.well-known/a/b", id="well-known"),
        pytest.param(PREFIXED, b"/.well-known", b"/base/mcp/.well-known", id="nearly-well-known"),
        pytest.param(PREFIXED, b"/a..b/...", b"/base/mcp/a..b/...", id="dots-in-names"),
        pytest.param(PREFIXED, b"/x?../../..", b"/base/mcp/x?../../..", id="dots-in-query"),
        pytest.param(SLASHED, b"/", b"/base/mcp/", id="slashed-root"),
        pytest.param(SLASHED, b"/base/mcp", b"/base/mcp", id="slashed-itself"),
        pytest.param(SLASHED, b"/x", b"/base/mcp/x", id="slashed-other"),
    ],
)
def test_a_path_of_the_url_is_a_prefix(target: Target, raw: bytes, expected: bytes) -> None:
    """Everything else is sent as received."""
    assert target.map_target(raw) == expected
    assert target.map(*split_target(raw)) == (expected if not raw.endswith(b"?") else expected[:-1])


@pytest.mark.parametrize(
    "path",
    [
        b"/..", b"/../x", b"/base/mcp/..", b"/base/mcp/../../admin", b"/base/mcp/a/../../x", b"/./../x", b"//../x",
        b"/a//../../x",
        b"/%2e%2e/x", b"/.%2E/x", b"/%2e./x", b"/..%2fx", b"/a%2f..%2f../x", b"/a%2fb/../..", b"/..%5cx", b"/..\\x",
        b"/a\\..\\..\\x",
        b"/%252e%252e/x", b"/%25252e./x", b"/..;/x", b"/..;v=1/x", b"/a/..;/..;/x", b"/..%3bx/y", b"/..%00/x",
        b"/..%20/x",
        b"/..%09/x", b"/..%3f/x", b"/..%23/x", b"/;/../x", b"/.well-known/../x", b"/.well-known/%2e%2e/x",
        b"/base/mcp/../../.well-known/x",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_prefix(path: bytes) -> None:
    """In any server's reading: the prefix is what the operator chose to expose."""
    with pytest.raises(BadTarget, match="leads out"):
        PREFIXED.map(path)

    assert ONE_TO_ONE.map(path) == path


def readings(path: bytes) -> set[bytes]:
    """Return where servers may see a path: each mixture of decoding, slash merging and parameter cutting."""
    found = set()
    for decode in range(3):
        for merge in (False, True):
            for cut in (False, True):
                for backslash in (False, True):
                    text = path
                    for _ in range(decode):
                        text = unquote_to_bytes(text)
                    if backslash:
                        text = text.replace(b"\\", b"/")
                    segments: list[bytes] = []
                    for raw in text.split(b"/")[1:]:
                        segment = raw.partition(b";")[0] if cut else raw
                        if segment == b"..":
                            if segments:
                                segments.pop()
                        elif segment != b"." and (segment or not merge):
                            segments.append(segment)
                    found.add(b"/" + b"/".join(segments))
    return found


PIECES = [
    b"/",
    b"..",
    b".",
    b"%2e",
    b"%2E",
    b"%2f",
    b"%5c",
    b"\\",
    b"%25",
    b"2e",
    b";",
    b"a",
    b"base/mcp",
    b"/.well-known/",
    b"%3b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b"a%2fb/../..")
def test_every_reading_of_what_passes_is_inside(tail: bytes) -> None:
    """Against servers that normalise in their own ways, not against our own idea of a path."""
    try:
        mapped = PREFIXED.map(b"/" + tail)
    except BadTarget:
        assume(False)
        return
    root = b"/.well-known/" if mapped.startswith(b"/.well-known/") else b"/base/mcp"
    for seen in readings(mapped):
        assert (seen + b"/").startswith(root), (mapped, seen)


@given(st.binary(max_size=40))
def test_what_passes_is_never_changed(tail: bytes) -> None:
    """Without a path of the URL's own there is nothing to map and nothing to refuse."""
    assert ONE_TO_ONE.map_target(b"/" + tail) == b"/" + tail


@pytest.mark.parametrize(
    ("raw", "origin", "authority", "rest"),
    [
        pytest.param(b"http://up:81/a%2F/../b?x=1", b"http://up:81", b"up:81", b"/a%2F/../b?x=1", id="whole"),
        pytest.param(b"HTTP://Up.Example", b"http://up.example", b"Up.Example", b"/", id="no-path"),
        pytest.param(b"http://up?q=/x", b"http://up", b"up", b"/?q=/x", id="query-only"),
        pytest.param(b"http://up:80/", b"http://up", b"up:80", b"/", id="own-port"),
        pytest.param(b"https://[::1]:8/x", b"https://[::1]:8", b"[::1]:8", b"/x", id="ipv6"),
    ],
)
def test_an_absolute_target_is_taken_apart(raw: bytes, origin: bytes, authority: bytes, rest: bytes) -> None:
    """Path and query stay as they came, and so does the authority."""
    target, written, sent = absolute(raw)

    assert (target.origin, written, sent) == (origin, authority, rest)
    assert (target.path, target.query) == (b"", b"")


@pytest.mark.parametrize(
    "raw",
    [b"/x", b"*", b"ftp://h/", b"http://", b"http:///x", b"http://u@h/", b"http://u:p@h/", b"http://h/#f",
    b"http://h:1:2/",
     b"http://h:99999/", b"http://h\\@evil/", b"http://[::1/", b"http://a b/", b"http://\xff/"],
)  # fmt: skip
def test_what_is_no_absolute_target_is_refused(raw: bytes) -> None:
    """Nobody is to wonder which host was meant."""
    with pytest.raises(BadTarget):
        absolute(raw)
