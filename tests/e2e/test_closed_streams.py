"""Started without one of the standard streams, by a launcher with no console, say: nothing else takes its place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from proxy import ECHO, call, command, environment, python, verified

ANSWERS = b"".join(
    b'{"jsonrpc":"2.0","id":%d,"result":{"n":%d,"params":{"name":"echo","arguments":{}}}}\n' % (n + 1, n)
    for n in range(2)
)


@pytest.mark.parametrize(
    ("redirection", "answers"),
    [
        pytest.param("< sent <&-", b"", id="stdin"),
        pytest.param("< sent >&-", b"", id="stdout"),
        pytest.param("< sent 2>&-", ANSWERS, id="stderr"),
        pytest.param("<&- >&- 2>&-", b"", id="all"),
    ],
)
def test_a_closed_stream_is_an_empty_one(tmp_path: Path, redirection: str, answers: bytes) -> None:
    """What can be said is said, the run ends with its client or server, and the ledger holds nothing but its lines."""
    (tmp_path / "sent").write_bytes(call(1) + call(2))
    argv = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(tmp_path, python(ECHO))]
    run = subprocess.run(argv, capture_output=True, env=environment(), cwd=tmp_path, timeout=60, check=False)

    assert (run.returncode, run.stdout, run.stderr) == (0, answers, b"")
    assert verified(tmp_path) == 0
