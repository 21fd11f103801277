"""Deadlines of calls (`proxy.call_timeout_ms`) that pass while the ledger, not the server, is what takes so long."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from proxy import ECHO, NEUTRAL, call, entries, python, running, verified

fcntl = pytest.importorskip("fcntl", reason="platform: no flock")

IMPATIENT = NEUTRAL + "proxy: {call_timeout_ms: 200}\n"


def test_a_call_that_waited_too_long_for_the_ledger_is_not_executed_later(tmp_path: Path) -> None:
    """Its client was told so and may have repeated it: the server never sees it."""
    with running(tmp_path, python(ECHO), IMPATIENT) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        proxy.stdin.write(call("before"))
        proxy.stdin.flush()
        assert json.loads(proxy.stdout.readline())["result"]["n"] == 0
        with Path(tmp_path, "audit.jsonl.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            proxy.stdin.write(call("late"))
            proxy.stdin.flush()
            time.sleep(1)  # until the deadline has passed; nothing can tell of that before the ledger has it
        refused = json.loads(proxy.stdout.readline())
        proxy.stdin.write(call("after"))
        proxy.stdin.flush()
        answer = json.loads(proxy.stdout.readline())
        proxy.stdin.close()
        assert proxy.wait(30) == 0

    assert (refused["id"], refused["error"]["code"]) == ("late", -32031)
    assert refused["error"]["data"]["executed"] is False
    assert (answer["id"], answer["result"]["n"]) == ("after", 1)
    [line] = [line for line in entries(tmp_path) if line.get("outcome") == "timeout"]
    assert (line["request_id"], line["id"], line["error"]) == (
        "late",
        refused["error"]["data"]["entry_id"],
        refused["error"],
    )
    assert verified(tmp_path) == 0
