"""The upstream as a process: how it is found, started, signalled and buried.

It leads its own session, so that one `killpg` reaches whatever `npx` or `uv` started; its stderr is ours, untouched;
its environment is ours minus what belongs to the proxy. We never wait for it with a deadline while our parent lives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from mcp_audit.errors import UpstreamStartError

__all__ = ["Upstream", "end_like", "start"]

_PR_SET_PDEATHSIG = 1
_POSIX = os.name == "posix"


class Upstream:
    """A running upstream command with pipes on its stdin and stdout.

    Attributes:
        stdin, stdout: our ends of its pipes, as descriptors.
        returncode: as `subprocess` gives it (negative: the signal that killed it); None while it runs.
    """

    def __init__(self, process: subprocess.Popen[bytes], stdin: int, stdout: int) -> None:
        self._process = process
        self.stdin = stdin
        self.stdout = stdout

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its session and process group."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait until the process itself has ended (its children may live on) and return its returncode."""
        import anyio  # not above: the upstream is started before the event loop is loaded, so that both go on at once
        from anyio import to_thread

        if hasattr(os, "pidfd_open"):
            try:
                watch = os.pidfd_open(self.pid)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM, errno.ESRCH):
                    raise
            else:
                try:
                    await anyio.wait_readable(watch)
                finally:
                    os.close(watch)
                return self._process.wait()
        return await to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process and all it started; return whether anybody was left to get it."""
        if sys.platform == "win32":
            if self._process.poll() is not None:
                return False
            self._process.terminate()
            return True
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def start(argv: Sequence[str], environ: Mapping[str, str]) -> Upstream:
    """Start the upstream. Call it from the main thread, before any other thread exists.

    Raises:
        UpstreamStartError: the program is not there (127) or cannot be executed (126).
    """
    program = _find(argv[0], environ.get("PATH"))
    their_stdin, our_stdin = os.pipe()
    our_stdout, their_stdout = os.pipe()
    try:
        process = subprocess.Popen(
            [argv[0], *argv[1:]],
            executable=program,
            stdin=their_stdin,
            stdout=their_stdout,
            env=dict(environ),
            start_new_session=_POSIX,
            # Between fork and exec, when this process still has one thread only.
            preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
        )
    except OSError as error:
        for fd in (our_stdin, our_stdout):
            os.close(fd)
        if isinstance(error, FileNotFoundError):
            problem = "its interpreter or a part of its path does not exist"
        else:
            problem = f"{os.strerror(error.errno or 0)}; check that it is an executable file"
        raise UpstreamStartError(argv[0], problem, 126) from None
    finally:
        os.close(their_stdin)
        os.close(their_stdout)
    if sys.platform == "win32":
        _tie_to_job(process)
    return Upstream(process, our_stdin, our_stdout)


def _find(program: str, path: str | None) -> str:
    """Return the file to execute, honouring PATH and, on Windows, PATHEXT."""
    found = shutil.which(program, path=path)
    if found is not None:
        return found
    if os.path.dirname(program) and os.path.exists(program):
        what = "it is a directory" if os.path.isdir(program) else "it is not executable (chmod +x)"
        raise UpstreamStartError(program, what, 126)
    where = "there is no such file" if os.path.dirname(program) else "it is not on PATH"
    raise UpstreamStartError(program, f"{where}; check the spelling or give its absolute path", 127)


def _die_with_parent() -> Callable[[], None] | None:
    """Return what a child calls on itself so that it gets SIGTERM when this process dies, SIGKILL included."""
    import ctypes

    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGTERM)

    return ask


if sys.platform == "win32":

    def _tie_to_job(process: subprocess.Popen[bytes]) -> None:
        """Put the process into a job object that ends with this process. Best effort: without it only EOF ends it."""
        import ctypes
        from ctypes import wintypes

        class _Limits(ctypes.Structure):
            _fields_ = (
                ("times", ctypes.c_int64 * 2),
                ("flags", wintypes.DWORD),
                ("working_sets", ctypes.c_size_t * 2),
                ("processes", wintypes.DWORD),
                ("affinity", ctypes.c_size_t),
                ("classes", wintypes.DWORD * 2),
                ("io", ctypes.c_uint64 * 6),
                ("memory", ctypes.c_size_t * 4),
            )

        kernel = ctypes.WinDLL("kernel32")
        kernel.CreateJobObjectW.restype = wintypes.HANDLE
        job = kernel.CreateJobObjectW(None, None)
        limits = _Limits(flags=0x2000)  # JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
        extended = 9  # JobObjectExtendedLimitInformation
        kernel.SetInformationJobObject(wintypes.HANDLE(job), extended, ctypes.byref(limits), ctypes.sizeof(limits))
        handle: int = process._handle  # type: ignore[attr-defined]
        kernel.AssignProcessToJobObject(wintypes.HANDLE(job), wintypes.HANDLE(handle))


def end_like(returncode: int) -> int:
    """Return the exit code of an upstream that exited; if a signal killed it, die of the same signal.

    So our parent reads the same wait status as without us. Where that fails, 128 + signal is returned.
    """
    if returncode >= 0:
        return returncode
    number = -returncode
    if sys.platform == "win32":
        return 128 + number
    with contextlib.suppress(OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the upstream dumped its core; ours would hide it
    with contextlib.suppress(OSError, ValueError):
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        sys.stderr.flush()
        os.kill(os.getpid(), number)
    return 128 + number
