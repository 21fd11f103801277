"""A proof convinces of one entry: the published format, every bit of it counts, and each refusal says why."""

from __future__ import annotations

import base64
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, EXAMPLE_NOTE, KEY, ORIGIN, OTHER_KEY, Forge

from mcp_audit.errors import LedgerError
from mcp_audit.ledger import ProvedEntry, check_proof, standalone_verify
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.keys import BadKey, LogKey
from mcp_audit.ledger.merkle import PathRange, leaf_hash
from mcp_audit.ledger.proving.proof import FalseProof, NoVerifierKey, Proof, UnreadableProof

HASH = "L/RmhU5NVfumSTJxJloYBnxFwyMxqWvlF9iodKfDqq0="
EXAMPLE = (
    f"c2sp.org/tlog-proof@v1\nextra {base64.b64encode(EXAMPLE_LINES[2]).decode()}\nindex 2\n{HASH}\n\n{EXAMPLE_NOTE}"
)


def proof_over(lines: list[bytes], seq: int, origin: str = ORIGIN, key: LogKey = KEY) -> str:
    """Prove line `seq` in a log of these lines, whatever they are."""
    tree = PathRange(seq, len(lines))
    tree.extend([leaf_hash(line) for line in lines])
    assert tree.path is not None
    note = signed_note(Checkpoint(origin, len(lines), tree.root()), key)
    return Proof(seq, tree.path, note, lines[seq]).to_text()


def exit_code(text: str | bytes, vkeys: list[str], line: bytes | None = None) -> int:
    """What the command would exit with."""
    try:
        check_proof(text if isinstance(text, str) else text.decode(), vkeys, line)
    except UnicodeDecodeError:
        return 2
    except LedgerError as error:
        return error.exit_code if "\n" not in str(error) else -1
    return 0


def test_the_worked_example() -> None:
    """Its last line is proved by one hash; the text is what we write as well."""
    proved = check_proof(EXAMPLE, [KEY.vkey])

    root = base64.b64decode(EXAMPLE_NOTE.split("\n")[2])
    assert proved == ProvedEntry(ORIGIN, 2, EXAMPLE_LINES[2], 3, root, KEY.vkey)
    assert Proof.parse(EXAMPLE).to_text() == EXAMPLE
    assert proof_over(EXAMPLE_LINES, 2) == EXAMPLE


def test_the_format_of_the_specification() -> None:
    """The head of its example, but for the extra data, which it abridges. Source: c2sp.org/tlog-proof."""
    head = """c2sp.org/tlog-proof@v1
index 73894
gSKyXoYZUgZ6jduWYrkDOARinOMGJveXjgMkBTcdPlQ=
B95lDa8R83lS8n0eG+o0buTxRKQTYFi//1U8anccXmA=
EKNzoDWG8LGC0Yp9o+sv3qllpMP9uHQ9B20KNL+Q1zs=
RoopEkOdqkYqMB4MJXrbt/hMjOxsVn0IrWjpz1ZMMes=
AHCioX9nLjsrse6YhjRRmk1WUEirVOLLRoOQ6vfO5vk=

example.com/fancylog
"""
    proof = Proof.parse(head)

    assert proof.index == 73894
    assert [hash_[:2].hex() for hash_ in proof.path] == ["8122", "07de", "10a3", "468a", "0070"]
    assert proof.line is None
    assert proof.note == "example.com/fancylog\n"
    assert proof.to_text() == head


@cache
def sample() -> str:
    forge = Forge()
    forge.open()
    for _ in range(5):
        forge.entry()
    return proof_over([line[:-1] for line in forge.lines], 3)


def test_every_bit_counts() -> None:
    """Header, line, index, path, size, root, signature: flip any bit and the proof is false or unreadable."""
    data = sample().encode()
    assert exit_code(data, [KEY.vkey]) == 0
    for bit in range(len(data) * 8):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert exit_code(bytes(altered), [KEY.vkey]) in (1, 2), bit


def test_the_standalone_verifier_agrees() -> None:
    """Written from the format alone, it takes the proof, and none of those that differ by a bit."""

    def verdict(data: bytes) -> int:
        try:
            return int(standalone_verify.check_proof(data, [KEY.vkey])["exit"])
        except standalone_verify.CannotLook:
            return 2

    data = sample().encode()
    assert verdict(data) == 0
    for bit in range(0, len(data) * 8, 11):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        assert verdict(bytes(altered)) in (1, 2), bit


