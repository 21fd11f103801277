"""Retention and compression: what goes, what is said about it first, and what an interruption leaves."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from fakes import QuickFiles
from ledgers import Sink, appended, crash, exchange, lines, types, verdict
from test_rotation import (
    NOON,
    SECOND,
    Clock,
    Dying,
    Killed,
    assert_no_leftovers,
    assert_verifies,
    every_line,
    every_text,
    fill,
    parts,
    start,
)

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.segment_files import segment_files
from mcp_audit.sinks.compress import compress
from mcp_audit.sinks.retention import Retention, SteadyClock, archives
from mcp_audit.sinks.settings import RotationSettings

DAY = 86_400 * SECOND


def aged(folder: Path, days: int, clock: Clock, **more: Any) -> Any:
    """A ledger with one archive from each of the last days, the oldest first."""
    sink = start(folder, RotationSettings(max_size_bytes=2000, **more), clock=clock)
    for _ in range(days):
        fill(sink)
        clock.now += DAY
    return sink


def prunes(folder: Path) -> list[dict[str, Any]]:
    """All `prune` lines that are left."""
    return [line for line in every_line(folder) if line.get("type") == "prune"]


# -- what goes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "gone", "rule"),
    [
        pytest.param({"max_files": 3}, 3, "max_files: 3", id="count"),
        pytest.param({"max_age_days": 4}, 2, "max_age_days: 4", id="age"),
        pytest.param({"max_age_days": 4, "max_files": 3}, 3, "max_age_days: 4, max_files: 3", id="age-then-count"),
        pytest.param({"max_age_days": 2, "max_files": 5}, 4, "max_age_days: 2", id="age-is-enough"),
        pytest.param({"max_age_days": 1000, "max_files": 1000}, 0, "", id="nothing"),
        pytest.param({}, 0, "", id="off"),
    ],
)
def test_age_goes_before_count(tmp_path: Path, rules: dict[str, int], gone: int, rule: str) -> None:
    """Six archives, almost 1 to almost 6 days old: the oldest go, and the line says by which setting."""
    clock = Clock()
    sink = aged(tmp_path, 6, clock)
    clock.now -= SECOND
    known = archives(segment_files(sink.path))
    now = clock.now / SECOND

    expired, why = Retention(RotationSettings(**rules), SteadyClock(lambda: now)).expired(known)

    assert (expired, why) == (known[:gone], rule)
    sink.close()


def test_a_prune_is_signed_before_anything_goes(tmp_path: Path) -> None:
    """It names each file with its hash; notes stay; the rest verifies, also each file alone."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, max_files=1))
    for _ in range(3):
        fill(sink)
    before = {part.name: part.read_bytes() for part in parts(tmp_path)}
    starts = [lines(part)[0]["seq"] for part in parts(tmp_path)]

    sink.checkpoint()

    [prune] = prunes(tmp_path)
    names = list(before)
    assert (prune["from"], prune["to"], prune["rule"]) == (0, starts[2], "max_files: 1")
    assert prune["segments"] == [
        {"name": name, "start": first, "end": end, "sha256": hashlib.sha256(before[name]).hexdigest()}
        for name, first, end in zip(names[:2], starts, starts[1:3], strict=False)
    ]
    assert [part.name for part in parts(tmp_path)] == names[2:]
    assert all((tmp_path / f"{name}.checkpoint").exists() for name in names[:-1])
    assert int((tmp_path / "audit.jsonl.checkpoint").read_text().split("\n")[1]) > prune["seq"]
    sink.close()
    assert_verifies(tmp_path)


def test_nobody_waits_for_a_look_at_the_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands; what goes is chosen before the append lock is taken."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, max_files=1))
    looked = []
    monkeypatch.setattr(
        "mcp_audit.sinks.housekeeping.segment_files",
        lambda log, origin: looked.append(sink._inside) or segment_files(log, origin),
    )
    for _ in range(3):
        fill(sink)
    sink.checkpoint()
    sink.close()

    assert prunes(tmp_path)
    assert looked
    assert not any(looked)


def test_a_start_removes_what_grew_old_meanwhile(tmp_path: Path) -> None:
    """Nothing has to be written for it but the line that says so."""
    clock = Clock()
    aged(tmp_path, 3, clock).close()
    assert len(parts(tmp_path)) == 4

    sink = start(tmp_path, RotationSettings(max_age_days=2), clock=clock)

    assert len(parts(tmp_path)) == 3
    sink.close()
    assert_verifies(tmp_path)


