"""The JSONL writer: appending, what a cut leaves, and what happens to the file while it runs."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import FlakyFiles, QuickFiles
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from ledgers import OTHER_SECRET, appended, check, crash, exchange, lines, request, start, types, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.sinks.files import Files
from mcp_audit.sinks.jsonl import JsonlSink

SMALL_DISK_BYTES = 64 * 1024


# -- appending ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_write(tmp_path: Path) -> None:
    """A reader never sees half of it, and one system call is what it costs."""
    files = FlakyFiles()
    sink = start(tmp_path, files=files)
    files.calls.clear()

    assert appended(sink, exchange("a"), exchange("b"), exchange("c")) == [1, 2, 3]

    assert files.calls == ["write audit.jsonl"]
    sink.close()


def test_an_empty_batch_writes_nothing(tmp_path: Path) -> None:
    """And is no error."""
    sink = start(tmp_path)
    before = Path(sink.path).read_bytes()

    assert sink.append([]) == []

    assert Path(sink.path).read_bytes() == before
    sink.close()


def test_who_does_not_wait_is_told_at_once(tmp_path: Path) -> None:
    """None while another process or another thread holds the lock, and nothing is written."""
    sink, peer = start(tmp_path), start(tmp_path)
    peer._locks.acquire(wait=True)
    assert sink.append([exchange()], wait=False) is None
    peer._locks.release()
    answers: list[list[int] | None] = []
    with sink._mutex:
        thread = threading.Thread(target=lambda: answers.append(sink.append([exchange()], wait=False)))
        thread.start()
        thread.join()

    assert answers == [None]
    assert sink.append([exchange()], wait=False) == [2]
    sink.close()
    peer.close()


def test_threads_share_a_sink(tmp_path: Path) -> None:
    """Every line gets its own place, whoever appends when."""
    sink = start(tmp_path)
    seqs: list[int] = []

    def work() -> None:
        for _ in range(100):
            seqs.extend(appended(sink, exchange(), exchange()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()

    assert sorted(seqs) == list(range(1, 801))
    assert verdict(sink.path) == "INTACT"


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """Each folds in what the other wrote, so seqs continue and both chains stay one."""
    first, second = start(tmp_path), start(tmp_path)

    seqs = [appended(sink, exchange())[0] for sink in (first, second, second, first, first, second)]

    assert seqs == list(range(2, 8))
    first.close()
    second.close()
    assert verdict(first.path) == "INTACT"


def test_nothing_is_appended_after_close(tmp_path: Path) -> None:
    """Closing twice is fine, appending afterwards is not."""
    sink = start(tmp_path)
    sink.close("eof")
    sink.close("eof")

    with pytest.raises(LedgerUnavailable, match="closed"):
        sink.append([exchange()])
    assert sink.checkpoint() is None
    assert [line["reason"] for line in lines(sink.path) if line.get("type") == "close"] == ["eof"]


def test_close_settles_what_the_recorder_left_open(tmp_path: Path) -> None:
    """Who is alone at the end says that nobody will answer."""
    sink = start(tmp_path)
    [seq] = appended(sink, request())

    sink.close()

    orphan, closing = lines(sink.path)[2:]
    assert (orphan["type"], orphan["why"], orphan["of"]) == ("orphan", "exit", seq)
    assert (closing["type"], closing["of"]) == ("close", 0)
    assert "unclosed" not in closing


def test_the_last_to_close_settles_the_dead(tmp_path: Path) -> None:
    """A peer that was killed meanwhile is named, its request gets an orphan."""
    first = start(tmp_path)
    peer = start(tmp_path)
    [seq] = appended(peer, request())
    crash(peer)

    first.close()

    orphan, closing = lines(first.path)[-2:]
    assert (orphan["why"], orphan["of"]) == ("crash", seq)
    assert closing["unclosed"] == [1]
    assert verdict(first.path) == "INTACT"


def test_who_is_not_alone_settles_nobody(tmp_path: Path) -> None:
    """A live peer answers its own requests."""
    first, peer = start(tmp_path), start(tmp_path)
    [seq] = appended(peer, request())

    first.close()

    assert "orphan" not in types(first.path)
    appended(peer, exchange(of=seq))
    peer.close()
    assert verdict(first.path) == "INTACT"


# -- cuts --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A crashed run: three lines under the checkpoint, three after it."""
    folder = tmp_path_factory.mktemp("crashed")
    sink = start(folder)
    appended(sink, request(), exchange("covered"))
    sink.checkpoint()
    appended(sink, request(), exchange("loose", of=3), exchange("last"))
    crash(sink)
    return folder


