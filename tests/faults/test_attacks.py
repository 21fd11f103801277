"""What somebody who can write the files can do to a log in three segments, and the sentence that gives it away.

The log has seq 0 to 4 and 5 to 9 in archives, 10 to 15 in the active file; its checkpoint covers all of it.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from ledger_forge import KEY, OTHER_KEY, SECRET, Forge, closed_log, rotated_log
from rows import Seen, row

from mcp_audit.ledger import verify
from mcp_audit.ledger.keys import LogKey, derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.reading.indexing import refreshed_index

OTHER_SECRET = b"fedcba9876543210fedcba9876543210"


class Attack(NamedTuple):
    """What is done, by which function, and what `verify` must say about it."""

    what: str
    apply: Callable[[Path, Forge], None]
    sentence: str


def lines_in(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def archive(log: Path, number: int) -> Path:
    return sorted(log.parent.glob("audit.jsonl.2*Z"))[number]


def rewrite(path: Path, lines: Iterable[bytes]) -> None:
    path.write_bytes(b"".join(lines))


def modify(log: Path, forge: Forge) -> None:
    rewrite(log, (line.replace(b"read_file", b"make_file") if n == 2 else line for n, line in enumerate(lines_in(log))))


def modify_archive(log: Path, forge: Forge) -> None:
    path = archive(log, 1)
    path.write_bytes(path.read_bytes().replace(b"1.10", b"1.11", 1))


def delete(log: Path, forge: Forge) -> None:
    lines = lines_in(log)
    rewrite(log, lines[:2] + lines[3:])


def insert(log: Path, forge: Forge) -> None:
    lines = lines_in(log)
    rewrite(log, lines[:3] + lines[2:])


def reorder(log: Path, forge: Forge) -> None:
    lines = lines_in(log)
    rewrite(log, [*lines[:1], lines[3], lines[4], lines[1], lines[2], *lines[5:]])


def truncate(log: Path, forge: Forge) -> None:
    rewrite(log, lines_in(log)[:-2])


def truncate_archive(log: Path, forge: Forge) -> None:
    rewrite(archive(log, 0), lines_in(archive(log, 0))[:-1])


def other_log() -> Forge:
    """Another log of the same host, under the same secret."""
    forge = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    forge.open()
    for _ in range(8):
        forge.call()
    return forge


def replay_line(log: Path, forge: Forge) -> None:
    lines = lines_in(log)
    rewrite(log, [*lines[:2], other_log().lines[12], *lines[3:]])


def replay_archive(log: Path, forge: Forge) -> None:
    rewrite(archive(log, 0), other_log().lines[:5])


def twins(log: Path, forge: Forge) -> None:
    archive(log, 1).write_bytes(archive(log, 0).read_bytes())


def remove_archive(log: Path, forge: Forge) -> None:
    archive(log, 0).unlink()


def remove_middle(log: Path, forge: Forge) -> None:
    archive(log, 1).unlink()


def remove_archives(log: Path, forge: Forge) -> None:
    for number in (1, 0):
        archive(log, number).unlink()


def remove_active(log: Path, forge: Forge) -> None:
    log.unlink()


def remove_note(log: Path, forge: Forge) -> None:
    Path(f"{log}.checkpoint").unlink()


def rebuild(log: Path, secret: bytes | None, key: LogKey) -> None:
    """A whole new history of this origin under other keys; the notes of the archives go as well."""
    forge = Forge(secret, KEY.origin, key)
    forge.open(vkey=KEY.vkey)
    for _ in range(7):
        forge.call(tool="make_file")
    forge.close()
    forge.sign()
    for old in log.parent.glob("audit.jsonl.2*"):
        old.unlink()
    forge.write(log)
    Path(f"{log}.pub").write_text(KEY.vkey + "\n")


def without_keys(log: Path, forge: Forge) -> None:
    rebuild(log, OTHER_SECRET, OTHER_KEY)
    Path(f"{log}.checkpoint").write_text(forge.note or "")


def with_secret(log: Path, forge: Forge) -> None:
    rebuild(log, SECRET, OTHER_KEY)


def continued(forge: Forge, secret: bytes | None) -> Forge:
    """Somebody goes on where the log ends, with or without its secret."""
    other = Forge(secret, forge.chain.origin, forge.key)
    other.chain = forge.chain.copy()
    other.chain.mac = Mac(derive(secret, forge.chain.origin).mac) if secret else None
    other.archives, other.second = forge.archives, 3000
    return other


def forged_prune(log: Path, forge: Forge) -> None:
    other = continued(forge, OTHER_SECRET)
    other.prune(5)
    rewrite(log, [*lines_in(log), *other.lines])
    archive(log, 0).unlink()


def forged_prune_with_secret(log: Path, forge: Forge) -> None:
    """It chains and has its MAC, but names a range that is not what it removes."""
    other = continued(forge, SECRET)
    other.prune(5)
    rewrite(log, [*lines_in(log), *other.lines])
    remove_archives(log, forge)


def forged_recovery(log: Path, forge: Forge) -> None:
    """The log is cut short, and a `recovery` with the right MAC says that what followed was torn."""
    other = Forge(SECRET)
    other.open()
    other.call()
    torn = b'{"id":"torn"}\n'
    about = {"torn_bytes": len(torn), "torn_sha256": hashlib.sha256(torn).hexdigest(), "salvageable": 0}
    other.typed("recovery", **about, checkpoint=3)
    remove_archives(log, forge)
    rewrite(log, [*other.lines[:3], torn, other.lines[3]])


def strip_macs(log: Path, forge: Forge) -> None:
    rewrite(log, (line[:-75] + b"}\n" for line in lines_in(log)))


ATTACKS = {
    "modify": Attack("a line is changed", modify, "line 3: seq 12 was changed"),
    "modify-archive": Attack("a line of an archive is changed", modify_archive, "line 2: seq 6 was changed"),
    "delete": Attack("a line is deleted", delete, "seq 12 is missing: seq 13 stands here"),
    "insert": Attack("a line is inserted", insert, "seq 13 is missing: seq 12 stands here"),
    "reorder": Attack("lines change places", reorder, "seq 11 is missing: seq 13 stands here"),
    "truncate": Attack("the last lines are cut off", truncate, "seq 14 to 15, which the checkpoint covers"),
    "truncate-archive": Attack("the last line of an archive is cut off", truncate_archive, "seq 4 to 4, which"),
    "replay-line": Attack(
        "a line of another log takes a place", replay_line, "seq 12 is missing: a line of another log"
    ),
    "replay-archive": Attack("an archive of another log takes a place", replay_archive, "seq 0 to 4 are missing"),
    "twins": Attack("an archive is replaced by a copy of another one", twins, "seq 5 to 9 are missing"),
    "remove-archive": Attack("the oldest archive is removed", remove_archive, "seq 0 to 4 are missing"),
    "remove-middle": Attack("an archive in the middle is removed", remove_middle, "seq 5 to 9 are missing"),
    "remove-archives": Attack("all archives are removed", remove_archives, "seq 0 to 9 are missing"),
    "remove-active": Attack("the active file is removed", remove_active, "seq 10 to 15, which the checkpoint covers"),
    "without-keys": Attack("the history is written anew without any key", without_keys, "the root over seq 0 to 15"),
    "with-secret": Attack(
        "the history is written anew with AUDIT_SECRET and a wrong log key",
        with_secret,
        "the checkpoint does not verify: it has no signature of the key",
    ),
    "forged-prune": Attack(
        "an archive is removed and a forged `prune` excuses it", forged_prune, "seq 0 to 4 are missing"
    ),
    "forged-prune-range": Attack(
        "a `prune` forged with AUDIT_SECRET excuses less than was removed",
        forged_prune_with_secret,
        "seq 0 to 9 are missing",
    ),
    "forged-recovery": Attack(
        "a `recovery` vouches for the loss of signed lines", forged_recovery, "seq 4 to 15, which the checkpoint covers"
    ),
    "strip-macs": Attack("the MACs are stripped", strip_macs, "seq 10 was changed (it has no mac"),
}


@row(
    "{case}",
    by="the files of a signed log in three segments are changed",
    verify="TAMPERED",
    cases={name: (attack.what, attack.sentence) for name, attack in ATTACKS.items()},
)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_an_attack_is_named(tmp_path: Path, seen: Seen, attack: Attack) -> None:
    """Tampered, and the sentence says which entries."""
    forge = rotated_log()
    log = forge.write(tmp_path / "audit.jsonl")
    assert verify(log, secrets=[SECRET]).exit_code == 0
    attack.apply(log, forge)

    report = seen.check(log, strict=False)

    assert attack.sentence in report.reason


@row(
    "the names of archives are swapped",
    by="two archives exchange their names",
    verify="INTACT",
)
def test_names_are_hints(tmp_path: Path, seen: Seen) -> None:
    """Files are matched by what is in them, so this changes nothing and hides nothing."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    one, two = archive(log, 0), archive(log, 1)
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)

    assert seen.check(log).size == 16


