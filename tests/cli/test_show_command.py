"""`mcp-audit show`: one entry as it was recorded, and what closes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import Forge
from rotated_forge import Rotated

from mcp_audit.cli import main
from mcp_audit.cli.show import pretty
from mcp_audit.ledger.merkle import leaf_hash


@pytest.fixture
def forge() -> Forge:
    forge = Forge()
    forge.open()
    forge.call(tool="read_file")
    orphaned = forge.entry("request", tool="crash")
    forge.entry("request", tool="slow")
    forge.typed("orphan", of=orphaned, outcome="lost", why="exit")
    forge.close()
    return forge


@pytest.fixture(params=["jsonl", "sqlite"])
def log(request: pytest.FixtureRequest, tmp_path: Path, forge: Forge) -> Path:
    return (forge.write_sqlite if request.param == "sqlite" else forge.write)(tmp_path / "audit")


@pytest.mark.parametrize(
    ("seq", "sentence"),
    [
        pytest.param(0, "closed by seq 6 (close)", id="open"),
        pytest.param(1, "closed by seq 2 (exchange)", id="request"),
        pytest.param(2, "it closes seq 1", id="exchange"),
        pytest.param(3, "closed by seq 5 (orphan)", id="orphaned"),
        pytest.param(4, "not closed: nobody answered so far", id="unanswered"),
        pytest.param(6, "it closes seq 0", id="close"),
    ],
)
def test_an_entry(capsys: pytest.CaptureFixture[str], log: Path, forge: Forge, seq: int, sentence: str) -> None:
    """The whole entry on stdout, what closes it and its leaf hash on stderr."""
    assert main(["show", str(log), str(seq)]) == 0
    out, err = capsys.readouterr()

    assert json.loads(out) == json.loads(forge.lines[seq])
    assert sentence in err.splitlines()
    assert f"leaf hash {leaf_hash(forge.lines[seq][:-1]).hex()}" in err


def test_numbers_and_order_stay(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """1.10 is not 1.1, and members come in their order: nothing is decoded to be printed."""
    main(["show", str(log), "2"])
    out = capsys.readouterr().out
    assert '"n": 1.10' in out
    assert out.index('"params"') < out.index('"result"') < out.index('"mac"')


def test_raw(capsysbinary: pytest.CaptureFixture[bytes], log: Path, forge: Forge) -> None:
    """--raw is the line's exact bytes, to be hashed by whoever doubts us."""
    main(["show", str(log), "2", "--raw"])
    assert capsysbinary.readouterr().out == forge.lines[2]


def test_no_such_entry(capsys: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """Exit 2, and which entries there are."""
    assert main(["show", str(log), "99"]) == 2
    assert "there is no entry 99; its entries are 0 to 6" in capsys.readouterr().err
    (tmp_path / "empty").touch()
    assert main(["show", str(tmp_path / "empty"), "0"]) == 2
    assert "it has no entries" in capsys.readouterr().err


def test_text_that_looks_like_a_place_is_not_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A payload that quotes another line's tail is not mistaken for that line."""
    forge = Forge()
    forge.open()
    forge.entry(result=json.dumps(forge.lines[0].decode()).encode())
    forge.entry(result=json.dumps(',"of":1,"log":"x","seq":3,"prev":"' + "0" * 64 + '"}').encode())
    log = forge.write(tmp_path / "audit.jsonl")

    assert main(["show", str(log), "3"]) == 2
    assert main(["show", str(log), "1"]) == 0
    assert json.loads(capsys.readouterr().out)["seq"] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_pretty_json_is_the_same_json(value: object, ascii_only: bool) -> None:
    """Indenting and escaping what a terminal would obey changes no value."""
    text = pretty(json.dumps(value, ensure_ascii=ascii_only, separators=(",", ":")))

    assert json.loads(text) == value
    assert not any(ord(character) < 32 and character != "\n" for character in text)


@given(st.text())
def test_pretty_takes_any_text(text: str) -> None:
    """A torn line is no reason to fail; nothing of it obeys."""
    assert "\x1b" not in pretty(text)


def test_by_id(capsys: pytest.CaptureFixture[str], log: Path, forge: Forge) -> None:
    """An error the proxy sent names the entry by its id: so does `show`."""
    wanted = json.loads(forge.lines[3])["id"]
    assert main(["show", str(log), wanted]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["seq"] == 3
    assert "closed by seq 5 (orphan)" in err
    assert main(["show", str(log), "01KSFJ33CR0QK2M0T3J5V7X9ZZ"]) == 2


def test_an_id_in_a_payload_is_not_the_entry_s(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A client that sends another entry's id does not get found under it."""
    forge = Forge()
    forge.open()
    forge.entry(params=b'{"id":"01WANTED"}')
    forge.entry(id="01WANTED")
    assert main(["show", str(forge.write(tmp_path / "audit.jsonl")), "01WANTED"]) == 0
    assert json.loads(capsys.readouterr().out)["seq"] == 2


def test_in_an_archive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Entries of archives are found by seq and by id, and what closes them in a later file."""
    forge = Rotated()
    forge.open()
    request = forge.entry("request")
    forge.rotate(compress=True)
    forge.entry(of=request)
    log = forge.write_files(tmp_path)

    for wanted in (str(request), json.loads(forge.lines[request])["id"]):
        assert main(["show", str(log), wanted]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["seq"] == request
        assert "closed by seq 3 (exchange)" in err
    assert main(["show", str(log), "99"]) == 2
    assert "its entries are 0 to 3" in capsys.readouterr().err


def test_an_entry_of_the_go_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It has no seq and is found by its id."""
    log = tmp_path / "audit.jsonl"
    log.write_text(
        '{"id":"01A","timestamp":"2026-05-25T12:34:56Z","direction":"client→server","method":"x"}\n', "utf-8"
    )
    assert main(["show", str(log), "01A"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "01A"
