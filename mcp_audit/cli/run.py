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
from functools import partial
from pathlib import Path

from mcp_audit.config.flags import add_flags, read_flags

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    parser.usage = "mcp-audit [OPTIONS] [-- SERVER ARG...]"
    add_flags(parser)
    parser.add_argument("--config", metavar="PATH", help="configuration file; `none` reads none")
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

    read = partial(load, read_flags(args), os.environ, Path.cwd(), args.argv, config=args.config)
    loaded = read()
    for notice in loaded.notices:
        print(f"mcp-audit: {notice}", file=sys.stderr)
    return app.run(loaded, args.argv, os.environ, accept_loss=args.accept_loss, reload=read)
