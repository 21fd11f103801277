"""What the rare lines of a log tell whoever checks it: recoveries, gaps, blocked times, runs that followed a crash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["NOTED", "Notice", "Prune", "notice_of", "prune_of"]

NOTED = (b"open", b"recovery", b"gap", b"blocked", b"prune")


class Notice(NamedTuple):
    """Something a reader of the verdict should know; `seq` is the line that says so."""

    seq: int
    kind: str
    text: str


class Prune(NamedTuple):
    """The line at `seq` lets the lines from `from_` up to `to`, exclusive, go; `rule` is the setting behind it."""

    seq: int
    from_: int
    to: int
    rule: str


def prune_of(members: Mapping[str, Any], seq: int) -> list[Prune]:
    """Return what a `prune` line lets go; empty if it does not say so in numbers, or names lines after itself."""
    from_, to = members.get("from"), members.get("to")
    if type(from_) is int and type(to) is int and 0 <= from_ < to <= seq:
        return [Prune(seq, from_, to, str(members.get("rule", "")))]
    return []


def notice_of(kind: bytes, members: Mapping[str, Any], seq: int) -> Notice | None:
    """Return what a line of one of the `NOTED` types has to say, if anything."""
    text = _TEXTS[kind](members) if kind in _TEXTS else ""
    return Notice(seq, kind.decode(), text) if text else None


def _open(members: Mapping[str, Any]) -> str:
    after = members.get("after")
    return f"a run begins after {after}" if after in ("crash", "replaced", "loss") else ""


def _recovery(members: Mapping[str, Any]) -> str:
    salvageable = members.get("salvageable")
    loud = f"; {salvageable} whole lines were among them, which a torn write does not leave" if salvageable else ""
    return f"{members.get('torn_bytes')} torn bytes{loud}"


def _gap(members: Mapping[str, Any]) -> str:
    lost = members.get("lost")
    return f"{'an unknown number of' if lost is None else lost} entries are missing ({members.get('cause')})"


def _blocked(members: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{name} {members.get(name)}" for name in ("refused", "withheld", "dropped"))
    return f"no entry could be written from {members.get('from')} to {members.get('to')}: {counts}"


_TEXTS = {b"open": _open, b"recovery": _recovery, b"gap": _gap, b"blocked": _blocked}