@row(
    "key, `.pub` and checkpoint are replaced after a rewrite with AUDIT_SECRET",
    by="a whole new history under a new key; verified with and without the pinned key",
    verify="TAMPERED INTACT",
)
def test_a_replaced_key_fails_only_where_the_old_one_is_pinned(tmp_path: Path, seen: Seen) -> None:
    """A key beside the log proves nothing against whoever can write there, and the report says so."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    rebuild(log, SECRET, OTHER_KEY)
    Path(f"{log}.pub").write_text(OTHER_KEY.vkey + "\n")

    report = seen.check(log, expect="INTACT", strict=False)
    assert report.checkpoint is not None
    assert not report.checkpoint.pinned
    assert "signature" in seen.check(log, expect="TAMPERED", strict=False, vkeys=[KEY.vkey]).reason


@row(
    "log and sidecar are rolled back together to an older pair",
    by="the files are replaced by what they were earlier; verified with and without a note somebody kept",
    verify="TAMPERED UNCLEAN",
)
def test_a_rollback_needs_a_kept_note(tmp_path: Path, seen: Seen) -> None:
    """`--against` is the only defence inside one host, and names how much is gone."""
    forge = Forge(SECRET)
    forge.open()
    forge.call()
    forge.sign()
    old = forge.write(tmp_path / "audit.jsonl").read_bytes()
    old_note = forge.note or ""
    forge.call()
    forge.close()
    kept = forge.sign()
    log = forge.write(tmp_path / "audit.jsonl")
    log.write_bytes(old)
    Path(f"{log}.checkpoint").write_text(old_note)

    seen.check(log, expect="UNCLEAN")
    report = seen.check(log, expect="TAMPERED", against=kept)
    assert "it has 3 lines, the kept note covers 6" in report.reason


@row(
    "the query index beside the log is edited",
    by="every byte of the index file is inverted, then the file is replaced by noise",
    verify="INTACT",
)
def test_the_index_changes_no_verdict(tmp_path: Path, seen: Seen) -> None:
    """`verify` never reads it."""
    log = rotated_log().write(tmp_path / "audit.jsonl")
    refreshed_index(str(log), None, (10, log.stat().st_size)).close()  # type: ignore[union-attr]
    index = Path(f"{log}.index")
    made = index.read_bytes()
    before = seen.check(log).to_json()
    for forged in (bytes(byte ^ 0xFF for byte in made), b"\0" * 100, b""):
        index.write_bytes(forged)
        assert seen.check(log).to_json() == before


def update_row(database: sqlite3.Connection, path: Path) -> None:
    database.execute("UPDATE entries SET line = replace(line, 'read_file', 'make_file') WHERE seq = 2")


def delete_row(database: sqlite3.Connection, path: Path) -> None:
    database.execute("DELETE FROM entries WHERE seq = 2")


def renumber(database: sqlite3.Connection, path: Path) -> None:
    database.execute("DELETE FROM entries WHERE seq = 2")
    database.execute("UPDATE entries SET seq = seq - 1 WHERE seq > 2")


def drop_index(database: sqlite3.Connection, path: Path) -> None:
    database.execute("DROP INDEX entries_method")


def add_trigger(database: sqlite3.Connection, path: Path) -> None:
    database.execute(
        "CREATE TRIGGER forget AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE seq = new.seq - 1; END"
    )


def change_view(database: sqlite3.Connection, path: Path) -> None:
    database.execute("DROP VIEW audit_entries")
    database.execute("CREATE VIEW audit_entries AS SELECT id FROM entries WHERE tool_name <> 'read_file'")


def edit_index(database: sqlite3.Connection, path: Path) -> None:
    """The index says another tool than the rows, so that a query for the true one finds nothing."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = path.read_bytes()
    hidden = re.sub(rb'(?<!")read_file(?!")', b"rxxd_file", data)
    assert hidden != data
    path.write_bytes(hidden)


