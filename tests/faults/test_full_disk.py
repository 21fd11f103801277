"""A disk that is full: calls are refused, answers under way are owned up to, and the ledger comes back by itself."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import QuickFiles
from host import tmpfs
from launch import Zygote
from ledgers import exchange, start
from rows import Seen, lines_of, recorded, row

from mcp_audit.errors import LedgerUnavailable

IMPATIENT = "audit: {block_timeout_ms: 100, checkpoint_interval_ms: 50}\n"


@contextmanager
def room(path: Path, extra: int) -> Iterator[None]:
    """Let files of this process grow to the size of `path` and `extra` bytes more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + extra, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def limit(pid: int, path: Path, extra: int | None) -> None:
    """Set or lift the limit of a running process."""
    assert sys.platform == "linux"
    size = resource.RLIM_INFINITY if extra is None else path.stat().st_size + extra
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@row(
    "a write stops at every byte of a batch (EFBIG in place of ENOSPC)",
    by="`RLIMIT_FSIZE`, SIGXFSZ ignored, lifted after each failure; sinks in process",
    proxy="counts the whole lines before the cut as written, blocks, mends the torn one, goes on without a restart",
    verify="INTACT",
)
@pytest.mark.parametrize("storage", ["jsonl", "sqlite"])
def test_a_file_that_may_not_grow_stops_a_batch_anywhere(tmp_path: Path, seen: Seen, storage: str) -> None:
    """Each line is in the log exactly if the sink said so, whichever byte was the last one."""
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    sink = start(tmp_path, storage, files=QuickFiles(), origin="o", software="t")
    log = Path(sink.path)
    growing = log if storage == "jsonl" else Path(f"{log}-wal")
    before = growing.stat().st_size
    kept = [f"probe-{n}" for n in range(3)]
    assert sink.append([exchange(text) for text in kept])
    length = growing.stat().st_size - before
    step = 1 if storage == "jsonl" else 97
    for extra in range(0, length, step):
        texts = [f"{extra}-{n}" for n in range(3)]
        with room(growing, extra), pytest.raises(LedgerUnavailable) as unavailable:
            sink.append([exchange(text) for text in texts])
        kept += texts[: len(unavailable.value.appended)]
        sink.recover()
        assert sink.append([exchange(f"{extra}-after")])
        kept.append(f"{extra}-after")
    sink.close()

    seen.check(log)
    found = [line["params"]["text"] for line in lines_of(log) if "params" in line]
    assert found == kept
    seen.keeps(kept, found)


@row(
    "the log of a running proxy may not grow",
    by="`prlimit` on the process at several sizes, lifted each time after a refusal",
    proxy="refuses calls (executed: false), withholds what it cannot record, recovers within a second",
    verify="INTACT",
)
def test_a_running_proxy_comes_back_each_time(tmp_path: Path, seen: Seen, zygote: Zygote) -> None:
    """No restart, and a `blocked` line for each time."""
    log = tmp_path / "audit.jsonl"
    with zygote.start(tmp_path, IMPATIENT) as proxy:
        assert proxy.works("first")
        for extra in (0, 1, 200, 500, 900):
            limit(proxy.pid, log, extra)
            numbers = iter(range(100))
            while proxy.works(f"{extra}-{next(numbers)}"):
                pass
            limit(proxy.pid, log, None)
            proxy.works_again(f"{extra}-later")
        assert proxy.end() == 0

    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))
    assert len([line for line in lines_of(log) if line.get("type") == "blocked"]) == 5
    assert {refusal["error"]["code"] for refusal in proxy.refused} == {-32031}


@pytest.fixture(params=["64k", "256k"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system, most of it taken by a file that can be removed."""
    with tmpfs(tmp_path / "small", request.param) as small:
        (small / "ballast").write_bytes(b"x" * (int(request.param[:-1]) * 1024 // 4))
        yield small


@row(
    "the disk is full (ENOSPC)",
    by="tmpfs of 64 and 256 KiB with a file on it that is removed later; calls until it is full",
    proxy="refuses with -32031, executed: false; goes on without a restart and tells the cost in `blocked`",
    verify="INTACT",
)
def test_a_full_disk_refuses_calls_and_recovers_without_a_restart(disk: Path, seen: Seen, zygote: Zygote) -> None:
    """Every call that was answered is recorded, every request is closed."""
    log = disk / "audit.jsonl"
    with zygote.start(disk, IMPATIENT) as proxy:
        for n in range(400):
            if not proxy.works(n, text="x" * 500) and len(proxy.refused) == 3:
                break
        assert proxy.answered
        assert [refusal["error"]["code"] for refusal in proxy.refused] == [-32031] * 3
        assert proxy.refused[-1]["error"]["data"]["executed"] is False
        (disk / "ballast").unlink()
        proxy.works_again("later")
        assert proxy.end() == 0

    found = lines_of(log)
    blocked = [line for line in found if line.get("type") == "blocked"]
    assert len(blocked) == 1
    assert blocked[0]["refused"] >= 2
    asked = [line["seq"] for line in found if line.get("type") == "request"]
    assert sorted(line["of"] for line in found if "of" in line and line.get("type") != "close") == asked
    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))


@row(
    "the disk fills while a call is under way",
    by="the called tool itself fills a tmpfs, then answers",
    proxy="withholds the answer, says executed: true, and appends the line, marked `withheld`, when space returns",
    verify="INTACT",
)
def test_an_answer_whose_entry_cannot_be_written_is_withheld_and_owned_up_to(
    disk: Path, seen: Seen, zygote: Zygote
) -> None:
    """The call was executed: its requester is told so, and the line follows."""
    fill = (
        "import sys, json, os\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    if m['params']['arguments'].get('text') == 'fill':\n"
        f"        fd = os.open({str(disk / 'ballast')!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "        try:\n"
        "            while True: os.write(fd, b'x' * 4096)\n"
        "        except OSError: os.close(fd)\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': {'big': 'z' * 5000}}), flush=True)\n"
    )
    log = disk / "audit.jsonl"
    with zygote.start(disk, IMPATIENT, server=[sys.executable, "-c", fill]) as proxy:
        assert proxy.works("1")
        withheld = proxy.ask("2", text="fill")
        assert withheld["error"]["data"]["executed"] is True
        (disk / "ballast").unlink()
        proxy.works_again("later")
        assert proxy.end() == 0

    line = next(line for line in lines_of(log) if "withheld" in line.get("marks", ()))
    assert (line["request_id"], line["id"]) == ("2", withheld["error"]["data"]["entry_id"])
    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))
