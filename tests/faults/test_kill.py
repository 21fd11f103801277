"""`kill -9` at random moments under load: what was answered is in the ledger, and the next start only appends."""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
from pathlib import Path

import pytest
from proxy import ECHO, NEUTRAL, call, converse, entries, python, running, verified


def answered_until_killed(folder: Path, run: int, after: int, options: tuple[str, ...]) -> set[str]:
    """Keep calls in flight, kill the proxy after some answers, and return the ids that were answered."""
    ids: set[str] = set()
    with running(folder, python(ECHO), NEUTRAL, *options, stderr=subprocess.DEVNULL) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        sent, got = 0, b""
        os.set_blocking(proxy.stdin.fileno(), False)
        while got.count(b"\n") < after:
            ready, writable, _ = select.select([proxy.stdout], [proxy.stdin], [], 10)
            assert ready or writable
            if writable and sent < after + 40:
                proxy.stdin.write(call(f"{run}-{sent}"))
                proxy.stdin.flush()
                sent += 1
            if ready:
                got += os.read(proxy.stdout.fileno(), 65536)
        proxy.kill()
        proxy.wait(10)
        while chunk := os.read(proxy.stdout.fileno(), 65536):
            got += chunk
    ids.update(json.loads(line)["id"] for line in got.split(b"\n")[:-1])
    return ids


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_every_answered_call_has_its_entry(tmp_path: Path, kills: int) -> None:
    """After each kill the next start leaves the old bytes alone; in the end all verifies and each request is closed."""
    dice = random.Random(kills)
    answered: set[str] = set()
    log = tmp_path / "audit.jsonl"
    for run in range(kills):
        before = log.read_bytes() if run else b""
        answered |= answered_until_killed(tmp_path, run, dice.randrange(0, 60), ())
        assert log.read_bytes().startswith(before)
    assert converse(tmp_path, python(ECHO), b"").returncode == 0

    lines = entries(tmp_path)
    recorded = [line["request_id"] for line in lines if line.get("outcome") == "answered" and "type" not in line]
    assert answered <= set(recorded)
    assert len(recorded) == len(set(recorded))
    asked = [line["seq"] for line in lines if line.get("type") == "request"]
    closed = [line["of"] for line in lines if "of" in line and line.get("type") not in ("close", "open")]
    assert sorted(closed) == asked
    assert verified(tmp_path) == 0
