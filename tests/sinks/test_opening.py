"""The start of a ledger: what was found decides what happens."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes import NetworkFiles
from ledgers import OTHER_SECRET, SECRET, Sink, appended, check, crash, exchange, lines, request, start, types, verdict

from mcp_audit.errors import LedgerRefused
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.keys import BadKey, LogKey
from mcp_audit.ledger.merkle import EMPTY_ROOT
from mcp_audit.sinks.files import Files

STORAGES = [pytest.param("jsonl", id="jsonl"), pytest.param("sqlite", id="sqlite")]
both = pytest.mark.parametrize("storage", STORAGES)


def log_of(folder: Path, storage: str) -> Path:
    return folder / ("audit.jsonl" if storage == "jsonl" else "audit.db")


def closed_log(folder: Path, storage: str = "jsonl", **changes: Any) -> Path:
    """A log with three exchanges, closed properly: open, 3, close."""
    sink = start(folder, storage, **changes)
    appended(sink, exchange("one"), exchange("two"), exchange("three"))
    sink.close()
    return log_of(folder, storage)


# -- creating ----------------------------------------------------------------------------------------------------------


@both
def test_a_new_log_verifies_from_its_first_moment(tmp_path: Path, storage: str) -> None:
    """It has its opening line, a checkpoint over it, and the keys to check both."""
    sink = start(tmp_path, storage)

    [opening] = lines(sink.path)
    assert {"type": "open", "v": 1, "software": "test 1", "after": "new", "seq": 0}.items() <= opening.items()
    assert opening["vkey"] == sink.vkey == (tmp_path / f"{log_of(tmp_path, storage).name}.pub").read_text().strip()
    assert opening["log"] == sink.origin
    assert sink.note.split("\n")[1] == "1"
    assert verdict(sink.path) == "INTACT"
    sink.close()


@both
def test_files_keep_others_out(tmp_path: Path, storage: str) -> None:
    """0600 for all but the verifier key, whatever the umask; the directory is made 0700."""
    old = os.umask(0)
    try:
        start(tmp_path / "state", storage).close()
    finally:
        os.umask(old)

    modes = {path.suffix: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "state").iterdir()}
    assert modes.pop(".pub") == "0o644"
    assert set(modes.values()) == {"0o600"}
    assert oct((tmp_path / "state").stat().st_mode & 0o777) == "0o700"


@both
def test_an_unnamed_log_is_named_after_host_file_and_chance(tmp_path: Path, storage: str) -> None:
    """Two logs of one name on one host differ."""
    first, second = start(tmp_path / "a", storage), start(tmp_path / "b", storage)

    assert re.fullmatch(r"[A-Za-z0-9._-]+/audit-[0-9a-f]{8}", first.origin)
    assert first.origin != second.origin
    first.close()
    second.close()


def test_open_carries_the_hashes_of_what_is_in_force(tmp_path: Path) -> None:
    """Configuration and policy, each left out when there is none."""
    sink = start(tmp_path, config_sha256="ab" * 32, policy_sha256=None)

    assert lines(sink.path)[0]["config_sha256"] == "ab" * 32
    assert "policy_sha256" not in lines(sink.path)[0]
    sink.close()


def test_a_key_that_keygen_made_names_the_log(tmp_path: Path) -> None:
    """The key comes first, the log takes its name."""
    key = LogKey.generate("audit.example/made/before")
    path = tmp_path / "keys" / "log.key"
    path.parent.mkdir()
    path.write_text(key.to_text() + "\n")
    path.chmod(0o600)

    sink = start(tmp_path, signing_key=str(path))

    assert (sink.origin, sink.vkey) == ("audit.example/made/before", key.vkey)
    assert not (tmp_path / "audit.jsonl.key").exists()
    sink.close()


def test_an_empty_file_counts_as_none(tmp_path: Path) -> None:
    """`touch audit.jsonl` before the first start does no harm."""
    (tmp_path / "audit.jsonl").touch()

    sink = start(tmp_path)

    assert lines(sink.path)[0]["after"] == "new"
    sink.close()


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param([".pub", "", ".checkpoint"], id="only-the-key"),
        pytest.param(["", ".pub"], id="key-and-checkpoint-of-size-0"),
        pytest.param([""], id="all-but-the-log"),
    ],
)
@both
def test_an_interrupted_creation_is_finished(tmp_path: Path, storage: str, gone: list[str]) -> None:
    """Key, checkpoint of size 0 and `.pub` of the first attempt are used, not replaced."""
    log = log_of(tmp_path, storage)
    origin = "audit.example/interrupted"
    first = start(tmp_path / "elsewhere", storage, origin=origin)
    first.close()
    key = LogKey.parse((tmp_path / "elsewhere" / f"{log.name}.key").read_text())
    shutil.copy(tmp_path / "elsewhere" / f"{log.name}.key", tmp_path)
    if ".checkpoint" not in gone:
        Path(f"{log}.checkpoint").write_text(signed_note(Checkpoint(origin, 0, EMPTY_ROOT), key))
    if ".pub" not in gone:
        Path(f"{log}.pub").write_text(key.vkey + "\n")
    if storage == "sqlite":
        with closing(sqlite3.connect(log)) as database:
            database.execute("PRAGMA journal_mode=WAL")

    sink = start(tmp_path, storage, origin=origin)

    assert sink.vkey == key.vkey
    assert verdict(sink.path) == "INTACT"
    sink.close()


# -- going on ----------------------------------------------------------------------------------------------------------


@both
def test_a_closed_log_is_gone_on_with(tmp_path: Path, storage: str) -> None:
    """CLEAN: the next run opens `after` close, and both runs verify together."""
    log = closed_log(tmp_path, storage)

    start(tmp_path, storage).close()

    assert types(log) == ["open", *["exchange"] * 3, "close", "open", "close"]
    assert lines(log)[5]["after"] == "close"
    assert verdict(log) == "INTACT"


@both
def test_a_crashed_run_is_settled(tmp_path: Path, storage: str) -> None:
    """UNCLEAN: open requests get an `orphan`, the dead run is named, the run begins `after` crash."""
    dead = start(tmp_path, storage)
    answered, unanswered = appended(dead, request(), request())
    appended(dead, exchange(of=answered))
    crash(dead)

    start(tmp_path, storage).close()

    log = log_of(tmp_path, storage)
    opening = next(line for line in lines(log) if line.get("after") == "crash")
    assert opening["unclosed"] == [0]
    [orphan] = [line for line in lines(log) if line.get("type") == "orphan"]
    assert (orphan["of"], orphan["why"], orphan["outcome"]) == (unanswered, "crash", "lost")
    assert verdict(log) == "INTACT"


@both
def test_a_live_peer_is_joined_and_not_settled(tmp_path: Path, storage: str) -> None:
    """RUNNING: its requests stay open, for it will answer them."""
    peer = start(tmp_path, storage)
    [seq] = appended(peer, request())

    sink = start(tmp_path, storage)

    assert lines(sink.path)[-1]["after"] == "running"
    assert "unclosed" not in lines(sink.path)[-1]
    appended(peer, exchange(of=seq))
    sink.close()
    peer.close()
    assert "orphan" not in types(sink.path)
    assert verdict(sink.path) == "INTACT"


@both
def test_a_lost_checkpoint_after_close_is_made_up_for(tmp_path: Path, storage: str) -> None:
    """More lines than the checkpoint covers, all runs closed: no tampering, but no clean end either."""
    sink = start(tmp_path, storage)
    note = Path(sink.path + ".checkpoint").read_bytes()
    sink.close()
    Path(sink.path + ".checkpoint").write_bytes(note)
    assert verdict(sink.path) == "UNCLEAN"

    start(tmp_path, storage).close()

    assert lines(sink.path)[2]["after"] == "crash"
    assert verdict(sink.path) == "INTACT"


def test_a_missing_verifier_key_is_written_again(tmp_path: Path) -> None:
    """It can be derived, and without it nobody could verify."""
    log = closed_log(tmp_path)
    (tmp_path / "audit.jsonl.pub").unlink()

    start(tmp_path).close()

    assert verdict(log) == "INTACT"


# -- refusing ----------------------------------------------------------------------------------------------------------


def cut_last_line(log: Path) -> None:
    data = log.read_bytes()
    log.write_bytes(data[: data.rindex(b"\n", 0, -1) + 1])


def flip(log: Path, what: bytes = b"two") -> None:
    log.write_bytes(log.read_bytes().replace(what, what[::-1], 1))


def remove(suffix: str) -> Callable[[Path], None]:
    return lambda log: Path(f"{log}{suffix}").unlink()


def note_of_another_key(log: Path) -> None:
    other = log.parent / "other"
    start(other, origin="other").close()
    shutil.copy(other / "audit.jsonl.checkpoint", f"{log}.checkpoint")


def pub_of_another_key(log: Path) -> None:
    Path(f"{log}.pub").write_text(LogKey.generate("other").vkey + "\n")


def forget_the_seqs(log: Path) -> None:
    rows = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(rows[:1] + rows[2:]))


REFUSALS = [
    pytest.param(cut_last_line, 1, "missing", id="cut-to-before-the-checkpoint"),
    pytest.param(flip, 1, "changed", id="byte-changed"),
    pytest.param(forget_the_seqs, 1, "missing", id="line-removed"),
    pytest.param(lambda log: log.write_bytes(b'{"type":"open","id"'), 1, "opening line", id="no-whole-first-line"),
    pytest.param(lambda log: log.write_bytes(b""), 1, "missing although", id="emptied"),
    pytest.param(remove(""), 1, "missing although", id="log-removed"),
    pytest.param(note_of_another_key, 1, "does not verify", id="note-of-another-key"),
    pytest.param(lambda log: Path(f"{log}.checkpoint").write_bytes(b""), 1, "does not verify", id="empty-note"),
    pytest.param(pub_of_another_key, 1, "another key", id="pub-of-another-key"),
    pytest.param(remove(".checkpoint"), 3, "checkpoint .* is missing", id="note-removed"),
    pytest.param(remove(".key"), 3, "private key .* is missing", id="key-removed"),
]


@pytest.mark.parametrize(("harm", "code", "words"), REFUSALS)
def test_a_log_that_may_not_be_gone_on_with_is_refused(
    tmp_path: Path, harm: Callable[[Path], None], code: int, words: str
) -> None:
    """TAMPERED is 1, UNKNOWN is 3; the sentence says what and the way out, and nothing is written."""
    log = closed_log(tmp_path)
    harm(log)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    with pytest.raises(LedgerRefused, match=words) as refused:
        start(tmp_path)

    assert refused.value.exit_code == code
    assert "--accept-loss" in str(refused.value)
    assert "mcp-audit verify" in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(("harm", "code", "words"), REFUSALS)
def test_accepting_the_loss_sets_everything_aside(
    tmp_path: Path, harm: Callable[[Path], None], code: int, words: str
) -> None:
    """The old files move unchanged; the new log has a new name and key, names the old one, and verifies."""
    log = closed_log(tmp_path, origin="audit.example/host")
    harm(log)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    sink = start(tmp_path, origin="audit.example/host", accept_loss=True)

    [aside] = tmp_path.glob("audit.jsonl.lost-*")
    kept = {name: content for name, content in before.items() if not name.endswith((".lock", ".live"))}
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == kept
    opening, gap = lines(log)
    assert (opening["after"], gap["type"], gap["cause"]) == ("loss", "gap", "accept_loss")
    if log.name in kept:
        assert opening["predecessor"]["sha256"] == hashlib.sha256(kept[log.name]).hexdigest()
        assert opening["predecessor"]["bytes"] == len(kept[log.name])
    assert sink.origin == "audit.example/host/2"
    sink.close()
    assert verdict(log) == "INTACT"
    start(tmp_path, origin="audit.example/host").close()  # the configured name still fits
    assert verdict(log) == "INTACT"


def test_every_loss_gets_a_name_of_its_own(tmp_path: Path) -> None:
    """A third history is `/3`; a key never signs two of one name."""
    for name in ("host", "host/2", "host/3"):
        sink = start(tmp_path, origin="host", accept_loss=True)
        assert sink.origin == name
        sink.close()
        (tmp_path / "audit.jsonl.checkpoint").unlink()


def test_accept_loss_leaves_an_intact_log_alone(tmp_path: Path) -> None:
    """The flag is the way out of a refusal, not a command."""
    log = closed_log(tmp_path)

    start(tmp_path, accept_loss=True).close()

    assert len(lines(log)) == 7
    assert not list(tmp_path.glob("*.lost-*"))


def test_accept_loss_waits_for_peers_to_stop(tmp_path: Path) -> None:
    """Nobody's log is moved away while he writes to it."""
    peer = start(tmp_path)
    (tmp_path / "audit.jsonl.checkpoint").unlink()

    with pytest.raises(LedgerRefused, match="another process"):
        start(tmp_path, accept_loss=True)

    peer.close()


