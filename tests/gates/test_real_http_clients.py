"""Real clients over HTTP do not notice the proxy: the SDKs of two languages, both transports, and the inspector.

Frames that travel on different connections have no order among each other, so what is compared is what each side was
told, not when; the order that a client's user sees is compared as it is.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from http_proxy import Proxy
from peers import GATES, PACKAGES, PROFILES, SECRET, Ran, covering, inspector, node, package, run
from suites import everything_server

pytestmark = [pytest.mark.gate, pytest.mark.timeout(300)]

TRANSCRIPT = str(GATES.parent / "clients" / "transcript.py")
TYPESCRIPT = str(GATES.parent / "clients" / "typescript.mjs")
SERVERS = ("server-everything", "python-sdk")
TRANSPORTS = ("http", "sse")
INSPECTIONS = {
    "tools": ("--method", "tools/list"),
    "resources": ("--method", "resources/list"),
    "templates": ("--method", "resources/templates/list"),
    "prompts": ("--method", "prompts/list"),
    "echo": ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hello"),
}
PYTHON_CALL = ("--method", "tools/call", "--tool-name", "test_simple_text")
PYTHON = [("server-everything", "http", "legacy"), ("server-everything", "http", "auto"),
          ("server-everything", "sse", "legacy"), ("python-sdk", "http", "legacy"), ("python-sdk", "http", "auto"),
          ("python-sdk", "sse", "legacy")]  # fmt: skip
LINES = [(server, transport, line) for server in SERVERS for transport in TRANSPORTS for line in ("v1", "v2", "v2-auto")
         if not (transport == "sse" and line == "v2-auto")]  # fmt: skip


@contextmanager
def serving(server: str, transport: str) -> Iterator[str]:
    """Start a real server and yield its URL."""
    if server == "python-sdk":
        with everything_server("sse" if transport == "sse" else "streamable-http") as url:
            yield url
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    mode = "sse" if transport == "sse" else "streamableHttp"
    command = [node(), package("server-everything", "dist", "index.js"), mode]
    environment = {"PORT": str(port), "PATH": "/usr/bin:/bin", "TZ": "UTC"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        stderr = process.stderr
        try:
            while line := stderr.readline():
                if b"on port" in line:
                    break
            assert line, "server-everything did not start"
            drained = threading.Thread(target=lambda: list(stderr))
            drained.start()
            yield f"http://localhost:{port}/{'sse' if transport == 'sse' else 'mcp'}"
        finally:
            process.kill()
        drained.join()


def assert_intact(ledger: Path) -> None:
    """`mcp-audit verify` exits 0."""
    verdict = run([sys.executable, "-m", "mcp_audit", "verify", str(ledger)], ledger.parent, AUDIT_SECRET=SECRET)
    assert verdict.code == 0, verdict


def calls(ledger: Path) -> list[str]:
    """Return the tools that were called, as the ledger tells it."""
    entries = [json.loads(line) for line in ledger.read_bytes().split(b"\n") if line]
    return sorted(e["tool_name"] for e in entries if e.get("method") == "tools/call" and "type" not in e)


def settled(told: bytes) -> list[str]:
    """Return the lines of a run without what differs between two direct ones, in an order of their own.

    What changed while a session opens is told only if the client's stream is open by then, which is a race of theirs.
    """
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "<uuid>", told.decode())
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "<time>", text)
    text = re.sub(r"\d{1,2}:\d\d:\d\d(\s[AP]M)?", "<time>", text)
    text = re.sub(r"localhost:\d+|127\.0\.0\.1:\d+", "<address>", text)
    text = re.sub(r'PORT\\": \\"\d+', "<port>", text)
    text = text.replace("{'arg2', 'arg1'}", "{'arg1', 'arg2'}")  # a set, printed
    return sorted(line for line in text.splitlines() if '/list_changed"}' not in line)


def steps(ran: Ran) -> list[str]:
    """Return what the client's user saw, in order, without the words of errors."""
    told = ran.stdout.decode().partition("# client to server")[0].splitlines()
    return [re.sub(r"(MCPError [-\d]+):.*", r"\1", line) for line in told]


