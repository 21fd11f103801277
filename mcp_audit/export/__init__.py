"""A ledger's content for other programs. One module for each format; this one lists them.

A format is a function `parts(log, on_notice)` that yields the files it consists of, each as a `Part`. Promise of all:
the ledger itself is only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import cast

__all__ = ["FORMATS", "Part", "parts_of"]

# Name, and the module that makes it.
FORMATS = {"jsonl": "mcp_audit.export.jsonl"}


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an export.

    Attributes:
        name: what it is called beside the others.
        chunks: its bytes.
        beside: small files that belong to it, by what is added to its name.
        size: bytes to come, as far as known, for progress.
    """

    name: str
    chunks: Iterator[bytes]
    beside: dict[str, bytes]
    size: int


def parts_of(format_: str, log: str, on_notice: Callable[[str], None]) -> list[Part]:
    """Return the files of an export, the oldest first; nothing is read before its `chunks` are asked for.

    Raises:
        CannotLook: the log cannot be read.
    """
    return cast("list[Part]", import_module(FORMATS[format_]).parts(log, on_notice))
