"""Logs of the Go program: its signature is checked as it made it, and what it leaves open is said."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.legacy import LIMITS, check_legacy, legacy_record, legacy_records

SECRET = b"a short one"  # the Go program took any length
PARAMS = '{"name":"read_file","arguments":{"path":"/tmp/example.txt","token":"[REDACTED]"}}'
COLUMNS = (
    "id TEXT PRIMARY KEY, timestamp TEXT, direction TEXT, transport TEXT, method TEXT, request_id TEXT, "
    "tool_name TEXT, params TEXT, result TEXT, error TEXT, duration_ms INTEGER, client_id TEXT, server_id TEXT, "
    "signature TEXT"
)


def go_encoded(raw: str) -> str:
    """What Go's encoder makes of a raw message: no whitespace outside strings, five characters as escapes."""
    compact, inside, escaped = "", False, False
    for char in raw:
        if inside or not char.isspace():
            compact += char
        inside = inside != (char == '"' and not escaped)
        escaped = inside and char == "\\" and not escaped
    for char in "<>&\u2028\u2029":
        compact = compact.replace(char, f"\\u{ord(char):04x}")
    return compact


def entry(number: int = 1, params: str | None = PARAMS, prefix: str = "hmac-sha256:", **changes: Any) -> dict[str, Any]:
    """Members of an entry as the Go program documents them, `params` as the client sent them."""
    members: dict[str, Any] = {
        "id": f"01HY8G6Y8S6W9K6ZD7VJ4Q{number:04d}",
        "timestamp": f"2026-05-25T12:34:{number % 60:02d}.5Z",
        "direction": "client_to_server",
        "transport": "stdio",
        "method": "tools/call",
        "tool_name": "read_file",
        "params": params,
        "duration_ms": 18,
        "client_id": "claude-desktop",
        "server_id": "filesystem",
        **changes,
    }
    text = members["id"] + members["timestamp"] + members["method"] + members.get("tool_name", "") + (params or "")
    members.setdefault("signature", prefix + hmac.new(SECRET, text.encode(), hashlib.sha256).hexdigest())
    return {name: value for name, value in members.items() if value is not None}


def line(**arguments: Any) -> str:
    """One line of its JSONL."""
    members = entry(**arguments)
    parts = []
    for name, value in members.items():
        parts.append(f"{json.dumps(name)}:" + (go_encoded(value) if name == "params" else json.dumps(value)))
    return "{" + ",".join(parts) + "}\n"


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def write_sqlite(path: Path, *entries: dict[str, Any]) -> str:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE audit_entries ({COLUMNS})")
        for members in entries:
            marks = ",".join("?" * len(members))
            database.execute(f"INSERT INTO audit_entries ({','.join(members)}) VALUES ({marks})", [*members.values()])
    return str(path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.mark.parametrize("prefix", ["", "hmac-sha256:"], ids=["bare", "prefixed"])
@pytest.mark.parametrize("sqlite", [False, True], ids=["jsonl", "sqlite"])
def test_an_honest_log_is_valid(log: Path, prefix: str, sqlite: bool) -> None:
    """Both spellings, both storages, with and without params: exit 0, and the limits are said."""
    without: dict[str, Any] = {"params": None, "tool_name": None, "method": "tools/list"}
    entries = [{"number": 1, "prefix": prefix}, {"number": 2, "prefix": prefix, "method": "ping", "params": None}]
    entries.append({"number": 3, "prefix": prefix, **without, "tool_name": ""})
    if sqlite:
        path = write_sqlite(log, *(entry(**each) for each in entries))
    else:
        path = write(log, *(line(**each) for each in entries))
    report = check_legacy(path, SECRET)

    assert (report.verdict, report.exit_code) == ("VALID", 0)
    assert report.to_json()["counts"] == {
        "valid": 3,
        "invalid": 0,
        "not_checkable": 0,
        "unsigned": 0,
        "unreadable": 0,
    }
    assert report.notices == [LIMITS]
    assert report.lines()[-1] == f"VALID  {path}: 3 valid, 0 invalid, 0 not checkable, 0 unsigned, 0 unreadable"


@pytest.mark.parametrize(
    "params",
    [
        pytest.param('{"html":"<b>&</b>"}', id="html"),
        pytest.param('{"lines":"\u2028\u2029"}', id="line-separators"),
        pytest.param('{"escaped by the client":"\\u003c"}', id="client-escaped"),
        pytest.param('{"both":"\\u003c and >"}', id="client-escaped-one-kind"),
        pytest.param('{"backslash":"\\\\u003c and <"}', id="escaped-backslash"),
        pytest.param('{"numbers":[1.10,1e2,123456789012345678901234567890]}', id="numbers"),
        pytest.param('{"a": 1, "b": ["x, y: z", 2]}', id="python-spaces"),
        pytest.param('{"a": 1,"b": "<"}', id="colon-spaces-and-escapes"),
        pytest.param("[]", id="array"),
    ],
)
def test_what_the_encoder_did_is_undone(log: Path, params: str) -> None:
    """The client's bytes were signed; they are found again among what they may have been."""
    report = check_legacy(write(log, line(params=params)), SECRET)

    assert (report.exit_code, report.counts.valid) == (0, 1)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_compact_params_are_checked(value: Any) -> None:
    """Whatever a client sends without spaces between tokens: valid, and read back as it was."""
    import tempfile

    params = json.dumps(value, separators=(",", ":"))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "log", line(params=params))
        assert check_legacy(path, SECRET).exit_code == 0
        assert [record["params"] for record in legacy_records(path)] == [value]


