"""Which headers cross the hop, and which are ours to set.

Pure. Names are compared without case; values are bytes and never looked into, but for `Connection`. What no rule names
goes on as it came, duplicates and order included. Towards the client nothing is ever added.

Sources: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112 section 6 (framing).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

__all__ = ["HeaderRules", "Headers", "to_client", "value_of", "values_of"]

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
    }
)
# They belong to a browser or to another proxy, not to MCP.
_NEVER = frozenset({b"cookie", b"set-cookie", b"proxy-authorization"})
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"})
# `Connection: Origin` must not let a peer remove what the other side decides upon.
_PROTECTED = frozenset({b"origin", b"host", b"authorization", b"accept", b"last-event-id", b"dpop"})
_PROTECTED_PREFIXES = (b"content-", b"mcp-")
_TO_CLIENT = _HOP_BY_HOP | _NEVER
_NONE: frozenset[bytes] = frozenset()
# The values of `Connection` that nearly every peer sends name no field.
_NAMES_NOTHING = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})


class HeaderRules:
    """What becomes of a request's headers on their way to one upstream; made once, used for every request.

    Args:
        authority: value of `Host` for the upstream; None keeps the client's (a forward proxy).
        forward: `proxy.forward_headers`, any case; only `Authorization` is withheld unless listed there.
        tokens: `Authorization` is for ourselves.
        public_url: the address that clients use; empty: that of the connection.
    """

    def __init__(
        self,
        authority: bytes | None,
        forward: Iterable[str] = (),
        *,
        tokens: bool = False,
        public_url: str = "",
    ) -> None:
        listed = {name.lower() for name in forward}
        self._authority = authority
        self._withholds = tokens or "authorization" not in listed
        self._tokens = tokens
        withheld = {b"authorization"} if self._withholds else set()
        self._dropped = _HOP_BY_HOP | _NEVER | _FORWARDED | withheld
        self.public_url = public_url
        public = urlsplit(public_url)
        self._public: Headers = []
        if public.hostname:
            authority_of_public = public.netloc.rpartition("@")[2]
            self._public = [
                (b"x-forwarded-proto", public.scheme.encode()),
                (b"x-forwarded-host", authority_of_public.encode("latin-1")),
            ]

    def to_upstream(
        self, headers: Headers, client: tuple[str, int] | None, body_length: int = 0, scheme: bytes = b"http"
    ) -> Headers:
        """Return the headers for the upstream.

        Args:
            headers: as received.
            client: address and port of the connection's other end; None: it has none.
            body_length: of the whole body; becomes `Content-Length` if the body came chunked, else is not used.
            scheme: what the client spoke to us.
        """
        dropped, listed, authority = self._dropped, _listed(headers), self._authority
        kept: Headers = []
        host: bytes | None = None
        chunked = False
        for field in headers:
            name = field[0].lower()
            if name in dropped:
                chunked = chunked or name == b"transfer-encoding"
            elif name == b"host":
                host = field[1]
                kept.append(field if authority is None else (field[0], authority))
            elif name not in listed:
                kept.append(field)
        if host is None and authority is not None:
            kept.insert(0, (b"host", authority))
        if chunked:
            # A message has one framing: what the parser did not believe must not go on.
            kept = [field for field in kept if field[0].lower() != b"content-length"]
            kept.append((b"content-length", str(body_length).encode()))
        if client is not None:
            kept.append((b"x-forwarded-for", client[0].partition("%")[0].encode("latin-1")))
        if self._public:
            kept += self._public
        else:
            kept.append((b"x-forwarded-proto", scheme))
            if host is not None:
                kept.append((b"x-forwarded-host", host))
        return kept

    def withholds_authorization(self, headers: Headers) -> bool:
        """Tell whether a request's credentials stay here although no token of ours was asked: worth a word at a 401."""
        return self._withholds and not self._tokens and any(name.lower() == b"authorization" for name, _ in headers)


def to_client(headers: Headers) -> Headers:
    """Return the headers for the client: the upstream's without those of its hop, nothing added."""
    listed = _listed(headers)
    return [field for field in headers if (name := field[0].lower()) not in _TO_CLIENT and name not in listed]


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of every field of that name (given in lower case), in order."""
    return [value for field, value in headers if len(field) == len(name) and field.lower() == name]


def value_of(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of a field, several of one name as one list (RFC 9110 section 5.2); None if there is none."""
    values = values_of(headers, name)
    return b", ".join(values) if values else None


def _listed(headers: Headers) -> Collection[bytes]:
    """Return the names that `Connection` makes hop-by-hop, lower case, without those it has no power over."""
    listed: set[bytes] | None = None
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection" and value not in _NAMES_NOTHING:
            listed = listed or set()
            listed.update(token.strip(b" \t").lower() for token in value.split(b","))
    if not listed:
        return _NONE
    return {name for name in listed if name not in _PROTECTED and not name.startswith(_PROTECTED_PREFIXES)}
