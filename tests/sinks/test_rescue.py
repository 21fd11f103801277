"""A sync that failed, a log that was deleted under its writer: all that was acknowledged is in a fresh copy."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from fakes import FlakyFiles, QuickFiles, When
from ledgers import appended, check, crash, exchange, lines, request, start, types, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.sinks.jsonl import JsonlSink
from mcp_audit.sinks.rescue import failed_names

LOG = "audit.jsonl"


class FailingMedium(QuickFiles):
    """Once a sync of an inode failed, every later one succeeds and lies: it is counted.

    Args:
        fail_at: which sync of a log file fails, from 1; 0: none.

    Attributes:
        syncs: of log files so far.
        believed: syncs of an inode after one of it had failed.
    """

    def __init__(self, fail_at: int = 0) -> None:
        self.fail_at = fail_at
        self.syncs = 0
        self.believed = 0
        self.lost: set[int] = set()
        self.logs: set[int] = set()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        if os.path.basename(path) == LOG:
            self.logs.add(os.fstat(fd).st_ino)
        return fd

    def sync(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if inode in self.lost:
            self.believed += 1
        if inode in self.logs:
            self.syncs += 1
            if self.syncs == self.fail_at:
                self.lost.add(inode)
                raise OSError(errno.EIO, os.strerror(errno.EIO))


def durable(folder: Path, files: Any = None, **changes: Any) -> JsonlSink:
    sink = start(folder, files=files or QuickFiles(), durability="fsync", **changes)
    assert isinstance(sink, JsonlSink)
    return sink


def live(folder: Path, files: Any) -> dict[int, str]:
    """A run; returns what was acknowledged: appended, and a sync after it came back."""
    acknowledged: dict[int, str] = {}
    sink = durable(folder, files)
    try:
        for number in range(4):
            texts = [f"{number}a", f"{number}b"]
            seqs = appended(sink, *[exchange(text) for text in texts])
            sink.sync()
            acknowledged.update(zip(seqs, texts, strict=True))
            if number == 1:
                sink.checkpoint()
        sink.close()
    except Crash:
        crash(sink)
        raise
    return acknowledged


def texts(path: Path) -> dict[int, str]:
    return {line["seq"]: line["params"]["text"] for line in lines(path) if "type" not in line}


def test_any_sync_may_fail(tmp_path: Path) -> None:
    """The N-th, for all N: it is never believed again, and what was acknowledged is in the log, which verifies."""
    probe = FailingMedium()
    live(tmp_path / "probe", probe)
    assert probe.syncs > 5
    for number in range(2, probe.syncs + 1):
        folder = tmp_path / str(number)
        files = FailingMedium(number)

        acknowledged = live(folder, files)

        assert (len(files.lost), files.believed) == (1, 0), number
        assert texts(folder / LOG) == acknowledged, number
        assert verdict(folder / LOG) == "INTACT", number
        [old] = failed_names(str(folder / LOG))
        copied = Path(old).read_bytes()
        assert (folder / LOG).read_bytes().startswith(copied), number
        assert os.stat(folder / LOG).st_nlink == os.stat(old).st_nlink == 1
        assert oct(os.stat(folder / LOG).st_mode & 0o777) == "0o600"


def test_the_first_sync_refuses_the_start(tmp_path: Path) -> None:
    """Nothing depends on the log yet, and the disk is bad; the next start is free to try."""
    with pytest.raises(LedgerRefused, match="could not be synced"):
        durable(tmp_path, FailingMedium(1))

    durable(tmp_path).close()
    assert verdict(tmp_path / LOG) == "INTACT"


def test_the_copy_says_what_it_is(tmp_path: Path) -> None:
    """An `open` after replaced, which names the run's first; the close names that one, too."""
    files = FailingMedium(2)
    sink = durable(tmp_path, files, config_sha256="ab" * 32)
    appended(sink, request())
    sink.sync()
    appended(sink, exchange(of=1))
    sink.close()

    first, _, again, _, close = lines(tmp_path / LOG)
    assert (again["type"], again["after"], again["of"]) == ("open", "replaced", first["seq"])
    assert [again[name] for name in ("software", "config_sha256", "key_id")] == [
        first[name] for name in ("software", "config_sha256", "key_id")
    ]
    assert (close["type"], close["of"]) == ("close", first["seq"])


