"""The upstream's URL, and which of its paths a request means.

Pure. A path and a query go on exactly as they came, percent-encoding included: nothing here decodes, normalises or
re-encodes what is sent. The one thing it refuses is a path that some server could read as lying outside the prefix
that the operator chose.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from mcp_audit.errors import McpAuditError

__all__ = ["BadTarget", "Target", "absolute", "split_target"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WELL_KNOWN = b"/.well-known/"
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_SEPARATORS = re.compile(rb"[/\\]")
_AFTER_THE_NAME = re.compile(rb"[;?#\x00].*", re.DOTALL)  # of a segment, for servers that cut there
_DECODED_AT_MOST = 3  # times; a chain of servers may decode more than once


class BadTarget(McpAuditError):
    """A URL, or the target of a request, that cannot be relayed; `str(error)` may be shown to the client."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(target, problem)
        self.target = target
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.target[:80]!r} {self.problem}"


class Target(NamedTuple):
    """Where an upstream is.

    Args:
        scheme: `http` or `https`.
        host: lower case, ASCII, an IPv6 address without its brackets.
        port: as written, else the scheme's.
        path: as sent, empty if the URL has none (a lone `/` is none).
        query: of the URL itself, without `?`; only the bridge has one.
    """

    scheme: str
    host: str
    port: int
    path: bytes = b""
    query: bytes = b""

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read `proxy.upstream`.

        Raises:
            BadTarget: not an absolute http or https URL, or one with a user name, password or fragment.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            ascii_host = _ascii(host or "")
        except ValueError as error:  # UnicodeError of IDNA is one, too
            raise BadTarget(url, f"is not a URL ({error}); one looks like http://localhost:8080/mcp") from None
        if parts.scheme not in _DEFAULT_PORTS or not ascii_host or re.search(r"[\s\x00-\x20\x7f]", url):
            raise BadTarget(url, "must be an absolute URL such as http://localhost:8080/mcp")
        if parts.username is not None or parts.password is not None:
            raise BadTarget(_hidden(url), "must not hold a user name or password; pass credentials in headers")
        if "#" in url:
            raise BadTarget(url, "must not have a fragment; drop `#` and what follows")
        path = _encoded(parts.path)
        return cls(
            parts.scheme,
            ascii_host,
            _DEFAULT_PORTS[parts.scheme] if port is None else port,
            b"" if path == b"/" else path,
            _encoded(parts.query),
        )

    @property
    def authority(self) -> bytes:
        """Value of `Host`: the port is left out where it is the scheme's, as clients do."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode()

    @property
    def origin(self) -> bytes:
        """`scheme://authority`, as in an `Origin` header."""
        return self.scheme.encode() + b"://" + self.authority

    @property
    def own_target(self) -> bytes:
        """The request target of the URL itself, for whoever is a client of it: `/` if it has no path."""
        return (self.path or b"/") + (b"?" + self.query if self.query else b"")

    def map(self, raw_path: bytes, query: bytes = b"") -> bytes:
        """Return the request target for the upstream. Without a path of the URL's own everything is 1:1.

        With a path P: `/` becomes P; P, what is below it, and `/.well-known/*` stay; any other X becomes P + X.

        Args:
            raw_path: as received, percent-encoding included; `*` stays `*`.
            query: as received, without `?`; empty: none.

        Raises:
            BadTarget: the path climbs out of P, or out of `/.well-known/`, in the eyes of some server.
        """
        path = self._mapped(raw_path) if self.path and raw_path != b"*" else raw_path
        return path + b"?" + query if query else path

    def map_target(self, raw: bytes) -> bytes:
        """Like `map`, for a whole request target; a lone `?` at its end survives."""
        path, mark, query = raw.partition(b"?")
        return self.map(path) + mark + query

    def _mapped(self, raw_path: bytes) -> bytes:
        prefix = self.path.rstrip(b"/")
        if raw_path in (b"/", b""):
            return self.path
        if raw_path == prefix:
            return raw_path
        if raw_path.startswith(prefix + b"/"):
            below, path = raw_path[len(prefix) :], raw_path
        elif raw_path.startswith(_WELL_KNOWN):
            below, path = raw_path[len(_WELL_KNOWN) :], raw_path
        else:
            below, path = raw_path, prefix + raw_path
        if (b".." in below or b"%" in below) and _climbs_out(below):
            raise BadTarget(raw_path.decode("latin-1"), "leads out of the path that proxy.upstream names")
        return path


def split_target(raw: bytes) -> tuple[bytes, bytes]:
    """Return (path, query) of a request target in origin form; a query that is missing is empty."""
    path, _, query = raw.partition(b"?")
    return path, query


def absolute(raw: bytes) -> tuple[Target, bytes, bytes]:
    """Take apart a request target in absolute form (RFC 9112 section 3.2.2), as a forward proxy receives it.

    Returns:
        The origin it names, without path; the authority as it was written; and the target in origin form for the
        request to that origin, path and query as they came (`/` where there is no path).

    Raises:
        BadTarget: not http or https, no host, a user name, a fragment.
    """
    found = _ABSOLUTE.fullmatch(raw)
    shown = raw.decode("latin-1")
    if found is None:
        raise BadTarget(shown, "is not an absolute http URL, which a forward proxy needs")
    scheme, authority, path, query = found.groups()
    if not _AUTHORITY.fullmatch(authority):
        raise BadTarget(shown if b"@" not in authority else _hidden(shown), "does not name a host as HTTP allows")
    origin = Target.parse(f"{scheme.decode().lower()}://{authority.decode()}")
    return origin, authority, (path or b"/") + (query or b"")


def _climbs_out(below: bytes) -> bool:
    """Tell whether any server could read `below` as leading above where it starts.

    Servers differ: they decode percent signs before or after they split, once or twice, merge slashes or not, take a
    backslash for a slash and cut `;parameters` or spaces from segments. So what goes up counts in the boldest of these
    readings, and what goes down in the most timid: a path may be refused that nobody would misread, never the reverse.
    """
    depth = 0
    for segment in below.split(b"/"):
        parts = [_AFTER_THE_NAME.sub(b"", part).strip() for part in _SEPARATORS.split(_decoded(segment))]
        ups = parts.count(b"..")
        if ups:
            depth -= ups
            if depth < 0:
                return True
        elif any(part not in (b"", b".") for part in parts):
            depth += 1
    return False


def _decoded(segment: bytes) -> bytes:
    for _ in range(_DECODED_AT_MOST):
        if b"%" not in segment:
            break
        segment = unquote_to_bytes(segment)
    return segment


def _ascii(host: str) -> str:
    """Return a host as it goes on the wire: lower case, international names in their ASCII form."""
    return host if host.isascii() else host.encode("idna").decode()


def _encoded(part: str) -> bytes:
    """Return a path or query as written, with only what cannot be sent percent-encoded."""
    return quote(part, safe="/?:@!$&'()*+,;=-._~%[]|\\\"<>^`{}").encode()


def _hidden(url: str) -> str:
    """Return a URL that may be shown, for a password must not."""
    return re.sub(r"//[^/?#]*@", "//...@", url)
