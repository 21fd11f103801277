"""The newest signed note beside a log, shared by all its writers.

Promise: a note is whole on the medium before it gets its name; the lock under which it is named is held for a rename
and nothing slower.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note
from mcp_audit.ledger.keys import VerifierKey
from mcp_audit.sinks.files import Files, discard, read_small, write_aside

__all__ = ["Published", "Sidecar"]


class Published(NamedTuple):
    """A checkpoint and the note that signs it."""

    checkpoint: Checkpoint
    note: str


class Sidecar:
    """`<log>.checkpoint`."""

    def __init__(self, files: Files, log: str, verifier: VerifierKey) -> None:
        self.path = log + ".checkpoint"
        self._files = files
        self._verifier = verifier
        self._seen: tuple[bytes, Published | None] = (b"", None)  # the last content, and what it is worth

    def read(self) -> Published | None:
        """Return what is published. A note that does not verify counts as none: the next one repairs it."""
        try:
            data = read_small(self._files, self.path) or b""
        except LedgerRefused:
            return None
        # Checking a signature takes longer than the lock should be held, and mostly it is our own again.
        if data != self._seen[0]:
            self._seen = (data, self._verified(data.decode("utf-8", "replace")))
        return self._seen[1]

    def prepare(self, note: str) -> str:
        """Write a note aside and return its temporary name."""
        return write_aside(self._files, self.path, note.encode())

    def publish(self, temporary: str) -> None:
        """Give a prepared note its name; `settle` makes that durable, without the lock."""
        self._files.rename(temporary, self.path)

    def settle(self) -> None:
        """Make the name durable."""
        self._files.sync_directory(os.path.dirname(self.path))

    def discard(self, temporary: str) -> None:
        """Forget a prepared note."""
        discard(self._files, temporary)

    def _verified(self, note: str) -> Published | None:
        try:
            return Published(open_note(note, self._verifier), note)
        except BadNote:
            return None
