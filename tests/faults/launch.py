"""Starts real proxies: the whole program in its own process, driven through raw pipes.

`Zygote` forks them from a process that has loaded the program and done nothing else, which takes milliseconds instead
of half a second of processor time; `launch` runs the command line, for faults that must be there before the first
instruction. The upstream is `sed`, which starts in a millisecond.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zygote
from proxy import NEUTRAL, call, command, environment

__all__ = ["ANSWERS", "Proxy", "Zygote", "launch"]

# Answers each request under its id.
ANSWERS = ["sed", "-u", "-E", r's/^\{"jsonrpc":"2.0","id":("[^"]*"|[0-9]+),.*/{"jsonrpc":"2.0","id":\1,"result":{}}/']


class Proxy:
    """A running proxy and its two pipes.

    Attributes:
        answered: the ids of all calls whose result came back; `refused`: the messages that were errors.
        status: its exit code, None while it runs.
    """

    def __init__(self, pid: int, stdin: int, stdout: int, wait: Callable[[], int]) -> None:
        self.pid = pid
        self.answered: list[str] = []
        self.refused: list[dict[str, Any]] = []
        self._stdin, self._stdout = stdin, stdout
        self._wait = wait
        self._got = b""
        self.status: int | None = None

    def send(self, data: bytes) -> None:
        """Write to its stdin."""
        while data:
            data = data[os.write(self._stdin, data) :]

    def receive(self, timeout: float = 30) -> dict[str, Any]:
        """Return the next message."""
        until = time.monotonic() + timeout
        while b"\n" not in self._got:
            ready, _, _ = select.select([self._stdout], [], [], max(0, until - time.monotonic()))
            assert ready, f"no answer within {timeout} s"
            chunk = os.read(self._stdout, 65536)
            assert chunk, "the proxy closed its stdout"
            self._got += chunk
        line, _, self._got = self._got.partition(b"\n")
        return self._note(line)

    def ask(self, id_: object, timeout: float = 30, **arguments: Any) -> dict[str, Any]:
        """Make one call and return what came back."""
        self.send(call(str(id_), **arguments))
        return self.receive(timeout)

    def works(self, id_: object, **arguments: Any) -> bool:
        """Say whether a call is answered with a result."""
        return "result" in self.ask(id_, **arguments)

    def works_again(self, name: str, within: float = 20) -> None:
        """Ask until a call is answered."""
        until = time.monotonic() + within
        number = 0
        while not self.works(f"{name}-{number}"):
            number += 1
            assert time.monotonic() < until, f"still refusing: {self.refused[-1]}"
            time.sleep(0.02)  # nothing outside tells when a blocked ledger works again

    def pour(self, ids: Sequence[str], answers: int) -> None:
        """Send all calls, and return when that many answers are back, counted from the last `settle`."""
        os.set_blocking(self._stdin, False)
        unsent = b"".join(call(id_) for id_ in ids)
        while unsent or self._got.count(b"\n") < answers:
            ready, writable, _ = select.select([self._stdout], [self._stdin] if unsent else [], [], 30)
            assert ready or writable
            if writable:
                unsent = unsent[os.write(self._stdin, unsent[:4096]) :]
            if ready:
                self._got += os.read(self._stdout, 65536)

    def settle(self) -> None:
        """Take note of every answer that `pour` read."""
        *lines, self._got = self._got.split(b"\n")
        for line in lines:
            self._note(line)

    def kill(self) -> None:
        """`kill -9`, then take note of the answers that were under way."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        self._finish()

    def end(self) -> int:
        """Close its stdin and return the exit code."""
        os.close(self._stdin)
        self._stdin = -1
        return self._finish()

    def close(self) -> None:
        """Leave nothing behind."""
        if self.status is None:
            self.kill()
        for fd in (self._stdin, self._stdout):
            if fd >= 0:
                os.close(fd)
        self._stdin = self._stdout = -1

    def _finish(self) -> int:
        while chunk := os.read(self._stdout, 65536):
            self._got += chunk
        if self.status is None:
            self.status = self._wait()
        self.settle()
        return self.status

    def _note(self, line: bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(line)
        if "result" in message:
            self.answered.append(message["id"])
        else:
            self.refused.append(message)
        return message


@contextmanager
def launch(
    folder: Path,
    config: str = "",
    *options: str,
    server: Sequence[str] = ANSWERS,
    under: Sequence[str] = (),
    env: dict[str, str] | None = None,
    **popen: Any,
) -> Iterator[Proxy]:
    """Run the command line, as an argument of `under` if given, such as strace; kill whatever is left at the end."""
    argv = [*under, *command(folder, server, NEUTRAL + config, *options)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, env=environment(**(env or {})), cwd=folder, bufsize=0, **pipes | popen) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        proxy = Proxy(process.pid, os.dup(process.stdin.fileno()), process.stdout.fileno(), lambda: process.wait(30))
        process.stdin.close()
        try:
            yield proxy
        finally:
            proxy._stdout = -1
            process.kill()
            proxy.status = process.wait(30)
            proxy.close()


class Zygote:
    """A process that forks proxies on demand."""

    def __enter__(self) -> Zygote:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, zygote.__file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment()
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._process.wait(30)

    @contextmanager
    def start(self, folder: Path, config: str = "", *options: str, server: Sequence[str] = ANSWERS) -> Iterator[Proxy]:
        """Fork a proxy; kill it at the end if it is still there."""
        argv = command(folder, server, NEUTRAL + config, *options)[3:]
        stdin, to_stdin = os.pipe()
        from_stdout, stdout = os.pipe()
        order = json.dumps({"argv": argv, "cwd": str(folder)}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stdin, stdout]))]
        self._ours.sendmsg([order], rights)
        os.close(stdin)
        os.close(stdout)
        pid = int(self._ours.recv(100))
        proxy = Proxy(pid, to_stdin, from_stdout, lambda: self._wait(pid))
        try:
            yield proxy
        finally:
            proxy.close()

    def _wait(self, pid: int) -> int:
        self._ours.sendall(json.dumps({"wait": pid}).encode())
        return int(self._ours.recv(100))
