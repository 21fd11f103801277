"""Forgers against both verifiers: the package's and the one that shares no code with it come to the same exit code.

The forger here can write beside the log, but has no key: whatever he does, and however odd the file he leaves, the
verdict is one of the five, is the same from both, and `--fast` is never kinder than the full check.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_forge import KEY, ORIGIN, OTHER_KEY, SECRET, Forge, closed_log, rotated_log
from log_forger import NEWER, OLDER, edited, forged_log

from mcp_audit.ledger import standalone_verify
from mcp_audit.ledger.checking.verifier import verify
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.keys import LogKey
from mcp_audit.ledger.segment import Previous, prune_members, segment_members

fcntl = pytest.importorskip("fcntl", reason="platform: no flock")

STRANGER = LogKey("audit.example/other", bytes(range(2, 34)))
KEPT = rotated_log().archives[0].note.encode()


def ours(log: Path, **options: Any) -> int:
    try:
        return verify(log, **options).exit_code
    except CannotLook:
        return 2


def theirs(log: Path, secrets: Sequence[bytes] = (), **given: Any) -> int:
    try:
        return int(standalone_verify.verify(str(log), secrets=secrets, **given)["exit"])
    except standalone_verify.CannotLook:
        return 2


def both(log: Path) -> int:
    """The exit code of both."""
    code = ours(log)
    assert theirs(log) == code
    return code


# Odd files


@pytest.mark.parametrize("suffix", ["", ".checkpoint", ".pub", ".live", ".x", f"{OLDER[11:]}.checkpoint"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_nobody_waits_for_a_fifo(tmp_path: Path, suffix: str) -> None:
    """What should hold bytes and is a FIFO cannot be read; what is not needed is left alone."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    odd = Path(f"{log}{suffix}")
    odd.unlink(missing_ok=True)
    os.mkfifo(odd)
    assert both(log) == (2 if suffix in ("", ".checkpoint", ".pub") else 0)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: packed[:5], id="header"),
        pytest.param(lambda packed: packed[:2] + b"\0" + packed[3:], id="method"),
        pytest.param(lambda packed: packed[:10] + b"\xff" + packed[11:], id="block"),
        pytest.param(lambda packed: packed[:-4], id="cut"),
        pytest.param(lambda packed: packed + b"x", id="more"),
    ],
)
def test_damaged_gzip_data_cannot_be_judged(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Whatever zlib says of it; that outweighs what was changed in another file or in what can be read of it."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    whole = log.read_bytes()
    for data in (whole, b"x" + whole, b""):
        log.write_bytes(damage(gzip.compress(data)))
        assert both(log) == 2


def test_a_change_does_not_hide_what_cannot_be_read(tmp_path: Path) -> None:
    """Exit 2 comes before 1: the newer archive is not even whole gzip data."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    older, newer = tmp_path / OLDER, tmp_path / NEWER
    older.write_bytes(older.read_bytes().replace(b"read_file", b"make_file"))
    assert both(log) == 1
    newer.write_bytes(gzip.compress(newer.read_bytes()) + b"x")
    assert both(log) == 2


def test_a_compressed_database_is_none(tmp_path: Path) -> None:
    """SQLite opens none, so it is a file without a line."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    log.write_bytes(gzip.compress(log.read_bytes()))
    assert both(log) == 1


@pytest.mark.parametrize("suffix", [".pub", ".checkpoint", ".index", ".live", ".lock", ".key", f".failed-{NEWER[12:]}"])
def test_what_is_no_part_of_a_log(tmp_path: Path, suffix: str) -> None:
    """What the ledger keeps beside it under these names is never its file, even if it holds its lines."""
    log = closed_log().write(tmp_path / "audit.jsonl")
    log.rename(f"{log}{suffix}")
    assert both(log) == 1


def test_names_with_failed_in_them(tmp_path: Path) -> None:
    """Only what a rescue left is called `.failed-` and a time; a log may be called anything."""
    log = rotated_log().write(tmp_path / "my.failed-calls.jsonl")
    for name in (OLDER, NEWER):
        (tmp_path / name).rename(tmp_path / f"my.failed-calls.jsonl{name[11:]}")
    assert both(log) == 0


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: no FIFOs")
def test_sqlite_does_not_wait_for_a_fifo_either(tmp_path: Path, suffix: str) -> None:
    """Not for the files that SQLite itself would open beside the database."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    os.mkfifo(f"{log}{suffix}")
    assert both(log) == 2


@pytest.mark.parametrize("suffix", [".checkpoint", ".pub"])
def test_links_beside_a_log_are_not_followed(tmp_path: Path, suffix: str) -> None:
    """A writer makes none, and they may lead to what the checker can read and the forger cannot."""
    log = closed_log().write(tmp_path / "audit.jsonl")
    small = Path(f"{log}{suffix}")
    small.rename(tmp_path / "elsewhere")
    small.symlink_to(tmp_path / "elsewhere")
    assert both(log) == 2


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 250, "x" * 5000, "../../etc/passwd", "/", ""], ids=ascii)
@pytest.mark.parametrize("fast", [False, True], ids=["full", "fast"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str, fast: bool) -> None:
    """A forged `segment` line names its predecessor so; that ends in a verdict."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    data = log.read_bytes()
    honest = json.dumps(json.loads(data.split(b"\n")[0])["previous"]["name"]).encode()
    log.write_bytes(data.replace(honest, json.dumps(name).encode(), 1))
    assert ours(log, fast=fast) == theirs(log) == 1


# Lines


@pytest.mark.parametrize("secret", [SECRET, None], ids=["mac", "none"])
@pytest.mark.parametrize(
    "body", [b"", b"noise", b'{"jd":"x"', b'{"id": "x"', b'{"type": "request"', b'{"it":"x"'], ids=ascii
)
def test_a_line_begins_like_a_line(tmp_path: Path, body: bytes, secret: bytes | None) -> None:
    """Its tail may fit: what begins with neither `id` nor `type` is no line, alone or among many."""
    forge = Forge(secret)
    forge.open()
    forge.call()
    forge.sign()
    size = forge.chain.size
    forge.lines.append(forge.chain.seal((body, None)))  # type: ignore[arg-type]
    forge.call()
    log = forge.write(tmp_path / "audit.jsonl", b"".join(forge.lines[: size + 1]))
    report = verify(log, secrets=[SECRET])
    assert (report.exit_code, report.size) == (4, size)
    assert theirs(log, [SECRET]) == 4
    assert both(forge.write(log)) == 4
    assert verify(log, secrets=[SECRET]).size == size


def test_only_an_open_line_can_change_the_key(tmp_path: Path) -> None:
    """Another type that begins with the same letters cannot turn the MACs off."""
    forge = closed_log()
    forge.lines.append(forge.chain.seal((b'{"type":"opener","key_id":"deadbeef"', None)))  # type: ignore[arg-type]
    log = forge.write(tmp_path / "audit.jsonl")
    assert verify(log, secrets=[SECRET]).checks["mac"] is True
    forged = Forge()
    forged.chain, forged.lines = closed_log().chain, closed_log().lines
    forged.chain.mac = Forge(b"x" * 32).chain.mac
    forged.lines.append(forged.chain.seal((b'{"type":"opener","key_id":"deadbeef"', None)))  # type: ignore[arg-type]
    assert verify(forged.write(log), secrets=[SECRET]).size == len(forged.lines) - 1


@pytest.mark.parametrize(("version", "code"), [(1, 0), (0, 3), (2, 3), (-1, 3), ("1", 3), (None, 3)])
def test_format_versions(tmp_path: Path, version: object, code: int) -> None:
    """What is not version 1 is not judged by its rules."""
    forge = Forge()
    forge.open(v=version)
    forge.close()
    forge.sign()
    assert both(forge.write(tmp_path / "audit.jsonl")) == code


def test_strict_accepts_numbers_that_python_refuses(tmp_path: Path) -> None:
    """A payload is stored as it was relayed, and JSON knows integers of any length."""
    forge = Forge()
    forge.open()
    forge.call(params=b'{"n":' + b"9" * 5000 + b"}")
    forge.close()
    forge.sign()
    assert ours(forge.write(tmp_path / "audit.jsonl"), strict=True, secrets=[SECRET]) == 0


# Notes


def pruned_log(folder: Path) -> Path:
    """Write a log whose lines below 10 were let go by a signed line, with the archives that held them."""
    forge = rotated_log()
    forge.open("close")
    forge.prune(10)
    forge.close(of=forge.chain.size - 2)
    forge.sign()
    return forge.write(folder / "audit.jsonl")


def test_the_note_of_a_pruned_archive_still_speaks(tmp_path: Path) -> None:
    """It stays when its archive goes: another root than the frontier has is tampering, so are more lines."""
    log = pruned_log(tmp_path)
    for name in (OLDER, NEWER):
        (tmp_path / name).unlink()
    assert both(log) == 0
    note = tmp_path / f"{NEWER}.checkpoint"
    for size, code in ((10, 1), (7, 0), (99, 1)):  # nothing is left of the first 7 lines to compare with
        note.write_text(signed_note(Checkpoint(ORIGIN, size, bytes(32)), KEY))
        assert both(log) == code
    note.write_text(signed_note(Checkpoint(ORIGIN, 10, bytes(32)), OTHER_KEY))
    assert both(log) == 1


def test_a_sidecar_older_than_an_archive_was_rolled_back(tmp_path: Path) -> None:
    """It is written before the archive's own note."""
    forge = Forge()
    forge.open()
    old = forge.sign()
    forge.call()
    forge.rotate()
    forge.close()
    forge.sign()
    forge.note = old
    assert both(forge.write(tmp_path / "audit.jsonl")) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        pytest.param("— witness AAAAAAAA", 0, id="stranger"),
        pytest.param("— witness AAAA", 1, id="short"),
        pytest.param("— witness AAAAAAB=", 1, id="not-canonical"),
        pytest.param("— wit\x01ness AAAAAAAA", 1, id="control"),
        pytest.param("\n".join(["— witness AAAAAAAA"] * 99), 0, id="many"),
        pytest.param("\n".join(["— witness AAAAAAAA"] * 100), 1, id="too-many"),
        pytest.param("", 1, id="blank"),
    ],
)
def test_more_signature_lines(tmp_path: Path, line: str, code: int) -> None:
    """Those of strangers are ignored if they are well-formed."""
    forge = closed_log()
    forge.note = f"{forge.sign()}{line}\n"
    assert both(forge.write(tmp_path / "audit.jsonl")) == code


