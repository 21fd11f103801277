"""Why a ledger is not gone on with: the sentences, their exit codes and their ways out, in one place.

1: it was tampered with, or lines are lost. 3: it cannot be judged, or not by this process. Reads nothing.
"""

from __future__ import annotations

from collections.abc import Set

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.keys import LogKey
from mcp_audit.ledger.scan import Scanner

__all__ = ["not_alone", "refuse_foreign_secret", "refuse_old_key", "tampered", "too_new", "unknown"]


def tampered(path: str, problem: str) -> LedgerRefused:
    """The log contradicts itself or its checkpoint."""
    return LedgerRefused(path, f"{problem}; {_ways_out(path)}", 1)


def unknown(path: str, problem: str) -> LedgerRefused:
    """Something is missing without which nobody can tell."""
    return LedgerRefused(path, f"{problem}; restore it, or {_ways_out(path)}", 3)


def too_new(path: str, version: int) -> LedgerRefused:
    """A newer program wrote lines that this one does not understand."""
    return LedgerRefused(path, f"it has lines of format {version}; upgrade this mcp-audit to write to it", 3)


def not_alone(path: str) -> LedgerRefused:
    """The loss was accepted while somebody still writes."""
    return LedgerRefused(path, "another process writes to it; stop it before --accept-loss can set it aside", 3)


def refuse_foreign_secret(path: str, scanner: Scanner, ours: str, alone: bool) -> None:
    """Refuse a log whose MACs we could not go on with: it may gain or change them only where a run begins alone.

    Args:
        ours: the key_id of our secret, "" without one.
    """
    theirs = scanner.chain.key_id
    if theirs == ours:
        return
    problem = ""
    if not ours:
        problem = (
            f"its lines carry MACs (key_id {theirs}) and there is no secret; set AUDIT_SECRET or AUDIT_SECRET_FILE"
        )
    elif not alone:
        problem = "another process writes to it with another AUDIT_SECRET, or none; stop it first, or use the same"
    elif theirs and scanner.torn() is not None:
        # The recovery comes before our `open`, so it would have to carry a MAC of the old key.
        problem = (
            f"it ends in a torn line, which only the secret with key_id {theirs} can settle; start once with the old "
            "AUDIT_SECRET, or with --accept-loss"
        )
    if problem:
        raise LedgerRefused(path, problem, 3)


def refuse_old_key(path: str, key: LogKey | None, signed: Set[str]) -> None:
    """Refuse a key whose name is among those that `signed` another log: it must not sign a second history of it."""
    if key is not None and key.origin in signed:
        raise LedgerRefused(
            path,
            f"this key has signed a log that is set aside ({key.origin}) and must not sign another one; make a new one "
            "with `mcp-audit keygen`, then start again",
            3,
        )


def _ways_out(path: str) -> str:
    return f"run `mcp-audit verify {path}` to see more; --accept-loss sets the old log aside and begins a new one"
