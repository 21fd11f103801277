"""The verdict: no change of a log, its note or its key passes, and every honest end of a log is told apart."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ledger_forge import (
    EXAMPLE_LINES,
    EXAMPLE_NOTE,
    KEY,
    ORIGIN,
    OTHER_KEY,
    SECRET,
    Forge,
    closed_log,
    running_log,
)

from mcp_audit.ledger import Report, Verdict, verify
from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.entry import encode_typed
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.keys import LogKey

SECRETS = [SECRET]
EXHAUSTIVE = pytest.mark.parametrize(
    "secret",
    [pytest.param(SECRET, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.long)],
    ids=["mac", "no-mac"],
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def check(path: Path, **options: object) -> Report:
    return verify(path, **({"secrets": SECRETS} | options))  # type: ignore[arg-type]


def numbers(text: str) -> set[int]:
    return {int(digits) for digits in re.findall(r"\d+", text)}


def test_the_worked_example_verifies(log: Path) -> None:
    """The published lines and note are intact, but for the run that nobody closed; strict finds nothing either."""
    log.write_bytes(b"".join(line + b"\n" for line in EXAMPLE_LINES))
    Path(f"{log}.checkpoint").write_text(EXAMPLE_NOTE)
    report = check(log, vkeys=[KEY.vkey], strict=True)

    assert (report.verdict, report.exit_code) == (Verdict.UNCLEAN, 4)
    assert report.reason == "a run was not closed and no writer is alive"
    assert report.root == EXAMPLE_NOTE.split("\n")[2]
    assert report.checks == {"chain": True, "tree": True, "note": True, "mac": True, "against": None, "strict": True}
    assert report.checkpoint is not None
    assert report.checkpoint.pinned


@pytest.mark.parametrize("secret", [SECRET, None], ids=["mac", "no-mac"])
def test_an_orderly_log_is_intact(log: Path, secret: bytes | None) -> None:
    """Exit 0, and the report says what was and what was not checked."""
    report = check(closed_log(secret).write(log), strict=True)

    assert (report.verdict, report.reason, report.log, report.size) == (Verdict.INTACT, "", ORIGIN, 6)
    assert report.checks["mac"] is (True if secret else None)
    assert report.counts == {
        "exchanges": 2,
        "open_requests": 0,
        "orphans": 0,
        "recoveries": 0,
        "torn_bytes": 0,
        "lost": 0,
    }
    assert [(file.name, file.status, file.first, file.last) for file in report.files] == [("audit.jsonl", "ok", 0, 5)]
    assert not report.checkpoint.pinned  # type: ignore[union-attr]
    assert ("6 lines carry no MAC" in report.notices) is (secret is None)


@EXHAUSTIVE
def test_every_byte_of_a_signed_log_counts(log: Path, secret: bytes | None) -> None:
    """Change any byte before the end of what is signed: tampered, and the entry is named."""
    forge = closed_log(secret, calls=1)
    data = forge.data
    forge.write(log)
    ends = [forge.end(size + 1) for size in range(forge.chain.size)]
    with log.open("r+b", buffering=0) as file:
        for offset, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)
            report = check(log)
            os.pwrite(file.fileno(), bytes([byte]), offset)
            entry = next(seq for seq, end in enumerate(ends) if offset <= end)
            assert report.verdict is Verdict.TAMPERED, offset
            assert entry in numbers(report.reason.partition("seq")[2]), (offset, report.reason)
            assert report.files[0].status == "FAIL"


@EXHAUSTIVE
def test_every_byte_behind_the_checkpoint_counts(log: Path, secret: bytes | None) -> None:
    """Change any byte past what is signed: tampered or unclean, never intact."""
    forge = running_log(secret, calls=2)
    forge.close()
    data = forge.data
    forge.write(log)
    assert check(log).verdict is Verdict.UNCLEAN
    with log.open("r+b", buffering=0) as file:
        for offset in range(forge.end(3) + 1, len(data)):
            os.pwrite(file.fileno(), bytes([data[offset] ^ 1]), offset)
            assert check(log).verdict in (Verdict.TAMPERED, Verdict.UNCLEAN), offset
            os.pwrite(file.fileno(), data[offset : offset + 1], offset)


def test_every_bit_of_the_note_counts(log: Path) -> None:
    """Change any bit of the checkpoint beside the log: tampered."""
    forge = closed_log(calls=0)
    note = Path(f"{forge.write(log)}.checkpoint")
    data = note.read_bytes()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        note.write_bytes(changed)
        assert check(log).verdict is Verdict.TAMPERED, bit


@EXHAUSTIVE
def test_cut_anywhere(log: Path, secret: bytes | None) -> None:
    """Before the end of what is signed: tampered. Behind it: unclean."""
    forge = running_log(secret, calls=2)
    data = forge.data
    forge.write(log)
    for size in range(len(data), 0, -1):
        os.truncate(log, size)
        expected = Verdict.TAMPERED if size < forge.end(3) else Verdict.UNCLEAN
        assert check(log).verdict is expected, size


def _strip_macs(lines: list[bytes]) -> list[bytes]:
    return [line[:-75] + b"}\n" for line in lines]


def _without_keys(lines: list[bytes]) -> list[bytes]:
    """Rebuild the chain with another text, as somebody without secret and key can."""
    chain = Chain(ORIGIN)
    rebuilt = []
    for line in lines:
        body = line.partition(b',"log":')[0].replace(b"read_file", b"make_file").replace(b',"key_id":"f26937dc"', b"")
        body, _, of = body.partition(b',"of":')
        rebuilt.append(chain.seal((body, int(of) if of else None)))  # type: ignore[arg-type]
    return rebuilt


def _of_another_log(lines: list[bytes]) -> list[bytes]:
    other = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    other.open()
    other.call()
    return [*lines[:2], other.lines[2], *lines[3:]]


ATTACKS: list[tuple[str, Callable[[list[bytes]], list[bytes]], str]] = [
    ("delete-first", lambda lines: lines[1:], "seq 0 is missing: seq 1 stands here"),
    ("delete-middle", lambda lines: lines[:2] + lines[3:], "seq 2 is missing: seq 3 stands here"),
    ("delete-last", lambda lines: lines[:-1], "seq 5 to 5, which the checkpoint covers, are missing"),
    ("delete-all-but-first", lambda lines: lines[:1], "the log ends after seq 0"),
    ("insert", lambda lines: [*lines[:2], b'{"id":"x"}\n', *lines[2:]], "seq 2 is damaged"),
    ("insert-empty-line", lambda lines: [*lines[:2], b"\n", *lines[2:]], "seq 2 is damaged"),
    ("repeat", lambda lines: [*lines[:3], lines[2], *lines[3:]], "seq 3 is missing: seq 2 stands here"),
    ("swap", lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "seq 2 is missing: seq 3 stands here"),
    ("strip-macs", _strip_macs, "seq 0 was changed"),
    ("strip-macs-later", lambda lines: lines[:2] + _strip_macs(lines[2:]), "it has no mac"),
    ("rebuild-without-keys", _without_keys, "the root over seq 0 to 5 is not the signed one"),
    ("line-of-another-log", _of_another_log, "a line of another log stands here (another/log)"),
    ("crlf", lambda lines: [line[:-1] + b"\r\n" for line in lines], "seq 0 is damaged"),
    ("byte-order-mark", lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]], "seq 0"),
]


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode("utf-8"))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("sqlite", [False, True], ids=["jsonl", "sqlite"])
@pytest.mark.parametrize(("attack", "reason"), [pytest.param(a, r, id=name) for name, a, r in ATTACKS])
def test_attacks_are_seen(log: Path, attack: Callable[[list[bytes]], list[bytes]], reason: str, sqlite: bool) -> None:
    """Tampered, with the place and what is wrong there; in a database the rows are renumbered to hide it."""
    forge = closed_log()
    forge.lines = attack(forge.lines)
    if sqlite and not all(_is_json(line) for line in forge.lines):
        with pytest.raises(sqlite3.OperationalError, match="malformed JSON"):
            forge.write_sqlite(log)  # the computed columns do not take it; who writes pages is another test
        return
    report = check(forge.write_sqlite(log) if sqlite else forge.write(log))

    assert report.verdict is Verdict.TAMPERED
    assert reason in report.reason
    assert (report.checks["mac"] is False) == ("mac" in report.reason)


def test_the_secret_alone_does_not_forge(log: Path) -> None:
    """Whoever has AUDIT_SECRET can rebuild chain and MACs, but not the note."""
    honest, forged = closed_log(), closed_log(calls=1)
    forged.note = honest.note
    assert check(forged.write(log)).verdict is Verdict.TAMPERED
    forged.note = signed_note(Checkpoint(ORIGIN, forged.chain.size, forged.chain.tree.root()), OTHER_KEY)
    report = check(forged.write(log))

    assert report.verdict is Verdict.TAMPERED
    assert "the checkpoint does not verify" in report.reason
    assert report.checks["note"] is False


def test_a_pinned_key_beats_the_one_beside_the_log(log: Path) -> None:
    """Replacing key, `.pub` and note together is seen by whoever pinned the key, and only by them."""
    forge = closed_log()
    forge.key = OTHER_KEY
    forge.sign()
    forge.write(log)

    assert check(log).verdict is Verdict.INTACT
    assert check(log, vkeys=[KEY.vkey]).verdict is Verdict.TAMPERED
    assert check(log, vkeys=[OTHER_KEY.vkey]).verdict is Verdict.INTACT


def test_a_log_that_no_pinned_key_belongs_to(log: Path) -> None:
    """A whole other log with its own key does not pass for the pinned one, with one pin or several."""
    other = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    other.open()
    other.close()
    other.sign()
    other.write(log)
    third = LogKey("third/log", bytes(32)).vkey

    assert check(log, vkeys=[KEY.vkey]).verdict is Verdict.TAMPERED
    assert "none of the pinned keys" in check(log, vkeys=[KEY.vkey, third]).reason
    assert check(log, vkeys=[KEY.vkey, other.key.vkey]).verdict is Verdict.INTACT


def test_rolled_back_log_and_sidecar(log: Path) -> None:
    """An older pair looks intact; against a note somebody kept it is not."""
    forge = closed_log()
    old = [*forge.lines], forge.note
    forge.open("close")
    forge.call()
    forge.close(of=6)
    kept = forge.sign()
    forge.write(log)
    assert check(log, against=kept).verdict is Verdict.INTACT
    assert check(log, against=old[1]).verdict is Verdict.INTACT

    forge.lines, forge.note = old
    forge.write(log)
    report = check(log, against=kept)
    assert check(log).verdict is Verdict.INTACT
    assert (report.verdict, report.checks["against"]) == (Verdict.TAMPERED, False)
    assert report.reason == "it has 6 lines, the kept note covers 10: it was rolled back or cut"


def test_rewritten_history_against_a_kept_note(log: Path) -> None:
    """With both keys a consistent new history can be made; the kept note gives it away."""
    kept = closed_log().note
    forge = Forge()
    forge.open()
    for _ in range(3):
        forge.call(tool="innocent")
    forge.close()
    forge.sign()
    forge.write(log)

    assert check(log).verdict is Verdict.INTACT
    assert "history was rewritten" in check(log, against=kept).reason


def test_a_note_of_another_key_is_no_anchor(log: Path) -> None:
    """`--against` with a note the log's key did not sign is a contradiction; with garbage it is a usage error."""
    forge = closed_log()
    foreign = signed_note(Checkpoint(ORIGIN, 3, bytes(32)), OTHER_KEY)
    forge.write(log)

    assert "--against does not verify" in check(log, against=foreign).reason
    with pytest.raises(CannotLook, match="no note"):
        check(log, against="garbage")