def test_a_note_names_a_log_like_any_other(tmp_path: Path) -> None:
    """One with another name than a log can have is no note, even where nothing else says whose log it is."""
    log = closed_log().write(tmp_path / "audit.jsonl", b"{}\n")
    Path(f"{log}.pub").unlink()
    note = Path(f"{log}.checkpoint")
    note.write_text(note.read_text().replace(ORIGIN, "caf\u00e9"))
    assert both(log) == 3


@pytest.mark.parametrize("text", ["", "x", "lines\n"])
def test_a_kept_note_that_is_none(tmp_path: Path, text: str) -> None:
    """That is a wrong argument, not a log that was tampered with."""
    forge = closed_log()
    log, kept = forge.write(tmp_path / "audit.jsonl"), f"{forge.note}{text}"
    assert theirs(log, against=kept.encode()) == ours(log, against=kept) == (2 if text else 0)


@pytest.mark.parametrize("garbage", [False, True])
def test_the_note_of_an_archive_outlives_the_log(tmp_path: Path, garbage: bool) -> None:
    """It says that there were lines, if it says anything."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    for path in (log, tmp_path / OLDER, tmp_path / NEWER, Path(f"{log}.checkpoint"), tmp_path / f"{OLDER}.checkpoint"):
        path.unlink()
    assert both(log) == 1
    if garbage:
        (tmp_path / f"{NEWER}.checkpoint").write_text("x")
        assert both(log) == 1
    (tmp_path / f"{NEWER}.checkpoint").unlink()
    assert both(log) == 3
    Path(f"{log}.pub").unlink()
    assert both(log) == 2


@pytest.mark.parametrize("name", [f"{NEWER}.checkpoint", "audit.jsonl.1.checkpoint"])
def test_every_note_beside_an_archive_is_judged(tmp_path: Path, name: str) -> None:
    """Under the name it was archived as, and under the one it has by now."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    (tmp_path / NEWER).rename(tmp_path / "audit.jsonl.1")
    assert both(log) == 0
    (tmp_path / name).write_text("x")
    assert both(log) == 1


