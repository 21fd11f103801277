"""Make a proof of one entry: a small text that convinces whoever holds the log's verifier key, without the ledger.

The proof (C2SP tlog-proof) has the entry itself, its place, the hashes that lead from it to the root of the log, and
the signed checkpoint of that root. It shows this entry and no other: hand it out, keep the ledger. `check-proof`
checks it.

Exit codes:
  1  the ledger is not what was signed; `verify` says where
  2  cannot look: usage, unreadable, no such entry
  3  nothing is proved yet: the entry is newer than the newest checkpoint, or checkpoint or key are missing
  0  here it is

An entry in an archive is found by its seq; name the ledger, or the archive. Only the file with the entry is read.

example: mcp-audit prove audit.jsonl --seq 17 -o entry-17.tlog-proof
"""

from __future__ import annotations

import argparse
import os
import sys

from mcp_audit.cli.terminal import progress_bar
from mcp_audit.errors import ConfigError
from mcp_audit.ledger.proving.proof import HEADER
from mcp_audit.ledger.proving.prover import carry_out
from mcp_audit.ledger.proving.prover_plan import plan, searched_bytes, seq_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `prove`."""
    parser.add_argument("log", metavar="LOG", help="a ledger: JSONL, one of its archives, or SQLite")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seq", metavar="N", type=int, help="the entry's number, as `query` prints it")
    which.add_argument(
        "--id", metavar="ULID", help="the entry's id, such as the entry_id in the error of a denied call"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write the proof; standard output by default")


def run(args: argparse.Namespace) -> int:
    """Write the proof; what is said about it goes to stderr."""
    _require_writable(args.output)
    name = os.path.basename(args.log)
    seq = args.seq
    if seq is None:
        with progress_bar(f"search {name}", searched_bytes(args.log)) as progress:
            seq = seq_of(args.log, args.id, progress)
    planned = plan(args.log, seq)
    with progress_bar(f"prove {name}", planned.bytes) as progress:
        text = carry_out(planned, progress)
    if args.output is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode())
        return 0
    _write(args.output, text)
    checkpoint = planned.checkpoint
    print(
        f"{args.output}: seq {seq} of {checkpoint.origin}, proved by its checkpoint of size {checkpoint.size}; "
        "whoever checks it needs the log's verifier key, but not from you alone: see `mcp-audit check-proof --help`",
        file=sys.stderr,
    )
    return 0


def _require_writable(path: str | None) -> None:
    """Refuse to write over anything but a proof, before minutes are spent: `-o` may be followed by the log's name."""
    if path is None or not os.path.isfile(path) or not os.path.getsize(path):
        return
    try:
        with open(path, "rb") as file:
            is_proof = file.read(len(HEADER)) == HEADER.encode()
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}; name a file that may be written", "--output") from error
    if not is_proof:
        raise ConfigError("", f"{path} is there and is no proof; name another file or remove it", "--output")


def _write(path: str, text: str) -> None:
    """Write the proof for its owner alone, as the ledger is: it holds an entry."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(text.encode())
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}; name a file that may be written", "--output") from error
