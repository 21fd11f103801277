"""The verdict over several files: each archive is the one that was put away, in its place, and none is missing."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger_forge import KEY, ORIGIN, OTHER_KEY, SECRET, Forge, rotated_log

from mcp_audit.ledger import Report, Verdict, verify
from mcp_audit.ledger.checking import verifier
from mcp_audit.ledger.checking.segment_check import check_file
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.keys import LogKey

MODES = pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def check(path: Path, **options: Any) -> Report:
    return verify(path, **({"secrets": [SECRET]} | options))


def statuses(report: Report) -> dict[str, str]:
    return {file.name: file.status for file in report.files}


def ranges(report: Report) -> list[tuple[int | None, int | None]]:
    return [(file.first, file.last) for file in report.files]


def archive(log: Path, number: int) -> Path:
    return log.with_name(f"audit.jsonl.202606{number:02d}T214605Z")


@MODES
@pytest.mark.parametrize("secret", [SECRET, None], ids=["mac", "no-mac"])
def test_all_files_verify_together(log: Path, secret: bytes | None, fast: bool) -> None:
    """Found beside the log, one line in the report for each, one verdict for all; counts are sums."""
    report = check(rotated_log(secret).write(log), fast=fast, strict=not fast)

    assert (report.verdict, report.reason, report.size) == (Verdict.INTACT, "", 16)
    assert [file.name for file in report.files] == [archive(log, 1).name, archive(log, 2).name, "audit.jsonl"]
    assert ranges(report) == [(0, 4), (5, 9), (10, 15)]
    assert report.checks["chain"] is True
    assert report.checks["mac"] is (True if secret and not fast else None)
    assert report.counts["exchanges"] == (2 if fast else 6)
    assert any("by their hash only" in notice for notice in report.notices) is fast


def test_requests_and_runs_span_files(log: Path) -> None:
    """What is open when a file is put away is closed in a later one, and strict pairs them."""
    forge = Forge()
    forge.open()
    request = forge.entry("request")
    forge.rotate()
    forge.rotate()
    forge.entry(of=request)
    forge.close()
    forge.sign()
    report = check(forge.write(log), strict=True)

    assert (report.verdict, report.counts["open_requests"], report.checks["strict"]) == (Verdict.INTACT, 0, True)


@MODES
def test_compressed_and_renamed_archives(log: Path, fast: bool) -> None:
    """Names are hints: gzip is recognised, other tools' names and an exchange of names are only told."""
    rotated_log(rotations=3).write(log)
    first, second, third = (archive(log, number) for number in (1, 2, 3))
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    kept = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.rename(log.with_name("audit.jsonl.1"))
    third.write_bytes(kept)
    log.with_name("audit.jsonl.1").unlink()
    second.rename(log.with_name("audit.jsonl.old"))
    report = check(log, fast=fast)

    assert (report.verdict, report.reason) == (Verdict.INTACT, "")
    assert ranges(report) == [(0, 4), (5, 9), (10, 14), (15, 20)]
    assert report.files[0].name == first.name + ".gz"
    assert f"audit.jsonl.old was archived as {third.name}: it was renamed" in report.notices
    assert f"{third.name} was archived as {second.name}: it was renamed" in report.notices


def test_a_copy_beside_the_log_is_only_told(log: Path) -> None:
    """An uncompressed original beside its compressed copy, or somebody's backup, is no second archive."""
    forge = rotated_log()
    forge.write(log)
    first = archive(log, 1)
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    log.with_name("audit.jsonl.bak").write_bytes(forge.data)
    log.with_name("audit.jsonl.failed-20260610T214605Z").write_bytes(forge.data[:400])
    log.with_name("audit.jsonl.txt").write_text("a note to myself\n")
    report = check(log)

    assert report.verdict is Verdict.INTACT
    assert len(report.files) == 3
    assert sorted(notice.partition(" ")[0] for notice in report.notices) == [
        "audit.jsonl.20260601T214605Z.gz",
        "audit.jsonl.bak",
    ]


Attack = Callable[[Path, Forge], None]


def _remove(*numbers: int) -> Attack:
    def attack(log: Path, _: Forge) -> None:
        for number in numbers:
            archive(log, number).unlink()

    return attack