def test_a_note_of_other_lines_than_its_archive_has(tmp_path: Path) -> None:
    """Without a key it still has to be one of this log."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    shutil.copy(tmp_path / f"{NEWER}.checkpoint", tmp_path / f"{OLDER}.checkpoint")
    assert both(log) == 0
    Path(f"{log}.pub").unlink()
    assert both(log) == 3
    note = tmp_path / f"{OLDER}.checkpoint"
    note.write_text(signed_note(Checkpoint(ORIGIN, 7, bytes(32)), KEY))
    assert both(log) == 1


def test_several_pins_and_a_log_without_a_name(tmp_path: Path) -> None:
    """None of them is its key, as it would be with one."""
    log = tmp_path / "audit.jsonl"
    log.write_bytes(b"{}\n")
    assert both(log) == 3
    for vkeys in ([KEY.vkey], [KEY.vkey, STRANGER.vkey]):
        assert theirs(log, vkeys=vkeys) == ours(log, vkeys=vkeys) == 1


# Archives


@pytest.mark.parametrize("alive", [False, True])
def test_fast_believes_no_unsigned_hash(tmp_path: Path, alive: bool) -> None:
    """The hash of an archive counts if a checkpoint covers the line that tells it: else anyone could write it."""
    forge = Forge(None)
    forge.open()
    forge.call()
    archive = forge.rotate()
    forged = archive.data.replace(b"read_file", b"make_file")
    honest = Forge(None)
    honest.open()
    honest.call()
    told = Previous(archive.name, 0, len(forged), hashlib.sha256(forged).hexdigest())
    honest.chain.runs.clear()
    honest.archives, honest.lines, honest.note = forge.archives, [], archive.note
    honest.typed("segment", **segment_members(honest.chain, KEY.vkey, told))
    log = honest.write(tmp_path / "audit.jsonl")
    (tmp_path / archive.name).write_bytes(forged)
    with open(f"{log}.live", "wb") as live:
        if alive:
            fcntl.flock(live, fcntl.LOCK_SH)
        assert ours(log, fast=True) == both(log) == 1


def test_fast_says_that_strict_was_not_done(tmp_path: Path) -> None:
    """Of an archive that is only hashed, no line is looked at."""
    forge = Forge()
    forge.open()
    forge.call(outcome="weird")
    forge.rotate()
    forge.close()
    forge.sign()
    log = forge.write(tmp_path / "audit.jsonl")
    report = verify(log, fast=True, strict=True)
    assert (report.exit_code, report.checks["strict"]) == (0, None)
    assert any("--strict, were not checked" in notice for notice in report.notices)
    assert ours(log, strict=True) == 1


def test_fast_survives_a_prune_line_of_a_forger(tmp_path: Path) -> None:
    """Deeper than a parser goes."""
    forge = rotated_log(None)
    forge.open("close")
    forge.prune(5)
    forge.close(of=forge.chain.size - 2)
    forge.sign()
    log = forge.write(tmp_path / "audit.jsonl")
    (tmp_path / OLDER).unlink()
    tail = b',"log":"%s","seq":9,"prev":"%s"}\n' % (ORIGIN.encode(), b"0" * 64)
    with (tmp_path / NEWER).open("ab") as archive:
        archive.write(b'{"type":"prune","x":' + b"[" * 10**5 + b"]" * 10**5 + tail)
    assert ours(log, fast=True) == both(log) == 1


def test_a_prune_line_lets_only_its_own_lines_go(tmp_path: Path) -> None:
    """One that begins behind the first line that is here says nothing about those before."""
    forge = rotated_log()
    forge.open("close")
    forge.prune(10, **{"from": 7})
    forge.close(of=forge.chain.size - 2)
    forge.sign()
    log = forge.write(tmp_path / "audit.jsonl")
    (tmp_path / OLDER).unlink()
    assert both(log) == 1


def test_an_honest_copy_excuses_no_change(tmp_path: Path) -> None:
    """Whoever reads the log is shown the file with the archive's name, so that is the one to judge."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    older = tmp_path / OLDER
    shutil.copy(older, tmp_path / "audit.jsonl.1")
    assert both(log) == 0
    older.write_bytes(older.read_bytes().replace(b"read_file", b"make_file"))
    assert both(log) == 1


