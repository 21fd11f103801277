"""Several real processes, one ledger; some of them are killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ledgers import appended, check, exchange, lines, start, types, verdict

HERE = Path(__file__).parent
STORAGES = [pytest.param("jsonl", id="jsonl"), pytest.param("sqlite", id="sqlite")]

WRITER = """
import sys
sys.path[:0] = [{here!r}, {tests!r}]
from pathlib import Path
from ledgers import exchange, request, start

name, count, end = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sink = start(Path({folder!r}), {storage!r})
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    text = f"{{name}}-{{number}}"
    [opened] = sink.append([request()], wait=False) or sink.append([request()])
    if end == "killed" and number == count - 1:
        print("open", opened, flush=True)
        sys.stdin.readline()
    seqs = sink.append([exchange(text, of=opened)], wait=False) or sink.append([exchange(text, of=opened)])
    print(text, seqs[0], flush=True)
    if number % 20 == 7:
        sink.checkpoint()
sink.close()
print("closed", flush=True)
"""


class Writer:
    """A child process that appends `count` pairs; with `end` killed it stops inside the last one."""

    def __init__(self, folder: Path, storage: str, name: str, count: int, end: str = "closed") -> None:
        code = WRITER.format(here=str(HERE), tests=str(HERE.parent), folder=str(folder), storage=storage)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, name, str(count), end],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.acknowledged: dict[str, int] = {}

    def expect(self, word: str) -> int:
        """Read acknowledgements up to a line that begins with `word`; return the number behind it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            head, _, number = line.strip().partition(" ")
            if head == word:
                return int(number or 0)
            self.acknowledged[head] = int(number)
        raise AssertionError(f"the writer ended before it said {word!r}")

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        self.process.communicate(timeout=60)
        return self.process.returncode

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("writers", [2, 4])
def test_processes_share_a_ledger(tmp_path: Path, storage: str, writers: int) -> None:
    """Every acknowledged line is where its writer was told; the chain is one; everybody closed, so it is clean."""
    start(tmp_path, storage).close()
    team = [Writer(tmp_path, storage, f"w{number}", 60) for number in range(writers)]
    for writer in team:
        writer.expect("ready")
    for writer in team:
        writer.go()
    for writer in team:
        writer.expect("closed")
        assert writer.end() == 0

    path = tmp_path / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    found = {line["params"]["text"]: line["seq"] for line in lines(path) if "type" not in line}
    assert found == {text: seq for writer in team for text, seq in writer.acknowledged.items()}
    assert len(found) == writers * 60
    assert Counter(types(path))["close"] == writers + 1
    assert "orphan" not in types(path)
    assert verdict(path) == "INTACT"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("storage", STORAGES)
def test_one_of_four_is_killed(tmp_path: Path, storage: str) -> None:
    """Its acknowledged lines stay, its open request gets an orphan from whoever closes last, its run is named."""
    last = start(tmp_path, storage)
    team = [Writer(tmp_path, storage, f"w{number}", 30) for number in range(3)]
    for writer in team:
        writer.expect("ready")
    victim = Writer(tmp_path, storage, "victim", 20, "killed")
    victim.expect("ready")
    path = tmp_path / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    for writer in [*team, victim]:
        writer.go()
    unanswered = victim.expect("open")
    victim.kill()
    for writer in team:
        writer.expect("closed")
        assert writer.end() == 0
    assert "orphan" not in types(path)
    last.close()

    found = {line["params"]["text"]: line["seq"] for line in lines(path) if "type" not in line}
    assert found == {text: seq for writer in [*team, victim] for text, seq in writer.acknowledged.items()}
    assert len(victim.acknowledged) == 19
    [orphan] = [line for line in lines(path) if line.get("type") == "orphan"]
    assert (orphan["of"], orphan["why"]) == (unanswered, "crash")
    unclosed = [seq for line in lines(path) for seq in line.get("unclosed", [])]
    assert len(unclosed) == 1
    assert verdict(path) == "INTACT"


@pytest.mark.parametrize("storage", STORAGES)
def test_a_killed_process_is_settled_by_the_next_start(tmp_path: Path, storage: str) -> None:
    """kill -9 loses nothing that was acknowledged; the kernel let go of its locks."""
    victim = Writer(tmp_path, storage, "victim", 5, "killed")
    victim.expect("ready")
    victim.go()
    unanswered = victim.expect("open")
    victim.kill()
    path = tmp_path / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    assert check(path).verdict.name == "UNCLEAN"

    sink = start(tmp_path, storage)
    appended(sink, exchange("next"))
    sink.close()

    assert [line["of"] for line in lines(path) if line.get("type") == "orphan"] == [unanswered]
    found = {line["params"]["text"]: line["seq"] for line in lines(path) if "type" not in line}
    assert victim.acknowledged.items() <= found.items()
    assert json.dumps(lines(path)).count('"after": "crash"') == 1
    assert verdict(path) == "INTACT"
