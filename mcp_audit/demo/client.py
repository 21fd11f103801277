"""A small MCP client over stdio, standard library only: start a server command, ask, get the answer.

One request at a time; what the server sends on its own is skipped. It knows nothing of the proxy: the command it is
given may be a server or the proxy in front of one.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

__all__ = ["Client", "ServerGone"]

PROTOCOL_VERSION = "2025-11-25"


class ServerGone(RuntimeError):
    """The server ended its output before it answered."""


class Client:
    """A session with one server process; use it as a context manager."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None, name: str = "demo-client") -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
        self._name = name
        self._next_id = 1

    def __enter__(self) -> Client:
        info = {"name": self._name, "version": "1"}
        self.request("initialize", {"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": info})
        self.notify("notifications/initialized")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def returncode(self) -> int | None:
        """How the server command ended, None while it runs."""
        return self._process.returncode

    def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return the whole answer, `result` or `error` inside.

        Raises:
            ServerGone: there will be no answer.
        """
        id_ = self._next_id
        self._next_id += 1
        self._send({"id": id_, "method": method, "params": dict(params or {})})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message: dict[str, Any] = json.loads(line)
            if message.get("id") == id_ and "method" not in message:
                return message
        raise ServerGone(f"the server ended (exit code {self._process.wait()}) before it answered {method}")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return the whole answer."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        self._send({"method": method, **({"params": dict(params)} if params else {})})

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ServerGone(f"the server ended (exit code {self._process.wait()})") from None