def test_a_file_between_two_that_join(tmp_path: Path) -> None:
    """Whoever reads the log would be shown its lines."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    line = log.read_bytes().split(b"\n")[0].replace(b'"seq":10', b'"seq":7')
    assert b'"seq":7' in line
    (tmp_path / "audit.jsonl.9").write_bytes(line + b"\n")
    assert both(log) == 1


def test_prune_lines_without_the_newest_note(tmp_path: Path) -> None:
    """Whether they were signed nobody can tell."""
    forge = rotated_log()
    forge.open("close")
    forge.prune(10)
    log = forge.write(tmp_path / "audit.jsonl")
    for name in (OLDER, NEWER):
        (tmp_path / name).unlink()
    assert both(log) == 1
    Path(f"{log}.checkpoint").unlink()
    assert both(log) == 3


def test_a_kept_note_from_a_gap(tmp_path: Path) -> None:
    """Its lines were pruned, older ones were left over: that is no rewritten history."""
    log = pruned_log(tmp_path)
    (tmp_path / NEWER).unlink()
    (tmp_path / f"{NEWER}.checkpoint").unlink()
    assert both(log) == 0
    kept = signed_note(Checkpoint(ORIGIN, 7, bytes(32)), KEY)
    assert theirs(log, against=kept.encode()) == ours(log, against=kept) == 3


def test_an_archive_by_itself(tmp_path: Path) -> None:
    """It names its key, and is known by a tool's name, too; a later note than its own says nothing about it."""
    forge = rotated_log()
    log = forge.write(tmp_path / "audit.jsonl")
    archive, note = tmp_path / NEWER, tmp_path / f"{NEWER}.checkpoint"
    assert both(archive) == 0
    assert theirs(archive, against=forge.note.encode()) == ours(archive, against=forge.note) == 3  # type: ignore[union-attr]
    renamed = tmp_path / "audit.jsonl.1"
    shutil.copy(archive, renamed)
    assert both(renamed) == 3
    shutil.copy(note, f"{renamed}.checkpoint")
    assert both(renamed) == 0
    Path(f"{log}.pub").unlink()
    assert both(archive) == 0
    Path(f"{log}.pub").write_text(KEY.vkey)
    note.write_text(forge.archives[0].note)
    assert both(archive) == 1


