"""Builds ledgers for tests out of the format alone: no sink, no clock, the same bytes every time."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_audit.ledger.chain import Chain
from mcp_audit.ledger.checkpoint import Checkpoint, signed_note
from mcp_audit.ledger.entry import Entry, encode, encode_typed
from mcp_audit.ledger.keys import LogKey, derive
from mcp_audit.ledger.mac import Mac
from mcp_audit.ledger.segment import Previous, segment_members
from mcp_audit.ledger.sqlite_schema import STATEMENTS

ORIGIN = "audit.example/host1/fs"
SECRET = b"0123456789abcdef0123456789abcdef"
KEY = LogKey(ORIGIN, bytes(range(32)))
OTHER_KEY = LogKey(ORIGIN, bytes(range(1, 33)))

EXAMPLE_LINES = [
    rb"""{"type":"open","id":"01KSFJ33CR0QK2M0T3J5V7X9ZB","timestamp":"2026-05-25T12:34:55.000000Z","v":1,"software":"mcp-audit 1.0.0","vkey":"audit.example/host1/fs+99299683+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4","key_id":"f26937dc","after":"new","log":"audit.example/host1/fs","seq":0,"prev":"0000000000000000000000000000000000000000000000000000000000000000","mac":"70a5cac55d91012884cff3baad7aa77d80c450622b449322ce1afb564bff9496"}""",  # noqa: E501
    rb"""{"type":"request","id":"01KSFJ34F86R3N5P7Q9S1T3V5X","timestamp":"2026-05-25T12:34:56.104870Z","direction":"client_to_server","transport":"stdio","method":"tools/call","request_id":"17","tool_name":"read_file","params":{"name":"read_file","arguments":{"path":"/tmp/example.txt","token":"[REDACTED]"}},"client_id":"claude-desktop","server_id":"filesystem","era":"legacy","protocol_version":"2025-11-25","redacted":[{"p":"/params/arguments/token"}],"log":"audit.example/host1/fs","seq":1,"prev":"cfd3754ba4d833c96efb3137eaeb0cce4e5d84ffc24abce968e218068dcb987f","mac":"e2cfba5273f466f986d8a1a5a2043d3fb74790c5b977a3b3c224bb4492ae5272"}""",
    rb"""{"id":"01KSFJ34FV6W9K6ZD7VJ4Q8X4R","timestamp":"2026-05-25T12:34:56.123450Z","direction":"client_to_server","transport":"stdio","method":"tools/call","request_id":"17","tool_name":"read_file","params":{"name":"read_file","arguments":{"path":"/tmp/example.txt","token":"[REDACTED]"}},"result":{"content":[{"type":"text","text":"hello"}],"isError":false},"duration_ms":18,"client_id":"claude-desktop","server_id":"filesystem","outcome":"answered","era":"legacy","protocol_version":"2025-11-25","redacted":[{"p":"/params/arguments/token"}],"signature":"hmac-sha256:ab617ec715d4fefe8487060f8add93f940330bb529cd5adf99ec49baff3de9d9","of":1,"log":"audit.example/host1/fs","seq":2,"prev":"260728960f3890d1fce3a8db6f78a946ec20c6220f66c2031d39fdb78649ec90","mac":"5784f449c8035b05cf85382c1b75f86f8734adf92a0ab445b75f843f5af0923c"}""",
]
EXAMPLE_NOTE = (
    "audit.example/host1/fs\n"
    "3\n"
    "2KYRjA8nBpsPARlUCMKnJdZTpM2L8+FRURPxHDfWEnk=\n"
    "\n"
    "— audit.example/host1/fs "
    "mSmWgzR+p6HeE8JAE2Mm9LHB2Imd4h7q5QExDS8O7DLNeJdC+cxF30G4r1fJrDWu5xQH18jKfmyhG7pu+a/CDZP8qA8=\n"
)


@dataclass
class Archive:
    """A file that a forged rotation put away: `data` is uncompressed, `note` covers all to its end."""

    name: str
    start: int
    end: int
    data: bytes
    note: str


class Forge:
    """One log under construction; `data` is what the active JSONL file would hold, `archives` what lies beside it."""

    def __init__(self, secret: bytes | None = SECRET, origin: str = ORIGIN, key: LogKey = KEY) -> None:
        self.secret = derive(secret, origin) if secret else None
        self.key = key
        self.chain = Chain(origin, Mac(self.secret.mac) if self.secret else None)
        self.lines: list[bytes] = []
        self.archives: list[Archive] = []
        self.note: str | None = None
        self.second = 0

    @property
    def data(self) -> bytes:
        return b"".join(self.lines)

    def end(self, size: int) -> int:
        """Offset after the line with seq `size` - 1, its LF not counted."""
        return sum(map(len, self.lines[:size])) - 1

    def stamp(self) -> tuple[str, str]:
        self.second += 1
        minutes, seconds = divmod(self.second, 60)
        return f"01KSFJ{self.second:020d}", f"2026-05-25T12:{minutes:02d}:{seconds:02d}.000000Z"

    def typed(self, kind: str, of: int | None = None, **members: Any) -> int:
        id_, stamp = self.stamp()
        self.lines.append(self.chain.seal(encode_typed(kind, id_, stamp, members, of)))
        return self.chain.size - 1

    def open(self, after: str = "new", **members: Any) -> int:
        key_id = self.secret.key_id if self.secret else None
        given = {"v": 1, "software": "forge", "vkey": self.key.vkey, "key_id": key_id, "after": after}
        return self.typed("open", **(given | members))

    def close(self, of: int = 0, **members: Any) -> int:
        return self.typed("close", of=of, reason="eof", **members)

    def entry(self, type_: str = "", tool: str = "read_file", of: int | None = None, **members: Any) -> int:
        id_, stamp = self.stamp()
        entry = Entry(
            id=id_,
            timestamp=stamp,
            direction="client_to_server",
            transport="stdio",
            method="tools/call",
            type=type_,
            request_id=str(self.chain.size),
            tool_name=tool,
            params=b'{"name":"x","arguments":{"n":1.10}}',
            client_id="claude-desktop",
            server_id="filesystem",
            of=of,
        )
        if not type_:
            entry.outcome = "answered"
            entry.result = b'{"content":[],"isError":false}'
            entry.duration_ms = 18
        for name, value in members.items():
            setattr(entry, name, value)
        self.lines.append(self.chain.seal(encode(entry)))
        return self.chain.size - 1

    def call(self, tool: str = "read_file", **members: Any) -> int:
        """A request and its answer; returns the seq of the answer."""
        return self.entry(tool=tool, of=self.entry("request", tool=tool), **members)

    def sign(self) -> str:
        """Make the newest checkpoint over what there is."""
        self.note = signed_note(Checkpoint(self.chain.origin, self.chain.size, self.chain.tree.root()), self.key)
        return self.note

    def rotate(self, name: str = "audit.jsonl", **previous: Any) -> Archive:
        """Put the active file away as an archive of the log called `name`, and begin the next with its `segment`."""
        start = self.archives[-1].end if self.archives else 0
        archive = f"{name}.202606{len(self.archives) + 1:02d}T214605Z"
        self.archives.append(Archive(archive, start, self.chain.size, self.data, self.sign()))
        digest = hashlib.sha256(self.data).hexdigest()
        about = Previous(archive, start, len(self.data), digest)._replace(**previous)
        self.lines = []
        self.typed("segment", **segment_members(self.chain, self.key.vkey, about))
        return self.archives[-1]

    def prune(self, to: int, **members: Any) -> int:
        """Let all archives before `to` go, as JSONL says it; deleting them is the test's part."""
        gone = [
            {"name": a.name, "start": a.start, "end": a.end, "sha256": hashlib.sha256(a.data).hexdigest()}
            for a in self.archives
            if a.end <= to
        ]
        given: dict[str, Any] = {"from": 0, "to": to, "segments": gone, "rule": "max_files: 1"}
        return self.typed("prune", **(given | members))

    def write(self, path: Path, data: bytes | None = None) -> Path:
        """Write the log and what lies beside it."""
        path.write_bytes(self.data if data is None else data)
        for archive in self.archives:
            path.with_name(archive.name).write_bytes(archive.data)
            path.with_name(archive.name + ".checkpoint").write_text(archive.note)
        return self._beside(path)

    def write_sqlite(self, path: Path, first: int = 0, notes: Mapping[int, str] | None = None) -> Path:
        """Write a database with the rows from seq `first` on, and the notes of its table by size."""
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN")
            for statement in STATEMENTS:
                connection.execute(statement)
            rows = [(seq, line[:-1].decode()) for seq, line in enumerate(self.lines) if seq >= first]
            connection.executemany("INSERT INTO entries (seq, line) VALUES (?, ?)", rows)
            connection.executemany("INSERT INTO checkpoints (size, note) VALUES (?, ?)", (notes or {}).items())
            connection.execute("COMMIT")
        return self._beside(path)

    def _beside(self, path: Path) -> Path:
        Path(f"{path}.pub").write_text(self.key.vkey + "\n")
        if self.note is not None:
            Path(f"{path}.checkpoint").write_text(self.note)
        return path


