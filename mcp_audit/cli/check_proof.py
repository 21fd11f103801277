"""Check a proof that `prove` made, with nothing but the log's verifier key: no ledger, no network.

If it holds, the entry is what the log's key signed at that place, byte for byte; it is printed to stdout, what is said
about it to stderr.

Exit codes, the first that applies:
  2  unreadable: usage, not a proof, or the entry is neither in it nor given by --line
  1  false: entry, path, checkpoint or signature do not fit each other, or the log is not one of the keys'
  3  cannot decide: no key was given, or `cryptography` is missing
  0  it holds

The key has to come from somebody you trust, not from whoever shows you the proof. `mcp-audit verify` prints it, a proxy
logs it when it creates the ledger, and it stands in the ledger's .pub file.

example: mcp-audit check-proof entry-17.tlog-proof --vkey audit.example/host1/fs+99299683+AQOhB7/zzhC+HXDdGOdL...
"""

from __future__ import annotations

import argparse
import sys

from mcp_audit.cli.given import given_bytes, given_vkeys
from mcp_audit.cli.show import pretty
from mcp_audit.cli.terminal import safe
from mcp_audit.ledger.proving.proof import FalseProof, UnreadableProof, check_proof

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `check-proof`."""
    parser.add_argument("proof", metavar="FILE", help="the proof; - is standard input")
    parser.add_argument("--vkey", metavar="VKEY|FILE", help="the log's verifier key, or a file with one per line")
    parser.add_argument("--line", metavar="FILE", help="the entry, if it came separately; else the proof must have it")
    parser.add_argument("--raw", action="store_true", help="print the entry's exact bytes")


def run(args: argparse.Namespace) -> int:
    """Print the proved entry, or in one sentence why it is not proved."""
    vkeys = given_vkeys(args.vkey) if args.vkey else []
    line = given_bytes(args.line, "--line") if args.line else None
    data = given_bytes(args.proof, "FILE")
    try:
        proved = check_proof(data.decode(), vkeys, line)
    except UnicodeDecodeError:
        print(f"mcp-audit: {safe(args.proof)}: this is no proof: it is not UTF-8 text", file=sys.stderr)
        return UnreadableProof.exit_code
    except (FalseProof, UnreadableProof) as error:
        word = "FALSE: " if isinstance(error, FalseProof) else ""
        print(f"mcp-audit: {safe(args.proof)}: {word}{safe(str(error))}", file=sys.stderr)
        return error.exit_code
    if args.raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(proved.line + b"\n")
    else:
        print(pretty(proved.line.decode()))
    print(
        f"PROVED: seq {proved.seq} of {proved.origin}, by its checkpoint of size {proved.size}, "
        f"which {proved.vkey} signed",
        file=sys.stderr,
    )
    return 0
