"""The scan: crash or tampering is told from the bytes alone, and a writer can go on from any crash."""

from __future__ import annotations

import hashlib
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_forge import KEY, ORIGIN, SECRET, Forge, closed_log, running_log

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import Checkpoint, open_note
from mcp_audit.ledger.entry import encode_typed
from mcp_audit.ledger.keys import VerifierKey, derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner

SECRETS = derive(SECRET, ORIGIN)
RECOVERY = ("01KSFJ99999999999999999999", "2026-05-25T13:00:00.000000Z")


def _chain() -> Chain:
    return Chain(ORIGIN, keyring={SECRETS.key_id: Mac(SECRETS.mac)})


def scan(data: bytes, *watch: int, step: int = 1 << 20) -> Scanner:
    scanner = Scanner(_chain(), watch)
    for start in range(0, len(data), step):
        scanner.feed(data[start : start + step])
    scanner.finish()
    return scanner


def _checkpoint(forge: Forge) -> Checkpoint:
    assert forge.note is not None
    return open_note(forge.note, VerifierKey.parse(KEY.vkey))


def recovery(scanner: Scanner, signed: int, **changes: Any) -> bytes:
    """Do what a writer does after a crash: mend, and return the bytes it appends."""
    scanner.chain.mac = Mac(SECRETS.mac) if scanner.chain.key_id else None
    lead, members = scanner.mend(signed)
    if members is None:
        return lead
    return lead + scanner.chain.seal(encode_typed("recovery", *RECOVERY, members | changes))


def _facts(scanner: Scanner) -> tuple[object, ...]:
    chain = scanner.chain
    return (
        *(scanner.end, scanner.position, scanner.fault, scanner.torn(), dict(scanner.roots), +scanner.kinds),
        *(scanner.notices, chain.size, chain.prev, chain.pending, chain.runs, scanner.torn_bytes, scanner.unchecked),
    )


@pytest.mark.parametrize("secret", [SECRET, None], ids=["mac", "no-mac"])
@pytest.mark.parametrize("tail", [b"", b"x", b"\0" * 50, b"half\nand half", b"\n\n"], ids=repr)
def test_chunk_boundaries_carry_no_meaning(secret: bytes | None, tail: bytes) -> None:
    """Byte by byte or whole, the same is found."""
    forge = running_log(secret)
    torn = scan(forge.data + tail)
    data = forge.data + tail + recovery(torn, 2)
    after = Forge(secret)
    after.chain = torn.chain
    after.call()
    data += after.data + b"tail"

    assert _facts(scan(data, 3, step=1)) == _facts(scan(data, 3)) == _facts(scan(data, 3, step=97))
    assert scan(data).fault is None


def test_an_intact_log_has_no_contradiction() -> None:
    """Counts, root and end are those of the log that was written."""
    forge = closed_log(calls=3)
    scanner = scan(forge.data, 8)

    assert scanner.contradiction(_checkpoint(forge)) is None
    assert scanner.torn() is None
    assert scanner.end == scanner.position == len(forge.data)
    assert +scanner.kinds == {"open": 1, "request": 3, "exchange": 3, "close": 1}
    assert scanner.roots == {8: forge.chain.tree.root()}
    assert (scanner.unchecked, scanner.without_mac) == (0, 0)


@pytest.mark.parametrize("secret", [SECRET, None], ids=["mac", "no-mac"])
def test_cut_anywhere_a_writer_goes_on_or_refuses(secret: bytes | None) -> None:
    """Before the end of what was signed: contradiction. Behind it: mend, go on, and the whole verifies."""
    forge = running_log(secret)
    checkpoint = _checkpoint(forge)
    limit = forge.end(checkpoint.size)
    for offset in range(1, len(forge.data)):
        scanner = scan(forge.data[:offset], checkpoint.size)
        if offset < limit:
            assert scanner.contradiction(checkpoint) is not None, offset
            continue
        assert scanner.contradiction(checkpoint) is None, offset
        kept = scanner.chain.size
        data = forge.data[:offset] + recovery(scanner, checkpoint.size)
        after = Forge(secret)
        after.chain = scanner.chain
        after.call()
        again = scan(data + after.data, checkpoint.size)
        assert again.contradiction(checkpoint) is None, offset
        assert again.torn() is None
        assert again.end == len(data + after.data)
        whole = forge.data[:offset].count(b"}\n") + (forge.data[offset : offset + 1] == b"\n")
        assert kept == whole, offset


def test_a_cut_inside_a_recovery_is_recovered() -> None:
    """The torn `recovery` joins the torn bytes that the next one describes."""
    forge = running_log()
    torn = forge.data[:-7]
    first = scan(torn, 3)
    mended = torn + recovery(first, 3)
    for offset in range(len(torn) + 1, len(mended)):
        second = scan(mended[:offset], 3)
        data = mended[:offset] + recovery(second, 3)
        third = scan(data, 3)
        assert third.contradiction(_checkpoint(forge)) is None, offset
        assert third.torn() is None
        if offset < len(mended) - 1:
            assert third.torn_bytes == data.rindex(b'{"type":"recovery"') - third_good_end(forge)


