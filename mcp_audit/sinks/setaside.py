"""Old logs that a new one follows: moved aside whole, named in the new log's first line.

A log that was lost (the operator said so) goes to `<log>.lost-<time>/`, one of the Go version of mcp-audit to
`<log>.legacy-<time>/`. Promise: files move unchanged, nothing is deleted, and an interruption leaves a state that a
start refuses or finishes, never one that looks like a fresh beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.files import Files, open_regular, read_small

__all__ = ["is_seed_log", "move_aside", "named_origins", "predecessor", "set_aside_origins"]

_CHUNK = 1 << 20
_FIRST_LINE = 64 << 20
_ORIGIN = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_LOG = re.compile(
    rb',"log":"([A-Za-z0-9._/-]{1,200})","seq":[0-9]+,"prev":"[0-9a-f]{64}"(?:,"mac":"[0-9a-f]{64}")?\}\Z'
)
_ARCHIVE = r"\.[0-9]{8}T[0-9]{6}Z(\.[0-9]+)?(\.gz)?"
_DATABASE = r"-(wal|shm|journal)"


def is_seed_log(files: Files, log: str) -> bool:
    """Say whether a file is a JSONL log of the Go version: its first line is an entry with `id`, without `log`."""
    try:
        line = json.loads(_first_line(files, log))
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and "id" in line and "log" not in line


def move_aside(files: Files, log: str, kind: str, time: str) -> str:
    """Move a log's files into a new directory beside it and return that.

    Args:
        kind: `lost` moves everything but the locks, `legacy` the log and its archives.
        time: an RFC 3339 timestamp, for the directory's name.
    """
    directory, name = os.path.split(log)
    target = _make_directory(files, f"{log}.{kind}-{re.sub(r'[-:]', '', time.partition('.')[0])}Z")
    for part in _parts(directory, name, kind):
        files.rename(os.path.join(directory, part), os.path.join(target, part))
    files.sync_directory(target)
    files.sync_directory(directory)
    return target


def predecessor(files: Files, log: str) -> tuple[str, dict[str, Any] | None]:
    """Return what a new log comes after (`loss`, `legacy` or `new`) and what its first line says about that.

    The newest directory set aside tells: so an interruption between moving and creating is not forgotten.
    """
    for directory, kind in sorted(_set_aside(log), key=lambda found: found[0].rpartition("-")[2], reverse=True):
        old = os.path.join(directory, os.path.basename(log))
        note = _text(files, old + ".checkpoint")
        origins = named_origins(files, old)
        about: dict[str, Any] = {
            "origin": next(iter(sorted(origins)), None),
            "note": note or None,
            **_digest(files, old),
        }
        return ("loss" if kind == "lost" else "legacy"), {k: v for k, v in about.items() if v is not None}
    return "new", None


def set_aside_origins(files: Files, log: str) -> frozenset[str]:
    """Return the names under which lost logs were signed; a key must not sign a second history of one."""
    name = os.path.basename(log)
    return frozenset[str]().union(*(named_origins(files, os.path.join(where, name)) for where, _ in _set_aside(log)))


def named_origins(files: Files, log: str) -> frozenset[str]:
    """Return every name that the files of a log give it, however damaged they are."""
    names = [
        (_text(files, log + ".checkpoint") or "").partition("\n")[0],
        (_text(files, log + ".pub") or "").partition("+")[0],
        (_text(files, log + ".key") or "").removeprefix("PRIVATE+KEY+").partition("+")[0],
    ]
    tail = _LOG.search(_first_line(files, log))
    names.append(tail[1].decode() if tail else "")
    return frozenset(name for name in names if _ORIGIN.fullmatch(name))


def _set_aside(log: str) -> Iterator[tuple[str, str]]:
    directory, name = os.path.split(log)
    pattern = re.compile(rf"{re.escape(name)}\.(lost|legacy)-[0-9]{{8}}T[0-9]{{6}}Z(\.[0-9]+)?")
    for entry in os.listdir(directory):
        found = pattern.fullmatch(entry)
        path = os.path.join(directory, entry)
        if found and os.path.isdir(path):
            yield path, found[1]


def _parts(directory: str, name: str, kind: str) -> list[str]:
    """Return the names to move, in an order that leaves no harmless-looking rest.

    The private key goes first, so that it cannot sign again; the verifier key last, so that until then a start still
    sees that a log was here.
    """
    suffix = rf"(\..*|-[0-9].*|{_DATABASE})?" if kind == "lost" else rf"({_ARCHIVE}|{_DATABASE})?"
    pattern = re.compile(re.escape(name) + suffix, re.DOTALL)
    found = [entry for entry in os.listdir(directory) if pattern.fullmatch(entry)]
    found = [entry for entry in found if not entry.endswith((".lock", ".live"))]
    found = [entry for entry in found if stat.S_ISREG(os.lstat(os.path.join(directory, entry)).st_mode)]
    last = {name + ".key": -1, name: 1, name + ".pub": 2}
    return sorted(found, key=lambda entry: (last.get(entry, 0), entry))


def _make_directory(files: Files, path: str) -> str:
    number = 0
    while True:
        target = f"{path}.{number}" if number else path
        try:
            files.mkdir(target, 0o700)
        except FileExistsError:
            number += 1
        else:
            return target


def _text(files: Files, path: str) -> str | None:
    try:
        data = read_small(files, path)
    except LedgerRefused:
        return None
    return None if data is None else data.decode("utf-8", "replace")


def _first_line(files: Files, path: str) -> bytes:
    line = b""
    try:
        fd, _ = open_regular(files, path, os.O_RDONLY)
    except (FileNotFoundError, LedgerRefused):
        return line
    try:
        while len(line) < _FIRST_LINE and b"\n" not in line:
            data = files.read_at(fd, _CHUNK, len(line))
            if not data:
                break
            line += data
    finally:
        files.close(fd)
    return line.partition(b"\n")[0]


def _digest(files: Files, path: str) -> dict[str, Any]:
    try:
        fd, _ = open_regular(files, path, os.O_RDONLY)
    except (FileNotFoundError, LedgerRefused):
        return {}
    digest, size = hashlib.sha256(), 0
    try:
        while data := files.read_at(fd, _CHUNK, size):
            digest.update(data)
            size += len(data)
    finally:
        files.close(fd)
    return {"bytes": size, "sha256": digest.hexdigest()}
