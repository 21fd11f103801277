"""How runs end: exit codes, signals, grandchildren, half-closed streams; the ledger is closed in each case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from proxy import ECHO, NEUTRAL, call, command, converse, entries, environment, python, running, verified

_STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
)


def gone(pid: int, seconds: float) -> bool:
    """Wait until a process has ended (or is only a zombie nobody collected)."""
    try:
        process = psutil.Process(pid)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.02)
    except psutil.NoSuchProcess:
        return True
    return False


@pytest.mark.parametrize("code", [0, 1, 42])
def test_the_exit_code_is_the_servers(tmp_path: Path, code: int) -> None:
    """A client that looks at exit codes sees what it would see without the proxy."""
    done = converse(tmp_path, python(f"import sys; sys.stdin.read(); sys.exit({code})"), b"")

    assert done.returncode == code
    assert (done.stdout, done.stderr) == (b"", b"")
    assert entries(tmp_path)[-1]["type"] == "close"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_a_signal_that_killed_the_server_kills_the_proxy(tmp_path: Path, number: signal.Signals) -> None:
    """Our parent reads the same wait status."""
    done = converse(tmp_path, python(f"import os; os.kill(os.getpid(), {number.value})"), b"")

    assert done.returncode == -number
    assert entries(tmp_path)[-1]["reason"] == "upstream_exit"
    assert verified(tmp_path) == 0


def test_answers_in_flight_are_delivered_after_the_client_closed_its_end(tmp_path: Path) -> None:
    """EOF with five requests pending: five answers, then EOF."""
    late = (
        "import sys, json\nlines = sys.stdin.read().splitlines()\n"
        "for line in lines:\n    print(json.dumps({'jsonrpc': '2.0', 'id': json.loads(line)['id'], 'result': {}}))\n"
    )
    done = converse(tmp_path, python(late), b"".join(call(n) for n in range(5)))

    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1, 2, 3, 4]
    assert sum(line.get("outcome") == "answered" for line in entries(tmp_path)) == 5
    assert verified(tmp_path) == 0


def test_requests_nobody_answered_get_no_answer_and_are_recorded_as_lost(tmp_path: Path) -> None:
    """A server that exits without answering: EOF for the client, `orphan` lines in the ledger."""
    done = converse(tmp_path, python("import sys; sys.stdin.readline(); sys.exit(3)"), call(1))

    assert (done.returncode, done.stdout) == (3, b"")
    orphans = [line for line in entries(tmp_path) if line.get("type") == "orphan"]
    assert [(line["outcome"], line["of"]) for line in orphans] == [("lost", 1)]
    assert verified(tmp_path) == 0


@pytest.mark.parametrize(
    ("server", "code", "sentence"),
    [
        pytest.param(["no-such-server"], 127, "it is not on PATH", id="not-found"),
        pytest.param(["./nothing/here"], 127, "there is no such file", id="no-such-file"),
        pytest.param(["./plain"], 126, "chmod +x", id="not-executable"),
        pytest.param(["./"], 126, "directory", id="directory"),
        pytest.param(["./broken"], 126, "interpreter", id="bad-interpreter"),
    ],
)
def test_a_server_that_cannot_start_is_one_sentence(
    tmp_path: Path, server: list[str], code: int, sentence: str
) -> None:
    """127 not found, 126 not executable; nothing on stdout; the attempt is in the ledger."""
    (tmp_path / "plain").write_text("x")
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    done = converse(tmp_path, server, b"")

    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.startswith(b"mcp-audit: cannot start the upstream")
    assert sentence in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert [line["type"] for line in entries(tmp_path)] == ["open", "close"]


def test_sigterm_reaches_the_whole_tree_and_a_stubborn_grandchild_is_killed(tmp_path: Path) -> None:
    """Within the grace nothing of the tree is left, and the proxy dies as the server did."""
    parent = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {_STUBBORN!r}], stdout=subprocess.PIPE);"
        "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read(); p.wait()"
    )
    with running(tmp_path, python(parent)) as proxy:
        assert proxy.stdout is not None
        grandchild = int(proxy.stdout.readline())
        began = time.monotonic()
        proxy.send_signal(signal.SIGTERM)
        code = proxy.wait(10)
        took = time.monotonic() - began

    assert code == -signal.SIGTERM
    assert gone(grandchild, 1)
    assert took < 5
    assert entries(tmp_path)[-1]["reason"] == "signal"
    assert verified(tmp_path) == 0


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    """Whoever insists does not wait for the grace."""
    with running(tmp_path, python(_STUBBORN), NEUTRAL + "proxy: {shutdown_grace_ms: 60000}\n") as proxy:
        assert proxy.stdout is not None
        assert proxy.stdout.readline() == b"up\n"
        proxy.send_signal(signal.SIGINT)
        # The first signal is heeded once the server's stdin is closed; nothing else shows that from outside.
        time.sleep(0.3)
        proxy.send_signal(signal.SIGINT)
        assert proxy.wait(10) in (-signal.SIGKILL, -signal.SIGINT)


def test_the_server_ends_when_the_proxy_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves us no time: the kernel tells the server."""
    deaf = "import time, os; print(os.getpid(), flush=True); time.sleep(60)"
    with running(tmp_path, python(deaf)) as proxy:
        assert proxy.stdout is not None
        server = int(proxy.stdout.readline())
        proxy.kill()
        proxy.wait(5)
        assert gone(server, 2)


