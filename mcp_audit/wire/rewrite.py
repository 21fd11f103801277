"""The sanctioned rewrites of addresses: where an HTTP+SSE client is to POST, and whose metadata OAuth finds.

Pure. Promise: a rewrite replaces the bytes it reports and no other, so that nothing is re-encoded; and whatever does
not look exactly as expected passes untouched. Never: a message. What is rewritten names our upstream, which the client
does not know it by. The rest of an address, its path and query above all, stays as the server wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote, urldefrag, urljoin, urlsplit

from msgspec import Struct

from mcp_audit.errors import NotStrictJson
from mcp_audit.wire.sse import SseDecoder, SseEvent
from mcp_audit.wire.strict_json import Event, decode_string, events

__all__ = [
    "ANNOUNCEMENT_BYTES",
    "METADATA_BYTES",
    "Announcement",
    "Endpoint",
    "Public",
    "Rewrite",
    "Rewritten",
    "rewrite_challenge",
    "rewrite_metadata",
]

ANNOUNCEMENT_BYTES = 8192
"""How much of a stream is held back while its first event may name an endpoint."""

METADATA_BYTES = 65536
"""The longest body that is looked at for metadata; real ones have a few hundred bytes."""

_DATA_LINE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))data(?:: ?([^\r\n]*)|(?=[\r\n]))")
# No white space, for some readers drop it, and no backslash, which some take for a slash.
_EXPECTED = re.compile(rb"[!-\[\]-~]*")
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*:(?:\\?/){2}[^/\\?#\"@]+)(?=[/?#\"]|\\/|\Z)")
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}
_SAFE = "/?:@!$&'()*+,;=-._~%[]"


class Public(NamedTuple):
    """The address that clients use, as it goes into what they are told.

    Attributes:
        base: the whole of it, without a slash at its end; empty if there is none.
        prefix: its path alone, empty if it has none.
    """

    base: bytes = b""
    prefix: bytes = b""

    @classmethod
    def parse(cls, public_url: str) -> Public:
        """Read `proxy.public_url`, which may be empty."""
        if not public_url:
            return cls()
        parts = urlsplit(public_url)
        host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode()
        prefix = quote(parts.path.rstrip("/"), safe=_SAFE)
        return cls(f"{parts.scheme}://{quote(host, safe=_SAFE)}{prefix}".encode(), prefix.encode())


class Rewrite(Struct, frozen=True):
    """One replacement: what it is called in the record, the bytes that were there, and those that are there now."""

    name: str
    old: bytes
    new: bytes


class Rewritten(NamedTuple):
    """Bytes to pass on, and what in them is not as it was; without rewrites they are the very object that came."""

    data: bytes
    rewrites: tuple[Rewrite, ...] = ()


class Endpoint(Struct, frozen=True):
    """Where an HTTP+SSE server wants messages POSTed.

    Attributes:
        uri: as the server wrote it.
        told: as the client reads it.
        local: its path and query without our upstream's origin, or a relative reference; None if it leads elsewhere.
    """

    uri: bytes
    told: bytes
    local: bytes | None

    def addresses(self, base: bytes) -> tuple[bytes, ...]:
        """Return the request targets under which the POSTs may reach us, none if they go elsewhere.

        There may be two: whoever stands before us may take the path prefix of the public URL away, or leave it.

        Args:
            base: path and query of the GET, as it reached us.
        """
        if self.local is None:
            return ()
        return tuple(dict.fromkeys((_resolved(base, self.local), _resolved(base, self.told))))

    def upstream_target(self, base: bytes) -> bytes | None:
        """Return the request target that the server means, None if it means another server.

        Args:
            base: path and query of the GET, as it was sent upstream.
        """
        return _resolved(base, self.local) if self.local is not None else None


class Announcement:
    """The beginning of an event stream, up to its first event, which may say where to POST (HTTP+SSE, 2024-11-05).

    Args:
        origin: of the upstream, such as `http://localhost:8080`.

    Attributes:
        endpoint: what the first event said, None before it, or if it said something else.
        rewrites: what was replaced in it.
        over: nothing is held any more; pass on what else comes.
    """

    def __init__(self, origin: bytes, public: Public) -> None:
        self.endpoint: Endpoint | None = None
        self.rewrites: tuple[Rewrite, ...] = ()
        self.over = False
        self._origin = origin
        self._public = public
        self._held = b""
        self._decoder = SseDecoder(ANNOUNCEMENT_BYTES)

    def feed(self, piece: bytes) -> bytes:
        """Return what may go on: all but the beginning of an event that is not whole yet."""
        if self.over:
            return piece
        found = self._decoder.feed(piece)
        self._held += piece
        if found:
            behind = self._decoder.position - found[0].end
            return self._judged(found[0], len(self._held) - behind)
        if self._decoder.between_events:
            return self._released()
        if len(self._held) > ANNOUNCEMENT_BYTES:
            self.over = True
        return self._released() if self.over else b""

    def finish(self) -> bytes:
        """Return what is still held at the end of the stream."""
        self.over = True
        return self._released()

    def _released(self) -> bytes:
        held, self._held = self._held, b""
        return held

    def _judged(self, event: SseEvent, end: int) -> bytes:
        """Return what is held, rewritten if its first event, which ends at `end`, names an endpoint of our upstream."""
        self.over = True
        held = self._released()
        lines = list(_DATA_LINE.finditer(held, 0, end))
        # Data that is one line is the last of them; others belong to earlier events without data.
        if event.type != b"endpoint" or not lines or lines[-1][1] != event.data:
            return held
        uri = lines[-1][1]
        self.endpoint = _endpoint(uri, self._origin, self._public.prefix)
        if self.endpoint.told == uri:
            return held
        self.rewrites = (Rewrite("endpoint", uri, self.endpoint.told),)
        return held[: lines[-1].start(1)] + self.endpoint.told + held[lines[-1].end(1) :]


# RFC 9110 section 11.2: parameters of challenges; strings that stand alone are stepped over with what they hold.
_PARAMETER = re.compile(
    rb'(?P<name>[!#$%&\'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<bare>[^\s,"]++))'
    rb'|"(?:[^"\\]|\\.)*+"|(?P<open>")|[!#$%&\'*+.^_`|~0-9A-Za-z-]++'
)


def rewrite_challenge(value: bytes, origin: bytes, public: Public) -> Rewritten:
    """Put our public address in place of the upstream's origin in each `resource_metadata` of a WWW-Authenticate value.

    Source: RFC 9728 section 5.1.
    """
    found = list(_PARAMETER.finditer(value))
    if not public.base or any(parameter["open"] is not None for parameter in found):
        return Rewritten(value)
    pieces, rewrites, done = [], [], 0
    for parameter in found:
        if (parameter["name"] or b"").lower() != b"resource_metadata":
            continue
        group = "bare" if parameter["quoted"] is None else "quoted"
        uri = parameter[group]
        if not _EXPECTED.fullmatch(uri) or (end := _end_of_origin(uri, origin)) is None:
            continue
        new = public.base + uri[end:]
        pieces += [value[done : parameter.start(group)], new]
        done = parameter.end(group)
        rewrites.append(Rewrite("resource_metadata", uri, new))
    return Rewritten(b"".join((*pieces, value[done:])), tuple(rewrites)) if rewrites else Rewritten(value)


def rewrite_metadata(body: bytes, origin: bytes, public: Public) -> Rewritten:
    """Put our public address in place of the upstream's origin in the `resource` of protected resource metadata.

    Source: RFC 9728 section 2.
    """
    if not public.base or len(body) > METADATA_BYTES:
        return Rewritten(body)
    try:
        body.decode()
        tokens = list(_values_of(b'"resource"', body))
    except (NotStrictJson, UnicodeDecodeError):
        return Rewritten(body)
    if len(tokens) != 1 or not body.startswith(b'"', tokens[0][0]):
        return Rewritten(body)  # readers would take one or the other, or it is no address
    start, end = tokens[0][0] + 1, tokens[0][1] - 1
    old = body[start:end]
    if not _EXPECTED.fullmatch(old.replace(rb"\/", b"/")) or (cut := _end_of_origin(old, origin)) is None:
        return Rewritten(body)
    new = public.base + old[cut:]
    return Rewritten(body[:start] + new + body[end:], (Rewrite("resource", old, new),))


def _values_of(name: bytes, text: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the values of a top-level member stand; for one of another spelling an empty place, so as not to fit.

    Raises:
        NotStrictJson: the text is not one strict JSON value.
    """
    level, wanted = 0, b""
    for event, start, end in events(text):
        if event is Event.KEY:
            if level == 1:
                wanted = text[start:end]
            continue
        if wanted and decode_string(wanted) == decode_string(name):
            yield (start, end) if wanted == name else (len(text), len(text))
        wanted = b""
        level += {Event.OBJECT_START: 1, Event.ARRAY_START: 1, Event.OBJECT_END: -1, Event.ARRAY_END: -1}.get(event, 0)


