"""The keys of a log: the Ed25519 log key, its verifier key, and by way of `secret` what AUDIT_SECRET gives.

Promise: a key is tied to one origin, so material of one log proves nothing about another, and nothing here prints a
secret. Keys are parsed strictly: one key has one spelling. `cryptography` is loaded when the first signature is made
or checked, so chain, tree and MACs can be judged without it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import TYPE_CHECKING

from mcp_audit.errors import LedgerError
from mcp_audit.ledger.secret import (
    MIN_SECRET_BYTES,
    BadKey,
    Secrets,
    check_secret,
    derive,
    key_id_of,
    mac_key,
    read_secret,
    session_key,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "MIN_SECRET_BYTES",
    "BadKey",
    "LogKey",
    "NoEd25519",
    "Secrets",
    "VerifierKey",
    "canonical_b64decode",
    "check_origin",
    "check_secret",
    "default_origin",
    "derive",
    "key_id_of",
    "mac_key",
    "read_secret",
    "session_key",
]

_ED25519 = b"\x01"
_ORIGIN = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_PRIVATE_LEAD = "PRIVATE+KEY+"


class NoEd25519(LedgerError):
    """Signatures cannot be made or checked because `cryptography` is missing."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__(
            "signatures need the package `cryptography`, which cannot be imported; install it and try again"
        )


def check_origin(text: str) -> str:
    """Return `text` if it can name a log.

    Raises:
        BadKey: it cannot.
    """
    if not _ORIGIN.fullmatch(text):
        raise BadKey(f"{text!r} cannot name a log: 1 to 200 of the characters A-Z a-z 0-9 . _ - / are allowed")
    return text


def default_origin(hostname: str, stem: str, random_hex: str) -> str:
    """Return the name of a new log nobody named; what an origin cannot hold becomes a dash."""
    host, name = (re.sub(r"[^A-Za-z0-9._-]", "-", part)[:90] for part in (hostname, stem))
    return check_origin(f"{host or 'localhost'}/{name or 'log'}-{random_hex}")


class LogKey:
    """The Ed25519 key that signs a log's checkpoints.

    Attributes:
        origin: the log it signs for.
        key_id: the four bytes that name it in signature lines.
        vkey: its verifier key, to be pinned outside the host.
    """

    __slots__ = ("_private", "_seed", "key_id", "origin", "vkey")

    def __init__(self, origin: str, seed: bytes) -> None:
        if len(seed) != 32:
            raise BadKey(f"an Ed25519 seed has 32 bytes, this one {len(seed)}")
        self.origin = check_origin(origin)
        self._seed = seed
        self._private = _private_key(seed)
        public = self._private.public_key().public_bytes_raw()
        self.key_id = _key_id(origin, public)
        self.vkey = f"{origin}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + public).decode()}"

    def __repr__(self) -> str:
        return f"LogKey({self.vkey!r})"

    @classmethod
    def generate(cls, origin: str) -> LogKey:
        """Make a new key from the system's randomness."""
        import secrets

        return cls(origin, secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> LogKey:
        """Read what `to_text` wrote, one final LF allowed.

        Raises:
            BadKey: it is no private log key, or its parts do not belong together.
        """
        text = text.removesuffix("\n")
        if not text.startswith(_PRIVATE_LEAD):
            raise BadKey("this is no private log key; one starts with PRIVATE+KEY+")
        origin, key_id, seed = _parse(text.removeprefix(_PRIVATE_LEAD), "private log key")
        key = cls(origin, seed)
        if key.key_id != key_id:
            raise BadKey(
                f"the private log key of {origin} is damaged: its key ID does not fit; restore it from a backup"
            )
        return key

    def to_text(self) -> str:
        """Return the line of a `.key` file, without its LF. Keep it secret."""
        return f"{_PRIVATE_LEAD}{self.origin}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self._seed).decode()}"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`. Source: RFC 8032."""
        return self._private.sign(message)


class VerifierKey:
    """The public half of a log key, in C2SP signed-note form: `<origin>+<key ID>+<base64>`."""

    __slots__ = ("_public", "_raw", "key_id", "origin", "vkey")

    def __init__(self, origin: str, key_id: bytes, public: bytes) -> None:
        self.origin = origin
        self.key_id = key_id
        self.vkey = f"{origin}+{key_id.hex()}+{base64.b64encode(_ED25519 + public).decode()}"
        self._raw = public
        self._public: Ed25519PublicKey | None = None

    def __repr__(self) -> str:
        return f"VerifierKey({self.vkey!r})"

    @classmethod
    def parse(cls, vkey: str) -> VerifierKey:
        """Read a verifier key, one final LF allowed.

        Raises:
            BadKey: it is not one, or its key ID does not fit.

        Source: c2sp.org/signed-note
        """
        origin, key_id, public = _parse(vkey.removesuffix("\n"), "verifier key")
        if _key_id(origin, public) != key_id:
            raise BadKey(f"the verifier key of {origin} is damaged: its key ID does not fit; copy it again")
        return cls(origin, key_id, public)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Say whether `signature` is this key's over `message`.

        Raises:
            NoEd25519: `cryptography` is missing.
        """
        if self._public is None:
            self._public = _public_key(self._raw)
        from cryptography.exceptions import InvalidSignature

        try:
            self._public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def canonical_b64decode(text: str) -> bytes:
    """Decode standard base64 in its one canonical spelling; spare bits would escape every signature.

    Raises:
        ValueError: it is not base64, or not canonical.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise ValueError("it is not canonical base64")
    return data


def _key_id(origin: str, public: bytes) -> bytes:
    return hashlib.sha256(origin.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _parse(text: str, what: str) -> tuple[str, bytes, bytes]:
    """Return origin, key ID and the 32 key bytes of `<origin>+<key ID>+<base64>`."""
    origin, _, rest = text.partition("+")
    key_id, _, encoded = rest.partition("+")
    if not re.fullmatch(r"[0-9a-f]{8}", key_id):
        raise BadKey(f"this is no {what}; one looks like <origin>+<8 hex digits>+<base64>")
    try:
        data = canonical_b64decode(encoded)
    except ValueError as error:
        raise BadKey(f"the key bytes of this {what} are damaged: {error}; copy it again") from None
    if len(data) != 33 or data[:1] != _ED25519:
        raise BadKey(f"this {what} is not Ed25519, the only kind a log key has; use the one `mcp-audit keygen` printed")
    return check_origin(origin), bytes.fromhex(key_id), data[1:]


def _private_key(seed: bytes) -> Ed25519PrivateKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise NoEd25519 from error
    return Ed25519PrivateKey.from_private_bytes(seed)


def _public_key(raw: bytes) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise NoEd25519 from error
    return Ed25519PublicKey.from_public_bytes(raw)
