"""`verify --legacy`: what the signatures in logs of the Go program say, in words or JSON, and the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from mcp_audit.cli.given import given_bytes
from mcp_audit.cli.terminal import safe, say
from mcp_audit.errors import ConfigError
from mcp_audit.ledger.evidence import CannotLook
from mcp_audit.ledger.legacy import LegacyReport, check_legacy

__all__ = ["verify_legacy"]

_STYLES = {"VALID": "green", "INVALID": "red", "UNKNOWN": "yellow"}
_ORDER = (2, 1, 3)


def verify_legacy(args: argparse.Namespace) -> int:
    """Check and print each log; return the first of 2, 1, 3 and 0 that applies to any."""
    for name in ("vkey", "against", "no_mac", "strict", "fast"):
        if getattr(args, name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError("", "a log of the Go program has nothing to check it against; leave it out", flag)
    secrets = [*_secrets(os.environ), *_from_keyring(args.keyring)]
    codes = {_verify(path, secrets, args.json) for path in args.logs}
    return next((code for code in _ORDER if code in codes), 0)


def _verify(path: str, secrets: Sequence[bytes], as_json: bool) -> int:
    try:
        report = check_legacy(path, *secrets)
    except CannotLook as error:
        if as_json:
            print(json.dumps({"verdict": "UNREADABLE", "exit": 2, "path": path, "legacy": True, "reason": str(error)}))
        else:
            print(f"mcp-audit verify: {safe(str(error))}", file=sys.stderr)
            say(f"UNREADABLE  {safe(path)}", "red")
        return error.exit_code
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        _print(report)
    return report.exit_code


def _print(report: LegacyReport) -> None:
    *told, verdict = map(safe, report.lines())
    for line in told:
        say(line, "red" if line.startswith("FAIL") else "")
    say(verdict, _STYLES[report.verdict])


def _secrets(environ: Mapping[str, str]) -> Iterator[bytes]:
    """The Go program took a secret of any length, so a short one is no reason to refuse an old log."""
    value, path = environ.get("AUDIT_SECRET"), environ.get("AUDIT_SECRET_FILE")
    if value and path:
        raise ConfigError("", "AUDIT_SECRET and AUDIT_SECRET_FILE are both set; unset one of them")
    if value:
        yield value.encode("utf-8", "surrogateescape")
    elif path:
        yield given_bytes(path, "AUDIT_SECRET_FILE").removesuffix(b"\n")


def _from_keyring(path: str | None) -> Iterator[bytes]:
    if path is not None:
        yield from filter(None, given_bytes(path, "--keyring").split(b"\n"))
