"""Show entries of one or more ledgers, newest first, filtered.

Each exchange is one entry; a request that nobody answered is one, too, with the outcome of its orphan line or `open`.
jsonl in a pipe prints answered entries byte for byte as the ledger has them. Nothing is verified here: see `verify`.

Looking for names or times in a large JSONL ledger makes an index beside it (LOG.index), which later queries use. The
lines it leads to are compared with it, but whoever may write there could make one that leaves lines out: --no-index
reads the ledger itself.

example: mcp-audit query audit.jsonl --tool 'delete_*' --outcome denied --since 2h
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mcp_audit.cli.filters import LOG_HELP, add_filters, chosen, notice
from mcp_audit.cli.progress import progress_of
from mcp_audit.cli.terminal import on_terminal, print_table
from mcp_audit.errors import ConfigError
from mcp_audit.ledger.reading.lookup import Use
from mcp_audit.ledger.reading.reader import NO_SEQ, Record, read

__all__ = ["add_arguments", "run"]

_TABLE_LIMIT = 100
_TABLE = ("seq", "timestamp", "method", "tool_name", "client_id", "server_id", "outcome", "duration_ms")
_CSV = (
    *("log", "seq", "id", "timestamp", "direction", "transport", "method", "request_id", "tool_name"),
    *("params", "result", "error", "duration_ms", "client_id", "server_id", "outcome"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `query`."""
    parser.add_argument("logs", metavar="LOG", nargs="+", help=LOG_HELP)
    add_filters(parser)
    parser.add_argument(
        "--limit",
        metavar="N",
        type=int,
        help=f"at most N entries; 0: all (default: {_TABLE_LIMIT} in a table, else all)",
    )
    parser.add_argument("--format", choices=("table", "json", "jsonl", "csv"), default="table")
    parser.add_argument("--no-index", action="store_true", help="read the ledger alone, and leave no index beside it")


def run(args: argparse.Namespace) -> int:
    """Print the entries; 0 even if there are none."""
    limit = args.limit if args.limit is not None else (_TABLE_LIMIT if args.format == "table" else 0)
    if limit < 0:
        raise ConfigError("", f"must be 0 (all) or more, got {limit}", "--limit")
    filters = chosen(args)
    index: Use = "none" if args.no_index else "keep"
    printers = {"table": _print_table, "json": _print_json, "jsonl": _print_jsonl, "csv": _print_csv}
    with progress_of("index") as report:
        streams = [
            read(path, newest_first=True, index=index, on_notice=notice, on_progress=report, **filters)
            for path in args.logs
        ]
        records: Iterator[Record] = heapq.merge(*streams, key=_time, reverse=True)
        count = printers[args.format](islice(records, limit) if limit else records)
        more = bool(limit) and count == limit and next(records, None) is not None
    if more:
        print(f"mcp-audit: there are more; these are the newest {limit}. --limit 0 shows all", file=sys.stderr)
    elif count == 0:
        print("mcp-audit: no entry fits", file=sys.stderr)
    return 0


def _time(record: Record) -> str:
    return str(record.line.get("timestamp", ""))


def _print_table(records: Iterable[Record]) -> int:
    return print_table(_TABLE, (_row(record, _TABLE) for record in records), right=("seq", "duration_ms"))


def _row(record: Record, columns: Iterable[str]) -> list[str]:
    if record.seq == NO_SEQ:  # of the Go version: `show` finds it by its id
        columns = [name if name != "seq" else "id" for name in columns]
    return [_cell(record.line.get(name)) for name in columns]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _print_json(records: Iterable[Record]) -> int:
    count = 0
    for count, record in enumerate(records, 1):
        print("[" if count == 1 else ",")
        print(_json(record), end="")
    print("\n]" if count else "[]")
    return count


def _print_jsonl(records: Iterable[Record]) -> int:
    raw = not on_terminal(sys.stdout)
    count = 0
    for record in records:
        count += 1
        if raw and not record.type:
            # Bytes of the ledger, which our own text layer might encode otherwise.
            sys.stdout.flush()
            sys.stdout.buffer.write(record.raw + b"\n")
        else:
            print(_json(record))
    return count


def _json(record: Record) -> str:
    """Return the members in ASCII: no terminal takes an escape sequence from it, every parser the same text."""
    return json.dumps(record.line, separators=(",", ":"))


def _print_csv(records: Iterable[Record]) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV)
    count = 0
    for record in records:
        count += 1
        writer.writerow([_inert(cell) for cell in _row(record, _CSV)])
    return count


def _inert(cell: str) -> str:
    """Keep a spreadsheet from running a cell: whoever chooses tool names does not choose formulas."""
    cell = cell.encode("utf-8", "backslashreplace").decode()
    return "'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
