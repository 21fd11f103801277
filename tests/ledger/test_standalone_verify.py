"""A verifier that shares no code with the package comes to the same verdict, whatever was done to a log.

Every test of the package's own verifier runs here once more with both, and the tables below ask both as well.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_verifier
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, EXAMPLE_NOTE, KEY, ORIGIN, OTHER_KEY, SECRET, Forge, closed_log, rotated_log
from test_verifier import *  # noqa: F403

from mcp_audit.ledger import Report, standalone_verify
from mcp_audit.ledger.checking.verifier import verify
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.keys import LogKey
from mcp_audit.ledger.segment import Previous, segment_members

ARCHIVES = ["audit.jsonl.20260601T214605Z", "audit.jsonl.20260602T214605Z"]
Damage = Callable[[Path], None]


def second_opinion(path: Path, **options: Any) -> str:
    """The other verifier's verdict."""
    vkeys, secrets, against = (options.get(name) for name in ("vkeys", "secrets", "against"))
    kept = None if against is None else against.encode("utf-8", "surrogateescape")
    try:
        return str(standalone_verify.verify(str(path), vkeys or (), secrets or (), kept)["verdict"])
    except standalone_verify.CannotLook:
        return "UNREADABLE"


def both(path: Path, **options: Any) -> Report:
    """Ask both; they must agree."""
    other = second_opinion(path, **options)
    try:
        report = verify(path, **options)
    except CannotLook:
        assert other == "UNREADABLE"
        raise
    if not (options.get("strict") and "does not conform" in report.reason):  # --strict is the package's alone
        assert other == report.verdict.name, report.reason
    return report


@pytest.fixture(autouse=True)
def _both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_verifier, "verify", both)


