#!/usr/bin/env python3
"""Check a ledger of mcp-audit, or a proof of one of its entries, with this one file and nothing else of mcp-audit.

    python standalone_verify.py audit.jsonl --vkey VKEY|FILE [--secret-file FILE] [--against NOTE] [--json]
    python standalone_verify.py --proof FILE --vkey VKEY|FILE [--line FILE]

Promise: read it in one sitting, copy it anywhere, run it with any Python from 3.9 on. It is written from the format's
description and shares no code with the program that writes it, so an error would have to be made twice to go unseen.
It never writes. Without the package `cryptography` it checks Ed25519 itself. (Long because it is one file by purpose.)

The format in short; H is SHA-256, || joins bytes:
  line        one JSON object and LF. It ends in ,"log":"<origin>","seq":<n>,"prev":"<hex>","mac":"<hex>"}
  prev        H(0x00 || the line before, without its LF), zeros at seq 0. It is the RFC 6962 leaf hash of that line
  mac         HMAC-SHA256 over the line as if it had no `mac`; only in logs with a secret
  checkpoint  a signed note (C2SP tlog-checkpoint) of the RFC 6962 tree over the lines, in the file LOG.checkpoint
  recovery    vouches by count and hash for bytes that a crash tore. They are no leaves, and it may only cover
              bytes behind the checkpoint of its time: its `checkpoint` is no larger than the count of lines before it
  segment     first line of a file that continues another: the state of tree and runs so far, and the file before
  prune       announces that old lines are deleted by retention; without it their absence is a fault

Exit, the first that applies: 2 cannot look (usage, unreadable, nothing there); 1 tampered, or a proof is false;
3 cannot decide (checkpoint or key missing, newer format); 4 intact, but it ends uncleanly (a run was not closed and no
writer is alive, or bytes are torn behind the checkpoint); 0 intact.
A key beside the log proves nothing against whoever can write there: give the one you pinned elsewhere with --vkey.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import hmac
import io
import json
import os
import re
import sqlite3
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

__all__ = ["CannotLook", "check_proof", "ed25519_verify", "main", "verify"]

VERDICTS = {"INTACT": 0, "TAMPERED": 1, "UNREADABLE": 2, "UNKNOWN": 3, "UNCLEAN": 4}
ORIGIN, NUMBER, HEX = "[A-Za-z0-9._/-]{1,200}", "0|[1-9][0-9]{0,18}", "[0-9a-f]{64}"
TAIL = re.compile(f',"log":"({ORIGIN})","seq":({NUMBER}),"prev":"({HEX})"(?:,"mac":"({HEX})")?}}\\Z'.encode())
TAIL_BYTES = 450  # no tail is longer
OF = re.compile(f',"of":({NUMBER})\\Z'.encode())
TYPE = re.compile(rb'{"type":"([^"\\]*)"')
LONGEST = 1 << 30  # bytes of a line
LONGEST_LOG = 1 << 63
ARCHIVE = re.compile(r"\.[0-9]{8}T[0-9]{6}Z(\.[0-9]+)?(\.gz)?\Z")
# How the name of a log's other files goes on (`-20260611` is what logrotate's dateext writes), and of what is no part
# of it, whatever it holds: what the ledger keeps beside a log, and a file whose last bytes could not be written.
BESIDE = re.compile(r"\.|-[0-9]")
NO_PART = re.compile(r".*\.(checkpoint|index|key|live|lock|pub)\Z|\.failed-[0-9]{8}T[0-9]{6}Z", re.DOTALL)
PARSED = {"open", "close", "segment", "prune", "recovery", "gap"}  # of other lines only the tail is read


class CannotLook(Exception):
    """There is nothing to judge: no log, no access, or an argument that makes no sense (exit 2)."""


class Broken(Exception):
    """A line does not continue the chain; the text says why."""


# --- Ed25519 (RFC 8032), for when `cryptography` is not installed -----------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T: x = X/Z, y = Y/Z, x*y = T/Z
NEUTRAL: Point = (0, 1, 1, 0)


def _decode_point(encoded: bytes) -> Point | None:
    """RFC 8032, 5.1.3; None for what is not the one encoding of a point."""
    sign, y = divmod(int.from_bytes(encoded, "little"), 2**255)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * SQRT_M1 % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x % 2 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _add(p: Point, q: Point) -> Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _multiply(scalar: int, point: Point) -> Point:
    result = NEUTRAL
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _encode_point(point: Point) -> bytes:
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE: Point = _decode_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little")) or NEUTRAL


@lru_cache
def usable_key(public: bytes) -> bool:
    """Tell whether `public` encodes a point as RFC 8032 demands, not one of the eight whose signatures mean nothing."""
    point = _decode_point(public) if len(public) == 32 else None
    return point is not None and _encode_point(_multiply(8, point)) != _encode_point(NEUTRAL)


def _ed25519_pure(public: bytes, signature: bytes, message: bytes) -> bool:
    """RFC 8032, 5.1.7, without cofactor: S*B - k*A must be R, bit for bit; S must be below the group order."""
    point, s = _decode_point(public), int.from_bytes(signature[32:], "little")
    if point is None or s >= ORDER:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    negative = (P - point[0], point[1], point[2], P - point[3])
    return _encode_point(_add(_multiply(s, BASE), _multiply(k, negative))) == signature[:32]


def ed25519_verify(public: bytes, signature: bytes, message: bytes, pure: bool = False) -> bool:
    """Tell whether `signature` (64 bytes) is one of `message` by `public` (32 bytes)."""
    if len(signature) != 64 or not usable_key(public):  # checked here so that both implementations agree
        return False
    try:
        if pure:
            raise ImportError
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return _ed25519_pure(public, signature, message)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# --- the tree (RFC 6962, RFC 9162) ------------------------------------------------------------------------------------


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def leaf_hash(line: bytes) -> bytes:
    return sha256(b"\x00", line)


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01", left, right)


def root_of(frontier: Sequence[bytes]) -> bytes:
    """Return the tree hash over perfect subtrees, given largest first."""
    if not frontier:
        return sha256(b"")
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = node_hash(left, root)
    return root


def root_from_path(leaf: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes:
    """Return the root that an inclusion path leads to (RFC 9162, 2.1.3.2); ValueError if its length is wrong."""
    node, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return root


# --- keys and notes (C2SP signed-note, tlog-checkpoint) ---------------------------------------------------------------


def b64(text: str, size: int | None = None) -> bytes:
    """Decode canonical base64: what encodes to the same text again. Otherwise spare bits would escape every check."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    if base64.b64encode(data).decode() != text or size not in (None, len(data)):
        raise ValueError("not canonical base64 of the right size")
    return data


