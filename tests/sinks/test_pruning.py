"""Retention in a database: only what is too old and signed goes, announced before; what is left verifies by itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from fakes import FlakyFiles, QuickFiles, When
from ledgers import SECRET, STAMP, Sink, appended, check, crash, lines, settings, types, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.entry import Entry, Unsealed, encode
from mcp_audit.sinks import pruning, sqlite
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.pruning import Pruner
from mcp_audit.sinks.retention import SteadyClock
from mcp_audit.sinks.settings import RotationSettings
from mcp_audit.sinks.stamp import Stamp

DAY = 86_400
NOW = 1_781_092_800.0
KEEP = RotationSettings(max_age_days=30)


class Clock:
    """Wall clock and monotonic clock, set by hand."""

    def __init__(self) -> None:
        self.wall = NOW
        self.passed = 1000.0

    def sleep(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    @property
    def stamp(self) -> Stamp:
        return Stamp(lambda: int(self.wall * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Pruning sees this clock, and steps are small."""
    clock = Clock()
    monkeypatch.setattr(pruning, "_ROWS", 10)

    def pruner(origin: str, vkey: str, days: int) -> Pruner:
        return Pruner(origin, vkey, days, SteadyClock(lambda: clock.wall, lambda: clock.passed), lambda: clock.passed)

    monkeypatch.setattr(sqlite, "Pruner", pruner)
    return clock


def opened(folder: Path, clock: Clock, files: Files | None = None, rotation: RotationSettings = KEEP) -> Sink:
    """A database whose lines bear the clock's time."""
    return open_ledger(settings(folder, "sqlite", rotation=rotation), clock.stamp, files or QuickFiles())


def line(clock: Clock, type_: str = "") -> Unsealed:
    stamp = clock.stamp
    outcome = "" if type_ else "answered"
    return encode(
        Entry(stamp.id(), stamp.timestamp(), "client_to_server", "stdio", "ping", type=type_, outcome=outcome)
    )


def seqs(path: str) -> list[int]:
    return [line["seq"] for line in lines(path)]


def filled(folder: Path, clock: Clock, count: int = 35) -> Sink:
    """A database with old lines, open."""
    sink = opened(folder, clock)
    for _ in range(count):
        appended(sink, line(clock))
    sink.checkpoint()
    return sink


def test_old_lines_go_while_the_proxy_runs(tmp_path: Path, clock: Clock) -> None:
    """Not before their time, in steps, hourly; the log verifies and can be gone on with."""
    sink = filled(tmp_path, clock)
    clock.sleep(29 * DAY)
    appended(sink, line(clock))
    sink.checkpoint()
    assert seqs(sink.path)[0] == 0
    clock.sleep(2 * DAY)
    appended(sink, line(clock))
    sink.checkpoint()

    kept = lines(sink.path)
    assert kept[0]["seq"] == 36
    prunes = [line for line in kept if line.get("type") == "prune"]
    assert [(prune["from"], prune["to"]) for prune in prunes] == [(0, 10), (10, 20), (20, 30), (30, 36)]
    assert {prune["rule"] for prune in prunes} == {"max_age_days: 30"}
    assert prunes[-1]["runs"] == [0]
    sink.close()
    assert check(sink.path, SECRET).exit_code == 0

    again = opened(tmp_path, clock)
    appended(again, line(clock))
    again.close()
    assert verdict(again.path) == "INTACT"


def test_old_lines_go_at_the_start(tmp_path: Path, clock: Clock) -> None:
    """All of them may be old: then the first line left is the one that lets the others go."""
    filled(tmp_path, clock, 15).close()
    clock.sleep(40 * DAY)

    sink = opened(tmp_path, clock)

    assert types(sink.path) == ["open", "prune", "prune"]
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_without_the_setting_nothing_goes(tmp_path: Path, clock: Clock) -> None:
    """Nor does any line say so."""
    filled(tmp_path, clock).close()
    clock.sleep(4000 * DAY)
    sink = opened(tmp_path, clock, rotation=RotationSettings())
    sink.checkpoint()
    sink.close()

    assert seqs(sink.path)[0] == 0
    assert "prune" not in types(sink.path)


def test_what_is_open_survives_its_lines(tmp_path: Path, clock: Clock) -> None:
    """A request whose line went is still closed, by the next start: the `prune` line carries it."""
    sink = opened(tmp_path, clock)
    appended(sink, line(clock, "request"))
    for _ in range(5):
        appended(sink, line(clock))
    sink.checkpoint()
    clock.sleep(31 * DAY)
    appended(sink, line(clock))
    sink.checkpoint()
    assert seqs(sink.path)[0] == 7
    crash(sink)

    again = opened(tmp_path, clock)
    again.close()

    orphan = next(line for line in lines(sink.path) if line.get("type") == "orphan")
    assert (orphan["of"], orphan["why"]) == (1, "crash")
    assert next(line for line in lines(sink.path) if line.get("after") == "crash")["unclosed"] == [0]
    assert verdict(sink.path) == "INTACT"


