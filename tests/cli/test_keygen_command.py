"""`mcp-audit keygen`: log keys, secrets, client tokens."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

import pytest

from mcp_audit.cli import main
from mcp_audit.config import load
from mcp_audit.ledger.keys import LogKey, VerifierKey


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o077], ids=["umask-000", "umask-077"])
def _any_umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_any_umask")
def test_a_log_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Private half 0600, public half 0644 whatever the umask; the vkey is printed with the advice to pin it."""
    assert main(["keygen", "--log", "audit.jsonl", "--origin", "audit.example/host1/fs"]) == 0

    key = LogKey.parse((here / "audit.jsonl.key").read_text())
    pub = (here / "audit.jsonl.pub").read_text()
    assert key.origin == "audit.example/host1/fs"
    assert pub == key.vkey + "\n"
    assert (mode(here / "audit.jsonl.key"), mode(here / "audit.jsonl.pub")) == (0o600, 0o644)
    out = capsys.readouterr().out
    assert f"vkey: {key.vkey}" in out
    assert "Pin the vkey where whoever can write to the ledger cannot" in out
    assert "PRIVATE" not in out
    assert VerifierKey.parse(pub).verify(key.sign(b"note"), b"note")


def test_an_origin_is_made_where_none_is_given(here: Path) -> None:
    """Host, stem and random digits, so that no two logs share one."""
    assert main(["keygen", "--log", "a.jsonl"]) == 0
    assert main(["keygen", "--log", "sub.jsonl"]) == 0

    first, second = (LogKey.parse((here / name).read_text()).origin for name in ("a.jsonl.key", "sub.jsonl.key"))
    assert re.fullmatch(r"[A-Za-z0-9._-]+/a-[0-9a-f]{8}", first)
    assert re.fullmatch(r"[A-Za-z0-9._-]+/sub-[0-9a-f]{8}", second)


@pytest.mark.parametrize("there", ["audit.jsonl", "audit.jsonl.key", "audit.jsonl.pub"])
def test_nothing_is_overwritten(here: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    """Not even in part: what was there stays, nothing is added. Dangling links count as being there."""
    (here / there).symlink_to("nowhere")

    assert main(["keygen", "--log", "audit.jsonl"]) == 2

    assert [path.name for path in here.iterdir()] == [there]
    assert capsys.readouterr().err.startswith(f"mcp-audit: {there}: ")


def test_a_bad_origin_leaves_nothing_behind(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the characters that are allowed."""
    assert main(["keygen", "--log", "audit.jsonl", "--origin", "not an origin"]) == 2
    assert list(here.iterdir()) == []
    assert "A-Z a-z 0-9 . _ - /" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file fails: neither is there."""
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    assert main(["keygen", "--log", "audit.jsonl"]) == 2
    assert list(here.iterdir()) == []
    assert capsys.readouterr().err == "mcp-audit: audit.jsonl.pub: cannot be written (No space left on device)\n"


@pytest.mark.usefixtures("_any_umask")
def test_a_secret(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32 bytes as 64 hex digits, for nobody else to read, and never printed; `load` takes it."""
    assert main(["keygen", "--secret", "s"]) == 0

    text = (here / "s").read_text()
    assert re.fullmatch(r"[0-9a-f]{64}\n", text)
    assert mode(here / "s") == 0o600
    assert text.strip() not in capsys.readouterr().out
    assert load({}, {"AUDIT_SECRET_FILE": "s"}, here, ["x"]).secret == text.strip().encode()


def test_a_secret_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lost secret takes the MACs with it."""
    (here / "s").write_text("precious")

    assert main(["keygen", "--secret", "s"]) == 2
    assert (here / "s").read_text() == "precious"
    assert capsys.readouterr().err == "mcp-audit: s: exists already and is never overwritten; name another file\n"


def test_a_secret_in_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Says so."""
    assert main(["keygen", "--secret", "no/s"]) == 2
    assert capsys.readouterr().err == "mcp-audit: no/s: cannot be made (No such file or directory)\n"


@pytest.mark.parametrize("name", ["alice", "build server 7", 'a"b: #c', "ünïcode", "null", "- x"])
def test_a_token(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Printed once; the line under it works in the configuration as it stands, whatever the name."""
    assert main(["keygen", "--token", name]) == 0

    out = capsys.readouterr().out
    token = re.search(r"shown only now: (\S{40,})$", out, re.MULTILINE)
    assert token is not None
    (here / "c.yaml").write_text("proxy:\n  auth:\n    tokens:\n" + out.splitlines()[-1] + "\n")
    (client,) = load({}, {}, here, config="c.yaml", to_run=False).config.proxy.auth.tokens
    assert client.name == name
    assert client.sha256 == hashlib.sha256(token[1].encode()).hexdigest()
    assert [path.name for path in here.iterdir()] == ["c.yaml"]


def test_no_two_tokens_or_secrets_are_alike(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    """They are random."""
    for number in "12":
        assert main(["keygen", "--token", "a", "--secret", f"s{number}"]) == 0

    tokens = re.findall(r"shown only now: (\S+)", capsys.readouterr().out)
    assert len(set(tokens)) == 2
    assert (here / "s1").read_text() != (here / "s2").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param([], "say what to make: --log LOG, --secret FILE or --token NAME", id="nothing"),
        pytest.param(["--origin", "x"], "say what to make", id="origin-alone"),
        pytest.param(["--origin", "x", "--secret", "s"], "--origin names the log of --log", id="origin-without-log"),
        pytest.param(["--token", " "], "--token needs a name that can be printed", id="blank-name"),
        pytest.param(["--token", "a\nb"], "--token needs a name that can be printed", id="name-of-two-lines"),
    ],
)
def test_usage(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    """One sentence, exit 2, and nothing made."""
    assert main(["keygen", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert list(here.iterdir()) == []