def change(name: str, old: bytes = b"read_file", new: bytes = b"make_file") -> Damage:
    """Edit one file, inside its gzip data if it is packed."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return damage


def pack(name: str, change: tuple[bytes, bytes] = (b"", b""), cut: int = 0, keep: bool = False) -> Damage:
    """Compress a file, perhaps changed before or cut afterwards."""

    def damage(folder: Path) -> None:
        packed = gzip.compress((folder / name).read_bytes().replace(*change, 1))
        (folder / f"{name}.gz").write_bytes(packed[: len(packed) - cut])
        if not keep:
            (folder / name).unlink()

    return damage


def remove(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def rename(old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return damage


def cut(name: str, count: int) -> Damage:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - count)


def add(name: str, data: bytes) -> Damage:
    def damage(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(data)

    return damage


def swap(one: str, other: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / one).rename(folder / "aside")
        (folder / other).rename(folder / one)
        (folder / "aside").rename(folder / other)

    return damage


def instead(make: Callable[[], Forge], *then: Damage) -> Damage:
    """Another log in the place of the usual one, then damaged."""

    def damage(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        make().write(folder / "audit.jsonl")
        for each in then:
            each(folder)

    return damage


def note(name: str, size: int, key: LogKey = KEY, root: bytes = bytes(32)) -> Damage:
    """A note in the place of another."""
    text = signed_note(Checkpoint(key.origin, size, root), key)

    def damage(folder: Path) -> None:
        (folder / f"{name}.checkpoint").write_text(text)

    return damage


def unfinished_rotation(folder: Path) -> None:
    """What a crash between the two renames of a rotation leaves."""
    (folder / "audit.jsonl").unlink()
    shutil.copy(folder / f"{ARCHIVES[1]}.checkpoint", folder / "audit.jsonl.checkpoint")


def pruned(to: int = 10, signed: bool = True, **members: Any) -> Forge:
    forge = rotated_log()
    forge.open("close")
    forge.prune(to, **members)
    if signed:
        forge.close(of=forge.chain.size - 2)
        forge.sign()
    return forge


def lying(**members: Any) -> Forge:
    """A segment line with a false claim, signed all the same."""
    forge = Forge()
    forge.open()
    forge.call()
    forge.entry("request")
    forge.rotate()
    honest = json.loads(forge.lines[0])
    told = {name: honest[name] for name in ("start", "frontier", "pending", "runs", "vkey", "key_id", "previous")}
    first = Forge()
    first.open()
    first.call()
    first.entry("request")
    first.archives, first.lines, first.second = forge.archives, [], forge.second - 1
    id_, stamp = first.stamp()
    body = json.dumps({"type": "segment", "id": id_, "timestamp": stamp, **told, **members}, separators=(",", ":"))
    first.lines.append(first.chain.seal((body[:-1].encode(), None)))  # type: ignore[arg-type]
    first.typed("orphan", of=3, outcome="lost", why="crash")
    first.close()
    first.sign()
    return first


def replaced_previous(**members: Any) -> Forge:
    previous = json.loads(lying().lines[0])["previous"]
    return lying(previous={**previous, **members})


def torn_archive() -> Forge:
    """An archive that ends in torn bytes which nothing vouches for."""
    forge = Forge()
    forge.open()
    whole = forge.lines[0]
    forge.lines.append(b"torn\n")
    forge.rotate()
    assert forge.archives[0].data == whole + b"torn\n"
    forge.close()
    forge.sign()
    return forge


FILES = [
    pytest.param([], "INTACT", id="untouched"),
    pytest.param([pack(ARCHIVES[0])], "INTACT", id="gzip"),
    pytest.param([pack(ARCHIVES[0]), pack(ARCHIVES[1])], "INTACT", id="gzip-all"),
    pytest.param([pack(ARCHIVES[0], keep=True)], "INTACT", id="gzip-beside-the-original"),
    pytest.param([pack(ARCHIVES[0], cut=9, keep=True)], "INTACT", id="half-a-gzip-beside-the-original"),
    pytest.param([rename(ARCHIVES[1], "audit.jsonl.1")], "INTACT", id="renamed"),
    pytest.param([add("audit.jsonl.notes", b"mine\n"), add("audit.jsonl.index", b"\0")], "INTACT", id="other-files"),
    pytest.param([remove(ARCHIVES[0])], "TAMPERED", id="first-missing"),
    pytest.param([remove(ARCHIVES[1])], "TAMPERED", id="middle-missing"),
    pytest.param([remove(*ARCHIVES)], "TAMPERED", id="all-missing"),
    pytest.param([swap(*ARCHIVES)], "INTACT", id="names-swapped"),
    pytest.param([change(ARCHIVES[0])], "TAMPERED", id="changed"),
    pytest.param([pack(ARCHIVES[0], (b"read_file", b"make_file"))], "TAMPERED", id="changed-gzip"),
    pytest.param([pack(ARCHIVES[0], cut=9)], "UNREADABLE", id="cut-gzip"),
    pytest.param([cut(ARCHIVES[0], 30)], "TAMPERED", id="cut"),
    pytest.param([cut(ARCHIVES[1], 1)], "TAMPERED", id="last-lf-cut"),
    pytest.param([add(ARCHIVES[1], b"more\n")], "TAMPERED", id="more-at-the-end"),
    pytest.param([cut("audit.jsonl", 30)], "TAMPERED", id="active-cut"),
    pytest.param([remove("audit.jsonl")], "TAMPERED", id="active-missing"),
    pytest.param([unfinished_rotation], "UNCLEAN", id="unfinished-rotation"),
    pytest.param([unfinished_rotation, cut(ARCHIVES[1], 30)], "TAMPERED", id="unfinished-rotation-and-cut"),
    pytest.param([swap("audit.jsonl", ARCHIVES[1])], "TAMPERED", id="active-swapped"),
    pytest.param([remove("audit.jsonl"), rename(ARCHIVES[1], "audit.jsonl")], "TAMPERED", id="archive-as-active"),
    pytest.param([remove(f"{ARCHIVES[0]}.checkpoint")], "INTACT", id="archive-note-missing"),
    pytest.param([change(f"{ARCHIVES[0]}.checkpoint", b"\n5\n", b"\n6\n")], "TAMPERED", id="archive-note-changed"),
    pytest.param([note(ARCHIVES[0], 5)], "TAMPERED", id="archive-note-of-another-root"),
    pytest.param([note(ARCHIVES[0], 5, OTHER_KEY)], "TAMPERED", id="archive-note-of-another-key"),
    pytest.param([add(f"{ARCHIVES[0]}.checkpoint", b"x")], "TAMPERED", id="archive-note-damaged"),
    pytest.param([swap(*(f"{name}.checkpoint" for name in ARCHIVES))], "INTACT", id="archive-notes-swapped"),
    pytest.param([remove(f"{ARCHIVES[0]}.checkpoint", "audit.jsonl.checkpoint")], "UNKNOWN", id="sidecar-missing"),
    pytest.param([instead(pruned)], "INTACT", id="pruned-not-yet-deleted"),
    pytest.param([instead(pruned, remove(ARCHIVES[0]))], "INTACT", id="pruned-half-deleted"),
    pytest.param([instead(pruned, remove(*ARCHIVES))], "INTACT", id="pruned"),
    pytest.param([instead(lambda: pruned(5), remove(ARCHIVES[0]))], "INTACT", id="pruned-one"),
    pytest.param([instead(lambda: pruned(5), remove(*ARCHIVES))], "TAMPERED", id="pruned-one-both-missing"),
    pytest.param([instead(lambda: pruned(5), remove(ARCHIVES[1]))], "TAMPERED", id="pruned-the-other"),
    pytest.param([instead(lambda: pruned(signed=False), remove(*ARCHIVES))], "TAMPERED", id="prune-not-signed"),
    pytest.param([instead(lying)], "INTACT", id="segment-true"),
    pytest.param([instead(lambda: lying(start=3))], "TAMPERED", id="segment-start"),
    pytest.param([instead(lambda: lying(frontier=[]))], "TAMPERED", id="segment-frontier-short"),
    pytest.param(
        [instead(lambda: lying(frontier=[base64.b64encode(bytes(32)).decode()]))], "TAMPERED", id="segment-frontier"
    ),
    pytest.param([instead(lambda: lying(pending=[]))], "TAMPERED", id="segment-pending"),
    pytest.param([instead(lambda: lying(runs=[]))], "TAMPERED", id="segment-runs"),
    pytest.param([instead(lambda: lying(key_id="00000000"))], "TAMPERED", id="segment-key"),
    pytest.param([instead(lambda: replaced_previous(sha256="0" * 64))], "TAMPERED", id="segment-previous-hash"),
    pytest.param([instead(lambda: replaced_previous(bytes=1))], "TAMPERED", id="segment-previous-bytes"),
    pytest.param([instead(lambda: replaced_previous(start=1))], "TAMPERED", id="segment-previous-start"),
    pytest.param([instead(lambda: replaced_previous(name="audit.jsonl.x"))], "INTACT", id="segment-previous-name"),
    pytest.param([instead(torn_archive)], "TAMPERED", id="torn-archive"),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.mark.parametrize("secrets", [[SECRET], []], ids=["secret", "none"])
@pytest.mark.parametrize(("damages", "verdict"), FILES)
def test_archives(files: Path, damages: list[Damage], verdict: str, secrets: list[bytes]) -> None:
    """Files that are missing, moved, packed, changed or lied about: the verdict the description demands, from both."""
    log = rotated_log().write(files / "audit.jsonl")
    for damage in damages:
        damage(files)

    assert second_opinion(log, secrets=secrets, vkeys=[KEY.vkey]) == verdict
    if verdict == "UNREADABLE":
        with pytest.raises(CannotLook):
            both(log, secrets=secrets, vkeys=[KEY.vkey])
    else:
        assert both(log, secrets=secrets, vkeys=[KEY.vkey]).verdict.name == verdict


def test_the_note_of_a_pruned_archive_must_fit_the_frontier(files: Path) -> None:
    """It stays when the archive goes, and its root is that of the next segment's frontier."""
    log = pruned().write(files / "audit.jsonl")
    remove(*ARCHIVES)(files)
    assert second_opinion(log) == "INTACT"
    note(ARCHIVES[1], 10)(files)
    assert second_opinion(log) == "TAMPERED"