def test_archives_grow_old_while_nothing_rotates(tmp_path: Path) -> None:
    """A checkpoint looks again after an hour."""
    clock = Clock()
    monotonic = [1000.0]
    sink = aged(tmp_path, 1, clock, max_age_days=5)
    sink._clock = lambda: monotonic[0]
    sink._house = None
    sink.checkpoint()
    sink.keep_house()
    assert len(parts(tmp_path)) == 2

    clock.now += 6 * DAY
    monotonic[0] += 6 * 86_400
    appended(sink, exchange())
    sink.checkpoint()

    assert len(parts(tmp_path)) == 1
    sink.close()
    assert_verifies(tmp_path)


def test_a_clock_jump_deletes_nothing(tmp_path: Path) -> None:
    """Ten years ahead in a second are a mistake: time that did not pass makes nothing old. Back is no harm either."""
    clock = Clock()
    sink = aged(tmp_path, 2, clock, max_age_days=30)
    sink.keep_house()
    for jump in (3650 * DAY, -7300 * DAY):
        clock.now += jump
        fill(sink)
        sink.checkpoint()

    assert prunes(tmp_path) == []
    assert len(parts(tmp_path)) == 5
    sink.close()
    assert_verifies(tmp_path)


def test_a_gap_is_not_vouched_for(tmp_path: Path) -> None:
    """Somebody deleted an archive: no prune line may cover that, so what is before it stays, and verify says so."""
    sink = start(tmp_path)
    for _ in range(4):
        fill(sink)
    parts(tmp_path)[1].unlink()
    crash(sink)

    sink = start(tmp_path, RotationSettings(max_files=1))
    sink.close()

    assert prunes(tmp_path) == []
    assert verdict(sink.path) == "TAMPERED"


def test_pruning_again_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Each line covers what goes now; together they cover all that went."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, max_files=2))
    covered = []
    for _ in range(6):
        fill(sink)
        sink.checkpoint()
        covered += [
            (line["from"], line["to"]) for line in prunes(tmp_path) if (line["from"], line["to"]) not in covered
        ]

    assert [first for first, _ in covered[1:]] == [to for _, to in covered[:-1]]
    assert covered[0][0] == 0
    sink.close()
    assert_verifies(tmp_path)


def test_a_kill_at_any_step_of_a_prune(tmp_path: Path) -> None:
    """The next start finishes it, without a second line where one was written."""
    rotation = RotationSettings(max_size_bytes=2000, max_files=1)
    for steps in range(60):
        folder = tmp_path / str(steps)
        sink = start(folder)
        for _ in range(4):
            fill(sink)
        sink.close()
        dying = Dying(10**6)
        done = False
        sink = start(folder, RotationSettings(max_size_bytes=2000))
        sink.rotation = rotation
        sink._house = None
        dying.left, sink._files, sink._sidecar._files, sink._write = steps, dying, dying, dying.write
        try:
            sink.keep_house()
            done = True
        except Killed:
            pass
        crash(sink)

        start(folder, rotation).close()

        assert len(parts(folder)) == 2, steps
        assert types(folder / "audit.jsonl").count("prune") == 1, steps
        assert_verifies(folder, str(steps))
        assert_no_leftovers(folder)
        if done:
            break
    else:
        raise AssertionError("the scenario has no end")
    assert steps > 5


# -- compression -------------------------------------------------------------------------------------------------------