class Key(NamedTuple):
    """A verifier key: `text` is <origin>+<key ID, hex>+<base64 of 0x01 || public key>."""

    text: str
    origin: str
    id: bytes
    public: bytes


def read_key(text: str) -> Key:
    """Parse a verifier key; ValueError if it is none."""
    origin, key_id, encoded = text.strip().split("+", 2)
    data = b64(encoded, 33)
    key = Key(text.strip(), origin, bytes.fromhex(key_id), data[1:])
    expected = sha256(origin.encode(), b"\n", data)[:4]
    if not re.fullmatch(ORIGIN, origin) or data[0] != 1 or key_id != expected.hex() or not usable_key(key.public):
        raise ValueError("not an Ed25519 verifier key")
    return key


class Note(NamedTuple):
    """A checkpoint: the root over the first `size` lines of `origin`; `signatures` are (name, key ID, signature)."""

    origin: str
    size: int
    root: bytes
    body: bytes
    signatures: list[tuple[str, bytes, bytes]]

    def signed_by(self, key: Key) -> bool:
        """Other names and key IDs are ignored; every signature under this one must hold, and there must be one."""
        ours = [signature for name, id_, signature in self.signatures if (name, id_) == (key.origin, key.id)]
        return bool(ours) and all(ed25519_verify(key.public, signature, self.body) for signature in ours)


def read_note(data: bytes) -> Note:
    """Parse a note; ValueError if it is none."""
    body, blank, signatures = data.decode("utf-8").rpartition("\n\n")
    match = re.fullmatch(rf"({ORIGIN})\n({NUMBER})\n([A-Za-z0-9+/=]+)(?:\n[^\n]+)*", body)
    if not blank or match is None or not signatures.endswith("\n"):
        raise ValueError("not a checkpoint")
    signed = []
    lines = signatures[:-1].split("\n")
    if len(lines) > 100 or re.search("[\x00-\x09\x0b-\x1f]", body + signatures):
        raise ValueError("too many signatures, or control characters")
    for line in lines:
        parts = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        if parts is None:
            raise ValueError("not a signature line")
        raw = b64(parts[2])
        if len(raw) < 5:
            raise ValueError("no signature")
        signed.append((parts[1], raw[:4], raw[4:]))
    return Note(match[1], int(match[2]), b64(match[3], 32), f"{body}\n".encode(), signed)


# --- the chain --------------------------------------------------------------------------------------------------------


def members_of(line: bytes) -> dict[str, Any]:
    """Parse a line; Broken if it is no JSON object."""
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or not isinstance(members.get("key_id", ""), str):
        raise Broken("is damaged")
    return members


def seqs(value: Any) -> list[int]:
    """Read a list of places in the log; Broken if it is none."""
    if not isinstance(value, list) or not all(type(seq) is int for seq in value):
        raise Broken("is damaged")
    return value


class State(NamedTuple):
    """What a `segment` or `prune` line says about the log right before the line with seq `start`."""

    start: int
    frontier: list[bytes]  # perfect subtrees, largest first
    pending: set[int]  # requests without an answer so far
    runs: set[int]  # opens without a close so far
    key_id: str  # of the MACs in force, empty without


def read_state(members: dict[str, Any], start: str) -> State:
    """Read the members of a `segment` (`start`) or a `prune` (`to`); Broken if they make no sense."""
    try:
        frontier = [b64(node, 32) for node in members["frontier"]]
        pending, runs = seqs(members["pending"]), seqs(members["runs"])
        state = State(members[start], frontier, set(pending), set(runs), members.get("key_id", ""))
        if sorted(state.pending) != pending or sorted(state.runs) != runs or not isinstance(members["vkey"], str):
            raise ValueError("not in order")
        if type(state.start) is int and state.start > 0 and len(frontier) == bin(state.start).count("1"):
            return state
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise Broken("does not say what a segment or prune line says")