def test_accept_loss_needs_a_new_key_where_the_key_is_kept_elsewhere(tmp_path: Path) -> None:
    """With audit.signing_key the operator makes the new key; the old one must not sign again."""
    key = tmp_path / "log.key"
    key.write_text(LogKey.generate("host").to_text())
    key.chmod(0o600)
    closed_log(tmp_path, signing_key=str(key))
    (tmp_path / "audit.jsonl.checkpoint").unlink()

    with pytest.raises(LedgerRefused, match="keygen"):
        start(tmp_path, signing_key=str(key), accept_loss=True)
    key.write_text(LogKey.generate("host/2").to_text())
    sink = start(tmp_path, signing_key=str(key), accept_loss=True)

    assert sink.origin == "host/2"
    sink.close()


def test_an_interrupted_move_is_not_forgotten(tmp_path: Path) -> None:
    """If the process dies after the last file moved, the next start still tells what it comes after."""
    log = closed_log(tmp_path, origin="host")
    aside = tmp_path / "audit.jsonl.lost-20260610T214605Z"
    aside.mkdir()
    for path in list(tmp_path.iterdir()):
        if path.is_file() and path.suffix not in (".lock", ".live"):
            path.rename(aside / path.name)

    sink = start(tmp_path, origin="host")

    assert (lines(log)[0]["after"], lines(log)[0]["predecessor"]["origin"]) == ("loss", "host")
    assert sink.origin == "host/2"
    sink.close()


