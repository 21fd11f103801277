"""Every operation fails once, before or after it took effect: nothing acknowledged is lost, and a restart works."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FlakyFiles, QuickFiles, When
from ledgers import Sink, crash, exchange, lines, request, start, types, verdict

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.entry import Unsealed

pytestmark = pytest.mark.slow

STORAGES = [pytest.param("jsonl", id="jsonl"), pytest.param("sqlite", id="sqlite")]


class Life:
    """A run that goes on after every failure, as the recorder does, and keeps what was acknowledged."""

    def __init__(self, folder: Path, storage: str, files: FlakyFiles) -> None:
        self.folder, self.storage, self.files = folder, storage, files
        self.acknowledged: dict[int, str] = {}
        self.lost: list[str] = []
        self.refused: LedgerRefused | None = None
        self.closed = False

    def run(self) -> Life:
        try:
            sink = start(self.folder, self.storage, files=self.files)
        except LedgerRefused as refusal:
            self.refused = refusal
            return self
        self.append(sink, ["a"])
        self.checkpoint(sink)
        self.append(sink, ["b", "c", "d"])
        self.append(sink, ["e"])
        self.checkpoint(sink)
        self.append(sink, ["f", "g"])
        try:
            sink.close()
            self.closed = True
        except LedgerUnavailable:
            crash(sink)
        return self

    def append(self, sink: Sink, texts: list[str]) -> None:
        batch = [exchange(text) for text in texts]
        try:
            self.acknowledge(sink.append(batch) or [], texts)
        except LedgerUnavailable as error:
            self.acknowledge(list(error.appended), texts)
            rest = texts[len(error.appended) :]
            try:
                sink.recover()
            except LedgerUnavailable:
                self.lost += rest
                return
            if rest:
                self.append(sink, rest)

    def acknowledge(self, seqs: list[int], texts: list[str]) -> None:
        self.acknowledged.update(zip(seqs, texts, strict=False))

    def checkpoint(self, sink: Sink) -> None:
        try:
            sink.checkpoint()
        except LedgerUnavailable:
            if sink.blocked:
                try:
                    sink.recover()
                except LedgerUnavailable:
                    return


def count_operations(tmp_path: Path, storage: str) -> int:
    files = FlakyFiles()
    life = Life(tmp_path / "whole", storage, files).run()
    assert life.closed
    assert sorted(life.acknowledged.values()) == list("abcdefg")
    return len(files.calls)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("storage", STORAGES)
def test_any_operation_may_fail_once(tmp_path: Path, storage: str, when: When) -> None:
    """Creation, append, checkpoint, close: each line is in the log exactly where and if it was acknowledged.

    A restart goes on with the log, whatever failed, and it verifies.
    """
    operations = count_operations(tmp_path, storage)
    assert operations > 40
    hopeless: set[str] = set()
    for number in range(1, operations + 1):
        folder = tmp_path / str(number)
        files = FlakyFiles(number, when)
        life = Life(folder, storage, files).run()
        story = f"operation {number} ({files.failed}) failed {when} it took effect"
        assert files.failed, story

        sink = start(folder, storage, files=QuickFiles())
        appended_after = sink.append([exchange("z")])
        sink.close()

        assert appended_after, story
        found = {line["seq"]: line["params"]["text"] for line in lines(sink.path) if "type" not in line}
        assert found == {**life.acknowledged, appended_after[0]: "z"}, story
        assert sorted([*life.acknowledged.values(), *life.lost]) in ([], list("abcdefg")), story
        assert verdict(sink.path) == "INTACT", story
        assert not [path.name for path in folder.iterdir() if ".tmp-" in path.name], story
        if life.lost:
            hopeless.add(files.failed)
        if life.refused:
            assert life.refused.exit_code == 2, story
    assert not hopeless  # all of it is recovered from without a restart, a failed sync of the log by a rescue copy


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("storage", STORAGES)
def test_any_operation_of_a_restart_may_fail_once(tmp_path: Path, storage: str, when: When) -> None:
    """Settling a crash may crash: the next start settles both."""

    def crashed(folder: Path) -> str:
        sink = start(folder, storage, files=QuickFiles())
        sink.append([request(), exchange("kept")])
        sink.checkpoint()
        sink.append([request()])
        crash(sink)
        if storage == "jsonl":
            with open(sink.path, "ab") as log:
                log.write(b'{"id":"torn')
        return sink.path

    crashed(tmp_path / "whole")
    probe = FlakyFiles()
    start(tmp_path / "whole", storage, files=probe).close()
    for number in range(1, len(probe.calls) + 1):
        folder = tmp_path / str(number)
        path = crashed(folder)
        before = Path(path).read_bytes()
        files = FlakyFiles(number, when)
        refused = 2
        try:
            sink = start(folder, storage, files=files)
            sink.close()
        except LedgerUnavailable:
            crash(sink)
        except LedgerRefused as refusal:
            refused = refusal.exit_code
        assert refused == 2, files.failed
        start(folder, storage, files=QuickFiles()).close()

        assert files.failed
        assert types(path).count("orphan") == 2, files.failed
        assert verdict(path) == "INTACT", files.failed
        if storage == "jsonl":
            assert Path(path).read_bytes().startswith(before)


def test_an_append_reports_what_it_wrote_before_it_failed(tmp_path: Path) -> None:
    """An error although all bytes arrived: every line counts, so that nobody writes it twice."""
    files = FlakyFiles(when="after")
    sink = start(tmp_path, files=files)
    batch: list[Unsealed] = [exchange("a"), exchange("b")]
    files.fail_at = len(files.calls) + 1

    with pytest.raises(LedgerUnavailable) as unavailable:
        sink.append(batch)

    assert files.failed == "write audit.jsonl"
    assert unavailable.value.appended == (1, 2)
    sink.recover()
    assert sink.append([exchange("c")]) == [3]
    sink.close()
