"""Reading a log in several files, and one that is rotated, compressed or pruned under the reader."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from rotated_forge import Rotated

from mcp_audit.ledger import read
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.reading.segment_stream import files_of


def three_files(compress: bool = False) -> Rotated:
    forge = Rotated()
    forge.open()
    for _ in range(2):
        forge.call()
        forge.rotate(compress)
        forge.call()
    return forge


def seqs(path: Path, **options: object) -> list[int]:
    return [record.seq for record in read(path, every_line=True, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_all_files_are_one_log(tmp_path: Path, compress: bool) -> None:
    """Either way round every line comes once, in order."""
    forge = three_files(compress)
    log = forge.write_files(tmp_path)

    assert [record.raw + b"\n" for record in read(log, every_line=True)] == forge.lines
    assert seqs(log, newest_first=True) == list(reversed(range(len(forge.lines))))
    assert [record.seq for record in read(log)] == [record.seq for record in read(log, newest_first=True)][::-1]


def test_an_archive_alone(tmp_path: Path) -> None:
    """Given by its own path an archive is read by itself."""
    forge = three_files(compress=True)
    forge.write_files(tmp_path)
    begin, end = forge.begins[1:3]

    archive = tmp_path / f"{forge.name(1)}.gz"
    assert seqs(archive) == list(range(begin, end))
    assert seqs(archive, newest_first=True) == list(reversed(range(begin, end)))


def test_an_answer_in_the_next_file_closes_a_request(tmp_path: Path) -> None:
    """Open requests are known over all files."""
    forge = Rotated()
    forge.open()
    request = forge.entry("request")
    forge.rotate()
    answer = forge.entry(of=request)
    log = forge.write_files(tmp_path)

    assert [record.seq for record in read(log, newest_first=True)] == [answer]


def test_a_rotation_while_the_newest_file_is_read(tmp_path: Path) -> None:
    """Newest first, the reader holds the file that is renamed: older files are found under their new names."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    records = read(log, every_line=True, newest_first=True)
    found = [next(records).seq]
    before = len(forge.lines)
    forge.rotate()
    forge.call()
    log.unlink()
    forge.write_files(tmp_path)
    found += [record.seq for record in records]

    assert found == list(reversed(range(before)))


def test_rotations_while_the_oldest_file_is_read(tmp_path: Path) -> None:
    """Oldest first, the reader goes on into files that did not exist when it began, and stops at the newest line."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    records = read(log, every_line=True)
    found = [next(records).seq]
    for _ in range(2):
        forge.rotate()
        forge.call()
        log.rename(tmp_path / "gone")
        (tmp_path / "gone").unlink()
        forge.write_files(tmp_path)
    found += [record.seq for record in records]

    assert found == list(range(len(forge.lines)))


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest", "newest"])
def test_archives_compressed_meanwhile(tmp_path: Path, newest_first: bool) -> None:
    """A file that has another name by now is found again."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    records = read(log, every_line=True, newest_first=newest_first)
    found = [next(records).seq]
    for number in range(2):
        plain = tmp_path / forge.name(number)
        Path(f"{plain}.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    found += [record.seq for record in records]

    assert sorted(found) == list(range(len(forge.lines)))
    assert found == sorted(found, reverse=newest_first)


def test_archives_pruned_meanwhile(tmp_path: Path) -> None:
    """What is gone is gone; the rest comes."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    records = read(log, every_line=True, newest_first=True)
    found = [next(records).seq]
    (tmp_path / forge.name(0)).unlink()

    assert found + [record.seq for record in records] == list(reversed(range(forge.begins[1], len(forge.lines))))


def test_no_active_file(tmp_path: Path) -> None:
    """A rotation that was interrupted left archives only: they are the log."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    log.unlink()
    assert seqs(log) == list(range(forge.begins[2]))
    with pytest.raises(CannotLook, match="No such file"):
        files_of(str(tmp_path / "none"))


def test_a_renamed_archive_still_belongs(tmp_path: Path) -> None:
    """Names are hints: what a file is, its first line says."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    (tmp_path / forge.name(0)).rename(tmp_path / "audit.jsonl.1")
    assert seqs(log) == list(range(len(forge.lines)))


def test_paging(tmp_path: Path) -> None:
    """`before` the last one seen is the next page; `after` is what is new."""
    forge = three_files()
    log = forge.write_files(tmp_path)
    every = [record.seq for record in read(log, newest_first=True)]
    pages: list[int] = []
    while page := [r.seq for r in read(log, newest_first=True, limit=2, before=pages[-1] if pages else None)]:
        pages += page

    assert pages == every
    assert [record.seq for record in read(log, newest_first=True, after=every[2])] == every[:2]
    assert [record.seq for record in read(log, after=every[2])] == every[:2][::-1]


def test_a_log_of_the_go_version(tmp_path: Path) -> None:
    """Archives by name and then the active file; entries have no seq, directions are words, outcomes are derived."""
    log = tmp_path / "audit.jsonl"
    line = (
        '{"id":"%s","timestamp":"2026-05-25T12:34:56Z","direction":"%s","transport":"stdio","method":"tools/call"%s}\n'
    )
    arrow = "client→server"
    (tmp_path / "audit.jsonl.20260610T214605Z").write_text(line % ("a", arrow, ',"result":{"isError":true}'), "utf-8")
    (tmp_path / "audit.jsonl.20260610T214605Z.2").write_text(line % ("b", "client_to_server", ',"result":{}'), "utf-8")
    (tmp_path / "audit.jsonl.20260610T214605Z.10").write_text(line % ("c", arrow, ',"error":{"code":1}'), "utf-8")
    log.write_text(line % ("d", arrow, ',"tool_name":"x"'), "utf-8")
    records = list(read(log, newest_first=True))

    assert [record.line["id"] for record in records] == ["d", "c", "b", "a"]
    assert {record.seq for record in records} == {-1}
    assert {record.line["direction"] for record in records} == {"client_to_server"}
    assert [record.line.get("outcome") for record in records] == [None, "rpc_error", "answered", "tool_error"]
    assert [record.line["id"] for record in read(log)] == ["a", "b", "c", "d"]
    assert [record.line["id"] for record in read(log, newest_first=True, tool="x")] == ["d"]
    assert [record.line["id"] for record in read(log, newest_first=True, outcome="rpc_error")] == ["c"]
    assert [r.line["id"] for r in read(log, newest_first=True, until="2026-05-25T12:34:56.000000Z")] == []
    assert len(list(read(log, newest_first=True, since="2026-05-25T12:34:56.000000Z"))) == 4
