"""Which files are parts of a log: by their first line, in the order of their lines, whatever they are called."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ledger_forge import SECRET, Forge, rotated_log

from mcp_audit.ledger.keys import LogKey
from mcp_audit.ledger.segment_files import (
    SegmentFile,
    Survey,
    is_archive_name,
    log_of_archive,
    look_at,
    segment_files,
    survey,
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return rotated_log().write(tmp_path / "audit.jsonl")


def names(log: Path) -> list[tuple[str, int]]:
    return [(file.name, file.start) for file in segment_files(str(log))]


def test_archives_and_the_active_file(log: Path) -> None:
    """In the order of their lines, the active one last; what the ledger keeps beside them is none of them."""
    first, second = "audit.jsonl.20260601T214605Z", "audit.jsonl.20260602T214605Z"
    for suffix in ("key", "lock", "live", "index", "pub", "checkpoint"):
        log.with_name(f"audit.jsonl.{suffix}").write_bytes(log.read_bytes())
    log.with_name("audit.jsonl.lost-20260610T214605Z").mkdir()
    log.with_name("audit.jsonl.link").symlink_to(log.with_name(first))
    log.with_name("audit.jsonlx").write_bytes(log.with_name(first).read_bytes())

    assert names(log) == [(first, 0), (second, 5), ("audit.jsonl", 10)]
    assert [file.gz for file in segment_files(str(log))] == [False] * 3


def test_a_relative_path(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder need not be named."""
    monkeypatch.chdir(log.parent)
    assert [file.path for file in segment_files("audit.jsonl")][-1] == "audit.jsonl"
    assert len(segment_files("audit.jsonl")) == 3


def test_compressed_and_renamed(log: Path) -> None:
    """Both are known by their first line; the note belongs to the uncompressed name."""
    first = log.with_name("audit.jsonl.20260601T214605Z")
    log.with_name("audit.jsonl.2.gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    (found, *_) = segment_files(str(log))

    assert (found.name, found.start, found.gz) == ("audit.jsonl.2.gz", 0, True)
    assert found.note_path == str(log.with_name("audit.jsonl.2.checkpoint"))


def test_of_copies_one_is_taken(log: Path) -> None:
    """The one that the next file names, uncompressed before compressed, before any backup."""
    first = log.with_name("audit.jsonl.20260601T214605Z")
    for name in ("audit.jsonl.1", "audit.jsonl.20250101T000000Z"):
        log.with_name(name).write_bytes(first.read_bytes())
    first.with_name(first.name + ".gz").write_bytes(gzip.compress(first.read_bytes()))
    assert names(log)[0] == (first.name, 0)
    first.unlink()
    assert names(log)[0] == (first.name + ".gz", 0)
    first.with_name(first.name + ".gz").unlink()
    assert names(log)[0] == ("audit.jsonl.20250101T000000Z", 0)


def test_thousands_of_archives_are_gone_through_once(log: Path) -> None:
    """Writers choose under the append lock; going through all files for each of them would hold up everybody."""

    class Counted(tuple[SegmentFile, ...]):
        rounds = 0

        def __iter__(self) -> Iterator[SegmentFile]:
            Counted.rounds += 1
            return super().__iter__()

    found = survey(str(log))
    assert found.active is not None
    many = Counted(replace(found.others[0], start=-2 - number, name=f"a.{number}") for number in range(50))
    chosen = Survey(found.active, many, {}).chosen(found.active.origin)

    assert [file.start for file in chosen[:-1]] == list(range(-51, -1))
    assert Counted.rounds == 1


def test_without_the_active_file(log: Path) -> None:
    """While it is renamed the archives are found by the name in the checkpoint; nothing at all is an empty list."""
    log.unlink()
    assert [start for _, start in names(log)] == [0, 5]
    assert names(log.with_name("other.jsonl")) == []


def test_files_of_other_logs(log: Path) -> None:
    """They are seen by who surveys, and not taken."""
    other = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    other.open()
    log.with_name("audit.jsonl.other").write_bytes(other.data)
    log.with_name("audit.jsonl.20260609T214605Z").write_bytes(b"garbage\n")
    log.with_name("audit.jsonl.20260609T214605Z.1.gz").write_bytes(b"\x1f\x8bgarbage")
    found = survey(str(log))

    assert len(names(log)) == 3
    assert [file.name for file in found.others if file.origin == "another/log"] == ["audit.jsonl.other"]
    assert sorted(found.strangers) == ["audit.jsonl.20260609T214605Z", "audit.jsonl.20260609T214605Z.1.gz"]


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"SQLite format 3\0" + bytes(5000), b'{"type":"open",'])
def test_an_active_file_that_begins_like_none(log: Path, content: bytes) -> None:
    """It is listed all the same, unless it is empty: somebody may want to read the rest."""
    log.write_bytes(content)
    assert [start for _, start in names(log)] == ([0, 5, -1] if content else [0, 5])


def test_a_first_line_that_is_long(tmp_path: Path) -> None:
    """A segment names every open request; however many, its line is read whole, and without its LF, too."""
    forge = Forge()
    forge.open()
    for _ in range(3000):
        forge.entry("request")
    forge.rotate()
    log = forge.write(tmp_path / "audit.jsonl", forge.lines[0][:-1])
    found = look_at(str(log))

    assert found is not None
    assert (found.start, found.first_line) == (3001, forge.lines[0][:-1])
    assert len(found.first_line) > 8192
    assert found.identity == (os.stat(log).st_dev, os.stat(log).st_ino)


@pytest.mark.parametrize(
    ("path", "log"),
    [
        pytest.param("a.jsonl.20260610T214605Z", "a.jsonl", id="plain"),
        pytest.param("a.jsonl.20260610T214605Z.2.gz", "a.jsonl", id="numbered-gzip"),
        pytest.param("b.jsonl.1", "b.jsonl", id="renamed"),
        pytest.param("b.jsonl-20260610.gz", "b.jsonl", id="logrotate-dateext"),
        pytest.param("b.jsonl-other", None, id="another-log"),
        pytest.param("b.jsonl", None, id="log"),
        pytest.param("c.jsonl.1", None, id="no-log-of-that-name"),
    ],
)
def test_whose_archive_a_path_is(tmp_path: Path, path: str, log: str | None) -> None:
    """By its name, or by the log beside it whose name it begins with."""
    (tmp_path / "b.jsonl.pub").touch()
    expected = str(tmp_path / log) if log else None
    assert log_of_archive(str(tmp_path / path)) == expected
    assert is_archive_name(path, "a.jsonl") is path.startswith("a.")
