"""Making a proof: from the file that holds the entry, against the note that covers it, and only if that was signed."""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_forge import KEY, OTHER_KEY, Forge, closed_log, running_log

from mcp_audit.ledger import check_proof, prove
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.proving.proof import Proof
from mcp_audit.ledger.proving.prover import carry_out
from mcp_audit.ledger.proving.prover_plan import CannotProve, plan, seq_of
from mcp_audit.ledger.segment import Previous, prune_members, segment_members

WRITERS = {"jsonl": Forge.write, "sqlite": Forge.write_sqlite}


def size_of(proof: str) -> int:
    """The size of the tree that a proof is about."""
    return int(Proof.parse(proof).note.split("\n")[1])


def assert_proved(path: Path, forge: Forge, seq: int, size: int) -> None:
    proof = prove(path, seq)
    assert check_proof(proof, [KEY.vkey]).line == forge.lines[seq][:-1]
    assert size_of(proof) == size


class Rotated:
    """A log in three files of unequal length, each archive with its own note."""

    def __init__(self, folder: Path) -> None:
        self.forge = Forge()
        self.path = folder / "audit.jsonl"
        self.archives = [folder / f"audit.jsonl.2026061{number}T214605Z" for number in range(2)]
        self.forge.open()
        self.ends: list[int] = []
        start, self.starts = 0, [0]
        for archive, calls in zip(self.archives, (3, 6), strict=True):
            for _ in range(calls):
                self.forge.call()
            archive.write_bytes(b"".join(self.forge.lines[start:]))
            Path(f"{archive}.checkpoint").write_text(self.forge.sign())
            self.ends.append(self.forge.chain.size)
            start = self.forge.chain.size
            self.starts.append(start)
            previous = Previous(archive.name, self.starts[-2], archive.stat().st_size, "ab" * 32)
            self.forge.typed("segment", **segment_members(self.forge.chain, KEY.vkey, previous))
        self.forge.call()
        self.forge.close()
        self.forge.sign()
        self.ends.append(self.forge.chain.size)
        self.forge.write(self.path, b"".join(self.forge.lines[start:]))

    def file_of(self, seq: int) -> int:
        return next(place for place, end in enumerate(self.ends) if seq < end)


@pytest.fixture
def rotated(tmp_path: Path) -> Rotated:
    return Rotated(tmp_path)


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITERS.items()])
def test_every_entry_is_proved(tmp_path: Path, write: Callable[[Forge, Path], Path]) -> None:
    """In both storages, opening and closing lines included; the proof is the same."""
    forge = closed_log(calls=9)
    path = write(forge, tmp_path / "audit")

    for seq in range(forge.chain.size):
        assert_proved(path, forge, seq, forge.chain.size)


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITERS.items()])
def test_lines_past_the_checkpoint_are_not_needed(tmp_path: Path, write: Callable[[Forge, Path], Path]) -> None:
    """A log in use is longer than its note: what the note covers is proved, the rest has to wait (exit 3)."""
    forge = running_log(signed_calls=2, calls=5)
    path = write(forge, tmp_path / "audit")

    for seq in range(5):
        assert_proved(path, forge, seq, 5)
    with pytest.raises(CannotProve, match="covers seq 0 to 4; seq 5 is newer") as caught:
        prove(path, 5)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITERS.items()])
def test_damage_past_the_checkpoint_takes_no_proof_away(tmp_path: Path, write: Callable[[Forge, Path], Path]) -> None:
    """What was signed stays provable, however the log goes on."""
    forge = running_log(signed_calls=2, calls=5)
    forge.lines[6], forge.lines[7] = forge.lines[7], forge.lines[6]
    path = write(forge, tmp_path / "audit")

    for seq in range(5):
        assert_proved(path, forge, seq, 5)


def test_an_archive_is_proved_against_its_own_note(rotated: Rotated) -> None:
    """Only the file with the entry is read; what is left of it, its first line tells."""
    for seq in range(rotated.forge.chain.size):
        place = rotated.file_of(seq)
        assert_proved(rotated.path, rotated.forge, seq, rotated.ends[place])
        for other, archive in enumerate(rotated.archives):
            assert archive.name in str(plan(rotated.path, seq).files) or other != place
        assert [file.start for file in plan(rotated.path, seq).files] == [rotated.starts[place]]


def test_an_archive_alone_is_enough(rotated: Rotated, tmp_path: Path) -> None:
    """Copied away with its note, and named itself; compressed or not."""
    away = tmp_path / "away"
    away.mkdir()
    archive = rotated.archives[1]
    for name in (archive.name, f"{archive.name}.checkpoint"):
        (tmp_path / name).rename(away / name)
    seqs = range(rotated.starts[1], rotated.ends[1])
    for seq in seqs:
        assert_proved(away / archive.name, rotated.forge, seq, rotated.ends[1])

    (away / f"{archive.name}.gz").write_bytes(gzip.compress((away / archive.name).read_bytes()))
    (away / archive.name).unlink()
    for seq in seqs:
        assert_proved(away / f"{archive.name}.gz", rotated.forge, seq, rotated.ends[1])
    with pytest.raises(CannotProve, match=f"there is no entry 0; its entries begin at seq {seqs[0]}") as caught:
        prove(away / f"{archive.name}.gz", 0)
    assert caught.value.exit_code == 2