class FailingMoves(Files):
    """Fails the N-th file that is moved into a directory set aside; 5: the sync after the last."""

    def __init__(self, stop: int) -> None:
        self.left = stop

    def rename(self, old: str, new: str) -> None:  # type: ignore[override]
        if ".lost-" in new:
            self._count()
        super().rename(old, new)

    def sync_directory(self, path: str) -> None:
        if ".lost-" in path:
            self._count()
        super().sync_directory(path)

    def _count(self) -> None:
        self.left -= 1
        if not self.left:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("stop", range(1, 6))
def test_a_half_moved_log_is_refused_until_the_loss_is_accepted_again(tmp_path: Path, stop: int) -> None:
    """Wherever the move stops, what is left does not look like a fresh start, and the old key does not sign again."""
    closed_log(tmp_path, origin="host")
    (tmp_path / "audit.jsonl.checkpoint").write_bytes(b"")
    files = FailingMoves(stop)

    with pytest.raises(LedgerRefused, match="Input/output"):
        start(tmp_path, origin="host", accept_loss=True, files=files)
    if stop < 5:
        with pytest.raises(LedgerRefused) as refused:
            start(tmp_path, origin="host")
        assert refused.value.exit_code in (1, 3)
    sink = start(tmp_path, origin="host", accept_loss=True)

    assert sink.origin == "host/2"
    sink.close()