def test_after_close_nothing_follows(tmp_path: Path) -> None:
    """The sync of the last checkpoint fails: the copy ends where the log ended."""
    probe = FailingMedium()
    live(tmp_path / "probe", probe)

    live(tmp_path / "run", FailingMedium(probe.syncs))

    assert types(tmp_path / "run" / LOG)[-1] == "close"
    assert verdict(tmp_path / "run" / LOG) == "INTACT"


def test_a_checkpoint_reuses_the_sync_that_was_made(tmp_path: Path) -> None:
    """And a sync that of a checkpoint; with nothing new there is nothing to do."""
    files = FailingMedium()
    sink = durable(tmp_path, files)
    appended(sink, exchange())
    before = files.syncs
    sink.sync()
    sink.checkpoint()
    sink.sync()
    assert files.syncs == before + 1
    appended(sink, exchange())
    sink.checkpoint()
    sink.sync()
    assert files.syncs == before + 2
    sink.close()


def test_of_two_syncs_at_once_neither_believes_what_the_other_was_told(tmp_path: Path) -> None:
    """The kernel tells one of them only, so the second waits for the first, and for its copy."""
    others: list[threading.Thread] = []

    class Meanwhile(FailingMedium):
        def sync(self, fd: int) -> None:
            if self.syncs + 1 == self.fail_at and not others:
                others.append(threading.Thread(target=sink.sync))
                others[0].start()
            super().sync(fd)

    files = Meanwhile()
    sink = durable(tmp_path, files)
    appended(sink, exchange("a"))
    files.fail_at = files.syncs + 1
    sink.sync()
    others[0].join(10)
    assert not others[0].is_alive()
    sink.close()

    assert (len(files.lost), files.believed) == (1, 0)
    assert verdict(tmp_path / LOG) == "INTACT"


class Crash(BaseException):
    """The process is killed here."""


class Crashing(FailingMedium):
    """Kills the process at the N-th operation of the rescue, before or after it took effect."""

    def __init__(self, fail_at: int, kill_at: int, when: When) -> None:
        super().__init__(fail_at)
        self.kill_at = kill_at
        self.when = when
        self.steps: list[str] = []
        self.dead = False

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("open", "write", "sync", "link", "rename", "unlink", "sync_directory", "truncate"):
            return found

        def watched(*args: Any) -> Any:
            if self.dead:
                raise Crash
            if not self.lost:
                return found(*args)
            self.steps.append(name)
            if len(self.steps) != self.kill_at:
                return found(*args)
            self.dead = True
            if self.when == "after":
                found(*args)
            raise Crash

        return watched


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rescue_may_be_killed_at_every_step(tmp_path: Path, when: Literal["before", "after"]) -> None:
    """The next start goes on with the old log or the new one; what was acknowledged is in it, no trace is left."""
    probe = Crashing(4, 0, when)
    live(tmp_path / "probe", probe)
    assert {"write", "sync", "link", "rename", "sync_directory"} <= set(probe.steps)
    for number in range(1, probe.steps.index("sync_directory") + 3):
        folder = tmp_path / str(number)
        files = Crashing(4, number, when)
        with pytest.raises(Crash):
            live(folder, files)
        acknowledged = {seq: text for seq, text in texts(folder / LOG).items() if text[0] == "0"}
        assert len(acknowledged) == 2, (number, probe.steps)

        sink = durable(folder)
        appended(sink, exchange("z"))
        sink.close()

        found = texts(folder / LOG)
        assert acknowledged.items() <= found.items()
        assert "z" in found.values()
        assert verdict(folder / LOG) == "INTACT", number
        assert not [path.name for path in folder.iterdir() if ".tmp-" in path.name]
        assert os.stat(folder / LOG).st_nlink == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rescue_that_fails_blocks_until_a_restart(tmp_path: Path, when: When) -> None:
    """At each of its steps: nothing is acknowledged, the old log still has everything, a restart works."""
    probe = FlakyFiles()
    sink = durable(tmp_path / "probe", probe)
    appended(sink, exchange("a"))
    began = len(probe.calls)
    failing = _fail_syncs(probe, "sync audit.jsonl")
    sink.sync()
    steps = probe.calls[began:]
    assert {"link audit.jsonl", "rename to audit.jsonl", "sync directory"} <= set(steps)
    assert failing()
    sink.close()
    hopeless: set[str] = set()
    for number in range(2, len(steps) + 1):
        folder = tmp_path / str(number)
        files = FlakyFiles(when=when, code=errno.ENOSPC)
        sink = durable(folder, files)
        appended(sink, exchange("a"))
        _fail_syncs(files, "sync audit.jsonl")
        files.fail_at = len(files.calls) + number

        with suppress(LedgerUnavailable):  # an error after the rename took effect is none
            sink.sync()
        if sink.blocked:
            _require_hopeless(sink)
            hopeless.add(files.failed)
        crash(sink)
        again = durable(folder)
        appended(again, exchange("z"))
        again.close()

        assert sorted(texts(folder / LOG).values()) == ["a", "z"], (number, files.failed)
        assert verdict(folder / LOG) == "INTACT", (number, files.failed)
    assert hopeless >= {"open .audit.jsonl", "write .audit.jsonl", "sync .audit.jsonl", "link audit.jsonl"}
    assert "sync directory" in hopeless


