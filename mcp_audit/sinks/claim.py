"""Which log a key that is kept elsewhere (`audit.signing_key`) belongs to: a small file beside the key says so.

Promise: a key does not sign two histories of one name while both can be seen from here: the second log that asks for a
key is refused as long as the first one is where the claim says. A log that was moved takes its claim along by being
started. What cannot be told from files is not: a key or a log copied to another host, and a key whose folder cannot be
written to, where no claim is made.
"""

from __future__ import annotations

import os
from contextlib import suppress

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.files import Files, read_small, replace, write_all
from mcp_audit.sinks.setaside import named_origins

__all__ = ["claim_key"]


def claim_key(files: Files, key_path: str, origin: str, log: str) -> None:
    """Note that the key at `key_path` signs for `log`, an absolute path; call it before the key signs anything.

    Raises:
        LedgerRefused: it signs for another log that is still there (2).
    """
    claim = os.path.realpath(key_path) + ".claim"
    holder = _holder(files, claim)
    if holder == log:
        return
    if not holder and _claim_first(files, claim, log):
        return
    holder = holder or _holder(files, claim)
    if holder not in ("", log) and origin in named_origins(files, holder):
        raise LedgerRefused(
            key_path,
            f"this key signs the log {holder} and must not sign a second history of {origin}; make a key for this log "
            "with `mcp-audit keygen` and name it in audit.signing_key, or remove the other log",
            2,
        )
    if holder != log:
        with suppress(OSError):
            replace(files, claim, os.fsencode(log) + b"\n")


def _holder(files: Files, claim: str) -> str:
    return os.fsdecode((read_small(files, claim) or b"").removesuffix(b"\n"))


def _claim_first(files: Files, claim: str, log: str) -> bool:
    """Make the claim unless there is one by now; where the folder cannot be written to nobody can tell anything."""
    try:
        fd = files.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    except OSError:
        return True
    try:
        with suppress(OSError):  # an empty claim is none, so the next start makes it
            write_all(files, fd, os.fsencode(log) + b"\n")
            files.sync(fd)
    finally:
        files.close(fd)
    return True