CHANGES: list[tuple[str, Callable[[str], str]]] = [
    ("id", lambda text: text.replace("01HY", "01HZ")),
    ("timestamp", lambda text: text.replace("12:34", "12:35")),
    ("method", lambda text: text.replace("tools/call", "tools/list")),
    ("tool", lambda text: text.replace('"tool_name":"read_file"', '"tool_name":"make_file"')),
    ("params", lambda text: text.replace("example.txt", "secrets.txt")),
    ("params-removed", lambda text: text.replace(f'"params":{PARAMS},', "")),
    ("signature", lambda text: text.replace('"signature":"hmac-sha256:', '"signature":"hmac-sha256:0')),
    ("signature-surrogate", lambda text: text.replace('"signature":"hmac-sha256:', '"signature":"hmac-sha256:\\ud800')),
    ("signature-not-ascii", lambda text: text.replace('"signature":"hmac-sha256:', '"signature":"hmac-sha256:\u00e9')),
]


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in CHANGES])
def test_a_change_of_what_was_signed_is_invalid(log: Path, change: Callable[[str], str]) -> None:
    """Exit 1 and the place, whether other entries are valid or not."""
    path = write(log, line(number=1), change(line(number=2)))
    report = check_legacy(path, SECRET)

    assert (report.verdict, report.exit_code, report.counts.valid) == ("INVALID", 1, 1)
    assert "line 2: entry 01H" in report.faults[0]
    assert check_legacy(write(log, change(line(number=2))), SECRET).exit_code == 1


def test_what_the_signature_does_not_cover(log: Path) -> None:
    """A changed result, a deleted entry and another order stay valid: that is why the limits are always told."""
    lines = [line(number=number, result={"content": []}) for number in range(3)]
    for changed in (lines[:1], lines[::-1], [text.replace("content", "comment") for text in lines]):
        report = check_legacy(write(log, *changed), SECRET)
        assert report.exit_code == 0
        assert report.notices[-1] == LIMITS


def test_lost_whitespace_is_not_called_a_change(log: Path) -> None:
    """Of a client that is seen to send whitespace, what cannot be rebuilt is not checkable; of others it is invalid."""
    irregular = line(number=2, params='{"a" :1,  "b":2}')
    report = check_legacy(write(log, line(number=1, params='{"a": 1}'), irregular), SECRET)
    assert (report.exit_code, report.counts.not_checkable, report.faults) == (3, 1, [])
    assert any("whitespace" in notice for notice in report.notices)

    report = check_legacy(write(log, line(number=1), irregular), SECRET)
    assert (report.exit_code, report.counts.invalid) == (1, 1)
    other = line(number=3, params='{"a": 1}', client_id="another")
    assert check_legacy(write(log, line(number=1), irregular, other), SECRET).exit_code == 1


def test_lost_whitespace_excuses_only_params_that_can_have_lost_some(log: Path) -> None:
    """An entry without params has none to lose, and a database keeps what there was."""
    spacious = line(number=1, params='{"a": 1}')
    changed = line(number=2, params=None).replace("12:34", "12:35")
    assert check_legacy(write(log, spacious, changed), SECRET).exit_code == 1

    kept_whitespace = line(number=2).replace('"arguments":', '"arguments": ')
    assert check_legacy(write(log, spacious, kept_whitespace), SECRET).exit_code == 1

    kept = entry(number=2, params='{"a" :1,  "b":2}')
    assert check_legacy(write_sqlite(log.with_name("a.db"), kept), SECRET).exit_code == 0
    kept["params"] = '{"a" :1,  "b":3}'
    spacious_row = entry(number=1, params='{"a": 1}')
    assert check_legacy(write_sqlite(log.with_name("b.db"), spacious_row, kept), SECRET).exit_code == 1