class Chain:
    """The lines so far: each must name the log, its own place and the hash of the line before, and carry its MAC."""

    def __init__(self, secrets: Iterable[bytes], watched: Iterable[int]) -> None:
        self.secrets, self.watched = list(secrets), set(watched)
        self.roots: dict[int, bytes] = {0: sha256()}  # by size, for the watched sizes
        self.origin, self.size, self.prev = "", 0, "0" * 64
        self.frontier: list[bytes] = []
        self.pending: set[int] = set()
        self.runs: set[int] = set()
        self.key_id = ""
        self.keys: dict[str, bytes] = {}  # of the MACs, by key_id
        self.prunes: list[tuple[int, int, int]] = []  # seq, from, to
        self.gaps: list[tuple[int, int, str]] = []  # from, to (exclusive), name of the last file in it
        self.with_mac = self.without_mac = self.checked_mac = 0
        self.newer_format = False
        self.notices: list[str] = []

    def begin(self, line: bytes, state: State | None = None) -> None:
        """Learn origin and keys from the first line behind a gap; a `segment`, or `state`, says what came before it."""
        tail = TAIL.search(line, max(0, len(line) - TAIL_BYTES))
        if tail is None:
            raise Broken("is damaged")
        self.origin = self.origin or tail[1].decode()
        for secret in self.secrets:
            key = hmac.digest(secret, b"mcp-audit/v1 mac\x00" + tail[1], "sha256")
            self.keys[sha256(b"mcp-audit/v1 kid\x00", key).hex()[:8]] = key
        name: Any = None
        if line.startswith(b'{"type":"segment"'):
            members = members_of(line)
            state, previous = read_state(members, "start"), members.get("previous")
            name = previous.get("name") if isinstance(previous, dict) else None
        if state is not None:  # what is claimed here must lead to the signed root
            self.gaps.append((self.size, state.start, name if isinstance(name, str) else ""))
            self.prev = tail[3].decode()
            self.size, self.frontier, self.pending, self.runs, self.key_id = state
            self.watch()
            if self.size % 2 and self.frontier[-1].hex() != self.prev:  # that subtree is the line before itself
                raise Broken("has a frontier that does not fit its prev")

    def check(self, line: bytes) -> tuple[str, dict[str, Any], int]:
        """Return type, members (of rare lines) and `of` (-1 without) of the next line; Broken if it is not that."""
        tail = TAIL.search(line, max(0, len(line) - TAIL_BYTES))
        type_ = TYPE.match(line)
        if tail is None or not line.startswith((b'{"id":"', b'{"type":"')):
            raise Broken("is damaged")
        if tail[1].decode() != self.origin:
            raise Broken(f"is missing: a line of another log stands here ({tail[1].decode()})")
        if int(tail[2]) != self.size:
            raise Broken(f"is missing: seq {int(tail[2])} stands here")
        if tail[3].decode() != self.prev:
            raise Broken(f"or seq {self.size - 1} was changed (prev does not match)")
        kind = type_[1].decode("utf-8", "replace") if type_ else ""
        members = members_of(line) if kind in PARSED else {}
        if kind in ("open", "close"):
            seqs(members.setdefault("unclosed", []))
        if self.size == 0 and kind != "open":
            raise Broken("is no opening line")
        self.check_mac(line, tail, members.get("key_id", "") if kind == "open" else self.key_id)
        of = OF.search(line, max(0, tail.start() - 30), tail.start())
        return kind, members, int(of[1]) if of else -1

    def check_mac(self, line: bytes, tail: re.Match[bytes], key_id: str) -> None:
        """A log may gain MACs and change their key at an `open`, but never lose them."""
        if bool(key_id or self.key_id) != bool(tail[4]) or (self.key_id and not key_id):
            raise Broken("was changed (it has no mac, or one that no key_id announces)")
        key = self.keys.get(key_id)
        if key and hmac.digest(key, line[: tail.start(4) - 8] + b"}", "sha256").hex().encode() != tail[4]:
            raise Broken("was changed (mac does not match)")

    def append(self, line: bytes, kind: str, members: dict[str, Any], of: int) -> None:
        """Add a checked line to the account of requests and runs, and to the tree."""
        self.account(kind, members, of)
        self.with_mac += bool(self.key_id)
        self.without_mac += not self.key_id
        self.checked_mac += self.key_id in self.keys
        leaf = leaf_hash(line)
        self.prev, place, self.size = leaf.hex(), self.size, self.size + 1
        while place & 1:
            leaf, place = node_hash(self.frontier.pop(), leaf), place >> 1
        self.frontier.append(leaf)
        self.watch()

    def watch(self) -> None:
        if self.size in self.watched:
            self.roots[self.size] = root_of(self.frontier)

    def account(self, kind: str, members: dict[str, Any], of: int) -> None:
        if kind in ("", "orphan"):
            self.pending.discard(of)
        elif kind == "request":
            self.pending.add(self.size)
        elif kind == "open":
            self.key_id = members.get("key_id", "")
            self.newer_format |= members.get("v") != 1
            if of not in self.runs:  # one that was `replaced` goes on under its first open
                self.runs.add(self.size)
            self.runs.difference_update(members["unclosed"])
        elif kind == "close":
            self.runs.difference_update([of], members["unclosed"])
        elif kind == "gap":
            self.notices.append(f"seq {self.size}: {members.get('lost', 'some')} entries are known to be missing")
        elif kind == "prune":
            from_, to = members.get("from"), members.get("to")
            if type(from_) is type(to) is int and 0 <= from_ < to <= self.size:
                self.prunes.append((self.size, from_, to))
        elif kind == "recovery":
            whole = members.get("salvageable")
            edit = f"; {whole} WHOLE LINES WITH A VALID MAC WERE AMONG THEM: edited rather than torn?" if whole else ""
            self.notices.append(f"seq {self.size}: recovered from {members.get('torn_bytes')} torn bytes{edit}")


# --- files of lines ---------------------------------------------------------------------------------------------------


class Torn:
    """Bytes that are no line, since the last good one, and what is wrong with the first of them."""

    def __init__(self) -> None:
        self.bytes, self.hash, self.reason = 0, hashlib.sha256(), ""

    def add(self, raw: bytes, reason: str) -> None:
        self.bytes += len(raw)
        self.hash.update(raw)
        self.reason = self.reason or reason

    def covered_by(self, kind: str, members: dict[str, Any], size: int) -> bool:
        """Tell whether the good line with seq `size` after them may and does vouch for them."""
        if kind != "recovery":
            return not self.bytes
        same = (members.get("torn_bytes"), members.get("torn_sha256")) == (self.bytes, self.hash.hexdigest())
        checkpoint = members.get("checkpoint")
        return same and type(checkpoint) is int and checkpoint <= size


