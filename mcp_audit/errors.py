"""Every exception that the package raises on purpose. An error holds data and computes its sentence.

McpAuditError
├── ConfigError          a setting is unknown, wrong or contradictory       (exit 2)
│   └── ConfigErrors     several of them at once
├── PayloadTooLarge      a peer sent more than proxy.max_message_bytes
├── NotStrictJson        bytes that RFC 8259 does not allow
├── UpstreamStartError   the upstream command cannot be started             (exit 127 or 126)
├── UpstreamUnavailable  an HTTP upstream gave no answer to a request
├── BrokenBody           an HTTP upstream's answer ended before its end
└── LedgerError
    ├── LedgerFileError  something is wrong with one file of a log; also CannotLook, CannotProve, CannotWrite
    │   └── LedgerRefused   the log is tampered with or cannot be judged   (exit 1 or 3)
    └── LedgerUnavailable   the log takes no entry now; it may later
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "BrokenBody",
    "ConfigError",
    "ConfigErrors",
    "LedgerError",
    "LedgerFileError",
    "LedgerRefused",
    "LedgerUnavailable",
    "McpAuditError",
    "NotStrictJson",
    "PayloadTooLarge",
    "UpstreamStartError",
    "UpstreamUnavailable",
]


class McpAuditError(Exception):
    """Base of all errors of this package; `str(error)` is one sentence for the user."""

    exit_code = 2


class ConfigError(McpAuditError):
    """A setting is unknown, wrong, out of range or contradicts another.

    Args:
        key: the dotted key, such as `proxy.port`; empty when the file as a whole is at fault.
        problem: what is wrong, what is allowed, and the next move.
        where: `file:line`, a flag or an environment variable; empty when unknown.
    """

    def __init__(self, key: str, problem: str, where: str = "") -> None:
        super().__init__(key, problem, where)
        self.key = key
        self.problem = problem
        self.where = where

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """Every problem there is, in the order of the file."""
        return (self,)

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.problem) if part)


class ConfigErrors(ConfigError):
    """Several settings are wrong, so that all can be mended at once; there are always at least two."""

    def __init__(self, problems: Iterable[ConfigError]) -> None:
        self._problems = tuple(problems)
        first = self._problems[0]
        super().__init__(first.key, first.problem, first.where)

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """Every problem there is, in the order of the file."""
        return self._problems

    def __str__(self) -> str:
        return "\n  ".join((f"{len(self._problems)} problems with the configuration:", *map(str, self._problems)))


class PayloadTooLarge(McpAuditError):
    """A peer sent more bytes than one message may have (`size` is a lower bound)."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"message has at least {self.size} bytes, limit is {self.limit}; "
            "raise proxy.max_message_bytes if this peer is trusted"
        )


class NotStrictJson(McpAuditError):
    """Bytes that are not one strict JSON text; `slug` is the ambiguity they amount to."""

    def __init__(self, slug: str, offset: int, problem: str) -> None:
        super().__init__(slug, offset, problem)
        self.slug = slug
        self.offset = offset
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem} at byte {self.offset}"


class UpstreamStartError(McpAuditError):
    """The upstream command cannot be started: 127 not found, 126 found but not executable."""

    def __init__(self, program: str, problem: str, exit_code: int) -> None:
        super().__init__(program, problem, exit_code)
        self.program = program
        self.problem = problem
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"cannot start the upstream {self.program!r}: {self.problem}"


class UpstreamUnavailable(McpAuditError):
    """An HTTP upstream gave no answer to a request.

    Args:
        cause: what happened, in a few words such as `cannot connect to localhost:8080: connection refused`.
        sent: whether a part of the request may have reached it; False: it cannot have acted on the request.
    """

    def __init__(self, cause: str, *, sent: bool = True) -> None:
        super().__init__(cause)
        self.cause = cause
        self.sent = sent

    def __str__(self) -> str:
        return f"the upstream gave no answer: {self.cause}"


class BrokenBody(McpAuditError):
    """An HTTP upstream's answer ended before its end; `cause` says how, in a few words."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return f"the upstream's answer broke off: {self.cause}"


class LedgerError(McpAuditError):
    """The ledger cannot be used."""


class LedgerFileError(LedgerError):
    """Something is wrong with the file at `path`; an exit code given here counts instead of the class's."""

    def __init__(self, path: str, problem: str, exit_code: int | None = None) -> None:
        super().__init__(path, problem, exit_code)
        self.path = path
        self.problem = problem
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class LedgerRefused(LedgerFileError):
    """The ledger must not be appended to: 1 it was tampered with, 3 it cannot be judged, 2 it cannot be opened."""


class LedgerUnavailable(LedgerError):
    """An append failed; the ledger is blocked until its `recover()` succeeds.

    Args:
        cause: what the system said, such as `No space left on device`.
        appended: seqs of the leading entries of the batch that are in the ledger nevertheless.
    """

    def __init__(self, path: str, cause: str, appended: tuple[int, ...] = ()) -> None:
        super().__init__(path, cause, appended)
        self.path = path
        self.cause = cause
        self.appended = appended

    def __str__(self) -> str:
        return f"{self.path}: the ledger takes no entries ({self.cause})"
