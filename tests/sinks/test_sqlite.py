"""The SQLite writer: what differs from a file of lines."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fakes import QuickFiles
from ledgers import SECRET, STAMP, Sink, appended, check, crash, exchange, lines, request, settings, start, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.sqlite_schema import SCHEMA
from mcp_audit.sinks.opening import open_ledger
from mcp_audit.sinks.stamp import Stamp


def raw(path: str | Path, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def test_rows_hold_the_lines_that_jsonl_would_hold(tmp_path: Path) -> None:
    """The same chain over the same bytes: an export equals the other storage."""
    sink = start(tmp_path, "sqlite")
    batch = [exchange("ünïcode \u2028 and \\ud800"), request(), exchange("x", of=2)]
    chain = Chain(sink.origin, Mac(sink.secrets.mac) if sink.secrets else None)
    opening = raw(sink.path, "SELECT line FROM entries")[0][0]
    assert isinstance(opening, str)
    chain.follow(opening.encode())

    appended(sink, *batch)

    stored = [row[0] for row in raw(sink.path, "SELECT line FROM entries WHERE seq > 0 ORDER BY seq")]
    assert stored == [chain.seal(line)[:-1].decode() for line in batch]
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_the_schema_is_the_one_a_checker_expects(tmp_path: Path) -> None:
    """To the letter, WAL mode on."""
    sink = start(tmp_path, "sqlite")

    assert dict(raw(sink.path, "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")) == SCHEMA
    assert raw(sink.path, "PRAGMA journal_mode") == [("wal",)]
    sink.close()


def test_columns_answer_queries(tmp_path: Path) -> None:
    """Computed from the line; the view has the Go version's columns."""
    sink = start(tmp_path, "sqlite")
    appended(sink, request(), exchange("found", of=1))

    assert raw(sink.path, "SELECT seq, method, outcome, of FROM entries WHERE type IS NULL") == [
        (2, "tools/call", "answered", 1)
    ]
    assert raw(sink.path, "SELECT params FROM audit_entries") == [('{"text":"found"}',)]
    sink.close()


def test_who_does_not_wait_is_told_at_once(tmp_path: Path) -> None:
    """None while another process has the database locked; nothing is written and nothing is blocked."""
    sink = start(tmp_path, "sqlite")
    other = sqlite3.connect(sink.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    assert sink.append([exchange()], wait=False) is None

    other.execute("ROLLBACK")
    assert sink.append([exchange()], wait=False) == [1]
    other.close()
    sink.close()


def test_who_waits_waits_for_the_lock(tmp_path: Path) -> None:
    """The other process lets go in time."""
    sink = start(tmp_path, "sqlite")
    other = sqlite3.connect(sink.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    timer.start()

    assert appended(sink, exchange()) == [1]

    timer.join()
    other.close()
    sink.close()


def test_a_lock_that_stays_blocks_until_it_goes(tmp_path: Path) -> None:
    """The cause is SQLite's word; recovery needs no restart."""
    sink = start(tmp_path, "sqlite", busy_timeout_ms=20)
    other = sqlite3.connect(sink.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerUnavailable, match="locked"):
        sink.append([exchange()])
    with pytest.raises(LedgerUnavailable, match="locked"):
        sink.recover()
    other.execute("ROLLBACK")
    other.close()
    sink.recover()

    assert appended(sink, exchange()) == [1]
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_an_edit_is_refused(tmp_path: Path) -> None:
    """UPDATE leaves a line that does not fit: exit 1."""
    sink = start(tmp_path, "sqlite")
    appended(sink, exchange("honest"))
    sink.close()
    raw(sink.path, "UPDATE entries SET line = replace(line, 'honest', 'forged') WHERE seq = 1")

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path, "sqlite")

    assert refused.value.exit_code == 1


def test_an_edit_after_the_checkpoint_is_no_torn_write(tmp_path: Path) -> None:
    """A commit is all or nothing, so there is nothing to recover from: refused as well."""
    sink = start(tmp_path, "sqlite")
    sink.checkpoint()
    appended(sink, exchange("honest"), exchange("last"))
    crash(sink)
    raw(sink.path, "UPDATE entries SET line = replace(line, 'honest', 'forged') WHERE seq = 1")

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path, "sqlite")

    assert refused.value.exit_code == 1