@pytest.mark.parametrize(
    ("damage", "verdict"),
    [
        pytest.param([], "INTACT", id="whole"),
        pytest.param([pack(ARCHIVES[1])], "INTACT", id="gzip"),
        pytest.param([change(ARCHIVES[1])], "TAMPERED", id="changed"),
        pytest.param([cut(ARCHIVES[1], 30)], "TAMPERED", id="cut"),
        pytest.param([add(ARCHIVES[1], b"more\n")], "UNCLEAN", id="torn"),
        pytest.param([remove(f"{ARCHIVES[1]}.checkpoint")], "UNKNOWN", id="no-note"),
    ],
)
def test_one_archive_by_itself(files: Path, damage: list[Damage], verdict: str) -> None:
    """It has its own note; what lies before and behind it is not judged, and that is said."""
    rotated_log().write(files / "audit.jsonl")
    remove("audit.jsonl", "audit.jsonl.checkpoint", ARCHIVES[0])(files)
    for each in damage:
        each(files)
    path = next(path for path in files.iterdir() if re.fullmatch(re.escape(ARCHIVES[1]) + r"(\.gz)?", path.name))
    report = standalone_verify.verify(str(path), [KEY.vkey], [SECRET])

    assert report["verdict"] == verdict, report
    told = any("seq 0 to 4 are in other files" in notice for notice in report["notices"])
    assert told is (verdict != "TAMPERED")
    assert both(path, vkeys=[KEY.vkey], secrets=[SECRET]).verdict.name == verdict


