"""Checkpoints: one signed line of tree size and root that stands for everything logged before it.

Pure: text in, text out. A checkpoint is a C2SP tlog-checkpoint inside a C2SP signed-note. Promise: what `open_note`
returns was signed by the given key, byte for byte; no bit of an accepted signature line is spare. Lines of signers we
do not know are ignored, as the format demands: witnesses add theirs later.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from mcp_audit.ledger.keys import BadKey, LogKey, VerifierKey, canonical_b64decode, check_origin

__all__ = [
    "BadNote",
    "Checkpoint",
    "NotSigned",
    "open_note",
    "open_text",
    "read_unverified",
    "read_well_formed",
    "signed_note",
]

MAX_NOTE_CHARS = 1_000_000
MAX_SIGNATURES = 100  # the format asks for at least 16
_SIGNATURE_LEAD = "— "  # em dash, U+2014
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


class BadNote(ValueError):
    """A note is malformed or not signed by the key; the message says what is wrong."""


class NotSigned(BadNote):
    """A note is well-formed, but not what the key signed."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of the log `origin` when it had `size` lines: `root` is the RFC 6962 tree hash over them."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the text that is signed. Source: c2sp.org/tlog-checkpoint."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def signed_note(checkpoint: Checkpoint, key: LogKey) -> str:
    """Return the note of a checkpoint, signed under the log's own name.

    Raises:
        ValueError: the key belongs to another log.
    """
    if key.origin != checkpoint.origin:
        raise ValueError(f"the key of {key.origin} must not sign for {checkpoint.origin}")
    text = checkpoint.to_text()
    signature = base64.b64encode(key.key_id + key.sign(text.encode())).decode()
    return f"{text}\n{_SIGNATURE_LEAD}{key.origin} {signature}\n"


def open_note(text: str, key: VerifierKey) -> Checkpoint:
    """Return the checkpoint that `key` signed.

    Raises:
        BadNote: malformed, of another log, or without a valid signature of `key`.
        NoEd25519: `cryptography` is missing.
    """
    checkpoint = _checkpoint(open_text(text, key))
    if checkpoint.origin != key.origin:
        raise NotSigned(f"it is about the log {checkpoint.origin!r}, the key belongs to {key.origin}")
    return checkpoint


def read_unverified(text: str) -> Checkpoint:
    """Return what a note says without asking who says so; for messages, and while no key is at hand.

    Raises:
        BadNote: it is not a checkpoint.
    """
    signed, blank, _ = text.rpartition("\n\n")
    return _checkpoint(signed + "\n" if blank else text)


def read_well_formed(text: str) -> Checkpoint:
    """Return what a note says if it is one in every part; whose signatures it carries nobody asks.

    Raises:
        BadNote: it is malformed.
    """
    signed, lines = _parts(text)
    for line in lines:
        _signature_of(line, None)
    return _checkpoint(signed)


def _checkpoint(text: str) -> Checkpoint:
    origin, *rest = text.removesuffix("\n").split("\n")
    if len(rest) < 2 or not _SIZE.fullmatch(rest[0]) or not all(rest[2:]):
        raise BadNote("it is not a checkpoint (origin, size, root)")
    try:
        check_origin(origin)
    except BadKey as error:
        raise BadNote(str(error)) from None
    try:
        root = canonical_b64decode(rest[1])
    except ValueError as error:
        raise BadNote(f"its root is unreadable: {error}") from None
    if len(root) != 32:
        raise BadNote(f"its root has {len(root)} bytes, SHA-256 has 32")
    return Checkpoint(origin, int(rest[0]), root)


def open_text(text: str, key: VerifierKey) -> str:
    """Return the text of any signed note, LF included, if `key` signed it; `open_note` reads checkpoints.

    Raises:
        BadNote: malformed, or without a valid signature of `key`.
        NoEd25519: `cryptography` is missing.

    Source: c2sp.org/signed-note
    """
    signed, lines = _parts(text)
    found = False
    for signature in [_signature_of(line, key) for line in lines]:
        if signature is not None and not key.verify(signature, signed.encode()):
            raise NotSigned("its signature does not fit its text")
        found = found or signature is not None
    if not found:
        raise NotSigned(f"it has no signature of the key {key.vkey}")
    return signed


def _parts(text: str) -> tuple[str, list[str]]:
    """Return the text that is signed and the signature lines."""
    if len(text) > MAX_NOTE_CHARS:
        raise BadNote(f"it has more than {MAX_NOTE_CHARS} characters")
    if not text.endswith("\n") or re.search(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]", text):
        raise BadNote("it does not end in a line feed, or holds a control character")
    # The last empty line parts text and signatures; the text keeps its own final line feed.
    signed, blank, tail = text.rpartition("\n\n")
    if not blank:
        raise BadNote("it has no empty line before its signatures")
    signed += "\n"
    lines = tail.split("\n")[:-1]
    if len(lines) > MAX_SIGNATURES:
        raise BadNote(f"it has more than {MAX_SIGNATURES} signatures")
    return signed, lines


def _signature_of(line: str, key: VerifierKey | None) -> bytes | None:
    """Return the 64 bytes of the key's signature line, or None for the well-formed line of somebody else."""
    name, _, encoded = line.removeprefix(_SIGNATURE_LEAD).partition(" ")
    if not line.startswith(_SIGNATURE_LEAD) or not name or "+" in name:
        raise BadNote("a signature line is malformed")
    try:
        data = canonical_b64decode(encoded)
    except ValueError as error:
        raise BadNote(f"a signature line is unreadable: {error}") from None
    if len(data) < 5:
        raise BadNote("a signature line is too short")
    if key is None or name != key.origin or data[:4] != key.key_id:
        return None
    if len(data) != 4 + 64:
        raise BadNote("the log key's signature has the wrong length")
    return data[4:]
