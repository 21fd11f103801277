"""A configuration written for mcp-audit for Go works here unchanged: its whole key table, and its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcp_audit.config import Config, Loaded
from mcp_audit.config.inactive import get
from mcp_audit.config.model import Rule

Load = Callable[..., Loaded]

# Key, its default there, another value. Three defaults differ here on purpose, see below.
TABLE: list[tuple[str, Any, Any]] = [
    ("proxy.transport", "stdio", "http"),
    ("proxy.upstream", "", "http://localhost:8080"),
    ("proxy.port", 4422, 4000),
    ("proxy.upstream_timeout_ms", 30000, 0),
    ("proxy.forward_headers", [], ["Authorization"]),
    ("proxy.tls.ca_file", "", "ca.pem"),
    ("proxy.tls.server_name", "", "mcp.internal"),
    ("proxy.tls.insecure_skip_verify", False, True),
    ("proxy.tls.client_cert_file", "", "cert.pem"),
    ("proxy.tls.client_key_file", "", "key.pem"),
    ("proxy.retry.max_retries", 0, 2),
    ("proxy.retry.initial_interval_ms", 200, 100),
    ("proxy.retry.max_interval_ms", 2000, 1000),
    ("proxy.client_id", "claude-desktop", "cursor"),
    ("proxy.server_id", "filesystem", "github"),
    ("audit.storage", "jsonl", "jsonl"),
    ("audit.path", "./audit.jsonl", "./other.jsonl"),
    ("audit.sqlite_path", "./audit.db", "./other.db"),
    ("audit.sign", True, False),
    ("audit.secret", "", "replace-with-a-long-random-secret"),
    ("audit.async.enabled", False, True),
    ("audit.async.queue_size", 4096, 16),
    ("audit.async.batch_size", 128, 8),
    ("audit.async.flush_interval_ms", 1000, 10),
    ("audit.rotation.max_size_bytes", 0, 104857600),
    ("audit.rotation.max_files", 0, 10),
    ("audit.rotation.interval", "", "hourly"),
    ("audit.rotation.max_age_days", 0, 30),
    ("middleware.rate_limit.enabled", True, False),
    ("middleware.rate_limit.requests_per_minute", 60, 30),
    ("middleware.redact.enabled", True, False),
    ("middleware.redact.patterns", None, ["ssn"]),
    ("policy.enabled", False, True),
    ("policy.default_action", "allow", "deny"),
    ("policy.rules", [], [{"action": "allow", "tool_name": "*"}]),
    ("dashboard.enabled", True, False),
    ("dashboard.bind_address", "127.0.0.1", "0.0.0.0"),
    ("dashboard.port", 9090, 9000),
    ("dashboard.auth.token", "", "replace-with-a-long-random-token"),
    ("metrics.enabled", True, False),
    ("metrics.port", 9091, 9001),
    ("metrics.path", "/metrics", "/m"),
    ("metrics.include_go_metrics", True, False),
    ("metrics.include_process_metrics", True, False),
    ("metrics.tool_labels", True, False),
    ("otel.enabled", False, True),
    ("otel.endpoint", "http://localhost:4318", "https://otlp.example.com"),
    ("otel.service_name", "mcp-audit", "audit"),
    ("otel.headers", {}, {"Authorization": "Bearer your-token"}),
    ("otel.tls.ca_file", "", "ca.pem"),
    ("otel.tls.server_name", "", "otlp.internal"),
    ("otel.tls.insecure_skip_verify", False, True),
    ("otel.retry.max_retries", 3, 0),
    ("otel.retry.initial_interval_ms", 200, 100),
    ("otel.retry.max_interval_ms", 2000, 1000),
    ("otel.queue_size", 1024, 10),
    ("otel.batch_size", 64, 5),
    ("otel.flush_interval_ms", 1000, 10),
    ("otel.timeout_ms", 5000, 100),
]
# Names are learned, and more keys are redacted.
CHANGED = {"proxy.client_id": "auto", "proxy.server_id": "auto"}


def as_yaml(values: dict[str, Any]) -> str:
    """Write nested block YAML with JSON values."""
    import yaml

    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        at = nested
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value
    return yaml.safe_dump(nested)


def plain(value: Any) -> Any:
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(value))


@pytest.mark.parametrize(("key", "default"), [(key, default) for key, default, _ in TABLE if default is not None])
def test_defaults(key: str, default: Any) -> None:
    """Each is the same, but for those changed on purpose."""
    assert plain(get(Config(), key)) == CHANGED.get(key, default)


def test_redaction_starts_with_the_former_patterns() -> None:
    """Ours come after them."""
    assert Config().middleware.redact.patterns[:6] == (
        "password",
        "token",
        "secret",
        "api_key",
        "bearer",
        "authorization",
    )


@pytest.mark.parametrize("column", [1, 2], ids=["the defaults written out", "every key set to something else"])
def test_a_file_with_every_key(loaded: Load, column: int) -> None:
    """It loads, and each value arrives."""
    values = {row[0]: row[column] for row in TABLE if row[column] is not None}

    one = loaded(as_yaml(values))

    assert {key for key, source in one.sources.items() if source != "default"} == set(values)
    secret = values.pop("audit.secret")
    assert one.secret == (secret.encode() or None)
    assert {key: plain(get(one.config, key)) for key in values} == values


def test_forwarding_a_bearer_token(loaded: Load) -> None:
    """The example of the configuration chapter."""
    one = loaded("proxy:\n  forward_headers:\n    - Authorization\n")

    assert one.config.proxy.forward_headers == ("Authorization",)


def test_rotation(loaded: Load) -> None:
    """The example of the configuration chapter."""
    rotation = loaded(
        """\