@given(st.integers(0, len(sample().encode())), st.binary(min_size=1, max_size=3), st.integers(0, 3))
def test_nothing_can_be_put_in_or_left_out(place: int, put: bytes, less: int) -> None:
    """No second spelling, nothing in front, between or behind."""
    data = sample().encode()
    altered = data[:place] + put + data[place + less :]

    assert altered == data or exit_code(altered, [KEY.vkey]) in (1, 2)
    assert exit_code(data[:place], [KEY.vkey]) in (1, 2) or place == len(data)


@given(st.integers(1, 40), st.data())
def test_every_entry_of_every_size_is_proved(size: int, data: st.DataObject) -> None:
    """And by no proof of another entry."""
    forge = Forge()
    forge.open()
    while forge.chain.size < size:
        forge.entry()
    lines = [line[:-1] for line in forge.lines]
    seq = data.draw(st.integers(0, size - 1))
    proof = proof_over(lines, seq)

    assert check_proof(proof, [KEY.vkey]).line == lines[seq]
    assert check_proof(proof, [KEY.vkey], forge.lines[seq]).seq == seq, "the line's own line feed does not matter"
    other = data.draw(st.integers(0, size - 1).filter(lambda other: other != seq or size == 1))
    if size > 1:
        assert exit_code(proof, [KEY.vkey], lines[other]) == 1
        swapped = Proof.parse(proof_over(lines, other)).path
        parsed = Proof.parse(proof)
        assert exit_code(Proof(seq, swapped, parsed.note, lines[seq]).to_text(), [KEY.vkey]) == 1


def test_the_line_may_travel_alone() -> None:
    """Without `extra` it must be given; then it is what is proved."""
    parsed = Proof.parse(EXAMPLE)
    bare = Proof(parsed.index, parsed.path, parsed.note, None).to_text()

    assert "extra" not in bare
    assert check_proof(bare, [KEY.vkey], EXAMPLE_LINES[2]).line == EXAMPLE_LINES[2]
    assert exit_code(bare, [KEY.vkey], EXAMPLE_LINES[1]) == 1
    assert exit_code(bare, [KEY.vkey], EXAMPLE_LINES[2] + b"\n\n") == 1
    with pytest.raises(UnreadableProof, match="--line"):
        check_proof(bare, [KEY.vkey])


def test_long_numbers_are_no_obstacle() -> None:
    """Python will not convert an integer of 5000 digits, but a payload may hold one."""
    forge = Forge()
    forge.open()
    forge.entry(params=b'{"n":' + b"9" * 5000 + b',"n":1}')

    assert check_proof(proof_over([line[:-1] for line in forge.lines], 1), [KEY.vkey]).seq == 1


