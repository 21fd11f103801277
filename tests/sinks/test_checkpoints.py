"""Checkpoints: what is signed, in which order, and who may replace whose."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes import FlakyFiles, SlowSync
from ledgers import SECRET, appended, check, crash, exchange, lines, start, verdict

from mcp_audit.errors import LedgerUnavailable
from mcp_audit.ledger.checkpoint import Checkpoint, open_note, signed_note
from mcp_audit.ledger.keys import LogKey, VerifierKey
from mcp_audit.ledger.merkle import CompactRange, leaf_hash

STORAGES = [pytest.param("jsonl", id="jsonl"), pytest.param("sqlite", id="sqlite")]


def published(path: str) -> Checkpoint:
    """What the sidecar says, verified with the key beside it."""
    key = VerifierKey.parse(Path(path + ".pub").read_text())
    return open_note(Path(path + ".checkpoint").read_text(), key)


def root_over(path: str, size: int) -> bytes:
    """The tree hash over the first lines, computed without the writer."""
    tree = CompactRange()
    for line in Path(path).read_bytes().split(b"\n")[:size]:
        tree.add(leaf_hash(line))
    return tree.root()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_checkpoint_covers_what_was_added(tmp_path: Path, storage: str) -> None:
    """The note is returned, kept and published; without new lines there is none."""
    sink = start(tmp_path, storage)
    appended(sink, exchange(), exchange())

    note = sink.checkpoint()

    assert note == sink.note == Path(sink.path + ".checkpoint").read_text()
    assert published(sink.path).size == 3
    assert sink.checkpoint() is None
    sink.close()
    assert published(sink.path).size == 4


def test_the_root_is_that_of_the_stored_bytes(tmp_path: Path) -> None:
    """At every size, whoever computes it."""
    sink = start(tmp_path)
    for _ in range(9):
        appended(sink, exchange())
        sink.checkpoint()
        signed = published(sink.path)
        assert signed.root == root_over(sink.path, signed.size)
    sink.close()


def test_only_synced_state_is_signed_and_published(tmp_path: Path) -> None:
    """Log synced, note written aside and synced, then the rename, then the directory."""
    files = FlakyFiles()
    sink = start(tmp_path, files=files)
    appended(sink, exchange())
    files.calls.clear()

    sink.checkpoint()

    steps = [call for call in files.calls if not call.startswith(("open audit", "unlink"))]
    assert steps == [
        "sync audit.jsonl",
        "open .audit.jsonl.checkpoint",
        "write .audit.jsonl.checkpoint",
        "sync .audit.jsonl.checkpoint",
        "rename to audit.jsonl.checkpoint",
        "write audit.jsonl.live",
        "sync directory",
    ]
    sink.close()


def test_appending_goes_on_during_a_sync(tmp_path: Path) -> None:
    """The lock is not held while the disk works; lines that come meanwhile are for the next checkpoint."""
    seqs: list[list[int] | None] = []
    files = SlowSync(lambda: None)
    sink = start(tmp_path, files=files)
    appended(sink, exchange())
    files.meanwhile = lambda: seqs.append(sink.append([exchange()], wait=False))

    thread = threading.Thread(target=sink.checkpoint)
    thread.start()
    thread.join()

    assert seqs == [[2], [3]]  # during the sync of the log, and of the note
    assert published(sink.path).size == 2
    files.meanwhile = lambda: None
    sink.close()
    assert verdict(sink.path) == "INTACT"


@pytest.mark.parametrize("storage", STORAGES)
def test_a_larger_checkpoint_is_never_replaced(tmp_path: Path, storage: str) -> None:
    """A peer that signed more meanwhile wins, and its note becomes ours."""
    sink, peer = start(tmp_path, storage), start(tmp_path, storage)
    appended(sink, exchange())
    taken = Checkpoint(sink.origin, sink.size, sink._chain.tree.root())
    appended(peer, exchange())
    larger = peer.checkpoint()

    sink._sign(taken, holding=False)

    assert Path(sink.path + ".checkpoint").read_text() == sink.note == larger
    assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name]
    sink.close()
    peer.close()


def test_a_peers_checkpoint_saves_ours(tmp_path: Path) -> None:
    """If somebody has signed as much, no sync and no signature is spent."""
    files = FlakyFiles()
    sink, peer = start(tmp_path, files=files), start(tmp_path)
    appended(sink, exchange())
    peer.checkpoint()
    files.calls.clear()

    assert sink.checkpoint() is None

    assert "sync audit.jsonl" not in files.calls
    assert sink.note == peer.note
    sink.close()
    peer.close()


def test_a_second_tree_of_one_size_stops_the_writer(tmp_path: Path) -> None:
    """Two histories of one name: the writer must not add a third note."""
    sink = start(tmp_path)
    appended(sink, exchange())
    key = LogKey.parse(Path(sink.path + ".key").read_text())
    other = signed_note(Checkpoint(sink.origin, 2, b"x" * 32), key)
    Path(sink.path + ".checkpoint").write_text(other)

    with pytest.raises(LedgerUnavailable, match="another tree"):
        sink.checkpoint()

    with pytest.raises(LedgerUnavailable, match="another tree"):
        sink.recover()
    assert Path(sink.path + ".checkpoint").read_text() == other


@pytest.mark.parametrize("harm", ["removed", "damaged", "older"])
def test_a_sidecar_that_somebody_harmed_is_repaired(tmp_path: Path, harm: str) -> None:
    """Who writes the log knows its tree; the next checkpoint is good again."""
    sink = start(tmp_path)
    sidecar = Path(sink.path + ".checkpoint")
    old = sidecar.read_text()
    appended(sink, exchange())
    sink.checkpoint()
    if harm == "removed":
        sidecar.unlink()
    else:
        sidecar.write_text(old if harm == "older" else old.replace("—", "-"))
    appended(sink, exchange())

    sink.checkpoint()

    assert published(sink.path).size == 3
    sink.close()
    assert verdict(sink.path) == "INTACT"


def test_a_checkpoint_that_cannot_be_written_blocks_nothing(tmp_path: Path) -> None:
    """It is evidence, not the record: lines still go in, and the next try publishes."""
    files = FlakyFiles()
    sink = start(tmp_path, files=files)
    appended(sink, exchange())
    (tmp_path / "audit.jsonl.checkpoint").unlink()
    (tmp_path / "audit.jsonl.checkpoint").mkdir()

    with pytest.raises(LedgerUnavailable, match="no checkpoint"):
        sink.checkpoint()

    assert not sink.blocked
    assert appended(sink, exchange()) == [2]
    (tmp_path / "audit.jsonl.checkpoint").rmdir()
    sink.checkpoint()
    assert published(sink.path).size == 3
    sink.close()


def test_a_recovery_names_the_newest_checkpoint_of_anybody(tmp_path: Path) -> None:
    """What a peer signed is signed; the torn bytes begin after it."""
    sink, peer = start(tmp_path), start(tmp_path)
    appended(peer, exchange())
    peer.checkpoint()
    appended(sink)
    crash(peer)
    with open(sink.path, "ab") as log:
        log.write(b"torn")

    appended(sink, exchange())

    [recovery] = [line for line in lines(sink.path) if line.get("type") == "recovery"]
    assert (recovery["checkpoint"], recovery["seq"]) == (3, 3)
    sink.close()
    assert check(sink.path, SECRET).verdict.name == "INTACT"


def test_no_checkpoint_without_a_log(tmp_path: Path) -> None:
    """A blocked sink signs nothing."""
    sink = start(tmp_path)
    Path(sink.path).unlink()
    Path(sink.path).write_text("something else\n")

    with pytest.raises(LedgerUnavailable, match="another file"):
        sink.checkpoint()

    assert sink.blocked