def test_a_changed_schema_is_refused(tmp_path: Path) -> None:
    """A trigger could rewrite what we insert."""
    sink = start(tmp_path, "sqlite")
    sink.close()
    raw(sink.path, "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries WHERE seq = 0; END")

    with pytest.raises(LedgerRefused, match="schema was changed") as refused:
        start(tmp_path, "sqlite")

    assert refused.value.exit_code == 1


def test_a_corrupt_database_is_kept_as_evidence(tmp_path: Path) -> None:
    """It cannot be judged: exit 3, and not a byte changes."""
    sink = start(tmp_path, "sqlite")
    sink.close()
    data = bytearray(Path(sink.path).read_bytes())
    data[: len(data) // 2] = os.urandom(len(data) // 2)
    Path(sink.path).write_bytes(data)

    with pytest.raises(LedgerRefused, match="corrupt") as refused:
        start(tmp_path, "sqlite")

    assert refused.value.exit_code == 3
    assert Path(sink.path).read_bytes() == bytes(data)


def test_a_deleted_wal_is_missing_lines(tmp_path: Path) -> None:
    """Committed lines that the checkpoint covers were in it: the log ends too early."""
    sink = start(tmp_path, "sqlite")
    appended(sink, exchange())
    note = sink.checkpoint()
    assert note is not None
    Path(tmp_path / "copy").mkdir()
    for name in ("audit.db", "audit.db.key", "audit.db.pub"):
        (tmp_path / "copy" / name).write_bytes((tmp_path / name).read_bytes())
        (tmp_path / "copy" / name).chmod(0o600)
    appended(sink, exchange(), exchange())
    sink._keep = lambda checkpoint, note: None  # type: ignore[method-assign]  # as if the WAL had not been moved yet
    sink.checkpoint()
    (tmp_path / "copy" / "audit.db.checkpoint").write_text(sink.note)
    crash(sink)

    with pytest.raises(LedgerRefused, match="missing") as refused:
        start(tmp_path / "copy", "sqlite")

    assert refused.value.exit_code == 1


def test_deleting_the_database_blocks(tmp_path: Path) -> None:
    """SQLite itself would go on writing to the deleted file."""
    sink = start(tmp_path, "sqlite")
    Path(sink.path).unlink()

    with pytest.raises(LedgerUnavailable, match="deleted or renamed"):
        sink.append([exchange()])

    crash(sink)


def test_notes_are_kept_newest_and_last_of_each_day(tmp_path: Path) -> None:
    """The table does not grow with every second, but yesterday's note is still there."""
    day = 86_400 * 10**9
    now = [1_781_092_800 * 10**9]
    sink = open_ledger(settings(tmp_path, "sqlite"), Stamp(lambda: now[0]), QuickFiles())
    kept = []
    for _ in range(2):
        for _ in range(3):
            sink.append([_at(now[0])])
            sink.checkpoint()
        kept.append(sink.size)
        now[0] += day
    sink.append([_at(now[0])])
    sink.checkpoint()

    assert [row[0] for row in raw(sink.path, "SELECT size FROM checkpoints ORDER BY size")] == [*kept, sink.size]
    sink.close()
    assert check(sink.path, SECRET).exit_code == 0


def _at(now: int) -> object:
    from mcp_audit.ledger.entry import Entry, encode

    stamp = Stamp(lambda: now)
    return encode(Entry(stamp.id(), stamp.timestamp(), "client_to_server", "stdio", "ping", outcome="answered"))


def test_the_write_ahead_log_is_emptied_into_the_database(tmp_path: Path) -> None:
    """A checkpoint moves it, so that it does not grow for ever."""
    sink = start(tmp_path, "sqlite")
    for _ in range(3):
        appended(sink, *[exchange("x" * 2000) for _ in range(200)])
        sink.checkpoint()
    size = os.path.getsize(sink.path)
    wal = os.path.getsize(sink.path + "-wal")

    assert size > 3 * 200 * 2000
    assert wal < size
    sink.close()
    assert len(lines(sink.path)) == 602
    assert STAMP.id()


# -- durability --------------------------------------------------------------------------------------------------------


class FailingSyncs(QuickFiles):
    """Fails one statement as SQLite does when it cannot sync; syncs that are asked of us are noted."""

    def __init__(self) -> None:
        self.fail = ""
        self.synced: list[str] = []
        self.statements: list[str] = []
        self._names: dict[int, str] = {}

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._names[fd] = os.path.basename(path)
        return fd

    def sync(self, fd: int) -> None:
        self.synced.append(self._names[fd])
        if self.fail == self._names[fd]:
            raise OSError(5, "Input/output error")

    def connect(self, path: str) -> sqlite3.Connection:
        files = self

        class Failing(sqlite3.Connection):
            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                files.statements.append(sql)
                if files.fail and sql == files.fail:
                    error = sqlite3.OperationalError("disk I/O error")
                    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                    raise error
                return super().execute(sql, *parameters)

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0, factory=Failing)


