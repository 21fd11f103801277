from __future__ import annotations

import pytest

from mcp_audit.relay.http.request_head import Refusal, examine

HOST = (b"host", b"h")


@pytest.mark.parametrize(
    ("method", "target", "forward", "expected"),
    [
        pytest.param(b"GET", b"/a%2f?b?c", False, (b"/a%2f", b"b?c"), id="origin"),
        pytest.param(b"GET", b"/?", False, (b"/", b""), id="lone-mark"),
        pytest.param(b"OPTIONS", b"*", False, (b"*", b""), id="asterisk"),
        pytest.param(b"GET", b"http://h/a//b?c", True, (b"/a//b", b"c"), id="absolute"),
        pytest.param(b"GET", b"hTTps://h", True, (b"/", b""), id="absolute-no-path"),
        pytest.param(b"GET", b"http://h?/x", True, (b"/", b"/x"), id="absolute-query"),
    ],
)
def test_a_target_is_taken_apart_as_it_is(
    method: bytes, target: bytes, forward: bool, expected: tuple[bytes, bytes]
) -> None:
    """Nothing is decoded."""
    assert examine(method, target, "1.1", [HOST], forward) == expected


@pytest.mark.parametrize(
    ("method", "target", "version", "headers", "forward", "status"),
    [
        pytest.param(b"GET", b"/", "2.0", [HOST], False, 505, id="version"),
        pytest.param(b"GET", b"/", "0.9", [], False, 505, id="no-version"),
        pytest.param(b"CONNECT", b"h:443", "1.1", [HOST], False, 501, id="connect"),
        pytest.param(b"CONNECT", b"h:443", "1.1", [HOST], True, 501, id="connect-forward"),
        pytest.param(b"GET", b"/", "1.1", [], False, 400, id="no-host"),
        pytest.param(b"GET", b"/", "1.1", [HOST, HOST], False, 400, id="hosts"),
        pytest.param(b"GET", b"/", "1.0", [HOST, HOST], False, 400, id="hosts-1.0"),
        pytest.param(b"GET", b"/", "1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], False, 501, id="coding"),
        pytest.param(b"GET", b"/", "1.0", [(b"transfer-encoding", b"chunked")], False, 400, id="coding-1.0"),
        pytest.param(b"GET", b"*", "1.1", [HOST], False, 400, id="asterisk"),
        pytest.param(b"GET", b"/#", "1.1", [HOST], False, 400, id="fragment"),
        pytest.param(b"GET", b"http://h/#", "1.1", [HOST], True, 400, id="fragment-forward"),
        pytest.param(b"GET", b"http://h/", "1.1", [HOST], False, 400, id="absolute"),
        pytest.param(b"GET", b"/", "1.1", [HOST], True, 400, id="origin-forward"),
        pytest.param(b"GET", b"ftp://h/", "1.1", [HOST], True, 400, id="other-scheme"),
        pytest.param(b"GET", b"h:80", "1.1", [HOST], False, 400, id="authority"),
    ],
)
def test_what_is_not_to_be_relayed_is_refused(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]], forward: bool, status: int
) -> None:
    """With the status that RFC 9110 has for it, and a sentence."""
    with pytest.raises(Refusal) as caught:
        examine(method, target, version, headers, forward)

    assert caught.value.status == status
    assert str(caught.value)


def test_http_1_0_needs_no_host() -> None:
    """It is older than that header; who may ask is decided elsewhere."""
    assert examine(b"GET", b"/x", "1.0", [], False) == (b"/x", b"")