def third_good_end(forge: Forge) -> int:
    return len(forge.data) - len(forge.lines[-1])


def test_a_missing_last_line_feed_is_not_a_torn_line() -> None:
    """Trap 1: a write cut exactly before its LF left a good line; only the LF is written, and nothing is lost."""
    forge = running_log()
    scanner = scan(forge.data[:-1])

    assert scanner.torn() is None
    assert scanner.chain.size == forge.chain.size
    assert scanner.mend(3) == (b"\n", None)
    scanner.wrote(1)
    assert scanner.end == len(forge.data)
    assert scanner.mend(3) == (b"", None)


def test_a_recovery_never_covers_what_was_signed() -> None:
    """Trap 2: mending below the checkpoint is refused, and a line that claims to is a fault."""
    forge = running_log()
    scanner = scan(forge.data[:-7])
    with pytest.raises(ValueError, match="must not cover"):
        scanner.mend(forge.chain.size)
    data = forge.data[:-7] + recovery(scanner, 3, checkpoint=forge.chain.size)

    assert "a checkpoint had signed" in str(scan(data).fault)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"torn_bytes": 3}, id="count"),
        pytest.param({"torn_sha256": hashlib.sha256(b"").hexdigest()}, id="hash"),
        pytest.param({"checkpoint": None}, id="no-checkpoint"),
        pytest.param({"checkpoint": "0"}, id="checkpoint-no-number"),
    ],
)
def test_a_recovery_must_describe_the_bytes_before_it(changes: dict[str, Any]) -> None:
    """Torn bytes are accepted only under their own count and hash."""
    forge = running_log()
    torn = forge.data[:-7]
    data = torn + recovery(scan(torn), 3, **changes)

    assert scan(data).fault is not None


def test_torn_bytes_cannot_be_changed_or_removed_later() -> None:
    """The recovery vouches for exactly them: flip one, or take them out, and it shows."""
    forge = running_log()
    torn = forge.data[:-7]
    mended = torn + recovery(scan(torn, 3), 3)
    begin = third_good_end(forge)
    assert scan(mended).fault is None
    for offset in range(begin, len(torn)):
        changed = mended[:offset] + bytes([mended[offset] ^ 1]) + mended[offset + 1 :]
        assert scan(changed).fault is not None, offset
    assert scan(mended[: len(torn)] + b"x" + mended[len(torn) + 1 :]).torn() is not None
    assert scan(mended[:begin] + mended[len(torn) + 1 :]).fault is not None


def test_a_good_line_after_bad_bytes_without_recovery_is_a_fault() -> None:
    """What no crash can leave: something between two lines that fit each other, even past the checkpoint."""
    forge = running_log()
    end = len(forge.data) - len(forge.lines[-1])
    scanner = scan(forge.data[:end] + b"garbage\n" + forge.lines[-1], 3)

    assert (
        scanner.contradiction(_checkpoint(forge))
        == "line 7: seq 6 is damaged: these bytes are no whole line of a ledger"
    )
    same_without_lf = scan(forge.data[:end] + b"garbage\n" + forge.lines[-1][:-1], 3)
    assert same_without_lf.fault == scanner.fault


@pytest.mark.parametrize(("secret", "salvageable"), [(SECRET, 3), (None, 3)], ids=["mac", "no-mac"])
def test_an_edit_leaves_salvageable_lines(secret: bytes | None, salvageable: int) -> None:
    """Behind an edited line whole lines remain, which a torn write does not leave: the recovery counts them."""
    forge = running_log(secret)
    lines = forge.lines.copy()
    lines[3] = b"{" + lines[3]
    lines[3] = lines[3].replace(b'"seq":3', b'"seq":9')
    torn = scan(b"".join(lines), 3).torn()

    assert torn is not None
    assert torn.salvageable == salvageable + (1 if secret is None else 0)


def test_a_writer_follows_its_peers() -> None:
    """Catch up, write, catch up again: end and chain are those of the whole file."""
    forge = running_log()
    scanner = scan(forge.data)
    more = Forge()
    more.chain = scanner.chain
    scanner.chain.mac = Mac(SECRETS.mac)
    more.call()
    scanner.wrote(len(more.data))
    assert scanner.position == len(forge.data + more.data)
    peer = Forge()
    peer.chain = scan(forge.data + more.data).chain
    peer.call()
    scanner.feed(peer.data[:40])
    scanner.feed(peer.data[40:])
    scanner.finish()

    assert scanner.fault is None
    assert scanner.torn() is None
    assert _whole(scanner) == _whole(scan(forge.data + more.data + peer.data))


def _whole(scanner: Scanner) -> tuple[object, ...]:
    return scanner.end, scanner.chain.size, scanner.chain.prev, scanner.chain.pending, scanner.chain.runs


