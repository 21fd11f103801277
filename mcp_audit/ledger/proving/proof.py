"""One entry, proved: a C2SP tlog-proof that convinces whoever holds the log's verifier key, without log or network.

Pure: text in, text out. Promise: what `check_proof` returns is, byte for byte, the line that the log's key signed at
that place. Every byte of the text counts, but for signature lines of strangers; no part has a second spelling.

Source: c2sp.org/tlog-proof. The format's `extra`, which nothing authenticates there, is the line itself here, and the
leaf is computed from it: so it is bound by the path like a line that came another way.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcp_audit.errors import LedgerError
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, NotSigned, open_note, read_unverified
from mcp_audit.ledger.damage import TAIL
from mcp_audit.ledger.keys import BadKey, VerifierKey, canonical_b64decode, check_origin
from mcp_audit.ledger.merkle import leaf_hash, root_of_path

__all__ = ["HEADER", "FalseProof", "NoVerifierKey", "Proof", "ProvedEntry", "UnreadableProof", "check_proof"]

HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
_MAX_HASHES = 63  # the path of a leaf in the largest tree a checkpoint can name


class UnreadableProof(LedgerError):
    """A text is not a proof at all; the message says what is wrong with it."""

    exit_code = 2


class FalseProof(LedgerError):
    """A proof does not prove what it says; the message says why."""

    exit_code = 1


class NoVerifierKey(LedgerError):
    """Nothing can be decided without a verifier key that the caller trusts."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__(
            "a proof convinces only under a verifier key you trust: give the log's with --vkey "
            "(`mcp-audit verify` shows it; take it from whoever runs the log, never from the proof)"
        )


@dataclass(frozen=True, slots=True)
class Proof:
    """The parts of a proof, unverified.

    Attributes:
        index: place of the leaf.
        path: RFC 6962 inclusion path, the leaf's sibling first.
        note: the signed checkpoint, verbatim.
        line: the entry without its LF; None if it travels separately.
    """

    index: int
    path: tuple[bytes, ...]
    note: str
    line: bytes | None

    def to_text(self) -> str:
        """Return the text that `parse` reads."""
        extra = [] if self.line is None else [f"extra {_b64(self.line)}"]
        return "\n".join([HEADER, *extra, f"index {self.index}", *map(_b64, self.path), "", self.note])

    @classmethod
    def parse(cls, text: str) -> Proof:
        """Read the one spelling that a proof has.

        Raises:
            UnreadableProof: it is not in the format.
        """
        head, blank, note = text.partition("\n\n")
        header, *lines = head.split("\n")
        if header == HEADER + "\r":
            raise UnreadableProof("it has carriage returns: something converted it on the way; ask for it as a file")
        if header != HEADER:
            raise UnreadableProof(f"this is no proof: the first line of one is {HEADER}")
        if not blank:
            raise UnreadableProof("it breaks off before its checkpoint; ask for it again")
        line = None
        if lines and lines[0].startswith("extra "):
            line = _decoded(lines.pop(0).removeprefix("extra "), "the entry")
        index = _INDEX.fullmatch(lines.pop(0)) if lines else None
        if index is None:
            raise UnreadableProof("it does not say which entry it is about (`index N`)")
        if len(lines) > _MAX_HASHES:
            raise UnreadableProof(f"its path has {len(lines)} hashes, the largest tree needs {_MAX_HASHES}")
        path = tuple(_decoded(hash_, f"hash {place}") for place, hash_ in enumerate(lines, 1))
        if any(len(hash_) != 32 for hash_ in path):
            raise UnreadableProof("a hash of its path has not the 32 bytes of SHA-256")
        return cls(int(index[1]), path, note, line)


@dataclass(frozen=True, slots=True)
class ProvedEntry:
    """What a proof proves.

    Attributes:
        origin: the log's name.
        seq: the entry's place.
        line: the entry's bytes, without LF.
        size, root: the signed checkpoint that covers it.
        vkey: the key, one of the caller's, that signed.
    """

    origin: str
    seq: int
    line: bytes
    size: int
    root: bytes
    vkey: str