def test_the_proxy_ends_when_its_parent_dies(tmp_path: Path) -> None:
    """The watchdog notices although the pipes are still held open by somebody else."""
    deaf = "import time, os; open('server.pid', 'w').write(str(os.getpid())); time.sleep(60)"
    starter = (
        "import subprocess, sys, time, os\n"
        f"p = subprocess.Popen({command(tmp_path, python(deaf))!r})\n"
        "while not os.path.exists('server.pid'): time.sleep(0.02)\n"
        "print(p.pid, flush=True); time.sleep(60)\n"
    )
    hold_read, hold_write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdin=hold_read, stdout=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        proxy = int(parent.stdout.readline())
        server = int((tmp_path / "server.pid").read_text())
        parent.kill()
    assert gone(server, 4)
    assert gone(proxy, 4)
    os.close(hold_read)
    os.close(hold_write)


def test_a_server_that_closes_stdout_goes_on_reading(tmp_path: Path) -> None:
    """Its client sees EOF, and what the client still sends arrives."""
    half = (
        "import os, sys; print('{}', flush=True); os.close(1);open('got', 'w').write(sys.stdin.readline()); sys.exit(7)"
    )
    with running(tmp_path, python(half)) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        assert proxy.stdout.read() == b"{}\n"
        proxy.stdin.write(b'{"jsonrpc":"2.0","method":"x"}\n')
        proxy.stdin.flush()
        assert proxy.wait(10) == 7
    assert (tmp_path / "got").read_text() == '{"jsonrpc":"2.0","method":"x"}\n'


def test_a_client_that_stops_reading_ends_the_server(tmp_path: Path) -> None:
    """The server meets the broken pipe, as it would directly, and then the signal."""
    chatty = "import time\nwhile True:\n    print('{}', flush=True)\n    time.sleep(0.01)\n"
    with running(tmp_path, python(chatty), stderr=subprocess.DEVNULL) as proxy:
        assert proxy.stdout is not None
        proxy.stdout.readline()
        proxy.stdout.close()
        assert proxy.wait(10) != 0
    assert entries(tmp_path)[-1]["type"] == "close"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="platform: no /dev/full")
def test_an_output_that_takes_nothing_is_a_client_that_is_gone(tmp_path: Path) -> None:
    """One sentence, and the ledger tells the rest."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(tmp_path, python(ECHO), NEUTRAL),
            input=call("a"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=tmp_path,
            check=False,
        )
    assert done.stderr == b"mcp-audit: descriptor 1 cannot be written (No space left on device); it counts as closed\n"
    assert [line.get("outcome", line.get("type")) for line in entries(tmp_path)][-2:] == ["answered", "close"]


def test_a_grandchild_may_go_on_in_the_servers_place(tmp_path: Path) -> None:
    """A launcher that exits leaves the pipe to what it started: the session goes on until the client ends it."""
    launcher = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {ECHO!r}])"
    with running(tmp_path, python(launcher)) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        for n in range(3):
            proxy.stdin.write(call(n))
            proxy.stdin.flush()
            assert json.loads(proxy.stdout.readline())["id"] == n
        proxy.stdin.close()
        assert proxy.wait(10) == 0


def test_the_servers_environment_is_ours_minus_what_is_ours_alone(tmp_path: Path) -> None:
    """Secrets and settings of the proxy do not reach the server; everything else does, and nothing is added."""
    (tmp_path / "secret").write_text("f" * 40)
    config = NEUTRAL + "audit: {secret: '${MY_AUDIT_KEY}'}\n"
    show = "import os, json; print(json.dumps(dict(os.environ)))"
    env = environment(MY_AUDIT_KEY="k" * 40, MCP_AUDIT__PROXY__CLIENT_ID="me", MCP_AUDIT_BROKER_X="kept", OTHER="o")
    del env["AUDIT_SECRET"]
    done = subprocess.run(
        command(tmp_path, python(show), config), input=b"", capture_output=True, env=env, cwd=tmp_path, check=False
    )

    ours = {"MY_AUDIT_KEY", "MCP_AUDIT__PROXY__CLIENT_ID"}
    direct = subprocess.run(python(show), capture_output=True, env=env, cwd=tmp_path, check=True)
    assert json.loads(done.stdout) == {
        name: value for name, value in json.loads(direct.stdout).items() if name not in ours
    }