def test_after_a_short_write_the_whole_lines_count() -> None:
    """ENOSPC: rewind, feed what reached the file, mend the rest."""
    forge = running_log()
    scanner = scan(forge.data)
    scanner.chain.mac = Mac(SECRETS.mac)
    mark = scanner.chain.mark()
    batch = Forge()
    batch.chain = scanner.chain
    batch.call()
    reached = batch.data[: len(batch.lines[0]) + 10]
    scanner.chain.rewind(mark)
    scanner.feed(reached)
    scanner.finish()

    assert scanner.chain.size == forge.chain.size + 1
    data = forge.data + reached + recovery(scanner, 3)
    assert scan(data).fault is None
    assert scan(data).torn_bytes == 11


@settings(max_examples=60)
@given(st.data())
def test_any_mutation_of_signed_bytes_is_a_contradiction(data: st.DataObject) -> None:
    """Replace, insert or delete any bytes before the end of what is signed."""
    forge = closed_log(data.draw(st.sampled_from([SECRET, None])), calls=data.draw(st.integers(0, 3)))
    original = forge.data
    limit = forge.end(forge.chain.size)
    start = data.draw(st.integers(0, limit - 1))
    stop = data.draw(st.integers(start, limit))
    changed = original[:start] + data.draw(st.binary(max_size=40)) + original[stop:]
    checkpoint = _checkpoint(forge)
    contradiction = scan(changed, checkpoint.size).contradiction(checkpoint)

    assert (contradiction is None) == (changed == original)


def test_lines_of_the_future_are_leaves() -> None:
    """Unknown types and members are followed; only an `open` of a newer version is remembered."""
    forge = Forge()
    forge.open(v=2, novelty=[1])
    forge.typed("key", epoch=1)
    forge.typed("anchor")
    scanner = scan(forge.data)

    assert scanner.fault is None
    assert scanner.future == 2
    assert +scanner.kinds == {"open": 1, "other": 2}


def test_a_log_begins_with_open() -> None:
    """A first line of another type is none, even if it chains."""
    forge = Forge(None)
    forge.call()

    assert "not the opening line" in str(scan(forge.data).fault)


def test_memory_does_not_grow_with_the_log() -> None:
    """A log many times larger than what is kept: no more than a few chunks at once."""
    forge = Forge()
    forge.open()
    scanner = Scanner(_chain())
    scanner.feed(forge.data)
    fed = 0
    tracemalloc.start()
    try:
        for _ in range(60):
            forge.lines.clear()
            for _ in range(100):
                forge.call(params=b'"' + b"x" * 1000 + b'"')
            data = forge.data
            fed += len(data)
            scanner.feed(data)
            forge.second = 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert fed > 12_000_000
    assert scanner.chain.size == 12_001
    assert peak < 2_500_000


def test_endless_garbage_is_hashed_not_kept() -> None:
    """A tail of zeros without any line feed costs no memory, and is counted and hashed all the same."""
    forge = running_log()
    scanner = scan(forge.data)
    zeros = bytes(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(40):
            scanner.feed(zeros)
        scanner.finish()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    torn = scanner.torn()

    assert peak < 6_000_000
    assert torn is not None
    assert torn.count == 40 << 20
    assert torn.sha256 == hashlib.sha256(bytes(40 << 20)).hexdigest()
    data = recovery(scanner, 3)
    assert data.startswith(b"\n{")
    assert scan(forge.data + bytes(40 << 20) + data).fault is None


def test_a_gap_and_its_count_are_told() -> None:
    """Entries that are known to be missing are summed up and noticed."""
    forge = Forge()
    forge.open("loss")
    forge.typed("gap", cause="accept_loss")
    forge.typed("gap", cause="continue", lost=7)
    forge.typed("blocked", **{"from": "a", "to": "b", "cause": "full", "refused": 1, "withheld": 2, "dropped": 3})
    scanner = scan(forge.data)

    assert scanner.lost == 7
    assert [notice.kind for notice in scanner.notices] == ["open", "gap", "gap", "blocked"]


def test_rows_of_a_database_must_be_the_lines() -> None:
    """Same verdict as for bytes; a gap in seq, a line feed inside or a changed row is a fault at once."""
    forge = running_log()
    rows = [(seq, line[:-1]) for seq, line in enumerate(forge.lines)]

    def fault(rows: list[tuple[int, bytes]]) -> str:
        scanner = Scanner(_chain())
        scanner.feed_rows(rows)
        return scanner.fault.reason if scanner.fault else ""

    assert fault(rows) == ""
    assert fault(rows[:3] + rows[4:]) == "seq 3 is missing: row 4 stands here"
    assert "line feed" in fault([*rows[:3], (3, rows[3][1] + b"\n")])
    assert (
        fault([*rows[:3], (3, rows[3][1].replace(b"read", b"made")), *rows[4:]])
        == "seq 3 was changed (mac does not match)"
    )
