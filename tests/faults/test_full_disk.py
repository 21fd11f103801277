"""A ledger that takes nothing: calls are refused, answers under way are owned up to, and it comes back by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from proxy import ECHO, NEUTRAL, call, entries, python, running, verified


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root on Linux")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine mounts no tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def ask(proxy: subprocess.Popen[bytes], id_: int, text: str) -> dict[str, object]:
    """Make one call and return its answer."""
    assert proxy.stdin is not None
    assert proxy.stdout is not None
    proxy.stdin.write(call(id_, text=text))
    proxy.stdin.flush()
    answer: dict[str, object] = json.loads(proxy.stdout.readline())
    return answer


def test_a_full_disk_refuses_calls_and_recovers_without_a_restart(small_disk: Path) -> None:
    """Refused with -32031 and executed: false; after space returns calls pass, and a `blocked` line tells the cost."""
    (small_disk / "ballast").write_bytes(b"x" * 100_000)
    with running(
        small_disk, python(ECHO), NEUTRAL + "audit: {block_timeout_ms: 100}\n", stderr=subprocess.PIPE
    ) as proxy:
        assert proxy.stdin is not None
        passed: list[int] = []
        refused: list[dict[str, object]] = []
        for n in range(200):
            answer = ask(proxy, n, "x" * 2000)
            if "result" in answer:
                passed.append(n)
            else:
                refused.append(answer)
                if len(refused) == 3:
                    break
        assert passed
        assert [answer["error"]["code"] for answer in refused] == [-32031] * 3  # type: ignore[index]
        assert refused[-1]["error"]["data"]["executed"] is False  # type: ignore[index]
        (small_disk / "ballast").unlink()
        later = next(n for n in range(1000, 100_000) if "result" in ask(proxy, n, "y"))
        proxy.stdin.close()
        assert proxy.wait(20) == 0

    lines = entries(small_disk)
    recorded = {line["request_id"] for line in lines if line.get("outcome") == "answered"}
    assert {str(n) for n in passed} | {str(later)} <= recorded
    blocked = [line for line in lines if line.get("type") == "blocked"]
    assert len(blocked) == 1
    assert blocked[0]["refused"] >= 2
    asked = [line["seq"] for line in lines if line.get("type") == "request"]
    assert sorted(line["of"] for line in lines if "of" in line and line.get("type") != "close") == asked
    assert verified(small_disk) == 0


def test_an_answer_whose_entry_cannot_be_written_is_withheld_and_owned_up_to(small_disk: Path) -> None:
    """The call was executed: its requester is told so, and the line follows, marked `withheld`."""
    fill = (
        "import sys, json, os\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    if m['params']['arguments']['text'] == 'fill':\n"
        f"        fd = os.open({str(small_disk / 'ballast')!r}, os.O_WRONLY | os.O_CREAT)\n"
        "        try:\n"
        "            while True: os.write(fd, b'x' * 4096)\n"
        "        except OSError: os.close(fd)\n"
        "    print(json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': {'big': 'z' * 9000}}), flush=True)\n"
    )
    with running(
        small_disk, python(fill), NEUTRAL + "audit: {block_timeout_ms: 100}\n", stderr=subprocess.PIPE
    ) as proxy:
        assert proxy.stdin is not None
        assert "result" in ask(proxy, 1, "ok")
        withheld = ask(proxy, 2, "fill")
        assert withheld["error"]["data"]["executed"] is True  # type: ignore[index]
        (small_disk / "ballast").unlink()
        assert next(n for n in range(1000, 100_000) if "result" in ask(proxy, n, "y"))
        proxy.stdin.close()
        assert proxy.wait(20) == 0

    line = next(line for line in entries(small_disk) if "withheld" in line.get("marks", ()))
    assert (line["request_id"], line["id"]) == ("2", withheld["error"]["data"]["entry_id"])  # type: ignore[index]
    assert verified(small_disk) == 0
