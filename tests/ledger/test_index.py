"""The index: the same answers as without it, whatever is in the log, the index, and between them."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_forge import Forge
from rotated_forge import Rotated

from mcp_audit.ledger import read, verify
from mcp_audit.ledger.reading import blocks, lookup
from mcp_audit.ledger.reading.index import IndexBroken, load
from mcp_audit.ledger.reading.lines import COLUMNS, facts

OWN = {os.geteuid()} if hasattr(os, "geteuid") else {0}
TOOLS = ["read_file", "delete_file", "a" * 300, "ünï", "b", 'quo"te', "\ud800"]
CLIENTS = ["claude-desktop", "cursor", ""]
OUTCOMES = ["answered", "denied", "timeout", "lost"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few lines, and an index for the smallest log: the borders are what there is to test."""
    monkeypatch.setattr(blocks, "ROWS", 4)
    monkeypatch.setattr(lookup, "_UNINDEXED", -1)
    monkeypatch.setattr(lookup, "_BEHIND", -1)


def answer(log: Path, index: str, notices: list[str] | None = None, **filters: Any) -> list[tuple[int, Any, bytes]]:
    """What a query returns: places, outcomes, bytes."""
    told = [] if notices is None else notices
    found = read(log, newest_first=True, index=index, on_notice=told.append, **filters)  # type: ignore[arg-type]
    return [(record.seq, record.line.get("outcome"), record.raw) for record in found]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from(TOOLS), st.sampled_from(CLIENTS), st.sampled_from(OUTCOMES)),
        st.tuples(st.just("request"), st.sampled_from(TOOLS), st.sampled_from(CLIENTS)),
        st.tuples(st.just("close"), st.integers(0, 3), st.sampled_from(["exchange", "orphan", "late"])),
        st.tuples(st.just("evicted"), st.sampled_from(TOOLS)),
        st.tuples(st.just("config")),
        st.tuples(st.just("jump")),
        st.tuples(
            st.just("payload"), st.sampled_from([b'{"client_id":"cursor","outcome":"denied"}', b'"x\\"y"', b"{}"])
        ),
        st.tuples(st.just("rotate"), st.booleans()),
        st.tuples(st.just("query")),
    ),
    max_size=40,
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "tool": st.sampled_from(["read_file", "*file", "b,ünï", "a*", "none", 'quo"te']),
        "client": st.sampled_from(["cursor", "c*", "none"]),
        "method": st.sampled_from(["tools/*", "none"]),
        "outcome": st.sampled_from(["open", "denied", "lost,timeout", "answered", "*"]),
        "since": st.sampled_from(["2026-05-25T12:00:10.000000Z", "2026-05-25T12:00:20.000000Z"]),
        "until": st.sampled_from(["2026-05-25T12:00:15.000000Z", "2026-05-25T12:01:00.000000Z"]),
        "before": st.integers(0, 60),
        "after": st.integers(-1, 60),
        "limit": st.integers(0, 5),
    },
)


def play(script: list[tuple[Any, ...]], folder: Path) -> Path:
    """Make the log that the steps say; queries in between leave an index that is behind."""
    forge = Rotated()
    forge.open()
    open_: list[int] = []
    log = folder / "audit.jsonl"
    for step, *rest in script:
        if step == "call":
            forge.call(tool=rest[0], client_id=rest[1], outcome=rest[2])
        elif step == "request":
            open_.append(forge.entry("request", tool=rest[0], client_id=rest[1]))
        elif step == "close" and open_:
            of = open_[rest[0] % len(open_)]
            if rest[1] != "late":
                open_.remove(of)
            if rest[1] == "orphan" or rest[1] == "late":
                forge.typed("orphan", of=of, outcome="timeout", why="deadline")
            if rest[1] == "exchange" or rest[1] == "late":
                forge.entry(of=of, marks=["late"])
                open_ = [seq for seq in open_ if seq != of]
        elif step == "evicted":
            forge.entry("orphan", tool=rest[0], outcome="lost", why="evicted")
        elif step == "config":
            forge.typed("config", config_sha256="0")
        elif step == "jump":
            forge.second = max(0, forge.second - 30) if forge.second % 2 else forge.second + 30
        elif step == "payload":
            forge.entry(params=rest[0])
        elif step == "rotate":
            forge.rotate(compress=rest[0])
        elif step == "query":
            forge.write_files(folder)
            answer(log, "keep", tool="none")
    return forge.write_files(folder)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def fresh(scratch: Path) -> Path:
    shutil.rmtree(scratch / "log", ignore_errors=True)
    (scratch / "log").mkdir()
    return scratch / "log"


