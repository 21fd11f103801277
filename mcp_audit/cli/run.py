"""Put the proxy between a client and an MCP server; every message is relayed unchanged and recorded.

The server command follows two dashes and is taken literally; options before them win over the environment
(MCP_AUDIT__PROXY__PORT=4422), which wins over the configuration file (config.yaml here, or --config).
The ledger holds what the client and the server say; secrets under known names are replaced in it, not in transit.

examples:
  mcp-audit -- npx -y @modelcontextprotocol/server-filesystem /tmp
  mcp-audit --transport stdio --upstream "npx -y @modelcontextprotocol/server-filesystem /tmp"
  AUDIT_SECRET_FILE=secret mcp-audit --policy policy.yaml --log fs.jsonl -- my-server
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

__all__ = ["add_arguments", "run"]

# option -> the key it sets, metavar, help
_SETTINGS = {
    "--transport": ("proxy.transport", "stdio|http", "how the client talks to us"),
    "--upstream": ("proxy.upstream", "CMD_OR_URL", "the server, as one string without a shell, or a URL"),
    "--port": ("proxy.port", "N", "listening port in HTTP mode"),
    "--host": ("proxy.bind_address", "ADDRESS", "listening address in HTTP mode"),
    "--upstream-timeout": ("proxy.upstream_timeout_ms", "MS", "HTTP: from connect to response headers"),
    "--client-id": ("proxy.client_id", "NAME", "who the client is; auto: what it claims"),
    "--server-id": ("proxy.server_id", "NAME", "who the server is; auto: what it claims"),
    "--storage": ("audit.storage", "jsonl|sqlite", "kind of ledger"),
    "--log-level": ("proxy.log.level", "LEVEL", "debug, info, warn or error"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    parser.usage = "mcp-audit [OPTIONS] [-- SERVER ARG...]"
    for option, (_, metavar, what) in _SETTINGS.items():
        parser.add_argument(option, metavar=metavar, help=what)
    parser.add_argument("--config", metavar="PATH", help="configuration file; `none` reads none")
    parser.add_argument("--log", metavar="PATH", help="the ledger")
    parser.add_argument("--policy", metavar="PATH", help="policy file; turns the policy on")
    parser.add_argument("--no-sign", action="store_true", help="leave out the entries' own signature")
    parser.add_argument("--no-dashboard", action="store_true", help="do not serve the dashboard")
    parser.add_argument("--no-metrics", action="store_true", help="do not serve metrics")
    parser.add_argument(
        "--accept-loss", action="store_true", help="set a ledger that cannot be trusted aside and begin a new one"
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")


def run(args: argparse.Namespace) -> int:
    """Load the configuration and run the proxy; returns what the upstream returned."""
    if args.version:
        from mcp_audit.version import version_line

        print(version_line())
        return 0
    from mcp_audit import app
    from mcp_audit.config import load

    loaded = load(_flags(args), os.environ, Path.cwd(), args.argv, config=args.config)
    for notice in loaded.notices:
        print(f"mcp-audit: {notice}", file=sys.stderr)
    return app.run(loaded, args.argv, os.environ, accept_loss=args.accept_loss)


def _flags(args: argparse.Namespace) -> dict[str, tuple[str, str | bool]]:
    """Return the settings that options were given for: dotted key -> (option, value)."""
    flags: dict[str, tuple[str, str | bool]] = {}
    for option, (key, _, _) in _SETTINGS.items():
        value = getattr(args, option.lstrip("-").replace("-", "_"))
        if value is not None:
            flags[key] = (option, value)
    if args.log is not None:
        flags["log"] = ("--log", args.log)
    if args.policy is not None:
        flags["policy.file"] = ("--policy", args.policy)
        flags["policy.enabled"] = ("--policy", True)
    for option, key in (("no_sign", "audit.sign"), ("no_dashboard", "dashboard.enabled"), ("no_metrics", "metrics.enabled")):
        if getattr(args, option):
            flags[key] = ("--" + option.replace("_", "-"), False)
    return flags