def test_how_a_log_may_end(log: Path) -> None:
    """Every honest end: closed, not closed, checkpoint missing for the last lines, torn, torn and recovered."""
    forge = running_log()
    report = check(forge.write(log))
    assert (report.verdict, report.counts["open_requests"]) == (Verdict.UNCLEAN, 0)

    report = check(forge.write(log, forge.data[:-9]))
    assert report.verdict is Verdict.UNCLEAN
    assert "torn bytes past the checkpoint" in report.reason
    assert report.counts["torn_bytes"] == len(forge.lines[-1]) - 9

    forge.close()
    report = check(forge.write(log))
    assert (report.verdict, report.reason) == (
        Verdict.UNCLEAN,
        "the last 5 lines have no checkpoint although no writer is alive",
    )
    forge.sign()
    assert check(forge.write(log)).verdict is Verdict.INTACT
    assert check(forge.write(log, forge.data[:-1])).verdict is Verdict.INTACT


def test_an_open_request_is_counted(log: Path) -> None:
    """The proxy died after it forwarded a call: unclean, and one request is open."""
    forge = running_log()
    forge.entry("request")
    report = check(forge.write(log))

    assert report.counts["open_requests"] == 1
    assert "1 requests open" in report.reason


def test_while_a_writer_is_alive(log: Path) -> None:
    """Its presence lock makes an open run right; bytes that stay torn are still unclean."""
    forge = running_log()
    forge.write(log)
    with Path(f"{log}.live").open("w") as live:
        fcntl.flock(live, fcntl.LOCK_SH)
        assert (check(log).verdict, check(log).reason) == (Verdict.INTACT, "a writer is at work")
        forge.write(log, forge.data[:-9])
        assert check(log).verdict is Verdict.UNCLEAN
    forge.write(log)
    assert check(log).verdict is Verdict.UNCLEAN


