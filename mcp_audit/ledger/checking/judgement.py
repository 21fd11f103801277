"""From what speaks against a log to the verdict, from the worst to the best, and the report.

Pure. Tampering comes before what could not be decided, and that before how the log ends: a missing key hides no change,
and an unclean end excuses none.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from mcp_audit.ledger.checking.charges import Case, Charges
from mcp_audit.ledger.checking.joints import Part
from mcp_audit.ledger.checking.report import CheckedFile, Report, Signed, Verdict
from mcp_audit.ledger.scan import FORMAT_VERSION

__all__ = ["BEING_CREATED", "judge"]

BEING_CREATED = "the log was being created when its writer stopped; a start finishes it"


def judge(case: Case, parts: Sequence[Part]) -> Report:
    """Return the report of a log."""
    return _Judge(Charges(case, parts)).report()


class _Judge:
    def __init__(self, charges: Charges) -> None:
        self.charges = charges

    def report(self) -> Report:
        verdict, reason = self._verdict()
        report = Report(self.charges.case.path, verdict, reason, self.charges.case.origin)
        self._describe(report)
        report.checks = self._checks()
        report.may_be_moving = any(fault.moving for fault in self.charges.faults)
        report.files = self._files(verdict, reason)
        report.notices = self._notices()
        return report

    # -- the verdict

    def _verdict(self) -> tuple[Verdict, str]:
        if self.charges.faults:
            first, *others = self.charges.faults
            name = f"{self.charges.case.files[first.place].name}: " if self.charges.end and first.place >= 0 else ""
            more = f" (and {len(others)} more faults)" if others and self.charges.end else ""
            return Verdict.TAMPERED, f"{name}{first.sentence}{more}"
        future = next((finding.future for finding in self.charges.findings if finding.future), 0)
        if future:
            known = f"this program knows up to {FORMAT_VERSION}"
            return Verdict.UNKNOWN, f"it is of format version {future}, {known}; upgrade it"
        if self.charges.unknown is not None:
            return Verdict.UNKNOWN, self.charges.unknown
        return self._verdict_on_the_end()

    def _verdict_on_the_end(self) -> tuple[Verdict, str]:
        """The log is what was signed; how does it end?"""
        last, torn, case = self.charges.last, self.charges.last.torn, self.charges.case
        assert case.note is not None
        if torn is not None:
            loud = f", {torn.salvageable} whole lines among them: were they edited?" if torn.salvageable else ""
            return Verdict.UNCLEAN, f"{torn.fault}; {torn.count} torn bytes past the checkpoint{loud}"
        if last.size == 0:
            return Verdict.UNCLEAN, BEING_CREATED
        if case.alone is not None:
            return Verdict.INTACT, "an archive by itself; what it leaves open goes on in the next file"
        if case.survey.active is None:
            name = os.path.basename(case.path)
            return (
                Verdict.UNCLEAN,
                f"{name} is not here: a rotation was interrupted after this file; a start finishes it",
            )
        if case.alive:
            return Verdict.INTACT, "a writer is at work"
        if last.runs:
            pending = f", {len(last.pending)} requests open" if last.pending else ""
            return Verdict.UNCLEAN, f"a run was not closed and no writer is alive{pending}"
        if last.size > case.note.size:
            count = last.size - case.note.size
            return Verdict.UNCLEAN, f"the last {count} lines have no checkpoint although no writer is alive"
        return Verdict.INTACT, ""

    # -- what is told

    def _describe(self, report: Report) -> None:
        note, authority = self.charges.case.note, self.charges.case.authority
        report.size = self.charges.last.size
        report.root = base64.b64encode(self.charges.last.root).decode()
        if note is not None:
            key = authority.key.vkey if authority.key else None
            report.checkpoint = Signed(note.size, base64.b64encode(note.root).decode(), key, authority.pinned)
        kinds = self._kinds()
        report.counts = {
            "exchanges": kinds["exchange"],
            "open_requests": len(self.charges.last.pending),
            "orphans": kinds["orphan"],
            "recoveries": kinds["recovery"],
            "torn_bytes": sum(f.torn_bytes + (f.torn.count if f.torn else 0) for f in self.charges.findings),
            "lost": sum(finding.lost for finding in self.charges.findings),
        }

    def _kinds(self) -> Counter[str]:
        return sum((finding.kinds for finding in self.charges.findings), Counter[str]())

    def _checks(self) -> dict[str, bool | None]:
        findings = self.charges.findings
        scanned = [finding for finding in findings if finding.nodes is not None]
        lines = sum(finding.size - finding.start for finding in scanned)
        unchecked = sum(finding.unchecked for finding in scanned)
        mac_holds = lines > unchecked + sum(finding.without_mac for finding in scanned) and not unchecked
        broken = any(
            "(mac does not match)" in fault.sentence or "it has no mac" in fault.sentence
            for fault in self.charges.faults
        )
        problem = any(finding.rows is not None and finding.rows.problem for finding in findings)
        between = self.charges.joined.faults or self.charges.missing
        whole = all(f.holds and (f.torn is None or place == self.charges.end) for place, f in enumerate(findings))
        note_faults = self.charges.case.note_faults or self.charges.case.authority.problem
        checks = {
            "chain": not (problem or between) and whole,
            "tree": self.charges.holds(self.charges.case.note),
            "note": None if self.charges.case.authority.unknown else not note_faults,
            "mac": False if broken else True if mac_holds and len(scanned) == len(findings) else None,
            "against": self.charges.holds(self.charges.case.against),
        }
        if self.charges.last.strict is not None:
            conform = all(f.strict is None or f.strict.fault is None for f in findings)
            checks["strict"] = None if conform and len(scanned) < len(findings) else conform
        return checks

    def _files(self, verdict: Verdict, reason: str) -> list[CheckedFile]:
        rows = []
        for place, (file, finding) in enumerate(zip(self.charges.case.files, self.charges.findings, strict=True)):
            sentence = next((fault.sentence for fault in self.charges.faults if fault.place == place), "")
            status = "FAIL" if sentence else "ok"
            if verdict is not Verdict.TAMPERED and place == self.charges.end:
                sentence = reason
            first, last = (finding.start, finding.size - 1) if finding.size > finding.start else (None, None)
            rows.append((finding.start, CheckedFile(file.name, status, first, last, file.size, sentence)))
        rows += [
            (gap.first, CheckedFile(gap.name, "FAIL", gap.first, gap.last, 0, gap.reason))
            for gap in self.charges.missing
        ]
        return [row for _, row in sorted(rows, key=lambda row: row[0])]

    def _notices(self) -> list[str]:
        findings = self.charges.findings
        notices = [f"seq {notice.seq}: {notice.text}" for finding in findings for notice in finding.notices]
        without = sum(finding.without_mac for finding in findings)
        if without:
            notices.append(f"{without} lines carry no MAC")
        unchecked = sum(finding.unchecked for finding in findings)
        if unchecked:
            given = self.charges.case.secrets_given
            why = "no AUDIT_SECRET at hand fits the log's key_id" if given else "no secret was given"
            notices.append(f"the MACs of {unchecked} lines were not checked: {why}")
        orphans = self._kinds()["orphan"]
        if orphans:
            notices.append(f"{orphans} requests were never answered (orphan)")
        hashed = sum(finding.nodes is None for finding in findings)
        if hashed:
            lines = "their lines, and with them MACs" + (" and --strict" if self.charges.last.strict else "")
            notices.append(f"{hashed} archives were compared by their hash only (--fast): {lines}, were not checked")
        backwards = self._backwards()
        if backwards:
            notices.append(f"time goes backwards {backwards} times; seq gives the order")
        return [*notices, *self.charges.case.notices, *self.charges.joined.notices, *self._bystanders()]

    def _backwards(self) -> int:
        found = [finding.strict for finding in self.charges.findings if finding.strict is not None]
        between = sum(after.first_time < before.last_time for before, after in pairwise(found))
        return between + sum(strict.backwards for strict in found)

    def _bystanders(self) -> list[str]:
        """Return what else lies beside the log and could be taken for a part of it."""
        chosen = {file.identity for file in self.charges.case.files}
        told = [f"{name} is no part of this log: {what}" for name, what in sorted(self.charges.strangers().items())]
        for file in self.charges.case.survey.others:
            if file.origin == self.charges.case.origin and file.identity not in chosen:
                told.append(
                    f"{file.name} was not looked at: it begins at seq {file.start}, too, or after the active file"
                )
        return told