DATABASE_ATTACKS = {
    "row": ("SQLite: a row is changed", update_row, "seq 2 was changed"),
    "delete": ("SQLite: a row is deleted", delete_row, "seq 2 is missing"),
    "renumber": ("SQLite: a row is deleted and the others are renumbered", renumber, "seq 2 is missing"),
    "drop-index": ("SQLite: an index is dropped", drop_index, "entries_method"),
    "trigger": ("SQLite: a trigger is added", add_trigger, "forget"),
    "view": ("SQLite: the view of the seed's table hides a tool", change_view, "audit_entries"),
    "edit-index": ("SQLite: the bytes of an index are edited", edit_index, "index"),
}


@row(
    "{case}",
    by="the database of a signed log is changed",
    verify="TAMPERED",
    cases={name: (what, sentence) for name, (what, _, sentence) in DATABASE_ATTACKS.items()},
)
@pytest.mark.parametrize(("what", "apply", "sentence"), DATABASE_ATTACKS.values(), ids=list(DATABASE_ATTACKS))
def test_an_attack_on_a_database_is_named(
    tmp_path: Path, seen: Seen, what: str, apply: Callable[[sqlite3.Connection, Path], None], sentence: str
) -> None:
    """Tampered; the sentence names the entry or the part of the schema."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    assert verify(log, secrets=[SECRET]).exit_code == 0
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        apply(database, log)

    assert sentence in seen.check(log).reason


@row(
    "SQLite: a computed column is written",
    by="`UPDATE entries SET tool_name = …`",
    verify="INTACT",
)
def test_computed_columns_cannot_be_written(tmp_path: Path, seen: Seen) -> None:
    """There is no second copy that could disagree with the line."""
    log = closed_log().write_sqlite(tmp_path / "audit.db")
    with closing(sqlite3.connect(log)) as database, pytest.raises(sqlite3.OperationalError, match="generated column"):
        database.execute("UPDATE entries SET tool_name = 'x'")
    seen.check(log)