DATABASES = [
    pytest.param(0, {}, "INTACT", id="not-yet-deleted"),
    pytest.param(3, {}, "INTACT", id="pruned"),
    pytest.param(2, {}, "TAMPERED", id="less"),
    pytest.param(4, {}, "TAMPERED", id="more"),
    pytest.param(3, {"frontier": []}, "TAMPERED", id="no-frontier"),
    pytest.param(3, {"frontier": [base64.b64encode(bytes(32)).decode()] * 2}, "TAMPERED", id="another-frontier"),
    pytest.param(3, {"key_id": "00000000"}, "INTACT", id="unknown-key"),
]


@pytest.mark.parametrize(("first", "members", "verdict"), DATABASES)
def test_pruned_databases(files: Path, first: int, members: dict[str, Any], verdict: str) -> None:
    """The `prune` line stands in for the rows that went, and only for those."""
    forge = Forge()
    forge.open()
    forge.call()
    state = segment_members(forge.chain, KEY.vkey, Previous("", 0, 0, ""))
    forge.call()
    told = {name: state[name] for name in ("frontier", "pending", "runs", "vkey", "key_id")}
    forge.typed("prune", **{"from": 0, "to": 3, "rule": "max_age_days: 30", **told, **members})
    forge.close()
    forge.sign()
    log = forge.write_sqlite(files / "audit.db", first)
    secrets = [] if "key_id" in members else [SECRET]

    assert second_opinion(log, secrets=secrets) == verdict
    assert both(log, secrets=secrets).verdict.name == verdict


def test_another_log_whose_name_begins_alike(files: Path) -> None:
    """Its files are not taken for parts of this one."""
    other = Forge(SECRET, "another/log", LogKey("another/log", bytes(32)))
    other.open()
    other.rotate("audit.jsonl.2")
    other.close()
    other.sign()
    log = rotated_log().write(files / "audit.jsonl")
    other.write(files / "audit.jsonl.2")

    assert both(log).verdict.name == "INTACT"
    assert both(files / "audit.jsonl.2").verdict.name == "INTACT"


def test_stored_checkpoints_must_fit(files: Path) -> None:
    """The notes in a database's table are signed as well, so none may contradict the rows."""
    forge = Forge()
    forge.open()
    first = forge.sign()
    forge.close()
    forge.sign()
    assert second_opinion(forge.write_sqlite(files / "audit.db", notes={1: first})) == "INTACT"
    false = signed_note(Checkpoint(ORIGIN, 1, bytes(32)), KEY)
    assert second_opinion(forge.write_sqlite(files / "audit.db", notes={1: false})) == "TAMPERED"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_damage_finds_no_disagreement(data: st.DataObject) -> None:
    """Bytes replaced, removed or inserted anywhere, lines swapped: whatever comes out, both say the same."""
    import tempfile

    forge = Forge(data.draw(st.sampled_from([SECRET, None])))
    forge.open()
    forge.call()
    forge.sign()
    forge.entry("request")
    forge.close()
    content = bytearray(forge.data)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 400)))
        content[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b"{}\n", *forge.lines]))
    with tempfile.TemporaryDirectory() as folder:
        path = forge.write(Path(folder) / "audit.jsonl", bytes(content))
        verdicts = {second_opinion(path, secrets=[SECRET]), verify(path, secrets=[SECRET]).verdict.name}
    # Without MACs nothing tells an edit behind the checkpoint from a torn line but its looks.
    assert len(verdicts) == 1 or (forge.secret is None and verdicts == {"TAMPERED", "UNCLEAN"})


# Ed25519, without the package `cryptography`

