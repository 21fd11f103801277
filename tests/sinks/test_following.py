"""Writers that find another file at the path: a peer rotated, or a tool renamed or cut the log."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledgers import appended, crash, exchange, lines, request, types, verdict
from test_rotation import SMALL, assert_verifies, every_line, every_text, fill, parts, start

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.sinks.settings import RotationSettings

HERE = Path(__file__).parent
NEVER = RotationSettings()


def later(sink: Any) -> None:
    """As a millisecond later: the file no longer counts as still being at its path."""
    sink._look_at = 0.0


# -- peers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotations", [1, 2, 5])
@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_a_peer_follows_any_number_of_rotations(tmp_path: Path, rotations: int, compress: str) -> None:
    """It reads what it missed, archive by archive, also compressed ones, and goes on in the newest file."""
    idle = start(tmp_path, NEVER)
    [open_request] = appended(idle, request())
    busy = start(tmp_path, RotationSettings(max_size_bytes=2000, compress=compress))
    for number in range(rotations):
        fill(busy, str(number))
    busy.checkpoint()
    busy._house.join()

    appended(idle, exchange("back", of=open_request))

    idle.close()
    busy.close()
    assert len(parts(tmp_path)) == rotations + 1
    assert_verifies(tmp_path)


def test_who_must_not_wait_follows_in_a_thread(tmp_path: Path) -> None:
    """Reading archives would stall the event loop: nothing is written, and the next call that may wait goes on."""
    idle, busy = start(tmp_path, NEVER), start(tmp_path)
    fill(busy)

    assert idle.append([exchange()], wait=False) is None
    [seq] = appended(idle, exchange())
    assert idle.append([exchange()], wait=False) == [seq + 1]

    idle.close()
    busy.close()
    assert_verifies(tmp_path)


def test_not_one_line_goes_into_an_archive(tmp_path: Path) -> None:
    """Not even in the moment in which a writer does not look at the path again."""
    idle, busy = start(tmp_path, NEVER), start(tmp_path)
    appended(idle, exchange("just looked"))
    idle._look_at = float("inf")
    fill(busy)
    archive = parts(tmp_path)[0].read_bytes()

    appended(idle, exchange("next"))

    assert parts(tmp_path)[0].read_bytes() == archive
    idle.close()
    busy.close()
    assert_verifies(tmp_path)


def test_a_peer_follows_although_archives_were_pruned(tmp_path: Path) -> None:
    """What it missed is gone for good; the checkpoint vouches for the file that it goes on with."""
    idle, busy = start(tmp_path, NEVER), start(tmp_path, RotationSettings(max_size_bytes=2000, max_files=1))
    for number in range(5):
        fill(busy, str(number))
        busy.checkpoint()
    assert len(parts(tmp_path)) == 2

    appended(idle, exchange("back"))

    idle.close()
    busy.close()
    assert verdict(idle.path) == "INTACT"


def test_a_file_that_fits_nothing_is_not_followed(tmp_path: Path) -> None:
    """The log of somebody else, or a rewritten one, blocks; the old one put back, work goes on."""
    sink = start(tmp_path)
    appended(sink, exchange())
    other = start(tmp_path / "other")
    other.close()
    log = Path(sink.path)
    log.rename(tmp_path / "kept")
    shutil.copy(other.path, log)
    later(sink)

    with pytest.raises(LedgerUnavailable, match="another file stands"):
        sink.append([exchange()])
    with pytest.raises(LedgerUnavailable, match="another file stands"):
        sink.recover()

    os.replace(tmp_path / "kept", log)
    sink.recover()
    appended(sink, exchange())
    sink.close()
    assert verdict(log) == "INTACT"


def test_an_older_copy_of_the_log_is_not_followed(tmp_path: Path) -> None:
    """It lacks lines that were acknowledged."""
    sink = start(tmp_path)
    log = Path(sink.path)
    shutil.copy(log, tmp_path / "old")
    appended(sink, exchange())
    os.replace(tmp_path / "old", log)
    later(sink)

    with pytest.raises(LedgerUnavailable, match="lacks lines that were written"):
        sink.append([exchange()])


WRITER = """
import sys
sys.path[:0] = [{here!r}, {tests!r}]
from pathlib import Path
from fakes import QuickFiles
from ledgers import exchange
from test_rotation import start
from mcp_audit.sinks.settings import RotationSettings

