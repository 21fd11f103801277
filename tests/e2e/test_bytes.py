"""What goes through is what comes out: sizes, separators, speed of arrival, both ways; and what is too large."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from proxy import ECHO, ENFORCING, NEUTRAL, call, command, converse, entries, environment, python, running, verified

# Copies stdin to stdout without looking at it.
CAT = """
import os
while chunk := os.read(0, 65536):
    rest = memoryview(chunk)
    while rest: rest = rest[os.write(1, rest):]
"""
MIB = 1 << 20


@pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def test_a_line_of_32_mib_passes_both_ways(tmp_path: Path, config: str) -> None:
    """Bytes equal in both directions, and the ledger has a size and a commitment instead of the payload."""
    sent = call(1, text="x" * (32 * MIB))
    done = converse(tmp_path, python(CAT), sent, config)

    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()
    first = next(line for line in entries(tmp_path) if line.get("type") == "request")
    elided = first["elided"][0]
    assert (elided["p"], elided["why"], elided["bytes"] > 32 * MIB) == ("/params", "size", True)
    assert verified(tmp_path) == 0


def test_the_limit_is_exact_and_the_next_request_is_served(tmp_path: Path) -> None:
    """A message of exactly the limit passes; one byte more is refused under its id; the stream stays usable."""
    limit = 4096
    frame = len(call(1, text="")) - 1
    exact, over = call(1, text="x" * (limit - frame)), call(2, text="x" * (limit - frame + 1))
    assert len(exact) == limit + 1
    config = NEUTRAL + f"proxy: {{max_message_bytes: {limit}}}\n"
    done = converse(tmp_path, python(ECHO), exact + over + call(3, text="y"), config)

    answers = {json.loads(line)["id"]: json.loads(line) for line in done.stdout.splitlines()}
    assert answers.keys() == {1, 2, 3}
    assert answers[1]["result"]["n"] == 0
    assert answers[2]["error"]["code"] == -32600
    assert answers[2]["error"]["data"]["kind"] == "message_too_large"
    assert answers[3]["result"]["n"] == 1
    refused = next(line for line in entries(tmp_path) if "too_large" in line.get("marks", ()))
    assert refused["id"] == answers[2]["error"]["data"]["entry_id"]
    assert refused["elided"][0]["bytes"] == limit + 1
    assert refused["elided"][0]["c"]
    assert verified(tmp_path) == 0


def test_an_answer_that_is_too_large_is_replaced_by_an_error_under_its_id(tmp_path: Path) -> None:
    """The id is found although the encoder writes it last; the client is not left waiting."""
    big = (
        "import sys, json\nfor line in sys.stdin:\n    i = json.loads(line)['id']\n"
        '    print(\'{"result":{"t":"\' + \'x\' * 200000 + \'"},"jsonrpc":"2.0","id":\' + str(i) + \'}\', flush=True)\n'
    )
    config = NEUTRAL + "proxy: {max_message_bytes: 100000}\n"
    done = converse(tmp_path, python(big), call(5), config)

    answer = json.loads(done.stdout)
    assert (answer["id"], answer["error"]["data"]["kind"]) == (5, "message_too_large")
    assert verified(tmp_path) == 0


def test_two_hundred_requests_in_flight(tmp_path: Path) -> None:
    """All are answered, each has its pair of lines."""
    slow = (
        "import sys, json\nseen = []\nfor line in sys.stdin:\n    seen.append(json.loads(line)['id'])\n"
        "    if len(seen) == 200:\n        for i in reversed(seen):\n"
        "            print(json.dumps({'jsonrpc': '2.0', 'id': i, 'result': {}}), flush=True)\n"
    )
    done = converse(tmp_path, python(slow), b"".join(call(n) for n in range(200)), ENFORCING)

    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == list(range(199, -1, -1))
    answered = [line for line in entries(tmp_path) if line.get("outcome") == "answered"]
    assert len({line["of"] for line in answered}) == 200
    assert verified(tmp_path) == 0


def test_stderr_passes_untouched_and_cannot_fill_up(tmp_path: Path) -> None:
    """2 MiB before the first answer: no stall, bytes equal, none of ours among them."""
    loud = "import sys, os\nfor _ in range(2048): os.write(2, b'e' * 1024)\nsys.stdout.write(sys.stdin.readline())"
    done = converse(tmp_path, python(loud), call(1))

    assert done.stderr == b"e" * (2 * MIB)
    assert done.stdout == call(1)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param('{"jsonrpc":"2.0","method":"x","params":{"t":"a\u2028b\u2029c\u0085d"}}\n'.encode(), id="u2028"),
        pytest.param(b'{"jsonrpc":"2.0","method":"x"}\r\n\r\n\n', id="crlf-and-blank-lines"),
        pytest.param(b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"x"}\n', id="bom"),
        pytest.param(b"a banner\n{not json\n\x00\xff\xfe\n", id="noise"),
        pytest.param(b'{"jsonrpc":"2.0","method":"x"}', id="no-final-newline"),
        pytest.param(b'{"jsonrpc":"2.0","method":"x","params":{"n":1.10,"e":1E400,"z":-0}}\n', id="numbers"),
        pytest.param(b'{"a":1,\r"method":"x"}\n', id="carriage-return-inside"),
    ],
)
def test_odd_streams_pass_both_ways(tmp_path: Path, stream: bytes) -> None:
    """With nothing enforced, bytes equal; whatever is no message is recorded as opaque."""
    done = converse(tmp_path, python(CAT), stream)

    assert done.stdout == stream
    assert verified(tmp_path) == 0


def test_one_byte_at_a_time(tmp_path: Path) -> None:
    """Chunk boundaries carry no meaning."""
    lines = call(1, text="é ☃ \u2028") + call(2)
    with running(tmp_path, python(ECHO), ENFORCING) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        for place in range(len(lines)):
            proxy.stdin.write(lines[place : place + 1])
            proxy.stdin.flush()
        assert json.loads(proxy.stdout.readline())["result"]["params"]["arguments"]["text"] == "é ☃ \u2028"
        assert json.loads(proxy.stdout.readline())["id"] == 2
        proxy.stdin.close()
        assert proxy.wait(10) == 0
    assert verified(tmp_path) == 0


def test_a_slow_client_holds_the_server_back_and_nothing_is_lost(tmp_path: Path) -> None:
    """Back-pressure is all the buffering there is: 40 MiB of notifications to a client that reads late."""
    flood = (
        'import sys, os\nline = b\'{"jsonrpc":"2.0","method":"n","params":{"t":"\' + b\'x\' * 100000 + b\'"}}\\n\'\n'
        "sys.stdin.readline()\n"
        "for _ in range(400): os.write(1, line) if False else sys.stdout.buffer.write(line)\nsys.stdout.flush()\n"
    )
    with running(tmp_path, python(flood)) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        proxy.stdin.write(call(1))
        proxy.stdin.close()
        total = 0
        while chunk := proxy.stdout.read(MIB):
            total += len(chunk)
        assert proxy.wait(10) == 0
    assert total > 400 * 100000
    assert sum(line.get("outcome") == "notification" for line in entries(tmp_path)) == 400


def test_a_client_that_reads_late_gets_all_although_everybody_else_is_gone(tmp_path: Path) -> None:
    """Server and client's end are closed; being slow is no reason to cut what is still under way."""
    line = b'{"jsonrpc":"2.0","method":"%b"}\n' % (b"x" * 100_000)
    big = f"import sys; sys.stdin.read(); [sys.stdout.buffer.write({line!r}) for _ in range(50)]"
    with running(tmp_path, python(big)) as proxy:
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        proxy.stdin.close()
        time.sleep(2.5)  # longer than a grandchild's silence is put up with
        assert proxy.stdout.read().count(b"\n") == 50
        assert proxy.wait(10) == 0