HYPOTHESIS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@HYPOTHESIS
@given(steps, filters, st.binary(max_size=30))
def test_the_answer_is_that_of_a_full_scan(
    scratch: Path, script: list[tuple[Any, ...]], asked: dict[str, Any], torn: bytes
) -> None:
    """With the index made, extended, behind by some lines, and over rotations: the same records in the same order."""
    log = play(script, fresh(scratch))
    with log.open("ab") as file:
        file.write(torn.replace(b"\n", b"") and b"torn" + torn)
    expected = answer(log, "none", **asked)
    notices: list[str] = []

    assert answer(log, "use", notices, **asked) == expected
    assert answer(log, "keep", notices, **asked) == expected
    assert answer(log, "use", notices, **asked) == expected
    assert not [notice for notice in notices if ".index" in notice]


@HYPOTHESIS
@given(steps, filters, st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_index_costs_time_only(
    scratch: Path, script: list[tuple[Any, ...]], asked: dict[str, Any], damage: list[tuple[int, int]]
) -> None:
    """Whatever bytes change, or go: never another answer."""
    log = play([*script, ("call", "b", "", "lost")], fresh(scratch))
    answer(log, "keep", tool="none")
    index = Path(f"{log}.index")
    data = bytearray(index.read_bytes())
    for place, value in damage:
        data[place % len(data)] ^= value
    index.write_bytes(data if damage[0][1] % 3 else data[: damage[0][0] % len(data)])
    expected = answer(log, "none", **asked)

    assert answer(log, "use", **asked) == expected
    assert answer(log, "keep", **asked) == expected
    assert answer(log, "use", **asked) == expected


@given(
    st.sampled_from(["request", "", "orphan"]),
    st.dictionaries(st.sampled_from(["tool", "client_id", "server_id", "request_id", "protocol_version"]), st.text()),
    st.sampled_from(
        [b'{"method":"x","tool_name":"y"}', b'[{"client_id":"z","server_id":"z","outcome":"denied"}]', b'"}"', b""]
    ),
)
def test_what_a_line_says_is_what_its_members_are(kind: str, members: dict[str, str], payload: bytes) -> None:
    """The fast way to read a line and its JSON agree, whatever is in names and payloads."""
    import json

    forge = Forge()
    forge.open()
    forge.entry(kind, params=payload, **members)
    raw = forge.lines[-1][:-1]
    known, line = facts(raw), json.loads(raw)

    assert known is not None
    values = [None if value is None else value.decode("utf-8", "surrogatepass") for value in known.values]
    assert values[:4] == [line.get(name) for name in COLUMNS[:4]]
    assert (known.seq, known.kind.decode()) == (1, kind)
    assert kind or values[4] == line["outcome"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    forge = Forge()
    forge.open()
    for number in range(40):
        forge.call(tool="rare" if number == 3 else "frequent", outcome="denied" if number == 5 else "answered")
    forge.close()
    forge.sign()
    return forge.write(tmp_path / "audit.jsonl")


def rare(log: Path, index: str = "use") -> tuple[list[int], list[str]]:
    notices: list[str] = []
    return [seq for seq, *_ in answer(log, index, notices, tool="rare")], notices


def test_it_is_private_and_replaced_whole(log: Path) -> None:
    """Mode 0600 whatever the umask, no temporary left behind."""
    old = os.umask(0)
    try:
        assert rare(log, "keep") == ([8], [])
    finally:
        os.umask(old)

    assert stat.S_IMODE(os.stat(f"{log}.index").st_mode) == 0o600
    assert not [path for path in log.parent.iterdir() if ".tmp" in path.name]


@pytest.mark.parametrize("seed", range(4))
def test_long_histories(scratch: Path, seed: int) -> None:
    """Hundreds of steps, every kind of filter: more borders than a short example has."""
    chance = random.Random(seed)
    payload = b'{"client_id":"cursor"}'
    script: list[tuple[Any, ...]] = []
    for _ in range(300):
        client = chance.choice(CLIENTS)
        script.append(
            chance.choice(
                [
                    ("call", chance.choice(TOOLS), client, chance.choice(OUTCOMES)),
                    ("request", chance.choice(TOOLS), client),
                    ("request", "b", client),
                    ("close", chance.randrange(9), chance.choice(["exchange", "orphan", "late"])),
                    ("evicted", "b"),
                    ("jump",),
                    ("payload", payload),
                    *([("rotate", chance.random() < 0.5)] if chance.random() < 0.1 else []),
                    *([("query",)] if chance.random() < 0.1 else []),
                ]
            )
        )
    log = play(script, fresh(scratch))
    for names in (
        *({"tool": tool} for tool in ("a*", "b", "ünï", "*file", 'quo"te', "\ud800")),
        *({"outcome": outcome} for outcome in ("open", "timeout", "lost", "denied", "timeout,open")),
        *({"client": client, "outcome": "answered"} for client in ("cursor", "claude*")),
        *(
            {"since": f"2026-05-25T12:{m:02d}:00.000000Z", "until": f"2026-05-25T12:{m + 1:02d}:30.000000Z"}
            for m in range(6)
        ),
        *({"tool": "b", "before": seq, "limit": 7} for seq in range(0, 400, 40)),
    ):
        expected = answer(log, "none", **names)
        assert answer(log, "use", **names) == expected, names
        assert answer(log, "keep", **names) == expected, names
        assert answer(log, "use", **names) == expected, names


def test_a_request_that_ends_after_the_index_was_made(tmp_path: Path) -> None:
    """It was open then; what the lines since say decides, not the index."""
    forge = Forge()
    forge.open()
    first, second, third = (forge.entry("request", tool="slow") for _ in range(3))
    log = forge.write(tmp_path / "audit.jsonl")
    assert [seq for seq, *_ in answer(log, "keep", outcome="open")] == [third, second, first]
    forge.typed("orphan", of=first, outcome="lost", why="exit")
    forge.entry(tool="slow", of=second)
    forge.write(log)

    assert answer(log, "use", outcome="lost")[0][:2] == (first, "lost")
    assert [seq for seq, *_ in answer(log, "use", outcome="open")] == [third]
    assert [seq for seq, *_ in answer(log, "use", tool="slow")] == [5, third, first]


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
def test_no_active_file(tmp_path: Path, compress: bool) -> None:
    """A rotation was interrupted: the archives are indexed, and what they hold is found."""
    forge = Rotated()
    forge.open()
    forge.call(tool="rare")
    for _ in range(200):
        forge.call()
    forge.rotate(compress)
    log = forge.write_files(tmp_path)
    log.unlink()

    assert rare(log, "keep") == rare(log, "use") == ([2], [])
    assert Path(f"{log}.index").exists()


def test_an_archive_that_is_compressed_keeps_its_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by its CRC: neither indexed anew, nor unpacked for names it does not have."""
    forge = Rotated()
    forge.open()
    forge.call(tool="rare")
    forge.rotate()
    forge.call(tool="other")
    log = forge.write_files(tmp_path)
    assert rare(log, "keep") == ([2], [])
    plain = tmp_path / forge.name(0)
    Path(f"{plain}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()

    assert rare(log, "use") == ([2], [])
    monkeypatch.setattr("mcp_audit.ledger.reading.reader.TemporaryFile", None)
    assert [seq for seq, *_ in answer(log, "use", tool="other")] == [5]


def test_only_blocks_that_can_match_are_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of 82 is wanted: but for the samples, one line is read."""
    rare(log, "keep")
    monkeypatch.setattr(lookup, "_SAMPLED_BLOCKS", 0)
    reads = []
    real = lookup._read
    monkeypatch.setattr(lookup, "_read", lambda *given: reads.append(given[2]) or real(*given))

    assert rare(log) == ([8], [])
    assert len(reads) == 1


def test_use_writes_nothing(log: Path) -> None:
    """A reader of evidence leaves no trace unless it was asked to."""
    assert rare(log, "use") == rare(log, "none") == ([8], [])
    assert not Path(f"{log}.index").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="platform: root may write anywhere")
def test_a_folder_that_is_only_for_reading(log: Path) -> None:
    """The query works, no index is written, nothing is said."""
    log.parent.chmod(0o500)
    try:
        assert rare(log, "keep") == ([8], [])
        assert not Path(f"{log}.index").exists()
    finally:
        log.parent.chmod(0o700)


def test_a_folder_that_refuses_the_index(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full or read-only: the query works all the same."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mcp_audit.ledger.reading.indexing.store", refuse)
    assert rare(log, "keep") == ([8], [])


def test_a_symbolic_link_is_refused(log: Path, tmp_path: Path) -> None:
    """Neither read through nor written through; said, and the answer stands."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{log}.index").symlink_to(victim)

    for use in ("use", "keep"):
        seqs, notices = rare(log, use)
        assert seqs == [8]
        assert any("not used" in notice for notice in notices)
    assert victim.read_text() == "precious"
    assert Path(f"{log}.index").is_symlink()


def test_one_that_others_may_write_is_refused(log: Path) -> None:
    """Group-writable or with a second name: somebody else's word."""
    rare(log, "keep")
    index = Path(f"{log}.index")
    index.chmod(0o620)
    with pytest.raises(IndexBroken, match="others could have written it"):
        load(str(index), OWN)
    index.chmod(0o600)
    os.link(index, f"{index}.second")
    with pytest.raises(IndexBroken, match="others could have written it"):
        load(str(index), OWN)
    seqs, notices = rare(log)
    assert seqs == [8]
    assert len(notices) == 1


def test_the_index_of_another_log_is_not_used(log: Path, tmp_path: Path) -> None:
    """Same origin, other lines: it does not fit a single file and is left alone."""
    other = Forge()
    other.second = 100
    other.open()
    for _ in range(50):
        other.call(tool="none")
    (tmp_path / "other").mkdir()
    foreign = other.write(tmp_path / "other" / "audit.jsonl")
    rare(foreign, "keep")
    shutil.copy(f"{foreign}.index", f"{log}.index")

    assert rare(log)[0] == rare(log, "keep")[0] == [8]
    stranger = Forge(origin="stranger/log")
    stranger.open()
    stranger.call()
    strange = stranger.write(tmp_path / "other" / "strange.jsonl")
    rare(strange, "keep")
    shutil.copy(f"{strange}.index", f"{log}.index")
    seqs, notices = rare(log)
    assert seqs == [8]
    assert "belongs to another log" in notices[0]


def rewrite(log: Path, change: Any) -> None:
    """Rewrite the index with sound hashes, as somebody would who wants it to lie."""
    from mcp_audit.ledger.reading.index import store

    index = load(f"{log}.index", OWN)
    assert index is not None
    for block in index.blocks():
        block.columns = index.columns(block)
        change(block)
    store(index, f"{log}.index").close()
    index.close()


def test_an_invented_entry_is_noticed(log: Path) -> None:
    """A line that is not what the index says ends its use, and the answer is the log's."""
    rare(log, "keep")

    def invent(block: blocks.Block) -> None:
        block.names[1] = ["rare" if name == "frequent" else name for name in block.names[1]]

    rewrite(log, invent)
    seqs, notices = rare(log)
    assert seqs == [8]
    assert "a line is not what it says" in notices[0]
    rare(log, "keep")
    assert rare(log, "keep") == ([8], []), "a new one was made"


def test_an_index_that_hides_entries_is_caught_by_samples(log: Path) -> None:
    """Hidden lines are found out once a sample meets one; the more are hidden, the sooner."""
    rare(log, "keep")

    def hide(block: blocks.Block) -> None:
        assert block.columns is not None
        block.columns.codes[blocks.OUTCOME][:] = bytes(block.rows)

    rewrite(log, hide)
    random.seed(1)
    seqs, notices = rare(log)
    assert seqs == [8]
    assert "a line is not what it says" in notices[0]


def test_no_verdict_depends_on_it(log: Path) -> None:
    """verify says the same with a good, a lying and no index."""
    without = verify(log).to_json()
    rare(log, "keep")
    assert verify(log).to_json() == without
    Path(f"{log}.index").write_bytes(b"\x00" * 100)
    assert verify(log).to_json() == without


def test_it_is_extended_not_made_anew(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some more lines only those are read, and the block that was not full."""
    rare(log, "keep")
    size = log.stat().st_size
    more = Forge()
    more.open()
    with log.open("ab") as file:
        file.write(b"".join(more.lines) * 3)
    read_from = []
    from mcp_audit.ledger.reading import indexing

    real = indexing.lines_of
    monkeypatch.setattr(indexing, "lines_of", lambda file, begin: read_from.append(begin) or real(file, begin))
    rare(log, "keep")

    assert len(read_from) == 1
    assert size - 4 * 2000 < read_from[0] <= size