def _require_hopeless(sink: JsonlSink) -> None:
    for attempt in (sink.recover, sink.sync, sink.checkpoint, lambda: sink.append([exchange()])):
        with pytest.raises(LedgerUnavailable, match=r"could not be synced \(Input/output error\).*restart"):
            attempt()


def _fail_syncs(files: FlakyFiles, name: str) -> Callable[[], bool]:
    """Let the next sync of that name fail, and no other."""
    failed: list[str] = []
    sync = files.sync

    def failing(fd: int) -> None:
        sync(fd)
        if not failed and files.calls[-1] == name:
            failed.append(name)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    files.sync = failing  # type: ignore[method-assign]
    return lambda: bool(failed)


def test_pages_that_are_gone_are_not_made_up(tmp_path: Path) -> None:
    """What the descriptor gives back is not what was written: blocked until a restart, and no other file is made."""
    files = FailingMedium(3)
    sink = durable(tmp_path, files)
    appended(sink, exchange("first"))
    sink.sync()
    appended(sink, exchange("second"))
    read_at = files.read_at
    files.read_at = lambda fd, count, offset: read_at(fd, count, offset).replace(b"second", b"\0\0\0\0\0\0")  # type: ignore[method-assign]

    with pytest.raises(LedgerUnavailable, match="what the disk gives back is not what was written"):
        sink.sync()
    crash(sink)

    assert not failed_names(str(tmp_path / LOG))
    assert not [path.name for path in tmp_path.iterdir() if ".tmp-" in path.name]
    durable(tmp_path).close()
    assert texts(tmp_path / LOG) == {1: "first", 2: "second"}


# -- peers -------------------------------------------------------------------------------------------------------------


def test_a_peer_follows_to_the_copy(tmp_path: Path) -> None:
    """Its lines, also those it had not synced, are in the copy; its next ones go there."""
    files = FailingMedium(3)
    sink = durable(tmp_path, files)
    peer = durable(tmp_path)
    appended(sink, exchange("ours"))
    appended(peer, exchange("theirs"))
    sink.sync()
    appended(peer, exchange("later"))
    peer.sync()
    appended(sink, exchange("last"))
    peer.close()
    sink.close()

    assert list(texts(tmp_path / LOG).values()) == ["ours", "theirs", "later", "last"]
    assert verdict(tmp_path / LOG) == "INTACT"
    assert len(failed_names(str(tmp_path / LOG))) == 1


def test_a_peer_whose_sync_fails_too_uses_the_copy_that_is_there(tmp_path: Path) -> None:
    """Each descriptor is told once; one copy is enough."""
    ours, theirs = FailingMedium(), FailingMedium()
    sink = durable(tmp_path, ours)
    peer = durable(tmp_path, theirs)
    appended(sink, exchange("ours"))
    appended(peer, exchange("theirs"))
    ours.fail_at, theirs.fail_at = ours.syncs + 1, theirs.syncs + 1
    sink.sync()
    peer.sync()
    peer.close()
    sink.close()

    assert (ours.believed, theirs.believed) == (0, 0)
    assert len(failed_names(str(tmp_path / LOG))) == 1
    assert sorted(texts(tmp_path / LOG).values()) == ["ours", "theirs"]
    assert verdict(tmp_path / LOG) == "INTACT"


