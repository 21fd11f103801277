"""A small MCP server over stdio: `python -m mcp_audit.demo.server FOLDER`.

Standard library only. Its tools are harmless, and chosen so that a proxy has something to show: one that reads, one
that echoes, one that is slow, one that fails, one whose arguments and result carry secrets, and one to forbid.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["TOOLS", "main"]

PROTOCOL_VERSION = "2025-11-25"


def _tool(description: str, **properties: str) -> dict[str, Any]:
    return {
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in properties.items()},
            "required": list(properties),
        },
    }


TOOLS: dict[str, dict[str, Any]] = {
    "list_files": _tool("List the names in the folder the server was given"),
    "echo": _tool("Return the text", text="string"),
    "wait": _tool("Return after some seconds", seconds="number"),
    "fail": _tool("Always fail"),
    "login": _tool("Pretend to log in; returns a token", user="string", password="string"),  # noqa: S106 - a field
    "delete_file": _tool("Delete a file (it really would)", name="string"),
}


class _Server:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._writing = threading.Lock()
        self._cancelled: set[Any] = set()
        self._tools: dict[str, Callable[..., str]] = {
            "list_files": lambda: "\n".join(sorted(os.listdir(folder))),
            "echo": lambda text: str(text),
            "wait": self._wait,
            "fail": self._fail,
            "login": lambda user, password: json.dumps({"token": f"{user}-{len(password)}-f3a9"}),
            "delete_file": self._delete,
        }

    def serve(self) -> None:
        """Answer until stdin ends, then finish what is running."""
        workers: list[threading.Thread] = []
        for line in sys.stdin.buffer:
            try:
                message = json.loads(line)
            except ValueError:
                self._send({"id": None, "error": {"code": -32700, "message": "not JSON"}})
                continue
            if "id" not in message:
                if message.get("method") == "notifications/cancelled":
                    self._cancelled.add(message.get("params", {}).get("requestId"))
            elif message.get("method") == "tools/call":
                worker = threading.Thread(target=self._call, args=(message,))
                worker.start()
                workers.append(worker)
            else:
                self._send({"id": message["id"], **self._answer(message)})
        for worker in workers:
            worker.join()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        method = message.get("method")
        if method == "initialize":
            asked = message.get("params", {}).get("protocolVersion", PROTOCOL_VERSION)
            info = {"name": "mcp-audit-demo-server", "version": "1"}
            return {"result": {"protocolVersion": asked, "capabilities": {"tools": {}}, "serverInfo": info}}
        if method == "tools/list":
            return {"result": {"tools": [{"name": name, **tool} for name, tool in TOOLS.items()]}}
        if method == "ping":
            return {"result": {}}
        return {"error": {"code": -32601, "message": f"unknown method {method}"}}

    def _call(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        tool = self._tools.get(params.get("name"))
        if tool is None:
            self._send({"id": message["id"], "error": {"code": -32602, "message": "unknown tool"}})
            return
        try:
            text, failed = tool(**params.get("arguments", {})), False
        except Exception as error:
            text, failed = str(error), True
        if message["id"] not in self._cancelled:
            content = [{"type": "text", "text": text}]
            self._send({"id": message["id"], "result": {"content": content, "isError": failed}})

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"jsonrpc": "2.0", **message}, ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._writing:
            sys.stdout.buffer.write(line.encode())
            sys.stdout.buffer.flush()

    def _wait(self, seconds: float) -> str:
        time.sleep(min(float(seconds), 60.0))  # taking time is what this tool is for
        return f"waited {seconds} s"

    def _fail(self) -> str:
        raise RuntimeError("this tool always fails")

    def _delete(self, name: str) -> str:
        os.remove(os.path.join(self._folder, os.path.basename(name)))
        return f"deleted {name}"


def main() -> int:
    """Serve the folder named on the command line (by default the current one) until stdin ends."""
    _Server(sys.argv[1] if len(sys.argv) > 1 else os.curdir).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
