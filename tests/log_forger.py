"""A forger at work on the files of a log: he can write beside it, but has no key."""

from __future__ import annotations

import gzip
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from hypothesis import strategies as st
from ledger_forge import KEY, Forge, rotated_log

from mcp_audit.ledger.segment import prune_members

NEWER, OLDER = "audit.jsonl.20260602T214605Z", "audit.jsonl.20260601T214605Z"


def forged_log(data: st.DataObject, folder: Path, secret: bytes | None) -> Path:
    """A log of any kind, JSONL with archives or a database, hurt up to three times."""
    if data.draw(st.integers(0, 2)):
        forge = files_log(data, secret)
        log = forge.write(folder / "audit.jsonl")
        lines = [line for archive in forge.archives for line in archive.data.splitlines(True)] + forge.lines
    else:
        log, lines = database_log(data, secret, folder / "audit.db"), [b"x"]
    for _ in range(data.draw(st.integers(0, 3))):
        hurt(data, folder, log, lines)
    return log


def files_log(data: st.DataObject, secret: bytes | None) -> Forge:
    forge = rotated_log(secret, rotations=data.draw(st.integers(0, 3)), calls=data.draw(st.integers(0, 2)))
    if data.draw(st.booleans()) and forge.archives:
        forge.open("close")
        for archive in forge.archives[: data.draw(st.integers(1, len(forge.archives)))]:
            forge.prune(archive.end)
        if data.draw(st.booleans()):
            forge.close(of=next(iter(forge.chain.runs)))
            forge.sign()
    return forge


def database_log(data: st.DataObject, secret: bytes | None, path: Path) -> Path:
    forge = Forge(secret)
    notes = {}
    forge.open()
    for _ in range(data.draw(st.integers(0, 2))):
        forge.call()
        notes[forge.chain.size] = forge.sign()
    first = forge.chain.size
    told = prune_members(forge.chain, KEY.vkey, 0, "max_age_days: 1")
    forge.call()
    forge.typed("prune", **told)
    if data.draw(st.booleans()):
        forge.close()
        forge.sign()
    forge.sign() if data.draw(st.booleans()) else None
    return forge.write_sqlite(path, first=data.draw(st.sampled_from([0, first])), notes=notes)


def hurt(data: st.DataObject, folder: Path, log: Path, lines: list[bytes]) -> None:
    """One thing that somebody with access to the folder, and without a key, can do."""
    paths = sorted(path for path in folder.iterdir() if path.suffix != ".live")
    if not paths:
        return
    one = data.draw(st.sampled_from(paths))
    other = data.draw(st.sampled_from(paths))
    names = ["audit.jsonl.1", "audit.jsonl-20260611", f"{log.name}.9", OLDER, f"{NEWER}.gz", f"{log.name}.pub"]
    spare = folder / data.draw(st.sampled_from([*names, f"{NEWER}.checkpoint", f"{log.name}.failed-{NEWER[12:]}"]))
    ways: dict[str, Callable[[], object]] = {
        "remove": one.unlink,
        "copy": lambda: one != other and shutil.copy(one, other),
        "rename": lambda: one.rename(spare),
        "spare": lambda: one != spare and shutil.copy(one, spare),
        "pack": lambda: one.write_bytes(gzip.compress(one.read_bytes())),
        "edit": lambda: one.write_bytes(edit(data, one.read_bytes(), lines)),
        "row": lambda: log.suffix == ".db" and log.exists() and row_edit(data, log),
        "append": lambda: one.write_bytes(one.read_bytes() + b"".join(data.draw(st.permutations(lines[:4])))),
    }
    ways[data.draw(st.sampled_from(sorted(ways)))]()


def row_edit(data: st.DataObject, log: Path) -> None:
    """Something else in a row, of whatever type; a damaged database takes none."""
    table, column = data.draw(st.sampled_from([("entries", "line"), ("checkpoints", "note"), ("checkpoints", "size")]))
    value = data.draw(
        st.sampled_from(["NULL", "5", "1.5", "x'00'", "'x'", "CAST({0} AS BLOB)", "{0} || ' '", "{0} + 1"])
    )
    with suppress(sqlite3.DatabaseError):
        edited(
            log, f"UPDATE {table} SET {column} = {value.format(column)} WHERE rowid = ?", data.draw(st.integers(0, 5))
        )


def edit(data: st.DataObject, content: bytes, lines: list[bytes]) -> bytes:
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 300)))
    return (
        content[:start] + data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"{}\n", *lines])) + content[end:]
    )


def edited(log: Path, statement: str, *values: object) -> Path:
    """Run a statement as if the line were of any type; the schema says afterwards what it said before."""
    loose = {
        "entries": "CREATE TABLE entries (seq INTEGER PRIMARY KEY, line)",
        "checkpoints": "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note)",
    }
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")
        honest = database.execute(
            "SELECT sql, name FROM sqlite_schema WHERE type = 'table' AND name != 'meta'"
        ).fetchall()
        for name, sql in loose.items():
            database.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (sql, name))
    with closing(sqlite3.connect(log, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema=ON")  # else it would miss the columns that the indexes are on
        database.execute(statement, values)
        database.executemany("UPDATE sqlite_schema SET sql = ? WHERE name = ?", honest)
    return log