# -- a log that was deleted --------------------------------------------------------------------------------------------


def test_a_deleted_log_is_put_back(tmp_path: Path) -> None:
    """The open descriptor still has it all; the next look, a millisecond later at most, finds out."""
    sink = start(tmp_path)
    appended(sink, exchange("before"))
    (tmp_path / LOG).unlink()
    sink._look_at = 0.0  # type: ignore[union-attr]  # as a millisecond later

    appended(sink, exchange("after"))
    sink.close()

    assert list(texts(tmp_path / LOG).values()) == ["before", "after"]
    assert types(tmp_path / LOG) == ["open", "exchange", "open", "exchange", "close"]
    assert not failed_names(str(tmp_path / LOG))
    assert verdict(tmp_path / LOG) == "INTACT"


def test_two_writers_of_a_deleted_log_put_it_back_once(tmp_path: Path) -> None:
    """The second one goes over to the copy of the first."""
    sink, peer = start(tmp_path), start(tmp_path)
    appended(sink, exchange("a"))
    appended(peer, exchange("b"))
    (tmp_path / LOG).unlink()
    for writer, text in ((sink, "c"), (peer, "d"), (sink, "e")):
        writer._look_at = 0.0  # type: ignore[union-attr]
        appended(writer, exchange(text))
    peer.close()
    sink.close()

    assert "".join(texts(tmp_path / LOG).values()) == "abcde"
    assert [line.get("after") for line in lines(tmp_path / LOG) if line.get("type") == "open"].count("replaced") == 1
    assert check(tmp_path / LOG).exit_code == 0


def test_a_deleted_log_that_does_not_fit_on_the_disk_waits_for_space(tmp_path: Path) -> None:
    """Blocked, and back without a restart."""
    files = FlakyFiles(code=errno.ENOSPC)
    sink = start(tmp_path, files=files)
    appended(sink, exchange("before"))
    (tmp_path / LOG).unlink()
    sink._look_at = 0.0  # type: ignore[union-attr]
    write = files.write
    files.write = _full  # type: ignore[method-assign]

    for attempt in (lambda: sink.append([exchange("lost")]), sink.recover):
        with pytest.raises(LedgerUnavailable, match="deleted and cannot be put back"):
            attempt()
    files.write = write  # type: ignore[method-assign]
    sink.recover()
    appended(sink, exchange("after"))
    sink.close()

    assert list(texts(tmp_path / LOG).values()) == ["before", "after"]
    assert verdict(tmp_path / LOG) == "INTACT"


def _full(fd: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_foreign_file_is_not_replaced(tmp_path: Path) -> None:
    """Only the operator knows what it is."""
    sink = start(tmp_path)
    (tmp_path / LOG).unlink()
    (tmp_path / LOG).write_text("something else\n")
    sink._look_at = 0.0  # type: ignore[union-attr]

    with pytest.raises(LedgerUnavailable, match="another file stands"):
        sink.append([exchange()])
    crash(sink)

    assert (tmp_path / LOG).read_text() == "something else\n"


# -- a second name -----------------------------------------------------------------------------------------------------


def test_only_a_rescue_may_leave_a_second_name(tmp_path: Path) -> None:
    """Under any other one somebody could change the log."""
    durable(tmp_path).close()
    os.link(tmp_path / LOG, tmp_path / "elsewhere")
    with pytest.raises(LedgerRefused, match="2 names"):
        durable(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / f"{LOG}.failed-20260610T214605Z")
    shutil.copy(tmp_path / LOG, tmp_path / f"{LOG}.failed-20260610T214605Z.1")

    durable(tmp_path).close()

    assert [Path(name).name for name in failed_names(str(tmp_path / LOG))] == [f"{LOG}.failed-20260610T214605Z.1"]
    assert verdict(tmp_path / LOG) == "INTACT"