def copy_of(crashed: Path, target: Path, data: bytes) -> Path:
    shutil.copytree(crashed, target, dirs_exist_ok=True)
    (target / "audit.jsonl").write_bytes(data)
    return target / "audit.jsonl"


def recovers(folder: Path, old: bytes) -> bytes:
    """Start, close, and return what was added to the old bytes."""
    start(folder, files=QuickFiles()).close()
    new = (folder / "audit.jsonl").read_bytes()
    assert new.startswith(old), "old bytes are a prefix: recovery appends"
    return new[len(old) :]


def ends(data: bytes) -> list[int]:
    """The offset right behind each line, LF not counted."""
    return [offset for offset, byte in enumerate(data) if byte == 10]


@pytest.mark.long  # the fault suite cuts a smaller log everywhere
@pytest.mark.timeout(600)
def test_cut_at_every_byte(crashed: Path, tmp_path: Path) -> None:
    """Before the checkpoint's end: refused as tampered. After it: recovered by appending only, and it verifies."""
    whole = (crashed / "audit.jsonl").read_bytes()
    signed = ends(whole)[2]
    refused_here = tmp_path / "refused"
    log = copy_of(crashed, refused_here, b"")
    for cut in range(signed):
        log.write_bytes(whole[:cut])
        with pytest.raises(LedgerRefused) as refused:
            start(refused_here, files=QuickFiles())
        assert refused.value.exit_code == 1, cut
        assert log.read_bytes() == whole[:cut]
    for cut in range(signed, len(whole)):
        folder = tmp_path / str(cut)
        log = copy_of(crashed, folder, whole[:cut])
        added = recovers(folder, whole[:cut])
        report = check(log)
        assert report.verdict.name == "INTACT", (cut, report.reason)
        torn = cut not in ends(whole) and cut - 1 not in ends(whole)
        assert (b'"type":"recovery"' in added) == torn, cut
        shutil.rmtree(folder)


def test_a_line_that_lacks_only_its_lf_counts(crashed: Path, tmp_path: Path) -> None:
    """Trap 1: the missing LF is written first, else the next line would be glued to a good record."""
    whole = (crashed / "audit.jsonl").read_bytes()

    added = recovers(tmp_path, copy_of(crashed, tmp_path, whole[:-1]).read_bytes())

    assert added.startswith(b'\n{"type":"open"')
    assert [line["params"]["text"] for line in lines(tmp_path / "audit.jsonl") if line.get("params")][-1] == "last"


def test_a_recovery_covers_nothing_signed(crashed: Path, tmp_path: Path) -> None:
    """Trap 2: one flipped byte under the checkpoint, and the writer refuses to vouch for the loss of the rest."""
    data = (crashed / "audit.jsonl").read_bytes().replace(b"covered", b"Covered")
    log = copy_of(crashed, tmp_path, data)

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path)

    assert refused.value.exit_code == 1
    assert log.read_bytes() == data


def test_an_edit_after_the_checkpoint_is_loud(crashed: Path, tmp_path: Path) -> None:
    """Recovered, but `salvageable` says that whole lines lay behind the damage."""
    data = (crashed / "audit.jsonl").read_bytes().replace(b"loose", b"LOOSE")
    copy_of(crashed, tmp_path, data)

    recovers(tmp_path, data)

    recovery = next(line for line in lines(tmp_path / "audit.jsonl") if line.get("type") == "recovery")
    first_bad = data.index(b"\n", data.index(b'"seq":3')) + 1
    assert recovery["salvageable"] == 1
    assert recovery["torn_bytes"] == len(data) - first_bad
    assert recovery["torn_sha256"] == hashlib.sha256(data[first_bad:]).hexdigest()
    assert recovery["checkpoint"] == 3
    assert any("1 whole lines were among them" in notice for notice in check(tmp_path / "audit.jsonl").notices)


def test_cut_inside_a_recovery(crashed: Path, tmp_path: Path) -> None:
    """A crash during recovery is recovered from like any other."""
    old = (crashed / "audit.jsonl").read_bytes() + b'{"torn'
    folder = tmp_path / "whole"
    copy_of(crashed, folder, old)
    added = recovers(folder, old)
    end = added.index(b"\n", 1)
    for cut in range(0, end + 2, 7):
        target = tmp_path / str(cut)
        copy_of(crashed, target, old + added[:cut])
        recovers(target, old + added[:cut])
        assert verdict(target / "audit.jsonl") == "INTACT", cut


