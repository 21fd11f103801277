"""The evidence format: read it, verify it. Standard library only, and `cryptography` once a signature is checked.

from mcp_audit.ledger import check_proof, prove, read, verify

VKEY = "audit.example/host1/fs+99299683+AQOh..."
report = verify("audit.jsonl", vkeys=[VKEY])
entry = check_proof(prove("audit.jsonl", 17), vkeys=[VKEY])
for record in read("audit.jsonl", method="tools/call"):
    print(record.seq, record.line["tool_name"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_audit.ledger.checking.report import Report, Verdict
    from mcp_audit.ledger.checking.verifier import verify
    from mcp_audit.ledger.proving.proof import ProvedEntry, check_proof
    from mcp_audit.ledger.proving.prover import prove
    from mcp_audit.ledger.reading.reader import Record, read

__all__ = ["ProvedEntry", "Record", "Report", "Verdict", "check_proof", "prove", "read", "verify"]

# No module here may be called like one of these names: importing it would put the module in the name's place.
_HOMES = {
    "ProvedEntry": "proving.proof",
    "Record": "reading.reader",
    "Report": "checking.report",
    "Verdict": "checking.report",
    "check_proof": "proving.proof",
    "prove": "proving.prover",
    "read": "reading.reader",
    "verify": "checking.verifier",
}


def __getattr__(name: str) -> Any:
    """Load the reading half when it is asked for: a writer, which starts with every session, needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