def _change(number: int, old: bytes, new: bytes, count: int = 1) -> Attack:
    def attack(log: Path, _: Forge) -> None:
        path = archive(log, number)
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, count))

    return attack


def _cut(number: int, lines: int) -> Attack:
    def attack(log: Path, _: Forge) -> None:
        path = archive(log, number)
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))

    return attack


def _empty(number: int) -> Attack:
    return lambda log, _: archive(log, number).write_bytes(b"")


def _overwrite(number: int, other: int) -> Attack:
    return lambda log, _: archive(log, number).write_bytes(archive(log, other).read_bytes())


def _replace_with_another_history(log: Path, _: Forge) -> None:
    """Chain and MACs are good, as whoever has the secret can make them; so is the number of lines."""
    forged = Forge()
    forged.open()
    for _ in range(2):
        forged.call(tool="innocent")
    archive(log, 1).write_bytes(forged.data)
    archive(log, 1).with_name(archive(log, 1).name + ".checkpoint").unlink()


def _move_in_an_archive_of_another_log(log: Path, _: Forge) -> None:
    other = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    other.open()
    archive(log, 2).write_bytes(other.data)


def _continue(log: Path, _: Forge) -> None:
    """Lines that the chain allows are added to an archive."""
    longer = rotated_log(rotations=1, calls=3)
    archive(log, 1).write_bytes(longer.archives[0].data)
    archive(log, 1).with_name(archive(log, 1).name + ".checkpoint").unlink()


def _swap_active_and_archive(log: Path, _: Forge) -> None:
    kept = log.read_bytes()
    log.write_bytes(archive(log, 2).read_bytes())
    archive(log, 2).write_bytes(kept)


ATTACKS = [
    pytest.param(_remove(1), "seq 0 to 4 are missing, and no prune line lets them go", (0, 4), id="remove-first"),
    pytest.param(_remove(2), "seq 5 to 9 are missing, and no prune line lets them go", (5, 9), id="remove-middle"),
    pytest.param(_remove(1, 2), "seq 0 to 9 are missing", (0, 9), id="remove-all"),
    pytest.param(_empty(1), "seq 0 to 4 are missing", (0, 4), id="empty"),
    pytest.param(_change(1, b"read_file", b"make_file"), "line 2: seq 1 was changed", (0, 0), id="edit-first"),
    pytest.param(_change(2, b"read_file", b"make_file"), "line 2: seq 6 was changed", (5, 5), id="edit-middle"),
    pytest.param(_change(2, b'"pending":[]', b'"pending":[1]'), "line 1", (None, None), id="edit-segment-line"),
    pytest.param(_change(2, b'{"type":"segment"', b'{"type":"segmenX"'), "first line is not that", (5, 9), id="behead"),
    pytest.param(_cut(1, 4), "seq 4 to 4, which the checkpoint covers, are missing", (0, 3), id="cut-tail"),
    pytest.param(_cut(2, 1), "seq 6 to 9, which the checkpoint covers, are missing", (5, 5), id="cut-to-first-line"),
    pytest.param(_overwrite(1, 2), "seq 0 to 4 are missing", (0, 4), id="overwrite-first"),
    pytest.param(_overwrite(2, 1), "seq 5 to 9 are missing", (5, 9), id="overwrite-middle"),
    pytest.param(
        _replace_with_another_history, "seq 0 to 4 are not the lines the log goes on from", (0, 4), id="replace"
    ),
    pytest.param(_move_in_an_archive_of_another_log, "it belongs to the log another/log", (5, 9), id="foreign"),
    pytest.param(_continue, "seq 5 to 6 do not belong here", (0, 6), id="continue"),
    pytest.param(_swap_active_and_archive, "seq 10 to 15, which the checkpoint covers, are missing", (5, 9), id="swap"),
]


@MODES
@pytest.mark.parametrize(("attack", "reason", "place"), ATTACKS)
def test_attacks_on_archives_are_seen(
    log: Path, attack: Attack, reason: str, place: tuple[int | None, int | None], fast: bool
) -> None:
    """Tampered; the file is the only one named, with the entries in question."""
    forge = rotated_log()
    attack(forge.write(log), forge)
    report = check(log, fast=fast)

    assert report.verdict is Verdict.TAMPERED
    assert reason in report.reason
    assert [(file.first, file.last) for file in report.files if file.status == "FAIL"] == [place]


