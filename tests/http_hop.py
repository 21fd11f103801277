"""One hop under test: nothing at all (`direct`), or the real program between a raw client and a scripted upstream.

Promise: what a golden test expects of the proxy is what a direct connection shows, less the table of hop-by-hop and
credential headers, which is written down here a second time, independently of the product. A test that passes `direct`
asks nothing of a proxy that a cable would not do. When a hop ends, its ledger must verify, the program must exit 0 on
SIGTERM, and nothing may be left behind: no descriptor, no connection to the upstream. Long because the hop, what is
expected of it and the program that it may be are told in one place.
"""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from http_peers import DEADLINE, Address, Asked, Client, Head, Headers, Request, Response, Upstream

from mcp_audit.ledger import Record, Verdict, read, verify

__all__ = [
    "ENFORCING",
    "NEUTRAL",
    "PROFILES",
    "SECRET",
    "Exchanged",
    "Hop",
    "direct_hop",
    "proxy_config",
    "running_proxy",
]

SECRET = "0123456789abcdef0123456789abcdef"
PROFILES = ("direct", "neutral", "enforcing")
_QUIET = "dashboard: {enabled: false}\nmetrics: {enabled: false, port: 0}\n"
NEUTRAL = "middleware: {rate_limit: {enabled: false}}\n" + _QUIET
ENFORCING = (
    """
middleware: {rate_limit: {requests_per_minute: 1000000}}
policy:
  enabled: true
  rules: [{action: deny, tool_name: delete_file, reason: no deleting}]
"""
    + _QUIET
)
# What both profiles set, so that nothing but the gates differs.
_PROXY = {"forward_headers": "[Authorization]", "upstream_timeout_ms": "0", "drain_timeout_ms": "3000"}

STARTED, STOPPED, RECORDED = 20.0, 10.0, 3.0
LEFT = 1.0  # seconds after which nobody may wait for an upstream whose client is gone
_LISTENING = re.compile(rb"listening on http://([^\s/]+):(\d+)")

# RFC 9110, section 7.6.1, and the credentials that an audit must not pass on.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate te trailer transfer-encoding upgrade expect".split()
)
CREDENTIALS = frozenset((b"cookie", b"set-cookie", b"proxy-authorization"))
FORWARDED = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded"))
_NEVER_NAMED = re.compile(rb"origin|host|authorization|content-.*|mcp-.*")


def proxy_config(base: str = NEUTRAL, **proxy: str) -> str:
    """Return a configuration: a profile and settings of the `proxy` section, as YAML values."""
    settings = _PROXY | proxy
    return base + "proxy: {" + ", ".join(f"{name}: {value}" for name, value in settings.items()) + "}\n"


class Exchanged(NamedTuple):
    """A request and its answer, both as they arrived."""

    asked: Asked
    response: Response
    body: bytes


