"""A log in several files, made of the format alone: what a rotation leaves behind, plain or compressed."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from ledger_forge import Forge

from mcp_audit.ledger.segment import Previous, segment_members


class Rotated(Forge):
    """A `Forge` whose lines are in several files; `lines` has them all."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = [0]  # places in `lines` where the files begin
        self.compressed: set[int] = set()

    def rotate(self, compress: bool = False) -> None:
        """End the present file and begin the next one."""
        data = b"".join(self.lines[self.begins[-1] :])
        number = len(self.begins) - 1
        start = 0 if not number else self.starts[-1]
        previous = Previous(self.name(number), start, len(data), hashlib.sha256(data).hexdigest())
        if compress:
            self.compressed.add(number)
        self.begins.append(len(self.lines))
        self.typed("segment", **segment_members(self.chain, self.key.vkey, previous))

    @property
    def starts(self) -> list[int]:
        return self.begins  # no line is torn: places are seqs

    def name(self, number: int) -> str:
        return f"audit.jsonl.20260610T2146{number:02d}Z"

    def write_files(self, folder: Path) -> Path:
        """Write archives and active file; return the path of the log."""
        ends = [*self.begins[1:], len(self.lines)]
        log = folder / "audit.jsonl"
        for number, (begin, end) in enumerate(zip(self.begins, ends, strict=True)):
            data = b"".join(self.lines[begin:end])
            if end == len(self.lines):
                log.write_bytes(data)
            elif number in self.compressed:
                (folder / f"{self.name(number)}.gz").write_bytes(gzip.compress(data, mtime=0))
            else:
                (folder / self.name(number)).write_bytes(data)
        return self._beside(log)
