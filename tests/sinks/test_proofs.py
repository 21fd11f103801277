"""What the writers leave behind can be proved entry by entry, whatever the storage, durability or rotation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ledgers import appended, crash, exchange, lines, request, start

from mcp_audit.ledger import check_proof, prove
from mcp_audit.sinks.settings import RotationSettings


def proved_sizes(path: Path, count: int) -> Counter[int]:
    """Prove the first `count` entries and return how many were proved under which size of the tree."""
    vkeys = [Path(f"{path}.pub").read_text()]
    sizes: Counter[int] = Counter()
    for seq in range(count):
        proved = check_proof(prove(path, seq), vkeys)
        assert proved.seq == seq
        sizes[proved.size] += 1
    return sizes


@pytest.mark.parametrize("storage", ["jsonl", "sqlite"])
@pytest.mark.parametrize("durability", ["write", "fsync"])
def test_every_entry_of_a_closed_log(tmp_path: Path, storage: str, durability: str) -> None:
    """Two runs, the first of which was killed: the second one's settling is proved as well."""
    sink = start(tmp_path, storage, durability=durability)
    appended(sink, request(), exchange())
    crash(sink)
    sink = start(tmp_path, storage, durability=durability)
    appended(sink, exchange())
    sink.close()
    path = tmp_path / ("audit.jsonl" if storage == "jsonl" else "audit.db")
    count = len(lines(path))

    assert sum(proved_sizes(path, count).values()) == count >= 6


@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_every_entry_of_a_rotated_log(tmp_path: Path, compress: Any) -> None:
    """Each one under the note of its own archive: as many entries as the archive has lines."""
    sink = start(tmp_path, rotation=RotationSettings(max_size_bytes=3000, compress=compress))
    last = 0
    for _ in range(20):
        (last,) = appended(sink, exchange("x" * 100))
    sink.close()
    sizes = proved_sizes(tmp_path / "audit.jsonl", last + 1)
    ends = sorted(sizes)

    assert len(ends) > 3
    assert [sizes[end] for end in ends[:-1]] == [
        end - before for before, end in zip([0, *ends], ends[:-1], strict=False)
    ]