def test_without_the_secret_macs_are_not_checked(log: Path) -> None:
    """That alone is no reason for doubt, but it is said; a secret of another log helps as little."""
    forge = closed_log()
    forge.write(log)
    for secrets, why in (([], "no secret was given"), ([b"x" * 32], "no AUDIT_SECRET at hand fits")):
        report = check(log, secrets=secrets)
        assert (report.verdict, report.checks["mac"]) == (Verdict.INTACT, None)
        assert any(f"the MACs of 6 lines were not checked: {why}" in notice for notice in report.notices)


def test_a_new_secret_needs_both(log: Path) -> None:
    """Secrets are found by key_id: with both, all MACs are checked; with one, the rest is said to be unchecked."""
    second = b"another secret of thirty-two byte"
    forge = closed_log()
    later = Forge(second)
    later.chain.tree, later.chain.prev = forge.chain.tree, forge.chain.prev
    later.open("close")
    later.close(of=6)
    later.lines = forge.lines + later.lines
    later.sign()
    later.write(log)

    assert check(log, secrets=[SECRET, second]).checks["mac"] is True
    report = check(log)
    assert (report.verdict, report.checks["mac"]) == (Verdict.INTACT, None)
    assert any("2 lines were not checked" in notice for notice in report.notices)


MISSING = [
    pytest.param(["checkpoint"], Verdict.UNKNOWN, "the checkpoint beside the log is missing", id="checkpoint"),
    pytest.param(["pub"], Verdict.UNKNOWN, "no verifier key is at hand", id="key"),
    pytest.param(["checkpoint", "pub"], Verdict.UNKNOWN, "no verifier key", id="checkpoint-and-key"),
    pytest.param(["log"], Verdict.TAMPERED, "the log is missing although its checkpoint covers 6 lines", id="log"),
    pytest.param(["log", "pub"], Verdict.TAMPERED, "covers 6 lines", id="log-and-key"),
    pytest.param(["log", "checkpoint"], Verdict.UNKNOWN, "log and checkpoint are missing", id="log-and-checkpoint"),
]


