"""The storage under a ledger: every operation that can fail, in one small class that a test can make fail.

Promise: nothing of the ledger is opened through a symbolic link, shared through a second hard link, or created readable
by others; a small file is replaced whole or not at all. Writers reach the disk only through a `Files`.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import secrets
import stat
import sys
from typing import TYPE_CHECKING

from mcp_audit.errors import LedgerRefused

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "NETWORK_FILESYSTEMS",
    "Files",
    "discard",
    "discard_temporaries",
    "install",
    "make_directory",
    "open_regular",
    "read_small",
    "refuse_network",
    "replace",
    "require_ours",
    "stands_at",
    "temporary_name",
    "write_all",
    "write_aside",
]

NETWORK_FILESYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"}
    | {"ocfs2", "prl_fs", "smb3", "smbfs", "vboxsf"}
    | {f"fuse.{kind}" for kind in ("ceph", "davfs2", "gcsfuse", "glusterfs", "rclone", "s3fs", "sshfs", "vmhgfs-fuse")}
)
_PREAD = getattr(os, "pread", None)
_SMALL = 4 << 20
# Windows lacks most of these; there O_BINARY keeps it from rewriting line feeds.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_ALWAYS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # or the open of a FIFO would wait for its other end


class Files:
    """The operating system's files. A test's subclass fails the N-th operation before or after it took effect.

    `rename` replaces what is at the target. `write` may be short and says so.
    """

    close = staticmethod(os.close)
    fstat = staticmethod(os.fstat)
    link = staticmethod(os.link)
    lstat = staticmethod(os.lstat)
    mkdir = staticmethod(os.mkdir)
    rename = staticmethod(os.replace)
    seek = staticmethod(os.lseek)
    truncate = staticmethod(os.ftruncate)
    unlink = staticmethod(os.unlink)
    write = staticmethod(os.write)

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        """Return a descriptor that children do not inherit."""
        return os.open(path, flags | _ALWAYS, mode)

    def read_at(self, fd: int, count: int, offset: int) -> bytes:
        """Return up to `count` bytes from `offset`, empty at the end; appends do not move."""
        if _PREAD is not None:
            data: bytes = _PREAD(fd, count, offset)
            return data
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, count)

    def sync(self, fd: int) -> None:
        """Return when the file's data is on the medium. After an error never ask again: the pages may be gone."""
        if sys.platform == "darwin":  # fsync there stops at the drive's cache
            fcntl = importlib.import_module("fcntl")
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            getattr(os, "fdatasync", os.fsync)(fd)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable; Windows does so by itself."""
        if sys.platform != "win32":
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _ALWAYS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def connect(self, path: str) -> sqlite3.Connection:
        """Open a database without implicit transactions; the caller lets one thread in at a time."""
        import sqlite3  # most ledgers are files of lines and need none of it

        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)

    def filesystem(self, path: str) -> str:
        """Return the type of the filesystem that holds `path`, or "" where nobody says."""
        try:
            device = os.stat(path).st_dev
            wanted = f"{getattr(os, 'major')(device)}:{getattr(os, 'minor')(device)}"  # noqa: B009 (not on Windows)
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
                for mount in mounts:
                    fields = mount.split()
                    if fields[2] == wanted:
                        return fields[fields.index("-") + 1]
        except (OSError, AttributeError, ValueError, IndexError):
            return ""
        return ""


def make_directory(files: Files, path: str) -> None:
    """Create a directory and its missing parents for us alone; refuse one where others may swap our files.

    Raises:
        LedgerRefused: it cannot be made or used.
    """
    missing = []
    here = path
    while not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    try:
        for directory in reversed(missing):
            files.mkdir(directory, 0o700)
        found = os.stat(path)
    except OSError as error:
        raise LedgerRefused(path, f"cannot hold a ledger ({error.strerror}); choose another place", 2) from error
    if not stat.S_ISDIR(found.st_mode):
        raise LedgerRefused(path, "is not a directory; choose another place for the ledger", 2)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX and os.name != "nt":
        raise LedgerRefused(
            path, "everybody may write in this directory, and so replace the ledger in it; run `chmod o-w` on it", 2
        )


def refuse_network(files: Files, path: str, allowed: bool) -> None:
    """Refuse a directory on a network filesystem: locks and syncs mean there what the server makes of them.

    Raises:
        LedgerRefused: it is on one, and nobody allowed it.
    """
    kind = files.filesystem(path)
    if kind in NETWORK_FILESYSTEMS and not allowed:
        raise LedgerRefused(
            path, f"is on a network filesystem ({kind}); use a local disk, or set audit.allow_network_fs: true", 2
        )


def open_regular(files: Files, path: str, flags: int) -> tuple[int, os.stat_result]:
    """Open a file of the ledger and return its descriptor and what it is.

    Raises:
        LedgerRefused: it is no regular file, not ours, or has a second name.
        FileNotFoundError: there is none (and `flags` do not create one).
    """
    try:
        fd = files.open(path, flags | _NO_FOLLOW | _NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        problem = f"cannot be opened ({error.strerror}); make it writable for this user or choose another path"
        if error.errno in (errno.ELOOP, errno.EMLINK):
            problem = "is a symbolic link, which somebody could turn elsewhere; name the file itself"
        elif error.errno in (errno.EISDIR, errno.ENXIO):
            problem = "is not a regular file; choose another path for the ledger"
        raise LedgerRefused(path, problem, 2) from error
    try:
        found = files.fstat(fd)
        require_ours(path, found)
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def require_ours(path: str, found: os.stat_result) -> None:
    """Refuse what is no regular file, not ours, or has a second name.

    Raises:
        LedgerRefused: in words.
    """
    problem = ""
    if stat.S_ISLNK(found.st_mode):
        problem = "is a symbolic link, which somebody could turn elsewhere; name the file itself"
    elif not stat.S_ISREG(found.st_mode):
        problem = "is not a regular file; choose another path for the ledger"
    elif hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        problem = f"belongs to user {found.st_uid}, not to us; choose another path, or run as its owner"
    elif found.st_nlink > 1:
        problem = f"has {found.st_nlink} names (hard links) and could be changed under another one; remove the others"
    if problem:
        raise LedgerRefused(path, problem, 2)


def stands_at(files: Files, path: str, found: os.stat_result) -> bool:
    """Say whether the file at `path` is the one that was found, whatever it was called then."""
    try:
        return os.path.samestat(files.lstat(path), found)
    except FileNotFoundError:
        return False


def read_small(files: Files, path: str) -> bytes | None:
    """Return the content of a small file of the ledger, or None if there is none.

    Raises:
        LedgerRefused: it is not fit to be read, see `open_regular`.
    """
    try:
        fd, _ = open_regular(files, path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return files.read_at(fd, _SMALL, 0)
    finally:
        files.close(fd)


def temporary_name(path: str) -> str:
    """Return a new name beside `path`; with its dot in front no search for `<log>.*` takes it for a part of the log."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.tmp-{secrets.token_hex(8)}")


