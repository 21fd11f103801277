"""The flags of `run` that are settings: one table, for the parser and for `load`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from mcp_audit.config.layers import Flags

__all__ = ["FLAGS", "Flag", "add_flags", "read_flags"]


class Flag(NamedTuple):
    """A flag and what it sets: dotted keys, and a value where the flag itself is the value."""

    name: str
    keys: Mapping[str, str | bool | None]  # None: what follows the flag
    metavar: str
    help: str


FLAGS = (
    Flag("--transport", {"proxy.transport": None}, "stdio|http", "what the client speaks"),
    Flag("--upstream", {"proxy.upstream": None}, "CMD_OR_URL", "the server, if not after `--`"),
    Flag("--port", {"proxy.port": None}, "PORT", "HTTP: listening port"),
    Flag("--host", {"proxy.bind_address": None}, "ADDRESS", "HTTP: listening address"),
    Flag(
        "--upstream-timeout",
        {"proxy.upstream_timeout_ms": None},
        "MS",
        "HTTP: longest wait for response headers; 0: off",
    ),
    Flag("--client-id", {"proxy.client_id": None}, "NAME", "who the client is, instead of what it claims"),
    Flag("--server-id", {"proxy.server_id": None}, "NAME", "who the server is, instead of what it claims"),
    Flag("--log", {"log": None}, "PATH", "the ledger (./audit.jsonl, or ./audit.db with sqlite)"),
    Flag("--storage", {"audit.storage": None}, "jsonl|sqlite", "kind of ledger"),
    Flag("--no-sign", {"audit.sign": False}, "", "leave out `signature`; `mac` stays where there is a secret"),
    Flag("--policy", {"policy.file": None, "policy.enabled": True}, "PATH", "enforce the rules in this file"),
    Flag("--no-dashboard", {"dashboard.enabled": False}, "", "no web dashboard"),
    Flag("--no-metrics", {"metrics.enabled": False}, "", "no Prometheus metrics"),
    Flag("--log-level", {"proxy.log.level": None}, "LEVEL", "debug, info, warn or error: our own messages on stderr"),
)
_PREFIX = "setting "


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the table; the values are checked by `load`, whose sentences name what is allowed."""
    for flag in FLAGS:
        if flag.metavar:
            parser.add_argument(flag.name, dest=_PREFIX + flag.name, metavar=flag.metavar, help=flag.help)
        else:
            parser.add_argument(flag.name, dest=_PREFIX + flag.name, action="store_const", const=True, help=flag.help)


def read_flags(args: argparse.Namespace) -> Flags:
    """Return what was given, as `load` takes it."""
    given: dict[str, tuple[str, object]] = {}
    for flag in FLAGS:
        value = getattr(args, _PREFIX + flag.name, None)
        if value is not None:
            given |= {key: (flag.name, value if fixed is None else fixed) for key, fixed in flag.keys.items()}
    return given