def is_plain(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def open_regular(path: str, links: int = 0) -> io.BufferedReader:
    """Open a file that can be read to its end: whoever could write there may have put a FIFO or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | links)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return open(descriptor, "rb")


class LogFile:
    """One file, plain or gzipped; what it is called does not matter, only what it holds. Its first line says what."""

    def __init__(self, path: str) -> None:
        self.path, self.name = path, os.path.basename(path)
        self.bytes, self.sha256 = 0, ""
        with self.open() as file:
            self.packed = isinstance(file, gzip.GzipFile)
            self.first_line = file.readline(1 << 26).rstrip(b"\n")
        self.seq, self.previous = -1, None
        tail = TAIL.search(self.first_line)
        self.origin = tail[1].decode() if tail else ""
        if tail and self.first_line.startswith((b'{"type":"open",', b'{"type":"segment",')):
            self.seq = int(tail[2])
            with suppress(Broken):
                self.previous = members_of(self.first_line).get("previous")

    def open(self) -> BinaryIO:
        file = open_regular(self.path)
        packed = file.peek(2)[:2] == b"\x1f\x8b"
        if not packed:
            return file
        unpacked = gzip.GzipFile(fileobj=file)
        unpacked.myfileobj = file  # type: ignore[assignment]  # which it then closes as well
        return unpacked  # type: ignore[return-value]

    def lines(self) -> Iterator[bytes]:
        """Yield the lines with their LF; then `bytes` and `sha256` are those of the whole uncompressed file."""
        total, digest = 0, hashlib.sha256()
        with self.open() as file:
            for line in iter(lambda: file.readline(LONGEST), b""):  # splits on LF only
                total += len(line)
                digest.update(line)
                yield line
        self.bytes, self.sha256 = total, digest.hexdigest()

    def named(self) -> tuple[str, int]:
        """Return name and start of the file before this one, as its segment line says."""
        about = self.previous if isinstance(self.previous, dict) else {}
        name, start = about.get("name"), about.get("start")
        return (os.path.basename(name), start) if isinstance(name, str) and isinstance(start, int) else ("", -1)

    def rank(self, wanted: str) -> tuple[bool, bool, bool, str]:
        """Return what puts copies in order when the one called `wanted` is looked for."""
        return re.sub(r"\.gz\Z", "", self.name) != wanted, not ARCHIVE.search(self.name), self.packed, self.name

    def is_named_by(self, previous: Any) -> bool:
        """Tell whether a segment line names this file, which was read, by start, size and hash as the one before it."""
        named = previous if isinstance(previous, dict) else {}
        return (self.seq, self.bytes, self.sha256) == (named.get("start"), named.get("bytes"), named.get("sha256"))


def check_file(chain: Chain, file: LogFile, before: LogFile | None) -> Torn:
    """Follow the lines of one file; return the bytes torn at its end. Broken: a fault that no later line can heal."""
    torn, inside = Torn(), False
    for number, raw in enumerate(file.lines()):
        partial, inside = inside, len(raw) == LONGEST and not raw.endswith(b"\n")
        line = raw[:-1] if raw.endswith(b"\n") else raw  # the end of the file counts as the LF of a whole last line
        at = f"line {number + 1}: seq {chain.size}"
        try:
            if partial or inside:
                raise Broken("is longer than any line")
            if number == 0 and (before is None or file.seq > chain.size):
                if before is not None and file.named()[1] == before.seq:
                    raise Broken(f"is missing: {before.name} was cut")
                chain.begin(line)
                before = None
            kind, members, of = chain.check(line)
        except Broken as fault:
            if number == 0:  # a file is renamed into place with its first line: no crash leaves one without
                raise Broken(f"{at} {fault}") from None
            torn.add(raw, f"{at} {fault}")
            continue
        if not torn.covered_by(kind, members, chain.size):
            raise Broken(torn.reason or f"{at} is a recovery of bytes that do not stand before it")
        torn = Torn()
        if (kind == "segment") != (number == 0 and chain.size > 0):
            raise Broken(f"{at} is {'a' if kind == 'segment' else 'no'} segment line in the wrong place")
        if before is not None and number == 0:
            expected = State(chain.size, chain.frontier, chain.pending, chain.runs, chain.key_id)
            if not before.is_named_by(members.get("previous")) or read_state(members, "start") != expected:
                raise Broken(f"{at} does not continue {before.name}: one of them was changed")
        chain.append(line, kind, members, of)
    return torn


def beside(path: str) -> list[str]:
    """Return the regular files whose names continue that of the log, archives among them."""
    folder, name = os.path.split(path)
    names = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
    paths = [os.path.join(folder, o) for o in names if o.startswith(name) and BESIDE.match(o, len(name))]
    return [other for other in paths if is_plain(other)]


def log_of_archive(path: str) -> str:
    """Return the path of the log that an archive belongs to, empty if it is none: a log has its key beside it."""
    match = ARCHIVE.search(path)
    if os.path.lexists(path + ".pub") or match is not None:
        return "" if os.path.lexists(path + ".pub") or match is None else path[: match.start()]
    ends = range(len(path) - 1, len(path) - len(os.path.basename(path)), -1)
    return next((path[:end] for end in ends if BESIDE.match(path, end) and os.path.lexists(path[:end] + ".pub")), "")


def others_of(path: str) -> list[LogFile]:
    """Return the files beside a log that begin like a part of one, in the order of their lines."""
    others = []
    for other in beside(path):
        with suppress(OSError, EOFError, zlib.error):  # if it is part of the log, it will be missed
            others += [] if NO_PART.match(other, len(path)) else [LogFile(other)]
    return sorted((file for file in others if file.seq >= 0), key=lambda file: (file.seq, file.name))


def files_of(active: LogFile | None, others: list[LogFile], origin: str) -> list[LogFile]:
    """Return the files of the log `origin`, oldest first, one for each `seq` that they begin with.

    Of copies the one counts that whoever reads the log is shown: called as the next file says, then like an archive,
    then the uncompressed one. An honest copy elsewhere excuses no change.
    """
    files = [active] if active else []
    end = active.seq if active and active.seq >= 0 and active.origin == origin else LONGEST_LOG
    for seq in sorted({file.seq for file in others if file.origin == origin and file.seq < end}, reverse=True):
        alike = [file for file in others if (file.seq, file.origin) == (seq, origin)]
        named = files[0].named() if files else ("", -1)
        wanted = named[0] if named[1] == seq else ""
        files.insert(0, min(alike, key=lambda file: file.rank(wanted)))
    return files


# --- SQLite -----------------------------------------------------------------------------------------------------------

COMPUTED = (
    "type TEXT ->>, id TEXT ->>, timestamp TEXT ->>, direction TEXT ->>, transport TEXT ->>, method TEXT ->>, "
    "request_id TEXT ->>, tool_name TEXT ->>, params TEXT ->, result TEXT ->, error TEXT ->, duration_ms INTEGER ->>, "
    "client_id TEXT ->>, server_id TEXT ->>, outcome TEXT ->>, of INTEGER ->>, signature TEXT ->>"
)
SEED_VIEW = (
    "id, timestamp, direction, transport, method, request_id, tool_name, params, result, error, "
    "duration_ms, client_id, server_id, signature"
)


def expected_schema() -> dict[str, str]:
    """Return the statements that make a ledger. Any other object or text could make queries lie."""
    columns = ["seq INTEGER PRIMARY KEY", "line TEXT NOT NULL"]
    for name, type_, arrow in (column.split() for column in COMPUTED.split(", ")):
        columns.append(f"{name} {type_} GENERATED ALWAYS AS (line {arrow} '$.{name}') VIRTUAL")
    indexed = ("timestamp", "id", "method", "tool_name", "client_id", "outcome")
    return {
        "entries": f"CREATE TABLE entries ({', '.join(columns)})",
        **{f"entries_{name}": f"CREATE INDEX entries_{name} ON entries({name})" for name in indexed},
        "entries_of": "CREATE INDEX entries_of ON entries(of) WHERE of IS NOT NULL",
        "checkpoints": "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
        "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "audit_entries": f"CREATE VIEW audit_entries AS SELECT {SEED_VIEW} FROM entries WHERE type IS NULL",  # noqa: S608
    }


def open_database(path: str) -> sqlite3.Connection:
    for other in (path + "-journal", path + "-wal", path + "-shm"):
        if os.path.lexists(other) and not is_plain(other):
            raise CannotLook(f"{other} is no regular file")
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    at_rest = not os.path.exists(path + "-wal") or os.path.getsize(path + "-wal") == 0
    for options in ("", "&immutable=1") if at_rest else ("",):  # a folder that cannot be written needs the second
        connection = sqlite3.connect(uri + options, uri=True, timeout=5, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.text_factory = bytes
            return connection
        except sqlite3.DatabaseError as error:
            connection.close()
            if not isinstance(error, sqlite3.OperationalError):
                raise
            problem = str(error)
        if "unable to open" not in problem:
            break
    raise CannotLook(f"{path}: {problem}; copy the database with its -wal file to a folder that can be written")


def check_schema(database: sqlite3.Connection) -> bool:
    """Compare the schema before anything else runs in it; False if there are no tables at all.

    As a list: a trigger may have the name of a table or a view, and would hide behind it in a mapping.
    """
    rows = database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
    found = sorted(
        (stored(name).decode("utf-8", "replace"), stored(sql).decode("utf-8", "replace")) for name, sql in rows
    )
    if found and found != sorted(expected_schema().items()):
        wrong = sorted({name for name, _ in set(found) ^ set(expected_schema().items())} or {"a name twice"})
        raise Broken(f"its schema was changed ({', '.join(wrong)})")
    return bool(found)


def stored(value: Any) -> bytes:
    """Return the bytes of what should be text; whatever else a forger stored there is not what anything expects."""
    return value if isinstance(value, bytes) else b""


def check_rows(chain: Chain, database: sqlite3.Connection) -> None:
    """Follow the rows as the lines they hold, then let SQLite check its indexes against the rows."""
    rows = database.execute("SELECT seq, line, typeof(line) FROM entries ORDER BY seq")
    for number, (seq, line, type_) in enumerate(rows):
        try:
            if type_ != b"text":
                raise Broken("was changed (it is no text)")
            if number == 0:
                chain.begin(line, state_at(database, seq) if seq else None)
            if seq != chain.size:
                raise Broken(f"is missing: row {seq} stands here")
            kind, members, of = chain.check(line)
            if kind == "segment" or not Torn().covered_by(kind, members, seq):
                raise Broken("is no line of a database")
        except Broken as fault:
            raise Broken(f"row {number + 1}: seq {chain.size} {fault}") from None
        chain.append(line, kind, members, of)
    problems = [row[0].decode("utf-8", "replace") for row in database.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise Broken(f"SQLite's integrity check fails: {'; '.join(problems)}")


def state_at(database: sqlite3.Connection, first: int) -> State:
    """Return the state that the `prune` line recorded which let everything before `first` go."""
    query = "SELECT line FROM entries WHERE typeof(line) = 'text' AND substr(line, 1, 15) = ? ORDER BY seq DESC"
    for (line,) in database.execute(query, ('{"type":"prune"',)):
        with suppress(Broken):
            state = read_state(members_of(line), "to")
            if state.start == first:
                return state
    raise Broken(f"is missing: row {first} stands here, and no prune line explains it")


# --- the verdict ------------------------------------------------------------------------------------------------------


def writer_alive(path: str) -> bool:
    """Tell whether a writer holds the presence lock: tried once, let go at once."""
    if sys.platform == "win32":  # it has no such locks
        return False
    import fcntl

    # A file system that cannot lock says nothing about writers; closing the file unlocks it.
    with suppress(OSError), open_regular(path, os.O_NOFOLLOW) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def small_file(path: str) -> bytes | None:
    """Return what a file beside a log holds, None if there is none; a link is not followed."""
    try:
        with open_regular(path, getattr(os, "O_NOFOLLOW", 0)) as file:
            return file.read(1 << 20)
    except FileNotFoundError:
        return None


class Case:
    """What speaks against one log, by weight; the first reason of the heaviest kind makes the verdict."""

    def __init__(self, path: str, vkeys: Iterable[str], secrets: Iterable[bytes], against: bytes | None) -> None:
        self.path, self.name = path, os.path.basename(path)
        self.faults: list[str] = []  # TAMPERED
        self.doubts: list[str] = []  # UNKNOWN
        self.loose_ends: list[str] = []  # UNCLEAN
        self.notices: list[str] = []
        self.files: list[dict[str, Any]] = []
        self.checked: list[str] = []
        self.key: Key | None = None
        self.alone = log_of_archive(path)  # of one archive by itself: the log goes on elsewhere
        self.alive = not self.alone and writer_alive(path + ".live")
        self.pinned = [
            self.given(read_key, text, "--vkey is no verifier key (<origin>+<ID>+<base64>)") for text in vkeys
        ]
        self.against = self.given(read_note, against, "--against is no note of a log") if against is not None else None
        self.pub = self.key_beside()
        sidecar = small_file(re.sub(r"\.gz\Z", "", path) + ".checkpoint")  # before the log: it can only be longer then
        self.has_sidecar = sidecar is not None
        self.note = self.note_in(sidecar, "the checkpoint")
        self.other_notes: dict[str, Note] = {}  # of archives, also of pruned ones, and those in a database
        for other in beside(path):
            name, suffix = os.path.splitext(other)
            if suffix == ".checkpoint" and ARCHIVE.fullmatch(name[len(path) :]):
                self.keep_note(os.path.basename(other), small_file(other))
        notes = [self.note, self.against, *self.other_notes.values()]
        self.chain = Chain(secrets, [note.size for note in notes if note])

    # what was given, and what lies beside the log

    def given(self, read: Any, value: Any, problem: str) -> Any:
        try:
            return read(value)
        except ValueError as error:
            raise CannotLook(problem) from error

    def key_beside(self) -> Key | None:
        data = small_file((self.alone or self.path) + ".pub")
        if self.alone and not data:  # an archive by itself names the key in its first line
            with suppress(OSError, EOFError, zlib.error, Broken):
                data = str(members_of(LogFile(self.path).first_line).get("vkey")).encode("utf-8", "replace")
        try:
            return None if data is None else read_key(data.decode("utf-8"))
        except ValueError:
            self.notices.append("the .pub beside the log cannot be read: it counts as none")
            return None

    def note_in(self, data: bytes | None, name: str) -> Note | None:
        try:
            return None if data is None else read_note(data)
        except ValueError:
            self.faults.append(f"{name} is damaged")
            return None

    def keep_note(self, name: str, data: bytes | None) -> None:
        note = self.note_in(data, name)
        if note is not None:
            self.other_notes[name] = note

    # reading

    def read(self) -> None:
        """Read the log, whatever it is, and judge it."""
        header = b""
        if os.path.exists(self.path):
            with open_regular(self.path) as file:
                header = file.read(16)
        if header == b"SQLite format 3\x00":
            problem = self.read_database()
        else:
            problem = self.read_files(LogFile(self.path) if header else None)
        if header and not self.is_named():
            self.faults.clear()  # nothing says whose log this should be
            self.doubts.append("its first line names no log: no ledger, or one of the Go program (verify --legacy)")
        elif self.chain.size:
            self.judge()
        elif problem:
            self.judge_nothing(problem)

    def read_database(self) -> str:
        reason = ""
        try:
            with closing(open_database(self.path)) as database:
                if not check_schema(database):
                    return "the database has no tables"
                first = database.execute("SELECT line, typeof(line) FROM entries ORDER BY seq LIMIT 1").fetchone()
                tail = TAIL.search(first[0]) if first and first[1] == b"text" else None
                self.chain.origin = tail[1].decode() if tail else ""
                for size, note in database.execute("SELECT size, note FROM checkpoints"):
                    self.keep_note(f"the stored checkpoint {size}", stored(note))
                self.chain.watched.update(note.size for note in self.other_notes.values())
                check_rows(self.chain, database)
                self.check_gaps()
        except Broken as fault:
            reason = str(fault)
        except sqlite3.DatabaseError as error:
            if re.search("locked|busy|unable to open|disk I/O", str(error)):
                raise CannotLook(f"{self.path}: {error}; try again") from error
            reason = f"the database is damaged: {error}"
        self.add_file(self.name, self.chain.gaps[0][1] if self.chain.gaps else 0, reason)
        return "" if reason else "the log is empty"

    def read_files(self, active: LogFile | None) -> str:
        others = [] if self.alone and active else others_of(self.path)
        claimed = active.origin if active else ""
        claimed = claimed or (self.note.origin if self.note else others[-1].origin if others and not active else "")
        files = files_of(active, others, self.origin_of(claimed))
        if not files:
            return "the log is missing"
        for file in files[:-1] if active else files:  # one that was renamed may have its note beside it
            note_path = re.sub(r"\.gz\Z", "", file.path) + ".checkpoint"
            if os.path.basename(note_path) not in self.other_notes and is_plain(note_path):
                self.keep_note(os.path.basename(note_path), small_file(note_path))
        self.chain.watched.update(note.size for note in self.other_notes.values())
        if active is None:
            self.loose_ends.append("a rotation was interrupted: there is no active file")
        for before, file in zip([None, *files[:-1]], files):  # noqa: B905  strict is new in 3.10
            if not self.read_file(file, before, last=file is files[-1]):
                break
        else:
            self.check_gaps()
            return ""
        for file in files if self.is_named() else ():  # what cannot be read weighs more than what was changed
            for _ in file.lines():
                pass
        return ""

    def origin_of(self, claimed: str) -> str:
        """Return whose log this should be: a single pinned key says so, then the one beside the log, then the log."""
        if self.pinned and (len(self.pinned) == 1 or any(key.origin == claimed for key in self.pinned)):
            return self.pinned[0].origin if len(self.pinned) == 1 else claimed
        return self.pub.origin if self.pub else claimed

    def is_named(self) -> bool:
        """Tell whether anything says whose log this should be."""
        return bool(self.note or self.pub or self.pinned or self.chain.origin)

    def read_file(self, file: LogFile, before: LogFile | None, last: bool) -> bool:
        """Check one file and tell whether it makes sense to go on."""
        chain, reason = self.chain, ""
        try:
            torn = check_file(chain, file, before)
            if torn.bytes and last and not (self.note and chain.size < self.note.size):
                self.loose_ends.append(f"{torn.bytes} torn bytes past the checkpoint ({torn.reason})")
            elif torn.bytes:
                reason = torn.reason
        except Broken as fault:
            reason = str(fault)
        self.add_file(file.name, max(file.seq, 0), reason)
        if not last:
            name = re.sub(r"\.gz\Z", "", file.name) + ".checkpoint"
            note = self.other_notes.get(name)
            if note is None or note.size != chain.size:
                self.notices.append(f"{name} is not there or not that of the archive's end; the newest note covers it")
        return not reason

    def add_file(self, name: str, first: int, reason: str) -> None:
        last = self.chain.size - 1
        self.files.append({"name": name, "status": "FAIL" if reason else "ok", "first": first, "last": last})
        if reason:
            self.faults.insert(0, f"{name}: {reason}")

    def check_gaps(self) -> None:
        """What is missing must be announced by a `prune` line that was signed before it went."""
        notes = [self.note, *self.other_notes.values()] if self.note else []  # without the newest nobody can tell
        covered = max((note.size for note in notes if note), default=self.chain.size)
        allowed = [(from_, to) for seq, from_, to in self.chain.prunes if seq < covered]
        for first, end, name in self.chain.gaps:
            if self.alone:
                self.notices.append(f"seq {first} to {end - 1} are in other files and were not checked")
            elif not any(from_ < end <= to for from_, to in allowed):
                missing = (
                    f"seq {first} to {end - 1} are missing ({name})"
                    if name
                    else f"seq {first} to {end - 1} are missing"
                )
                self.faults.append(f"{missing}, and no signed prune line says so")

    # judging

    def judge_nothing(self, reason: str) -> None:
        """There is no line: the log was never finished, or it is gone."""
        notes = [note for note in [self.note, *self.other_notes.values()] if note]
        if not (notes or self.faults or self.has_sidecar or os.path.exists(self.path + ".pub")) and "missing" in reason:
            raise CannotLook(f"{self.path}: there is no log")
        self.choose_key(notes[0].origin if notes else "")
        if self.key is not None and not all(note.signed_by(self.key) for note in notes):
            self.faults.append("a checkpoint does not verify under the log's key")
        elif any(note.size for note in notes):
            self.faults.append(f"{reason} although a checkpoint covers {max(note.size for note in notes)} lines")
        elif self.note is not None:
            self.loose_ends.append("its creation was interrupted")
        elif not self.has_sidecar:
            self.doubts.append(f"{reason}, and so is its checkpoint")

    def judge(self) -> None:
        """Compare what was read with what was signed."""
        chain, sound = self.chain, not any(file["status"] == "FAIL" for file in self.files)
        self.checked += ["chain"] if sound else []
        self.choose_key(chain.origin)
        if self.note is not None:
            self.judge_note(self.note)
        elif not self.has_sidecar:
            self.doubts.append("the checkpoint beside the log is missing")
        for name, note in self.other_notes.items():
            if name.endswith(".checkpoint") and self.note is not None and note.size > self.note.size:
                self.faults.append(f"the checkpoint beside the log is older than {name}: it was rolled back")
            ours = note.origin == chain.origin and (self.key is None or note.signed_by(self.key))
            if not ours or note.size > chain.size or chain.roots.get(note.size, note.root) != note.root:
                self.faults.append(f"{name} is no checkpoint of this log")
        if self.against is not None:
            self.judge_against(self.against)
        if chain.newer_format:
            self.doubts.append("its format is newer than this checker")
        if chain.runs and not self.alone and not self.alive:
            self.loose_ends.append("a run was not closed and no writer is alive")
        elif self.alone and self.note and chain.size > self.note.size:
            self.faults.append("the archive's checkpoint does not cover it to its end")
        elif chain.size > (self.note.size if self.note else 0) and not self.alive:
            self.loose_ends.append("the last lines have no checkpoint and no writer is alive")
        self.tell()

    def choose_key(self, origin: str) -> None:
        keys = self.pinned or ([self.pub] if self.pub else [])
        self.key = next((key for key in keys if key.origin == origin), None)
        if self.key is None and keys and origin:
            self.faults.append(f"none of the {'pinned keys' if self.pinned else 'keys'} belongs to this log ({origin})")
        elif self.key is None:
            self.doubts.append("no verifier key is at hand: give the pinned one with --vkey")

    def judge_note(self, note: Note) -> None:
        chain = self.chain
        if note.origin != chain.origin or (self.key is not None and not note.signed_by(self.key)):
            self.faults.append("the checkpoint is not one of this log, signed by its key")
        elif self.key is not None:
            self.checked.append("note")
        if chain.size < note.size:
            gone = f"seq {chain.size} to {note.size - 1}, which the checkpoint covers, are missing"
            self.faults.append(f"the log ends after seq {chain.size - 1}: {gone}")
        elif note.size not in chain.roots:
            self.faults.append("the lines up to the end of the checkpoint are gone, but it should be newer than that")
        elif chain.roots[note.size] != note.root:
            self.faults.append(f"the root over seq 0 to {note.size - 1} is not the signed one")
        else:
            self.checked.append("tree")

    def judge_against(self, kept: Note) -> None:
        chain = self.chain
        if kept.origin != chain.origin or (self.key is not None and not kept.signed_by(self.key)):
            self.faults.append("--against is no note of this log, signed by its key")
        elif kept.size > chain.size and not self.alone:
            self.faults.append(f"it has {chain.size} lines, the kept note covers {kept.size}: rolled back or cut")
        elif kept.size not in chain.roots:
            self.doubts.append(f"the {kept.size} lines of the kept note are not here to compare")
        elif chain.roots[kept.size] != kept.root:
            self.faults.append(f"the first {kept.size} lines are not those of the kept note: history was rewritten")
        else:
            self.checked.append("against")

    def tell(self) -> None:
        chain, unchecked = self.chain, self.chain.with_mac - self.chain.checked_mac
        if unchecked:
            self.notices.append(f"the MACs of {unchecked} lines were not checked: no secret at hand fits")
        elif chain.with_mac:
            self.checked.append("mac")
        if chain.without_mac:
            self.notices.append(f"{chain.without_mac} lines carry no MAC")
        if chain.pending:
            self.notices.append(f"{len(chain.pending)} requests are open: nobody answered them, and nothing says why")

    def report(self) -> dict[str, Any]:
        """Return the verdict with what it rests on."""
        by_weight = {"TAMPERED": self.faults, "UNKNOWN": self.doubts, "UNCLEAN": self.loose_ends}
        verdict = next((name for name, reasons in by_weight.items() if reasons), "INTACT")
        return {
            "verdict": verdict,
            "exit": VERDICTS[verdict],
            "log": self.chain.origin or (self.note.origin if self.note else ""),
            "path": self.path,
            "reason": by_weight[verdict][0] if verdict != "INTACT" else "",
            "size": self.chain.size,
            "root": base64.b64encode(root_of(self.chain.frontier)).decode(),
            "signed": self.note.size if self.note else None,
            "key": self.key.text if self.key else None,
            "pinned": bool(self.key and self.pinned),
            "checked": self.checked,
            "files": self.files,
            "notices": self.chain.notices + self.notices,
        }


def snapshot(path: str) -> list[Any]:
    """Return what changes when a log is written or rotated while it is being read."""
    paths = [path, path + "-wal", *beside(path)]
    found = [(other, os.stat(other)) for other in paths if os.path.exists(other)]
    return [(other, stat.st_ino, stat.st_size) for other, stat in found]


def verify(
    path: str, vkeys: Iterable[str] = (), secrets: Iterable[bytes] = (), against: bytes | None = None
) -> dict[str, Any]:
    """Check one log and return the report: `verdict`, `exit`, `reason` and what they rest on.

    Args:
        path: a log, JSONL or SQLite, with its archives beside it; or one archive on its own.
        vkeys: pinned verifier keys; without any, the `.pub` beside the log is used and counts as unpinned.
        secrets: values of AUDIT_SECRET; those that do not fit the log are not used.
        against: an older note of this log; the log must extend it.

    Raises:
        CannotLook: exit 2.
    """
    keys, known = list(vkeys), list(secrets)
    for attempt in (1, 2, 3):
        try:
            before = snapshot(path)
            case = Case(path, keys, known, against)
            case.read()
            if not (case.faults or case.loose_ends) or attempt == 3 or snapshot(path) == before:
                break
        except (OSError, EOFError, zlib.error) as error:
            raise CannotLook(f"{path} cannot be read to its end: {error}") from error
    return case.report()


# --- proofs (C2SP tlog-proof) -----------------------------------------------------------------------------------------


def check_proof(data: bytes, vkeys: Iterable[str], line: bytes | None = None) -> dict[str, Any]:
    """Check that one line is in a signed log: `exit` 0 true, 1 false, 3 without a key. CannotLook if it is no proof."""
    try:
        head, blank, note_text = data.decode("utf-8").partition("\n\n")
        title, *rest = head.split("\n")
        extra = b64(rest.pop(0)[6:]) if rest and rest[0].startswith("extra ") else None
        index = re.fullmatch("index (0|[1-9][0-9]{0,18})", rest.pop(0) if rest else "")
        if not blank or title != "c2sp.org/tlog-proof@v1" or index is None or (extra is None and line is None):
            raise ValueError("not a proof of a line")
        path, note, seq = [b64(node, 32) for node in rest], read_note(note_text.encode()), int(index[1])
        keys = [read_key(text) for text in vkeys]
    except ValueError as error:
        raise CannotLook(f"the proof or the key cannot be read: {error}") from error
    entry = line if extra is None else extra
    reason = _false_proof(entry or b"", seq, path, note) if line in (None, entry) else "it proves another line"
    key = next((key for key in keys if key.origin == note.origin), None)
    if not reason and keys and (key is None or not note.signed_by(key)):
        reason = "the checkpoint is not signed by the key"
    verdict = "TAMPERED" if reason else "INTACT" if keys else "UNKNOWN"
    reason = reason or ("" if keys else "no verifier key was given: use --vkey")
    result = {"verdict": verdict, "exit": VERDICTS[verdict], "reason": reason, "log": note.origin, "seq": seq}
    return {**result, "size": note.size, "entry": (entry or b"").decode("utf-8", "replace")}


def _false_proof(line: bytes, seq: int, path: list[bytes], note: Note) -> str:
    tail = TAIL.search(line)
    if tail is None or (tail[1].decode(), int(tail[2])) != (note.origin, seq):
        return "the line does not say that it is this entry of this log"
    try:
        held = seq < note.size and root_from_path(leaf_hash(line), seq, note.size, path) == note.root
    except ValueError as error:
        return f"the inclusion path does not fit: {error}"
    return "" if held else "the line is not in the signed tree"


# --- the command ------------------------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    """Escape what could paint on a terminal."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def _say(*lines: str) -> None:
    sys.stdout.write("".join(_printable(line) + "\n" for line in lines))


def _print(report: dict[str, Any]) -> None:
    _say(*(f"{file['status']:<4}  {file['name']}  seq {file['first']}-{file['last']}" for file in report["files"]))
    _say(*(f"      {notice}" for notice in report["notices"]))
    key = f"key {'' if report['pinned'] else 'NOT '}pinned: {report['key']}" if report["key"] else "no key"
    reason, checked = report["reason"] or f"{report['size']} lines", ", ".join(report["checked"]) or "nothing"
    _say(f"{report['verdict']}  {report['log'] or report['path']}: {reason}; checked {checked}; {key}")


def _file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", metavar="LOG", nargs="?", help="a ledger: JSONL or SQLite")
    parser.add_argument("--vkey", metavar="VKEY|FILE", help="pinned verifier key, or a file with one per line")
    parser.add_argument("--secret-file", metavar="FILE", action="append", default=[], help="AUDIT_SECRET, for the MACs")
    parser.add_argument("--against", metavar="NOTE", help="file of an older note you kept")
    parser.add_argument("--proof", metavar="FILE", help="check this proof of one entry instead of a log")
    parser.add_argument("--line", metavar="FILE", help="the line that the proof must be about")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    args = parser.parse_args(arguments)
    if (args.log is None) == (args.proof is None) or (args.line and not args.proof):
        parser.error("give either a LOG or --proof FILE (--line only with --proof)")
    try:
        vkeys = [args.vkey] if args.vkey else []
        if args.vkey and os.path.exists(args.vkey):
            vkeys = [key for key in _file(args.vkey).decode("utf-8", "replace").split("\n") if key.strip()]
        if args.proof:
            line = None if args.line is None else re.sub(rb"\n\Z", b"", _file(args.line))
            report = check_proof(_file(args.proof), vkeys, line)
        else:
            secrets = [re.sub(rb"\n\Z", b"", _file(path)) for path in args.secret_file]
            report = verify(args.log, vkeys, secrets, _file(args.against) if args.against else None)
    except (CannotLook, OSError) as error:
        sys.stderr.write(f"standalone_verify: {_printable(str(error))}\n")
        return 2
    if args.json:
        _say(json.dumps(report))
    elif args.proof:
        _say(
            report["entry"], f"{report['verdict']}  {report['log']} seq {report['seq']}: {report['reason'] or 'proved'}"
        )
    else:
        _print(report)
    return int(report["exit"])


if __name__ == "__main__":
    sys.exit(main())
