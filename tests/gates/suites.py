"""The official conformance suites, run against our reference server and with our reference client.

Promise: a run is what the suite itself would do with `--suite all --spec-version` (server) and `--requirements`
(client); nothing is left out, and nothing is judged here.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compare import Checks, read_run
from peers import GATES, Ran, node, package, run

__all__ = [
    "CLIENT_SCORES",
    "REVISIONS",
    "SERVER_SCORES",
    "everything_server",
    "read_client_run",
    "run_client_suite",
    "run_server_suite",
]

REVISIONS = ("2025-11-25", "2026-07-28")
# What the reference server and client of the SDK's authors score; ours must be as good a target.
SERVER_SCORES = {"2025-11-25": (84, 0), "2026-07-28": (152, 0)}
# The nine failures lie in unscored scenarios of extensions the SDK does not have: DPoP and workload identity.
CLIENT_SCORES = {"2025-11-25": (298, 9), "2026-07-28": (455, 9)}

SERVER = GATES.parent / "servers" / "everything.py"
CLIENT = GATES.parent / "clients" / "conformance.py"
SUITE_SECONDS = 900
# A scenario waits for its turn (see wrap_client.py), so this is no measure of how long one takes.
SCENARIO_MS = 600_000


@contextmanager
def everything_server(transport: str = "streamable-http") -> Iterator[str]:
    """Start the reference server and yield its URL, with a name the suites accept as local."""
    command = [sys.executable, str(SERVER), "--port", "0", "--transport", transport]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the server did not start; its stderr says why"
            yield url.replace("127.0.0.1", "localhost")
        finally:
            process.terminate()


def _conformance(out: Path, *arguments: str, **environment: str) -> Ran:
    out.mkdir(parents=True, exist_ok=True)
    argv = [node(), package("conformance", "dist", "index.js"), *arguments, "-o", str(out)]
    return run(argv, out, SUITE_SECONDS, **environment)


def _results(ran: Ran, out: Path) -> dict[str, Checks]:
    try:
        return read_run(out)
    except ValueError as error:
        raise AssertionError(f"{error}\n{ran.stdout.decode()}\n{ran.stderr.decode()}") from error


def run_server_suite(url: str, revision: str, out: Path, scenario: str = "") -> dict[str, Checks]:
    """Test a server in all scenarios of a revision, or in one; return the checks by scenario."""
    which = ["--scenario", scenario.removeprefix("server-"), "--force"] if scenario else ["--suite", "all"]
    return _results(_conformance(out, "server", "--url", url, *which, "--spec-version", revision), out)


def run_client_suite(mode: str, profile: str, revision: str, out: Path, scenario: str = "") -> dict[str, Checks]:
    """Test our client behind the proxy (`direct`: without) in all scenarios a revision requires, or in one."""
    command = shlex.join([sys.executable, str(GATES / "wrap_client.py"), mode, sys.executable, str(CLIENT)])
    which = (
        ["--scenario", scenario, "--spec-version", revision, "--force"] if scenario else ["--requirements", revision]
    )
    ledgers, slots, results = (out / name for name in ("ledgers", "slots", "results"))
    for folder in (ledgers, slots):
        folder.mkdir(parents=True)
    variables = {"GATE_PROFILE": profile, "GATE_LEDGERS": str(ledgers), "GATE_SLOTS": str(slots)}
    arguments = ["client", *which, "--timeout", str(SCENARIO_MS), "--command", command]
    ran = _conformance(results, *arguments, **variables)
    assert b"timed out" not in ran.stderr, ran.stderr.decode()
    problems = [file.read_text() for file in ledgers.rglob("problem.txt")]
    assert not problems, "\n\n".join(problems)
    _results(ran, results)
    return read_client_run(out)


def read_client_run(out: Path) -> dict[str, Checks]:
    """Return the checks of a finished run, and after those of each scenario how the client ended."""
    run = read_run(out / "results")
    for name, checks in run.items():
        code = (out / "ledgers" / f"{name.replace('/', '-')}.exit").read_text()
        checks.append({"id": "client-exit-code", "name": code, "status": "INFO"})
    return run