@pytest.mark.parametrize(
    "tail",
    [
        pytest.param(b"\0" * 5000, id="zeros"),
        pytest.param(bytes(range(256)) * 3, id="noise"),
        pytest.param(b"\n\n\n", id="bare-line-feeds"),
        pytest.param(b"{}\n", id="other-json"),
        pytest.param(b'{"type":"recovery","torn_bytes":0}\n', id="forged-recovery"),
        pytest.param(b'{"type":"open"\n{"type":"close"', id="half-lines"),
    ],
)
def test_any_tail_is_recovered_from(crashed: Path, tmp_path: Path, tail: bytes) -> None:
    """What a file system leaves behind a crash is often not a piece of a line."""
    old = (crashed / "audit.jsonl").read_bytes() + tail
    copy_of(crashed, tmp_path, old)

    recovers(tmp_path, old)

    assert verdict(tmp_path / "audit.jsonl") == "INTACT"


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10_000), tail=st.binary(max_size=60))
def test_no_tail_loses_a_signed_line(
    crashed: Path, tmp_path_factory: pytest.TempPathFactory, cut: int, tail: bytes
) -> None:
    """A start either goes on by appending and the log verifies, or refuses because signed lines are hurt."""
    whole = (crashed / "audit.jsonl").read_bytes()
    cut %= len(whole) + 1
    folder = tmp_path_factory.mktemp("tail")
    old = whole[:cut] + tail
    log = copy_of(crashed, folder, old)
    if whole[: ends(whole)[2]] == old[: ends(whole)[2]] and old[ends(whole)[2] : ends(whole)[2] + 1] in (b"", b"\n"):
        recovers(folder, old)
        assert verdict(log) == "INTACT"
    else:
        with pytest.raises(LedgerRefused) as refused:
            start(folder)
        assert refused.value.exit_code == 1
        assert log.read_bytes() == old


# -- while running -----------------------------------------------------------------------------------------------------


def copytruncate(log: Path) -> None:
    shutil.copy(log, log.with_name("audit.jsonl.1"))
    os.truncate(log, 0)


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        pytest.param(copytruncate, "cut to 0 bytes", id="copytruncate"),
        pytest.param(lambda log: os.truncate(log, 100), "cut to 100 bytes", id="cut"),
    ],
)
def test_harm_to_the_file_blocks(tmp_path: Path, harm: Callable[[Path], None], cause: str) -> None:
    """Nothing is acknowledged any more, and the cause says what happened."""
    sink = start(tmp_path)
    appended(sink, exchange())
    harm(Path(sink.path))
    sink._look_at = 0.0  # type: ignore[union-attr]  # as a millisecond later

    with pytest.raises(LedgerUnavailable, match=cause) as unavailable:
        sink.append([exchange()])
    assert unavailable.value.appended == ()
    assert sink.blocked
    with pytest.raises(LedgerUnavailable, match=cause):
        sink.recover()
    with pytest.raises(LedgerUnavailable, match=cause):
        sink.append([exchange()], wait=False)
    with pytest.raises(LedgerUnavailable):
        sink.close()


def test_a_log_that_comes_back_is_gone_on_with(tmp_path: Path) -> None:
    """Cut, and put back as it was: nothing is lost."""
    sink = start(tmp_path)
    data = Path(sink.path).read_bytes()
    os.truncate(sink.path, 100)
    with pytest.raises(LedgerUnavailable):
        sink.append([exchange()])

    with open(sink.path, "ab") as log:
        log.write(data[100:])
    sink.recover()

    assert appended(sink, exchange()) == [1]
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_a_line_that_a_stranger_appends_blocks_or_is_recovered(tmp_path: Path) -> None:
    """`echo >> audit.jsonl` is torn bytes to the next writer, never part of the chain."""
    sink = start(tmp_path)
    with open(sink.path, "ab") as log:
        log.write(b"hello\n")

    assert appended(sink, exchange()) == [2]

    assert types(sink.path) == ["open", "recovery", "exchange"]
    assert sink.due
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_the_torn_line_of_a_dead_peer_is_mended_by_the_next_append(tmp_path: Path) -> None:
    """Under the lock nobody else writes, so an incomplete last line is a dead writer's."""
    sink, peer = start(tmp_path), start(tmp_path)
    appended(peer, exchange("whole"))
    crash(peer)
    with open(sink.path, "ab") as log:
        log.write(b'{"id":"01')

    assert appended(sink, exchange("next")) == [4]

    sink.close()
    assert types(sink.path) == ["open", "open", "exchange", "recovery", "exchange", "close"]
    assert verdict(sink.path) == "INTACT"