TAIL = b'"log":"%s","seq":%d,"prev":"' + b"0" * 64 + b'"}'


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"id":"x",' + TAIL % (b"another/log", 0), id="another-log"),
        pytest.param(b'{"id":"x",' + TAIL % (ORIGIN.encode(), 1), id="another-seq"),
        pytest.param(b'{"id":"x","seq":7,' + TAIL % (ORIGIN.encode(), 0), id="two-seqs"),
        pytest.param(b'{"id":"x","log":"a",' + TAIL % (ORIGIN.encode(), 0), id="two-logs"),
        pytest.param(b'{"id":"x,' + TAIL % (ORIGIN.encode(), 0), id="no-json"),
        pytest.param(b'{"x":[{},' + TAIL % (ORIGIN.encode(), 0), id="nested"),
        pytest.param(b'{"id":"\xff",' + TAIL % (ORIGIN.encode(), 0), id="no-utf-8"),
        pytest.param(b"[" * 100_000 + b'{"id":"x",' + TAIL % (ORIGIN.encode(), 0), id="deep"),
        pytest.param(b'{"log":"%s","seq":0}' % ORIGIN.encode(), id="no-tail"),
        pytest.param(b"anything else", id="anything"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_line_that_names_another_place_proves_nothing(line: bytes) -> None:
    """Even if the log's key signed it there: a proof is read by its line."""
    assert exit_code(proof_over([line], 0), [KEY.vkey]) == 1


def test_the_key_decides() -> None:
    """One of several keys will do; a stranger's, or that of another log under the same host, will not."""
    stranger = LogKey("audit.example/host1/other", bytes(range(32)))

    assert check_proof(EXAMPLE, [stranger.vkey, OTHER_KEY.vkey, KEY.vkey]).vkey == KEY.vkey
    with pytest.raises(FalseProof, match="no signature of the key"):
        check_proof(EXAMPLE, [OTHER_KEY.vkey])
    with pytest.raises(FalseProof, match="none of the given keys"):
        check_proof(EXAMPLE, [stranger.vkey])
    with pytest.raises(NoVerifierKey):
        check_proof(EXAMPLE, [])
    with pytest.raises(BadKey):
        check_proof(EXAMPLE, [KEY.vkey, "nonsense"])


def test_a_false_proof_is_false_without_a_key() -> None:
    """What contradicts itself needs nobody's key to be refused."""
    assert exit_code(EXAMPLE.replace(HASH, HASH[::-1].replace("=", "") + "="), []) in (1, 2)
    assert exit_code(EXAMPLE.replace("index 2", "index 1"), []) == 1
    assert exit_code(EXAMPLE, []) == 3


def test_signatures_of_strangers_may_stand_beside_ours() -> None:
    """Witnesses add their lines to the note; a proof with them stays one."""
    assert exit_code(EXAMPLE + f"— witness.example {base64.b64encode(b'w' * 76).decode()}\n", [KEY.vkey]) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "first line", id="empty"),
        pytest.param(EXAMPLE_NOTE, "first line", id="a-note"),
        pytest.param(EXAMPLE.replace("@v1", "@v2"), "first line", id="later-version"),
        pytest.param("\ufeff" + EXAMPLE, "first line", id="byte-order-mark"),
        pytest.param(EXAMPLE.replace("\n", "\r\n"), "carriage returns", id="crlf"),
        pytest.param(EXAMPLE.partition("\n\n")[0], "breaks off", id="cut"),
        pytest.param("c2sp.org/tlog-proof@v1\n\n" + EXAMPLE_NOTE, "which entry", id="nothing-but-a-note"),
        pytest.param(EXAMPLE.replace("index 2", "index 02"), "which entry", id="leading-zero"),
        pytest.param(EXAMPLE.replace("index 2", "index +2"), "which entry", id="sign"),
        pytest.param(EXAMPLE.replace("index 2", "index ٢"), "which entry", id="arabic-2"),
        pytest.param(EXAMPLE.replace("index 2", "index " + "9" * 20), "which entry", id="too-large"),
        pytest.param(EXAMPLE.replace("extra ", "extra  "), "the entry in it", id="two-spaces"),
        pytest.param(EXAMPLE.replace("extra ", "Extra "), "which entry", id="capital"),
        pytest.param(EXAMPLE.replace(HASH, HASH[:-2] + "1="), "canonical", id="spare-bits"),
        pytest.param(EXAMPLE.replace(HASH, HASH.replace("/", "_")), "not base64", id="url-alphabet"),
        pytest.param(EXAMPLE.replace(HASH, "AAAA"), "32 bytes", id="short-hash"),
        pytest.param(EXAMPLE.replace(HASH, "\n".join([HASH] * 64)), "64 hashes", id="too-many"),
        pytest.param(EXAMPLE.replace("\n3\n", "\n\n3\n"), "checkpoint is unreadable", id="broken-note"),
        pytest.param(EXAMPLE.replace("— audit", "- audit"), "checkpoint is unreadable", id="broken-signature"),
        pytest.param(EXAMPLE[:-1], "checkpoint is unreadable", id="no-final-line-feed"),
    ],
)
def test_what_is_no_proof_says_why(text: str, reason: str) -> None:
    """One sentence each."""
    with pytest.raises(UnreadableProof, match=reason):
        check_proof(text, [KEY.vkey])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(EXAMPLE.replace("index 2", "index 3"), "not the one at seq 3", id="index"),
        pytest.param(EXAMPLE.replace(f"{HASH}\n", ""), "too short", id="no-path"),
        pytest.param(EXAMPLE.replace(HASH, f"{HASH}\n{HASH}"), "too long", id="long-path"),
        pytest.param(EXAMPLE.replace("\n3\n", "\n2\n"), "has no leaf 2", id="smaller-tree"),
        pytest.param(EXAMPLE.replace("\n3\n", "\n4\n"), "by its path", id="larger-tree"),
        pytest.param(EXAMPLE.replace("CDZP8qA8=", "CDZP8qB8="), "signature does not fit", id="signature"),
    ],
)
def test_what_is_false_says_why(text: str, reason: str) -> None:
    """One sentence each."""
    with pytest.raises(FalseProof, match=reason):
        check_proof(text, [KEY.vkey])
