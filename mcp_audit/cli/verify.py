"""Decide whether ledgers are intact: nothing changed, removed, inserted or moved since it was signed.

Exit codes, the first that applies to any of the logs:
  2  cannot look: usage, unreadable, nothing there
  1  tampered with, or lost what a checkpoint covers
  3  cannot decide: the checkpoint, the key or `cryptography` is missing
  4  intact, but it ends uncleanly: a run was not closed and no writer is alive, or bytes are torn past the checkpoint
  0  intact

Archives beside a log are found, compressed ones too, and checked with it, several at the same time. An archive named
as LOG is checked by itself, against the checkpoint of its own. --fast compares archives with the hashes that the log
recorded of them, and reads only the active file line by line.

MACs are checked with AUDIT_SECRET or AUDIT_SECRET_FILE and the secrets of --keyring, as far as they fit. Without
--vkey the key beside the log is used, which proves nothing against somebody who can write there: pin it elsewhere.

example: mcp-audit verify audit.jsonl --vkey ~/pinned/audit.vkey --against ~/notes/last-month.checkpoint
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from mcp_audit.cli.given import given_bytes, given_text, given_vkeys
from mcp_audit.cli.legacy import verify_legacy
from mcp_audit.cli.terminal import STYLES, progress_bar, safe, say
from mcp_audit.errors import ConfigError
from mcp_audit.ledger.checking.report import Report, Verdict
from mcp_audit.ledger.checking.verifier import verify
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.keys import BadKey, check_secret, read_secret
from mcp_audit.ledger.segment_files import log_of_archive, segment_files

__all__ = ["add_arguments", "run"]

_ORDER = (Verdict.UNREADABLE, Verdict.TAMPERED, Verdict.UNKNOWN, Verdict.UNCLEAN)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("logs", metavar="LOG", nargs="+", help="a ledger: JSONL or SQLite")
    parser.add_argument("--vkey", metavar="VKEY|FILE", help="pinned verifier key, or a file with one per line")
    parser.add_argument("--keyring", metavar="FILE", help="secrets, one per line, found by the log's key_id")
    parser.add_argument("--no-mac", action="store_true", help="do not check MACs, even if a secret is at hand")
    parser.add_argument("--against", metavar="NOTE", help="an older note you kept: the log must extend it")
    parser.add_argument("--fast", action="store_true", help="check archives by their recorded hash only")
    parser.add_argument("--strict", action="store_true", help="also check every line's JSON, members and pairing")
    parser.add_argument("--jobs", metavar="N", type=_jobs, default=_cores(), help="processes at most (default: cores)")
    parser.add_argument("--legacy", action="store_true", help="check signatures in logs of the Go program (0, 1, 2, 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object per log and line")


def run(args: argparse.Namespace) -> int:
    if args.legacy:
        return verify_legacy(args)
    vkeys = given_vkeys(args.vkey) if args.vkey else []
    secrets = [] if args.no_mac else _secrets(args.keyring)
    against = given_text(args.against, "--against") if args.against else None
    verdicts = set()
    for path in args.logs:
        report = _check(path, vkeys, secrets, against, args)
        verdicts.add(report.verdict)
        if args.json:
            print(json.dumps(report.to_json()))
        else:
            _print(report)
    return next((verdict.value for verdict in _ORDER if verdict in verdicts), 0)


def _check(path: str, vkeys: list[str], secrets: list[bytes], against: str | None, args: argparse.Namespace) -> Report:
    try:
        with progress_bar(f"verify {os.path.basename(path)}", _bytes_to_read(path)) as progress:
            return verify(
                path,
                vkeys=vkeys,
                secrets=secrets,
                against=against,
                strict=args.strict,
                fast=args.fast,
                jobs=args.jobs,
                progress=progress,
            )
    except CannotLook as error:
        if error.path == "--against":
            raise
        return Report(path, Verdict.UNREADABLE, str(error))


def _bytes_to_read(path: str) -> int:
    try:
        if log_of_archive(path) is not None:
            return os.path.getsize(path)
        return sum(file.size for file in segment_files(path))
    except OSError:  # the check itself says what is wrong
        return 0


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes (1 to 1024)")
    return int(text)


def _secrets(keyring: str | None) -> list[bytes]:
    secret = read_secret(os.environ)
    secrets = [] if secret is None else [secret]
    if keyring is not None:
        lines = given_bytes(keyring, "--keyring").split(b"\n")
        try:
            secrets += [check_secret(line) for line in lines if line]
        except BadKey as error:
            raise ConfigError("", f"{keyring}: {error}", "--keyring") from error
    return secrets


def _print(report: Report) -> None:
    if report.verdict is Verdict.UNREADABLE:
        print(f"mcp-audit verify: {safe(report.reason)}", file=sys.stderr)
        say(f"{report.verdict.name}  {safe(report.path)}", STYLES[report.verdict.name])
        return
    width = max([len(safe(file.name)) for file in report.files], default=0)
    for file in report.files:
        seqs = f"seq {file.first}-{file.last}" if file.last is not None else "no entry"
        size = f"{file.bytes / 2**20:.1f} MiB" if file.bytes >= 2**20 else f"{file.bytes} bytes"
        reason = f"  {safe(file.reason)}" if file.reason else ""
        line = f"{file.status:<4}  {safe(file.name):<{width}}  {seqs}  {size}{reason}"
        say(line, "red" if file.status == "FAIL" else "")
    for notice in report.notices:
        print(f"      {safe(notice)}")
    say(f"{report.verdict.name}  {safe(_summary(report))}", STYLES[report.verdict.name])


def _summary(report: Report) -> str:
    if not report.files:
        return f"{report.log or report.path}: {report.reason}"
    valid = sum(file.status == "ok" for file in report.files)
    done = ", ".join(name for name, held in report.checks.items() if held is not None) or "nothing"
    parts = [f"{report.log or report.path}: {valid} of {len(report.files)} files valid; checked {done}"]
    wanted = ("tree", "note", "mac", *(("strict",) if "strict" in report.checks else ()))
    skipped = [name for name in wanted if report.checks.get(name) is None]
    if skipped:
        parts.append(f"not checked: {', '.join(skipped)}")
    signed = report.checkpoint
    if signed is not None and signed.key is not None:
        pinned = "key pinned by --vkey" if signed.pinned else f"key not pinned, from beside the log: {signed.key}"
        parts.append(pinned)
    return "; ".join(parts)
