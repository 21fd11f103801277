"""Who may use the listener: `Host` and `Origin` against DNS rebinding and foreign pages, bearer tokens against others.

Pure: headers in, a refusal or a name out. `Host` is rewritten on the way, so the upstream cannot notice a rebound name
and we must. No token is kept or shown, only its SHA-256, and all of them are compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from mcp_audit.relay.http.headers import Headers

__all__ = ["Access", "Refused"]

_DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\s,]+)(?::([0-9]*))?")
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\S+)")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([^\s,]+)")
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="mcp-audit"'),)
_REMEMBERED = 256  # answers per kind of name; a client that invents names cannot grow this


class Refused(NamedTuple):
    """Why a request goes no further; `headers` belong to the answer."""

    status: int
    kind: str
    reason: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Access:
    """The rules of one listener.

    On a loopback address `Host` must be a loopback name, the host of `public_url` or an allowed one, and so must
    `Origin`, if there is one. On any other the upstream decides: about `Host` unless `allowed_hosts` is set, about
    `Origin` unless one of the two lists is.

    Args:
        allowed_hosts: names, each with or without port; without it, on any port.
        allowed_origins: such as `https://app.example.com`, or `null`.
        tokens: (client name, SHA-256 of the token in hex); none: nobody is asked. One name may have several.
        forward: a forward proxy, whose clients send the upstream's name as `Host`, in absolute targets that no
            web page can send; `Host` is not judged.
        setting: the section of the configuration that a refusal points to.
    """

    def __init__(
        self,
        bind_address: str,
        *,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        public_url: str = "",
        tokens: Iterable[tuple[str, str]] = (),
        forward: bool = False,
        setting: str = "proxy",
    ) -> None:
        self._setting = setting
        hosts, origins = tuple(allowed_hosts), tuple(allowed_origins)
        loopback = _is_loopback(bind_address.strip("[]"))
        self._checks_host = (loopback or bool(hosts)) and not forward
        self._checks_origin = loopback or bool(hosts) or bool(origins)
        public = urlsplit(public_url)
        own = {public.hostname.rstrip(".")} if public.hostname else set()
        self._hosts = own | {_host_and_port(host)[2] for host in hosts}
        self._origins = {_normal_origin(origin) for origin in origins}
        if public.hostname:
            self._origins.add(_normal_origin(f"{public.scheme}://{public.netloc.rpartition('@')[2]}"))
        self._tokens = [(name, bytes.fromhex(digest)) for name, digest in tokens]
        self._host_passes = lru_cache(_REMEMBERED)(self._judge_host)
        self._origin_passes = lru_cache(_REMEMBERED)(self._judge_origin)

    def check(self, headers: Headers, method: str = "") -> Refused | None:
        """Return why a request is refused, None if it may go on. Names in `headers` are lower case."""
        if self._checks_host:
            hosts = [value for name, value in headers if name == b"host"]
            if len(hosts) != 1 or not self._host_passes(hosts[0]):
                return Refused(403, "origin_rejected", _about("Host", hosts, f"{self._setting}.allowed_hosts"))
        if self._checks_origin:
            origins = [value for name, value in headers if name == b"origin"]
            if origins and not all(map(self._origin_passes, origins)):
                return Refused(403, "origin_rejected", _about("Origin", origins, f"{self._setting}.allowed_origins"))
        if self._tokens and self.client_name(headers) is None and not _is_preflight(headers, method):
            reason = "this proxy asks for a bearer token in Authorization, and there is none that it knows"
            return Refused(401, "unauthorized", reason, _CHALLENGE)
        return None

    def client_name(self, headers: Headers) -> str | None:
        """Return the name that the request's token proves; None without a valid one, or if none is asked."""
        if not self._tokens:
            return None
        given = [value for name, value in headers if name == b"authorization"]
        # Two credentials are two answers to the question who it is.
        bearer = _BEARER.fullmatch(given[0].strip(b" \t")) if len(given) == 1 else None
        if bearer is None:
            return None
        presented = hashlib.sha256(bearer[1]).digest()
        holder = None
        for name, digest in self._tokens:  # to the end, so that the time taken names nobody
            if hmac.compare_digest(presented, digest):
                holder = name
        return holder

    def _judge_host(self, value: bytes) -> bool:
        name, _, full = _host_and_port(value.decode("latin-1").strip(" \t"))
        return bool(name) and (name in self._hosts or full in self._hosts or _is_loopback(name))

    def _judge_origin(self, value: bytes) -> bool:
        origin = value.decode("latin-1").strip(" \t")
        if _normal_origin(origin) in self._origins:
            return True
        found = _ORIGIN.fullmatch(origin)
        return found is not None and found[1].lower() in ("http", "https") and _is_loopback(_host_and_port(found[2])[0])


def _is_preflight(headers: Headers, method: str) -> bool:
    """Say whether a browser asks what it may do: without credentials, as the Fetch standard wants, and a body."""
    names = {name for name, _ in headers}
    return (
        method == "OPTIONS"
        and {b"origin", b"access-control-request-method"} <= names
        and not {b"content-length", b"transfer-encoding"} & names
    )


def _host_and_port(value: str) -> tuple[str, str, str]:
    """Return name, port and both together in their normal form; three empty ones if `value` is no host."""
    found = _HOST.fullmatch(value)
    if found is None:
        # An IPv6 address without brackets is what people write into a list.
        return (value, "", value.lower()) if _is_ipv6(value) else ("", "", "")
    name, port = found[1].strip("[]").lower().rstrip("."), found[2] or ""
    return name, port, f"{name}:{port}" if port else name


def _normal_origin(origin: str) -> str:
    """Return an origin in lower case and without its scheme's own port; `null` and what is no origin stay."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return origin
    scheme, (name, port, _) = found[1].lower(), _host_and_port(found[2])
    if not name:
        return origin
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" if port in ("", _DEFAULT_PORTS.get(scheme)) else f"{scheme}://{host}:{port}"


def _is_loopback(name: str) -> bool:
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def _is_ipv6(name: str) -> bool:
    try:
        return isinstance(ip_address(name), IPv6Address)
    except ValueError:
        return False


def _about(header: str, values: list[bytes], key: str) -> str:
    if not values:
        return f"the request has no {header} header; it must be a loopback name or one of {key}"
    shown = ", ".join(value[:100].decode("latin-1") for value in values[:3])
    return f"{header} {shown!r} is not a loopback name nor otherwise allowed; if it is yours, add it to {key}"