# -- keys and secrets --------------------------------------------------------------------------------------------------


def test_a_log_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """With the command that mends it."""
    closed_log(tmp_path)
    (tmp_path / "audit.jsonl.key").chmod(0o640)

    with pytest.raises(LedgerRefused, match="chmod 600") as refused:
        start(tmp_path, accept_loss=True)

    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("configured", "fits"),
    [
        pytest.param("", True, id="none"),
        pytest.param("host", True, id="same"),
        pytest.param("hos", False, id="shorter"),
        pytest.param("other", False, id="other"),
    ],
)
def test_a_configured_name_must_be_that_of_the_key(tmp_path: Path, configured: str, fits: bool) -> None:
    """Otherwise lines of one log would go to another."""
    closed_log(tmp_path, origin="host")

    if fits:
        start(tmp_path, origin=configured).close()
    else:
        with pytest.raises(LedgerRefused, match=r"audit\.origin") as refused:
            start(tmp_path, origin=configured)
        assert refused.value.exit_code == 2


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    """It is as good as missing: 3."""
    closed_log(tmp_path)
    (tmp_path / "audit.jsonl.key").write_text("PRIVATE+KEY+damaged")

    with pytest.raises(LedgerRefused, match="no usable log key") as refused:
        start(tmp_path)

    assert refused.value.exit_code == 3


