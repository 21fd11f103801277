"""Go over to the file that now stands at a log's path, after a rotation or a rescue by another process.

Promise: the new file is believed only if it goes on where this process stood: every line between is read and fits, or,
where those files were pruned or moved away, the new file fits the checkpoint that the log key signed. Nothing is
changed on the disk, nor in the chain of the caller, who can try again.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import BinaryIO, NamedTuple, cast

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment_files import SegmentFile, look_at, survey
from mcp_audit.sinks.files import Files, discard, open_regular, temporary_name, write_all

__all__ = ["CannotFollow", "Followed", "follow", "read_into", "unpack"]

_CHUNK = 4 << 20
_FOREIGN = "another file stands at its path; put the ledger back and restart"


class CannotFollow(Exception):
    """The file at the path does not go on with the log; the message says why."""


class Followed(NamedTuple):
    """The file at the path, open to append, and how far it was read."""

    fd: int
    file: SegmentFile
    scanner: Scanner


def follow(
    files: Files, log: str, path: str, chain: Chain, keyring: Mapping[str, Mac], signed: Checkpoint | None
) -> Followed:
    """Open the newest file of a log and read it to its end. Call it with the append lock held.

    Args:
        path: of that file; mostly the log's own.
        chain: where the file before ended, for this process.
        signed: the newest checkpoint of the log, if there is one that verifies.

    Raises:
        CannotFollow: what stands there is not believed.
        OSError, LedgerRefused: it cannot be opened or read; FileNotFoundError: it is not there any more.
    """
    fd, found = open_regular(files, path, os.O_RDWR | os.O_APPEND)
    try:
        file = look_at(path)
        if file is None or file.identity != (found.st_dev, found.st_ino):
            raise FileNotFoundError(errno.ENOENT, "it was replaced at this moment", path)
        if file.origin != chain.origin:
            raise CannotFollow(_FOREIGN)
        if file.start > chain.size:
            bridged = _bridge(log, file, chain)
        else:
            bridged = chain.copy() if file.start == chain.size else None
        if bridged is not None:
            scanner = Scanner(bridged)
        else:
            scanner = Scanner(Chain(chain.origin, keyring=keyring), [chain.size, *([signed.size] if signed else [])])
        read_into(files, fd, scanner)
        if bridged is None:
            _require_fit(scanner, file, chain, signed)
    except BaseException:
        files.close(fd)
        raise
    return Followed(fd, file, scanner)


def unpack(files: Files, log: str, file: SegmentFile) -> int:
    """Return a descriptor of what a compressed segment holds; the copy has no name, so nothing is left of it.

    Raises:
        OSError: it cannot be read as a whole, or copied.
    """
    temporary = temporary_name(log)
    fd = files.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL)
    try:
        discard(files, temporary)
        for data in _content(file):
            write_all(files, fd, data)
    except (EOFError, zlib.error) as error:
        files.close(fd)
        raise OSError(errno.EIO, f"{file.name} is damaged: {error}") from error
    except BaseException:
        files.close(fd)
        raise
    return fd


def read_into(files: Files, fd: int, scanner: Scanner) -> None:
    """Feed the scanner to the present end of the file; without the lock that may be inside a line."""
    while scanner.fault is None:
        data = files.read_at(fd, _CHUNK, scanner.position)
        if not data:
            return
        scanner.feed(data)


def _require_fit(scanner: Scanner, file: SegmentFile, chain: Chain, signed: Checkpoint | None) -> None:
    """Believe a file that was read from its own first line: it holds what we accepted, or what was signed since."""
    if scanner.fault is None and file.start <= chain.size and chain.size not in scanner.roots:
        scanner.finish()
    accepted = scanner.roots.get(chain.size)
    if accepted is not None and accepted != chain.tree.root():
        raise CannotFollow("the file at its path holds other lines than were written; run `mcp-audit verify`")
    if file.start <= chain.size:
        if accepted is None:
            raise CannotFollow("the file at its path lacks lines that were written; put the ledger back and restart")
        return
    if signed is None or scanner.roots.get(signed.size) != signed.root:
        raise CannotFollow("the file at its path does not fit its checkpoint; run `mcp-audit verify`")


def _bridge(log: str, newest: SegmentFile, chain: Chain) -> Chain | None:
    """Read the archives between `chain` and the newest file; return the chain behind them, None if one is missing.

    Raises:
        CannotFollow: one does not fit.
    """
    standing = chain.copy()
    for file in survey(log).chosen(chain.origin):
        if file.start != standing.size or file.start >= newest.start:
            continue
        scanner = Scanner(standing)
        try:
            for data in _content(file):
                scanner.feed(data)
        except (EOFError, zlib.error, FileNotFoundError):  # pruned or compressed meanwhile
            return None
        scanner.finish()
        if scanner.fault is not None:
            raise CannotFollow(f"{file.name} does not fit what was written: {scanner.fault}")
    return standing if standing.size == newest.start else None


def _content(file: SegmentFile) -> Iterator[bytes]:
    import gzip  # hardly any session needs it, and every one would pay for it

    with closing(cast(BinaryIO, gzip.open(file.path) if file.gz else open(file.path, "rb"))) as data:
        while chunk := data.read(_CHUNK):
            yield chunk
