"""Show one entry in full, and which entry it answers or is answered by.

Numbers, member order and repeated names stay as they were recorded. The entry goes to stdout, what is said about it to
stderr. Nothing is verified here: see `verify`.

example: mcp-audit show audit.jsonl 17
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator

from mcp_audit.cli.filters import notice
from mcp_audit.cli.terminal import colourful, safe
from mcp_audit.errors import LedgerError
from mcp_audit.ledger.merkle import leaf_hash
from mcp_audit.ledger.reader import raw_lines

__all__ = ["add_arguments", "pretty", "run"]

_PIECE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|"')


class NoSuchEntry(LedgerError):
    """The ledger has no entry with that seq."""

    def __init__(self, path: str, seq: int, last: int | None) -> None:
        super().__init__(path, seq, last)
        self.path = path
        self.seq = seq
        self.last = last

    def __str__(self) -> str:
        has = f"its entries are 0 to {self.last}" if self.last is not None else "it has no entries"
        return f"{self.path}: there is no entry {self.seq}; {has}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `show`."""
    parser.add_argument("log", metavar="LOG", help="a ledger: JSONL, gzip or SQLite")
    parser.add_argument("seq", metavar="SEQ", type=int, help="the entry's number, as `query` prints it")
    parser.add_argument("--raw", action="store_true", help="the line's exact bytes instead")


def run(args: argparse.Namespace) -> int:
    """Print the entry; exit code 2 if there is none."""
    raw, closed_by = _find(args.log, args.seq)
    if args.raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(raw + b"\n")
        return 0
    text = pretty(raw.decode("utf-8", "backslashreplace"))
    if colourful(sys.stdout):
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(text, "json", background_color="default", word_wrap=True))
    else:
        print(text)
    for line in _about(raw, closed_by):
        print(line, file=sys.stderr)
    return 0


def _find(path: str, seq: int) -> tuple[bytes, tuple[int, str] | None]:
    """Return the line, and the seq and kind of the one that closes it."""
    place = re.compile(rb',"seq":%d,"prev":"[0-9a-f]{64}"(?:,"mac":"[0-9a-f]{64}")?\}\Z' % seq)
    closing = b',"of":%d,"log":"' % seq
    found: bytes | None = None
    last: int | None = None
    for raw in _lines(path):
        if found is None:
            last = _seq(raw) if raw else last
            if place.search(raw, max(0, len(raw) - 200)):
                found = raw
                if not raw.startswith((b'{"type":"request"', b'{"type":"open"')):
                    break
        elif closing in raw[-400:]:
            return found, (_seq(raw) or 0, _kind(raw))
    if found is None:
        raise NoSuchEntry(path, seq, last)
    return found, None


def _lines(path: str) -> Iterator[bytes]:
    return raw_lines(path, False, notice)


def _seq(raw: bytes) -> int | None:
    found = re.search(rb'"seq":(\d+),"prev":"', raw[-220:])
    return int(found[1]) if found else None


def _kind(raw: bytes) -> str:
    if raw.startswith(b'{"type":"'):
        return raw[9 : raw.find(b'"', 9)].decode("utf-8", "replace")
    return "exchange"


def _about(raw: bytes, closed_by: tuple[int, str] | None) -> Iterator[str]:
    kind = _kind(raw)
    of = re.search(rb',"of":(\d+),"log":"', raw[-400:])
    if of:
        yield f"it closes seq {int(of[1])}"
    if closed_by is not None:
        yield f"closed by seq {closed_by[0]} ({safe(closed_by[1])})"
    elif kind in ("request", "open"):
        yield "not closed: " + ("nobody answered so far" if kind == "request" else "its run goes on, or died")
    yield f"leaf hash {leaf_hash(raw).hex()}"


def pretty(text: str) -> str:
    """Indent JSON text piece by piece, without decoding it; unsafe characters become JSON escapes.

    Text that is not JSON comes out as it is, but for line breaks.
    """
    out: list[str] = []
    depth = 0
    previous = ""
    for piece in _PIECE.findall(text):
        if piece in ("]", "}"):
            depth -= 1
            out.append("" if previous in ("[", "{") else "\n" + "  " * depth)
        elif previous in ("{", "[", ","):
            out.append("\n" + "  " * depth)
        out.append(": " if piece == ":" else safe(piece))
        depth += piece in ("{", "[")
        previous = piece
    return "".join(out)