def test_stdin_from_a_file_and_stdout_into_a_file(tmp_path: Path) -> None:
    """Regular files cannot be polled; they are served all the same."""
    (tmp_path / "in").write_bytes(call(1) + call(2))
    with open(tmp_path / "in", "rb") as given, open(tmp_path / "out", "wb") as got:
        done = subprocess.run(
            command(tmp_path, python(ECHO)), stdin=given, stdout=got, env=environment(), cwd=tmp_path, timeout=30,
            check=False,
        )  # fmt: skip

    assert done.returncode == 0
    assert [json.loads(line)["id"] for line in (tmp_path / "out").read_bytes().splitlines()] == [1, 2]


def test_stdout_shared_with_stderr_is_not_made_nonblocking(tmp_path: Path) -> None:
    """`2>&1`: the flag belongs to the open file, so setting it would change the server's stderr as well."""
    ours, theirs = os.pipe()
    with running(tmp_path, python(ECHO), stdout=theirs, stderr=theirs) as proxy:
        assert proxy.stdin is not None
        proxy.stdin.write(call(1))
        proxy.stdin.flush()
        assert json.loads(os.read(ours, 65536))["id"] == 1
        assert os.get_blocking(theirs)
        proxy.stdin.close()
        assert proxy.wait(10) == 0
    os.close(ours)
    os.close(theirs)


def test_a_terminal_gets_its_mode_back(tmp_path: Path) -> None:
    """What was set to non-blocking is restored at the end, for whoever shares the open file."""
    import socket

    ours, theirs = socket.socketpair()
    with running(tmp_path, python(ECHO), stdin=theirs.fileno(), stdout=theirs.fileno()) as proxy:
        ours.sendall(call(1))
        assert json.loads(ours.recv(65536))["id"] == 1
        ours.shutdown(socket.SHUT_WR)
        assert proxy.wait(10) == 0
    assert os.get_blocking(theirs.fileno())
    ours.close()
    theirs.close()


def test_two_proxies_share_the_default_ledger(tmp_path: Path) -> None:
    """Several sidecars of one desktop write one file, and it verifies."""

    def one(n: int) -> None:
        done = converse(tmp_path, python(ECHO), b"".join(call(f"{n}-{k}") for k in range(50)))
        assert len(done.stdout.splitlines()) == 50

    threads = [threading.Thread(target=one, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(line.get("outcome") == "answered" for line in entries(tmp_path)) == 100
    assert [line["seq"] for line in entries(tmp_path)] == list(range(len(entries(tmp_path))))
    assert verified(tmp_path) == 0


def test_sqlite_records_the_same_session(tmp_path: Path) -> None:
    """The seed's flag; same lines, same verdict."""
    done = converse(tmp_path, python(ECHO), call(1) + call(2), NEUTRAL, "--storage", "sqlite")

    assert len(done.stdout.splitlines()) == 2
    verdict = subprocess.run(
        [sys.executable, "-m", "mcp_audit", "verify", "audit.db"], cwd=tmp_path, env=environment(), check=False,
        capture_output=True,
    )  # fmt: skip
    assert verdict.returncode == 0, verdict.stdout