def test_compressed_archives_are_found(rotated: Rotated) -> None:
    """Beside the log, under the note of the uncompressed name; the size announced is what will be read."""
    sizes = []
    for archive in rotated.archives:
        sizes.append(archive.stat().st_size)
        Path(f"{archive}.gz").write_bytes(gzip.compress(archive.read_bytes()))
        archive.unlink()
    for seq in range(rotated.ends[1]):
        assert_proved(rotated.path, rotated.forge, seq, rotated.ends[rotated.file_of(seq)])
        assert plan(rotated.path, seq).bytes == sizes[rotated.file_of(seq)]


def test_without_its_note_an_archive_is_proved_with_the_files_after_it(rotated: Rotated) -> None:
    """Notes are 200 bytes and may get lost; the next one covers everything before it."""
    Path(f"{rotated.archives[0]}.checkpoint").unlink()
    assert_proved(rotated.path, rotated.forge, 2, rotated.ends[1])
    Path(f"{rotated.archives[1]}.checkpoint").unlink()
    for seq in (0, 2, rotated.starts[1], rotated.ends[1] - 1):
        assert_proved(rotated.path, rotated.forge, seq, rotated.ends[2])


def test_an_active_file_that_is_missing_does_not_matter_to_the_archives(rotated: Rotated) -> None:
    """A rotation was interrupted between two renames; the archives are whole."""
    rotated.path.unlink()

    assert_proved(rotated.path, rotated.forge, 3, rotated.ends[0])


