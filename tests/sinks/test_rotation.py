"""Rotation: when, under which name, in which order, and whatever interrupts it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FlakyFiles, QuickFiles, When
from ledgers import Sink, appended, crash, exchange, lines, request, settings, types, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.checkpoint import open_note
from mcp_audit.ledger.keys import VerifierKey
from mcp_audit.ledger.segment_files import segment_files
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.rotation import Trigger, archive_path, begun_ns, rotated_at
from mcp_audit.sinks.settings import RotationSettings
from mcp_audit.sinks.stamp import Stamp

SECOND = 1_000_000_000
NOON = 1_781_136_000 * SECOND  # 2026-06-11T00:00:00Z
SMALL = RotationSettings(max_size_bytes=2000)


class Clock:
    """A wall clock that a test sets."""

    def __init__(self, now: int = NOON + 12 * 3600 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def start(
    folder: Path,
    rotation: RotationSettings = SMALL,
    files: Files | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> Any:
    """Open the ledger in `folder`, rotating."""
    stamp = Stamp(clock) if clock else Stamp()
    return open_ledger(settings(folder, rotation=rotation, **more), stamp, files or QuickFiles())


def parts(folder: Path) -> list[Path]:
    """The files of the log in the order of their lines."""
    return [Path(file.path) for file in segment_files(str(folder / "audit.jsonl"))]


def texts(folder: Path) -> dict[int, str]:
    """What exchange lines say, by seq, over all files."""
    return {line["seq"]: line["params"]["text"] for part in parts(folder) for line in lines(part) if "type" not in line}


def fill(sink: Sink, name: str = "x", size: int = 2100) -> list[int]:
    """Append a line of about `size` bytes."""
    return appended(sink, exchange(name + "." * (size - 400)))


def assert_no_leftovers(folder: Path) -> None:
    """No temporary file is left."""
    assert not [path.name for path in folder.iterdir() if ".tmp-" in path.name]


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "lines_", "due"),
    [
        pytest.param(1000, 9, False, id="at-its-maximum"),
        pytest.param(1001, 9, True, id="larger"),
        pytest.param(5000, 1, False, id="only-its-header"),
    ],
)
def test_size_is_a_maximum(size: int, lines_: int, due: bool) -> None:
    """A file may have it and not more, and a header alone is never put away."""
    assert Trigger(RotationSettings(max_size_bytes=1000), NOON).is_due(size, lines_, NOON) is due


@pytest.mark.parametrize(
    ("interval", "begun", "now", "due"),
    [
        pytest.param("hourly", 0, 3599, False, id="same-hour"),
        pytest.param("hourly", 3599, 3600, True, id="next-hour-a-second-later"),
        pytest.param("hourly", 0, 90_000, True, id="missed-hours"),
        pytest.param("hourly", 3600, 10, False, id="clock-went-back"),
        pytest.param("daily", 0, 86_399, False, id="same-day"),
        pytest.param("daily", 86_399, 86_400, True, id="midnight"),
        pytest.param("", 0, 10**9, False, id="off"),
    ],
)
def test_hours_and_days_are_those_of_utc(interval: str, begun: int, now: int, due: bool) -> None:
    """What counts is the boundary between the segment's first line and now, not how long ago that was."""
    trigger = Trigger(RotationSettings(interval=interval), NOON + begun * SECOND)

    assert trigger.is_due(10**9, 2, NOON + now * SECOND) is due


def test_the_first_line_says_when_a_segment_began() -> None:
    """So a restart forgets nothing; an unreadable one counts as just begun."""
    assert begun_ns(b'{"type":"open","timestamp":"2026-06-11T00:00:07.500000Z"}', 1) == NOON + 7 * SECOND
    assert begun_ns(b'{"type":"open"}', 1) == 1
    assert begun_ns(b"", 2) == 2


def test_nothing_rotates_unless_asked(tmp_path: Path) -> None:
    """The default has no archives."""
    sink = start(tmp_path, RotationSettings())
    for _ in range(20):
        fill(sink)
    sink.close()

    assert parts(tmp_path) == [tmp_path / "audit.jsonl"]