@pytest.mark.parametrize("sqlite", [False, True], ids=["jsonl", "sqlite"])
@pytest.mark.parametrize(("missing", "verdict", "reason"), MISSING)
def test_what_is_missing(log: Path, missing: list[str], verdict: Verdict, reason: str, sqlite: bool) -> None:
    """Each missing file has its verdict; an emptied log counts as a missing one."""
    forge = closed_log()
    (forge.write_sqlite if sqlite else forge.write)(log)
    for name in missing:
        (log if name == "log" else Path(f"{log}.{name}")).unlink()
    report = check(log)
    assert report.verdict is verdict
    assert reason in report.reason
    if "log" in missing:
        log.touch()
        assert check(log).verdict is verdict


def test_nothing_there(tmp_path: Path) -> None:
    """No log, no note, no key: cannot look; neither can one look into a folder."""
    with pytest.raises(CannotLook, match="there is no log"):
        check(tmp_path / "none.jsonl")
    with pytest.raises(CannotLook, match="directory"):
        check(tmp_path)


def test_without_a_key_a_contradiction_is_still_one(log: Path) -> None:
    """A missing key hides no change: what does not fit its own chain or note is tampered, not unknown."""
    forge = closed_log()
    forge.write(log, forge.data.replace(b"read_file", b"make_file"))
    Path(f"{log}.pub").unlink()

    assert check(log, secrets=[]).verdict is Verdict.TAMPERED


