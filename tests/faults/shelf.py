"""A small crashed ledger whose files can be put back as often as a test likes, with a log that was cut or changed."""

from __future__ import annotations

from pathlib import Path

from fakes import QuickFiles
from ledgers import crash, exchange, request, start

from mcp_audit.errors import LedgerRefused

__all__ = ["Shelf"]


class Shelf:
    """Signed are an `open` and an exchange; a request, its answer and another request follow.

    Names are short, for a test may visit every bit.

    Attributes:
        log: where the ledger is.
        whole: the log as the crash left it.
        signed: the offset right behind the last signed line, LF not counted.
    """

    def __init__(self, folder: Path, secret: bytes | None) -> None:
        self.folder = folder
        self.secret = secret
        sink = self._start()
        sink.append([exchange("signed")])
        sink.checkpoint()
        sink.append([request(), exchange("loose", of=2), request()])
        crash(sink)
        self.log = folder / "audit.jsonl"
        self.note = folder / "audit.jsonl.checkpoint"
        self.whole = self.log.read_bytes()
        self._signed_note = self.note.read_bytes()
        self.ends = [offset for offset, byte in enumerate(self.whole) if byte == 10]
        self.signed = self.ends[1]

    def put(self, data: bytes) -> Path:
        """Put the files back, with `data` as the log."""
        self.log.write_bytes(data)
        self.note.write_bytes(self._signed_note)
        return self.log

    def restart(self) -> bytes:
        """Start on what is there, close, and return what was appended; the old bytes must still be there."""
        old = self.log.read_bytes()
        self._start().close()
        new = self.log.read_bytes()
        assert new.startswith(old), "recovery appends"
        return new[len(old) :]

    def refusal(self) -> int | None:
        """Start on what is there; return the exit code if that is refused and nothing was written."""
        old = self.log.read_bytes()
        try:
            crash(self._start())
        except LedgerRefused as refused:
            assert self.log.read_bytes() == old
            return refused.exit_code
        return None

    def _start(self):  # type: ignore[no-untyped-def]
        return start(self.folder, files=QuickFiles(), secret=self.secret, origin="o", software="t")
