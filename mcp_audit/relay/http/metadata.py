"""OAuth discovery through a reverse proxy: what names the upstream is made to name the address that clients use.

Opt-in. Two values and nothing else: the origin in `resource_metadata` of a challenge, and `resource` in the document it
points to. What cannot be read, or does not look as expected, passes as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from urllib.parse import urlsplit

from mcp_audit.relay.http.headers import Headers
from mcp_audit.wire.rewrite import METADATA_BYTES, Public, Rewrite, rewrite_challenge, rewrite_metadata

__all__ = ["METADATA_BYTES", "OAuthMetadata"]

_WELL_KNOWN = b"oauth-protected-resource"
_REMEMBERED = 256  # documents that challenges have pointed to


class OAuthMetadata:
    """The rewrites of one proxy.

    Args:
        origin: of the upstream.
        public: the address that clients use.
    """

    def __init__(self, origin: bytes, public: Public) -> None:
        self._origin = origin
        self._public = public
        self._announced: OrderedDict[bytes, None] = OrderedDict()

    def is_document(self, method: str, address: bytes) -> bool:
        """Say whether a request asks for protected resource metadata.

        Args:
            address: path and query as the client sent them.
        """
        path = address.partition(b"?")[0]
        return method == "GET" and (_WELL_KNOWN in path or path in self._announced)

    def challenges(self, headers: Headers) -> tuple[Headers, tuple[Rewrite, ...]]:
        """Return the headers of a response with its challenges rewritten; the same object if there are none."""
        if not any(name.lower() == b"www-authenticate" for name, _ in headers):
            return headers, ()
        fields: Headers = []
        rewrites: list[Rewrite] = []
        for name, value in headers:
            told = rewrite_challenge(value, self._origin, self._public) if name.lower() == b"www-authenticate" else None
            fields.append((name, told.data) if told is not None else (name, value))
            for rewrite in told.rewrites if told is not None else ():
                rewrites.append(rewrite)
                self._remember(rewrite.new)
        return (fields, tuple(rewrites)) if rewrites else (headers, ())

    def document(self, body: bytes) -> tuple[bytes, tuple[Rewrite, ...]]:
        """Return a document with its `resource` rewritten."""
        told = rewrite_metadata(body, self._origin, self._public)
        return told.data, told.rewrites

    def _remember(self, url: bytes) -> None:
        path = urlsplit(url.decode("latin-1")).path.encode("latin-1")
        for address in {path, path.removeprefix(self._public.prefix) or b"/"}:
            self._announced[address] = None
        while len(self._announced) > _REMEMBERED:
            self._announced.popitem(last=False)
