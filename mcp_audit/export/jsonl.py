"""The ledger's own lines, byte for byte: one file for each of a JSONL log, uncompressed; one for a SQLite log.

Promise: with the note and the verifier key that come along, `verify` says of the copy what it says of the log. Notes
are read before lines, so a log in use can only be longer than its note says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from mcp_audit.export import Part
from mcp_audit.ledger.evidence import CannotLook, chunks, is_sqlite
from mcp_audit.ledger.reading.reader import raw_lines
from mcp_audit.ledger.reading.segment_stream import FileMoved, files_of, opened
from mcp_audit.ledger.regular import open_regular
from mcp_audit.ledger.segment_files import SegmentFile, plain_name

__all__ = ["parts"]

_BATCH = 256
_TRIES = 100


def parts(log: str, on_notice: Callable[[str], None]) -> list[Part]:
    """Return the files of an export; the last one has note and key of the log as it is now.

    Raises:
        CannotLook: the log cannot be read.
    """
    beside = {
        suffix: data for suffix in (".checkpoint", ".pub") if (data := _small(plain_name(log) + suffix)) is not None
    }
    files = files_of(log)
    if not files:
        raise CannotLook(log, "is empty")
    if is_sqlite(files[-1].path):
        name = os.path.splitext(os.path.basename(log))[0] + ".jsonl"
        return [Part(name, _rows(log, on_notice), beside, files[-1].size)]
    names = _names(log, files)
    notes = [_small(file.note_path) for file in files[:-1]]
    extras: list[dict[str, bytes]] = [{".checkpoint": note} if note is not None else {} for note in notes]
    together = zip(files, names, [*extras, beside], strict=True)
    return [Part(name, _bytes(log, file), extra, file.size) for file, name, extra in together]


def _names(log: str, files: list[SegmentFile]) -> list[str]:
    """Return the files' names without `.gz`, each once."""
    names = [plain_name(file.name) for file in files]
    if len(set(names)) != len(names):
        raise CannotLook(log, "two of its archives differ only in .gz; move one of them away")
    return names


def _small(path: str) -> bytes | None:
    try:
        with open_regular(path, follow=False) as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error


def _bytes(log: str, file: SegmentFile) -> Iterator[bytes]:
    """Yield a file's bytes, wherever a rotation or compression has put it meanwhile."""
    for _ in range(_TRIES):
        try:
            with opened(file) as stream:
                yield from chunks(stream)
                return
        except FileMoved as error:
            moved = [other for other in files_of(log) if other.start == file.start >= 0]
            if not moved:
                raise CannotLook(file.path, "was removed while the log was read; try again") from error
            file = moved[0]
    raise CannotLook(file.path, "is being renamed all the time; try again")


def _rows(log: str, on_notice: Callable[[str], None]) -> Iterator[bytes]:
    batch: list[bytes] = []
    for line in raw_lines(log, False, on_notice):
        batch.append(line + b"\n")
        if len(batch) == _BATCH:
            yield b"".join(batch)
            batch.clear()
    yield b"".join(batch)
