"""Decide whether a log is intact: one pass over the bytes of its files, one verdict, the place of the first fault.

Promise: `INTACT` means that every line up to the newest checkpoint is the one that was signed, in its place, and that
all later ones continue the chain. What could not be checked is said, never assumed. Reads only. Long because what is
evidence, and which of it is missing, is settled here before anything is judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mcp_audit.ledger.checking.authority import Authority, origin_of_note
from mcp_audit.ledger.checking.charges import Case
from mcp_audit.ledger.checking.joints import Part
from mcp_audit.ledger.checking.judgement import BEING_CREATED, judge
from mcp_audit.ledger.checking.parallel import run_parallel
from mcp_audit.ledger.checking.report import Report, Verdict
from mcp_audit.ledger.checking.segment_check import Finding, Moved, Order, check_file
from mcp_audit.ledger.checkpoint import BadNote, Checkpoint, read_well_formed
from mcp_audit.ledger.evidence import (
    Beside,
    CannotLook,
    claimed_origin,
    is_sqlite,
    look_beside,
    small_text,
    writer_alive,
)
from mcp_audit.ledger.keys import VerifierKey
from mcp_audit.ledger.regular import is_plain_file
from mcp_audit.ledger.rows import claimed_origin_of_rows
from mcp_audit.ledger.segment_files import (
    SegmentFile,
    Survey,
    archive_notes,
    is_complete,
    log_of_archive,
    look_at,
    plain_name,
    survey,
)

__all__ = ["verify"]

# A rotation takes milliseconds, so a log that is another one again and again is not just being rotated.
_ATTEMPTS = 6
_WORTH_A_PROCESS = 32 << 20  # bytes; measured: a process costs as much as checking about 30 MiB
_NO_LEDGER = "its first line names no log: no ledger, or one of the Go program"


def verify(
    path: str | os.PathLike[str],
    *,
    vkeys: Iterable[str] = (),
    secrets: Iterable[bytes] = (),
    against: str | None = None,
    strict: bool = False,
    fast: bool = False,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Check one log: its active file and the archives beside it, one archive alone, or a SQLite ledger.

    Args:
        path: the log; its archives, checkpoints and `.pub` are found beside it. An archive is checked alone, against
            the checkpoint of its own.
        vkeys: pinned verifier keys, `<origin>+<key ID>+<base64>`; the log must belong to one. Without any, the `.pub`
            beside the log is used, which proves nothing against whoever can write there.
        secrets: values of AUDIT_SECRET, for the MACs; empty: they are not checked.
        against: text of an older note somebody kept: the log must extend it.
        strict: also check JSON, members, `signature` and that each `of` fits its request.
        fast: check archives by their hash only, as the log recorded it, and the active file in full.
        jobs: how many processes may check files at the same time. More than one needs a main module that can be
            imported without effects, as `multiprocessing` does with `spawn`.
        progress: called now and then with the number of bytes read so far.

    Raises:
        CannotLook: nothing is there, it cannot be read, or `against` is no note.
        BadKey: a pinned key is not one.
    """
    pins = tuple(VerifierKey.parse(vkey) for vkey in vkeys)
    if against is not None:
        try:
            read_well_formed(against)
        except BadNote as error:
            raise CannotLook("--against", f"this is no note of a log: {error}") from None
    asked = _Asked(os.fspath(path), pins, tuple(secrets), against, strict, fast, jobs, progress)
    cache: dict[tuple[Order, int], Finding] = {}
    report = None
    for _ in range(_ATTEMPTS):
        attempt = _Attempt(asked, cache)
        try:
            report = attempt.run()
        except Moved:
            continue
        # What looks removed or rolled back may have been rotated or pruned between two looks at the folder.
        if not report.may_be_moving or not attempt.has_changed():
            return report
    if report is None:
        raise CannotLook(asked.path, "its files are replaced faster than they can be read; try again")
    return report


@dataclass(frozen=True, slots=True)
class _Asked:
    path: str
    pins: tuple[VerifierKey, ...]
    secrets: tuple[bytes, ...]
    against: str | None
    strict: bool
    fast: bool
    jobs: int
    progress: Callable[[int], None] | None


