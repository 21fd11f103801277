"""Decide whether a log is intact: one pass over its bytes, one verdict, the place of the first fault.

Promise: `INTACT` means that every line up to the newest checkpoint is the one that was signed, in its place, and that
all later ones continue the chain. What could not be checked is said, never assumed. Reads only.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable
from dataclasses import replace

from mcp_audit.ledger.chain import Chain, Mac
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, open_note, read_unverified
from mcp_audit.ledger.evidence import (
    Beside,
    CannotLook,
    claimed_origin,
    is_sqlite,
    look_beside,
    open_bytes,
    scan_file,
    scan_sqlite,
    writer_alive,
)
from mcp_audit.ledger.keys import BadKey, NoEd25519, VerifierKey, key_id_of, mac_key
from mcp_audit.ledger.report import CheckedFile, Report, Signed, Verdict
from mcp_audit.ledger.scan import FORMAT_VERSION, Scanner
from mcp_audit.ledger.strict import Strict

__all__ = ["verify"]


def verify(
    path: str | os.PathLike[str],
    *,
    vkeys: Iterable[str] = (),
    secrets: Iterable[bytes] = (),
    against: str | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Check one log, JSONL or SQLite.

    Args:
        path: the log; its checkpoint and `.pub` are found beside it.
        vkeys: pinned verifier keys, `<origin>+<key ID>+<base64>`; the log must belong to one. Without any, the `.pub`
            beside the log is used, which proves nothing against whoever can write there.
        secrets: values of AUDIT_SECRET, for the MACs; empty: they are not checked.
        against: text of an older note somebody kept: the log must extend it.
        strict: also check JSON, members, `signature` and that each `of` fits its request.
        progress: called now and then with the number of bytes read so far.

    Raises:
        CannotLook: nothing is there, it cannot be read, or `against` is no note.
        BadKey: a pinned key is not one.
    """
    check = _Check(os.fspath(path), [VerifierKey.parse(vkey) for vkey in vkeys], list(secrets), strict)
    check.progress = progress
    if against is not None:
        try:
            read_unverified(against)
        except BadNote as error:
            raise CannotLook("--against", f"this is no note of a log: {error}") from None
        check.against_text = against
    return check.run()