def test_one_append_makes_one_archive(tmp_path: Path) -> None:
    """However large the batch is, and the file then begins with its header alone."""
    sink = start(tmp_path)

    appended(sink, *[exchange("." * 1000) for _ in range(20)])

    assert len(parts(tmp_path)) == 2
    assert types(sink.path) == ["segment"]
    fill(sink)
    assert len(parts(tmp_path)) == 3
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_who_must_not_wait_leaves_the_rotation_to_others(tmp_path: Path) -> None:
    """The event loop never syncs: its append returns, the next one is sent to a thread, which rotates."""
    files = FlakyFiles()
    sink = start(tmp_path, files=files)
    files.calls.clear()

    assert sink.append([exchange("." * 3000)], wait=False) == [1]
    assert files.calls == ["write audit.jsonl"]
    assert sink.append([exchange()], wait=False) is None
    assert len(parts(tmp_path)) == 1
    assert sink.append([exchange()]) == [3]

    assert [types(part) for part in parts(tmp_path)] == [["open", "exchange"], ["segment", "exchange"]]
    assert sink.append([exchange()], wait=False) == [4]
    sink.close()


def test_a_quiet_log_is_rotated_by_its_checkpoint(tmp_path: Path) -> None:
    """Nobody has to append for it, and the note it returns is the new one."""
    sink = start(tmp_path)
    assert sink.append([exchange("." * 3000)], wait=False) == [1]

    note = sink.checkpoint()

    assert len(parts(tmp_path)) == 2
    assert note == sink.note == (tmp_path / "audit.jsonl.checkpoint").read_text()
    assert open_note(note, VerifierKey.parse(sink.vkey)).size == 3
    sink.close()


def test_midnight_rotates_once(tmp_path: Path) -> None:
    """Days without a line are not caught up; a restart does not forget when the file began."""
    clock = Clock()
    daily = RotationSettings(interval="daily")
    sink = start(tmp_path, daily, clock=clock)
    appended(sink, exchange())
    sink.close()
    clock.now += 3 * 86_400 * SECOND
    sink = start(tmp_path, daily, clock=clock)
    assert len(parts(tmp_path)) == 1

    appended(sink, exchange())
    appended(sink, exchange())

    assert [part.name for part in parts(tmp_path)] == ["audit.jsonl.20260614T120000Z", "audit.jsonl"]
    sink.close()
    assert verdict(sink.path) == "INTACT"


# -- names and contents ------------------------------------------------------------------------------------------------


def test_archives_are_named_after_the_second(tmp_path: Path) -> None:
    """`<log>.<time>`, then `.1`, `.2`; each has its note beside it."""
    sink = start(tmp_path, clock=Clock())
    for _ in range(3):
        fill(sink)

    names = [part.name for part in parts(tmp_path)]
    assert names == [
        "audit.jsonl.20260611T120000Z",
        "audit.jsonl.20260611T120000Z.1",
        "audit.jsonl.20260611T120000Z.2",
        "audit.jsonl",
    ]
    key = VerifierKey.parse(sink.vkey)
    notes = [open_note((tmp_path / f"{name}.checkpoint").read_text(), key) for name in names]
    assert [note.size for note in notes[:3]] == [lines(part)[0]["seq"] for part in parts(tmp_path)[1:]]
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_a_name_is_never_given_twice(tmp_path: Path) -> None:
    """Nor is that of an archive which is compressed, or pruned and has left its note."""
    files, log = QuickFiles(), str(tmp_path / "audit.jsonl")
    names = []
    for suffix in ("", ".gz", ".checkpoint"):
        path = archive_path(files, log, NOON, 7)
        names.append(os.path.basename(path))
        Path(path + suffix).write_text("origin\n5\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")

    assert names == [f"audit.jsonl.20260611T000000Z{number}" for number in ("", ".1", ".2")]
    assert archive_path(files, log, NOON, 5).endswith("Z.2"), "an interrupted rotation left this note"
    assert rotated_at(names[1]) == NOON // SECOND
    assert rotated_at("audit.jsonl.1") is None


