"""Open files whose bytes are there and end: regular ones.

Promise: opening never waits, and reading comes to an end. Whoever can write beside a log could put a FIFO there, a
device, or a link that leads elsewhere; a checker must neither hang on it nor read for whoever put it there.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import BinaryIO, cast

__all__ = ["is_plain_file", "open_regular"]

_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def open_regular(path: str, *, follow: bool = True) -> BinaryIO:
    """Open a regular file to read, unbuffered.

    Args:
        follow: a symbolic link may lead to it; only for what a user named.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    return cast(BinaryIO, open(path, "rb", buffering=0, opener=partial(_opened, 0 if follow else _NO_LINK)))


def is_plain_file(path: str) -> bool:
    """Say whether a regular file is at a path, and no link to one."""
    return os.path.isfile(path) and not os.path.islink(path)


def _opened(extra: int, path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | extra | _NO_WAIT)
    except OSError as error:
        if error.errno == errno.ELOOP and extra:
            raise OSError(errno.ELOOP, "it is a symbolic link, and a ledger keeps none", path) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "it is no regular file", path)
