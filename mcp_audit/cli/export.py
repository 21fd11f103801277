"""Write a ledger's content to a file, a folder or stdout, for keeping elsewhere or for other programs.

jsonl is the ledger's own lines, byte for byte, of all its files or of its database. With -o come copies of the
checkpoint and the verifier key, and `verify` says of the copy what it says of the ledger. A ledger with archives goes
to a folder, one file for each of its own, uncompressed: in one stream the lines are all there, fit for other programs,
but `verify` wants the files apart, since each begins with the line that ties it to the one before.

example: mcp-audit export audit.db --format jsonl -o audit-2026.jsonl
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator

from mcp_audit.cli.filters import notice
from mcp_audit.cli.progress import progress_of
from mcp_audit.errors import ConfigError, LedgerFileError
from mcp_audit.export import FORMATS, Part, parts_of
from mcp_audit.ledger.segment_files import log_of_archive

__all__ = ["CannotWrite", "add_arguments", "run"]

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class CannotWrite(LedgerFileError):
    """The export cannot be written there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `export`."""
    parser.add_argument("log", metavar="LOG", help="a ledger: JSONL, gzip or SQLite; archives beside it are found")
    parser.add_argument("--format", choices=tuple(FORMATS), default="jsonl")
    parser.add_argument(
        "-o", dest="output", metavar="PATH", help="file to write, for a ledger with archives a folder; default: stdout"
    )
    parser.add_argument("--force", action="store_true", help="replace what is there")


def run(args: argparse.Namespace) -> int:
    """Write the export; 2 if it cannot be."""
    parts = parts_of(args.format, args.log, notice)
    with progress_of("export") as report:
        total = sum(part.size for part in parts)
        if args.output is None:
            _to_stdout(parts, lambda done: report("export", done, total))
            return 0
        targets = _targets(parts, args)
        _refuse_to_overwrite(
            [*targets, *(t + s for part, t in zip(parts, targets, strict=True) for s in part.beside)], args
        )
        try:
            written = 0
            for part, target in zip(parts, targets, strict=True):
                written = _write_part(part, target, args.force, written, lambda done: report("export", done, total))
        except FileExistsError as error:
            raise CannotWrite(str(error.filename), "is there already; --force replaces it") from error
        except OSError as error:
            raise CannotWrite(args.output, f"cannot be written: {error.strerror}; choose another place") from error
    print(f"{args.output}: {written} bytes in {len(parts)} file{'s' if len(parts) > 1 else ''}", file=sys.stderr)
    return 0


def _to_stdout(parts: Iterable[Part], progress: Callable[[int], None]) -> None:
    count = done = 0
    sys.stdout.flush()
    for count, part in enumerate(parts, 1):  # noqa: B007
        for chunk in part.chunks:
            sys.stdout.buffer.write(chunk)
            done += len(chunk)
            progress(done)
    sys.stdout.buffer.flush()
    if count > 1:
        notice(f"this stream is {count} files of the ledger; to have a copy that `verify` takes, use -o FOLDER")


def _targets(parts: list[Part], args: argparse.Namespace) -> list[str]:
    """Return where each part goes: one to the path itself, several into a folder of that name."""
    if len(parts) == 1 and not os.path.isdir(args.output):
        return [args.output]
    try:
        os.makedirs(args.output, mode=0o700, exist_ok=True)
    except FileExistsError:
        raise ConfigError(
            "", f"the ledger has {len(parts)} files and needs a folder, but {args.output} is a file", "-o"
        ) from None
    except OSError as error:
        raise CannotWrite(args.output, f"cannot be made: {error.strerror}; choose another place") from error
    return [os.path.join(args.output, part.name) for part in parts]


def _refuse_to_overwrite(targets: list[str], args: argparse.Namespace) -> None:
    """Refuse before anything is written; never replace a file of the ledger by its own copy."""
    folder, name = os.path.split(os.path.realpath(log_of_archive(args.log) or args.log))
    for target in targets:
        there, called = os.path.split(os.path.realpath(target))
        if there == folder and (called == name or called.startswith(name + ".")):
            raise CannotWrite(target, "belongs to the ledger itself; choose another place")
        if os.path.lexists(target) and not args.force:
            raise CannotWrite(target, "is there already; --force replaces it")
        if os.path.lexists(target) and (os.path.islink(target) or not os.path.isfile(target)):
            raise CannotWrite(target, "is no regular file; choose another place")


def _write_part(part: Part, target: str, force: bool, written: int, progress: Callable[[int], None]) -> int:
    def counted() -> Iterator[bytes]:
        nonlocal written
        for chunk in part.chunks:
            written += len(chunk)
            progress(written)
            yield chunk

    _write(target, counted(), force)
    for suffix, data in part.beside.items():
        _write(target + suffix, [data], force)
    return written


def _write(path: str, chunks: Iterable[bytes], force: bool) -> None:
    """Write a file of mode 0600 that appears whole or not at all."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp-{secrets.token_hex(8)}")
    with os.fdopen(os.open(temporary, _FLAGS, 0o600), "wb") as file:
        try:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
            if force:
                os.replace(temporary, path)
            else:
                _put(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def _put(temporary: str, path: str) -> None:
    """Give a file its name unless something has it. Where there are no hard links, between the look and the renaming
    somebody else's file could come; nowhere else."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise
        os.rename(temporary, path)
    else:
        os.unlink(temporary)
