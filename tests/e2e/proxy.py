"""The real command line around a server that is a few lines of Python; raw pipes, no MCP library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECRET = "0123456789abcdef0123456789abcdef"
NEUTRAL = """
middleware: {rate_limit: {enabled: false}}
dashboard: {enabled: false}
metrics: {enabled: false}
"""
ENFORCING = """
middleware: {rate_limit: {requests_per_minute: 1000000}}
policy:
  enabled: true
  rules:
    - {action: deny, tool_name: delete_file, reason: no}
dashboard: {enabled: false}
metrics: {enabled: false}
"""

# Answers each request under its id with what it was sent; a call of `count` says how many lines came before.
ECHO = """
import sys, json
for n, line in enumerate(sys.stdin.buffer):
    try: m = json.loads(line)
    except ValueError: continue
    if isinstance(m, dict) and m.get("method") and "id" in m:
        r = {"jsonrpc": "2.0", "id": m["id"], "result": {"n": n, "params": m.get("params")}}
        sys.stdout.buffer.write(json.dumps(r, separators=(",", ":")).encode() + b"\\n")
        sys.stdout.buffer.flush()
"""


def environment(**more: str) -> dict[str, str]:
    """Return our environment with the test's secret and none of the user's settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_SECRET", "MCP_AUDIT"))}
    return ours | {"AUDIT_SECRET": SECRET} | more


def command(folder: Path, server: Sequence[str], config: str = NEUTRAL, *options: str) -> list[str]:
    """Return the proxy's command line around a server command; the ledger is `folder`/audit.jsonl."""
    settings = folder / "config.yaml"
    if not settings.exists() or settings.read_text() != config:  # else a peer may be reading it
        settings.write_text(config)
    log = () if "--storage" in options else ("--log", str(folder / "audit.jsonl"))
    return [sys.executable, "-m", "mcp_audit", "--config", str(settings), *log, *options, "--", *server]


def python(script: str) -> list[str]:
    """Return the command of a server that is a script."""
    return [sys.executable, "-c", script]


@contextmanager
def running(
    folder: Path, server: Sequence[str], config: str = NEUTRAL, *options: str, **popen: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the proxy with pipes; at the end kill whatever is left of it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment(), "cwd": folder} | popen
    with subprocess.Popen(command(folder, server, config, *options), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def converse(
    folder: Path, server: Sequence[str], sent: bytes, config: str = NEUTRAL, *options: str
) -> subprocess.CompletedProcess[bytes]:
    """Send bytes, close stdin, return everything that came back."""
    return subprocess.run(
        command(folder, server, config, *options), input=sent, capture_output=True, env=environment(), cwd=folder,
        timeout=60, check=False,
    )  # fmt: skip


def entries(folder: Path) -> list[dict[str, Any]]:
    """Return the ledger's lines; torn bytes are passed over where the next line is their `recovery`."""
    lines = [line for line in (folder / "audit.jsonl").read_bytes().split(b"\n") if line]
    found = []
    for line, following in zip(lines, [*lines[1:], b""], strict=True):
        try:
            found.append(json.loads(line))
        except ValueError:
            assert following.startswith(b'{"type":"recovery"'), line[-200:]
    return found


def verified(folder: Path) -> int:
    """Return what `verify` says of the ledger as an exit code."""
    run = [sys.executable, "-m", "mcp_audit", "verify", "--strict", str(folder / "audit.jsonl")]
    return subprocess.run(run, env=environment(), capture_output=True, timeout=60, check=False).returncode


def request(id_: Any, method: str = "tools/call", **params: Any) -> bytes:
    """Return a request line."""
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def call(id_: Any, tool: str = "echo", **arguments: Any) -> bytes:
    """Return the line of a tools/call."""
    return request(id_, name=tool, arguments=arguments)