RFC_8032 = [  # section 7.1: TEST 1, TEST 2, TEST 3; public key, message, signature
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19
SMALL_ORDER = [  # the points of order 1, 2, 4 and 8 in their canonical encodings
    1,
    PRIME - 1,
    0,
    1 << 255,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    0x85FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0xFA03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
]
NOT_CANONICAL = [PRIME, PRIME + 1, PRIME + 3, 2**255 - 1, 1 | 1 << 255, (PRIME - 1) | 1 << 255]
PURE = pytest.mark.parametrize("pure", [True, False], ids=["pure", "cryptography"])


@PURE
@pytest.mark.parametrize(("public", "message", "signature"), RFC_8032, ids=["1", "2", "3"])
def test_vectors_of_rfc_8032(public: str, message: str, signature: str, pure: bool) -> None:
    """They verify; with any byte changed, a longer S or another message they do not."""
    key, text, signed = map(bytes.fromhex, (public, message, signature))
    assert standalone_verify.ed25519_verify(key, signed, text, pure)
    assert not standalone_verify.ed25519_verify(key, signed, text + b"x", pure)
    assert not standalone_verify.ed25519_verify(key, signed[:-1], text, pure)
    same_s = int.from_bytes(signed[32:], "little") + ORDER
    assert not standalone_verify.ed25519_verify(key, signed[:32] + same_s.to_bytes(32, "little"), text, pure)
    for place in range(0, 64, 7):
        changed = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
        assert not standalone_verify.ed25519_verify(key, changed, text, pure)


@PURE
@pytest.mark.parametrize("encoded", [*SMALL_ORDER, *NOT_CANONICAL], ids=hex)
def test_keys_that_mean_nothing(encoded: int, pure: bool) -> None:
    """Under a key of small order one signature fits many messages; other encodings of a point are no keys."""
    key = encoded.to_bytes(32, "little")
    identity = (1).to_bytes(32, "little") + bytes(32)
    assert not standalone_verify.usable_key(key)
    assert not standalone_verify.ed25519_verify(key, identity, b"message", pure)


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.none() | st.integers(0, 511))
def test_both_implementations_agree(seed: bytes, message: bytes, flip: int | None) -> None:
    """On honest signatures, and on those with one bit flipped."""
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), bytearray(private.sign(message))
    if flip is not None:
        signature[flip // 8] ^= 1 << flip % 8
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes(signature), message)
        expected = True
    except InvalidSignature:
        expected = False

    assert expected is (flip is None)
    assert standalone_verify.ed25519_verify(public, bytes(signature), message, pure=True) is expected


# Proofs


def leaf(line: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + line).digest()


def tree(leaves: list[bytes]) -> bytes:
    """RFC 6962, 2.1, as it is written there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + tree(leaves[:k]) + tree(leaves[k:])).digest()


def path_to(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if index < k:
        return [*path_to(index, leaves[:k]), tree(leaves[k:])]
    return [*path_to(index - k, leaves[k:]), tree(leaves[:k])]


def proof(lines: list[bytes], index: int, note: str, extra: bytes | None = None) -> str:
    shown = base64.b64encode(lines[index] if extra is None else extra).decode()
    path = [base64.b64encode(node).decode() for node in path_to(index, [leaf(line) for line in lines])]
    return "\n".join(["c2sp.org/tlog-proof@v1", f"extra {shown}", f"index {index}", *path, "", note])


def test_the_published_proof() -> None:
    """The worked example: its path is one hash."""
    text = proof(EXAMPLE_LINES, 2, EXAMPLE_NOTE)
    assert "\nL/RmhU5NVfumSTJxJloYBnxFwyMxqWvlF9iodKfDqq0=\n" in text
    result = standalone_verify.check_proof(text.encode(), [KEY.vkey])

    assert (result["verdict"], result["seq"], result["log"]) == ("INTACT", 2, ORIGIN)
    assert json.loads(result["entry"])["result"]["content"][0]["text"] == "hello"


@pytest.mark.parametrize("calls", range(8))
def test_every_entry_of_a_log_can_be_proved(calls: int) -> None:
    """At every size; the path of one entry proves no other, and no key but the log's will do."""
    forge = closed_log(calls=calls)
    lines = [line[:-1] for line in forge.lines]
    for index in range(len(lines)):
        text = proof(lines, index, forge.note or "").encode()
        assert standalone_verify.check_proof(text, [KEY.vkey])["exit"] == 0
        assert standalone_verify.check_proof(text, [OTHER_KEY.vkey, KEY.vkey], lines[index])["exit"] == 1
        assert standalone_verify.check_proof(text, [KEY.vkey], lines[index - 1])["exit"] == 1
        assert standalone_verify.check_proof(text, [])["exit"] == 3
        other = proof(lines, index, forge.note or "", lines[index - 1]).encode()
        assert standalone_verify.check_proof(other, [KEY.vkey])["exit"] == 1
        assert standalone_verify.check_proof(other, [])["exit"] == 1


