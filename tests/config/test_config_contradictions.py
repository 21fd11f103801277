"""What two settings must not say together."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_audit.config import Loaded
from mcp_audit.config.contradictions import is_loopback

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]
DIGEST = "ab" * 32
HTTP = "proxy: {transport: http, upstream: 'http://localhost:1'}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("proxy: {forward_headers: [Cookie]}", "c.yaml:1: proxy.forward_headers: must not list Cookie: it belongs to a browser or another proxy, not to MCP", id="cookie"),
        pytest.param("proxy: {forward_headers: [set-cookie]}", "c.yaml:1: proxy.forward_headers: must not list set-cookie: it belongs to a browser or another proxy, not to MCP", id="set-cookie"),
        pytest.param("proxy: {forward_headers: [PROXY-AUTHORIZATION]}", "c.yaml:1: proxy.forward_headers: must not list PROXY-AUTHORIZATION: it belongs to a browser or another proxy, not to MCP", id="proxy-authorization"),
        pytest.param("proxy: {forward_headers: ['a b']}", "c.yaml:1: proxy.forward_headers: 'a b' is not a header name", id="no-header"),
        pytest.param(f"proxy:\n  forward_headers: [authorization]\n  auth: {{tokens: [{{name: a, sha256: {DIGEST}}}]}}", "c.yaml:2: proxy.forward_headers: lists Authorization, which proxy.auth.tokens takes for the proxy itself; drop one of the two", id="two-owners-of-authorization"),
        pytest.param(f"proxy: {{auth: {{tokens: [{{name: a, sha256: {DIGEST}}}, {{name: a, sha256: {DIGEST}}}]}}}}", "c.yaml:1: proxy.auth.tokens: has two tokens named 'a'; each name is one client", id="token-names"),
        pytest.param("audit:\n  capture: full", "c.yaml:2: audit.capture: full stores payloads as relayed; set middleware.redact.enabled: false as well, or keep `redacted`", id="capture-full"),
        pytest.param("audit: {storage: sqlite, rotation: {max_size_bytes: 1}}", "c.yaml:1: audit.rotation.max_size_bytes: is for jsonl; with audit.storage: sqlite only audit.rotation.max_age_days applies", id="sqlite-size"),
        pytest.param("audit: {storage: sqlite, rotation: {interval: daily}}", "c.yaml:1: audit.rotation.interval: is for jsonl; with audit.storage: sqlite only audit.rotation.max_age_days applies", id="sqlite-interval"),
        pytest.param("audit: {storage: sqlite, rotation: {max_files: 1}}", "c.yaml:1: audit.rotation.max_files: is for jsonl; with audit.storage: sqlite only audit.rotation.max_age_days applies", id="sqlite-files"),
        pytest.param("audit: {storage: sqlite, rotation: {compress: gzip}}", "c.yaml:1: audit.rotation.compress: is for jsonl; with audit.storage: sqlite only audit.rotation.max_age_days applies", id="sqlite-compress"),
        pytest.param("proxy: {tls: {client_cert_file: c}}", "c.yaml:1: proxy.tls.client_cert_file: needs proxy.tls.client_key_file; mTLS takes a certificate and its key", id="cert-without-key"),
        pytest.param("proxy: {tls: {client_key_file: k}}", "c.yaml:1: proxy.tls.client_key_file: needs proxy.tls.client_cert_file; mTLS takes a certificate and its key", id="key-without-cert"),
        pytest.param("proxy: {retry: {max_retries: 1, initial_interval_ms: 3, max_interval_ms: 2}}", "c.yaml:1: proxy.retry.initial_interval_ms: is 3, above max_interval_ms 2", id="retry"),
        pytest.param("otel: {retry: {initial_interval_ms: 3000}}", "c.yaml:1: otel.retry.initial_interval_ms: is 3000, above max_interval_ms 2000", id="otel-retry"),
        pytest.param("dashboard: {bind_address: 0.0.0.0}", "c.yaml:1: dashboard.auth.token: is empty, but 0.0.0.0 can be reached from other machines; set a token, or bind 127.0.0.1", id="open-dashboard"),
        pytest.param("dashboard: {bind_address: '::', auth: {token: x, required: false}}", "c.yaml:1: dashboard.auth.required: may be false only on loopback; :: can be reached from other machines", id="not-required"),
        pytest.param("dashboard: {auth: {token: x, required: false}}", "c.yaml:1: dashboard.auth.required: is false although there is a token; drop one of the two", id="token-not-required"),
        pytest.param("metrics: {path: /healthz}", "c.yaml:1: metrics.path: /healthz is taken; the same listener answers there itself", id="metrics-path"),
        pytest.param("otel: {endpoint: localhost:4318}", "c.yaml:1: otel.endpoint: must be a URL such as http://localhost:8080", id="endpoint"),
        pytest.param("otel: {headers: {'a b': x}}", "c.yaml:1: otel.headers: 'a b' is not a header name", id="otel-header"),
        pytest.param("proxy: {bridge: {headers: {'': x}}}", "c.yaml:1: proxy.bridge.headers: '' is not a header name", id="bridge-header"),
        pytest.param("proxy: {upstream: 'http://localhost:1'}", "c.yaml:1: proxy.upstream: is a URL, so the transport must be written out: `--transport http` proxies it, `--transport stdio` bridges a stdio client to it", id="url-without-transport"),
        pytest.param("proxy: {transport: http, upstream: npx x}", "c.yaml:1: proxy.upstream: must be an http:// or https:// URL while proxy.transport is http, found 'npx x'", id="http-with-command"),
        pytest.param("proxy: {transport: http, upstream: 'http://u:p@h'}", "c.yaml:1: proxy.upstream: must not hold a user name or password; pass credentials in headers", id="url-with-password"),
        pytest.param("proxy: {transport: http, upstream: 'http://h?x=1'}", "c.yaml:1: proxy.upstream: must not have a query or fragment; those of each request are relayed", id="url-with-query"),
        pytest.param("proxy: {transport: http, upstream: 'http://h:99999'}", "c.yaml:1: proxy.upstream: is not a URL (Port out of range 0-65535)", id="url-port"),
        pytest.param("proxy: {transport: http, upstream: 'http://'}", "c.yaml:1: proxy.upstream: must be a URL such as http://localhost:8080", id="url-without-host"),
        pytest.param("proxy: {shell: true, transport: stdio, upstream: 'http://h'}", "c.yaml:1: proxy.shell: is for a command, but proxy.upstream is a URL", id="shell-with-url"),
        pytest.param("proxy: {upstream: \"npx 'x\"}", "c.yaml:1: proxy.upstream: cannot be split into words (no closing quotation); mind the quotes, or put the command after `--`", id="quotes"),
        pytest.param("proxy: {upstream: \"'' x\"}", "c.yaml:1: proxy.upstream: names no program", id="no-program"),
        pytest.param("proxy: {public_url: mcp.example.com}", "c.yaml:1: proxy.public_url: must be a URL such as http://localhost:8080", id="public-url"),
        pytest.param("proxy: {allowed_origins: [example.com]}", "c.yaml:1: proxy.allowed_origins: 'example.com' is not an origin such as https://app.example.com", id="origin"),
        pytest.param("proxy: {allowed_hosts: ['http://example.com']}", "c.yaml:1: proxy.allowed_hosts: 'http://example.com' is not a host name such as mcp.example.com", id="host"),
        pytest.param("proxy: {oauth: {rewrite_metadata: true}}", "c.yaml:1: proxy.oauth.rewrite_metadata: needs proxy.public_url, which the metadata is to name", id="oauth"),
        pytest.param("proxy: {http_mode: forward, public_url: 'https://h', oauth: {rewrite_metadata: true}}", "c.yaml:1: proxy.oauth.rewrite_metadata: is for the reverse proxy; in forward mode clients keep the real URL, drop it", id="oauth-forward"),
        pytest.param("proxy: {http_mode: forward, auth: {tokens: [{name: a, sha256: " + "0" * 64 + "}]}}", "c.yaml:1: proxy.auth.tokens: is for the reverse proxy; in forward mode Authorization is for servers, drop it", id="tokens-forward"),
        pytest.param("proxy: {client_id: ' '}", "c.yaml:1: proxy.client_id: must be a name, or auto", id="blank-name"),
        pytest.param("policy:\n  rules:\n    - {action: deny}\n    - {action: deny, prompt: a, resource: b}", "c.yaml:4: policy.rules[1]: names a prompt and a resource; no message is about both, make two rules", id="prompt-and-resource"),
        pytest.param("policy: {rules: [{action: deny, tool_name: a, resource: b}]}", "c.yaml:1: policy.rules[0]: names a tool and a prompt or resource; no message is about both, make two rules", id="tool-and-resource"),
        pytest.param("policy: {rules: [{action: deny, tool_name: a, method: tools/list}]}", "c.yaml:1: policy.rules[0]: names a tool, but tools/list calls none; leave out `method`, or `tool_name`", id="tool-and-method"),
        pytest.param("policy: {rules: [{action: deny, args: {/a: {}}}]}", "c.yaml:1: policy.rules[0]: args '/a' asks for nothing; give one of equals, in, glob, regex, min, max, exists", id="no-condition"),
        pytest.param("policy: {rules: [{action: deny, args: {/a: {regex: '('}}}]}", "c.yaml:1: policy.rules[0]: args '/a' has a regex that cannot be used: missing ), unterminated subpattern at position 0", id="regex"),
        pytest.param("policy: {rules: [{action: deny, args: {/a: {min: 2, max: 1}}}]}", "c.yaml:1: policy.rules[0]: args '/a' has a min above its max", id="min-max"),
    ],
)  # fmt: skip
def test_a_contradiction_is_named_with_the_key_to_change(problems: Problems, text: str, sentence: str) -> None:
    """One sentence each, and no other beside it."""
    assert problems(text) == [sentence]


@pytest.mark.parametrize(
    ("text", "argv", "flags", "sentence"),
    [
        pytest.param("proxy: {shell: true}", ["x"], {}, "c.yaml:1: proxy.shell: hands a string to `sh -c`, but the command after `--` is taken literally; drop one", id="shell"),
        pytest.param("proxy: {transport: http}", ["x"], {}, "c.yaml:1: proxy.transport: is http, which needs a URL as proxy.upstream, not a command after `--`", id="http"),
        pytest.param("", ["x"], {"proxy.upstream": ("--upstream", "y")}, "--upstream: proxy.upstream: is given by a flag and after `--` as well; drop one", id="twice"),
        pytest.param("", [], {}, "proxy.upstream: there is no command after `--`; name the program to start", id="nothing-after-dashes"),
        pytest.param("", None, {}, "proxy.upstream: there is no upstream; put the server after two dashes, `mcp-audit -- COMMAND ARG...`, or set this key", id="no-upstream"),
        pytest.param("proxy: {transport: http}", None, {}, "proxy.upstream: there is no upstream; give the server's URL with --upstream, or set this key", id="no-upstream-url"),
        pytest.param("", None, {"proxy.upstream": ("--upstream", "https://h/mcp")}, "--upstream: proxy.upstream: is a URL, so the transport must be written out: `--transport http` proxies it, `--transport stdio` bridges a stdio client to it", id="url"),
    ],
)  # fmt: skip
def test_what_the_command_line_contradicts(
    problems: Problems, text: str, argv: list[str] | None, flags: dict[str, object], sentence: str
) -> None:
    """What follows `--` is part of the configuration."""
    assert problems(text, argv=argv, flags=flags, to_run=True) == [sentence]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("audit: {capture: full}\nmiddleware: {redact: {enabled: false}}", id="full-without-redaction"),
        pytest.param("audit: {storage: sqlite, rotation: {max_age_days: 30}}", id="sqlite-age"),
        pytest.param("dashboard: {bind_address: 0.0.0.0, auth: {token: sesame}}", id="dashboard-with-token"),
        pytest.param("dashboard: {bind_address: 0.0.0.0, enabled: false}", id="no-dashboard"),
        pytest.param("dashboard: {bind_address: '[::1]', auth: {required: false}}", id="open-on-loopback"),
        pytest.param("proxy: {tls: {client_cert_file: c, client_key_file: k}}", id="mtls"),
        pytest.param("proxy: {transport: stdio, upstream: 'https://h/mcp?key=1'}", id="bridge"),
        pytest.param("proxy: {shell: true, upstream: \"cat | tr 'a\"}", id="shell-decides-itself"),
        pytest.param("proxy: {allowed_origins: ['null', 'vscode-webview://x', 'HTTP://[::1]:3000']}", id="origins"),
        pytest.param("policy: {rules: [{action: deny, tool_name: x, method: 'tools/*'}]}", id="method-glob"),
        pytest.param("policy: {rules: [{action: deny, args: {'': {exists: true}, /a: {equals: null}}}]}", id="conditions"),
    ],
)  # fmt: skip
def test_what_goes_together(loaded: Load, text: str) -> None:
    """The near misses of the table above."""
    assert loaded(text).path is not None


def test_a_command_after_dashes_wins_over_the_file(loaded: Load) -> None:
    """As a flag would."""
    assert loaded("proxy: {upstream: from file}", argv=["server"], to_run=True).config.proxy.upstream == "from file"


def test_a_key_in_error_is_not_blamed_twice(problems: Problems) -> None:
    """The token is there, only wrong; that there is none would be a lie."""
    assert problems("dashboard: {bind_address: 0.0.0.0, auth: {token: [x]}}") == [
        "c.yaml:1: dashboard.auth.token: must be a text, found a list"
    ]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """A name we cannot judge is not loopback."""
    assert is_loopback(host) is loopback
