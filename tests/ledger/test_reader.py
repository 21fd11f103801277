"""The reader: every record from any storage, either way round, and nothing that cannot be read stops it."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import Forge

from mcp_audit.ledger import read
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.reading.lines import lines_backward, lines_forward


def varied() -> Forge:
    """seq 2 answered, 4 denied by nobody's request, 5 open, 6 orphaned by 8, 7 lost without a request line."""
    forge = Forge()
    forge.open()
    forge.call(tool="read_file")
    forge.typed("config", config_sha256="0")
    forge.entry(tool="delete_file", outcome="denied", client_id="cursor")
    forge.entry("request", tool="wait_long")
    orphaned = forge.entry("request", tool="crash")
    forge.entry("orphan", tool="evicted", outcome="timeout", why="evicted")
    forge.typed("orphan", of=orphaned, outcome="lost", why="exit")
    return forge


@pytest.fixture(params=["jsonl", "gzip", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    forge = varied()
    if request.param == "sqlite":
        return forge.write_sqlite(tmp_path / "audit.db")
    data = forge.data
    return forge.write(tmp_path / "audit.jsonl", gzip.compress(data) if request.param == "gzip" else data)


def seqs(log: Path, **options: object) -> list[int]:
    return [record.seq for record in read(log, **options)]  # type: ignore[arg-type]


def test_exchanges_either_way_round(log: Path) -> None:
    """Oldest first the exchanges; newest first also what nobody answered, with how it ended."""
    assert seqs(log) == [2, 4]
    found = {record.seq: record.line["outcome"] for record in read(log, newest_first=True)}
    assert list(found) == [7, 6, 5, 4, 2]
    assert found == {7: "timeout", 6: "lost", 5: "open", 4: "denied", 2: "answered"}


def test_every_line(log: Path) -> None:
    """On request all lines of all types come, with their bytes."""
    forge = varied()
    records = list(read(log, every_line=True))

    assert [record.raw + b"\n" for record in records] == forge.lines
    assert [record.type for record in records][:4] == ["open", "request", "", "config"]
    assert [record.seq for record in read(log, every_line=True, newest_first=True)] == list(range(8, -1, -1))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        pytest.param({"tool": "read_file"}, [2], id="tool"),
        pytest.param({"tool": "*e*"}, [7, 4, 2], id="tool-glob"),
        pytest.param({"tool": "crash, wait_*"}, [6, 5], id="tool-list"),
        pytest.param({"method": "tools/*"}, [7, 6, 5, 4, 2], id="method"),
        pytest.param({"method": "tools"}, [], id="method-part"),
        pytest.param({"client": "cursor"}, [4], id="client"),
        pytest.param({"server": "filesystem", "outcome": "denied,lost"}, [6, 4], id="server-and-outcomes"),
        pytest.param({"outcome": "open"}, [5], id="open"),
        pytest.param({"since": "2026-05-25T12:00:05.000000Z"}, [7, 6, 5, 4], id="since"),
        pytest.param({"until": "2026-05-25T12:00:05.000000Z"}, [2], id="until"),
        pytest.param({"grep": "delete_[a-z]+"}, [4], id="grep"),
        pytest.param({"grep": "1\\.10"}, [7, 6, 5, 4, 2], id="grep-sees-the-line-as-it-stands"),
        pytest.param({"limit": 2}, [7, 6], id="limit"),
        pytest.param({"limit": 1, "outcome": "denied"}, [4], id="limit-counts-what-fits"),
        pytest.param({"limit": 0}, [], id="none"),
        pytest.param({"credential": "aws"}, [], id="credential"),
    ],
)
def test_filters(log: Path, filters: dict[str, object], expected: list[int]) -> None:
    """Each narrows what is found, on every storage alike; together they all must hold."""
    assert seqs(log, newest_first=True, **filters) == expected


def test_credentials_are_found(tmp_path: Path) -> None:
    """By session or by provider."""
    forge = Forge()
    forge.open()
    forge.entry(credential={"session_id": "s-1", "provider": "aws", "enforcement": "strict"})
    log = forge.write(tmp_path / "audit.jsonl")

    assert seqs(log, credential="s-1") == seqs(log, credential="aws") == [1]
    assert seqs(log, credential="s-2") == []


def test_a_bad_expression_is_an_error_at_once(log: Path) -> None:
    """Not when the first record is asked for."""
    with pytest.raises(ValueError, match="no regular expression"):
        read(log, grep="(")


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param(b"garbage\n", id="garbage"),
        pytest.param(b'{"id":"cut', id="half-a-line"),
        pytest.param(b"[1]\n", id="array"),
        pytest.param(b"{}\n", id="no-seq"),
        pytest.param(b'{"seq":"x"}\n', id="seq-no-number"),
        pytest.param(b"[" * 100_000 + b"\n", id="deep"),
        pytest.param(b'{"seq":1,"x":"\xff"}\n', id="not-utf-8"),
    ],
)
@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest", "newest"])
def test_what_cannot_be_read_is_skipped_with_a_notice(tmp_path: Path, junk: bytes, newest_first: bool) -> None:
    """The records before and behind it still come."""
    forge = Forge()
    forge.open()
    forge.call()
    log = forge.write(tmp_path / "audit.jsonl", forge.data + junk)
    notices: list[str] = []

    assert seqs(log, newest_first=newest_first, on_notice=notices.append) == [2]
    assert len(notices) == 1
    length = len(junk.removesuffix(b"\n"))
    assert f"skipped {length} bytes" in notices[0]


def test_without_a_listener_skipping_is_a_warning(tmp_path: Path) -> None:
    """A notebook that does not ask for notices gets them all the same."""
    log = tmp_path / "audit.jsonl"
    log.write_bytes(b"garbage\n")
    with pytest.warns(UserWarning, match="skipped 7 bytes"):
        assert list(read(log)) == []


def test_nothing_to_read(tmp_path: Path) -> None:
    """A missing log is an error at once, an empty one has no records."""
    with pytest.raises(CannotLook, match="No such file"):
        read(tmp_path / "none")
    (tmp_path / "empty").touch()
    assert seqs(tmp_path / "empty") == seqs(tmp_path / "empty", newest_first=True) == []


@given(st.lists(st.sampled_from([b"", b"a", b"bb" * 40, b"c" * 70_000, b"d" * 65_536]), max_size=8), st.booleans())
def test_backwards_is_forwards_reversed(lines: list[bytes], ended: bool) -> None:
    """Whatever the lengths, around the block size too, and with or without a last line feed."""
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    forwards = [line for line in lines_forward(io.BytesIO(data)) if line]
    backwards = [line for line in lines_backward(io.BytesIO(data)) if line]

    assert forwards == backwards[::-1] == [line for line in lines if line]


def test_the_newest_of_a_large_log_cost_little(tmp_path: Path) -> None:
    """Ten entries from the end of tens of megabytes: neither memory nor reading grows with the log."""
    forge = Forge()
    forge.open()
    for _ in range(20):
        forge.call(params=b'"' + b"x" * 1000 + b'"')
    log = tmp_path / "audit.jsonl"
    with log.open("wb") as file:
        file.truncate(50_000_000)  # a hole of zeros, which no reader may need to see
        file.seek(50_000_000)
        file.write(b"\n" + forge.data)
    tracemalloc.start()
    try:
        found = seqs(log, newest_first=True, limit=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert found == list(range(40, 20, -2))
    assert peak < 2_000_000
