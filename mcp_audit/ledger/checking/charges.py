"""What speaks against a log: each contradiction between its files, its lines and its checkpoints, against one file.

Pure. Everything is collected, so that a report can say of each file where it first fails; what that amounts to is
decided elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mcp_audit.ledger.checking.authority import Authority
from mcp_audit.ledger.checking.joints import Missing, Part, join
from mcp_audit.ledger.checking.segment_check import Finding
from mcp_audit.ledger.checkpoint import Checkpoint
from mcp_audit.ledger.merkle import CompactRange
from mcp_audit.ledger.segment_files import SegmentFile, Survey

__all__ = ["Case", "Charges", "Fault"]


class Fault(NamedTuple):
    """One sentence against the file at `place`; `moving`: a rotation between two looks would look the same."""

    place: int
    sentence: str
    moving: bool = False


@dataclass(slots=True)
class Case:
    """What is known about a log before its bytes are read.

    Attributes:
        files: in the order of their lines, the active one last.
        alone: the path of the log, if one archive of it is checked alone.
        notes: for each file the checkpoint that covers it to its end; that of the last one may be older.
        strays: the checkpoints of archives that are not here, by what to call them.
        note: the newest checkpoint; against: the one that somebody kept.
    """

    path: str
    authority: Authority
    files: tuple[SegmentFile, ...]
    survey: Survey
    alone: str | None = None
    sqlite: bool = False
    alive: bool = False
    secrets_given: bool = False
    notes: list[Checkpoint | None] = field(default_factory=list)
    strays: dict[str, Checkpoint] = field(default_factory=dict)
    note: Checkpoint | None = None
    against: Checkpoint | None = None
    notices: list[str] = field(default_factory=list)
    note_faults: list[Fault] = field(default_factory=list)

    @property
    def origin(self) -> str:
        """The name the log must have."""
        return self.authority.origin or ""

    def read(self, text: str, what: str, place: int | None = None) -> Checkpoint | None:
        """Return what a note says, or None after noting what is wrong with it as a fault of the file at `place`."""
        note = self.authority.read(text, what)
        if isinstance(note, str):
            self.note_faults.append(Fault(len(self.files) - 1 if place is None else place, note))
            return None
        return note


class Charges:
    """All that is wrong with a log.

    Attributes:
        findings: of each file, in the order of their lines; `last` is that of the newest, at place `end`.
        faults: in the order of their weight; `missing` lines are among them, at place -1.
        joined: what was found between the files.
        unknown: why nothing can be decided, if nothing else is wrong.
    """

    def __init__(self, case: Case, parts: Sequence[Part]) -> None:
        self.case = case
        self.findings = [part.finding for part in parts]
        self.last = self.findings[-1]
        self.end = len(parts) - 1
        self.faults: list[Fault] = []
        self.missing: list[Missing] = []
        self.unknown = case.authority.unknown
        self.row_notes = self._read_row_notes()
        signed = [note.size for note in (case.note, *case.notes, *self.row_notes.values()) if note is not None]
        # Before a prune line deletes anything it is signed. Without the newest note nobody can tell which ones are.
        self.prunes = [p for f in self.findings for p in f.prunes if case.note is None or p.seq < max(signed)]
        self.joined = join(parts if case.alone is None and not case.sqlite else (), self.prunes, self.strangers())
        self.roots = self._roots()
        self._accuse()

    def _accuse(self) -> None:
        for place, finding in enumerate(self.findings):
            self._accuse_file(place, finding)
        self.missing += self.joined.missing
        if self.case.survey.active is None and self.case.note is not None and self.case.note.size > self.last.size:
            first, last = self.last.size, self.case.note.size - 1
            reason = f"seq {first} to {last}, which the checkpoint covers, are missing: the active file is not here"
            self.missing.append(Missing(os.path.basename(self.case.path), first, last, reason))
        self.faults += [Fault(-1, missing.reason, moving=True) for missing in self.missing]
        if self.case.authority.problem:
            self._blame(self.end, self.case.authority.problem)
        self.faults += self.case.note_faults
        self._accuse_notes()
        self._accuse_against()
        for place, finding in enumerate(self.findings):
            if finding.strict is not None and finding.strict.fault is not None:
                seq, sentence = finding.strict.fault
                self._blame(place, f"seq {seq} does not conform: {sentence} ({finding.strict.faults} such lines)")

    def _blame(self, place: int, sentence: str, *, moving: bool = False) -> None:
        self.faults.append(Fault(place, sentence, moving))

    def _accuse_file(self, place: int, finding: Finding) -> None:
        if finding.rows is not None and finding.rows.problem is not None:
            self._blame(place, finding.rows.problem, moving=finding.start > 0)
        elif finding.fault is not None:
            self._blame(place, finding.fault)
        elif place < self.end and finding.torn is not None:
            self._blame(place, f"{finding.torn.fault}; the file ends in {finding.torn.count} bytes that are no line")
        elif place in self.joined.faults:
            self._blame(place, self.joined.faults[place], moving=True)
        elif self.case.sqlite and finding.start and not self._allowed(finding.start):
            gone = f"seq 0 to {finding.start - 1} are missing, and the prune line that lets them go was never signed"
            self._blame(place, gone, moving=True)

    def _allowed(self, start: int) -> bool:
        """Say whether a signed `prune` line lets what comes before `start` go."""
        return any(prune.from_ < start <= prune.to for prune in self.prunes)

    def _accuse_notes(self) -> None:
        """Compare each checkpoint with the lines it covers, unless the file's own scan has done so."""
        case, note = self.case, self.case.note
        for place, own in enumerate(case.notes):
            known = own is not None and self.findings[place].fault is None and own.size in self.roots
            if own is not None and known and not self.holds(own):
                self._blame(place, f"the lines up to seq {own.size - 1} are not those its checkpoint signed")
        self._accuse_strays()
        if note is None:
            return
        known_notes = (own for own in (*case.notes, *case.strays.values()) if own is not None)
        newest = max(known_notes, key=lambda own: own.size, default=note)
        if newest.size > note.size:
            covers = f"it covers {note.size} lines, the one of an archive {newest.size}"
            self._blame(self.end, f"the checkpoint beside the log was rolled back: {covers}", moving=True)
        elif note.size < self.findings[0].start:
            covers = f"it covers {note.size} lines, but the oldest one that is here is seq {self.findings[0].start}"
            self._blame(self.end, f"the checkpoint beside the log was rolled back: {covers}", moving=True)
        if case.alone is not None and self.last.size > note.size and self.last.fault is None:
            more = f"seq {note.size} to {self.last.size - 1}"
            self._blame(self.end, f"{more} are not covered by the archive's checkpoint, which covers it to its end")
        for size, row in self.row_notes.items():
            if row.size != size:
                self._blame(self.end, f"the checkpoint of size {size} in the database says that it covers {row.size}")
            elif size > self.last.size and self.last.fault is None:
                self._blame(self.end, f"seq {self.last.size} to {size - 1} are missing: a checkpoint covers them")
            elif size in self.roots and self.roots[size] != row.root:
                self._blame(
                    self.end, f"the lines up to seq {size - 1} are not those a checkpoint in the database signed"
                )

    def _accuse_strays(self) -> None:
        """The archive may be gone, its checkpoint still has to be one of this log."""
        for what, stray in self.case.strays.items():
            if stray.size > self.last.size and self.last.fault is None:
                missing = f"seq {self.last.size} to {stray.size - 1}"
                self._blame(self.end, f"{missing} are missing: the {what} covers them", moving=True)
            elif stray.size in self.roots and not self.holds(stray):
                self._blame(self.end, f"the lines up to seq {stray.size - 1} are not those that the {what} signed")

    def _accuse_against(self) -> None:
        """Require the log to extend the note that somebody kept."""
        kept, size = self.case.against, self.last.size
        if kept is None or self.holds(kept):
            return
        if kept.size > size and self.case.alone is not None:
            later = f"the kept note covers {kept.size} lines, also those of later files"
            self.unknown = self.unknown or f"{later}: check {self.case.alone} against it instead"
        elif kept.size > size:
            covers = f"it has {size} lines, the kept note covers {kept.size}"
            self._blame(self.end, f"{covers}: it was rolled back or cut", moving=True)
        elif kept.size not in self.roots and not any(f.start <= kept.size <= f.size for f in self.findings):
            here = min(finding.start for finding in self.findings if finding.start > kept.size)
            pruned = f"the lines up to the end of the kept note, seq {kept.size - 1}, were pruned"
            self.unknown = self.unknown or f"{pruned}: the next one that is here is seq {here}"
        else:
            rewritten = f"its first {kept.size} lines are not those of the kept note"
            self._blame(self.end, f"{rewritten}: history was rewritten")

    def holds(self, note: Checkpoint | None) -> bool | None:
        """Say whether the lines a note covers have the root it signed; None without a note."""
        return None if note is None else self.roots.get(note.size) == note.root

    def _roots(self) -> dict[int, bytes]:
        """Return every root that is known; a segment line has that of all lines before it."""
        roots: dict[int, bytes] = {}
        for finding in self.findings:
            if finding.segment is not None and finding.fault is None:
                roots[finding.start] = CompactRange(finding.segment.start, finding.segment.frontier).root()
            roots |= finding.roots
        return roots

    def _read_row_notes(self) -> dict[int, Checkpoint]:
        rows = self.last.rows
        notes = {}
        for size, text in sorted(rows.notes.items()) if rows is not None else ():
            note = self.case.read(text, f"checkpoint of size {size} in the database")
            if note is not None:
                notes[size] = note
        return notes

    def strangers(self) -> dict[str, str]:
        """Return the files that could be taken for a part of the log, and what they are instead."""
        found = dict(self.case.survey.strangers)
        for file in self.case.survey.others:
            if file.origin != self.case.origin:
                found[file.name] = f"it belongs to the log {file.origin}"
        return found