def test_a_peer_with_another_secret_stops_us(tmp_path: Path) -> None:
    """It was let in by a program that does not ask; mixing the keys would make both unverifiable."""
    sink = start(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    crash_copy = start(tmp_path / "copy", secret=OTHER_SECRET)
    crash(crash_copy)
    Path(sink.path).write_bytes((tmp_path / "copy" / "audit.jsonl").read_bytes())

    with pytest.raises(LedgerUnavailable, match="another AUDIT_SECRET"):
        sink.append([exchange()])


def test_lines_that_contradict_each_other_block(tmp_path: Path) -> None:
    """Good lines behind bad bytes that nobody vouches for: somebody edits the log while we write it."""
    sink, peer = start(tmp_path), start(tmp_path)
    appended(peer, exchange("first"), exchange("second"))
    crash(peer)
    data = Path(sink.path).read_bytes()
    with open(sink.path, "r+b") as log:
        log.write(
            data.replace(b'{"type":"open"', b'{"type":"OPEN"', 2).replace(b'{"type":"OPEN"', b'{"type":"open"', 1)
        )
        log.seek(0, os.SEEK_END)
        log.write(_next_line(sink, data))

    with pytest.raises(LedgerUnavailable, match=r"changed by somebody else.*mcp-audit verify"):
        sink.append([exchange()])


def _next_line(sink: Any, data: bytes) -> bytes:
    """What a peer would append that did not notice the edit."""
    mark = sink._chain.mark()
    line: bytes = sink._chain.seal(exchange("blind"))
    sink._chain.rewind(mark)
    return line


@pytest.mark.parametrize("name", ["lock", "live"])
def test_removed_lock_files_do_not_part_the_writers(tmp_path: Path, name: str) -> None:
    """A cleaner of /tmp took the lock: the newcomer's lines are folded in and both use the new file."""
    sink = start(tmp_path)
    (tmp_path / f"audit.jsonl.{name}").unlink()
    peer = start(tmp_path)
    appended(peer, exchange())
    appended(sink, exchange())

    if name == "lock":
        assert sink._locks.acquire(wait=False)
        assert not peer._locks.acquire(wait=False)
        sink._locks.release()

    for _ in range(3):
        appended(peer, exchange())
        appended(sink, exchange())
    peer.close()
    sink.close()
    assert check(sink.path).checks["chain"]


# -- no space ----------------------------------------------------------------------------------------------------------


class ShortWrites(Files):
    """A disk with room for `room` more bytes of the log."""

    def __init__(self) -> None:
        self.room: int | None = None

    def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
        if self.room is None:
            return os.write(fd, data)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, bytes(data)[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("whole", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "extra", [pytest.param(0, id="after-lf"), pytest.param(-1, id="before-lf"), pytest.param(9, id="in-line")]
)
def test_whole_lines_before_the_cut_are_in_the_ledger(tmp_path: Path, whole: int, extra: int) -> None:
    """They are reported as appended, the tree goes on behind them, and recovery needs no restart."""
    files = ShortWrites()
    sink = start(tmp_path, files=files)
    batch = [exchange(text) for text in ("one", "two", "three")]
    probe = [len(part) for part in _sealed_lengths(sink, batch)]
    room = sum(probe[:whole]) + extra
    if not 0 <= room < sum(probe):
        room = sum(probe) - 2
        whole, extra = 2, 9
    files.room = room

    with pytest.raises(LedgerUnavailable, match="No space left") as unavailable:
        sink.append(batch)

    assert unavailable.value.appended == tuple(range(1, 1 + whole))
    assert sink.size == 1 + whole
    with pytest.raises(LedgerUnavailable, match="No space left"):
        sink.append([exchange()])
    if extra:
        with pytest.raises(LedgerUnavailable):
            sink.recover()
    files.room = None
    sink.recover()
    appended(sink, exchange("after"))
    sink.close()
    texts = [line["params"]["text"] for line in lines(sink.path) if "params" in line]
    assert texts == [*["one", "two", "three"][:whole], "after"]
    assert ("recovery" in types(sink.path)) == (extra == 9)
    assert verdict(sink.path) == "INTACT"


def _sealed_lengths(sink: Any, batch: list[Any]) -> list[bytes]:
    mark = sink._chain.mark()
    sealed = [sink._chain.seal(unsealed) for unsealed in batch]
    sink._chain.rewind(mark)
    return sealed


def test_a_peer_may_mend_what_our_full_disk_tore(tmp_path: Path) -> None:
    """Then our own recovery has nothing left to do."""
    files = ShortWrites()
    sink, peer = start(tmp_path, files=files), start(tmp_path)
    files.room = 50
    with pytest.raises(LedgerUnavailable):
        sink.append([exchange()])
    appended(peer, exchange())

    files.room = None
    sink.recover()
    appended(sink, exchange())

    sink.close()
    peer.close()
    assert types(sink.path).count("recovery") == 1
    assert verdict(sink.path) == "INTACT"


SPACE = """
import resource, sys
sys.path[:0] = {path!r}
from pathlib import Path
from ledgers import exchange, start
from mcp_audit.errors import LedgerUnavailable

folder = Path({folder!r})
sink = start(folder)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, hard))
acknowledged = []
try:
    while True:
        acknowledged += sink.append([exchange(str(len(acknowledged))), exchange("x" * 700)])
except LedgerUnavailable as error:
    acknowledged += error.appended
    assert sink.blocked
try:
    sink.recover()
    raise SystemExit("recovered without space")
except LedgerUnavailable:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
sink.recover()
acknowledged += sink.append([exchange("after")])
sink.close()
print(acknowledged[-1], len(acknowledged))
"""


@pytest.mark.parametrize("limit", [20_000, 20_001, 20_777])
def test_a_file_size_limit_blocks_and_recovers(tmp_path: Path, limit: int) -> None:
    """The kernel itself writes short and then says EFBIG; space returns without a restart."""
    code = SPACE.format(
        path=[str(Path(__file__).parent), str(Path(__file__).parent.parent)], folder=str(tmp_path), limit=limit
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    last, count = map(int, done.stdout.split())
    assert (last, types(tmp_path / "audit.jsonl").count("exchange")) == (last, count)
    assert types(tmp_path / "audit.jsonl").count("recovery") == 1
    assert verdict(tmp_path / "audit.jsonl") == "INTACT"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a tmpfs needs root")
def test_a_full_disk_blocks_and_recovers(tmp_path: Path) -> None:
    """A tmpfs of 64 KiB fills up; once there is room again, LF, recovery, and on it goes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {mounted.stderr.decode().strip()}")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 16 * 1024)
        sink = start(disk / "ledger")
        count = 0
        failed: LedgerUnavailable | None = None
        while failed is None:
            try:
                count += len(appended(sink, exchange("x" * 900), exchange("y" * 900)))
            except LedgerUnavailable as error:
                failed = error
        assert "No space left" in failed.cause
        count += len(failed.appended)
        with pytest.raises(LedgerUnavailable):
            sink.recover()
        ballast.unlink()
        sink.recover()
        count += len(appended(sink, exchange("after")))
        sink.close()
        assert types(sink.path).count("exchange") == count
        assert verdict(sink.path) == "INTACT"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_start_on_a_full_disk_is_refused(tmp_path: Path) -> None:
    """In a sentence with the cause; the next start goes on where it stopped."""
    files = ShortWrites()
    files.room = 300

    with pytest.raises(LedgerRefused, match="No space left") as refused:
        start(tmp_path, files=files)

    assert refused.value.exit_code == 2
    start(tmp_path).close()
    assert verdict(tmp_path / "audit.jsonl") == "INTACT"


def test_an_interrupted_append_leaves_chain_and_file_in_step(tmp_path: Path) -> None:
    """Ctrl-C between write and bookkeeping: the bytes are read back, the next append continues them."""

    class Interrupted(Files):
        armed = False

        def write(self, fd: int, data: Any) -> int:  # type: ignore[override]
            written = os.write(fd, data)
            if self.armed:
                self.armed = False
                raise KeyboardInterrupt
            return written

    files = Interrupted()
    sink = start(tmp_path, files=files)
    assert isinstance(sink, JsonlSink)
    files.armed = True

    with pytest.raises(KeyboardInterrupt):
        sink.append([exchange()])

    assert appended(sink, exchange()) == [2]
    sink.close()
    assert verdict(sink.path) == "INTACT"