def test_the_order_of_files_is_that_of_their_lines(log: Path) -> None:
    """Lexical order of names says nothing: the archive of the evening may be called like one of the morning."""
    forge = rotated_log(rotations=3)
    for item, hour in zip(forge.archives, (20, 3, 11), strict=True):
        item.name = f"audit.jsonl.20260601T{hour:02d}4605Z"
    report = check(forge.write(log))

    assert (report.verdict, ranges(report)) == (Verdict.INTACT, [(0, 4), (5, 9), (10, 14), (15, 20)])


def test_every_byte_of_an_archive_counts(log: Path) -> None:
    """Change any byte of an archive that was put away: tampered, fast or not, and no other file is blamed."""
    forge = rotated_log(calls=1)
    forge.write(log)
    path = archive(log, 2)
    data = path.read_bytes()
    for offset in range(0, len(data), 7):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        for fast in (False, True):
            report = check(log, fast=fast)
            assert report.verdict is Verdict.TAMPERED, offset
            assert statuses(report)["audit.jsonl"] == "ok", offset
            assert statuses(report)[archive(log, 1).name] == "ok", offset


@pytest.mark.parametrize(
    ("previous", "reason"),
    [
        pytest.param({"bytes": 17}, "these are not the 17 bytes the file had", id="bytes"),
        pytest.param({"sha256": "0" * 64}, "bytes the file had", id="sha256"),
        pytest.param({"start": 1}, "the file begins at seq 0, not where it began", id="start"),
    ],
)
def test_what_a_segment_says_about_the_file_before_is_checked(log: Path, previous: dict[str, Any], reason: str) -> None:
    """Even a signed line may lie; the file it describes is then not the one that is there."""
    forge = Forge()
    forge.open()
    forge.rotate(**previous)
    forge.close()
    forge.sign()
    report = check(forge.write(log))

    assert report.verdict is Verdict.TAMPERED
    assert reason in report.reason
    assert statuses(report)[archive(log, 1).name] == "FAIL"


# -- retention


def _pruned(prunes: int = 1, sign: bool = True) -> Forge:
    forge = rotated_log(rotations=2)
    forge.open("close")
    forge.prune(forge.archives[prunes - 1].end)
    if sign:
        forge.sign()
    return forge


def _close(forge: Forge) -> Forge:
    forge.close(of=16)
    forge.sign()
    return forge


@MODES
@pytest.mark.parametrize(("prunes", "left"), [(1, 2), (2, 1)])
def test_pruned_archives_may_be_gone(log: Path, prunes: int, left: int, fast: bool) -> None:
    """With its signed prune line an absence is no fault; the notice says which entries and by which rule."""
    forge = _close(_pruned(prunes))
    forge.write(log)
    for number in range(1, prunes + 1):
        archive(log, number).unlink()
    report = check(log, fast=fast)

    assert (report.verdict, len(report.files)) == (Verdict.INTACT, left)
    gone = f"seq 0 to {prunes * 5 - 1} are gone, as the prune line at seq 17 allows (max_files: 1)"
    assert gone in report.notices


@MODES
def test_the_prune_line_may_be_in_an_archive(log: Path, fast: bool) -> None:
    """It stays where it was written when the file is put away later; earlier ones went with their files."""
    forge = rotated_log(rotations=1)
    forge.rotate()
    forge.prune(5)
    forge.rotate()
    forge.prune(11, **{"from": 5})
    forge.sign()
    forge.rotate()
    forge.sign()
    forge.write(log)
    archive(log, 1).unlink()
    archive(log, 2).unlink()
    report = check(log, fast=fast)

    assert report.verdict is Verdict.INTACT, report.reason
    assert "seq 0 to 10 are gone" in " ".join(report.notices)


def test_pruned_but_still_there(log: Path) -> None:
    """Crash between the prune line and the deletion, or after the first of two: no fault."""
    forge = _close(_pruned(2))
    forge.write(log)
    assert check(log).verdict is Verdict.INTACT
    archive(log, 1).unlink()
    report = check(log)
    assert report.verdict is Verdict.INTACT
    assert f"a prune line lets these files go, but they are still here: {archive(log, 2).name}" in report.notices