def test_a_damaged_pub_counts_as_none(log: Path) -> None:
    """The key beside the log cannot be read: cannot decide, unless a key is pinned."""
    closed_log().write(log)
    Path(f"{log}.pub").write_bytes(b"\xff\xfe")

    assert check(log).verdict is Verdict.UNKNOWN
    assert check(log, vkeys=[KEY.vkey]).verdict is Verdict.INTACT


def test_a_creation_that_was_interrupted(log: Path) -> None:
    """A note of size 0 without a log, or beside a log with only its opening line: unclean, a start finishes it."""
    forge = Forge()
    forge.sign()
    forge.write(log)
    log.unlink()
    assert check(log).verdict is Verdict.UNCLEAN
    forge.open()
    assert check(forge.write(log)).verdict is Verdict.UNCLEAN


def test_a_database_whose_creation_was_interrupted(log: Path) -> None:
    """A database without tables beside a note of size 0 is unclean; beside a larger one it is tampered with."""
    forge = Forge()
    forge.sign()
    forge.write_sqlite(log)
    connection = sqlite3.connect(log, isolation_level=None)
    for kind, name in (("VIEW", "audit_entries"), ("TABLE", "entries"), ("TABLE", "checkpoints"), ("TABLE", "meta")):
        connection.execute(f"DROP {kind} {name}")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()

    assert check(log).verdict is Verdict.UNCLEAN
    Path(f"{log}.checkpoint").write_text(closed_log().note or "")
    assert (check(log).verdict, check(log).reason) == (Verdict.TAMPERED, "the database has no tables")


def test_a_newer_format_is_not_tampering(log: Path) -> None:
    """A log of a later version, intact as far as can be seen: cannot decide; changed: tampered."""
    forge = Forge()
    forge.open(v=2)
    forge.close()
    forge.sign()
    assert check(forge.write(log)).verdict is Verdict.UNKNOWN
    assert "upgrade" in check(log).reason
    assert check(forge.write(log, forge.data.replace(b'"eof"', b'"eog"'))).verdict is Verdict.TAMPERED


def test_a_log_of_the_go_program_is_not_judged(log: Path) -> None:
    """Its entries carry no `log`: cannot decide."""
    log.write_text('{"id":"01J","timestamp":"2026-01-01T00:00:00Z","method":"tools/call"}\n')
    assert (check(log).verdict, check(log).size) == (Verdict.UNKNOWN, 0)


