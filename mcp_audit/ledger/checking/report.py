"""What a check of a log found, as data: for the command line, for scripts and for notebooks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

__all__ = ["CheckedFile", "Report", "Signed", "Verdict"]


class Verdict(Enum):
    """What a check found; the value is the exit code."""

    INTACT = 0
    TAMPERED = 1
    UNREADABLE = 2
    UNKNOWN = 3
    UNCLEAN = 4


@dataclass(frozen=True, slots=True)
class Signed:
    """The newest checkpoint beside a log. `pinned`: its key came from the caller, not from beside the log."""

    size: int
    root: str
    key: str | None
    pinned: bool


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """One file: `status` is `ok` or `FAIL`; `first` and `last` are the seqs of its good lines."""

    name: str
    status: str
    first: int | None
    last: int | None
    bytes: int
    reason: str = ""


@dataclass(slots=True)
class Report:
    """The outcome of `verify`.

    Attributes:
        log: the origin, empty if it could not be learned.
        size, root: good lines, and the base64 tree hash over them.
        reason: why the verdict is not INTACT, one sentence; may be set for INTACT, too ("a writer is at work").
        checks: True held, False did not, None was not checked.
        may_be_moving: a rotation or a pruning under way would look the same; look again.
    """

    path: str
    verdict: Verdict
    reason: str = ""
    log: str = ""
    size: int = 0
    root: str = ""
    checkpoint: Signed | None = None
    checks: dict[str, bool | None] = field(default_factory=dict)
    files: list[CheckedFile] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    may_be_moving: bool = False

    @property
    def exit_code(self) -> int:
        """0 intact, 1 tampered, 2 unreadable, 3 cannot decide, 4 intact but ends uncleanly."""
        return self.verdict.value

    def to_json(self) -> dict[str, Any]:
        """Return what `verify --json` prints."""
        return {
            "verdict": self.verdict.name,
            "exit": self.exit_code,
            "log": self.log,
            "path": self.path,
            "reason": self.reason,
            "size": self.size,
            "root": self.root,
            "checkpoint": asdict(self.checkpoint) if self.checkpoint else None,
            "checks": self.checks,
            "files": [asdict(file) for file in self.files],
            "counts": self.counts,
            "notices": self.notices,
        }
