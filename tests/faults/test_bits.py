"""One bit is flipped: whatever was signed, nobody calls the log intact, and before end(N) nobody goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_forge import KEY, closed_log
from rows import SECRET, Seen, row
from shelf import Shelf

from mcp_audit.errors import LedgerError
from mcp_audit.ledger import check_proof, prove, standalone_verify

STRIDES = [
    pytest.param(SECRET, 7, id="mac-every-seventh", marks=pytest.mark.slow),
    pytest.param(None, 11, id="no-mac-every-eleventh", marks=pytest.mark.slow),
    pytest.param(SECRET, 1, id="mac", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    pytest.param(None, 1, id="no-mac", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
]
BY = "one bit of the file is inverted, for all of them"


def flipped(data: bytes, bit: int) -> bytes:
    """Invert one bit."""
    changed = bytearray(data)
    changed[bit >> 3] ^= 1 << (bit & 7)
    return bytes(changed)


def entry_at(shelf: Shelf, offset: int) -> int:
    """The seq of the line that an offset lies in, its LF included."""
    return next(seq for seq, end in enumerate(shelf.ends) if offset <= end)


@row(
    "every bit of the log that the checkpoint covers",
    by=BY,
    proxy="refuses to start (exit 1) and touches nothing",
    verify="TAMPERED",
)
@pytest.mark.parametrize(("secret", "stride"), STRIDES)
def test_a_bit_before_the_end_of_what_was_signed(tmp_path: Path, seen: Seen, secret: bytes | None, stride: int) -> None:
    """Tampered; the sentence names the entry. A start is tried for one bit of each byte."""
    shelf = Shelf(tmp_path, secret)
    start = shelf.whole.index(b'"v":1')
    version = range(start, start + 5)  # without a MAC a change there looks like a newer format
    for bit in range(0, shelf.signed * 8, stride):
        log = shelf.put(flipped(shelf.whole, bit))
        report = seen.check(log, story=bit, both=bit % 7 == 0)
        seq = entry_at(shelf, bit >> 3)
        assert f"seq {seq}" in report.reason or f"or {seq} was" in report.reason, (bit, report.reason)
        if (bit + (bit >> 3)) % 8 == 0:
            assert shelf.refusal() in ((1, 3) if bit >> 3 in version and not secret else (1,)), bit


@row(
    "every bit of the log behind the checkpoint",
    by=BY,
    proxy="recovers: what a flip hurt is torn bytes, and `salvageable` tells how many whole lines lie behind it",
    verify="UNCLEAN TAMPERED INTACT",
)
@pytest.mark.parametrize(("secret", "stride"), STRIDES)
def test_a_bit_behind_the_end_of_what_was_signed(tmp_path: Path, seen: Seen, secret: bytes | None, stride: int) -> None:
    """Unclean or tampered, never intact. A MAC shows it even after a start has recovered and owned up to it."""
    shelf = Shelf(tmp_path, secret)
    for bit in range((shelf.signed + 1) * 8, len(shelf.whole) * 8, stride):
        log = shelf.put(flipped(shelf.whole, bit))
        seen.check(log, expect="UNCLEAN TAMPERED", story=bit, both=bit % 7 == 0)
        if secret and (bit + (bit >> 3)) % 64 == 0 and bit >> 3 != len(shelf.whole) - 1:
            shelf.restart()
            assert seen.check(log, expect="INTACT", story=bit, both=bit % 7 == 0).counts["recoveries"] == 1, bit


@row("every bit of the signed note", by=BY, proxy="refuses to start (exit 1)", verify="TAMPERED")
def test_a_bit_of_the_note(tmp_path: Path, seen: Seen) -> None:
    """The whole note is text that is signed, or the signature."""
    shelf = Shelf(tmp_path, SECRET)
    shelf.put(shelf.whole)
    note = shelf.note.read_bytes()
    for bit in range(len(note) * 8):
        shelf.note.write_bytes(flipped(note, bit))
        seen.check(shelf.log, story=bit, both=bit % 7 == 0)
        if bit % 8 == (bit >> 3) % 8:
            assert shelf.refusal() == 1, bit


@row("every bit of a proof of one entry", by=BY, verify="TAMPERED UNREADABLE")
@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.long)], ids=["every-fifth", "every"])
def test_a_bit_of_a_proof(tmp_path: Path, seen: Seen, stride: int) -> None:
    """`check-proof` and the independent verifier refuse it: the text is the line, its place, the path and the note."""
    log = closed_log().write(tmp_path / "audit.jsonl")
    proof = prove(log, 2).encode()
    assert check_proof(proof.decode(), [KEY.vkey]).seq == 2
    for bit in range(0, len(proof) * 8, stride):
        changed = flipped(proof, bit)
        try:
            text = changed.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(LedgerError) as refused:
            check_proof(text, [KEY.vkey])
        seen.says({1: "TAMPERED", 2: "UNREADABLE"}[refused.value.exit_code], bit)
        try:
            said = standalone_verify.check_proof(changed, [KEY.vkey])["exit"]
        except standalone_verify.CannotLook:
            said = 2
        assert said in (1, 2), bit
