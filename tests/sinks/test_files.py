"""Opening, creating and replacing files so that nobody else gets between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import FlakyFiles, NetworkFiles, When

from mcp_audit.errors import LedgerRefused
from mcp_audit.sinks.files import (
    Files,
    discard_temporaries,
    make_directory,
    open_regular,
    read_small,
    refuse_network,
    replace,
)

FILES = Files()


def _symlink(path: Path) -> None:
    path.with_name("target").write_bytes(b"x")
    path.symlink_to("target")


def _hard_link(path: Path) -> None:
    path.write_bytes(b"x")
    path.with_name("second").hardlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_symlink, "symbolic link", id="symlink"),
        pytest.param(_hard_link, "hard links", id="hard-link"),
        pytest.param(lambda path: os.mkfifo(path), "not a regular file", id="fifo"),
        pytest.param(lambda path: path.mkdir(), "not a regular file", id="directory"),
    ],
)
def test_only_a_regular_file_of_one_name_is_opened(tmp_path: Path, make: object, words: str) -> None:
    """Everything else is refused in words, at once: a FIFO without a reader does not hang."""
    make(tmp_path / "log")  # type: ignore[operator]

    with pytest.raises(LedgerRefused, match=words) as refused:
        open_regular(FILES, str(tmp_path / "log"), os.O_RDWR | os.O_CREAT)

    assert refused.value.exit_code == 2


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns a file can change it."""
    (tmp_path / "log").write_bytes(b"x")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with pytest.raises(LedgerRefused, match="not to us"):
        open_regular(FILES, str(tmp_path / "log"), os.O_RDWR)


def test_a_refused_file_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """A refusal costs nothing."""
    _hard_link(tmp_path / "log")
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(LedgerRefused):
        open_regular(FILES, str(tmp_path / "log"), os.O_RDWR)

    assert len(os.listdir("/proc/self/fd")) == before


def test_directories_are_made_for_us_alone(tmp_path: Path) -> None:
    """0700, all of them, whatever the umask."""
    old = os.umask(0)
    try:
        make_directory(FILES, str(tmp_path / "a" / "b"))
    finally:
        os.umask(old)

    assert [oct((tmp_path / name).stat().st_mode & 0o7777) for name in ("a", "a/b")] == ["0o700", "0o700"]


@pytest.mark.parametrize(
    ("mode", "refused"), [pytest.param(0o777, True, id="open"), pytest.param(0o1777, False, id="sticky")]
)
def test_a_directory_where_others_may_swap_files_is_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    """World-writable is fine with the sticky bit only, as in /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)

    if refused:
        with pytest.raises(LedgerRefused, match="chmod o-w"):
            make_directory(FILES, str(folder))
    else:
        make_directory(FILES, str(folder))


def test_a_file_in_the_way_of_the_directory_is_refused(tmp_path: Path) -> None:
    """The sentence says where."""
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(LedgerRefused, match=r"[nN]ot a directory"):
        make_directory(FILES, str(tmp_path / "file"))


def test_network_filesystems_need_leave(tmp_path: Path) -> None:
    """NFS is refused with the name of the setting, unless that is set; a local disk never is."""
    with pytest.raises(LedgerRefused, match=r"nfs4.*audit\.allow_network_fs"):
        refuse_network(NetworkFiles("nfs4"), str(tmp_path), allowed=False)
    refuse_network(NetworkFiles("nfs4"), str(tmp_path), allowed=True)
    refuse_network(NetworkFiles("ext4"), str(tmp_path), allowed=False)


def test_the_filesystem_is_learned_from_the_kernel() -> None:
    """/proc is mounted as proc everywhere the tests run."""
    assert FILES.filesystem("/proc") == "proc"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", range(1, 6))
def test_a_small_file_is_replaced_whole_or_not_at_all(tmp_path: Path, step: int, when: When) -> None:
    """Whichever operation fails, the old or the new content is there, and nothing else stays behind."""
    path = tmp_path / "small"
    replace(FILES, str(path), b"old")
    files = FlakyFiles(step, when)

    with pytest.raises(OSError, match="Input/output"):
        replace(files, str(path), b"new")

    assert path.read_bytes() in (b"old", b"new")
    assert files.failed
    if (step, when) != (1, "after"):  # then only the next start that is alone may know whose file it is
        assert os.listdir(tmp_path) == ["small"]


def test_a_replaced_file_keeps_others_out(tmp_path: Path) -> None:
    """0600 unless told otherwise, even if the file was open to all before."""
    path = tmp_path / "small"
    path.write_bytes(b"old")
    path.chmod(0o666)

    replace(FILES, str(path), b"new")

    assert oct(path.stat().st_mode & 0o777) == "0o600"
    assert read_small(FILES, str(path)) == b"new"
    assert read_small(FILES, str(tmp_path / "none")) is None


def test_leftovers_of_this_log_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Temporary files of other logs and of other programs stay."""
    gone = [".audit.jsonl.tmp-0123456789abcdef", ".audit.jsonl.checkpoint.tmp-0123456789abcdef"]
    kept = [".other.jsonl.tmp-0123456789abcdef", ".audit.jsonl.tmp-1", "audit.jsonl.tmp-0123456789abcdef"]
    for name in gone + kept:
        (tmp_path / name).write_bytes(b"")

    discard_temporaries(FILES, str(tmp_path / "audit.jsonl"))

    assert sorted(os.listdir(tmp_path)) == sorted(kept)