def test_a_segment_says_what_was_before(tmp_path: Path) -> None:
    """Its start, what is open, and the file before it by name, place, size and hash."""
    sink = start(tmp_path)
    [open_request] = appended(sink, request())
    fill(sink)

    archive, active = parts(tmp_path)
    header = lines(active)[0]
    data = archive.read_bytes()
    assert header["previous"] == {
        "name": archive.name,
        "start": 0,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert (header["start"], header["seq"], header["pending"], header["runs"]) == (3, 3, [open_request], [0])
    assert os.stat(active).st_mode & 0o777 == 0o600
    sink.close()


def test_a_start_reads_one_segment(tmp_path: Path) -> None:
    """Open requests and dead runs are settled although they are in an archive, which may be gone."""
    sink = start(tmp_path)
    [open_request] = appended(sink, request())
    fill(sink)
    appended(sink, exchange("last"))
    crash(sink)
    parts(tmp_path)[0].unlink()

    sink = start(tmp_path)
    sink.close()

    [orphan] = [line for line in lines(sink.path) if line.get("type") == "orphan"]
    assert (orphan["of"], orphan["why"]) == (open_request, "crash")
    assert next(line for line in lines(sink.path) if line.get("type") == "open")["unclosed"] == [0]


def test_a_close_waits_for_no_rotation(tmp_path: Path) -> None:
    """The run that ends a full segment ends in it; the next run begins there, too."""
    sink = start(tmp_path)
    assert sink.append([exchange("." * 3000)], wait=False)
    sink.close()
    sink = start(tmp_path)
    sink.close()

    assert verdict(sink.path) == "INTACT"


# -- interruptions -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone."""


class Dying(QuickFiles):
    """Dies after a number of operations that change something."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def _step(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        self._step()
        return os.write(fd, data)

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        self._step()
        os.replace(old, new)

    def unlink(self, path: str) -> None:  # type: ignore[override]
        self._step()
        os.unlink(path)

    def truncate(self, fd: int, size: int) -> None:  # type: ignore[override]
        self._step()
        os.ftruncate(fd, size)


@pytest.mark.parametrize("bystander", [False, True])
def test_a_kill_between_any_two_steps(tmp_path: Path, bystander: bool) -> None:
    """The next start finishes the rotation or forgets it, and so does a peer that lives on."""
    for steps in range(60):
        folder = tmp_path / str(steps)
        rotation = RotationSettings(max_size_bytes=3000)
        sink = start(folder, rotation)
        peer = start(folder, rotation) if bystander else None
        seqs = fill(sink, "a", 1200)
        dying = Dying(steps)
        dying.left, sink._files = steps, dying
        sink._write, sink._sidecar._files, sink._locks._files = dying.write, dying, dying
        done = False
        try:
            seqs += fill(sink, "b", 2000)
            done = True
        except Killed:
            pass
        crash(sink)
        if peer is not None:
            seqs += fill(peer, "c", 500)
            peer.close()
        sink = start(folder, rotation)
        seqs += fill(sink, "d", 500)
        sink.close()

        assert set(seqs) <= set(texts(folder)), steps
        assert verdict(sink.path) == "INTACT", steps
        assert_no_leftovers(folder)
        if done:
            break
    else:
        raise AssertionError("the scenario has no end")
    assert steps > 10


class FullDisk(QuickFiles):
    """No room for new files while `full`."""

    def __init__(self) -> None:
        self.full = False

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        if self.full and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open(path, flags, mode)


def test_a_full_disk_blocks_a_rotation_and_it_recovers_by_itself(tmp_path: Path) -> None:
    """The line that filled the file is in it and acknowledged; the next one is told why it is not taken."""
    files = FullDisk()
    sink = start(tmp_path, files=files)
    files.full = True

    assert fill(sink) == [1]
    assert sink.blocked
    for _ in range(2):
        with pytest.raises(LedgerUnavailable, match="No space left"):
            sink.append([exchange()])
        with pytest.raises(LedgerUnavailable, match="No space left"):
            sink.recover()
    files.full = False
    sink.recover()

    assert not sink.blocked
    assert [types(part) for part in parts(tmp_path)] == [["open", "exchange"], ["segment"]]
    assert appended(sink, exchange()) == [3]
    sink.close()
    assert verdict(sink.path) == "INTACT"
    assert_no_leftovers(tmp_path)


class Overtaken(QuickFiles):
    """Something happens between a start's look at the checkpoint and its look at the log."""

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        self.meanwhile = [meanwhile]

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        while path.endswith("audit.jsonl") and self.meanwhile:
            self.meanwhile.pop()()
        return super().open(path, flags, mode)


def test_a_start_that_a_rotation_overtakes(tmp_path: Path) -> None:
    """The file is newer than the checkpoint that was read first: no contradiction, so it is read again."""
    peer = start(tmp_path)
    sink = start(tmp_path, files=Overtaken(lambda: [fill(peer) for _ in range(3)]))

    assert appended(sink, exchange())
    sink.close()
    peer.close()
    assert verdict(sink.path) == "INTACT"


class Stuck(QuickFiles):
    """Nothing can be put away, as where a security module forbids the name."""

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        if rotated_at(new) is not None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), new)
        os.replace(old, new)