@MODES
def test_more_is_gone_than_was_pruned(log: Path, fast: bool) -> None:
    """A prune line covers what it names and nothing after."""
    forge = _close(_pruned(1))
    forge.write(log)
    archive(log, 1).unlink()
    archive(log, 2).unlink()
    report = check(log, fast=fast)

    assert report.verdict is Verdict.TAMPERED
    assert "seq 5 to 9 are missing" in report.reason


def test_an_unsigned_prune_line_lets_nothing_go(log: Path) -> None:
    """Behind the checkpoint, where without MACs anybody can append, a prune line is no permission."""
    forge = rotated_log(None)
    forge.prune(5)
    forge.write(log)
    assert check(log).verdict is Verdict.UNCLEAN
    archive(log, 1).unlink()
    report = check(log)

    assert report.verdict is Verdict.TAMPERED
    assert "seq 0 to 4 are missing" in report.reason


def test_a_forged_prune_line(log: Path) -> None:
    """Inserted among signed lines, or a kept one made to reach further: a change like any other."""
    forge = _close(_pruned(1))
    forge.lines[-2] = forge.lines[-2].replace(b'"to":5', b'"to":9')
    forge.write(log)
    archive(log, 1).unlink()
    archive(log, 2).unlink()

    report = check(log)
    assert report.verdict is Verdict.TAMPERED
    assert statuses(report)["audit.jsonl"] == "FAIL"


# -- notes


def test_the_note_of_an_archive(log: Path) -> None:
    """Missing, or of another length: told, for the newest covers all. Not signed, or another root: tampered."""
    forge = rotated_log()
    forge.write(log)
    note = archive(log, 1).with_name(archive(log, 1).name + ".checkpoint")
    note.unlink()
    report = check(log)
    assert report.verdict is Verdict.INTACT
    assert f"{archive(log, 1).name} has no checkpoint of its own; the newest one covers it, too" in report.notices

    note.write_text(forge.archives[1].note)
    assert check(log).verdict is Verdict.INTACT
    for key, root, reason in (
        (OTHER_KEY, bytes(32), "does not verify"),
        (KEY, bytes(32), "the root over seq 0 to 4 is not the signed one"),
    ):
        note.write_text(signed_note(Checkpoint(ORIGIN, 5, root), key))
        report = check(log)
        assert report.verdict is Verdict.TAMPERED
        assert reason in report.reason
        assert statuses(report) == {archive(log, 1).name: "FAIL", archive(log, 2).name: "ok", "audit.jsonl": "ok"}
        assert check(log, fast=True).verdict is Verdict.TAMPERED


def test_a_checkpoint_that_was_rolled_back(log: Path) -> None:
    """The note of an archive gives it away: the one beside the log must not be older."""
    forge = rotated_log()
    forge.note = forge.archives[0].note
    forge.lines = forge.lines[:1]
    report = check(forge.write(log))

    assert report.verdict is Verdict.TAMPERED
    assert "rolled back: it covers 5 lines, the one of an archive 10" in report.reason


@MODES
def test_an_older_note_inside_an_archive(log: Path, fast: bool) -> None:
    """`--against` finds its root wherever its size lies; if those lines were pruned nothing can be decided."""
    forge = Forge()
    forge.open()
    forge.call()
    kept = forge.sign()
    forge.call()
    forge.rotate()
    forge.prune(5)
    forge.close()
    forge.sign()
    forge.write(log)
    assert check(log, against=kept, fast=fast).checks["against"] is True
    rewritten = signed_note(Checkpoint(ORIGIN, 3, bytes(32)), KEY)
    assert "history was rewritten" in check(log, against=rewritten, fast=fast).reason
    assert check(log, against=forge.archives[0].note, fast=fast).verdict is Verdict.INTACT
    archive(log, 1).unlink()
    report = check(log, against=kept, fast=fast)
    assert (report.verdict, report.reason) == (
        Verdict.UNKNOWN,
        "the lines up to the end of the kept note, seq 2, were pruned: the next one that is here is seq 5",
    )
    assert check(log, against=forge.archives[0].note, fast=fast).verdict is Verdict.INTACT


# -- one archive by itself