def test_a_gzipped_log_is_recognised(log: Path) -> None:
    """By its first bytes; damaged gzip data cannot be looked at."""
    forge = closed_log()
    forge.write(log, gzip.compress(forge.data))
    assert check(log).verdict is Verdict.INTACT
    log.write_bytes(gzip.compress(forge.data)[:-9])
    with pytest.raises(CannotLook, match="cannot be read to its end"):
        check(log)


def _edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        pytest.param(["UPDATE entries SET line = replace(line, 'read_file', 'make_file') WHERE seq = 2"], "seq 2 was"),
        pytest.param(["DELETE FROM entries WHERE seq = 3"], "seq 3 is missing: row 4"),
        pytest.param(["UPDATE entries SET seq = 100 WHERE seq = 5"], "seq 5 is missing: row 100"),
        pytest.param(["CREATE TABLE more (x)"], "schema was changed (more)"),
        pytest.param(["DROP INDEX entries_method"], "schema was changed (entries_method)"),
        pytest.param(["CREATE TRIGGER t AFTER INSERT ON entries BEGIN SELECT 1; END"], "schema was changed (t)"),
        pytest.param(
            ["UPDATE sqlite_schema SET sql = replace(sql, '$.method', '$.id') WHERE name = 'entries'"],
            "schema was changed (entries)",
        ),
        pytest.param(["DELETE FROM entries"], "the log is empty"),
    ],
    ids=lambda value: value[0][:22] if isinstance(value, list) else "",
)
def test_edits_of_a_database_are_seen(log: Path, statements: list[str], reason: str) -> None:
    """Rows, numbers, indexes, triggers and computed columns: the lines and the schema must be what they were."""
    closed_log().write_sqlite(log)
    assert check(log).verdict is Verdict.INTACT
    _edit(log, *statements)
    report = check(log)

    assert report.verdict is Verdict.TAMPERED
    assert reason in report.reason


def test_an_edited_index_is_seen(log: Path) -> None:
    """Only the index says another tool than the line: queries would lie, so the full integrity check runs."""
    closed_log().write_sqlite(log)
    data = log.read_bytes()
    with closing(sqlite3.connect(log)) as database:
        found = database.execute("SELECT rootpage FROM sqlite_schema WHERE name='entries_tool_name'")
        page = found.fetchone()[0]
    start = (page - 1) * 4096
    index = data[start : start + 4096].replace(b"read_file", b"make_file")
    log.write_bytes(data[:start] + index + data[start + 4096 :])

    assert "integrity check fails" in check(log).reason


@pytest.mark.parametrize("seq", [0, 3, 5])
def test_an_edited_page_is_seen(log: Path, seq: int) -> None:
    """Bytes of a row changed in the file itself, into no JSON at all: the row is named."""
    forge = closed_log()
    forge.write_sqlite(log)
    line = forge.lines[seq][:-1]
    assert log.read_bytes().count(line) == 1
    log.write_bytes(log.read_bytes().replace(line, b"x" + line[1:]))
    report = check(log)

    assert report.verdict is Verdict.TAMPERED
    assert f"seq {seq}" in report.reason


def test_a_database_in_a_folder_that_cannot_be_written(log: Path) -> None:
    """At rest it needs nothing but the file; with an unread WAL it says what to do."""
    closed_log().write_sqlite(log)
    log.parent.chmod(0o500)
    try:
        assert check(log).verdict is Verdict.INTACT
    finally:
        log.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param(b'{"id":"x","id":"y"', "a member is repeated", id="repeated"),
        pytest.param(b'{"id":"x","timestamp":1', "timestamp has the wrong type", id="type"),
        pytest.param(b'{"id":"x"', "it lacks timestamp", id="missing"),
        pytest.param(b'{"id":"x","x":NaN', "not strict JSON", id="nan"),
        pytest.param(b'{"id":"x","x":"\xff"', "not strict JSON", id="utf-8"),
        pytest.param(b'{"id":"x","duration_ms":true', "duration_ms has the wrong type", id="bool-for-int"),
    ],
)
def test_strict_reads_every_line(log: Path, body: bytes, sentence: str) -> None:
    """A line can be chained and signed and still be wrong; then its writer was. Only --strict looks."""
    forge = Forge()
    forge.open()
    forge.lines.append(forge.chain.seal((body, None)))  # type: ignore[arg-type]
    forge.close()
    forge.sign()
    forge.write(log)

    assert check(log).verdict is Verdict.INTACT
    report = check(log, strict=True)
    assert report.verdict is Verdict.TAMPERED
    assert f"seq 1 does not conform: {'' if sentence[0] != 't' else 'its '}" in report.reason
    assert sentence in report.reason


