"""A file that begins in the middle of a log: what its first line claims, and what a scanner makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import SECRET, Forge

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.keys import derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment import BrokenLine, Previous, prune_members, read_segment, segment_members

PREVIOUS = Previous("audit.jsonl.20260610T214605Z", 0, 1234, "ab" * 32)


def split_log(calls: int, secret: bytes | None = SECRET) -> tuple[Forge, bytes, bytes]:
    """A log in two files, with an unanswered request before the joint and its answer behind it."""
    forge = Forge(secret)
    forge.open()
    for _ in range(calls):
        forge.call()
    asked = forge.entry("request")
    first = forge.data
    forge.typed("segment", **segment_members(forge.chain, forge.key.vkey, PREVIOUS))
    forge.entry(of=asked)
    forge.close()
    return forge, first, forge.data[len(first) :]


def fresh(forge: Forge, secret: bytes | None = SECRET) -> Chain:
    secrets = derive(secret, forge.chain.origin) if secret else None
    return Chain(forge.chain.origin, keyring={secrets.key_id: Mac(secrets.mac)} if secrets else {})


@given(st.integers(0, 40), st.sampled_from([SECRET, None]))
def test_a_later_file_verifies_alone_and_after_the_first(calls: int, secret: bytes | None) -> None:
    """Alone its tree, open requests and runs come from its first line; after the first file they must be the same."""
    forge, first, second = split_log(calls, secret)
    alone = Scanner(fresh(forge, secret), watch=[2 * calls + 2])
    alone.feed(second)
    assert alone.fault is None
    assert alone.chain.tree.root() == forge.chain.tree.root()
    assert not alone.chain.pending
    assert not alone.chain.runs
    assert list(alone.roots) == [2 * calls + 2], "the root at the joint is known from the frontier"

    before = Scanner(fresh(forge, secret))
    before.feed(first)
    after = Scanner(before.chain)
    after.feed(second)
    assert (after.fault, after.chain.tree.root()) == (None, forge.chain.tree.root())
    assert after.segment == alone.segment
    assert after.segment is not None
    assert after.segment.previous == PREVIOUS


@pytest.mark.parametrize(
    ("member", "value"),
    [
        pytest.param("start", 3, id="start"),
        pytest.param("pending", [], id="pending"),
        pytest.param("runs", [], id="runs"),
        pytest.param("key_id", "00000000", id="key_id"),
        pytest.param("frontier", [], id="frontier"),
    ],
)
def test_a_segment_must_fit_the_file_before(member: str, value: object) -> None:
    """Whatever its sealer knew: a state other than the lines before left is a fault."""
    forge = Forge()
    forge.open()
    forge.call()
    forge.entry("request")
    members = {**segment_members(forge.chain, forge.key.vkey, PREVIOUS), member: value}
    before = Scanner(fresh(forge))
    before.feed(forge.data)
    forge.typed("segment", **members)
    after = Scanner(before.chain)
    after.feed(forge.lines[-1])
    after.finish()

    assert after.contradiction(None) is not None


def test_a_file_must_begin_with_its_segment() -> None:
    """Another first line is a fault, and so is a segment anywhere else."""
    forge, first, second = split_log(2)
    whole = Scanner(fresh(forge))
    whole.feed(first + second)
    assert whole.fault is not None
    assert "in the middle of a file" in whole.fault.reason

    forge = Forge()
    forge.open()
    before = Scanner(fresh(forge))
    before.feed(forge.data)
    first_length = len(forge.data)
    forge.call()
    after = Scanner(before.chain)
    after.feed(forge.data[first_length:])
    assert after.fault is not None
    assert "begins a file, but it is no segment" in after.fault.reason


def test_a_database_goes_on_at_its_prune_line() -> None:
    """Rows up to the prune are gone; its frontier and the first row's prev are enough for the signed root."""
    forge = Forge()
    forge.open()
    forge.call()
    at = fresh(forge)
    for line in forge.lines:
        at.follow(line[:-1])
    kept = forge.chain.size
    forge.call()
    forge.typed("prune", **prune_members(at, forge.key.vkey, 0, "max_age_days: 30"))
    scanner = Scanner(fresh(forge), watch=[forge.chain.size])
    first = json.loads(forge.lines[kept])
    scanner.stand_at(read_segment(forge.lines[-1][:-1]), first["prev"].encode())
    scanner.feed_rows([(seq, forge.lines[seq][:-1]) for seq in range(kept, forge.chain.size)])

    assert scanner.fault is None
    assert scanner.roots == {forge.chain.size: forge.chain.tree.root()}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"start": True}, id="start is no number"),
        pytest.param({"start": 0}, id="start 0"),
        pytest.param({"start": -1}, id="negative"),
        pytest.param({"frontier": ["x"]}, id="no base64"),
        pytest.param({"frontier": ["AAAA"]}, id="short hash"),
        pytest.param({"frontier": ["A" * 42 + "B="]}, id="spare bits"),
        pytest.param({"pending": [9]}, id="pending ahead"),
        pytest.param({"pending": [1, 1]}, id="pending twice"),
        pytest.param({"runs": ["0"]}, id="runs as text"),
        pytest.param({"previous": None}, id="no previous"),
        pytest.param({"previous": {**PREVIOUS._asdict(), "sha256": "AB" * 32}}, id="upper-case hash"),
        pytest.param({"vkey": 1}, id="vkey"),
        pytest.param({"type": "close"}, id="type"),
    ],
)
def test_a_malformed_segment_is_refused(change: dict[str, Any]) -> None:
    """Every member is checked before anything is built on it."""
    _, _, second = split_log(1)
    line = json.loads(second.partition(b"\n")[0])
    assert read_segment(json.dumps(line).encode()).start == line["start"]

    with pytest.raises(BrokenLine):
        read_segment(json.dumps({**line, **change}).encode())
