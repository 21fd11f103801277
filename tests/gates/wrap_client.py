"""A client command with the proxy in front of its server: wrap_client.py MODE COMMAND... URL

MODE is `direct` (no proxy), `forward`, `reverse` or `reverse+rewrite`. The exit code is the command's. From the
environment: GATE_PROFILE (neutral, enforcing), GATE_LEDGERS (a folder that gets one ledger per run), and GATE_SLOTS (a
folder: where it is set, as many commands run at once as there are processors, so that a suite that starts all its
scenarios at the same time measures the proxy and not the scheduler). Beside the ledgers, `<scenario>.exit` says how the
command ended.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from http_proxy import MODES, Proxy

__all__ = ["main"]

PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy",
                   "NO_PROXY", "no_proxy")  # fmt: skip


@contextmanager
def _slot() -> Iterator[None]:
    """Wait for our turn. The system gives the slot back even if we are killed."""
    folder = os.environ.get("GATE_SLOTS")
    if not folder:
        yield
        return
    with open(Path(folder) / str(os.getpid() % (os.cpu_count() or 1)), "ab") as slot:
        fcntl.flock(slot, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], url: str, **environment: str) -> int:
    """Run the client in an environment that says about proxies what we say."""
    inherited: Mapping[str, str] = {k: v for k, v in os.environ.items() if k not in PROXY_VARIABLES}
    return subprocess.run([*command, url], env={**inherited, **environment}, check=False).returncode


def _run_behind(mode: str, command: Sequence[str], url: str, folder: Path) -> int:
    """Run the client with a proxy of its own; what is wrong with the proxy goes to `problem.txt`, too."""
    try:
        with Proxy(folder, url, os.environ.get("GATE_PROFILE", "neutral"), mode) as proxy:
            variables = {"HTTP_PROXY": proxy.address, "http_proxy": proxy.address} if mode == "forward" else {}
            return _run(command, proxy.url, **variables)
    except RuntimeError as error:
        # A suite looks at what the client did, so a proxy that crashed at its end would go unnoticed.
        (folder / "problem.txt").write_text(f"{url}: {error}")
        raise


def main() -> int:
    """Run one client against one server."""
    mode, *command, url = sys.argv[1:]
    if mode not in ("direct", *MODES) or not command:
        print(__doc__, file=sys.stderr)
        return 2
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "client").replace("/", "-")
    ledgers = Path(os.environ.get("GATE_LEDGERS") or tempfile.mkdtemp(prefix="wrap-client-"))
    with _slot():
        if mode == "direct":
            code = _run(command, url)
        else:
            code = _run_behind(mode, command, url, Path(tempfile.mkdtemp(prefix=f"{scenario}-", dir=ledgers)))
    (ledgers / f"{scenario}.exit").write_text(str(code))
    return code


if __name__ == "__main__":
    sys.exit(main())
