"""What the head of a client's request must satisfy beyond its grammar, before anybody acts on it.

Pure. It refuses what two readers of one connection could take for different requests, and never mends anything: a path
stays as it came.

Sources: RFC 9112 sections 3.2 (targets), 6.1 (framing); RFC 9110 section 7.2 (Host).
"""

from __future__ import annotations

from mcp_audit.errors import McpAuditError
from mcp_audit.relay.http.headers import Headers
from mcp_audit.relay.http.target import split_target

__all__ = ["Refusal", "examine"]

_ABSOLUTE = (b"http://", b"https://")


class Refusal(McpAuditError):
    """A request that is answered by the listener itself; the connection does not survive it."""

    def __init__(self, status: int, problem: str) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


def examine(method: bytes, target: bytes, version: str, headers: Headers, forward: bool) -> tuple[bytes, bytes]:
    """Return (path, query) as they were received.

    Args:
        headers: names in lower case.
        forward: we are a forward proxy, which takes absolute targets, and only those.

    Raises:
        Refusal: not a request to relay.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(505, "this is an HTTP/1.1 listener")
    if method == b"CONNECT":
        raise Refusal(501, "CONNECT is not supported, since TLS is not intercepted")
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1  # whether it is one of ours is a question of access
        elif name == b"transfer-encoding":
            _check_coding(value, version)
    if hosts > 1 or (not hosts and version == "1.1"):
        raise Refusal(400, "a request has exactly one Host header")
    return _take_apart(method, target, forward)


def _check_coding(value: bytes, version: str) -> None:
    if version == "1.0":
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")
    if value.strip(b" \t").lower() != b"chunked":
        # The parser takes "gzip, chunked" as well, and would hand over a body that is still compressed.
        raise Refusal(501, "the only transfer coding understood is chunked")


def _take_apart(method: bytes, target: bytes, forward: bool) -> tuple[bytes, bytes]:
    if b"#" in target:
        raise Refusal(400, "the request target has a fragment")
    if forward:
        if target[:8].lower().startswith(_ABSOLUTE):
            path, query = split_target(target)
            slash = path.find(b"/", path.index(b"://") + 3)
            return (path[slash:] if slash >= 0 else b"/"), query
        raise Refusal(400, "this is a forward proxy: name it in HTTP_PROXY instead of sending requests to it directly")
    if target.startswith(b"/"):
        return split_target(target)
    if target == b"*" and method == b"OPTIONS":
        return target, b""
    raise Refusal(400, "the request target must be a path; absolute ones are for forward proxies")