# Databases


@pytest.mark.parametrize("seq", [0, 2])
@pytest.mark.parametrize("value", ["NULL", "5", "CAST(line AS BLOB)", "line || char(10)", "line || char(0)"])
def test_a_row_holds_text(tmp_path: Path, value: str, seq: int) -> None:
    """The same bytes as a BLOB are hidden from every query, so they are not the line."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    assert both(edited(log, f"UPDATE entries SET line = {value} WHERE seq = ?", seq)) == 1


def test_a_trigger_cannot_hide_behind_a_name(tmp_path: Path) -> None:
    """Triggers have names of their own: one can be called like the view, and delete each new line."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        body = "DELETE FROM entries WHERE seq = new.seq"
        database.execute(f"CREATE TRIGGER audit_entries AFTER INSERT ON entries BEGIN {body}; END")
        database.execute("PRAGMA writable_schema=ON")
        database.execute("UPDATE sqlite_schema SET rowid = 100 WHERE type = 'view'")
    assert both(log) == 1


@pytest.mark.parametrize("alive", [False, True])
def test_a_database_is_pruned_by_a_signed_line_only(tmp_path: Path, alive: bool) -> None:
    """Whoever has no key can write a `prune` line behind the checkpoint, and delete what it names."""
    forge = Forge(None)
    forge.open()
    forge.call()
    told = prune_members(forge.chain, KEY.vkey, 0, "max_age_days: 1")
    forge.call()
    forge.sign()
    forge.typed("prune", **told)
    forge.close()
    log = forge.write_sqlite(tmp_path / "audit.db", first=3)
    with open(f"{log}.live", "wb") as live:
        if alive:
            fcntl.flock(live, fcntl.LOCK_SH)
        assert both(log) == 1