class Hop:
    """What a test talks to: clients connect to `address`, requests arrive at `upstream`."""

    def __init__(self, profile: str, upstream: Upstream, address: Address, process: Program | None = None) -> None:
        self.profile = profile
        self.upstream = upstream
        self.address = address
        self.process = process
        self.authorization = True  # forwarded
        self._clients: list[Client] = []
        self._since = process.last_seq if process else -1

    @property
    def is_direct(self) -> bool:
        return self.process is None

    @property
    def enforces(self) -> bool:
        return self.profile == "enforcing"

    @property
    def program(self) -> Program:
        """The proxy; asking for it direct is a mistake of the test."""
        assert self.process is not None
        return self.process

    def client(self) -> Client:
        """Open a connection, which is closed at the end of the test."""
        client = Client(self.address)
        self._clients.append(client)
        return client

    # -- golden ----------------------------------------------------------------------------------------------------

    def ask(self, request: Request, client: Client | None = None) -> tuple[Client, Asked]:
        """Send a request and check what arrives: start line, headers less the table, body."""
        client = client or self.client()
        sent = client.ask(request)
        asked = self.upstream.next()
        assert asked.head.start == sent.start
        assert asked.body == request.content
        assert_same_headers(asked.head.headers, self.for_upstream(sent, client, request))
        return client, asked

    def golden(
        self,
        request: Request,
        status: int = 200,
        headers: Sequence[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        client: Client | None = None,
    ) -> Exchanged:
        """Relay one request and one answer, and check that both arrive as they were sent."""
        client, asked = self.ask(request, client)
        asked.answer(status, headers, body)
        response = client.response()
        got = response.read()
        expected = Head.parse(b"-\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in headers) + b"\r\n").headers
        if not _framed(expected) and status not in (204, 304):
            expected.append((b"content-length", b"%d" % len(body)))
        self.check_head(response, status, expected)
        assert got == body
        return Exchanged(asked, response, got)

    def check_head(self, response: Response, status: int, sent: Headers) -> None:
        """Check status and headers of an answer against what the upstream sent."""
        assert response.status == status
        # Framing is each hop's own; but a length that was announced must be announced again.
        assert_same_headers(_less_hop(response.head.headers, set()), self.for_client(sent))

    def for_upstream(self, sent: Head, client: Client, request: Request) -> Headers:
        """Return the headers the upstream must get for those the client sent."""
        if self.is_direct:
            return sent.headers
        stripped = {*CREDENTIALS, *FORWARDED, b"host"}
        if not self.authorization:
            stripped.add(b"authorization")
        kept = _less_hop(sent.headers, stripped)
        if isinstance(request.body, tuple):
            kept.append((b"content-length", b"%d" % len(request.content)))
        host = sent.get(b"host") or b""
        return [
            *kept,
            (b"host", self.upstream.authority),
            (b"x-forwarded-for", client.address[0].encode()),
            (b"x-forwarded-proto", b"http"),
            (b"x-forwarded-host", host),
        ]

    def for_client(self, sent: Headers) -> Headers:
        """Return the headers the client must get for those the upstream sent."""
        return _less_hop(sent, set() if self.is_direct else {*CREDENTIALS})

    # -- the record ------------------------------------------------------------------------------------------------

    def lines(self) -> list[dict[str, Any]]:
        """Return the ledger's lines since this hop began; none direct."""
        if self.process is None:
            return []
        records = self.process.records(self._since)
        return [record.line for record in records]

    def record(self, **expected: Any) -> dict[str, Any]:
        """Wait for the line of an exchange that has these members and return it; nothing to wait for direct.

        A line with a `type` is found only by naming it. A callable judges the member; a dict expects its own items.
        """
        if self.process is None:
            return {}
        expected = {"type": None} | expected
        until = time.monotonic() + RECORDED
        while True:
            lines = self.lines()
            found = [line for line in lines if all(_fits(line.get(name), value) for name, value in expected.items())]
            if found:
                return found[-1]
            assert time.monotonic() < until, f"no line with {expected} in:\n" + _shown(lines)
            time.sleep(0.01)  # a file tells nobody that it grew

    def lost(self, count: int) -> None:
        """Wait until so many requests are on record as lost, by a line of their own or by an `orphan`."""
        until = time.monotonic() + RECORDED
        while len([line for line in self.lines() if line.get("outcome") == "lost"]) < count:
            assert time.monotonic() < until, _shown(self.lines())
            time.sleep(0.01)  # a file tells nobody that it grew

    def ends(self) -> dict[str, list[str]]:
        """Return how each request ended, by its id: normally once, by a line of its own or by an `orphan`."""
        lines = self.lines()
        begun = {line["seq"]: line["request_id"] for line in lines if line.get("type") == "request"}
        ended: dict[str, list[str]] = {id_: [] for id_ in begun.values()}
        for line in lines:
            if line.get("type") in (None, "orphan") and line.get("of") in begun:
                ended[begun[line["of"]]].append(line["outcome"])
        return ended

    def exchanges(self) -> list[dict[str, Any]]:
        """Return the lines of finished exchanges since this hop began."""
        return [line for line in self.lines() if "type" not in line]

    def leave(self) -> None:
        """Close every connection of a client."""
        for client in self._clients:
            client.close()

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let every client go; then nobody may be left waiting for the upstream, and no descriptor may be left open."""
        self.leave()
        waiting = self.upstream.wait_until_left(LEFT)
        try:
            if not self.is_direct:
                assert not waiting, f"the client is gone, the upstream still serves {[a.head.start for a in waiting]}"
            assert self.upstream.is_idle(), f"nobody expected {self.upstream.next(0).raw[:300]!r}"
        finally:
            self.upstream.hang_up()
        if self.process is not None:
            self.process.check_descriptors()


def _less_hop(headers: Headers, also: set[bytes]) -> Headers:
    named = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
    gone = HOP_BY_HOP | also | {name for name in named if not _NEVER_NAMED.fullmatch(name)}
    return [(name, value) for name, value in headers if name not in gone]


def _framed(headers: Headers) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def assert_same_headers(got: Headers, expected: Headers) -> None:
    """Equal as multisets, and equal names in equal order."""
    assert Counter(got) == Counter(expected)
    for name in {name for name, _ in got}:
        assert [v for n, v in got if n == name] == [v for n, v in expected if n == name], name


def _shown(lines: list[dict[str, Any]]) -> str:
    """Return what a failure needs to tell of the newest lines."""
    hidden = ("timestamp", "signature", "log", "prev", "mac", "transport", "server_id")
    return "\n".join(str({n: v for n, v in line.items() if n not in hidden}) for line in lines[-12:])


def _fits(found: Any, expected: Any) -> bool:
    if callable(expected):
        return bool(expected(found))
    if isinstance(expected, dict) and isinstance(found, dict):
        return all(_fits(found.get(name), value) for name, value in expected.items())
    return bool(found == expected)


class Program:
    """The real program, serving; its ledger is `folder`/audit.jsonl."""

    def __init__(self, folder: Path, config: str, upstream: str, *options: str, **environment: str) -> None:
        self.folder = folder
        self.ledger = folder / "audit.jsonl"
        (folder / "config.yaml").write_text(config)
        command = [
            sys.executable, "-m", "mcp_audit", "--config", "config.yaml", "--log", str(self.ledger),
            "--transport", "http", "--upstream", upstream, "--port", "0", "--log-level", "info", *options,
        ]  # fmt: skip
        ours = {n: v for n, v in os.environ.items() if not n.startswith(("AUDIT_SECRET", "MCP_AUDIT"))}
        self.process = subprocess.Popen(
            command, cwd=folder, env=ours | {"AUDIT_SECRET": SECRET} | environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._said: list[bytes] = []
        self._addresses: queue.Queue[Address | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.kill()
            raise
        self._quiet = self.descriptors()

    @property
    def stderr(self) -> str:
        """What it said so far."""
        return b"".join(self._said).decode(errors="replace")

    @property
    def last_seq(self) -> int:
        """The seq of the newest line."""
        record = next(read(self.ledger, every_line=True, newest_first=True, limit=1), None)
        return -1 if record is None else record.seq

    def records(self, after: int) -> list[Record]:
        """Return the ledger's records after a seq. A torn last line is being written."""
        return list(read(self.ledger, every_line=True, after=after, on_notice=lambda _: None))

    def descriptors(self) -> Counter[str]:
        """Return what its open descriptors are, by kind."""
        return Counter(self._kinds())

    def _kinds(self) -> Iterator[str]:
        folder = f"/proc/{self.process.pid}/fd"
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                yield re.sub(r"\d+", "N", os.readlink(f"{folder}/{name}"))

    def check_descriptors(self) -> None:
        """Wait until no more are open than when it began to serve."""
        until = time.monotonic() + DEADLINE / 2
        while extra := self._sockets(self.descriptors() - self._quiet):
            assert time.monotonic() < until, f"left open: {dict(extra)}"
            time.sleep(0.01)  # nobody is told when another process closes a descriptor

    @staticmethod
    def _sockets(extra: Counter[str]) -> Counter[str]:
        # The ledger opens files of its own now and then; what a request may leak is a socket or a pipe.
        return Counter({kind: n for kind, n in extra.items() if kind.startswith(("socket", "pipe", "anon_inode"))})

    @property
    def memory(self) -> int:
        """Resident bytes now."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found
        return int(found[1]) * 1024

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, deadline: float = STOPPED) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(deadline)
        self._reader.join(DEADLINE)
        return code

    def stop(self) -> None:
        """End it as an operator would: exit 0, nothing on stdout, an intact ledger, no traceback."""
        try:
            self.signal(signal.SIGTERM)
            code = self.wait()
        finally:
            self.kill()
        assert code == 0, self.stderr
        self.check_left()

    def check_left(self) -> None:
        """Check what a stopped program leaves."""
        assert "Traceback" not in self.stderr, self.stderr
        report = verify(self.ledger, secrets=[SECRET.encode()], strict=True)
        assert report.verdict is Verdict.INTACT, report

    def kill(self) -> None:
        """End it whatever it does; harmless when repeated."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(DEADLINE)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line)
            if found := _LISTENING.search(line):
                self._addresses.put((found[1].decode().strip("[]"), int(found[2])))
        self._addresses.put(None)

    def _wait_for_address(self) -> Address:
        try:
            address = self._addresses.get(timeout=STARTED)
        except queue.Empty:
            raise AssertionError(f"it does not say where it listens: {self.stderr}") from None
        assert address is not None, f"it ended with {self.process.wait()}: {self.stderr}"
        return address


@contextmanager
def direct_hop(upstream: Upstream) -> Iterator[Hop]:
    """No proxy at all."""
    hop = Hop("direct", upstream, upstream.address)
    yield hop
    hop.close()


@contextmanager
def running_proxy(
    folder: Path, upstream: Upstream, config: str = "", *options: str, path: str = "", url: str = "", **environment: str
) -> Iterator[Hop]:
    """Run the real program in front of an upstream; the checks of the end are made only where the test went well.

    Args:
        config: of the program; `proxy_config()` by default.
        path: appended to the upstream's address.
        url: in place of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = config or proxy_config()
    program = Program(folder, config, url or upstream.url + path, *options, **environment)
    hop = Hop("enforcing" if "policy:" in config else "neutral", upstream, program.address, program)
    try:
        yield hop
        if program.process.poll() is None:
            hop.close()
            program.stop()
        else:
            program.check_left()
    except BaseException:
        print(program.stderr, file=sys.stderr)
        raise
    finally:
        hop.leave()
        program.kill()