def check_proof(text: str, vkeys: Iterable[str], line: bytes | None = None) -> ProvedEntry:
    """Return the entry that `text` proves to be in a log whose key is one of `vkeys`.

    Args:
        text: the proof.
        vkeys: verifier keys the caller trusts, `<origin>+<key ID>+<base64>`.
        line: the entry, if it did not come inside the proof, or must be this very one; one final LF is ignored.

    Raises:
        UnreadableProof: the text is no proof, or the entry is nowhere.
        FalseProof: it does not hold.
        NoVerifierKey: there is no key to judge it by.
        BadKey: a key is not one.
        NoEd25519: `cryptography` is missing.
    """
    keys = [VerifierKey.parse(vkey) for vkey in vkeys]
    proof = Proof.parse(text)
    entry = _the_line(proof, line)
    try:
        claimed = read_unverified(proof.note)
        check_origin(claimed.origin)
    except (BadNote, BadKey) as error:
        raise UnreadableProof(f"its checkpoint is unreadable: {error}") from None
    _require_place(entry, claimed.origin, proof.index)
    _require_path(entry, proof, claimed)
    if not keys:
        raise NoVerifierKey
    checkpoint, key = _signed(proof.note, claimed.origin, keys)
    if checkpoint != claimed:
        raise FalseProof("its checkpoint says two things")
    return ProvedEntry(checkpoint.origin, proof.index, entry, checkpoint.size, checkpoint.root, key.vkey)


def _the_line(proof: Proof, given: bytes | None) -> bytes:
    if given is None:
        if proof.line is None:
            raise UnreadableProof("the entry is not in the proof; give it as well (--line FILE)")
        return proof.line
    given = given.removesuffix(b"\n")
    if proof.line is not None and proof.line != given:
        raise FalseProof("the entry in the proof is not the one that was given")
    return given


def _signed(note: str, origin: str, keys: Sequence[VerifierKey]) -> tuple[Checkpoint, VerifierKey]:
    """Return the checkpoint and which of the keys signed it."""
    problem = f"it is about the log {origin}, and none of the given keys belongs to that"
    for key in keys:
        if key.origin == origin:
            try:
                return open_note(note, key), key
            except NotSigned as error:
                problem = f"its checkpoint does not hold: {error}"
            except BadNote as error:
                raise UnreadableProof(f"its checkpoint is unreadable: {error}") from None
    raise FalseProof(problem)


def _require_path(line: bytes, proof: Proof, checkpoint: Checkpoint) -> None:
    try:
        root = root_of_path(leaf_hash(line), proof.index, checkpoint.size, proof.path)
    except ValueError as error:
        raise FalseProof(
            f"seq {proof.index} cannot be in a log of {checkpoint.size} lines by its path: {error}"
        ) from None
    if root != checkpoint.root:
        raise FalseProof("entry, path and checkpoint do not fit each other: one of them was changed")


def _require_place(line: bytes, origin: str, seq: int) -> None:
    """Require an entry to name the log and place it was proved at: a proof is read by its entry.

    Both its bytes and what a JSON reader sees must say so; a line that tells two readers two things is no evidence.
    """
    tail = TAIL.search(line, max(0, len(line) - 400))
    if tail is None or (tail[1].decode(), int(tail[2])) != (origin, seq):
        raise FalseProof(f"the entry is not the one at seq {seq} of the log {origin!r}: its own log or seq says so")
    try:
        # Numbers stay text: Python refuses integers of more than 4300 digits, a line may well have one.
        pairs = json.loads(line.decode(), parse_int=str, parse_float=str, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise FalseProof("the entry is not JSON") from None
    if [(name, value) for name, value in pairs if name in ("log", "seq")] != [("log", origin), ("seq", str(seq))]:
        raise FalseProof("the entry says twice what its log or seq is")


def _decoded(text: str, what: str) -> bytes:
    try:
        return canonical_b64decode(text)
    except ValueError as error:
        raise UnreadableProof(f"{what} in it is unreadable: {error}") from None


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
