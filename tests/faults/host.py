"""What some faults need of the machine: mounts, system call injection, preloaded libraries; skips where it has not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from glob import glob
from pathlib import Path

import pytest

__all__ = ["libfaketime", "loop_mount", "needs_root", "strace", "tmpfs"]


def needs_root() -> None:
    """Skip unless we may mount."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("platform: mounting needs root on Linux")


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size."""
    needs_root()
    folder.mkdir()
    _mount("tmpfs", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def loop_mount(image: Path, folder: Path) -> Iterator[Path]:
    """An ext4 file system in a file, made if it is missing, with its own journal and nothing shared with ours."""
    needs_root()
    mkfs = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if mkfs is None:
        pytest.skip("platform: mkfs.ext4 is missing")
    if not image.exists():
        image.touch()
        os.truncate(image, 32 << 20)
        subprocess.run([mkfs, "-q", "-F", str(image)], check=True)
    folder.mkdir(exist_ok=True)
    _mount("ext4 on a loop device", "-o", "loop,noauto_da_alloc,commit=300", str(image), str(folder))
    try:
        yield folder
    except BaseException:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        raise
    try:
        subprocess.run(["umount", str(folder)], check=True)
    except subprocess.CalledProcessError:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # a dead file system left mounted breaks later runs
        raise


def _mount(what: str, *arguments: str) -> None:
    mounted = subprocess.run(["mount", *arguments], check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"platform: this machine mounts no {what}: {mounted.stderr.strip()}")


@cache
def _strace() -> str:
    """Return why strace cannot be used, or nothing."""
    if shutil.which("strace") is None:
        return "strace is missing"
    tried = subprocess.run(
        ["strace", "-o", os.devnull, "-e", "inject=getppid:error=EIO", "true"], check=False, capture_output=True
    )
    return "" if tried.returncode == 0 else "strace may not trace here"


def strace(*injections: str, path: Path | None = None, threads: bool = True) -> list[str]:
    """Return the command that runs another one with system calls injected, those on `path` only if given."""
    if sys.platform != "linux" or _strace():
        pytest.skip(f"platform: {_strace() or 'strace is for Linux'}")
    names = ",".join(sorted({injection.partition(":")[0] for injection in injections}))
    argv = [
        "strace",
        "-qq",
        *(["-f", "--seccomp-bpf"] if threads else []),
        "-o",
        os.devnull,
        "-e",
        f"trace={names}",
        "-e",
        "signal=none",
    ]
    for injection in injections:
        argv += ["-e", f"inject={injection}"]
    return [*argv, *(["-P", str(path)] if path else []), "--"]


def libfaketime() -> str:
    """Return the library that fakes the clock."""
    for pattern in ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib*/faketime/libfaketime.so.1"):
        if found := glob(pattern):
            return found[0]
    pytest.skip("platform: libfaketime is missing")
