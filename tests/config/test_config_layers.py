"""Flags and environment variables over the file over the defaults."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_audit.config import Loaded

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def test_precedence_and_sources(loaded: Load) -> None:
    """Flag over environment over file over default, key by key; each value knows where it is from."""
    text = "proxy:\n  port: 1\n  client_id: file\n  server_id: file\n"
    environ = {"MCP_AUDIT__PROXY__PORT": "2", "MCP_AUDIT__PROXY__CLIENT_ID": "env"}

    one = loaded(text, environ, flags={"proxy.port": ("--port", "3")})

    proxy = one.config.proxy
    assert (proxy.port, proxy.client_id, proxy.server_id, proxy.shell) == (3, "env", "file", False)
    assert [one.sources[f"proxy.{key}"] for key in ("port", "client_id", "server_id", "shell")] == [
        "--port",
        "env MCP_AUDIT__PROXY__CLIENT_ID",
        "c.yaml:4",
        "default",
    ]


def test_environment_values_are_yaml(loaded: Load) -> None:
    """Lists, mappings, whole sections; the more exact name has the last word."""
    one = loaded(
        environ={
            "MCP_AUDIT__PROXY__FORWARD_HEADERS": "[Authorization]",
            "MCP_AUDIT__MIDDLEWARE__RATE_LIMIT__TOOLS": "{a: {requests_per_minute: 1}}",
            "MCP_AUDIT__METRICS": "{port: 1, path: /m}",
            "MCP_AUDIT__METRICS__PORT": "2",
            "MCP_AUDIT__AUDIT__ASYNC__ENABLED": "yes",
            "MCP_AUDIT__METRICS__INCLUDE_PYTHON_METRICS": "false",
        }
    )

    config = one.config
    assert config.proxy.forward_headers == ("Authorization",)
    assert list(config.middleware.rate_limit.tools) == ["a"]
    assert (config.metrics.port, config.metrics.path, config.metrics.include_go_metrics) == (2, "/m", False)
    assert config.audit.async_.enabled is True
    assert one.sources["metrics.path"] == "env MCP_AUDIT__METRICS"


def test_an_empty_variable_is_not_set(loaded: Load) -> None:
    """Compose files pass variables nobody set; `''` is how to say an empty text."""
    environ = {"MCP_AUDIT__PROXY__CLIENT_ID": "", "MCP_AUDIT__AUDIT__ORIGIN": "''"}

    one = loaded("proxy: {client_id: file}\naudit: {origin: file}", environ)

    assert (one.config.proxy.client_id, one.config.audit.origin) == ("file", "")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        pytest.param("MCP_AUDIT__PROXY__PRT", "1", "env MCP_AUDIT__PROXY__PRT: there is no such setting; did you mean MCP_AUDIT__PROXY__PORT?", id="misspelt"),
        pytest.param("MCP_AUDIT__NOTHING__LIKE__IT", "1", "env MCP_AUDIT__NOTHING__LIKE__IT: there is no such setting", id="unknown"),
        pytest.param("MCP_AUDIT__PROXY__PORT", "x", "env MCP_AUDIT__PROXY__PORT: proxy.port: must be a whole number, found 'x'", id="value"),
        pytest.param("MCP_AUDIT__PROXY__UPSTREAM", "@x/y", "env MCP_AUDIT__PROXY__UPSTREAM: proxy.upstream: not YAML: a value cannot start with '@' unless it is in quotes", id="yaml"),
        pytest.param("MCP_AUDIT__METRICS", "{prt: 1}", "env MCP_AUDIT__METRICS: metrics.prt: there is no such key; did you mean `port`?", id="section"),
        pytest.param("MCP_AUDIT__PROXY", "1", "env MCP_AUDIT__PROXY: proxy: must be a mapping of keys to values, found a single value", id="no-section"),
    ],
)  # fmt: skip
def test_a_variable_that_is_refused(problems: Problems, name: str, value: str, sentence: str) -> None:
    """By its own name, since that is what has to be changed."""
    assert problems(environ={name: value}) == [sentence]


def test_single_underscores_are_noticed(loaded: Load) -> None:
    """They look right and do nothing."""
    one = loaded(
        environ={"MCP_AUDIT_POLICY_ENABLED": "true", "MCP_AUDIT_CONFIG_X": "1", "MCP_AUDIT_BROKER_CONFIG": "b"}
    )

    assert one.notices == (
        "the environment variable MCP_AUDIT_POLICY_ENABLED is not read; the setting is MCP_AUDIT__POLICY__ENABLED",
    )


@pytest.mark.parametrize("value", ["null", "", "~", "a: b", "[x]", "'quoted'", "- x", "@a/b"])
def test_a_text_on_the_command_line_is_literal(loaded: Load, value: str) -> None:
    """The shell has already had its say."""
    assert loaded(flags={"proxy.upstream": ("--upstream", value)}).config.proxy.upstream == value


@pytest.mark.parametrize(
    ("key", "flag", "value", "sentence"),
    [
        ("proxy.port", "--port", "x", "--port: must be a whole number, found 'x'"),
        ("proxy.port", "--port", "70000", "--port: must be from 0 to 65535, found 70000"),
        ("proxy.transport", "--transport", "sse", "--transport: must be stdio or http, found 'sse'"),
        ("proxy.client_id", "--client-id", "", "--client-id: must not be empty"),
        ("proxy.log.level", "--log-level", "warning", "--log-level: must be auto, debug, info, warn or error, found 'warning'"),
    ],
)  # fmt: skip
def test_a_flag_that_is_refused(problems: Problems, key: str, flag: str, value: str, sentence: str) -> None:
    """By its own name."""
    assert problems(flags={key: (flag, value)}) == [sentence]


@pytest.mark.parametrize(
    ("text", "key"),
    [("", "audit.path"), ("audit: {storage: sqlite}", "audit.sqlite_path"), ("audit: {storage: jsonl}", "audit.path")],
)
def test_the_log_flag_follows_the_storage(loaded: Load, text: str, key: str) -> None:
    """`--log` is the ledger, whichever kind is in use."""
    one = loaded(text, flags={"log": ("--log", "here")})

    assert one.sources[key] == "--log"
    assert [one.config.audit.path, one.config.audit.sqlite_path].count("here") == 1