audit:
  storage: jsonl
  rotation:
    max_size_bytes: 104857600
    interval: daily
    max_files: 10
    max_age_days: 30
"""
    ).config.audit.rotation

    assert (rotation.max_size_bytes, rotation.interval, rotation.max_files, rotation.max_age_days) == (
        104857600,
        "daily",
        10,
        30,
    )


def test_dashboard(loaded: Load) -> None:
    """The example of the dashboard chapter."""
    board = loaded(
        """\
dashboard:
  enabled: true
  bind_address: 127.0.0.1
  port: 9090
  auth:
    token: "replace-with-a-long-random-token"
"""
    ).config.dashboard

    assert (board.enabled, board.bind_address, board.port) == (True, "127.0.0.1", 9090)
    assert board.auth.token == "replace-with-a-long-random-token"


def test_policy(loaded: Load) -> None:
    """The example of the policy chapter."""
    policy = loaded(
        """\
policy:
  enabled: true
  default_action: allow
  rules:
    - action: deny
      client_id: claude-desktop
      server_id: filesystem
      tool_name: delete_file
      reason: "Destructive filesystem operations are blocked"
"""
    ).config.policy

    assert policy.enabled
    assert policy.rules == (
        Rule(
            action="deny",
            client_id="claude-desktop",
            server_id="filesystem",
            tool_name="delete_file",
            reason="Destructive filesystem operations are blocked",
        ),
    )


def test_opentelemetry(loaded: Load) -> None:
    """The example of the OpenTelemetry chapter."""
    otel = loaded(
        """\
otel:
  enabled: true
  endpoint: "http://localhost:4318"
  service_name: "mcp-audit"
  headers:
    Authorization: "Bearer your-token"
  timeout_ms: 5000
  retry:
    max_retries: 3
    initial_interval_ms: 200
    max_interval_ms: 2000
"""
    ).config.otel

    assert otel.enabled
    assert otel.headers == {"Authorization": "Bearer your-token"}
    assert (otel.timeout_ms, otel.retry.max_retries) == (5000, 3)


def test_its_command_line(loaded: Load) -> None:
    """`AUDIT_SECRET=... mcp-audit --transport stdio --upstream "npx ..."`."""
    flags = {
        "proxy.transport": ("--transport", "stdio"),
        "proxy.upstream": ("--upstream", "npx @modelcontextprotocol/server-filesystem /tmp"),
    }

    one = loaded(environ={"AUDIT_SECRET": "replace-with-a-long-random-secret"}, flags=flags, to_run=True)

    assert one.config.proxy.upstream == "npx @modelcontextprotocol/server-filesystem /tmp"
    assert one.secret == b"replace-with-a-long-random-secret"
    assert one.notices == ()
