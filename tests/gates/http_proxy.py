"""The program in HTTP mode, for the gates: started in front of a URL, and ended as an operator would end it.

Only the standard library is imported, since `wrap_client.py` starts one for every scenario.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["MODES", "SECRET", "Proxy"]

MODES = ("forward", "reverse", "reverse+rewrite")
SECRET = "of the gates, and long enough to be one: 0123456789abcdef"
GATES = Path(__file__).parent
START_SECONDS, END_SECONDS = 120, 30
_LISTENING = re.compile(rb"listening on http://[^\s/]+:(\d+)")


class Proxy:
    """A running proxy; a context manager.

    Attributes:
        url: what a client uses in place of the upstream's URL; the same in forward mode.
        address: where it listens, `http://localhost:PORT`.
        ledger: its ledger, intact once the proxy ended.
        log: its stderr so far.
    """

    def __init__(self, folder: Path, url: str, profile: str = "neutral", mode: str = "reverse") -> None:
        assert mode in MODES, mode
        parts = urlsplit(url)
        folder.mkdir(parents=True, exist_ok=True)
        self.ledger = folder / "audit.jsonl"
        self.log = b""
        self._mode = mode
        self._listening = threading.Event()
        self._process = self._start(f"{parts.scheme}://{parts.netloc}", profile, _free_port() if "+" in mode else 0)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.address = f"http://localhost:{self._wait_for_port()}"
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        self.url = url if mode == "forward" else self.address + parts.path

    def _start(self, upstream: str, profile: str, port: int) -> subprocess.Popen[bytes]:
        arguments = ["--config", str(GATES / f"{profile}.yaml"), "--transport", "http", "--upstream", upstream]
        arguments += ["--port", str(port), "--log", str(self.ledger), "--log-level", "info"]
        settings = {"METRICS__ENABLED": "false", "METRICS__PORT": "0", "DASHBOARD__ENABLED": "false"}
        if self._mode == "forward":
            settings |= {"PROXY__HTTP_MODE": "forward", "PROXY__FORWARD_HOSTS": "[localhost]"}
        if self._mode == "reverse+rewrite":
            settings |= {"PROXY__PUBLIC_URL": f"http://localhost:{port}", "PROXY__OAUTH__REWRITE_METADATA": "true"}
        environment = os.environ | {f"MCP_AUDIT__{key}": value for key, value in settings.items()}
        environment["AUDIT_SECRET"] = SECRET
        command = [sys.executable, "-m", "mcp_audit", *arguments]
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log += line
            if _LISTENING.search(line):
                self._listening.set()
        self._listening.set()  # it ended; nobody need wait any longer

    def _wait_for_port(self) -> int:
        self._listening.wait(START_SECONDS)
        found = _LISTENING.search(self.log)
        if found is None:
            raise RuntimeError(f"the proxy does not say that it listens:\n{self.log.decode(errors='replace')}")
        return int(found[1])

    def close(self) -> None:
        """End it with SIGTERM.

        Raises:
            RuntimeError: it did not end in time, or not with 0, or it left a traceback.
        """
        self._process.terminate()
        try:
            code: int | None = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()
        if code != 0 or b"Traceback" in self.log:
            raise RuntimeError(f"the proxy ended with {code}:\n{self.log.decode(errors='replace')}")

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_port() -> int:
    """A port for a proxy that must know its own address; below those the system hands out, so that nobody races us."""
    import socket

    for port in range(20000 + os.getpid() * 7 % 10000, 32000):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise RuntimeError("no free port between 20000 and 32000")
