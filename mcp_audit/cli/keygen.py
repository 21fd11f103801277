"""Make a log key, a secret or a client token. Existing files are never overwritten.

  --log LOG       LOG.key, which signs the ledger's checkpoints, and LOG.pub, which checks them
  --secret FILE   32 random bytes in hex, for AUDIT_SECRET_FILE
  --token NAME    a bearer token for the client NAME, printed once, and the line for proxy.auth.tokens

examples:
  mcp-audit keygen --secret ~/.mcp-audit-secret
  mcp-audit keygen --log ./audit.jsonl --origin audit.example.com/host1/fs
  mcp-audit keygen --token alice
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import socket
import sys
from pathlib import Path

from mcp_audit.errors import McpAuditError

__all__ = ["CannotWrite", "add_arguments", "run"]


class CannotWrite(McpAuditError):
    """A file could not be made; nothing of it is left behind."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be made; several at once may be."""
    parser.add_argument("--log", metavar="LOG", help="make LOG.key and LOG.pub for this ledger")
    parser.add_argument("--origin", metavar="NAME", help="with --log: the log's name (HOST/STEM-RANDOM)")
    parser.add_argument("--secret", metavar="FILE", help="make a secret for AUDIT_SECRET_FILE")
    parser.add_argument("--token", metavar="NAME", help="make a bearer token for this client")


def run(args: argparse.Namespace) -> int:
    """Make what was asked for; 0 done, 2 nothing asked for or not possible."""
    if args.log is None and args.secret is None and args.token is None:
        print("mcp-audit keygen: say what to make: --log LOG, --secret FILE or --token NAME", file=sys.stderr)
        return 2
    if args.origin is not None and args.log is None:
        print("mcp-audit keygen: --origin names the log of --log, which is missing", file=sys.stderr)
        return 2
    if args.token is not None and not (args.token.strip() and args.token.isprintable()):
        print("mcp-audit keygen: --token needs a name that can be printed; it becomes client_id", file=sys.stderr)
        return 2
    if args.log is not None:
        _make_log_key(args.log, args.origin)
    if args.secret is not None:
        _make_secret(args.secret)
    if args.token is not None:
        _make_token(args.token)
    return 0


def _make_log_key(log: str, origin: str | None) -> None:
    from mcp_audit.ledger.keys import LogKey, default_origin

    key_file, pub_file = log + ".key", log + ".pub"
    if os.path.lexists(log):
        # A key belongs to one history from its first line on; this one's is already decided.
        raise CannotWrite(log, "the ledger exists already, and its key cannot be replaced; name a new ledger")
    for path in (key_file, pub_file):
        if os.path.lexists(path):
            raise CannotWrite(path, "exists already and is never overwritten; name another ledger")
    key = LogKey.generate(origin or default_origin(socket.gethostname(), Path(log).stem, secrets.token_hex(4)))
    _create(key_file, key.to_text() + "\n", 0o600)
    try:
        _create(pub_file, key.vkey + "\n", 0o644)
    except McpAuditError:
        os.unlink(key_file)
        raise
    print(f"{key_file}: signs the checkpoints of {log}; keep it secret and back it up")
    print(f"{pub_file}: checks them")
    print(f"vkey: {key.vkey}")
    print("Pin the vkey where whoever can write to the ledger cannot: a repository, a ticket, another host. Then")
    print(f"  mcp-audit verify {log} --vkey '{key.vkey}'")


def _make_secret(path: str) -> None:
    _create(path, secrets.token_hex(32) + "\n", 0o600)
    print(f"{path}: a new secret. Keep a copy: without it the MACs in a ledger cannot be checked. Use it with")
    print(f"  AUDIT_SECRET_FILE={path} mcp-audit -- COMMAND ARG...")


def _make_token(name: str) -> None:
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    print(f"token of {name}, shown only now: {token}")
    print(
        "the client sends it as `Authorization: Bearer TOKEN`; the proxy knows it by this line under proxy.auth.tokens:"
    )
    print(f"      - {{name: {json.dumps(name, ensure_ascii=False)}, sha256: {digest}}}")


def _create(path: str, text: str, mode: int) -> None:
    """Make a file that was not there, whole and on disk, or leave nothing behind."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    except FileExistsError:
        raise CannotWrite(path, "exists already and is never overwritten; name another file") from None
    except OSError as error:
        raise CannotWrite(path, f"cannot be made ({error.strerror})") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            # The umask may have taken bits that readers of the public half need.
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise CannotWrite(path, f"cannot be written ({error.strerror})") from None