@pytest.mark.parametrize("name", ["{}", "{}.gz"], ids=["plain", "gzip"])
def test_an_archive_verifies_by_itself(log: Path, name: str) -> None:
    """Against its own note, with the key beside the log, in its own first line, or pinned."""
    rotated_log().write(log)
    path = archive(log, 2)
    alone = path.with_name(name.format(path.name))
    alone.write_bytes(gzip.compress(path.read_bytes()) if alone != path else path.read_bytes())
    for _ in range(2):
        report = check(alone)
        assert (report.verdict, ranges(report)) == (Verdict.INTACT, [(5, 9)])
        assert report.checkpoint is not None
        assert (report.checkpoint.size, report.checkpoint.pinned) == (10, False)
        Path(f"{log}.pub").unlink(missing_ok=True)
    assert check(alone, vkeys=[KEY.vkey]).verdict is Verdict.INTACT
    assert check(alone, vkeys=[OTHER_KEY.vkey]).verdict is Verdict.TAMPERED


def test_an_archive_by_itself_that_was_changed(log: Path) -> None:
    """Edited, cut or continued: tampered. Without its note nothing can be decided; the log can still be checked."""
    rotated_log().write(log)
    path = archive(log, 1)
    data = path.read_bytes()
    for changed in (data.replace(b"read_file", b"make_file", 1), data[: data.rindex(b"\n", 0, -1) + 1]):
        path.write_bytes(changed)
        assert check(path).verdict is Verdict.TAMPERED
    path.write_bytes(rotated_log(rotations=1, calls=3).archives[0].data)
    assert "seq 5 to 6 are not covered by the archive's checkpoint" in check(path).reason
    path.write_bytes(data)
    path.with_name(path.name + ".checkpoint").unlink()
    assert check(path).verdict is Verdict.UNKNOWN
    assert check(log).verdict is Verdict.INTACT


def test_an_archive_renamed_by_a_tool_verifies_by_itself(log: Path) -> None:
    """It is known as one by the log whose name it begins with."""
    rotated_log().write(log)
    for suffix in ("", ".checkpoint"):
        archive(log, 1).with_name(archive(log, 1).name + suffix).rename(log.with_name("audit.jsonl.1" + suffix))
    assert check(log.with_name("audit.jsonl.1")).verdict is Verdict.INTACT
    assert check(log).verdict is Verdict.INTACT


# -- while things happen


def test_an_interrupted_rotation(log: Path) -> None:
    """The active file is put away, the next is not there yet: unclean. With lines missing behind it: tampered."""
    forge = rotated_log()
    forge.note = forge.archives[-1].note
    forge.write(log)
    log.unlink()
    log.with_name(".audit.jsonl.tmp-0123456789abcdef").write_bytes(forge.lines[0])
    report = check(log)
    assert report.verdict is Verdict.UNCLEAN
    assert "a rotation was interrupted" in report.reason

    rotated_log().write(log)
    log.unlink()
    report = check(log)
    assert report.verdict is Verdict.TAMPERED
    assert "seq 10 to 15, which the checkpoint covers, are missing: the active file is not here" in report.reason
    archive(log, 2).unlink()
    assert "seq 5 to 15" in check(log).reason


def test_a_rotation_before_its_checkpoint(log: Path) -> None:
    """Killed right after the last rename: the new file is there, its checkpoint is the one of the archive."""
    forge = rotated_log()
    forge.note = forge.archives[-1].note
    forge.lines = forge.lines[:1]
    report = check(forge.write(log))
    assert (report.verdict, report.checks["tree"]) == (Verdict.UNCLEAN, True)


class Rotator:
    """Stands in for a file's check, and lets a writer do its work right before."""

    def __init__(self, log: Path, steps: list[Callable[[], object]]) -> None:
        self.log = log
        self.steps = steps

    def __call__(self, *arguments: Any) -> Any:
        if self.steps:
            self.steps.pop(0)()
        return check_file(*arguments)


def _state(log: Path, forge: Forge) -> Callable[[], object]:
    """Put a log that has grown in the place of what is there, the way a rotation does it."""

    def step() -> None:
        for item in forge.archives:
            path = log.with_name(item.name)
            if not path.exists():
                log.rename(path)
                path.write_bytes(item.data)
                path.with_name(item.name + ".checkpoint").write_text(item.note)
        aside = log.with_name(".aside")
        aside.write_bytes(forge.data)
        aside.rename(log)
        Path(f"{log}.checkpoint").write_text(forge.note or "")

    return step


