"""Whose word counts: the key that judges the notes of a log, and the notes it signed.

Pure. What cannot be decided is kept apart from what is wrong: without a key, or without an Ed25519 implementation, a
note is only compared with the log, and that is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note, read_well_formed
from mcp_audit.ledger.keys import BadKey, NoEd25519, VerifierKey

__all__ = ["Authority", "origin_of_note"]


@dataclass(slots=True)
class Authority:
    """The key in charge.

    Attributes:
        origin: the name the log must have; None if neither a pin nor the log says one.
        key: judges the notes; None if there is none.
        pinned: it came from the caller, not from beside the log.
        problem: how key and log contradict each other.
        unknown: why nothing can be decided.
    """

    origin: str | None
    key: VerifierKey | None = None
    pinned: bool = False
    problem: str | None = None
    unknown: str | None = None

    @classmethod
    def choose(cls, pins: Sequence[VerifierKey], claimed: str | None, beside: str | None) -> Authority:
        """Return who judges a log that claims to be `claimed` and has the vkey `beside` it."""
        for pin in pins:
            if pin.origin == claimed or len(pins) == 1:
                return cls(pin.origin, pin, pinned=True)
        authority = cls(claimed)
        if pins:
            says = f"it says that it is the log {claimed}" if claimed else "its first line names no log"
            authority.problem = f"{says}, which none of the pinned keys belongs to"
        try:
            authority.key = VerifierKey.parse(beside or "")
            authority.origin = authority.key.origin
        except BadKey:
            authority.unknown = "no verifier key is at hand: there is no readable .pub beside the log; give --vkey"
        return authority

    def read(self, text: str, what: str) -> Checkpoint | str:
        """Return the checkpoint of a note, or a sentence about what is wrong with the note called `what`."""
        try:
            if self.key is not None:
                return open_note(text, self.key)
        except BadNote as error:
            return f"the {what} does not verify: {error}"
        except NoEd25519 as error:
            self.unknown = str(error)
        try:
            return read_well_formed(text)
        except BadNote as error:
            return f"the {what} is damaged: {error}"


def origin_of_note(text: str | None) -> str | None:
    """Return the name of the log that a note is about, unverified; None if it is no whole note."""
    try:
        return read_well_formed(text or "").origin
    except BadNote:
        return None
