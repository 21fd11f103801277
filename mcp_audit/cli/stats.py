"""Count entries, errors and latencies per method and tool.

`errors` are tool_error, rpc_error, timeout and lost; `refused` are denied and rate_limited. Percentiles are over the
calls the server answered. Nothing is verified here: see `verify`.

example: mcp-audit stats audit.jsonl --since 7d
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import chain
from typing import Any

from mcp_audit.cli.filters import LOG_HELP, add_filters, chosen, notice
from mcp_audit.cli.progress import progress_of
from mcp_audit.cli.terminal import print_table, safe
from mcp_audit.ledger.reading.lookup import Use
from mcp_audit.ledger.reading.reader import Record, read

__all__ = ["Group", "add_arguments", "percentile", "run"]

_ERRORS = ("tool_error", "rpc_error", "timeout", "lost")
_REFUSED = ("denied", "rate_limited")
_TIMED = ("answered", "tool_error", "rpc_error")
_COLUMNS = (
    "method",
    "tool_name",
    "count",
    "errors",
    "error_rate",
    "refused",
    "open",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "max_ms",
)


class Group:
    """Outcomes and latencies of one method and tool; latencies are counted by value, so memory stays small."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.latencies: Counter[int] = Counter()

    def add(self, outcome: str, duration_ms: object) -> None:
        """Count one entry."""
        self.outcomes[outcome] += 1
        if outcome in _TIMED and isinstance(duration_ms, int):
            self.latencies[duration_ms] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the figures; a latency is null where nothing was answered."""
        count = self.outcomes.total()
        errors = sum(self.outcomes[name] for name in _ERRORS)
        return {
            "count": count,
            "errors": errors,
            "error_rate": round(errors / count, 4) if count else 0.0,
            "refused": sum(self.outcomes[name] for name in _REFUSED),
            "open": self.outcomes["open"],
            "p50_ms": percentile(self.latencies, 50),
            "p95_ms": percentile(self.latencies, 95),
            "p99_ms": percentile(self.latencies, 99),
            "max_ms": max(self.latencies, default=None),
            "outcomes": dict(self.outcomes.most_common()),
        }


def percentile(counted: Counter[int], percent: int) -> int | None:
    """Return the smallest value that at least `percent` % of all are not above (nearest rank), None of nothing."""
    rank = -(-counted.total() * percent // 100)
    for value in sorted(counted):
        rank -= counted[value]
        if rank <= 0:
            return value
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `stats`."""
    parser.add_argument("logs", metavar="LOG", nargs="+", help=LOG_HELP)
    add_filters(parser)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--no-index", action="store_true", help="read the ledger alone, and leave no index beside it")


def run(args: argparse.Namespace) -> int:
    """Print the figures, the most frequent first."""
    groups: dict[tuple[str, str], Group] = {}
    total = Group()
    first = last = ""
    filters = chosen(args)
    index: Use = "none" if args.no_index else "keep"
    with progress_of("index", "read") as report:
        records = chain.from_iterable(
            read(path, newest_first=True, index=index, on_notice=notice, on_progress=report, **filters)
            for path in args.logs
        )
        for record in records:
            method, tool, outcome, stamp = (
                _text(record, name) for name in ("method", "tool_name", "outcome", "timestamp")
            )
            for group in (groups.setdefault((method, tool), Group()), total):
                group.add(outcome, record.line.get("duration_ms"))
            first, last = min(first or stamp, stamp), max(last, stamp)
    ordered = sorted(groups.items(), key=lambda item: (-item[1].outcomes.total(), item[0]))
    if args.format == "json":
        rows = [{"method": method, "tool_name": tool, **group.to_json()} for (method, tool), group in ordered]
        print(json.dumps({"first": first, "last": last, "total": total.to_json(), "groups": rows}, indent=2))
    else:
        _print_table(ordered, total, first, last)
    return 0


def _text(record: Record, name: str) -> str:
    value = record.line.get(name, "")
    return value if isinstance(value, str) else ""


def _print_table(ordered: list[tuple[tuple[str, str], Group]], total: Group, first: str, last: str) -> None:
    rows = [_row(method or "(opaque)", tool, group) for (method, tool), group in ordered]
    print_table(_COLUMNS, [*rows, _row("total", "", total)], right=_COLUMNS[2:])
    outcomes = ", ".join(f"{safe(name)} {count}" for name, count in total.outcomes.most_common())
    if first:
        print(f"\n{safe(first)} to {safe(last)}: {outcomes}")


def _row(method: str, tool: str, group: Group) -> list[str]:
    figures = group.to_json()
    figures["error_rate"] = f"{figures['error_rate']:.1%}"
    return [method, tool, *("" if figures[name] is None else str(figures[name]) for name in _COLUMNS[2:])]
