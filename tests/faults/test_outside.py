"""What other programs do to a log that is being written: logrotate, rm, truncate, mv, and a clock that jumps."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from host import libfaketime
from launch import Proxy, Zygote, launch
from rows import Seen, lines_of, recorded, row

CONFIG = "audit: {block_timeout_ms: 100, checkpoint_interval_ms: 20}\n"


def load(proxy: Proxy, name: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Some calls, answered or refused; `meanwhile` happens while most of them are in flight."""
    proxy.pour([f"{name}-{n}" for n in range(40)], answers=8)
    meanwhile()
    proxy.pour([], answers=40)
    proxy.settle()


@row(
    "the log is deleted while it is written (`rm`)",
    by="unlink with calls in flight",
    proxy="copies all of it from the open descriptor back to its path, `open` after replaced, and goes on",
    verify="INTACT",
)
def test_a_deleted_log_is_put_back(tmp_path: Path, seen: Seen, zygote: Zygote) -> None:
    """Not one line is missing, whatever the directory said for a moment."""
    log = tmp_path / "audit.jsonl"
    with zygote.start(tmp_path, CONFIG) as proxy:
        load(proxy, "while", log.unlink)
        proxy.works_again("after")
        assert proxy.end() == 0

    seen.check(log)
    seen.keeps(proxy.answered, recorded(log))
    assert "replaced" in [line.get("after") for line in lines_of(log)]


@row(
    "the log is renamed by a tool (logrotate without copytruncate)",
    by="rename to `audit.jsonl.1` with calls in flight, twice",
    proxy="ends the renamed file and begins a new one whose `segment` line names it",
    verify="INTACT",
)
def test_a_renamed_log_is_followed_by_a_new_one(tmp_path: Path, seen: Seen, zygote: Zygote) -> None:
    """All files together verify, and so does each on its own."""
    log = tmp_path / "audit.jsonl"
    with zygote.start(tmp_path, CONFIG) as proxy:
        for turn in (1, 2):
            target = tmp_path / f"audit.jsonl.{turn}"
            load(proxy, f"{turn}", lambda target=target: log.rename(target))  # type: ignore[misc]
            proxy.works_again(f"{turn}-after")
        assert proxy.end() == 0

    report = seen.check(log)
    assert [file.name for file in report.files] == ["audit.jsonl.1", "audit.jsonl.2", "audit.jsonl"]
    seen.keeps(proxy.answered, recorded(log))


def copytruncate(log: Path) -> None:
    shutil.copy(log, log.with_name("copy"))
    os.truncate(log, 0)


def cut_in_half(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def foreign(log: Path) -> None:
    log.rename(log.with_name("elsewhere"))
    log.write_text("another program's file\n")
    log.chmod(0o600)


def other_ledger(log: Path) -> None:
    log.rename(log.with_name("elsewhere"))
    shutil.copy(log.with_name("other") / "audit.jsonl", log)


@row(
    "the log is truncated, or another file stands at its path",
    by="copytruncate, a cut in the middle, a foreign file, another ledger; under a running proxy",
    proxy="blocks and refuses every call; the next start refuses as well: only the operator decides",
    verify="TAMPERED",
)
@pytest.mark.parametrize("harm", [copytruncate, cut_in_half, foreign, other_ledger])
def test_what_only_the_operator_can_settle_blocks(
    tmp_path: Path, seen: Seen, zygote: Zygote, harm: Callable[[Path], None]
) -> None:
    """Nothing is written over the evidence, and everything answered before it is still in what was set aside."""
    log = tmp_path / "audit.jsonl"
    (tmp_path / "other").mkdir()
    with zygote.start(tmp_path / "other") as other:
        assert other.works("other")
        assert other.end() == 0
    with zygote.start(tmp_path, CONFIG) as proxy:
        load(proxy, "before")
        time.sleep(0.1)  # until a checkpoint covers it
        before = log.read_bytes()
        harm(log)
        left = log.read_bytes()
        load(proxy, "after")
        proxy.end()

    assert log.read_bytes() == left
    assert not [id_ for id_ in proxy.answered if id_.startswith("after")]
    seen.check(log)
    with zygote.start(tmp_path) as later:
        assert later.end() in (1, 3)
    assert log.read_bytes() == left
    saved = [tmp_path / name for name in ("copy", "elsewhere") if (tmp_path / name).exists()]
    if saved:
        assert saved[0].read_bytes() == before


JUMPS = [pytest.param("+400d", id="ahead"), pytest.param("-400d", id="back")]


@row(
    "the clock jumps by 400 days, ahead and back",
    by="libfaketime on a real process (wall clock only), changed between calls; rotation and retention on",
    proxy="goes on: `seq` is the order, durations stay small, no archive goes because of it",
    verify="INTACT",
)
@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps(tmp_path: Path, seen: Seen, jump: str) -> None:
    """The wall clock is only what the timestamps say."""
    log, clock = tmp_path / "audit.jsonl", tmp_path / "clock"
    clock.write_text("+0")
    env = {
        "LD_PRELOAD": libfaketime(),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    config = "audit: {checkpoint_interval_ms: 20, rotation: {max_size_bytes: 20000, max_age_days: 30}}\n"
    with launch(tmp_path, config, env=env) as proxy:
        load(proxy, "before")
        clock.write_text(jump)
        load(proxy, "after")
        clock.write_text("+0")
        load(proxy, "again")
        assert proxy.end() == 0
    with launch(tmp_path, config, env=env) as later:  # a start looks after old archives
        load(later, "later")
        assert later.end() == 0

    assert len(proxy.answered) == 120
    seen.check(log)
    found = lines_of(log)
    assert [line["seq"] for line in found] == list(range(len(found)))
    assert len({line["id"] for line in found}) == len(found)
    first = [line for line in found if not line.get("request_id", "").startswith("later")]
    ids = [line["id"] for line in first if line.get("type") == "request"]
    assert ids == sorted(ids)
    assert all(0 <= line["duration_ms"] < 60_000 for line in found if "duration_ms" in line)
    years = {line["timestamp"][:4] for line in found}
    assert len(years) > 1, "the fault took place"
    assert not [line for line in found if line.get("type") == "prune"]
    assert len(list(tmp_path.glob("audit.jsonl.2*Z*"))) > 1
    seen.keeps(proxy.answered, recorded(log))
