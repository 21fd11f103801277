"""Signed notes: the published examples open, and nothing else does."""

from __future__ import annotations

import base64

import pytest
from ledger_forge import EXAMPLE_NOTE, KEY, ORIGIN, OTHER_KEY

from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note, open_text, read_unverified, signed_note
from mcp_audit.ledger.keys import VerifierKey

VERIFIER = VerifierKey.parse(KEY.vkey)
ROOT = base64.b64decode("2KYRjA8nBpsPARlUCMKnJdZTpM2L8+FRURPxHDfWEnk=")

# The example of the signed-note format (golang.org/x/mod/sumdb/note, c2sp.org/signed-note).
NEUMANN = VerifierKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
NEUMANN_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NEUMANN_NOTE = (
    NEUMANN_TEXT + "\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_worked_example() -> None:
    """Signing the example's state gives its note byte for byte, and opening gives the state."""
    checkpoint = Checkpoint(ORIGIN, 3, ROOT)

    assert signed_note(checkpoint, KEY) == EXAMPLE_NOTE
    assert open_note(EXAMPLE_NOTE, VERIFIER) == checkpoint
    assert read_unverified(EXAMPLE_NOTE) == checkpoint


def test_the_published_note_opens() -> None:
    """The format's own example verifies."""
    assert open_text(NEUMANN_NOTE, NEUMANN) == NEUMANN_TEXT


@pytest.mark.parametrize(
    ("note", "key"), [pytest.param(EXAMPLE_NOTE, VERIFIER, id="ours"), pytest.param(NEUMANN_NOTE, NEUMANN, id="c2sp")]
)
def test_no_bit_is_spare(note: str, key: VerifierKey) -> None:
    """Flip any bit of a note's bytes: it does not open any more."""
    data = note.encode()
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(BadNote):
            open_text(bytes(changed).decode("utf-8", "surrogateescape"), key)


@pytest.mark.parametrize("count", [1, 16, 40])
def test_unknown_signatures_are_ignored(count: int) -> None:
    """Witnesses and later key kinds add lines; the log's own still counts, wherever it stands."""
    text, ours = EXAMPLE_NOTE.split("\n\n")
    strangers = "".join(
        f"— witness{number} {base64.b64encode(bytes([number]) * 80).decode()}\n" for number in range(count)
    )

    assert open_note(f"{text}\n\n{strangers}{ours}", VERIFIER).size == 3
    assert open_note(f"{text}\n\n{ours}{strangers}", VERIFIER).size == 3


def test_a_second_signature_of_ours_must_hold_too() -> None:
    """A bad line under our own name and key ID is not outvoted by a good one."""
    _, ours = EXAMPLE_NOTE.split("\n\n")
    forged = ours.replace("mSmWgzR+", "mSmWgzR/")
    with pytest.raises(BadNote, match="does not fit"):
        open_note(EXAMPLE_NOTE + forged, VERIFIER)


def test_extension_lines_are_ignored() -> None:
    """A reader must not stumble over lines that a later version signs along. Source: c2sp.org/tlog-checkpoint."""
    text = Checkpoint(ORIGIN, 3, ROOT).to_text() + "later: something\n"
    signature = base64.b64encode(KEY.key_id + KEY.sign(text.encode())).decode()

    assert open_note(f"{text}\n— {ORIGIN} {signature}\n", VERIFIER).size == 3


def _signed(text: str) -> str:
    signature = base64.b64encode(KEY.key_id + KEY.sign(text.encode())).decode()
    return f"{text}\n— {ORIGIN} {signature}\n"


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        pytest.param("", "line feed", id="empty"),
        pytest.param(EXAMPLE_NOTE.replace("\n\n", "\n"), "empty line", id="no-blank-line"),
        pytest.param(EXAMPLE_NOTE + "\n", "no signature", id="text-runs-to-the-end"),
        pytest.param(EXAMPLE_NOTE.replace("— ", "- "), "malformed", id="hyphen-for-dash"),
        pytest.param(EXAMPLE_NOTE + "— x\n", "too short", id="line-without-signature"),
        pytest.param(EXAMPLE_NOTE.replace("DZP8qA8=", "DZP8qA9="), "canonical", id="spare-bits"),
        pytest.param(EXAMPLE_NOTE.replace("\n3\n", "\n3\r\n"), "control", id="carriage-return"),
        pytest.param(EXAMPLE_NOTE + "— x AAAAAAA=\n" * 100, "signatures", id="too-many"),
        pytest.param("x" * 1_000_001, "characters", id="too-long"),
        pytest.param(signed_note(Checkpoint(ORIGIN, 3, ROOT), OTHER_KEY), "no signature", id="another-key"),
        pytest.param(_signed(f"{ORIGIN}x\n3\n{base64.b64encode(ROOT).decode()}\n"), "about the log", id="another-log"),
        pytest.param(_signed(f"{ORIGIN}\n03\n{base64.b64encode(ROOT).decode()}\n"), "not a checkpoint", id="zero-led"),
        pytest.param(_signed(f"{ORIGIN}\n٣\n{base64.b64encode(ROOT).decode()}\n"), "not a checkpoint", id="arabic-3"),
        pytest.param(_signed(f"{ORIGIN}\n3\n{base64.b64encode(ROOT[:-1]).decode()}\n"), "31 bytes", id="short-root"),
        pytest.param(_signed(f"{ORIGIN}\n3\n!\n"), "unreadable", id="root-no-base64"),
        pytest.param(_signed(f"{ORIGIN}\n"), "not a checkpoint", id="origin-only"),
    ],
)
def test_malformed_notes_say_why(note: str, reason: str) -> None:
    """Each is refused with its own reason, signed or not."""
    with pytest.raises(BadNote, match=reason):
        open_note(note, VERIFIER)


def test_a_key_signs_for_its_own_log_only() -> None:
    """Two histories under one key would be the log's undoing."""
    with pytest.raises(ValueError, match="must not sign"):
        signed_note(Checkpoint("another/log", 3, ROOT), KEY)
