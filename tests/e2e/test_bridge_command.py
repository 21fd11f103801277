"""The bridge as a command: what it says, how it exits, what it refuses before anything is sent."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from certificates import Authority
from proxy import NEUTRAL, call, entries, environment, request, verified

INITIALIZE = request(
    1, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "test", "version": "1"}
)
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
MANY = 100


class Echo(BaseHTTPRequestHandler):
    """Answers every request with its params; the call of `stream` in an event, of `hang` never, of `crowd` with all."""

    protocol_version = "HTTP/1.1"
    hung = threading.Event()
    crowd = threading.Barrier(MANY)
    server: Server

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.note()
        if "id" not in message:
            self.answer(202)
            return
        params = message["params"]
        if message["method"] == "initialize":
            params |= {"serverInfo": {"name": "echo", "version": "1"}}
        elif params["name"] == "hang":
            self.hung.set()
            self.rfile.read(1)
            return
        elif params["name"] == "crowd":
            self.crowd.wait(30)
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": params}).encode()
        if params.get("name") == "stream":
            self.answer(200, b"data: " + body + b"\n\n", "text/event-stream")
        else:
            self.answer(200, body, "application/json")

    def do_GET(self) -> None:
        self.note()
        self.answer(405)

    def do_DELETE(self) -> None:
        self.note()
        self.answer(200)

    def note(self) -> None:
        """Remember a request and the credentials that came with it."""
        self.server.requests.append((self.command, self.headers["Authorization"]))

    def answer(self, status: int, body: bytes = b"", kind: str = "") -> None:
        """Send a whole answer; every one has the session id."""
        self.send_response(status)
        self.send_header("Mcp-Session-Id", "s")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """An HTTP server that remembers what reached it; `https` with a TLS context."""

    request_queue_size = MANY

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.requests: list[tuple[str, str | None]] = []
        if tls is not None:
            # The handshake takes place where a request is read, in a thread of its own.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' * (tls is not None)}://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that does not trust us."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server until the block ends."""
    with Server(tls) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def url() -> Iterator[str]:
    with serving() as server:
        yield server.url


@contextmanager
def bridging(
    folder: Path, url: str, config: str = NEUTRAL, before: Sequence[str] = (), **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the bridge with pipes; at the end kill whatever is left of it.

    Args:
        before: the beginning of the command line, which runs the rest.
        more: environment variables.
    """
    settings = folder / "config.yaml"
    settings.write_text(config)
    log = str(folder / "audit.jsonl")
    argv = [*before, sys.executable, "-m", "mcp_audit", "--config", str(settings), "--log", log]
    argv += ["--transport", "stdio", "--upstream", url]
    pipe, env = subprocess.PIPE, environment(**more)
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=folder) as process:
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
    ("name", "settings"),
    [
        pytest.param("127.0.0.1", "", id="address"),
        pytest.param("mcp.example", ", server_name: mcp.example", id="server-name"),
        pytest.param("127.0.0.1", ", client_cert_file: client.pem, client_key_file: client.key", id="mutual"),
    ],
)
def test_an_https_upstream_is_verified_and_trusted_with_the_credentials(
    tmp_path: Path, name: str, settings: str
) -> None:
    """All of a session passes, each request with the token of the environment, which nobody else ever sees."""
    authority = Authority(tmp_path)
    authority.issue("client")
    tls = authority.server(authority.issue(name), ask_for_client="client" in settings)
    headers = '{Authorization: "Bearer ${TOKEN}"}'
    config = f"{NEUTRAL}\nproxy: {{bridge: {{headers: {headers}}}, tls: {{ca_file: ca.pem{settings}}}}}\n"
    lines = INITIALIZE + INITIALIZED + call(2) + call(3, "stream")
    with serving(tls) as server, bridging(tmp_path, server.url, config, TOKEN="sesame") as process:
        answers, said = process.communicate(lines, timeout=30)

    assert process.returncode == 0, said
    assert {json.loads(line)["id"] for line in answers.splitlines() if b'"result"' in line} == {1, 2, 3}, answers
    assert sorted(method for method, _ in server.requests) == ["DELETE", "GET", "POST", "POST", "POST", "POST"]
    assert {token for _, token in server.requests} == {"Bearer sesame"}
    assert b"sesame" not in said
    assert b"sesame" not in (tmp_path / "audit.jsonl").read_bytes()
    assert verified(tmp_path) == 0


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        pytest.param("127.0.0.1", "", "unable to get local issuer certificate", id="authority"),
        pytest.param("mcp.example", "ca_file: ca.pem", "IP address mismatch", id="name"),
    ],
)
def test_an_https_upstream_that_proves_nothing_gets_nothing(
    tmp_path: Path, name: str, settings: str, reason: str
) -> None:
    """Neither the call nor the token; the client is told why, and the record says that the call was lost."""
    authority = Authority(tmp_path)
    config = f"{NEUTRAL}\nproxy: {{bridge: {{headers: {{Authorization: sesame}}}}, tls: {{{settings}}}}}\n"
    tls = authority.server(authority.issue(name))
    with serving(tls) as server, bridging(tmp_path, server.url, config) as process:
        answers, _ = process.communicate(call(1), timeout=30)

    told = json.loads(answers)["error"]["data"]
    assert told["kind"] == "upstream_unavailable"
    assert "TLS with 127.0.0.1:" in told["reason"]
    assert reason in told["reason"]
    assert server.requests == []
    assert [entry.get("outcome") for entry in entries(tmp_path) if entry.get("method")] == [None, "lost"]
    assert verified(tmp_path) == 0


def test_many_calls_at_once_need_not_share_the_descriptors_of_a_shell(tmp_path: Path, url: str) -> None:
    """Each has a connection of its own, and the soft limit of some systems is 256."""
    few = ("sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh")
    with bridging(tmp_path, url, before=few) as process:
        answers, said = process.communicate(b"".join(call(n, "crowd") for n in range(MANY)), timeout=60)

    assert process.returncode == 0, said
    assert sorted(json.loads(line)["id"] for line in answers.splitlines() if b'"result"' in line) == list(range(MANY))


def test_a_token_that_is_no_text_is_refused_at_the_start(tmp_path: Path) -> None:
    """A byte that is not UTF-8 comes from an environment variable or not at all."""
    config = NEUTRAL + '\nproxy: {bridge: {headers: {Authorization: "Bearer ${TOKEN}"}}}\n'
    with bridging(tmp_path, "http://127.0.0.1:9/mcp", config, TOKEN="sesame\udcff") as process:
        _, said = process.communicate(call(1), timeout=30)

    assert process.returncode == 2
    assert said == b"mcp-audit: proxy.bridge.headers: Authorization has a value that is not UTF-8; give it as text\n"


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
