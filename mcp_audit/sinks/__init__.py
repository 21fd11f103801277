"""Where entries go. A ledger sink seals under its lock, so only it knows the seq of a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mcp_audit.ledger.entry import Unsealed
from mcp_audit.ledger.keys import Secrets

__all__ = ["LedgerSink", "Sink"]


class Sink(Protocol):
    """Takes sealed or unsealed entries.

    `append` returns only when the batch is as safe as the sink's durability claims, and is not called concurrently.
    """

    durable: bool

    def append(self, batch: Sequence[Unsealed]) -> Sequence[int]:
        """Write the batch in order and return the seqs of its lines."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class LedgerSink(Protocol):
    """The ledger itself: JSONL or SQLite. Thread-safe; several processes may share one file.

    Life: `open_ledger` decides what was found (it may refuse), writes `open` and a checkpoint; then `append` as often
    as needed and `checkpoint` now and then; at the end `close`.

    Attributes:
        path: where the log is; `origin` its name; `vkey` the key that verifies its checkpoints.
        secrets: what AUDIT_SECRET derives for this log, None without one.
        durable: whether a line must be synced before anybody acts on it: then `sync` comes after `append`.
        note: the newest signed checkpoint, empty before the first.
    """

    durable: bool
    path: str
    origin: str
    vkey: str
    secrets: Secrets | None
    note: str

    @property
    def blocked(self) -> bool:
        """Whether appends fail until `recover` succeeds."""
        ...

    def append(self, batch: Sequence[Unsealed], wait: bool = True) -> list[int] | None:
        """Seal and write the batch in order and return the seqs of its lines.

        With `wait` false return None at once if another process or thread holds the lock; nothing was written then.

        Raises:
            LedgerUnavailable: the batch is not, or only in part (`appended`), in the ledger. The sink stays blocked
                and raises at once until `recover` succeeds.
        """
        ...

    def sync(self) -> None:
        """Return when every line appended so far is on the medium; what `append` returned before may be believed then.

        Works on a blocked ledger, too: what is in it can still be made safe. Blocks on the disk: call it from a thread.

        Raises:
            LedgerUnavailable: nothing since the last `sync` may be believed.
        """
        ...

    def recover(self) -> None:
        """Try to leave the blocked state: mend the torn tail and write its `recovery`.

        Raises:
            LedgerUnavailable: still blocked.
        """
        ...

    def checkpoint(self) -> str | None:
        """Sync, sign and publish the state; return the note, or None if nothing was added since the last one.

        Blocks on the disk: call it from a thread.

        Raises:
            LedgerUnavailable: none could be made. Lines still go in unless `blocked` says otherwise; try again.
        """
        ...

    def close(self, reason: str = "shutdown") -> None:
        """Write `close` (settling dead peers if this process is alone), checkpoint, release the locks."""
        ...
