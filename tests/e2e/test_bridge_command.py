"""The bridge as a command: what it says, how it exits, what it refuses before anything is sent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from proxy import NEUTRAL, call, environment, verified


class Echo(BaseHTTPRequestHandler):
    """Answers every request with its params; `hang` never."""

    protocol_version = "HTTP/1.1"
    hung = threading.Event()

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if message["params"]["name"] == "hang":
            self.hung.set()
            self.rfile.read(1)
            return
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextmanager
def bridging(folder: Path, url: str, config: str = NEUTRAL) -> Iterator[subprocess.Popen[bytes]]:
    """Start the bridge with pipes; at the end kill whatever is left of it."""
    settings = folder / "config.yaml"
    settings.write_text(config)
    log = str(folder / "audit.jsonl")
    argv = [sys.executable, "-m", "mcp_audit", "--config", str(settings), "--log", log]
    argv += ["--transport", "stdio", "--upstream", url]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(), cwd=folder) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_says_that_it_is_not_transparent_and_ends_with_its_client(tmp_path: Path, url: str) -> None:
    """One sentence on stderr, protocol alone on stdout, and a ledger that is intact."""
    with bridging(tmp_path, url) as process:
        answers, said = process.communicate(call(1, "echo", a=1) + call(2, "echo"), timeout=30)

    assert sorted(json.loads(line)["id"] for line in answers.splitlines()) == [1, 2]
    assert said.decode().splitlines() == [
        "mcp-audit: bridging stdio to 127.0.0.1, which is not transparent: transports differ, and so may what both "
        "sides see"
    ]
    assert process.returncode == 0
    assert verified(tmp_path) == 0


def test_a_signal_ends_it_as_it_would_end_a_server(tmp_path: Path, url: str) -> None:
    """The wait status names the signal, within the time that clients grant."""
    Echo.hung.clear()
    with bridging(tmp_path, url) as process:
        assert process.stdin is not None
        process.stdin.write(call(1, "hang"))
        process.stdin.flush()
        assert Echo.hung.wait(30)
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=10) == -signal.SIGTERM
    assert verified(tmp_path) == 0


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        pytest.param("tls: {ca_file: /absent.pem}", "proxy.tls.ca_file: cannot read /absent.pem", id="ca"),
        pytest.param("bridge: {headers: {Mcp-Session-Id: sesame}}", "proxy.bridge.headers: must not set", id="ours"),
        pytest.param(r'bridge: {headers: {A: "sesame\nb"}}', "proxy.bridge.headers: A has a control", id="control"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, settings: str, problem: str) -> None:
    """Exit 2, nothing on stdout, no ledger, and no value that may be a secret."""
    with bridging(tmp_path, "https://127.0.0.1:9/mcp", f"{NEUTRAL}\nproxy: {{{settings}}}\n") as process:
        answers, said = process.communicate(call(1), timeout=30)

    assert process.returncode == 2
    assert answers == b""
    assert problem in said.decode()
    assert b"sesame" not in said
    assert not (tmp_path / "audit.jsonl").exists()
