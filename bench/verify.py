"""How fast a log is verified, against the floor of hashing its bytes once.

The figures of one core are processor time, so that other work on the machine does not count; as it still slows Python
more than the floor, the best round stands beside the median. What several processes reach together is wall clock. Log
and floor are the same file, read from the page cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Any

from mcp_audit.ledger import Verdict, verify
from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.entry import Unsealed, encode_typed
from mcp_audit.ledger.keys import LogKey, derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.segment import Previous, segment_members

__all__ = ["run", "table"]

_MIB = 1 << 20
_ROUNDS = 10
_ORIGIN = "bench.example/verify"
_SECRET = b"a secret for benchmarks, 32 bytes"
_KEY = LogKey(_ORIGIN, bytes(32))
_STAMP = ("01KSFJ33CR0QK2M0T3J5V7X9ZB", "2026-05-25T12:34:55.000000Z")
_TEXT = b"lorem ipsum dolor sit amet, " * 26
_PAYLOAD = b'"content":[{"type":"text","text":"%s"}],"isError":false' % _TEXT
_COMMON = (
    b'"id":"01KSFJ34FV6W9K6ZD7VJ4Q8X4R","timestamp":"2026-05-25T12:34:56.123450Z","direction":"client_to_server",'
    b'"transport":"stdio","method":"tools/call","request_id":"17","tool_name":"edit_file",'
    b'"params":{"name":"edit_file","arguments":{"path":"/tmp/example.txt"%s}}'
)
_PEERS = b'"client_id":"claude-desktop","server_id":"filesystem"'
_ERA = b'"era":"legacy","protocol_version":"2025-11-25"'
_EXCHANGE = b"{%s,%s,%s,%s,%s" % (
    _COMMON % b"",
    b'"result":{%s},"duration_ms":18' % _PAYLOAD,
    _PEERS,
    b'"outcome":"answered"',
    _ERA,
)
_REQUEST = b'{"type":"request",%s,%s,%s' % (_COMMON % (b',"content":"%s"' % _TEXT), _PEERS, _ERA)

_MEMORY = """
import json, resource, sys
from mcp_audit.ledger import verify
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
verify(sys.argv[1], secrets=[sys.argv[2].encode()])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps([before * unit, after * unit]))
"""


def run(quick: bool) -> dict[str, Any]:
    """Return the figures: MiB/s, and how many times the floor each way of checking takes."""
    size = 16 * _MIB if quick else 1024 * _MIB
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as folder:
        log = Path(folder) / "audit.jsonl"
        lines = _write(log, size, files=1)
        figures: dict[str, Any] = {
            "bytes": log.stat().st_size,
            "bytes_per_line": log.stat().st_size / lines,
            "sha256sum_mib_per_s": _sha256sum(log),
            "memory": _memory(log),
        }
        log.unlink()
        _write(log, size // 4, files=1)
        ways: dict[str, dict[str, Any]] = {"default": {}, "mac": {"secrets": [_SECRET]}, "strict": {"strict": True}}
        figures |= _timed(log, ways)
        _write(log, size, files=4)
        figures["fast"] = _timed(log, {"fast": {"fast": True}})["fast"]
        figures["processes"] = _parallel(log)
    return figures


def table(figures: dict[str, Any]) -> str:
    """Return the figures in words."""
    floor = figures["floor"]["mib_per_s"]
    rows = [f"{'hashlib.sha256 (floor)':28}{floor:8.0f} MiB/s   best and median of {_ROUNDS} rounds"]
    if figures["sha256sum_mib_per_s"]:
        rows.append(f"{'sha256sum':28}{figures['sha256sum_mib_per_s']:8.0f} MiB/s")
    names = {
        "default": "verify, no MAC",
        "mac": "verify, every MAC",
        "strict": "verify --strict",
        "fast": "verify --fast",
    }
    for key, name in names.items():
        best, median = (f"{figures[key][which]:5.1f}" for which in ("times_floor", "median_times_floor"))
        rows.append(f"{name:28}{figures[key]['mib_per_s']:8.0f} MiB/s  {best} and {median} x floor")
    for jobs, speed in figures["processes"].items():
        rows.append(f"{f'4 files, {jobs} processes':28}{speed:8.0f} MiB/s (wall clock)")
    if figures["memory"]:
        rows.append(f"peak memory {figures['memory']['peak'] / _MIB:.0f} MiB, log {figures['bytes'] / _MIB:.0f} MiB")
    return "\n".join(rows)


def _write(log: Path, size: int, files: int) -> int:
    """Seal a log of about `size` bytes in so many files; return its number of lines."""
    secret = derive(_SECRET, _ORIGIN)
    chain = Chain(_ORIGIN, Mac(secret.mac))
    members: dict[str, Any] = {"v": 1, "software": "bench", "vkey": _KEY.vkey, "key_id": secret.key_id, "after": "new"}
    first = chain.seal(encode_typed("open", *_STAMP, members))
    note, start = "", 0
    for number in range(files):
        last = number == files - 1
        path = log if last else log.with_name(f"{log.name}.2026010{number + 1}T000000Z")
        length, digest = _fill(path, chain, first, size // files, close=last)
        note = signed_note(Checkpoint(_ORIGIN, chain.size, chain.tree.root()), _KEY)
        Path(f"{path}.checkpoint").write_text(note)
        if not last:
            previous = Previous(path.name, start, length, digest)
            start = chain.size
            first = chain.seal(encode_typed("segment", *_STAMP, segment_members(chain, _KEY.vkey, previous)))
    Path(f"{log}.pub").write_text(_KEY.vkey + "\n")
    return chain.size


def _fill(path: Path, chain: Chain, first: bytes, size: int, close: bool) -> tuple[int, str]:
    request, seal = Unsealed(_REQUEST), chain.seal
    digest = hashlib.sha256(first)
    length = len(first)
    with path.open("wb") as file:
        file.write(first)
        while length < size:
            lines = []
            for _ in range(256):
                lines.append(seal(request))
                lines.append(seal(Unsealed(_EXCHANGE, chain.size - 1)))
            if close and length + 600 * len(_EXCHANGE) > size:
                lines.append(seal(encode_typed("close", *_STAMP, {"reason": "eof"}, 0)))
                size = 0
            data = b"".join(lines)
            digest.update(data)
            length += file.write(data)
    return length, digest.hexdigest()


def _timed(log: Path, ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what hashing the files and each way of checking them takes: in turns, and the best of as many each."""

    def check(options: dict[str, Any]) -> None:
        report = verify(log, **options)
        if report.verdict is not Verdict.INTACT:
            raise RuntimeError(f"the log made for the benchmark is not intact: {report.reason}")

    paths = [path for path in log.parent.glob(f"{log.name}*") if not path.name.endswith((".checkpoint", ".pub"))]
    size = sum(path.stat().st_size for path in paths)
    seconds: dict[str, list[float]] = {"floor": [], **{name: [] for name in ways}}
    for _ in range(_ROUNDS):
        seconds["floor"].append(_cpu(lambda: [_hash(path) for path in paths]))
        for name, options in ways.items():
            seconds[name].append(_cpu(partial(check, options)))
    floor = seconds["floor"]
    return {
        name: {
            "mib_per_s": size / _MIB / min(taken),
            "times_floor": min(taken) / min(floor),
            "median_mib_per_s": size / _MIB / statistics.median(taken),
            "median_times_floor": statistics.median(map(truediv, taken, floor)),
        }
        for name, taken in seconds.items()
    }


def _parallel(log: Path) -> dict[str, float]:
    size = sum(path.stat().st_size for path in log.parent.glob(f"{log.name}*"))
    speeds = {}
    for jobs in (1, 2):
        began = time.perf_counter()
        verify(log, jobs=jobs)
        speeds[str(jobs)] = size / _MIB / (time.perf_counter() - began)
    return speeds


def _memory(log: Path) -> dict[str, int]:
    if sys.platform == "win32":
        return {}
    command = [sys.executable, "-c", _MEMORY, str(log), _SECRET.decode()]
    start, peak = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=os.getcwd()).stdout)
    return {"start": start, "peak": peak}


def _sha256sum(log: Path) -> float | None:
    program = shutil.which("sha256sum")
    if program is None:
        return None
    began = time.perf_counter()
    subprocess.run([program, str(log)], check=True, capture_output=True)
    return log.stat().st_size / _MIB / (time.perf_counter() - began)


def _hash(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