def test_bytes_that_were_no_text_are_not_checkable(log: Path) -> None:
    """Go replaces bad UTF-8 in a name when it encodes, after it signed."""
    text = line(tool_name="read\u00ff").replace("read\\u00ff", "read\\ufffd")
    report = check_legacy(write(log, text), SECRET)

    assert (report.exit_code, report.counts.not_checkable) == (3, 1)


def test_without_the_secret_nothing_is_decided(log: Path) -> None:
    """Exit 3 and what to set; with a wrong one the report asks whether it is the right one."""
    path = write(log, line())
    report = check_legacy(path, None)
    assert (report.verdict, report.exit_code, report.counts.not_checkable) == ("UNKNOWN", 3, 1)
    assert "AUDIT_SECRET" in report.notices[0]

    report = check_legacy(path, b"wrong")
    assert report.exit_code == 1
    assert "is this the secret of that log?" in report.notices[0]
    assert check_legacy(path, b"wrong", SECRET).exit_code == 0


def test_unsigned_and_unreadable_lines_are_counted(log: Path) -> None:
    """They decide nothing, but they are told; with nothing signed at all the verdict is open."""
    unsigned = line(number=2, signature="")
    broken = [
        "{\n",
        "[]\n",
        "\n",
        '{"id":"x"}\n',
        '{"id":"x","timestamp":"y","log":"a ledger"}\n',
        "[" * 100_000 + "\n",
    ]
    report = check_legacy(write(log, line(), unsigned, *broken), SECRET)
    assert (report.exit_code, report.counts.unsigned, report.counts.unreadable) == (0, 1, 5)
    assert "1 entries carry no signature" in report.notices[0]
    assert "5 lines are no entries" in report.notices[1]

    assert check_legacy(write(log, unsigned), SECRET).exit_code == 3
    assert check_legacy(write(log), SECRET).exit_code == 3


def test_many_faults_are_counted_not_listed(log: Path) -> None:
    """A wrong secret over a long log does not make a long report."""
    report = check_legacy(write(log, *(line(number=number) for number in range(50))), b"wrong")

    assert (report.counts.invalid, len(report.faults)) == (50, 20)
    assert "30 more entries" in report.notices[0]


def test_archives_gzipped_or_not(tmp_path: Path) -> None:
    """Names do not matter; damaged gzip cannot be looked at."""
    archive = tmp_path / "audit.jsonl.20260610T214605Z.1"
    archive.write_bytes(gzip.compress(line().encode()))
    assert check_legacy(str(archive), SECRET).exit_code == 0
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(CannotLook, match="to its end"):
        check_legacy(str(archive), SECRET)


def test_what_cannot_be_looked_at(log: Path) -> None:
    """No file; a database without the table: say what to do."""
    with pytest.raises(CannotLook):
        check_legacy(str(log), SECRET)
    with closing(sqlite3.connect(log)) as database, database:
        database.execute("CREATE TABLE entries (seq)")
        database.execute("CREATE VIEW audit_entries AS SELECT * FROM entries")
    with pytest.raises(CannotLook, match="leave --legacy out"):
        check_legacy(str(log), SECRET)


def test_a_database_row_that_was_changed_into_no_json(log: Path) -> None:
    """It stays checkable: the signature covers the text."""
    row = entry()
    row["params"] = "no JSON"
    assert check_legacy(write_sqlite(log, row), SECRET).exit_code == 1


@pytest.mark.parametrize(
    ("stored", "direction"),
    [
        ("client→server", "client_to_server"),
        ("server→client", "server_to_client"),
        ("server->client", "server_to_client"),
        ("client → server", "client_to_server"),
        ("server_to_client", "server_to_client"),
        ("sideways", "sideways"),
    ],
)
def test_directions_are_words(stored: str, direction: str) -> None:
    """Arrows or words, a reader sees words; the rest of the entry stays as it is."""
    record = legacy_record(line(direction=stored).encode())

    assert record is not None
    assert (record["direction"], record["tool_name"], record["params"]) == (direction, "read_file", json.loads(PARAMS))
    assert "seq" not in record


@pytest.mark.parametrize("other", [b"", b"{", b"[]", b"1", b'{"id":"x"}', b'{"id":1,"timestamp":"x"}', b"\xff"])
def test_what_is_no_entry(other: bytes) -> None:
    """None, not an exception; a line of a ledger is none either."""
    assert legacy_record(other) is None
    assert legacy_record(b'{"id":"x","timestamp":"y","method":"z","log":"a","seq":1}') is None


def test_records_of_a_database_are_those_of_the_lines(log: Path) -> None:
    """One reader serves both storages."""
    from_lines = list(legacy_records(write(log, line())))
    from_rows = list(legacy_records(write_sqlite(log.with_name("audit.db"), entry())))

    assert from_lines == from_rows
