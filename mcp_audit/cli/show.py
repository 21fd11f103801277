"""Show one entry in full, and which entry it answers or is answered by.

Numbers, member order and repeated names stay as they were recorded. The entry goes to stdout, what is said about it to
stderr. Nothing is verified here: see `verify`.

example: mcp-audit show audit.jsonl 17
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator

from mcp_audit.cli.filters import LOG_HELP, notice
from mcp_audit.cli.terminal import colourful, safe
from mcp_audit.errors import LedgerError
from mcp_audit.ledger.merkle import leaf_hash
from mcp_audit.ledger.reading.reader import raw_lines

__all__ = ["add_arguments", "pretty", "run"]

_ULID = 26  # characters of an id, which may be digits only
_PIECE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+|"')


class NoSuchEntry(LedgerError):
    """The ledger has no entry with that seq or id."""

    def __init__(self, path: str, wanted: str, first: int | None, last: int | None) -> None:
        super().__init__(path, wanted, first, last)
        self.path = path
        self.wanted = wanted
        self.first = first
        self.last = last

    def __str__(self) -> str:
        has = f"its entries are {self.first} to {self.last}" if self.last is not None else "it has no entries"
        return f"{self.path}: there is no entry {self.wanted}; {has}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `show`."""
    parser.add_argument("log", metavar="LOG", help=LOG_HELP)
    parser.add_argument("entry", metavar="SEQ|ID", help="the entry's number, as `query` prints it, or its id")
    parser.add_argument("--raw", action="store_true", help="the line's exact bytes instead")


def run(args: argparse.Namespace) -> int:
    """Print the entry; exit code 2 if there is none."""
    raw, closed_by = _find(args.log, args.entry)
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


def _find(path: str, wanted: str) -> tuple[bytes, tuple[int, str] | None]:
    """Return the line, and the seq and kind of the one that closes it.

    Raises:
        NoSuchEntry: there is none.
    """
    number = int(wanted) if wanted.isdecimal() and len(wanted) < _ULID else None
    is_it = _has_id(wanted) if number is None else _has_seq(number)
    found: bytes | None = None
    closing = b""
    for raw in _lines(path, number):
        if found is None:
            if is_it(raw):
                found = raw
                seq = _seq(raw)
                if seq is None or not raw.startswith((b'{"type":"request"', b'{"type":"open"')):
                    break
                closing = b',"of":%d,"log":"' % seq
        elif closing in raw[-400:]:
            return found, (_seq(raw) or 0, _kind(raw))
    if found is None:
        raise NoSuchEntry(path, wanted, _end(path, False), _end(path, True))
    return found, None


def _end(path: str, newest: bool) -> int | None:
    """Return the smallest or the largest seq there is."""
    return next((seq for raw in raw_lines(path, newest, notice) if (seq := _seq(raw)) is not None), None)


def _has_seq(seq: int) -> Callable[[bytes], bool]:
    place = re.compile(rb',"seq":%d,"prev":"[0-9a-f]{64}"(?:,"mac":"[0-9a-f]{64}")?\}\Z' % seq)
    return lambda raw: place.search(raw, max(0, len(raw) - 200)) is not None


def _has_id(wanted: str) -> Callable[[bytes], bool]:
    """Tell by the `id` of the line itself, at any depth but this one it is payload."""
    text = wanted.encode("utf-8", "surrogateescape")

    def is_it(raw: bytes) -> bool:
        if text not in raw:
            return False
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            return False
        return isinstance(line, dict) and line.get("id") == wanted

    return is_it


def _lines(path: str, seq: int | None) -> Iterator[bytes]:
    """Yield the lines, oldest first, of the files that can hold an entry with this seq or what closes it."""
    return raw_lines(path, False, notice, from_seq=seq or 0)


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
