"""`mcp-audit export`: the ledger's bytes elsewhere, verifiable there, and nothing overwritten by accident."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path

import pytest
from ledger_forge import Forge, closed_log
from rotated_forge import Rotated

from mcp_audit.cli import main
from mcp_audit.ledger import verify


@pytest.fixture
def forge() -> Forge:
    return closed_log()


@pytest.mark.parametrize("storage", ["jsonl", "gzip", "sqlite"])
def test_a_file(tmp_path: Path, forge: Forge, storage: str) -> None:
    """One stream of the very lines, mode 0600, with note and key: `verify` says intact of the copy."""
    if storage == "sqlite":
        log = forge.write_sqlite(tmp_path / "audit.db")
    else:
        log = forge.write(tmp_path / "audit.jsonl", gzip.compress(forge.data) if storage == "gzip" else None)
    copy = tmp_path / "out" / "copy.jsonl"
    copy.parent.mkdir()
    old = os.umask(0)
    try:
        assert main(["export", str(log), "--format", "jsonl", "-o", str(copy)]) == 0
    finally:
        os.umask(old)

    assert copy.read_bytes() == forge.data
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in copy.parent.iterdir()) == [
        "copy.jsonl",
        "copy.jsonl.checkpoint",
        "copy.jsonl.pub",
    ]
    assert verify(copy).verdict.name == "INTACT"


def rotated(folder: Path, compress: bool = True) -> tuple[Rotated, Path]:
    forge = Rotated()
    forge.open()
    forge.call()
    forge.rotate(compress)
    forge.call()
    forge.close()
    forge.sign()
    folder.mkdir()
    return forge, forge.write_files(folder)


def test_a_ledger_with_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file for each of its own, uncompressed, in a folder; the copy verifies as a whole."""
    forge, log = rotated(tmp_path / "log")
    out = tmp_path / "copy"

    assert main(["export", str(log), "-o", str(out)]) == 0
    assert (out / forge.name(0)).read_bytes() + (out / "audit.jsonl").read_bytes() == forge.data
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert verify(out / "audit.jsonl").verdict.name == "INTACT"
    assert "in 2 files" in capsys.readouterr().err


def test_stdout(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """All lines in one stream; of several files it says what the stream is not."""
    forge, log = rotated(tmp_path / "log")
    assert main(["export", str(log)]) == 0
    out, err = capsysbinary.readouterr()
    assert out == forge.data
    assert b"this stream is 2 files of the ledger" in err

    plain = closed_log().write(tmp_path / "audit.jsonl")
    assert main(["export", str(plain)]) == 0
    assert capsysbinary.readouterr().err == b""


def test_torn_bytes_are_exported_too(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], forge: Forge) -> None:
    """An export is evidence: nothing is tidied up."""
    log = forge.write(tmp_path / "audit.jsonl", forge.data + b'{"id":"torn')
    assert main(["export", str(log)]) == 0
    assert capsysbinary.readouterr().out == forge.data + b'{"id":"torn'


def test_nothing_is_overwritten(tmp_path: Path, forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the file nor what would lie beside it, without --force; with it, both."""
    log = forge.write(tmp_path / "audit.jsonl")
    for taken in ("copy", "copy.pub"):
        (tmp_path / taken).write_text("precious")
        assert main(["export", str(log), "-o", str(tmp_path / "copy")]) == 2
        assert f"{taken}: is there already; --force replaces it" in capsys.readouterr().err
        assert (tmp_path / taken).read_text() == "precious"
        if taken == "copy":
            (tmp_path / taken).unlink()
    assert not (tmp_path / "copy").exists()
    assert main(["export", str(log), "-o", str(tmp_path / "copy"), "--force"]) == 0
    assert verify(tmp_path / "copy").verdict.name == "INTACT"
    assert not [path for path in tmp_path.iterdir() if ".tmp" in path.name]


def test_the_ledger_is_never_replaced_by_its_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not by its own path, nor through a folder or a link, --force or not."""
    forge, log = rotated(tmp_path / "log", compress=False)
    before = {path.name: path.read_bytes() for path in log.parent.iterdir()}
    (tmp_path / "link").symlink_to(log.parent)

    for target in (log.parent, tmp_path / "link"):
        assert main(["export", str(log), "-o", str(target), "--force"]) == 2
        assert "belongs to the ledger itself" in capsys.readouterr().err
    assert main(["export", str(log.parent / forge.name(0)), "-o", str(log), "--force"]) == 2
    assert {path.name: path.read_bytes() for path in log.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(lambda path: path.symlink_to(path.parent / "x"), "is no regular file", id="link"),
        pytest.param(lambda path: None, "No such file", id="no-log"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, forge: Forge, capsys: pytest.CaptureFixture[str], make: object, sentence: str
) -> None:
    """Exit 2 and one sentence."""
    log = forge.write(tmp_path / "audit.jsonl")
    make(tmp_path / "copy")  # type: ignore[operator]
    log = log if "regular" in sentence else tmp_path / "none"
    assert main(["export", str(log), "-o", str(tmp_path / "copy"), "--force"]) == 2
    assert sentence in capsys.readouterr().err


def test_several_files_need_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the way is named, and stays."""
    _, log = rotated(tmp_path / "log")
    (tmp_path / "copy").write_text("precious")
    assert main(["export", str(log), "-o", str(tmp_path / "copy"), "--force"]) == 2
    assert "has 2 files and needs a folder" in capsys.readouterr().err
    assert (tmp_path / "copy").read_text() == "precious"


def test_an_archive_alone(tmp_path: Path) -> None:
    """Only its own lines."""
    forge, log = rotated(tmp_path / "log")
    assert main(["export", f"{log.parent / forge.name(0)}.gz", "-o", str(tmp_path / "one.jsonl")]) == 0
    lines = (tmp_path / "one.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(forge.begins[1]))
