"""The evidence format: read it, verify it. Standard library only, and `cryptography` once a signature is checked.

from mcp_audit.ledger import read, verify

report = verify("audit.jsonl", vkeys=["audit.example/host1/fs+99299683+AQOh..."])
for record in read("audit.jsonl", method="tools/call"):
    print(record.seq, record.line["tool_name"])
"""

from __future__ import annotations

from mcp_audit.ledger.reader import Record, read
from mcp_audit.ledger.report import Report, Verdict
from mcp_audit.ledger.verify import verify

__all__ = ["Record", "Report", "Verdict", "read", "verify"]