def test_archives_are_compressed_in_the_background(tmp_path: Path) -> None:
    """Their content stays the same to the byte, the note keeps its name, and the log verifies."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, compress="gzip"))
    fill(sink)
    [archive, _] = parts(tmp_path)
    data = archive.read_bytes()

    sink.checkpoint()
    sink._house.join()

    assert gzip.decompress(Path(f"{archive}.gz").read_bytes()) == data
    assert not archive.exists()
    assert os.stat(f"{archive}.gz").st_mode & 0o777 == 0o600
    assert Path(f"{archive}.checkpoint").exists()
    fill(sink)
    sink.close()
    assert_verifies(tmp_path)


def test_an_archive_that_was_changed_is_not_compressed(tmp_path: Path) -> None:
    """It is evidence; the checkpoint complains and lines still go in."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, compress="gzip"))
    fill(sink)
    archive = parts(tmp_path)[0]
    changed = archive.read_bytes().replace(b"answered", b"Answered", 1)
    archive.write_bytes(changed)
    sink.checkpoint()
    sink._house.join()

    appended(sink, exchange())
    sink._tidy = False
    with pytest.raises(LedgerUnavailable, match=r"could not be compressed.*next segment says"):
        sink.checkpoint()

    assert not sink.blocked
    assert archive.read_bytes() == changed
    assert appended(sink, exchange())
    sink._house.join()
    sink._tidy = True
    sink.close()
    assert_no_leftovers(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8bgarbage", b"whole"])
def test_an_interrupted_compression_is_finished(tmp_path: Path, damage: bytes) -> None:
    """A crash between the rename and the removal leaves both; a copy that is not whole is made again."""
    sink = start(tmp_path)
    fill(sink)
    sink.close()
    archive = parts(tmp_path)[0]
    data = archive.read_bytes()
    Path(f"{archive}.gz").write_bytes(gzip.compress(data) if damage == b"whole" else damage)
    Path(f"{archive}.gz").chmod(0o600)

    sink = start(tmp_path, RotationSettings(compress="gzip"))
    sink._house.join()

    assert not archive.exists()
    assert gzip.decompress(Path(f"{archive}.gz").read_bytes()) == data
    sink.close()
    assert_verifies(tmp_path)


def test_two_do_not_compress_one_file(tmp_path: Path) -> None:
    """Who finds it locked leaves it to the other; who finds it gone does nothing."""
    path = tmp_path / "archive"
    path.write_bytes(b"content")
    path.chmod(0o600)
    sha256 = hashlib.sha256(b"content").hexdigest()

    class Other(QuickFiles):
        def unlink(self, target: str) -> None:  # type: ignore[override]
            if target == str(path):
                compress(QuickFiles(), str(path), "another process at this moment")
                assert path.read_bytes() == b"content"
            os.unlink(target)

    compress(Other(), str(path), sha256)
    compress(QuickFiles(), str(path), sha256)

    assert [entry.name for entry in tmp_path.iterdir()] == ["archive.gz"]


def test_a_pruned_archive_does_not_come_back_compressed(tmp_path: Path) -> None:
    """While somebody compresses it, retention leaves it, and takes it the next time."""
    rotation = RotationSettings(max_size_bytes=2000, max_files=1)
    sink = start(tmp_path, rotation)
    for _ in range(2):
        fill(sink)
    import fcntl

    with open(parts(tmp_path)[0], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        sink.checkpoint()
        assert len(parts(tmp_path)) == 3

    sink.keep_house()

    assert len(parts(tmp_path)) == 2
    assert len(prunes(tmp_path)) == 1
    sink.close()
    assert_verifies(tmp_path)


def test_a_close_does_not_wait_for_a_compression(tmp_path: Path) -> None:
    """It is given up without a trace, and the next start does it."""
    sink = start(tmp_path, RotationSettings(max_size_bytes=2000, compress="gzip"))
    fill(sink)
    sink.close()
    start(tmp_path, RotationSettings(compress="gzip"))._house.join()

    assert_no_leftovers(tmp_path)
    assert [part.suffix for part in parts(tmp_path)] == [".gz", ".jsonl"]


def test_what_is_kept_is_all_there(tmp_path: Path) -> None:
    """Rotation, compression, retention together: the newest lines up to now, without a hole."""
    sink: Sink = start(tmp_path, RotationSettings(max_size_bytes=3000, max_files=2, compress="gzip"))
    told: dict[int, str] = {}
    for number in range(30):
        text = f"{number}-" + "." * 500
        told.update(dict.fromkeys(appended(sink, exchange(text)), text))
        if number % 4 == 0:
            sink.checkpoint()
    sink.close()

    found = every_text(tmp_path)
    assert found == {seq: text for seq, text in told.items() if seq >= min(found)}
    assert len(parts(tmp_path)) == 3
    assert json.loads(Path(sink.path).read_bytes().split(b"\n")[0])["type"] == "segment"
    assert_verifies(tmp_path)


def test_a_name_without_a_time_is_as_old_as_its_last_change(tmp_path: Path) -> None:
    """A tool renamed it; it is a part of the log all the same."""
    sink = start(tmp_path)
    fill(sink)
    old = tmp_path / "audit.jsonl.1"
    parts(tmp_path)[0].rename(old)
    os.utime(old, (NOON // SECOND, NOON // SECOND))
    known = archives(segment_files(sink.path))
    retention = RotationSettings(max_age_days=7)

    for days, gone in ((6, 0), (8, 1)):
        clock = SteadyClock(lambda days=days: NOON / SECOND + days * 86_400)  # type: ignore[misc]
        assert len(Retention(retention, clock).expired(known)[0]) == gone
    sink.close()
