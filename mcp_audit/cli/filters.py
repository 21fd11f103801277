"""The filters that `query` and `stats` share: their options, and times as people write them."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TypedDict, cast

from mcp_audit.cli.terminal import safe
from mcp_audit.errors import ConfigError

__all__ = ["LOG_HELP", "Filters", "add_filters", "chosen", "notice", "when"]

LOG_HELP = "a ledger: JSONL, gzip or SQLite; archives beside it are found, an archive is read alone"
_AGO = re.compile(r"(\d{1,9})\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAMES = ("method", "tool", "client", "server", "outcome", "credential", "grep")


class Filters(TypedDict, total=False):
    """Keyword arguments of `mcp_audit.ledger.read`."""

    method: str | None
    tool: str | None
    client: str | None
    server: str | None
    outcome: str | None
    credential: str | None
    grep: str | None
    since: str | None
    until: str | None


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Declare the filters. Globs work for all names; several values are separated by commas."""
    parser.add_argument("--method", metavar="NAME", help="JSON-RPC method, such as tools/call; globs and lists work")
    parser.add_argument("--tool", metavar="NAME", help="tool name, such as read_file or 'delete_*'")
    parser.add_argument("--client", metavar="NAME", help="client_id")
    parser.add_argument("--server", metavar="NAME", help="server_id")
    parser.add_argument(
        "--outcome", metavar="OUTCOME", help="such as denied,rate_limited; `open`: never answered so far"
    )
    parser.add_argument("--credential", metavar="ID", help="session or provider of an issued credential")
    parser.add_argument(
        "--since", metavar="WHEN", help="2h, 30m, 7d ago, or a UTC date or time: 2026-11-01, 2026-11-01T12:00"
    )
    parser.add_argument("--until", metavar="WHEN", help="likewise; a date includes that day")
    parser.add_argument("--grep", metavar="REGEX", help="searched in the whole entry as it stands in the ledger")


def chosen(args: argparse.Namespace) -> Filters:
    """Return the filters that were given.

    Raises:
        ConfigError: a time or an expression cannot be understood.
    """
    now = datetime.now(UTC)
    given = {name: value for name in _NAMES if (value := getattr(args, name))}
    filters = cast(Filters, given)
    if args.grep:
        try:
            re.compile(args.grep)
        except re.error as error:
            raise ConfigError("", f"{args.grep!r} is no regular expression: {error}", "--grep") from None
    if args.since:
        filters["since"] = when(args.since, now, "--since")
    if args.until:
        filters["until"] = when(args.until, now, "--until", end_of_day=True)
    return filters


def when(text: str, now: datetime, flag: str, end_of_day: bool = False) -> str:
    """Return a point in time as the ledger writes it, so that comparing text compares time.

    Args:
        text: `2h`, `30m`, `90s`, `7d`, `2w` before `now`; or ISO 8601, UTC unless it says otherwise.
        now: an aware time.
        end_of_day: a date without a time means the end of that day.

    Raises:
        ConfigError: it is neither, or out of range.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            moment = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            moment = datetime.fromisoformat(text.strip())
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            if end_of_day and re.fullmatch(r"\d{4}-?\d\d-?\d\d", text.strip()):
                moment += timedelta(days=1)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
    except (ValueError, OverflowError):
        raise ConfigError(
            "", f"{text!r} is no time; write 2h, 30m or 7d for ago, or a UTC date or time like 2026-11-01T12:00", flag
        ) from None


def notice(text: str) -> None:
    """Tell on stderr what was skipped."""
    print(f"mcp-audit: {safe(text)}", file=sys.stderr)
