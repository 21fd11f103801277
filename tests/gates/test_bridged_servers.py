"""A real stdio client behind the bridge and a real HTTP server see what they see over a pipe, but for what HTTP is.

The same servers run once as a child on a pipe and once behind HTTP; the transcript of a whole session, in either era,
must be the same. What differs is named here, and that list may only shrink.
"""

from __future__ import annotations

import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers import GATES, SECRET, covering, node, package, run, server

pytestmark = [pytest.mark.gate, pytest.mark.timeout(300)]

TRANSCRIPT = str(GATES.parent / "clients" / "transcript.py")
PYTHON_SERVER = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {folder!r})
import everything_stdio
import uvicorn
app = everything_stdio.server.streamable_http_app()
config = uvicorn.Config(app, port={port}, log_level="info")
uvicorn.Server(config).run()
"""
READY = re.compile(rb"listening on port|Uvicorn running on")
# A line that holds one of these is left out on both sides: what a server says about its process, its module or its
# transport, and what HTTP has in place of a pipe.
DIFFERS = re.compile(
    r'"HOME\\"|\\"cwd\\"'  # the environment of another process
    r"|__main__:|everything_stdio:"  # the module in which the server was started
    r"|Subscribe Resource request|Unsubscribe Resource request"  # which names its session, over HTTP only
    r'|"code": -32800'  # the stream of a cancelled request ends with an answer, which a pipe does not need
    r'|"waiting to be cancelled"'  # how soon a cancellation is heard
)
LEGACY_DISCOVER = '{"jsonrpc": "2.0", "id": 1, "error"'  # HTTP: 400 without an id, which the bridge answers for
ODD_PARAMS = "odd params"  # a modern request without its Mcp-Name, since its uri is no text
"""What a modern server refuses over HTTP only."""


def free_port() -> int:
    """Return a port that nobody uses."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(name: str, cwd: Path) -> Iterator[str]:
    """Run a real server behind HTTP and yield its URL."""
    port = free_port()
    if name == "everything":
        argv = [node(), package("server-everything", "dist", "index.js"), "streamableHttp"]
    else:
        argv = [sys.executable, "-c", PYTHON_SERVER.format(folder=str(GATES.parent / "servers"), port=port)]
    environment = {"PORT": str(port), "PATH": str(Path(sys.executable).parent), "HOME": str(cwd)}
    with subprocess.Popen(argv, cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            _wait_for(process, READY)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def _wait_for(process: subprocess.Popen[bytes], sign: re.Pattern[bytes]) -> None:
    assert process.stderr is not None
    said = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stderr, selectors.EVENT_READ)
        deadline = time.monotonic() + 60
        while not sign.search(said):
            assert waiting.select(max(0.0, deadline - time.monotonic())), said
            piece = process.stderr.read1(65536)  # type: ignore[attr-defined]
            assert piece, said
            said += piece


def transcript(mode: str, root: Path, command: list[str], **environment: str) -> list[str]:
    """Drive one session and return what it shows, less what has to differ."""
    argv = [sys.executable, TRANSCRIPT, "--mode", mode, "--root", str(root), "--", *command]
    ran = run(argv, root, **environment)
    assert ran.code == 0, ran
    return [line for line in ran.stdout.decode().split("\n") if not DIFFERS.search(line)]


@pytest.mark.parametrize(("name", "mode"), covering(["everything", "python-sdk"], ["auto", "legacy"]))
def test_a_session_over_the_bridge_is_like_one_over_a_pipe(tmp_path: Path, name: str, mode: str) -> None:
    """Server requests, progress, resources, subscriptions and cancellation included; the ledger is intact."""
    root, ledger = tmp_path / "root", tmp_path / "ledger" / "audit.jsonl"
    root.mkdir()
    ledger.parent.mkdir()
    over_pipe = transcript(mode, root, server(name, root))
    with serving(name, tmp_path) as url:
        config = str(GATES / "neutral.yaml")
        bridge = [sys.executable, "-m", "mcp_audit", "--config", config, "--log", str(ledger)]
        over_http = transcript(mode, root, [*bridge, "--transport", "stdio", "--upstream", url], AUDIT_SECRET=SECRET)

    assert parts(over_http) == parts(over_pipe)
    verdict = run([sys.executable, "-m", "mcp_audit", "verify", str(ledger)], tmp_path, AUDIT_SECRET=SECRET)
    assert verdict.code == 0, verdict


def parts(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return what was said and done in order, and what the server said in any: over HTTP it has several streams."""
    split = lines.index("# server to client")
    return [as_expected(line) for line in lines[:split]], sorted(map(as_expected, lines[split:]))


def as_expected(line: str) -> str:
    """Return a line without what is known to differ in it."""
    if line.startswith(LEGACY_DISCOVER):
        return LEGACY_DISCOVER
    if line.startswith(ODD_PARAMS) or '"code": -32020' in line or '"message": "Invalid request parameters"' in line:
        return ODD_PARAMS
    return line
