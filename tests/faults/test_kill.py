"""`kill -9` at random moments under load: what was answered is in the ledger, and the next start only appends."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from launch import Zygote, launch
from rows import Seen, lines_of, recorded, row


def every_request_is_closed_once(log: Path) -> None:
    lines = lines_of(log)
    asked = [line["seq"] for line in lines if line.get("type") == "request"]
    closed = [line["of"] for line in lines if "of" in line and line.get("type") not in ("close", "open")]
    assert sorted(closed) == asked


@row(
    "kill -9 under load, again and again",
    by="`SIGKILL` after a random number of answers, calls in flight, every other run with rotation at 100 kB; "
    "the next run goes on with the log",
    proxy="appends only: `open` after crash, `recovery` where a line was torn, an `orphan` for each open request",
    verify="INTACT UNCLEAN",
)
@pytest.mark.parametrize("kills", [100, pytest.param(1000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_every_answered_call_has_its_entry(tmp_path: Path, seen: Seen, zygote: Zygote, kills: int) -> None:
    """After each kill the old bytes are still there; in the end all verifies and each request is closed once."""
    dice = random.Random(kills)
    answered: list[str] = []
    log = tmp_path / "audit.jsonl"
    old = b""
    for run in range(kills):
        rotation = ", rotation: {max_size_bytes: 100000}" if run % 2 else ""
        with zygote.start(tmp_path, f"audit: {{checkpoint_interval_ms: 10{rotation}}}\n") as proxy:
            proxy.pour([f"{run}-{n}" for n in range(30)], answers=dice.randrange(0, 20))
            proxy.kill()
            answered += proxy.answered
        archives = [path for path in tmp_path.glob("audit.jsonl.2*") if path.suffix != ".checkpoint"]
        newest = sorted(archives, key=lambda path: path.stat().st_mtime_ns)[-1:]
        if log.exists():  # else it was killed between the two renames of a rotation
            newest.append(log)
        assert any(path.read_bytes().startswith(old) for path in newest), "old bytes stay"
        old = newest[-1].read_bytes()
        if run % 100 == 50:
            seen.check(log, expect="UNCLEAN")
    with launch(tmp_path) as proxy:
        assert proxy.end() == 0

    seen.check(log, expect="INTACT")
    seen.keeps(answered, recorded(log))
    assert len(recorded(log)) == len(set(recorded(log)))
    every_request_is_closed_once(log)


@row(
    "kill -9 of one of four proxies that share a log",
    by="four processes under load on one file, one killed, the others go on; JSONL, JSONL with rotation, SQLite",
    proxy="the survivors append on; the last to leave settles the dead one's requests",
    verify="INTACT UNCLEAN",
)
@pytest.mark.parametrize(
    ("storage", "rotation"), [("jsonl", 0), ("jsonl", 20_000), ("sqlite", 0)], ids=["jsonl", "rotating", "sqlite"]
)
def test_one_of_four_is_killed(tmp_path: Path, seen: Seen, zygote: Zygote, storage: str, rotation: int) -> None:
    """Every line of all four is there; whoever leaves last writes the orphans."""
    log = tmp_path / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    options = ("--storage", storage, "--log", str(log))
    config = f"audit: {{rotation: {{max_size_bytes: {rotation}}}, checkpoint_interval_ms: 50}}\n"
    names = ("one", "two", "three", "victim")
    with ExitStack() as stack:
        team = {name: stack.enter_context(zygote.start(tmp_path, config, *options)) for name in names}
        for name, proxy in team.items():
            assert proxy.works(f"{name}-first")
        for name, proxy in team.items():
            proxy.pour([f"{name}-{n}" for n in range(60)], answers=15)
        team["victim"].kill()
        seen.check(log, expect="INTACT UNCLEAN")
        for name in names[:3]:
            team[name].pour([f"{name}-later-{n}" for n in range(20)], answers=80)
        for name in names[:3]:
            assert team[name].end() == 0

    seen.check(log, expect="INTACT")
    seen.keeps([id_ for proxy in team.values() for id_ in proxy.answered], recorded(log))
    every_request_is_closed_once(log)
    last = [line for line in lines_of(log) if line.get("type") == "close"][-1]
    assert len(last["unclosed"]) == 1
    assert bool(list(tmp_path.glob("audit.jsonl.2*Z"))) is bool(rotation)