def test_every_bit_of_a_proof_counts() -> None:
    """Change any bit: false or unreadable, never true."""
    data = proof(EXAMPLE_LINES, 1, EXAMPLE_NOTE).encode()
    for bit in range(0, len(data) * 8, 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(standalone_verify.CannotLook):
            assert standalone_verify.check_proof(bytes(changed), [KEY.vkey])["exit"] == 1, bit


# The file by itself


def run_alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A copy of the file, with neither the package nor any other in reach."""
    copy = shutil.copy(standalone_verify.__file__, folder / "alone.py")
    command = [sys.executable, "-I", "-S", "-W", "error", str(copy), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False, env={"LANG": "C"})


def test_it_runs_alone(tmp_path: Path, files: Path) -> None:
    """Copied elsewhere, without site-packages: same verdicts, exit codes and a report in words or JSON."""
    log = rotated_log().write(files / "audit.jsonl")
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    done = run_alone(tmp_path, log, "--vkey", KEY.vkey, "--secret-file", secret)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        f"INTACT  {ORIGIN}: 16 lines; checked chain, note, tree, mac; key pinned: {KEY.vkey}"
    )

    note(ARCHIVES[0], 5)(files)
    done = run_alone(tmp_path, log, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit"], report["verdict"], report["pinned"]) == (1, 1, "TAMPERED", False)
    assert run_alone(tmp_path, files / "none").returncode == 2
    assert run_alone(tmp_path).returncode == 2
    assert run_alone(tmp_path, log, "--vkey", "nonsense").returncode == 2

    written = tmp_path / "proof"
    written.write_text(proof(EXAMPLE_LINES, 2, EXAMPLE_NOTE))
    line = tmp_path / "line"
    line.write_bytes(EXAMPLE_LINES[2] + b"\n")
    done = run_alone(tmp_path, "--proof", written, "--line", line, "--vkey", KEY.vkey)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"INTACT  {ORIGIN} seq 2: proved\n")


def test_a_log_cannot_write_on_the_terminal(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes out of it is escaped."""
    forge = closed_log()
    forge.typed("gap", cause="x", lost="\x1b[2J\u202eINTACT")
    forge.sign()
    standalone_verify.main([str(forge.write(files / "audit\x1b[1m.jsonl"))])
    out = capsys.readouterr().out

    assert "\x1b" not in out
    assert "\\x1b[2J\\u202eINTACT" in out


def test_against_a_kept_note(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file; a log that was rolled back behind it is told apart."""
    log = closed_log(calls=1).write(files / "audit.jsonl")
    kept = files / "kept"
    kept.write_text(closed_log(calls=2).note or "")
    assert standalone_verify.main([str(log), "--against", str(kept)]) == 1
    assert "rolled back or cut" in capsys.readouterr().out


def test_it_imports_nothing_of_ours_and_old_syntax_only() -> None:
    """Standard library, `cryptography` lazily, and Python 3.9."""
    source = Path(standalone_verify.__file__).read_text()
    module = ast.parse(source, feature_version=(3, 9))
    names = {alias.name for node in ast.walk(module) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} - sys.stdlib_module_names == {"cryptography"}
    top = {node.module for node in module.body if isinstance(node, ast.ImportFrom)}
    assert not any((name or "").startswith("cryptography") for name in top)


def test_a_log_that_changes_while_it_is_read_is_read_again(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that was half written, or a rotation half done, is no fault of the log."""
    forge = closed_log()
    log = forge.write(files / "audit.jsonl", forge.data[:-20])
    judge = standalone_verify.Case.judge
    seen = []

    def finish_then_judge(case: standalone_verify.Case) -> None:
        judge(case)
        seen.append(bool(case.faults))
        forge.write(log)

    monkeypatch.setattr(standalone_verify.Case, "judge", finish_then_judge)
    assert standalone_verify.verify(str(log))["verdict"] == "INTACT"
    assert seen == [True, False]