def test_strict_pairs_and_signatures(log: Path) -> None:
    """An `of` without an open request and a `signature` that does not fit are found; going back in time is told."""
    forge = Forge()
    forge.open()
    forge.second = 50
    forge.call()
    forge.second = 3
    forge.entry(of=1)
    forge.close()
    forge.sign()
    report = check(forge.write(log), strict=True)
    assert "seq 3 does not conform: it closes seq 1, which is no open request" in report.reason
    assert any("time goes backwards 1 times" in notice for notice in report.notices)

    forge = Forge()
    forge.open()
    forge.call(signature="hmac-sha256:" + "0" * 64)
    forge.close()
    forge.sign()
    forge.write(log)
    assert "its signature does not match" in check(log, strict=True).reason
    assert check(log, strict=True, secrets=[]).verdict is Verdict.INTACT


def test_what_the_notices_tell(log: Path) -> None:
    """Recoveries, gaps, blocked times and orphans are said, with their seq."""
    forge = Forge()
    forge.open("loss")
    request = forge.entry("request")
    forge.typed("orphan", of=request, outcome="lost", why="crash")
    forge.typed("gap", cause="continue", lost=3)
    forge.close()
    forge.sign()
    report = check(forge.write(log))

    assert report.verdict is Verdict.INTACT
    assert report.counts["lost"] == 3
    assert "seq 3: 3 entries are missing (continue)" in report.notices
    assert "1 requests were never answered (orphan)" in report.notices


def test_an_auditor_needs_the_standard_library_only(log: Path) -> None:
    """`mcp_audit.ledger` imports nothing else; without `cryptography` chain and MACs are judged, the verdict is 3."""
    closed_log().write(log)
    program = textwrap.dedent("""
        import sys

        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in BLOCKED:
                    raise ImportError(name)

        BLOCKED = {"msgspec", "yaml", "anyio", "ulid", "rich", "uvloop", "cryptography"}
        sys.meta_path.insert(0, Block())
        import mcp_audit.ledger
        import pkgutil
        for module in pkgutil.iter_modules(mcp_audit.ledger.__path__):
            __import__("mcp_audit.ledger." + module.name)
        ours = {"mcp_audit", "__main__", *sys.stdlib_module_names}
        loaded = {name.partition(".")[0] for name in sys.modules}
        print(sorted(name for name in loaded - ours if not name.startswith("_")))
        report = mcp_audit.ledger.verify(sys.argv[1], secrets=[sys.argv[2].encode()])
        print(report.verdict.name, report.checks["chain"], report.checks["mac"], report.reason)
        print(len(list(mcp_audit.ledger.read(sys.argv[1]))))
    """)
    command = [sys.executable, "-c", program, str(log), SECRET.decode()]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    assert out[0] == "[]"
    assert out[1].startswith("UNKNOWN True True signatures need the package `cryptography`")
    assert out[2] == "2"


def test_unknown_lines_verify(log: Path) -> None:
    """Room for later versions: unknown types and members are leaves."""
    forge = Forge()
    forge.open(novelty={"a": 1})
    forge.lines.append(forge.chain.seal(encode_typed("anchor", *forge.stamp(), {"note": "x"})))
    forge.close()
    forge.sign()
    assert check(forge.write(log), strict=True).verdict is Verdict.INTACT