def test_a_clock_that_jumps_ahead_makes_nothing_old(tmp_path: Path, clock: Clock) -> None:
    """Only as much time counts as really passed since the start."""
    sink = filled(tmp_path, clock)
    clock.wall += 365 * DAY
    clock.passed += 2 * 3600
    sink.checkpoint()
    assert "prune" not in types(sink.path)
    clock.wall = NOW - 365 * DAY
    clock.passed += 2 * 3600
    sink.checkpoint()

    assert "prune" not in types(sink.path)
    sink.close()


def test_a_line_from_the_future_keeps_those_behind_it(tmp_path: Path, clock: Clock) -> None:
    """Only a beginning of the log goes."""
    sink = opened(tmp_path, clock)
    appended(sink, line(clock))
    clock.wall += 1000 * DAY
    appended(sink, line(clock))
    clock.wall -= 1000 * DAY
    appended(sink, line(clock))
    sink.checkpoint()
    clock.sleep(40 * DAY)
    sink.checkpoint()

    assert seqs(sink.path)[0] == 2
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_it_looks_hourly(tmp_path: Path, clock: Clock) -> None:
    """Not with every checkpoint."""
    pruner = Pruner("o", "v", 30, SteadyClock(lambda: clock.wall, lambda: clock.passed), lambda: clock.passed)
    assert pruner.is_due
    pruner.rest()
    clock.sleep(3599)
    assert not pruner.is_due
    clock.sleep(1)
    assert pruner.is_due


@pytest.mark.parametrize("when", ["before", "after"])
def test_any_operation_of_it_may_fail(tmp_path: Path, clock: Clock, when: When) -> None:
    """Retention, announced or not: no state that a start or a checker refuses, and the next one finishes it."""
    base = tmp_path / "base"
    filled(base, clock, 15).close()
    clock.sleep(40 * DAY)
    names = [entry.name for entry in base.iterdir()]

    def copy(number: int) -> Path:
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((base / name).read_bytes())
            (folder / name).chmod((base / name).stat().st_mode & 0o777)
        return folder

    probe = FlakyFiles()
    opened(copy(0), clock, probe).close()
    first = next(n for n, call in enumerate(probe.calls, 1) if call == "sql SELECT line FROM entries WHERE")
    last = max(n for n, call in enumerate(probe.calls, 1) if call.startswith("sql DELETE FROM entries"))
    assert last > first + 10
    for number in range(first, last + 2):
        folder = copy(number)
        files = FlakyFiles(number, when)
        sink = opened(folder, clock, files)
        crash(sink)
        assert files.failed
        story = f"{files.failed} failed {when} it took effect"
        found = seqs(sink.path)
        assert found == list(range(found[0], found[-1] + 1)), story
        assert check(sink.path).exit_code in (0, 4), story

        again = opened(folder, clock)
        appended(again, line(clock))
        again.close()

        assert seqs(again.path)[0] >= 17, story
        assert verdict(again.path) == "INTACT", story


def test_two_processes_prune_one_database(tmp_path: Path, clock: Clock) -> None:
    """What a peer has announced or deleted is not announced again."""
    sink = filled(tmp_path, clock)
    peer = opened(tmp_path, clock)
    clock.sleep(40 * DAY)
    for writer in (sink, peer, sink, peer):
        appended(writer, line(clock))
        writer.checkpoint()
    peer.close()
    sink.close()

    prunes = [(line["from"], line["to"]) for line in lines(sink.path) if line.get("type") == "prune"]
    assert prunes == sorted(set(prunes))
    assert all(before[1] == after[0] for before, after in pairwise(prunes))
    assert verdict(sink.path) == "INTACT"


def test_rows_that_went_without_a_word_are_missed(tmp_path: Path, clock: Clock) -> None:
    """A database that begins in the middle needs the line that says why: refused, exit 1."""
    filled(tmp_path, clock).close()
    with closing(sqlite3.connect(tmp_path / "audit.db", isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE seq < 7")

    with pytest.raises(LedgerRefused, match="seq 0 to 6 are missing") as refused:
        opened(tmp_path, clock)

    assert refused.value.exit_code == 1
    assert verdict(tmp_path / "audit.db") == "TAMPERED"


def test_a_locked_database_is_pruned_later(tmp_path: Path, clock: Clock) -> None:
    """Who reads a copy or holds a transaction delays it; lines still go in, and nothing is lost."""
    sink = filled(tmp_path, clock)
    clock.sleep(40 * DAY)
    sink.busy_timeout_ms = 20
    sink._notary.connection.execute("PRAGMA busy_timeout=20")  # type: ignore[union-attr]
    with closing(sqlite3.connect(sink.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerUnavailable):
            sink.checkpoint()
        other.execute("ROLLBACK")
    if sink.blocked:
        sink.recover()
    appended(sink, line(clock))
    sink.checkpoint()

    assert seqs(sink.path)[0] == 36
    sink.close()
    assert verdict(sink.path) == "INTACT"
    assert STAMP.id()