class _Attempt:
    """One look at a log: what is there, then its bytes, then the verdict."""

    def __init__(self, asked: _Asked, cache: dict[tuple[Order, int], Finding]) -> None:
        self.asked = asked
        self.path = asked.path
        self.cache = cache
        self.alone = log_of_archive(self.path)
        self._notes_read: set[str] = set()
        # The notes before the log, which can then only be longer.
        self.beside = self._look_beside()
        self.alive = self.alone is None and writer_alive(self.path)
        self.sqlite = _size_of(self.path) is not None and is_sqlite(self.path)
        self.survey = self._survey()

    def has_changed(self) -> bool:
        """Say whether a writer has changed the files since."""
        return self._look_beside() != self.beside or _places(self._survey()) != _places(self.survey)

    def run(self) -> Report:
        active, others = self.survey.active, self.survey.others
        if active is None and not others:
            return self._nothing_there()
        claimed = self._claimed()
        authority = Authority.choose(self.asked.pins, claimed, self.beside.vkey)
        if authority.origin is None:
            verdict = Verdict.TAMPERED if authority.problem else Verdict.UNKNOWN
            return Report(self.path, verdict, authority.problem or _NO_LEDGER)
        files = self.survey.chosen(authority.origin)
        if not files:
            return self._nothing_there()
        case = self._case(authority, files)
        # Hashes count if the last `segment` line does, from which all others follow: a checkpoint must cover it.
        signed = case.note is not None and case.note.size > files[-1].start
        parts = self._check(case, self.asked.fast and len(files) > 1 and signed)
        report = judge(case, parts)
        if report.verdict is Verdict.TAMPERED and any(part.finding.nodes is None for part in parts):
            # A hash says that something differs, not where.
            report = judge(case, self._check(case, fast=False))
        return report

    def _look_beside(self) -> Beside:
        if self.alone is None:
            return look_beside(self.path)
        note = small_text(plain_name(self.path) + ".checkpoint")
        return Beside(note, small_text(self.alone + ".pub") or _vkey_inside(self.path))

    def _survey(self) -> Survey:
        try:
            if self.alone is None and not self.sqlite:
                return survey(self.path)
            return Survey(look_at(self.path), (), {})
        except FileNotFoundError:
            return Survey(None, (), {})
        except OSError as error:
            raise CannotLook(self.path, error.strerror or str(error)) from error

    def _claimed(self) -> str | None:
        active, others = self.survey.active, self.survey.others
        claimed = active.origin if active is not None else None
        if active is not None and not claimed:
            claimed = claimed_origin_of_rows(self.path) if self.sqlite else claimed_origin(self.path)
        claimed = claimed or origin_of_note(self.beside.note)
        return claimed or (others[-1].origin if others and active is None else None)

    def _nothing_there(self) -> Report:
        texts = {} if self.beside.note is None else {"checkpoint": self.beside.note}
        texts |= self._stray_texts()
        report = Report(self.path, Verdict.UNKNOWN)
        if not texts:
            if self.beside.vkey is None or self.alone is not None:
                raise CannotLook(self.path, "there is no log; name the file that audit.path or audit.sqlite_path says")
            report.reason = "log and checkpoint are missing although the log has a key (.pub)"
            return report
        authority = Authority.choose(self.asked.pins, origin_of_note(next(iter(texts.values()))), self.beside.vkey)
        notes = [authority.read(text, what) for what, text in texts.items()]
        problem = authority.problem or next((note for note in notes if isinstance(note, str)), None)
        size = max((note.size for note in notes if isinstance(note, Checkpoint)), default=0)
        report.log = authority.origin or ""
        if problem or size:
            report.verdict = Verdict.TAMPERED
            covers = f"although its checkpoint covers {size} lines"
            report.reason = f"the log is missing, and {problem}" if problem else f"the log is missing {covers}"
        elif authority.unknown is not None:
            report.reason = authority.unknown
        else:
            report.verdict, report.reason = Verdict.UNCLEAN, BEING_CREATED
        report.may_be_moving = True
        return report

    def _case(self, authority: Authority, files: list[SegmentFile]) -> Case:
        case = Case(self.path, authority, tuple(files), self.survey, self.alone, self.sqlite, self.alive)
        case.secrets_given = bool(self.asked.secrets)
        if self.beside.note is None:
            what = "checkpoint beside the log is missing"
            hint = f"the {what}" if self.alone is None else f"the archive's own {what}; check {self.alone} instead"
            authority.unknown = authority.unknown or hint
        else:
            case.note = case.read(self.beside.note, "checkpoint")
        if self.asked.against is not None:
            case.against = case.read(self.asked.against, "note given with --against")
        *archives, _ = range(len(files))
        case.notes += [self._own_note(case, place, files[place + 1]) for place in archives]
        if self.alone is None:
            case.strays |= self._stray_notes(case)
        interrupted = self.alone is None and self.survey.active is None
        case.notes.append(self._own_note(case, len(files) - 1, None) if interrupted else case.note)
        return case

    def _own_note(self, case: Case, place: int, after: SegmentFile | None) -> Checkpoint | None:
        """Return the note up to the end of an archive; who renamed it may have left the note under its old name."""
        file = case.files[place]
        named = after.name_of(file) if after is not None else ""
        end = after.start if after is not None and named else None
        found = None
        for name in dict.fromkeys([named, plain_name(file.name)] if named else [plain_name(file.name)]):
            path = os.path.join(os.path.dirname(file.path), name) + ".checkpoint"
            what = f"checkpoint {name}.checkpoint"
            text = small_text(path) if is_plain_file(path) else None
            note = case.read(text, what, place) if text is not None else None
            self._notes_read.add(name)
            if note is not None and found is None and end in (None, note.size):
                found = note
            elif note is not None:
                case.strays[what] = note  # of other lines than it is named after, which still have to be ours
        if found is None:
            case.notices.append(f"{file.name} has no checkpoint of its own; the newest one covers it, too")
        return found

    def _stray_notes(self, case: Case) -> dict[str, Checkpoint]:
        """Return the notes that stayed when their archives went; they still say what the lines up to there were."""
        notes = {what: case.read(text, what) for what, text in self._stray_texts().items()}
        return {what: note for what, note in notes.items() if note is not None}

    def _stray_texts(self) -> dict[str, str]:
        """Return the notes of archives that were not read yet, by what to call them."""
        folder = os.path.dirname(self.path)
        if self.alone is not None or not os.path.isdir(folder or "."):
            return {}
        names = sorted(set(archive_notes(self.path)) - self._notes_read)
        texts = {
            f"checkpoint {name}.checkpoint": small_text(os.path.join(folder, name) + ".checkpoint") for name in names
        }
        return {what: text for what, text in texts.items() if text is not None}

    def _check(self, case: Case, fast: bool) -> list[Part]:
        """Check every file by itself, the largest ones at the same time."""
        orders = [self._order(case, place, fast) for place in range(len(case.files))]
        sizes = [file.size for file in case.files]
        keys = list(zip(orders, sizes, strict=True))
        todo = sorted((place for place, key in enumerate(keys) if key not in self.cache), key=lambda i: -sizes[i])
        jobs = min(self.asked.jobs, len(todo), sum(sizes[place] for place in todo) // _WORTH_A_PROCESS)
        if jobs > 1:
            found = run_parallel(check_file, [orders[place] for place in todo], jobs, self.asked.progress)
        else:
            found = self._one_by_one([orders[place] for place in todo], [sizes[place] for place in todo])
        self.cache.update((keys[place], finding) for place, finding in zip(todo, found, strict=True))
        return [Part(file, self.cache[key]) for file, key in zip(case.files, keys, strict=True)]

    def _one_by_one(self, orders: list[Order], sizes: list[int]) -> list[Finding]:
        findings = []
        before = 0
        for order, size in zip(orders, sizes, strict=True):
            report = self.asked.progress and _shifted(self.asked.progress, before)
            findings.append(check_file(order, report))
            before += size
        return findings

    def _order(self, case: Case, place: int, fast: bool) -> Order:
        file, note = case.files[place], case.notes[place]
        last = place == len(case.files) - 1
        end = None if last else case.files[place + 1].start
        kept = [other.size for other in (case.note, case.against, *case.strays.values()) if other is not None]
        watch = tuple(sorted({size for size in kept if file.start <= size and (end is None or size <= end)}))
        return Order(
            file.path,
            case.origin,
            None if self.sqlite else file.identity,
            note if note is not None and note.size >= file.start else None,
            watch,
            self.asked.secrets,
            self.sqlite,
            self.asked.strict,
            alive=self.alive and file is self.survey.active,
            digest=not last,
            # A size inside an archive needs its leaves; the one at its end is the beginning of the next file.
            hash_only=fast and not last and all(size in (file.start, end) for size in watch),
            prunes=not is_complete(case.files),
        )


def _shifted(progress: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: progress(before + done)


def _vkey_inside(archive: str) -> str | None:
    """Return the verifier key that an archive names in its first line."""
    try:
        found = look_at(archive)
        vkey = json.loads(found.first_line)["vkey"] if found is not None else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return vkey if isinstance(vkey, str) else None


def _places(found: Survey) -> list[tuple[str, int, tuple[int, int]]]:
    files = [*found.others, *([found.active] if found.active is not None else [])]
    return [(file.name, file.start, file.identity) for file in files]


def _size_of(path: str) -> int | None:
    """Return the size of a log; an empty file counts as none."""
    try:
        return os.stat(path).st_size or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotLook(path, error.strerror or str(error)) from error