class _Check:
    """One run of `verify`: evidence is gathered first, scanned once, then judged from the worst to the best."""

    def __init__(self, path: str, pins: list[VerifierKey], secrets: list[bytes], strict: bool) -> None:
        self.path = path
        self.pins = pins
        self.secrets = secrets
        self.report = Report(path, Verdict.UNKNOWN)
        self.notices: list[str] = self.report.notices
        self.against_text: str | None = None
        self.progress: Callable[[int], None] | None = None
        self.is_strict = strict
        self.key: VerifierKey | None = None
        self.pinned = False
        self.note: Checkpoint | None = None
        self.against: Checkpoint | None = None
        self.note_problem: str | None = None  # a contradiction
        self.unknown: str | None = None  # why nothing can be decided

    def run(self) -> Report:
        beside = look_beside(self.path)  # before the log, which can then only be longer
        alive = writer_alive(self.path)
        size = self._size_of_log()
        if size is None:
            return self._nothing_there(beside)
        sqlite = is_sqlite(self.path)
        origin = self._choose_key(beside, sqlite)
        if origin is None:
            return self._conclude(Verdict.UNKNOWN, "its first line names no log: no ledger, or one of the Go program")
        self._read_notes(beside)
        self.report.log = origin
        return self._check(origin, sqlite, alive, size)

    def _check(self, origin: str, sqlite: bool, alive: bool, size: int) -> Report:
        by_id = {key_id_of(mac_key(secret, origin)): secret for secret in self.secrets}
        macs = {key_id: Mac(mac_key(secret, origin)) for key_id, secret in by_id.items()}
        chain = Chain(origin, keyring=macs)
        strict = Strict(lambda: by_id.get(chain.key_id)) if self.is_strict else None
        watch = [note.size for note in (self.note, self.against) if note is not None]
        scanner = Scanner(chain, watch, strict.inspect if strict else None)
        if sqlite:
            problem = scan_sqlite(self.path, scanner, self.note.size if self.note else None)
        else:
            problem = None
            with open_bytes(self.path) as file:
                scan_file(file, scanner, alive, self.progress)
        alive = alive or writer_alive(self.path)
        self._describe(scanner, size)
        return self._judge(scanner, strict, problem, alive)

    def _size_of_log(self) -> int | None:
        """Return the log's size; an empty file counts as none."""
        try:
            return os.stat(self.path).st_size or None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CannotLook(self.path, error.strerror or str(error)) from error

    def _nothing_there(self, beside: Beside) -> Report:
        if beside.note is None:
            if beside.vkey is None:
                raise CannotLook(self.path, "there is no log; name the file that audit.path or audit.sqlite_path says")
            return self._conclude(Verdict.UNKNOWN, "log and checkpoint are missing although the log has a key (.pub)")
        try:
            note = read_unverified(beside.note)
        except BadNote as error:
            return self._conclude(Verdict.TAMPERED, f"the log is missing and its checkpoint is damaged: {error}")
        self.report.log = note.origin
        if note.size:
            return self._conclude(
                Verdict.TAMPERED, f"the log is missing although its checkpoint covers {note.size} lines"
            )
        return self._conclude(Verdict.UNCLEAN, "the log was being created when its writer stopped; a start finishes it")

    def _choose_key(self, beside: Beside, sqlite: bool) -> str | None:
        """Set the key that judges the notes and return the origin the log must have."""
        claimed = claimed_origin(self.path, sqlite) or _origin_of_note(beside.note)
        for pin in self.pins:
            if pin.origin == claimed or len(self.pins) == 1:
                self.key, self.pinned = pin, True
                return pin.origin
        if self.pins:
            self.note_problem = f"it says that it is the log {claimed}, which none of the pinned keys belongs to"
        try:
            self.key = VerifierKey.parse(beside.vkey or "")
        except BadKey:
            self.unknown = "no verifier key is at hand: there is no readable .pub beside the log; give --vkey"
            return claimed
        return self.key.origin

    def _read_notes(self, beside: Beside) -> None:
        if beside.note is None:
            self.unknown = self.unknown or "the checkpoint beside the log is missing"
        else:
            self.note = self._open("checkpoint", beside.note)
        if self.against_text is not None:
            self.against = self._open("note given with --against", self.against_text)

    def _open(self, what: str, text: str) -> Checkpoint | None:
        """Return a note's checkpoint; without a usable key what it says is only compared."""
        try:
            if self.key is not None:
                return open_note(text, self.key)
        except BadNote as error:
            self.note_problem = self.note_problem or f"the {what} does not verify: {error}"
            return None
        except NoEd25519 as error:
            self.unknown = str(error)
        try:
            return read_unverified(text)
        except BadNote as error:
            self.note_problem = self.note_problem or f"the {what} is damaged: {error}"
            return None

    def _describe(self, scanner: Scanner, size: int) -> None:
        report, chain, kinds = self.report, scanner.chain, scanner.kinds
        torn = scanner.torn()
        report.size = chain.size
        report.root = base64.b64encode(chain.tree.root()).decode()
        if self.note is not None:
            root = base64.b64encode(self.note.root).decode()
            key = self.key.vkey if self.key else None
            report.checkpoint = Signed(self.note.size, root, key, self.pinned)
        report.counts = {
            "exchanges": kinds["exchange"],
            "open_requests": len(chain.pending),
            "orphans": kinds["orphan"],
            "recoveries": kinds["recovery"],
            "torn_bytes": scanner.torn_bytes + (torn.count if torn else 0),
            "lost": scanner.lost,
        }
        last = chain.size - 1 if chain.size else None
        report.files = [CheckedFile(os.path.basename(self.path), "ok", 0 if chain.size else None, last, size)]
        self.notices += [f"seq {notice.seq}: {notice.text}" for notice in scanner.notices]
        if scanner.without_mac:
            self.notices.append(f"{scanner.without_mac} lines carry no MAC")
        if scanner.unchecked:
            why = "no AUDIT_SECRET at hand fits the log's key_id" if self.secrets else "no secret was given"
            self.notices.append(f"the MACs of {scanner.unchecked} lines were not checked: {why}")
        if kinds["orphan"]:
            self.notices.append(f"{kinds['orphan']} requests were never answered (orphan)")

    def _judge(self, scanner: Scanner, strict: Strict | None, problem: str | None, alive: bool) -> Report:
        mac_checked = scanner.chain.size > scanner.unchecked + scanner.without_mac
        tampering = problem or scanner.contradiction(self.note)
        self.report.checks = {
            "chain": problem is None and scanner.fault is None,
            "tree": self._tree_holds(scanner, self.note),
            "note": None if self.unknown else self.note_problem is None,
            "mac": True if mac_checked and not scanner.unchecked else None,
            "against": self._tree_holds(scanner, self.against),
        }
        tampering = tampering or self.note_problem or self._rolled_back(scanner)
        if strict is not None:
            self.report.checks["strict"] = strict.fault is None
            if strict.backwards:
                self.notices.append(f"time goes backwards {strict.backwards} times; seq gives the order")
            if strict.fault is not None:
                seq, sentence = strict.fault
                tampering = tampering or f"seq {seq} does not conform: {sentence} ({strict.faults} such lines)"
        if tampering is not None:
            if "(mac does not match)" in tampering or "it has no mac" in tampering:
                self.report.checks["mac"] = False
            return self._conclude(Verdict.TAMPERED, tampering)
        if scanner.future:
            return self._conclude(
                Verdict.UNKNOWN,
                f"it is of format version {scanner.future}, this program knows up to {FORMAT_VERSION}; upgrade it",
            )
        if self.unknown is not None:
            return self._conclude(Verdict.UNKNOWN, self.unknown)
        return self._judge_end(scanner, alive)

    def _judge_end(self, scanner: Scanner, alive: bool) -> Report:
        """The log is what was signed; how does it end?"""
        chain, torn = scanner.chain, scanner.torn()
        assert self.note is not None
        if torn is not None:
            loud = f", {torn.salvageable} whole lines among them: were they edited?" if torn.salvageable else ""
            return self._conclude(Verdict.UNCLEAN, f"{torn.fault}; {torn.count} torn bytes past the checkpoint{loud}")
        if chain.size == 0:
            return self._conclude(
                Verdict.UNCLEAN, "the log was being created when its writer stopped; a start finishes it"
            )
        if alive:
            return self._conclude(Verdict.INTACT, "a writer is at work")
        if chain.runs:
            pending = f", {len(chain.pending)} requests open" if chain.pending else ""
            return self._conclude(Verdict.UNCLEAN, f"a run was not closed and no writer is alive{pending}")
        if chain.size > self.note.size:
            count = chain.size - self.note.size
            return self._conclude(
                Verdict.UNCLEAN, f"the last {count} lines have no checkpoint although no writer is alive"
            )
        return self._conclude(Verdict.INTACT, "")

    def _tree_holds(self, scanner: Scanner, note: Checkpoint | None) -> bool | None:
        return None if note is None else scanner.roots.get(note.size) == note.root

    def _rolled_back(self, scanner: Scanner) -> str | None:
        """Return how the log fails to extend the note that somebody kept."""
        if self.against is None or self._tree_holds(scanner, self.against):
            return None
        if self.against.size > scanner.chain.size:
            kept = f"the kept note covers {self.against.size}"
            return f"it has {scanner.chain.size} lines, {kept}: it was rolled back or cut"
        return f"its first {self.against.size} lines are not those of the kept note: history was rewritten"

    def _conclude(self, verdict: Verdict, reason: str) -> Report:
        report = self.report
        report.verdict = verdict
        report.reason = reason
        if report.files:
            status = "FAIL" if verdict is Verdict.TAMPERED else "ok"
            report.files[0] = replace(report.files[0], status=status, reason=reason)
        return report


def _origin_of_note(text: str | None) -> str | None:
    try:
        return read_unverified(text or "").origin
    except BadNote:
        return None