@both
def test_a_log_with_macs_needs_a_secret(tmp_path: Path, storage: str) -> None:
    """A log never loses its MACs."""
    closed_log(tmp_path, storage)

    with pytest.raises(LedgerRefused, match="set AUDIT_SECRET") as refused:
        start(tmp_path, storage, secret=None)

    assert refused.value.exit_code == 3


@both
@pytest.mark.parametrize("first", [pytest.param(None, id="gained"), pytest.param(OTHER_SECRET, id="changed")])
def test_a_new_secret_begins_with_an_open(tmp_path: Path, storage: str, first: bytes | None) -> None:
    """MACs may be gained or change hands where a run begins; all lines stay verifiable."""
    sink = start(tmp_path, storage, secret=first)
    appended(sink, request())
    crash(sink)

    start(tmp_path, storage, secret=SECRET).close()

    report = check(log_of(tmp_path, storage), SECRET, OTHER_SECRET)
    assert report.verdict.name == "INTACT"
    assert not any("not checked" in notice for notice in report.notices)


@both
@pytest.mark.parametrize("first", [pytest.param(None, id="gained"), pytest.param(OTHER_SECRET, id="changed")])
def test_a_new_secret_waits_until_nobody_writes_with_the_old(tmp_path: Path, storage: str, first: bytes | None) -> None:
    """The peer would have to stop; so the newcomer is refused."""
    peer = start(tmp_path, storage, secret=first)

    with pytest.raises(LedgerRefused, match="another process writes") as refused:
        start(tmp_path, storage, secret=SECRET)

    assert refused.value.exit_code == 3
    appended(peer, exchange())
    peer.close()


def test_a_torn_end_is_settled_by_a_holder_of_its_secret(tmp_path: Path) -> None:
    """A recovery is sealed before the new key comes into force, so it needs the old one."""
    sink = start(tmp_path, secret=OTHER_SECRET)
    crash(sink)
    with open(sink.path, "ab") as log:
        log.write(b'{"torn')

    with pytest.raises(LedgerRefused, match="old AUDIT_SECRET") as refused:
        start(tmp_path, secret=SECRET)
    assert refused.value.exit_code == 3
    start(tmp_path, secret=OTHER_SECRET).close()
    start(tmp_path, secret=SECRET).close()

    assert check(sink.path, SECRET, OTHER_SECRET).verdict.name == "INTACT"


def test_a_torn_end_without_macs_is_mended_before_macs_begin(tmp_path: Path) -> None:
    """The recovery carries no MAC, the open after it does."""
    sink = start(tmp_path, secret=None)
    crash(sink)
    with open(sink.path, "ab") as log:
        log.write(b'{"torn')

    start(tmp_path, secret=SECRET).close()

    assert [("mac" in line) for line in lines(sink.path)] == [False, False, True, True]
    assert verdict(sink.path) == "INTACT"


def test_a_short_secret_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """`change-me` is no secret."""
    with pytest.raises(BadKey, match="32"):
        start(tmp_path / "new", secret=b"change-me")

    assert not (tmp_path / "new").exists()


# -- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.symlink_to("elsewhere"), id="symlink"),
        pytest.param(lambda path: os.mkfifo(path), id="fifo"),
        pytest.param(lambda path: path.mkdir(), id="directory"),
    ],
)
@both
def test_other_things_than_files_are_refused_before_anything_is_made(
    tmp_path: Path, storage: str, make: Callable[[Path], None]
) -> None:
    """No lock or key file appears beside them."""
    make(log_of(tmp_path, storage))

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path, storage)

    assert refused.value.exit_code == 2
    assert os.listdir(tmp_path) == [log_of(tmp_path, storage).name]