def write_aside(files: Files, path: str, data: bytes, mode: int = 0o600) -> str:
    """Write `data` to a new temporary file beside `path`, sync it, and return its name; `install` comes next."""
    temporary = temporary_name(path)
    fd = files.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, mode)
    try:
        write_all(files, fd, data)
        files.sync(fd)
    except BaseException:
        files.close(fd)
        discard(files, temporary)
        raise
    files.close(fd)
    return temporary


def install(files: Files, temporary: str, path: str) -> None:
    """Put what `write_aside` wrote into its place, durably."""
    files.rename(temporary, path)
    files.sync_directory(os.path.dirname(path))


def replace(files: Files, path: str, data: bytes, mode: int = 0o600) -> None:
    """Give a small file its new content, whole or not at all."""
    temporary = write_aside(files, path, data, mode)
    try:
        install(files, temporary, path)
    except BaseException:
        discard(files, temporary)
        raise


def discard(files: Files, temporary: str) -> None:
    """Remove a temporary file if it is still there."""
    try:
        files.unlink(temporary)
    except OSError:  # what stays behind is removed by the next start that is alone
        return


def discard_temporaries(files: Files, log: str) -> None:
    """Remove what crashed writers of this log left; only for who holds the append lock and is alone."""
    directory, name = os.path.split(log)
    leftover = re.compile(rf"\.{re.escape(name)}(\.[A-Za-z0-9.]+)?\.tmp-[0-9a-f]{{16}}")
    for entry in os.listdir(directory):
        if leftover.fullmatch(entry):
            discard(files, os.path.join(directory, entry))


def write_all(files: Files, fd: int, data: bytes) -> None:
    """Write all of `data`, however short the writes are.

    Raises:
        OSError: not all of it fits.
    """
    view = memoryview(data)
    while view:
        written = files.write(fd, view)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        view = view[written:]
