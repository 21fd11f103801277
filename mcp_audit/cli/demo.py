"""Record a real session against a bundled server, then verify the record and try to falsify it.

A client, the proxy and a server run as three processes over real pipes. The demo needs nothing but this package; what
it writes stays in a new temporary folder (or the one named by --dir), for you to look at.

example: mcp-audit demo
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from mcp_audit.demo.client import Client, ServerGone
from mcp_audit.ledger.reading.reader import read

__all__ = ["add_arguments", "run"]

_CONFIG = """\
# The demo's settings; `mcp-audit config example` prints all there are.
audit:
  path: {folder}/audit.jsonl
middleware:
  rate_limit:
    tools:
      echo: {{requests_per_minute: 60, burst: 2}}
policy:
  enabled: true
  rules:
    - action: deny
      tool_name: "delete_*"
      reason: destructive tools are blocked here
proxy:
  log: {{level: warn}}
dashboard: {{enabled: false}}
metrics: {{enabled: false}}
"""

_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("list_files", {}),
    ("echo", {"text": "hello"}),
    ("login", {"user": "ada", "password": "xyzzy"}),
    ("wait", {"seconds": 0.3}),
    ("fail", {}),
    ("delete_file", {"name": "report.txt"}),
    ("echo", {"text": "again"}),
    ("echo", {"text": "too often"}),
)

_NEXT = """
What to type next:
  {program} query {log} --outcome denied
  {program} show {log} 9
  {program} -- npx -y @modelcontextprotocol/server-filesystem /tmp     # your own server, recorded"""


class _Seen(NamedTuple):
    call: str
    answer: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `demo`."""
    parser.add_argument("--dir", metavar="DIR", help="an empty or new folder for what the demo writes")


def run(args: argparse.Namespace) -> int:
    """Run the session, print what was seen and recorded; 0 if the ledger verifies and the falsified copy does not."""
    folder = _folder(args.dir)
    if folder is None:
        print(f"mcp-audit demo: {args.dir} is not empty; name a new folder", file=sys.stderr)
        return 2
    log, env = _prepare(folder)
    try:
        seen = _session(folder, env)
    except ServerGone as error:
        print(f"mcp-audit demo: the session failed, {error}; what is left of it is in {folder}", file=sys.stderr)
        return 1
    _print_session(seen, log)
    pinned = log.with_name(log.name + ".pub").read_text().strip()  # as an auditor would have it from elsewhere
    print(f"\n$ mcp-audit verify {log} --vkey $PINNED", flush=True)
    intact = _verify(log, pinned, env)
    print("\nThe same ledger with one word changed (the denied call now claims to be answered):", flush=True)
    forged = _verify(_falsified(log), pinned, env)
    print(_NEXT.format(log=log, program=_program()))
    return 0 if (intact, forged) == (0, 1) else 1


def _program() -> str:
    """Return how this program can be called from here: by its name only if that is on PATH."""
    if shutil.which("mcp-audit"):
        return "mcp-audit"
    script = sys.argv[0]
    return f"{sys.executable} -m mcp_audit" if script.endswith(".py") else script


def _folder(wanted: str | None) -> Path | None:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="mcp-audit-demo-"))
    folder = Path(wanted).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if not any(folder.iterdir()) else None


def _prepare(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write settings, a secret and a file to delete; return the ledger's path and the proxy's environment."""
    (folder / "config.yaml").write_text(_CONFIG.format(folder=json.dumps(str(folder))[1:-1]))
    secret = folder / "secret"
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    served = folder / "files"
    served.mkdir()
    (served / "report.txt").write_text("numbers\n")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AUDIT_SECRET", "MCP_AUDIT"))}
    return folder / "audit.jsonl", ours | {"AUDIT_SECRET_FILE": str(secret)}


def _session(folder: Path, env: dict[str, str]) -> list[_Seen]:
    proxy = [sys.executable, "-m", "mcp_audit", "--config", str(folder / "config.yaml")]
    server = [sys.executable, "-m", "mcp_audit.demo.server", str(folder / "files")]
    seen: list[_Seen] = []
    with Client([*proxy, "--", *server], env=env) as client:
        client.request("tools/list")
        for tool, arguments in _CALLS:
            said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
            seen.append(_Seen(f"{tool}({said})", _answer(client.call(tool, **arguments))))
    return seen


def _answer(message: dict[str, Any]) -> str:
    if "error" in message:
        return f"error {message['error']['code']}: {message['error']['message']}"
    text = " ".join(item.get("text", "") for item in message["result"]["content"])
    return f"failed: {text}" if message["result"].get("isError") else text.replace("\n", " ")


def _print_session(seen: list[_Seen], log: Path) -> None:
    from mcp_audit.cli.terminal import print_table

    entries = [record for record in read(log) if record.line.get("method") == "tools/call" and not record.type]
    rows = []
    for said, record in zip(seen, entries, strict=True):
        entry = record.line
        hidden = str(len(entry["redacted"])) if "redacted" in entry else ""
        rows.append((said.call, said.answer, str(record.seq), entry["outcome"], str(entry["duration_ms"]), hidden))
    print("A client, the proxy and a server: three processes. What the client saw, and what the ledger says:\n")
    columns = ("call", "answer the client got", "seq", "recorded as", "ms", "hidden")
    print_table(columns, rows, right=("seq", "ms", "hidden"))
    login = next(record.line for record in entries if record.line["tool_name"] == "login")
    print(f"\nThe server got the password. The ledger has: {json.dumps(login['params']['arguments'])}")


def _verify(log: Path, vkey: str, env: dict[str, str]) -> int:
    return subprocess.run(
        [sys.executable, "-m", "mcp_audit", "verify", str(log), "--vkey", vkey], env=env, check=False
    ).returncode


def _falsified(log: Path) -> Path:
    """Copy the ledger and change one word of it: let the denied call look as if it had been answered."""
    copy = log.parent / "falsified" / log.name
    copy.parent.mkdir()
    for part in log.parent.glob(log.name + "*"):
        shutil.copy(part, copy.parent)
    copy.write_bytes(copy.read_bytes().replace(b'"outcome":"denied"', b'"outcome":"answered"'))
    return copy