@pytest.mark.parametrize(("durability", "mode"), [("write", "1"), ("fsync", "2")])
def test_commits_sync_if_they_have_to(tmp_path: Path, durability: str, mode: str) -> None:
    """NORMAL or FULL, in a new database and in one that is gone on with."""
    for _ in range(2):
        sink = start(tmp_path, "sqlite", durability=durability)
        assert sink.durable is (durability == "fsync")
        assert str(sink._connection.execute("PRAGMA synchronous").fetchone()[0]) == mode  # type: ignore[union-attr]
        sink.close()


def test_a_sync_reaches_the_write_ahead_log(tmp_path: Path) -> None:
    """Under `write` it holds what no commit has synced; under `fsync` each did, so that nothing is left to do."""
    files = FailingSyncs()
    sink = start(tmp_path, "sqlite", files=files)
    appended(sink, exchange())
    files.synced.clear()
    sink.sync()
    sink.sync()
    sink.close()
    assert files.synced.count("audit.db-wal") == 1

    files = FailingSyncs()
    sink = start(tmp_path, "sqlite", files=files, durability="fsync")
    appended(sink, exchange())
    sink.sync()
    sink.close()
    assert "audit.db-wal" not in files.synced


@pytest.mark.parametrize(
    ("durability", "statement", "attempt"),
    [
        pytest.param("fsync", "COMMIT", lambda sink: sink.append([exchange("lost")]), id="commit"),
        pytest.param("write", "PRAGMA wal_checkpoint(PASSIVE)", lambda sink: sink.checkpoint(), id="checkpoint"),
        pytest.param("write", "audit.db-wal", lambda sink: sink.sync(), id="write-ahead-log"),
    ],
)
def test_a_failed_sync_is_never_believed_again(
    tmp_path: Path, durability: str, statement: str, attempt: Callable[[Sink], object]
) -> None:
    """The next one would succeed and lie: blocked until a restart, which reads what is there."""
    files = FailingSyncs()
    sink = start(tmp_path, "sqlite", files=files, durability=durability)
    appended(sink, exchange("kept"))
    sink.checkpoint()
    appended(sink, exchange("last"))
    files.fail = statement
    with pytest.raises(LedgerUnavailable, match=r"could not be synced.*restart"):
        attempt(sink)
    files.fail = ""
    files.statements.clear()
    files.synced.clear()

    for again in (sink.recover, sink.sync, sink.checkpoint, lambda: sink.append([exchange()]), sink.close):
        with pytest.raises(LedgerUnavailable):
            again()

    assert "COMMIT" not in files.statements
    assert not files.synced
    start(tmp_path, "sqlite").close()
    texts = [line["params"]["text"] for line in lines(sink.path) if "type" not in line]
    assert texts == ["kept", "last"]
    assert verdict(sink.path) == "INTACT"


def test_a_start_reads_large_rows_a_few_at_a_time(tmp_path: Path) -> None:
    """Memory holds some megabytes of them, however long the log is."""
    sink = start(tmp_path, "sqlite", files=QuickFiles())
    for _ in range(12):
        appended(sink, exchange("x" * 1_000_000))
    sink.close()
    fed: list[int] = []
    feed_rows = Scanner.feed_rows

    def watched(scanner: Scanner, rows: Iterable[tuple[int, bytes]]) -> None:
        held = list(rows)
        fed.append(sum(len(line) for _, line in held))
        feed_rows(scanner, held)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scanner, "feed_rows", watched)
        start(tmp_path, "sqlite", files=QuickFiles()).close()

    assert sum(fed) > 12_000_000
    assert max(fed) < 6_000_000