name, size = sys.argv[1], int(sys.argv[2])
sink = start(Path({folder!r}), RotationSettings(max_size_bytes=size, compress=sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    text = f"{{name}}-{{number}}"
    seqs = sink.append([exchange(text)], wait=False) or sink.append([exchange(text)])
    print(text, seqs[0], flush=True)
    if number % 20 == 7:
        sink.checkpoint()
sink.close()
print("closed", flush=True)
"""


class Writer:
    """A process that appends 60 lines and rotates at its own size."""

    def __init__(self, folder: Path, name: str, size: int, compress: str = "none") -> None:
        code = WRITER.format(here=str(HERE), tests=str(HERE.parent), folder=str(folder))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, name, str(size), compress],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.acknowledged: dict[str, int] = {}
        self.read("ready")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def read(self, last: str) -> None:
        """Read acknowledgements up to `last`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text, _, seq = line.strip().partition(" ")
            if seq:
                self.acknowledged[text] = int(seq)
            if text == last:
                return
        raise AssertionError(f"the writer ended before it said {last!r}")

    def end(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.process.stdout is not None
        for line in self.process.stdout.read().splitlines():
            text, _, seq = line.partition(" ")
            if seq:
                self.acknowledged[text] = int(seq)
        self.end()


@pytest.mark.timeout(300)
def test_four_processes_rotate_one_log(tmp_path: Path) -> None:
    """Each by its own size, one not at all, one is killed: every acknowledged line is there, and the chain is one."""
    team = [
        Writer(tmp_path, "a", 3000, "gzip"),
        Writer(tmp_path, "b", 9000),
        Writer(tmp_path, "c", 0),
        Writer(tmp_path, "victim", 2500, "gzip"),
    ]
    for writer in team:
        writer.go()
    team[3].read("victim-20")
    team[3].kill()
    for writer in team[:3]:
        writer.read("closed")
        writer.end()

    assert len(parts(tmp_path)) > 5
    start(tmp_path).close()
    found = {text: seq for seq, text in every_text(tmp_path).items()}
    acknowledged = {text: seq for writer in team for text, seq in writer.acknowledged.items()}
    assert acknowledged.items() <= found.items()
    assert len(acknowledged) >= 3 * 60 + 21
    assert_verifies(tmp_path)


@pytest.mark.timeout(120)
def test_threads_with_sinks_of_their_own_rotate_one_log(tmp_path: Path) -> None:
    """Locks keep apart what belongs to one process, too; checkpoints meanwhile disturb nobody."""
    sinks = [start(tmp_path, RotationSettings(max_size_bytes=size)) for size in (2000, 4000, 7000)]
    found: dict[int, str] = {}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for count in range(25):
                text = f"{number}-{count}"
                for seq in appended(sinks[number], exchange(text)):
                    found[seq] = text
                if count % 5 == number:
                    sinks[number].checkpoint()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sink in sinks:
        sink.close()

    assert not failures
    assert every_text(tmp_path) == found
    assert_verifies(tmp_path)


# -- tools -------------------------------------------------------------------------------------------------------------


def rename(log: Path) -> None:
    log.rename(log.with_name("audit.jsonl.1"))


def rename_and_create(log: Path) -> None:
    rename(log)
    log.touch()


def compress(away: Path) -> None:
    with open(away, "rb") as plain, gzip.open(f"{away}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    away.unlink()


def rename_and_compress(log: Path) -> None:
    rename(log)
    compress(log.with_name("audit.jsonl.1"))


def create_and_compress(log: Path) -> None:
    rename_and_create(log)
    compress(log.with_name("audit.jsonl.1"))


TOOLS = [
    pytest.param(rename, id="nocreate"),
    pytest.param(rename_and_create, id="create"),
    pytest.param(rename_and_compress, id="compress"),
    pytest.param(create_and_compress, id="create-compress"),
]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_may_rename_the_log(tmp_path: Path, tool: Callable[[Path], None]) -> None:
    """As logrotate does: the next line begins a new file, which names the renamed one; a peer follows."""
    sink, peer = start(tmp_path, NEVER), start(tmp_path, NEVER)
    appended(sink, exchange("before"))
    tool(Path(sink.path))
    later(sink)

    appended(sink, exchange("after"))
    appended(peer, exchange("peer"))

    assert [part.stem if part.suffix == ".gz" else part.name for part in parts(tmp_path)] == [
        "audit.jsonl.1",
        "audit.jsonl",
    ]
    assert lines(sink.path)[0]["previous"]["name"] == "audit.jsonl.1"
    assert (tmp_path / "audit.jsonl.1.checkpoint").exists()
    assert not list(tmp_path.glob("*.failed-*"))
    sink.close()
    peer.close()
    assert_verifies(tmp_path)


def test_a_log_that_was_moved_far_away_is_named_as_it_was(tmp_path: Path) -> None:
    """Nobody can know where it is; put back beside the log it is found by its content."""
    sink = start(tmp_path, NEVER)
    (tmp_path / "far").mkdir()
    Path(sink.path).rename(tmp_path / "far" / "away")
    later(sink)

    appended(sink, exchange())

    assert lines(sink.path)[0]["previous"]["name"] == "audit.jsonl"
    sink.close()
    assert verdict(sink.path) == "TAMPERED"
    (tmp_path / "far" / "away").rename(tmp_path / "audit.jsonl.old")
    assert_verifies(tmp_path)


def test_who_must_not_wait_does_not_begin_a_file(tmp_path: Path) -> None:
    """That takes syncs; the next call that may wait does it."""
    sink = start(tmp_path, NEVER)
    rename(Path(sink.path))
    later(sink)

    assert sink.append([exchange()], wait=False) is None
    assert appended(sink, exchange()) == [2]
    sink.close()
    assert_verifies(tmp_path)


def test_a_torn_line_in_a_renamed_log_is_mended_there(tmp_path: Path) -> None:
    """What a dead peer left is vouched for in the file it is in, before the next begins."""
    sink = start(tmp_path, NEVER)
    with open(sink.path, "ab") as log:
        log.write(b'{"id":"01')
    rename(Path(sink.path))
    later(sink)

    appended(sink, exchange())

    assert types(tmp_path / "audit.jsonl.1") == ["open", "recovery"]
    sink.close()
    assert_verifies(tmp_path)


@pytest.mark.parametrize("crashed", [False, True])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_may_rename_the_log_while_nobody_writes(
    tmp_path: Path, tool: Callable[[Path], None], crashed: bool
) -> None:
    """The next start finds the lines where they are and goes on with a new file."""
    sink = start(tmp_path, NEVER)
    [open_request] = appended(sink, request())
    crash(sink) if crashed else sink.close()
    tool(Path(sink.path))

    sink = start(tmp_path, NEVER)
    appended(sink, exchange())
    sink.close()

    assert len(parts(tmp_path)) == 2
    assert open_request in [line["of"] for line in every_line(tmp_path) if line.get("type") == "orphan"]
    assert_verifies(tmp_path)


@pytest.mark.parametrize("cut", [pytest.param(1, id="line-feed"), pytest.param(9, id="line")])
def test_a_torn_line_in_a_compressed_log_is_left_to_the_operator(tmp_path: Path, cut: int) -> None:
    """Nothing can be appended there to vouch for it; the message says how to unpack it, and that helps."""
    sink = start(tmp_path, NEVER)
    sink.checkpoint()
    appended(sink, exchange())
    crash(sink)
    os.truncate(sink.path, os.stat(sink.path).st_size - cut)
    rename_and_compress(Path(sink.path))
    with pytest.raises(LedgerRefused, match="gunzip"):
        start(tmp_path, NEVER)

    Path(sink.path).write_bytes(gzip.decompress((tmp_path / "audit.jsonl.1.gz").read_bytes()))
    Path(sink.path).chmod(0o600)
    (tmp_path / "audit.jsonl.1.gz").unlink()
    start(tmp_path, NEVER).close()
    assert_verifies(tmp_path)


def test_a_log_that_was_deleted_beside_an_older_compressed_copy(tmp_path: Path) -> None:
    """The copy lacks lines, so the log is put back from what the writer still has open."""
    sink = start(tmp_path, NEVER)
    Path(f"{sink.path}.1.gz").write_bytes(gzip.compress(Path(sink.path).read_bytes()))
    appended(sink, exchange("later"))
    Path(sink.path).unlink()
    later(sink)
    appended(sink, exchange("again"))
    sink.close()

    assert types(sink.path)[:4] == ["open", "exchange", "open", "exchange"]
    assert_verifies(tmp_path)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_start_beside_an_idle_writer_does_not_wait_for_it(tmp_path: Path, tool: Callable[[Path], None]) -> None:
    """The tool came at night, and the peer has not looked at the path since; later it follows."""
    idle = start(tmp_path, NEVER)
    appended(idle, exchange("evening"))
    tool(Path(idle.path))

    sink = start(tmp_path, NEVER)
    appended(sink, exchange("morning"))
    later(idle)
    appended(idle, exchange("awake"))
    sink.close()
    idle.close()

    assert sorted(every_text(tmp_path).values()) == ["awake", "evening", "morning"]
    assert_verifies(tmp_path)


def test_dates_in_names_are_found(tmp_path: Path) -> None:
    """logrotate's `dateext` puts a hyphen behind the log's name; losing such a log takes its archives along."""
    sink = start(tmp_path, NEVER)
    for day in (11, 12):
        Path(sink.path).rename(f"{sink.path}-202606{day}")
        later(sink)
        appended(sink, exchange(str(day)))
    sink.close()

    assert [part.name for part in parts(tmp_path)] == ["audit.jsonl-20260611", "audit.jsonl-20260612", "audit.jsonl"]
    assert_verifies(tmp_path)
    Path(f"{sink.path}.checkpoint").unlink()
    start(tmp_path, NEVER, accept_loss=True).close()
    assert [part.name for part in parts(tmp_path)] == ["audit.jsonl"]
    assert len(list(tmp_path.glob("audit.jsonl.lost-*/audit.jsonl-*"))) == 4  # two files, two notes


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda log: log.unlink(), id="deleted"),
        pytest.param(lambda log: (shutil.copy(log, f"{log}.1"), os.truncate(log, 0)), id="copytruncate"),
        pytest.param(lambda log: (log.rename(f"{log}.1"), os.truncate(f"{log}.1", 900)), id="renamed-and-cut"),
    ],
)
def test_a_start_refuses_what_only_the_operator_can_judge(tmp_path: Path, harm: Callable[[Path], Any]) -> None:
    """Lines may be lost; accepting that sets every file aside unchanged."""
    sink = start(tmp_path)
    fill(sink)
    appended(sink, exchange())
    sink.close()
    log = Path(sink.path)
    harm(log)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix not in (".lock", ".live")}

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path)
    assert refused.value.exit_code == 1
    start(tmp_path, accept_loss=True).close()

    [aside] = [path for path in tmp_path.iterdir() if ".lost-" in path.name]
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert len(parts(tmp_path)) == 1
    assert verdict(log) == "INTACT"


