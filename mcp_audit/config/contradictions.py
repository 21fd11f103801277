"""What two settings, each fine by itself, must not say together; and texts whose form a type cannot express.

Pure: looks at values and at where they were set. Each finding names the keys it involves, so that a key that is already
in error is not blamed twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import UNSET

from mcp_audit.config.inactive import get, is_url
from mcp_audit.config.model import Audit, Config, Policy, Proxy, Rule

__all__ = ["Contradiction", "Given", "contradictions", "is_loopback"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header name, RFC 9110 section 5.6.2
_NEVER_FORWARDED = ("cookie", "set-cookie", "proxy-authorization")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+", re.IGNORECASE)
_OWN_PATHS = ("/healthz", "/readyz", "/checkpoint")


class Contradiction(NamedTuple):
    """A finding; the first key is the one to change."""

    keys: tuple[str, ...]
    problem: str


class Given(NamedTuple):
    """What there is beside the values: where they were set, and the command after `--` (None: there is none)."""

    sources: Mapping[str, str]
    argv: Sequence[str] | None

    def set(self, key: str) -> bool:
        """Tell whether somebody set the key."""
        return self.sources.get(key, "default") != "default"


def contradictions(config: Config, given: Given) -> Iterator[Contradiction]:
    """Yield everything that cannot be meant."""
    yield from _upstream(config.proxy, given)
    yield from _headers(config.proxy)
    yield from _listener(config.proxy)
    yield from _tls(config)
    yield from _audit(config.audit, config, given)
    yield from _serving(config)
    yield from _policy(config.policy)


def is_loopback(host: str) -> bool:
    """Tell whether an address to bind is reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _upstream(proxy: Proxy, given: Given) -> Iterator[Contradiction]:
    if given.argv is not None:
        if not given.argv or not given.argv[0]:
            yield Contradiction(("proxy.upstream",), "there is no command after `--`; name the program to start")
        if proxy.shell:
            keys = ("proxy.shell", "proxy.upstream")
            yield Contradiction(
                keys, "hands a string to `sh -c`, but the command after `--` is taken literally; drop one"
            )
        if given.sources.get("proxy.upstream", "").startswith("--"):
            yield Contradiction(("proxy.upstream",), "is given by a flag and after `--` as well; drop one")
        if proxy.transport == "http":
            keys = ("proxy.transport", "proxy.upstream")
            yield Contradiction(keys, "is http, which needs a URL as proxy.upstream, not a command after `--`")
        return
    if is_url(proxy.upstream):
        if not given.set("proxy.transport"):
            problem = (
                "is a URL, so the transport must be written out: `--transport http` proxies it, "
                "`--transport stdio` bridges a stdio client to it"
            )
            yield Contradiction(("proxy.upstream", "proxy.transport"), problem)
        if proxy.shell:
            yield Contradiction(("proxy.shell", "proxy.upstream"), "is for a command, but proxy.upstream is a URL")
        yield from _url("proxy.upstream", proxy.upstream, query=proxy.transport == "stdio")
    elif proxy.upstream and proxy.transport == "http":
        problem = f"must be an http:// or https:// URL while proxy.transport is http, found {proxy.upstream[:80]!r}"
        yield Contradiction(("proxy.upstream", "proxy.transport"), problem)
    elif proxy.upstream and not proxy.shell:
        import shlex

        try:
            words = shlex.split(proxy.upstream)
        except ValueError as error:
            words = None
            problem = (
                f"cannot be split into words ({str(error).lower()}); mind the quotes, or put the command after `--`"
            )
            yield Contradiction(("proxy.upstream",), problem)
        if words is not None and not (words and words[0]):
            yield Contradiction(("proxy.upstream",), "names no program")


def _url(key: str, url: str, query: bool = False) -> Iterator[Contradiction]:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        yield Contradiction((key,), f"is not a URL ({error})")
        return
    if parts.scheme not in ("http", "https") or not host or any(letter.isspace() for letter in url):
        yield Contradiction((key,), "must be a URL such as http://localhost:8080")
    elif parts.username is not None or parts.password is not None:
        # The URL ends up in logs and records; a password must not.
        yield Contradiction((key,), "must not hold a user name or password; pass credentials in headers")
    elif parts.fragment or (parts.query and not query):
        yield Contradiction((key,), "must not have a query or fragment; those of each request are relayed")


def _headers(proxy: Proxy) -> Iterator[Contradiction]:
    key = "proxy.forward_headers"
    for name in proxy.forward_headers:
        if not _TOKEN.fullmatch(name):
            yield Contradiction((key,), f"{name[:80]!r} is not a header name")
        elif name.lower() in _NEVER_FORWARDED:
            yield Contradiction((key,), f"must not list {name}: it belongs to a browser or another proxy, not to MCP")
        elif name.lower() == "authorization" and proxy.auth.tokens:
            problem = "lists Authorization, which proxy.auth.tokens takes for the proxy itself; drop one of the two"
            yield Contradiction((key, "proxy.auth.tokens"), problem)
    for name in proxy.bridge.headers:
        if not _TOKEN.fullmatch(name):
            yield Contradiction(("proxy.bridge.headers",), f"{name[:80]!r} is not a header name")