def _endpoint(uri: bytes, origin: bytes, prefix: bytes) -> Endpoint:
    """Say what a client is told in place of `uri`."""
    if not _EXPECTED.fullmatch(uri):
        return Endpoint(uri, uri, None)
    local = uri
    if (end := _end_of_origin(uri, origin)) is not None:
        local = uri[end:] if uri.startswith(b"/", end) else b"/" + uri[end:]
    elif re.match(rb"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        return Endpoint(uri, uri, None)
    if local.startswith(b"//"):
        return Endpoint(uri, uri, None)  # a path that would be read as the name of another host
    return Endpoint(uri, prefix + local if local.startswith(b"/") else local, local)


def _end_of_origin(uri: bytes, origin: bytes) -> int | None:
    """Return where the path of an absolute URI begins that is on `origin`; None for any other. `\\/` counts as `/`."""
    found = _ABSOLUTE.match(uri)
    if found is None or _normal(found[1].replace(b"\\", b"")) != _normal(origin):
        return None
    return found.end(1)


def _normal(origin: bytes) -> bytes:
    """Return an origin in one spelling: lower case, the scheme's own port left out (RFC 3986 section 6.2.3)."""
    scheme, _, authority = origin.lower().partition(b"://")
    return scheme + b"://" + authority.removesuffix(_DEFAULT_PORTS.get(scheme, b":")).removesuffix(b":")


def _resolved(base: bytes, reference: bytes) -> bytes:
    """Return the request target that a client at `base` makes of a relative reference (RFC 3986 section 5.2)."""
    root = "http://localhost"
    target = urldefrag(urljoin(root + base.decode("latin-1"), reference.decode("latin-1"))).url
    return target.removeprefix(root).encode("latin-1") or b"/"
