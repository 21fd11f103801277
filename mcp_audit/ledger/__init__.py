"""The evidence format: read it, verify it. Standard library only, and `cryptography` once a signature is checked.

from mcp_audit.ledger import read, verify

report = verify("audit.jsonl", vkeys=["audit.example/host1/fs+99299683+AQOh..."])
for record in read("audit.jsonl", method="tools/call"):
    print(record.seq, record.line["tool_name"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_audit.ledger.reader import Record, read
    from mcp_audit.ledger.report import Report, Verdict
    from mcp_audit.ledger.verifier import verify

__all__ = ["Record", "Report", "Verdict", "read", "verify"]

# No module here may be called like one of these names: importing it would put the module in the name's place.
_HOMES = {"Record": "reader", "read": "reader", "Report": "report", "Verdict": "report", "verify": "verifier"}


def __getattr__(name: str) -> Any:
    """Load the reading half when it is asked for: a writer, which starts with every session, needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