@contextmanager
def through(profile: str | None, url: str) -> Iterator[tuple[str, Path | None]]:
    """Yield what a client uses in place of a URL; with a profile, the proxy is between, and is looked at in the end."""
    if profile is None:
        yield url, None
        return
    folder = Path(mkdtemp(prefix="gate-http-"))
    with Proxy(folder, url, profile) as proxy:
        yield proxy.url, proxy.ledger
    assert_intact(folder / "audit.jsonl")


def python_session(server: str, transport: str, mode: str, profile: str | None) -> tuple[Ran, list[str] | None]:
    """Drive one session of the Python SDK's client."""
    root = Path(mkdtemp(prefix="gate-python-"))
    with serving(server, transport) as url, through(profile, url) as (address, ledger):
        command = [sys.executable, TRANSCRIPT, "--mode", mode, "--root", str(root), "--transport", transport, address]
        ran = run(command, root)
    return ran, calls(ledger) if ledger else None


@cache
def python_direct(server: str, transport: str, mode: str) -> Ran:
    """The session without us."""
    return python_session(server, transport, mode, None)[0]


@pytest.mark.parametrize(("server", "transport", "mode", "profile"), covering(PYTHON, PROFILES))
def test_the_python_sdk(server: str, transport: str, mode: str, profile: str) -> None:
    """The same steps with the same outcomes, the same frames both ways; each call is in the ledger."""
    without = python_direct(server, transport, mode)
    assert without.code == 0, without.stderr.decode()
    with_us, recorded = python_session(server, transport, mode, profile)
    assert with_us.code == 0, with_us.stderr.decode()
    assert steps(with_us) == steps(without)
    assert settled(with_us.stdout) == settled(without.stdout)
    frames = [json.loads(line) for line in with_us.stdout.decode().split("\n") if line.startswith('{"jsonrpc"')]
    assert recorded == sorted(f["params"]["name"] for f in frames if f.get("method") == "tools/call")


def typescript_session(server: str, transport: str, line: str, profile: str | None) -> Ran:
    """Drive one session of a client of the TypeScript SDK."""
    with serving(server, transport) as url, through(profile, url) as (address, _):
        return run([node(), TYPESCRIPT, str(PACKAGES.parent), line, transport, address], GATES)


@cache
def typescript_direct(server: str, transport: str, line: str) -> Ran:
    """The session without us."""
    return typescript_session(server, transport, line, None)


@pytest.mark.parametrize(("server", "transport", "line", "profile"), covering(LINES, PROFILES))
@pytest.mark.slow
def test_the_typescript_sdk(server: str, transport: str, line: str, profile: str) -> None:
    """What the application saw, step by step, in both of its major versions."""
    without = typescript_direct(server, transport, line)
    assert without.code == 0, without
    assert without.stdout.endswith(b'["closed",true]\n')
    with_us = typescript_session(server, transport, line, profile)
    assert with_us.code == 0, with_us
    assert with_us.stderr == without.stderr
    assert settled(with_us.stdout) == settled(without.stdout)


@pytest.fixture(scope="module")
def url_of() -> Iterator[Callable[[str, str], str]]:
    """Starts a server for a transport; one serves all inspections."""
    with ExitStack() as servers:
        yield cache(lambda server, transport: servers.enter_context(serving(server, transport)))


@pytest.mark.parametrize(
    ("server", "transport", "what", "profile"), covering(SERVERS, TRANSPORTS, INSPECTIONS, PROFILES)
)
@pytest.mark.slow
def test_the_inspector(url_of: Callable[[str, str], str], server: str, transport: str, what: str, profile: str) -> None:
    """Stdout and exit code, for what every user tries first."""
    url = url_of(server, transport)
    folder = Path(mkdtemp(prefix="gate-inspector-"))
    inspection = PYTHON_CALL if (server, what) == ("python-sdk", "echo") else INSPECTIONS[what]
    arguments = ["--transport", transport, *inspection]
    without = run(inspector([url], *arguments), folder)
    assert (without.code, len(without.stdout) > 20) == (0, True), without
    with through(profile, url) as (address, _):
        with_us = run(inspector([address], *arguments), folder)
    assert settled(with_us.stdout) == settled(without.stdout)
    assert with_us.code == 0
