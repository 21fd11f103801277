"""A log cut at any byte: before the end of what was signed nobody goes on with it, behind it everybody can."""

from __future__ import annotations

from pathlib import Path

import pytest
from rows import SECRET, Seen, row
from shelf import Shelf

BY = "the log of a crashed run is truncated"


@pytest.fixture(params=[SECRET, pytest.param(None, marks=pytest.mark.long)], ids=["mac", "no-mac"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """A crashed ledger, with and without MACs."""
    return Shelf(tmp_path, request.param)


@row(
    "log cut at every byte before the end of what the checkpoint covers",
    by=BY,
    proxy="refuses to start (exit 1) and touches nothing",
    verify="TAMPERED",
)
@pytest.mark.slow
def test_cut_before_the_end_of_what_was_signed(shelf: Shelf, seen: Seen) -> None:
    """A signed line is gone or hurt: exit 1, and nothing is appended that would hide it."""
    for cut in range(shelf.signed):
        log = shelf.put(shelf.whole[:cut])
        assert shelf.refusal() == 1, cut
        report = seen.check(log, story=cut, both=cut % 5 == 0)
        assert "seq " in report.reason or "log is missing" in report.reason, (cut, report.reason)


@row(
    "log cut at every byte behind the checkpoint",
    by=BY,
    proxy="terminates the line, appends `recovery` where bytes are torn, settles the crash, goes on",
    verify="UNCLEAN INTACT",
)
@pytest.mark.slow
def test_cut_behind_the_end_of_what_was_signed(shelf: Shelf, seen: Seen) -> None:
    """Unclean before the start, intact after it, and a cut that took only the LF loses no line."""
    for cut in range(shelf.signed, len(shelf.whole)):
        log = shelf.put(shelf.whole[:cut])
        seen.check(log, expect="UNCLEAN", story=cut, both=cut % 5 == 0)
        added = shelf.restart()
        report = seen.check(log, expect="INTACT", story=cut, both=cut % 5 == 0)
        torn = cut not in shelf.ends and cut - 1 not in shelf.ends
        assert (b'{"type":"recovery"' in added) is torn, cut
        assert report.counts["open_requests"] == 0, cut


@row(
    "a second crash at every byte of the first one's recovery",
    by="torn bytes, a restart, then the log is truncated at every byte that this restart wrote",
    proxy="recovers from both",
    verify="INTACT",
)
@pytest.mark.slow
def test_cut_inside_a_recovery(shelf: Shelf, seen: Seen) -> None:
    """What a recovery left behind is torn bytes like any other."""
    old = shelf.whole + b'{"id":"torn'
    shelf.put(old)
    added = shelf.restart()
    assert added.startswith(b'\n{"type":"recovery"')
    inside = range(added.index(b"\n", 1) + 2)  # and a few places in the lines that settle the crash
    for cut in [*inside, *range(len(inside), len(added), 9)]:
        log = shelf.put(old + added[:cut])
        shelf.restart()
        seen.check(log, story=cut, both=cut % 5 == 0)


TAILS = [
    pytest.param(b"\0" * 5000, id="zeros"),
    pytest.param(bytes(range(256)) * 20, id="noise"),
    pytest.param(b"\n", id="line-feed"),
    pytest.param(b"\n\n\n", id="line-feeds"),
    pytest.param(b"\r\n", id="crlf"),
    pytest.param(b"{}\n", id="other-json"),
    pytest.param(b'{"type":"recovery","torn_bytes":0}\n', id="forged-recovery"),
    pytest.param(b'{"type":"open"\n{"type":"close"', id="half-lines"),
    pytest.param(b'"}\n' * 40, id="line-ends"),
]


@row(
    "what a file system leaves behind a crash: zeros, noise, half lines, bare line feeds",
    by="bytes are added to the log of a crashed run",
    proxy="appends `recovery` with their count and hash, goes on",
    verify="UNCLEAN INTACT",
)
@pytest.mark.parametrize("tail", TAILS)
def test_any_tail_is_recovered_from(shelf: Shelf, seen: Seen, tail: bytes) -> None:
    """A tail is never taken for lines, and never silently dropped."""
    log = shelf.put(shelf.whole + tail)
    seen.check(log, expect="UNCLEAN")
    assert b'{"type":"recovery"' in shelf.restart()
    report = seen.check(log, expect="INTACT")
    assert report.counts["torn_bytes"] == len(tail) + (not tail.endswith(b"\n"))