def test_a_rotation_while_we_read_is_followed(rotated: Rotated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between plan and reading the file got another name: it is looked for again."""
    planned = plan(rotated.archives[1], rotated.starts[1])
    moved = rotated.archives[1].with_name("audit.jsonl.20260612T000000Z")
    rotated.archives[1].rename(moved)
    Path(f"{rotated.archives[1]}.checkpoint").rename(f"{moved}.checkpoint")
    rotated.archives[1].write_bytes(b"another file")
    again = replace(planned, path=str(rotated.path))

    assert check_proof(carry_out(again), [KEY.vkey]).seq == rotated.starts[1]


def test_a_torn_line_that_was_recovered_is_no_leaf(tmp_path: Path) -> None:
    """The bytes of a crash lie between two entries; both are proved across them."""
    forge = Forge()
    forge.open()
    forge.call()
    torn = b'{"id":"torn\n'
    forge.lines[-1] += torn
    forge.typed(
        "recovery", torn_bytes=len(torn), torn_sha256=hashlib.sha256(torn).hexdigest(), salvageable=0, checkpoint=1
    )
    forge.sign()
    path = forge.write(tmp_path / "audit.jsonl")

    assert check_proof(prove(path, 3), [KEY.vkey]).seq == 3
    assert check_proof(prove(path, 1), [KEY.vkey]).seq == 1


@pytest.mark.parametrize("first", [3, 4, 5, 8])
def test_a_pruned_database(tmp_path: Path, first: int) -> None:
    """What is left is proved with what the `prune` line says about the rest; what is gone is not there."""
    forge = Forge()
    forge.open()
    for _ in range(first - 1):
        forge.entry()
    members = prune_members(forge.chain, KEY.vkey, 0, "test")
    for _ in range(3):
        forge.entry()
    forge.typed("prune", **members)
    forge.entry()
    forge.sign()
    path = forge.write_sqlite(tmp_path / "audit.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE seq < ?", (first,))

    for seq in range(first, forge.chain.size):
        assert_proved(path, forge, seq, forge.chain.size)
    with pytest.raises(CannotProve, match=f"its entries begin at seq {first}") as caught:
        prove(path, first - 1)
    assert caught.value.exit_code == 2
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM entries WHERE seq = ?", (first,))
    with pytest.raises(CannotProve, match="no prune line lets them go") as caught:
        prove(path, first + 1)
    assert caught.value.exit_code == 1


def test_a_database_has_older_notes_and_the_oldest_that_covers_is_enough(tmp_path: Path) -> None:
    """Less has to be read; a note that does not hold is passed over."""
    forge = Forge()
    forge.open()
    for _ in range(10):
        forge.entry()
    early = forge.sign()
    for _ in range(10):
        forge.entry()
    forge.sign()
    path = forge.write_sqlite(tmp_path / "audit.db")
    forged = signed_note(Checkpoint(KEY.origin, 5, b"x" * 32), OTHER_KEY)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executemany("INSERT INTO checkpoints VALUES (?, ?)", [(5, forged), (11, early)])

    assert_proved(path, forge, 3, 11)
    assert_proved(path, forge, 10, 11)
    assert_proved(path, forge, 11, 21)


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITERS.items()])
@pytest.mark.parametrize("victim", range(6))
def test_a_changed_log_proves_nothing(tmp_path: Path, write: Callable[[Forge, Path], Path], victim: int) -> None:
    """Not even its untouched lines: the root is not the signed one (exit 1)."""
    forge = closed_log()
    for name in (b"forge", b"claude-desktop", b"eof"):
        if name in forge.lines[victim]:
            forge.lines[victim] = forge.lines[victim].replace(name, name[::-1])
            break
    path = write(forge, tmp_path / "audit")

    for seq in range(6):
        with pytest.raises(CannotProve, match="not what was signed") as caught:
            prove(path, seq)
        assert caught.value.exit_code == 1


def test_what_is_missing_is_named(tmp_path: Path, rotated: Rotated) -> None:
    """Each with its exit code and what to do."""

    def refused(seq: int, match: str, path: Path = rotated.path) -> int:
        with pytest.raises((CannotProve, CannotLook), match=match) as caught:
            prove(path, seq)
        return int(caught.value.exit_code)

    assert refused(-1, "there is no entry -1") == 2
    assert refused(999, "is newer or does not exist") == 3
    assert refused(0, "there is no log", tmp_path / "nothing.jsonl") == 2
    strange = tmp_path / "strange.jsonl"
    strange.write_bytes(b'{"id":"x","signature":"hmac-sha256:00"}\n')
    assert refused(0, "names no log", strange) == 3
    rotated.archives[0].unlink()
    assert refused(0, f"begin at seq {rotated.starts[1]}") == 2
    rotated.archives[1].rename(tmp_path / "elsewhere")
    assert refused(rotated.starts[1], f"begin at seq {rotated.starts[2]}") == 2
    sidecar = Path(f"{rotated.path}.checkpoint")
    sidecar.write_text(signed_note(Checkpoint(KEY.origin, 99, b"x" * 32), OTHER_KEY))
    assert refused(rotated.starts[2], "the checkpoint does not hold: it has no signature") == 1
    sidecar.unlink()
    assert refused(rotated.starts[2], "there is no checkpoint") == 3


def test_a_hole_between_archives_is_no_proof(rotated: Rotated) -> None:
    """The file with the entry is missing, and with it the way from the ones before to the next note."""
    rotated.archives[1].unlink()

    with pytest.raises(CannotProve) as caught:
        prove(rotated.path, rotated.starts[1] + 1)
    assert caught.value.exit_code == 1


def test_the_key_may_be_known_from_the_first_line_only(rotated: Rotated) -> None:
    """The .pub is for people; who checks the proof brings the key anyway."""
    Path(f"{rotated.path}.pub").unlink()

    assert_proved(rotated.path, rotated.forge, rotated.starts[2] + 1, rotated.ends[2])


@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in WRITERS.items()])
def test_an_entry_is_found_by_its_id(tmp_path: Path, write: Callable[[Forge, Path], Path]) -> None:
    """The id a denied caller was told; text inside a payload that looks like one is not taken for it."""
    forge = Forge()
    forge.open()
    forge.entry(result=b'{"id":"01KSFJ00000000000000000004"}')
    wanted = forge.entry()
    request = forge.entry("request")
    forge.sign()
    path = write(forge, tmp_path / "audit")

    assert seq_of(path, "01KSFJ00000000000000000003") == wanted
    assert seq_of(path, "01KSFJ00000000000000000004") == request
    for missing in ("01KSFJ00000000000000000009", "", ".*", "\udcff"):
        with pytest.raises(CannotProve, match="no entry has the id") as caught:
            seq_of(path, missing)
        assert caught.value.exit_code == 2


def test_an_id_is_found_in_an_archive(rotated: Rotated) -> None:
    """Newest file first, all of them if need be."""
    assert seq_of(rotated.path, "01KSFJ00000000000000000002") == 1


def test_a_proof_from_a_large_log_is_small(tmp_path: Path) -> None:
    """Entry k of 100 000, a line of 1.2 kB: under 4 kB, for one hash for each doubling of the log."""
    forge = Forge(secret=None)
    forge.open()
    while forge.chain.size < 77_777:
        forge.lines.append(forge.chain.seal((b'{"id":"x"', None)))
    seq = forge.entry(result=b'{"content":[{"type":"text","text":"' + b"x" * 700 + b'"}]}')
    while forge.chain.size < 100_000:
        forge.lines.append(forge.chain.seal((b'{"id":"x"', None)))
    forge.sign()
    path = forge.write(tmp_path / "audit.jsonl")
    told: list[int] = []
    proof = carry_out(plan(path, seq), told.append)

    assert 1100 < len(forge.lines[seq]) < 1300
    assert len(Proof.parse(proof).path) in (16, 17)
    assert len(proof.encode()) < 4000
    assert check_proof(proof, [KEY.vkey]).line == forge.lines[seq][:-1]
    assert told[-1] == os.path.getsize(path) == plan(path, seq).bytes