def test_a_network_filesystem_is_refused(tmp_path: Path) -> None:
    """Unless it is allowed."""
    with pytest.raises(LedgerRefused, match="allow_network_fs"):
        start(tmp_path, files=NetworkFiles("nfs"))
    start(tmp_path, files=NetworkFiles("nfs"), allow_network_fs=True).close()


@both
def test_a_hard_link_to_the_log_is_refused(tmp_path: Path, storage: str) -> None:
    """The log could be changed under its other name."""
    log = closed_log(tmp_path, storage)
    os.link(log, tmp_path / "second")

    with pytest.raises(LedgerRefused, match="hard links") as refused:
        start(tmp_path, storage)

    assert refused.value.exit_code == 2


def test_any_other_file_is_not_taken_for_a_log(tmp_path: Path) -> None:
    """`--log notes.txt` does not append to somebody's notes."""
    (tmp_path / "audit.jsonl").write_text("Dear diary\n")

    with pytest.raises(LedgerRefused) as refused:
        start(tmp_path)

    assert refused.value.exit_code == 3
    assert (tmp_path / "audit.jsonl").read_text() == "Dear diary\n"


def test_a_newer_format_is_not_appended_to(tmp_path: Path) -> None:
    """It cannot be judged, which is not tampering."""
    from mcp_audit.ledger import scan
    from mcp_audit.sinks import writer

    patch = pytest.MonkeyPatch()
    patch.setattr(writer, "FORMAT_VERSION", scan.FORMAT_VERSION + 1)
    closed_log(tmp_path)
    patch.undo()

    with pytest.raises(LedgerRefused, match="upgrade") as refused:
        start(tmp_path)

    assert refused.value.exit_code == 3


# -- logs of the Go version --------------------------------------------------------------------------------------------

SEED_LINE = {"id": "01J", "timestamp": "2026-01-01T00:00:00Z", "direction": "client→server", "method": "tools/call"}


def test_a_log_of_the_go_version_moves_aside_with_its_archives(tmp_path: Path) -> None:
    """SEED: nothing is lost, and the new log says what came before it."""
    log = tmp_path / "audit.jsonl"
    content = (json.dumps(SEED_LINE) + "\n").encode()
    for name in ("audit.jsonl", "audit.jsonl.20260101T000000Z", "audit.jsonl.20260101T000000Z.1"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "audit.jsonl.txt").write_bytes(b"mine")

    start(tmp_path).close()

    [aside] = tmp_path.glob("audit.jsonl.legacy-*")
    assert len(list(aside.iterdir())) == 3
    assert (tmp_path / "audit.jsonl.txt").read_bytes() == b"mine"
    opening = lines(log)[0]
    assert opening["after"] == "legacy"
    assert opening["predecessor"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert verdict(log) == "INTACT"


def test_a_database_of_the_go_version_moves_aside(tmp_path: Path) -> None:
    """There `audit_entries` is a table."""
    connection = sqlite3.connect(tmp_path / "audit.db")
    connection.execute("CREATE TABLE audit_entries (id TEXT)")
    connection.close()

    start(tmp_path, "sqlite").close()

    [aside] = tmp_path.glob("audit.db.legacy-*")
    with closing(sqlite3.connect(aside / "audit.db")) as database:
        assert database.execute("SELECT count(*) FROM audit_entries").fetchone() == (0,)
    assert lines(tmp_path / "audit.db")[0]["after"] == "legacy"
    assert verdict(tmp_path / "audit.db") == "INTACT"


def test_sinks_have_what_the_proxy_asks_for(tmp_path: Path) -> None:
    """Names, keys and secrets for the middleware, and where the log stands."""
    sink: Sink = start(tmp_path)

    assert sink.path == str(tmp_path / "audit.jsonl")
    assert sink.secrets is not None
    assert sink.secrets.secret == SECRET
    assert (sink.durable, sink.blocked, sink.size, sink.written) == (False, False, 1, 0)
    appended(sink, exchange(), exchange())
    assert (sink.size, sink.written) == (3, 2)
    sink.close()