def test_a_rolled_back_checkpoint_is_refused(tmp_path: Path) -> None:
    """One that is older than the active file contradicts the order in which a rotation writes."""
    sink = start(tmp_path)
    note = Path(f"{sink.path}.checkpoint").read_text()
    fill(sink)
    sink.close()
    Path(f"{sink.path}.checkpoint").write_text(note)

    with pytest.raises(LedgerRefused, match="begins at seq 2, its checkpoint covers 1 lines") as refused:
        start(tmp_path)
    assert refused.value.exit_code == 1


@pytest.mark.timeout(120)
def test_a_log_is_renamed_again_and_again_under_load(tmp_path: Path) -> None:
    """Two writers, one of which rotates by itself, and a tool: no line is lost, none is refused."""
    sinks = [start(tmp_path, rotation) for rotation in (NEVER, SMALL)]
    found: dict[int, str] = {}
    failures: list[BaseException] = []
    done = threading.Event()

    def work(number: int) -> None:
        try:
            for count in range(150):
                text = f"{number}-{count}"
                for seq in appended(sinks[number], exchange(text)):
                    found[seq] = text
                if count % 10 == 0:
                    sinks[number].checkpoint()
        except BaseException as error:
            failures.append(error)

    def tool() -> None:
        number = 0
        while not done.wait(0.01):
            number += 1
            try:
                os.rename(tmp_path / "audit.jsonl", tmp_path / f"audit.jsonl.t{number}")
            except FileNotFoundError:
                continue

    threads = [threading.Thread(target=work, args=[number]) for number in range(2)]
    renamer = threading.Thread(target=tool)
    for thread in [*threads, renamer]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    renamer.join()
    for sink in sinks:
        sink.close()

    assert not failures
    assert every_text(tmp_path) == found
    assert_verifies(tmp_path)