def test_a_rotation_that_fails_again_and_again_leaves_nothing(tmp_path: Path) -> None:
    """Every try makes the archive's note first, under the name of another second."""
    clock = Clock()
    sink = start(tmp_path, files=Stuck(), clock=clock)
    sink.append([exchange("." * 3000)], wait=False)
    before = sorted(path.name for path in tmp_path.iterdir())
    for attempt in (sink.checkpoint, sink.recover, sink.recover):
        with pytest.raises(LedgerUnavailable, match="a new file could not be begun"):
            attempt()
        clock.now += SECOND

    assert sorted(path.name for path in tmp_path.iterdir()) == before
    crash(sink)
    assert verdict(sink.path) == "UNCLEAN"


class Life:
    """A run with rotation, compression and retention that goes on after every failure."""

    def __init__(self, folder: Path, files: FlakyFiles) -> None:
        self.folder, self.files = folder, files
        self.acknowledged: dict[int, str] = {}
        self.refused: LedgerRefused | None = None

    def run(self) -> Life:
        rotation = RotationSettings(max_size_bytes=1500, max_files=2, compress="gzip")
        try:
            sink = start(self.folder, rotation, self.files)
        except LedgerRefused as refusal:
            self.refused = refusal
            return self
        for number in range(5):
            self.append(sink, f"{number}-" + "." * 1200)
            self.try_(sink, sink.checkpoint)
            if sink._house is not None:
                sink._house.join()
        self.try_(sink, sink.checkpoint)
        try:
            sink.close()
        except LedgerUnavailable:
            crash(sink)
        return self

    def append(self, sink: Sink, text: str) -> None:
        try:
            seqs = sink.append([exchange(text)]) or []
        except LedgerUnavailable as error:
            seqs = list(error.appended)
            try:
                sink.recover()
                seqs = seqs or sink.append([exchange(text)]) or []
            except LedgerUnavailable:
                pass
        self.acknowledged.update(dict.fromkeys(seqs, text))

    def try_(self, sink: Sink, action: Any) -> None:
        try:
            action()
        except LedgerUnavailable:
            if sink.blocked:
                try:
                    sink.recover()
                except LedgerUnavailable:
                    return


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "stride", [pytest.param(1, marks=pytest.mark.long, id="each"), pytest.param(7, id="each-seventh")]
)
def test_any_operation_may_fail_once(tmp_path: Path, when: When, stride: int) -> None:
    """Rotation, compression and prune: what was acknowledged is there unless it was pruned, and the log verifies."""
    probe = FlakyFiles()
    Life(tmp_path / "whole", probe).run()
    assert len([part for part in parts(tmp_path / "whole") if part.suffix == ".gz"]) == 2
    for number in range(1, len(probe.calls) + 1, stride):
        folder = tmp_path / str(number)
        files = FlakyFiles(number, when)
        life = Life(folder, files).run()
        story = f"operation {number} ({files.failed}) failed {when} it took effect"
        assert files.failed, story
        assert life.refused is None or life.refused.exit_code == 2, story

        sink = start(folder, RotationSettings(max_files=2, compress="gzip"))
        seqs = appended(sink, exchange("z"))
        sink.close()

        assert_verifies(folder, story)
        found = every_text(folder)
        first = min((line["seq"] for line in every_line(folder)), default=0)
        kept = {seq: text for seq, text in life.acknowledged.items() if seq >= first}
        assert found == {**kept, seqs[0]: "z"}, story
        assert_no_leftovers(folder)


def every_line(folder: Path) -> list[dict[str, Any]]:
    """All lines of all files."""
    import gzip

    found = []
    for part in parts(folder):
        data = gzip.decompress(part.read_bytes()) if part.suffix == ".gz" else part.read_bytes()
        found += [json.loads(line) for line in data.split(b"\n") if line.endswith(b"}")]
    return found


def every_text(folder: Path) -> dict[int, str]:
    """What exchange lines say, by seq, compressed files included."""
    return {line["seq"]: line["params"]["text"] for line in every_line(folder) if "type" not in line}


def assert_verifies(folder: Path, story: str = "") -> None:
    """All lines follow each other without a hole, and the checker agrees."""
    seqs = [line["seq"] for line in every_line(folder)]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), story
    assert verdict(folder / "audit.jsonl") == "INTACT", story
