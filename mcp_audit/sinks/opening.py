"""Start a ledger: decide what was found, refuse it, go on with it, or create it.

Promise: a log that contradicts its checkpoint is never appended to, whatever crashed; a creation that was interrupted
is finished; the old bytes of a log that is gone on with are never touched. Everything is decided under the append lock;
only the long scan before it is not, so that peers can work meanwhile. Long because every state that a crash or an
operator can leave is judged here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp_audit.errors import LedgerRefused, LedgerUnavailable
from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note, signed_note
from mcp_audit.ledger.keys import LogKey, check_origin, check_secret
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.merkle import EMPTY_ROOT
from mcp_audit.ledger.scan import Scanner
from mcp_audit.ledger.segment_files import survey
from mcp_audit.sinks.claim import claim_key
from mcp_audit.sinks.files import (
    Files,
    discard_temporaries,
    make_directory,
    read_small,
    refuse_network,
    replace,
    require_ours,
)
from mcp_audit.sinks.identity import Identity, create_key, identify, read_key, read_verifier
from mcp_audit.sinks.locks import Locks
from mcp_audit.sinks.refusals import not_alone, refuse_foreign_secret, refuse_old_key, tampered, too_new, unknown
from mcp_audit.sinks.rescue import is_second_name_ours, settle_interrupted
from mcp_audit.sinks.setaside import move_aside, named_origins, predecessor, set_aside_origins
from mcp_audit.sinks.settings import LedgerSettings
from mcp_audit.sinks.stamp import Stamp

if TYPE_CHECKING:
    from mcp_audit.sinks.jsonl import JsonlSink
    from mcp_audit.sinks.sqlite import SqliteSink

__all__ = ["LedgerSettings", "open_ledger"]


def open_ledger(settings: LedgerSettings, stamp: Stamp, files: Files | None = None) -> JsonlSink | SqliteSink:
    """Open or create the ledger, write its `open` line and a checkpoint.

    Raises:
        LedgerRefused: nothing was appended, or what was can be gone on with by the next start.
        BadKey: the secret or the configured origin cannot be used.
    """
    if settings.secret is not None:
        check_secret(settings.secret)
    if settings.origin:
        check_origin(settings.origin)
    path = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(settings.path))), "")
    path += os.path.basename(settings.path)
    try:
        return _Start(settings, path, stamp, files or Files()).run()
    except OSError as error:
        what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        raise LedgerRefused(path, f"the ledger cannot be started ({what}); mend that and start again", 2) from error
    except LedgerUnavailable as error:
        raise LedgerRefused(path, f"the ledger cannot be started: {error.cause}", 2) from error


@dataclass(frozen=True, slots=True)
class _Found:
    """What stands at the path and beside it. `note` and `vkey` are None where the file is missing."""

    log: bool
    key: LogKey | None
    note: str | None
    vkey: str | None


@dataclass(frozen=True, slots=True)
class _Scan:
    """A log that was read, and the checkpoint that was newest before it was."""

    sink: JsonlSink | SqliteSink
    checkpoint: Checkpoint

    def reaches_its_checkpoint(self) -> bool:
        """Say whether the file may hold what was signed; not if a rotation came between the note and the file."""
        scanner = self.sink.scanner
        first = scanner.segment.start if scanner.segment else 0
        return first <= self.checkpoint.size and scanner.chain.size > 0


class _Start:
    def __init__(self, settings: LedgerSettings, path: str, stamp: Stamp, files: Files) -> None:
        self.settings = settings
        self.path = path
        self.key_path = os.path.abspath(settings.signing_key) if settings.signing_key else path + ".key"
        self.sidecar, self.pub = path + ".checkpoint", path + ".pub"
        self.stamp = stamp
        self.files = files
        self.storage = _storage(settings.storage)
        self.opened: list[JsonlSink | SqliteSink] = []  # to be let go of if the start fails

    def run(self) -> JsonlSink | SqliteSink:
        directory = os.path.dirname(self.path)
        make_directory(self.files, directory)
        refuse_network(self.files, directory, self.settings.allow_network_fs)
        self._refuse_other_kinds()
        if os.name == "nt" and (self.settings.rotation.max_size_bytes or self.settings.rotation.interval):
            raise LedgerRefused(
                self.path, "this platform cannot rename a file that is open; set audit.rotation to nothing", 2
            )
        self.locks = Locks(self.files, self.path)
        try:
            scan = self._scan_ahead()
            alone = self.locks.acquire_to_start()
            try:
                settle_interrupted(self.files, self.path)
                if alone:
                    discard_temporaries(self.files, self.path)
                sink = self._decide(scan, alone)
                self.locks.join()
            finally:
                self.locks.release()
            sink.checkpoint(house=False)
            with suppress(LedgerUnavailable):  # old archives keep nobody from starting; the next checkpoint complains
                sink.keep_house()
        except BaseException:
            for opened in self.opened:
                opened.abandon()
            self.locks.close()
            raise
        for opened in self.opened:
            if opened is not sink:
                opened.abandon()
        return sink

    # -- looking -------------------------------------------------------------------------------------------------------

    def _refuse_other_kinds(self) -> None:
        """Before any file is made: a FIFO, a directory or a link at the path is a mistake, or an attack."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not is_second_name_ours(self.files, self.path, found):
            require_ours(self.path, found)

    def _found(self) -> _Found:
        note = read_small(self.files, self.sidecar)
        return _Found(
            log=os.path.lexists(self.path) and not self.storage.is_blank(self.files, self.path),
            key=read_key(self.files, self.key_path, self.settings.origin),
            note=None if note is None else note.decode("utf-8", "replace"),
            vkey=read_verifier(self.files, self.pub),
        )

    def _scan_ahead(self) -> _Scan | None:
        """Read the log without the lock, for it may be long. Whatever is wrong is found again under the lock."""
        try:
            found = self._found()
            if not found.log or found.key is None or found.note is None:
                return None
            identity = identify(found.key, self.settings.secret)
            return self._scan(identity, open_note(found.note, identity.verifier))
        except (OSError, LedgerRefused, LedgerUnavailable, BadNote):
            return None

    def _scan(self, identity: Identity, checkpoint: Checkpoint, path: str = "") -> _Scan:
        sink = self._sink(identity, watch=[checkpoint.size])
        sink.open(path)
        sink.read()
        return _Scan(sink, checkpoint)

    def _sink(self, identity: Identity, watch: Sequence[int] = ()) -> JsonlSink | SqliteSink:
        secrets = identity.secrets
        keyring = {secrets.key_id: Mac(secrets.mac)} if secrets else {}
        scanner = Scanner(Chain(identity.origin, keyring=keyring), watch)
        sink = self.storage(self.path, identity, scanner, self.locks, self.stamp, self.files)
        sink.busy_timeout_ms = self.settings.busy_timeout_ms
        sink.rotation = self.settings.rotation
        sink.durable = self.settings.durability == "fsync"
        self.opened.append(sink)
        return sink

    # -- deciding ------------------------------------------------------------------------------------------------------

    def _decide(self, scan: _Scan | None, alone: bool) -> JsonlSink | SqliteSink:
        try:
            return self._go_on_or_create(scan, alone)
        except LedgerRefused as refusal:
            if refusal.exit_code == 2 or not self.settings.accept_loss:
                raise
            if not alone:
                raise not_alone(self.path) from refusal
        if self.settings.signing_key:
            refuse_old_key(self.key_path, read_key(self.files, self.key_path, ""), named_origins(self.files, self.path))
        for opened in self.opened:
            opened.abandon()
        self.opened.clear()
        move_aside(self.files, self.path, "lost", self.stamp.timestamp())
        return self._create()

    def _go_on_or_create(self, scan: _Scan | None, alone: bool) -> JsonlSink | SqliteSink:
        found = self._found()
        if found.note is None and found.vkey is None:
            if not found.log:
                return self._create()
            if self.storage.is_seed(self.files, self.path):
                move_aside(self.files, self.path, "legacy", self.stamp.timestamp())
                return self._create()
        if found.note is None:
            what = "it" if found.log else "the log"
            raise unknown(
                self.path, f"its checkpoint {self.sidecar} is missing, so nobody can tell whether {what} was cut"
            )
        if found.key is None:
            raise unknown(self.path, f"its private key {self.key_path} is missing, so it cannot be gone on with")
        self._claim(found.key)
        identity = identify(found.key, self.settings.secret)
        try:
            checkpoint = open_note(found.note, identity.verifier)
        except BadNote as error:
            raise tampered(self.path, f"its checkpoint {self.sidecar} does not verify: {error}") from error
        if found.vkey not in (None, identity.key.vkey):
            raise tampered(self.path, f"{self.pub} holds another key than {self.key_path}")
        if not found.log:
            if checkpoint.size == 0:
                return self._create()
            scan = self._scan(identity, checkpoint, self._put_away(found.note, checkpoint))
        elif (
            scan is None
            or scan.sink.here() is None
            or scan.sink.vkey != identity.key.vkey
            or not scan.reaches_its_checkpoint()
        ):
            scan = self._scan(identity, checkpoint)
        if found.vkey is None:
            self._write_verifier(identity)
        return self._go_on(scan, found.note, checkpoint, alone)

    def _put_away(self, note: str, checkpoint: Checkpoint) -> str:
        """Return where the newest segment is: a rotation was interrupted, or a tool renamed it.

        An empty file at the path is another matter if it may be the log itself: a tool copied it and cut it to nothing,
        and what was written in between is lost. Unless a rotation left its note, the operator decides.
        """
        last = next(reversed(survey(self.path).chosen(checkpoint.origin)), None)
        if last is None or last.path == self.path or last.start > checkpoint.size:
            raise tampered(self.path, f"the log is missing although its checkpoint covers {checkpoint.size} lines")
        rotated = read_small(self.files, last.note_path)
        signed = rotated is not None and rotated.decode("utf-8", "replace") == note
        if not signed and self._may_be_cut():
            back = "unpack it with `gunzip` and rename it back" if last.gz else "rename it back"
            raise tampered(
                self.path,
                f"the log is empty although its checkpoint covers {checkpoint.size} lines; {last.name} may hold them: "
                f"if nothing wrote after it was made, {back}",
            )
        return last.path

    def _may_be_cut(self) -> bool:
        """Say whether the empty file at the path may be the log itself, not one that a tool made in its place."""
        try:
            found = self.files.lstat(self.path)
        except FileNotFoundError:
            return False
        return self.locks.noted_inode() in (0, found.st_ino)

    def _go_on(self, scan: _Scan, note: str, checkpoint: Checkpoint, alone: bool) -> JsonlSink | SqliteSink:
        """Judge a log that is there, then join it.

        Args:
            checkpoint: the newest; peers may have written it since the scan began.
        """
        sink = scan.sink
        with sink.held():
            sink.read()
            scanner, chain = sink.scanner, sink.scanner.chain
            scanner.finish()
            if scanner.future:
                raise too_new(self.path, scanner.future)
            first = scanner.segment.start if scanner.segment else 0
            problem: str | None = f"its file begins at seq {first}, its checkpoint covers {checkpoint.size} lines only"
            if checkpoint.size >= first:
                problem = scanner.contradiction(scan.checkpoint)
            if problem is None and checkpoint.size > chain.size:
                problem = f"the log ends after {chain.size} lines, its checkpoint covers {checkpoint.size}"
            if problem is not None:
                raise tampered(self.path, problem)
            refuse_foreign_secret(self.path, scanner, sink.key_id, alone)
            clean = chain.size == checkpoint.size and not chain.runs and not chain.pending and not scanner.torn()
            after = "running" if not alone else "close" if clean else "crash"
            sink.resume(checkpoint, note)
            sink.begin(alone, after, self._members())
        return sink

    # -- creating ------------------------------------------------------------------------------------------------------

    def _create(self) -> JsonlSink | SqliteSink:
        """Make key, checkpoint of size 0, `.pub`, log, checkpoint; what an interrupted start made is used.

        In this order a log or a `.pub` without a checkpoint is never what a crash left.
        """
        files = self.files
        after, old = predecessor(files, self.path)
        taken = set_aside_origins(files, self.path)
        key = read_key(files, self.key_path, self.settings.origin)
        if key is None:
            key = create_key(files, self.key_path, self.path, self.settings.origin, taken)
        refuse_old_key(self.key_path, key, taken)
        self._claim(key)
        identity = identify(key, self.settings.secret)
        if read_small(files, self.sidecar) is None:
            replace(files, self.sidecar, signed_note(Checkpoint(identity.origin, 0, EMPTY_ROOT), key).encode())
        if read_verifier(files, self.pub) is None:
            self._write_verifier(identity)
        sink = self._sink(identity)
        more: Sequence[tuple[str, Mapping[str, Any]]] = [("gap", {"cause": "accept_loss"})] if after == "loss" else []
        sink.create(after, {"predecessor": old, **self._members()}, more)
        sink.sign_now()
        return sink

    def _claim(self, key: LogKey) -> None:
        if self.settings.signing_key:
            claim_key(self.files, self.key_path, key.origin, self.path)

    def _write_verifier(self, identity: Identity) -> None:
        replace(self.files, self.pub, identity.key.vkey.encode() + b"\n", 0o644)

    def _members(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "software": settings.software,
            "config_sha256": settings.config_sha256 or None,
            "policy_sha256": settings.policy_sha256,
        }


def _storage(kind: str) -> type[JsonlSink] | type[SqliteSink]:
    """Import one storage only: SQLite costs a start that needs none of it 10 ms."""
    if kind == "sqlite":
        from mcp_audit.sinks.sqlite import SqliteSink

        return SqliteSink
    from mcp_audit.sinks.jsonl import JsonlSink

    return JsonlSink