def closed_log(secret: bytes | None = SECRET, calls: int = 2) -> Forge:
    """An orderly log: opened, some calls, closed, signed."""
    forge = Forge(secret)
    forge.open()
    for _ in range(calls):
        forge.call()
    forge.close()
    forge.sign()
    return forge


def running_log(secret: bytes | None = SECRET, signed_calls: int = 1, calls: int = 3) -> Forge:
    """A log whose run goes on: the checkpoint covers `signed_calls` of the `calls`."""
    forge = Forge(secret)
    forge.open()
    for number in range(calls):
        if number == signed_calls:
            forge.sign()
        forge.call()
    return forge


def rotated_log(secret: bytes | None = SECRET, rotations: int = 2, calls: int = 2) -> Forge:
    """An orderly log in several files: 1 + 2 `calls` lines in the first, as many in each, one more in the last."""
    forge = Forge(secret)
    forge.open()
    for _ in range(rotations):
        for _ in range(calls):
            forge.call()
        forge.rotate()
    for _ in range(calls):
        forge.call()
    forge.close()
    forge.sign()
    return forge


def scrub_environment(monkeypatch: Any) -> None:
    """Keep secrets of whoever runs the tests out of them."""
    for name in [name for name in os.environ if name.startswith("AUDIT_SECRET")]:
        monkeypatch.delenv(name)