def test_a_rotation_under_the_verifier(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are renamed between the look at the folder and the reading are looked for again: no false alarm."""
    rotated_log(rotations=0).write(log)
    steps = [_state(log, rotated_log(rotations=count)) for count in (1, 2, 3)]
    monkeypatch.setattr(verifier, "check_file", Rotator(log, [*steps]))
    report = check(log)

    assert (report.verdict, len(report.files)) == (Verdict.INTACT, 4)


def test_a_pruning_under_the_verifier(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive goes after the checkpoint was read that does not cover the prune line yet: look again."""
    forge = rotated_log()
    forge.write(log)
    later = _close(_pruned(1))

    def prune() -> None:
        later.write(log)
        archive(log, 1).unlink()

    monkeypatch.setattr(verifier, "check_file", Rotator(log, [prune]))
    assert check(log).verdict is Verdict.INTACT


def test_a_log_that_never_holds_still(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The looks at it are bounded; then one cannot look."""
    rotated_log().write(log)

    def replace() -> None:
        aside = log.with_name("aside")
        aside.write_bytes(log.read_bytes())
        aside.rename(log)

    monkeypatch.setattr(verifier, "check_file", Rotator(log, [replace] * 50))
    with pytest.raises(CannotLook, match="try again"):
        check(log)


def test_a_real_gap_is_looked_at_no_more_than_twice(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing stays missing: nothing changes, so the verdict stands."""
    rotated_log().write(log)
    archive(log, 1).unlink()
    calls: list[int] = []
    rotator = Rotator(log, [lambda: calls.append(1)] * 50)
    monkeypatch.setattr(verifier, "check_file", rotator)
    assert check(log).verdict is Verdict.TAMPERED
    assert len(calls) == 2


def test_a_writer_that_is_alive(log: Path) -> None:
    """Its open run is right; archives are held to the same as ever."""
    forge = rotated_log()
    forge.open("close")
    forge.sign()
    forge.write(log)
    assert check(log).verdict is Verdict.UNCLEAN
    with Path(f"{log}.live").open("w") as live:
        fcntl.flock(live, fcntl.LOCK_SH)
        assert (check(log).verdict, check(log).reason) == (Verdict.INTACT, "a writer is at work")
        archive(log, 2).unlink()
        assert check(log).verdict is Verdict.TAMPERED


def test_several_processes_find_the_same(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two processes the report is that of one, for a good log and for a bad one, and progress reaches the end."""
    monkeypatch.setattr(verifier, "_WORTH_A_PROCESS", 1)
    forge = rotated_log()
    forge.write(log)
    assert check(log, jobs=2).to_json() == check(log).to_json()
    _change(2, b"read_file", b"make_file")(log, forge)
    both = check(log, jobs=2, strict=True)
    assert both.to_json() == check(log, strict=True).to_json()
    assert both.verdict is Verdict.TAMPERED


def test_several_places_are_all_told(log: Path) -> None:
    """Each file has the place of its own first fault; the verdict counts them."""
    forge = rotated_log()
    forge.write(log)
    for path in (archive(log, 1), log):
        path.write_bytes(path.read_bytes().replace(b"read_file", b"make_file", 1))
    report = check(log)

    assert re.findall(r"line \d+: seq \d+", " ".join(file.reason for file in report.files)) == [
        "line 2: seq 1",
        "line 2: seq 11",
    ]
    assert report.reason.startswith(f"{archive(log, 1).name}: line 2: seq 1 was changed")
    assert report.reason.endswith("(and 1 more faults)")


def test_the_hash_is_of_the_uncompressed_file(log: Path) -> None:
    """What the report of a fast check relies on is what anybody can compute with sha256sum."""
    forge = rotated_log()
    forge.write(log)
    data = archive(log, 1).read_bytes()
    assert hashlib.sha256(data).hexdigest().encode() in archive(log, 2).read_bytes()
    os.truncate(archive(log, 1), len(data) - 1)
    assert check(log, fast=True).verdict is Verdict.TAMPERED
