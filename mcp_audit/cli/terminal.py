"""What the reading commands print with: tables, colours and a progress bar on a terminal, plain text in a pipe.

Promise: no audited value reaches a terminal as anything but visible text. A tool name can hold escape sequences that
move the cursor and rewrite the verdict above, or bidirectional marks that make `deny` read as something else.
"""

from __future__ import annotations

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

__all__ = ["STYLES", "colourful", "on_terminal", "print_table", "progress_bar", "safe", "say"]

# Everything but printable text: controls (C0, DEL, C1), formats such as bidi overrides and zero-width characters,
# lone surrogates, private use, line and paragraph separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MAYBE_UNSAFE = re.compile(r"[^ -~]")
STYLES: Mapping[str, str] = {
    "answered": "green",
    "tool_error": "yellow",
    "rpc_error": "yellow",
    "denied": "bold red",
    "rate_limited": "red",
    "cancelled": "dim",
    "timeout": "magenta",
    "lost": "magenta",
    "open": "cyan",
    "notification": "dim",
    "opaque": "dim",
    "INTACT": "bold green",
    "TAMPERED": "bold white on red",
    "UNCLEAN": "bold yellow",
    "UNKNOWN": "bold yellow",
    "UNREADABLE": "bold red",
    "FAIL": "bold red",
    "ok": "green",
}


def safe(text: str) -> str:
    """Return `text` with every character that is not plainly visible written as an escape."""
    return _MAYBE_UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if unicodedata.category(character) not in _UNSAFE:
        return character
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character) or _coded(ord(character))


def _coded(code: int) -> str:
    """Return JSON's escape, so that escaped JSON stays JSON."""
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"


def on_terminal(stream: TextIO) -> bool:
    """Say whether a person looks at the stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def colourful(stream: TextIO) -> bool:
    """Say whether colours are welcome. Source: no-color.org."""
    return on_terminal(stream) and not os.environ.get("NO_COLOR")


def say(text: str, style: str = "", stream: TextIO | None = None) -> None:
    """Print one line, in a rich style where colours are welcome; `text` must be safe already."""
    stream = stream or sys.stdout
    if style and colourful(stream):
        from rich.console import Console
        from rich.text import Text

        Console(file=stream, soft_wrap=True).print(Text(text, style=style))
    else:
        print(text, file=stream)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> int:
    """Print rows under their headings and return how many; values are made safe here.

    On a terminal the table fits its width; in a pipe every value is whole, columns two spaces apart.
    """
    cells = [[safe(value) for value in row] for row in rows]
    if colourful(sys.stdout):
        _print_rich(columns, cells, right)
    else:
        widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
        for row in [list(columns), *cells]:
            padded = [
                value.rjust(width) if name in right else value.ljust(width)
                for name, value, width in zip(columns, row, widths, strict=True)
            ]
            print("  ".join(padded).rstrip())
    return len(cells)


def _print_rich(columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        justify = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in cells:
        table.add_row(*(Text(value, style=STYLES.get(value, "")) for value in row))
    Console().print(table)


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far we are, if that is a terminal and it takes long enough to wonder.

    Yields a function to call with the amount done so far, in the unit of `total` (bytes).
    """
    if not colourful(sys.stderr):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(safe(title).replace("[", "\\["), total=total, visible=False)
        begun = time.monotonic()
        yield lambda done: progress.update(task, completed=done, visible=time.monotonic() - begun > 0.5)