def _listener(proxy: Proxy) -> Iterator[Contradiction]:
    if proxy.public_url:
        yield from _url("proxy.public_url", proxy.public_url)
    for origin in proxy.allowed_origins:
        if origin != "null" and not _ORIGIN.fullmatch(origin):
            problem = f"{origin[:80]!r} is not an origin such as https://app.example.com"
            yield Contradiction(("proxy.allowed_origins",), problem)
    for host in proxy.allowed_hosts:
        if "/" in host:
            yield Contradiction(("proxy.allowed_hosts",), f"{host[:80]!r} is not a host name such as mcp.example.com")
    if proxy.oauth.rewrite_metadata and not proxy.public_url:
        keys = ("proxy.oauth.rewrite_metadata", "proxy.public_url")
        yield Contradiction(keys, "needs proxy.public_url, which the metadata is to name")
    if proxy.oauth.rewrite_metadata and proxy.http_mode == "forward":
        keys = ("proxy.oauth.rewrite_metadata", "proxy.http_mode")
        yield Contradiction(keys, "is for the reverse proxy; in forward mode clients keep the real URL, drop it")
    if proxy.auth.tokens and proxy.http_mode == "forward":
        keys = ("proxy.auth.tokens", "proxy.http_mode")
        yield Contradiction(keys, "is for the reverse proxy; in forward mode Authorization is for servers, drop it")
    names = [token.name for token in proxy.auth.tokens]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Contradiction(("proxy.auth.tokens",), f"has two tokens named {name!r}; each name is one client")
    for key in ("client_id", "server_id"):
        if getattr(proxy, key).strip() == "":
            yield Contradiction((f"proxy.{key}",), "must be a name, or auto")


def _tls(config: Config) -> Iterator[Contradiction]:
    tls = config.proxy.tls
    if bool(tls.client_cert_file) != bool(tls.client_key_file):
        have, lack = ("cert", "key") if tls.client_cert_file else ("key", "cert")
        keys = (f"proxy.tls.client_{have}_file", f"proxy.tls.client_{lack}_file")
        yield Contradiction(keys, f"needs proxy.tls.client_{lack}_file; mTLS takes a certificate and its key")
    for key in ("proxy.retry", "otel.retry"):
        retry = get(config, key)
        if retry.max_retries and retry.initial_interval_ms > retry.max_interval_ms:
            keys = (f"{key}.initial_interval_ms", f"{key}.max_interval_ms")
            yield Contradiction(keys, f"is {retry.initial_interval_ms}, above max_interval_ms {retry.max_interval_ms}")


def _audit(audit: Audit, config: Config, given: Given) -> Iterator[Contradiction]:
    if audit.capture == "full" and config.middleware.redact.enabled:
        problem = "full stores payloads as relayed; set middleware.redact.enabled: false as well, or keep `redacted`"
        yield Contradiction(("audit.capture", "middleware.redact.enabled"), problem)
    if audit.storage == "sqlite":
        for name in ("max_size_bytes", "interval", "max_files", "compress"):
            if getattr(audit.rotation, name) not in (0, "", "none"):
                key = f"audit.rotation.{name}"
                problem = "is for jsonl; with audit.storage: sqlite only audit.rotation.max_age_days applies"
                yield Contradiction((key, "audit.storage"), problem)


def _serving(config: Config) -> Iterator[Contradiction]:
    board = config.dashboard
    if board.enabled and not is_loopback(board.bind_address):
        where = f"{board.bind_address} can be reached from other machines"
        if not board.auth.required:
            keys = ("dashboard.auth.required", "dashboard.bind_address")
            yield Contradiction(keys, f"may be false only on loopback; {where}")
        elif not board.auth.token:
            keys = ("dashboard.auth.token", "dashboard.bind_address")
            yield Contradiction(keys, f"is empty, but {where}; set a token, or bind 127.0.0.1")
    elif board.auth.token and not board.auth.required:
        keys = ("dashboard.auth.required", "dashboard.auth.token")
        yield Contradiction(keys, "is false although there is a token; drop one of the two")
    if config.metrics.path in _OWN_PATHS:
        yield Contradiction(
            ("metrics.path",), f"{config.metrics.path} is taken; the same listener answers there itself"
        )
    yield from _url("otel.endpoint", config.otel.endpoint)
    for name in config.otel.headers:
        if not _TOKEN.fullmatch(name):
            yield Contradiction(("otel.headers",), f"{name[:80]!r} is not a header name")


def _policy(policy: Policy) -> Iterator[Contradiction]:
    for index, rule in enumerate(policy.rules):
        for problem in _rule(rule):
            yield Contradiction((f"policy.rules[{index}]",), problem)


def _rule(rule: Rule) -> Iterator[str]:
    if rule.prompt and rule.resource:
        yield "names a prompt and a resource; no message is about both, make two rules"
    if rule.tool_name and (rule.prompt or rule.resource):
        yield "names a tool and a prompt or resource; no message is about both, make two rules"
    if rule.tool_name and rule.method and not re.search(r"[*?\[]", rule.method) and rule.method != "tools/call":
        yield f"names a tool, but {rule.method} calls none; leave out `method`, or `tool_name`"
    for pointer, condition in rule.args.items():
        where = f"args {pointer!r}"
        if not any(getattr(condition, name) is not UNSET for name in condition.__struct_fields__):
            yield f"{where} asks for nothing; give one of equals, in, glob, regex, min, max, exists"
        if isinstance(condition.regex, str):
            try:
                re.compile(condition.regex)
            except (re.error, OverflowError, RecursionError) as error:
                yield f"{where} has a regex that cannot be used: {error}"
        low, high = condition.min, condition.max
        if low is not UNSET and high is not UNSET and low > high:
            yield f"{where} has a min above its max"