@pytest.mark.parametrize("value", ["NULL", "5", "1.5", "x'00'", "9223372036854775807"])
def test_a_stored_note_is_text(tmp_path: Path, value: str) -> None:
    """Of whatever type it is instead, it is no note."""
    forge = closed_log()
    log = forge.write_sqlite(tmp_path / "audit.db", notes={forge.chain.size: forge.note or ""})
    assert both(log) == 0
    assert both(edited(log, f"UPDATE checkpoints SET note = {value}")) == 1


def test_a_changed_schema_is_not_asked_anything(tmp_path: Path) -> None:
    """Not even whose log it is: its `entries` may never come to an end."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    for suffix in (".pub", ".checkpoint"):
        Path(f"{log}{suffix}").unlink()
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS seq, x AS line FROM n"
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        database.execute("DROP VIEW audit_entries")
        database.execute("DROP TABLE entries")
        database.execute(f"CREATE VIEW entries AS {endless} ORDER BY line DESC")
    assert both(log) == 3


# Anything


# The suite repeats the same forgeries; `BOTH_EXAMPLES=5000` looks for new ones.
@settings(
    max_examples=int(os.environ.get("BOTH_EXAMPLES", "60")),
    derandomize="BOTH_EXAMPLES" not in os.environ,
    deadline=None,
)
@given(st.data())
def test_whatever_a_forger_does_both_say_the_same(data: st.DataObject) -> None:
    """Files edited, moved, copied, packed, removed, lines of the log again; JSONL with archives or a database."""
    secret = data.draw(st.sampled_from([SECRET, None]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = forged_log(data, folder, secret)
        kept = [KEPT, *(path.read_bytes() for path in sorted(folder.glob("*.checkpoint")))]
        note = data.draw(st.none() | st.sampled_from(kept))
        path = data.draw(st.sampled_from([log, *sorted(folder.glob("audit.jsonl[.-][0-9]*"))]))
        pins = [[], [KEY.vkey], [STRANGER.vkey], [KEY.vkey, STRANGER.vkey], [OTHER_KEY.vkey]]
        vkeys = data.draw(st.sampled_from(pins))
        given = {"vkeys": vkeys, "against": None if note is None else note.decode("utf-8", "surrogateescape")}
        code = ours(path, secrets=[SECRET], **given)
        assert theirs(path, [SECRET], vkeys=vkeys, against=note) == code
        if ours(path, secrets=[SECRET], fast=True, **given) in (0, 4):
            assert code != 1
