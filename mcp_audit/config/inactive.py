"""Settings that are read and checked but do nothing yet. One table: a feature that arrives deletes its rows.

A setting is never ignored in silence. Where ignoring it would leave something open that its owner believes shut, the
proxy refuses to start (`REFUSED`); where less is served than asked for, it says so (`NOTICED`); where it would only
tune a feature that is not in use, `config show` tells (`LISTED`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mcp_audit.config.model import Config, Rule
from mcp_audit.config.shapes import leaves_of

__all__ = ["INACTIVE", "LISTED", "NOTICED", "REFUSED", "UNUSED", "Found", "Inactive", "get", "inactive_in", "is_url"]

REFUSED, NOTICED, LISTED = "refused", "noticed", "listed"


def is_url(upstream: Any) -> bool:
    """Tell a URL from a command."""
    return str(upstream).lower().startswith(("http://", "https://"))


def _is_more_than_names(rule: Rule) -> bool:
    return bool(rule.method or rule.prompt or rule.resource or rule.args or rule.when or rule.mode != "enforce")


class Inactive(NamedTuple):
    """A row: a key, or a section and all below it; which values have no effect; what they wait for."""

    key: str
    feature: str
    level: str = NOTICED
    concerns: Callable[[Any, Config], bool] = lambda value, config: True
    switch: str = ""  # while this setting is false, nobody is waiting for the feature


INACTIVE: tuple[Inactive, ...] = (
    Inactive(
        "proxy.workers",
        "several processes on one port",
        NOTICED,
        lambda value, all_: value > 1 and all_.proxy.transport == "http",
    ),
    Inactive("middleware.gates", "plugins", REFUSED),
    Inactive("middleware.processors", "plugins", REFUSED),
    Inactive(
        "policy.rules",
        "rules with method, prompt, resource, args, when or mode: shadow",
        REFUSED,
        # To judge by half a rule would allow what it forbids, or enforce what it was only to watch.
        lambda rules, _: any(_is_more_than_names(rule) for rule in rules),
        switch="policy.enabled",
    ),
    Inactive("policy.deny_as", "denials as tool results", NOTICED, lambda value, _: value == "tool_error"),
    Inactive("policy.filter_lists", "filtered lists", NOTICED),
    Inactive("policy.on_tool_change", "acting on changed tools", REFUSED, lambda value, _: value == "deny"),
    Inactive("policy.on_tool_change", "acting on changed tools", NOTICED, lambda value, _: value == "warn"),
    Inactive("dashboard", "the dashboard", NOTICED, switch="dashboard.enabled"),
    Inactive("metrics", "Prometheus metrics", NOTICED, switch="metrics.enabled"),
    Inactive("otel", "OpenTelemetry", NOTICED, switch="otel.enabled"),
    Inactive("sinks", "further sinks", NOTICED),
)

# What works, but not by what is written here; `config show` says so.
UNUSED: Mapping[str, str] = {
    "audit.async.enabled": "group commit replaces it; only the `mode` label of the metrics follows it",
    "audit.async.flush_interval_ms": "read and unused, since group commit needs no timer",
}


class Found(NamedTuple):
    """A setting whose present value has no effect."""

    key: str
    row: Inactive
    asked: bool  # somebody set it to something that waits for the feature


def get(config: Config, dotted: str) -> Any:
    """Return a setting by its dotted key."""
    value: Any = config
    for name in dotted.split("."):
        value = getattr(value, "async_" if name == "async" else name)
    return value


def inactive_in(config: Config, sources: Mapping[str, str]) -> tuple[Found, ...]:
    """Return the settings of `config` that do nothing yet, in the order of the types."""
    found = []
    for key, info, _ in leaves_of(Config):
        value = get(config, key)
        for row in INACTIVE:
            if (key == row.key or key.startswith(row.key + ".")) and row.concerns(value, config):
                is_set = sources.get(key, "default") != "default"
                waiting = not row.switch or bool(get(config, row.switch))
                off = (not value and not info.default) or value == info.default == "none"
                found.append(Found(key, row, is_set and waiting and not off))
    return tuple(found)
