"""`${ENV_NAME}` and `${file:PATH}` in the values of secrets, and the audit secret itself.

No value is ever part of a sentence. `$${` stands for a literal `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mcp_audit.errors import ConfigError

__all__ = ["MIN_SECRET_BYTES", "Unresolved", "audit_secret", "env_names", "expand", "looks_like_reference", "too_short"]

MIN_SECRET_BYTES = 32
_MAX_FILE_BYTES = 1 << 20
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}|\Z)")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Unresolved(ValueError):
    """A reference leads nowhere; the message says which and why."""


def looks_like_reference(value: str) -> bool:
    """Tell whether someone expects an expansion here."""
    return "${" in value


def env_names(value: str) -> set[str]:
    """Return the environment variables that a value names."""
    names = (match[1] or "" for match in _REFERENCE.finditer(value))
    return {name for name in names if _ENV_NAME.fullmatch(name)}


def expand(value: str, environ: Mapping[str, str], cwd: Path) -> str:
    """Return `value` with its references replaced by what they name.

    Raises:
        Unresolved: a variable is missing or empty, a file cannot be read, or the reference is malformed.
    """
    return _REFERENCE.sub(lambda match: _resolve(match, environ, cwd), value)


def _resolve(match: re.Match[str], environ: Mapping[str, str], cwd: Path) -> str:
    if match[0] == "$${":
        return "${"
    name = match[1]
    if not match[2]:
        raise Unresolved("has `${` without a closing `}`; write `$${` for the two characters themselves")
    if name.startswith("file:"):
        try:
            return _content(cwd / name[5:]).decode("utf-8")
        except UnicodeDecodeError:
            raise Unresolved(f"names the file {name[5:]}, which is not UTF-8") from None
        except OSError as error:
            raise Unresolved(f"names the file {name[5:]}, which cannot be read ({error.strerror or error})") from None
    if not _ENV_NAME.fullmatch(name):
        raise Unresolved("has a reference that is neither ${ENV_NAME} nor ${file:PATH}; write `$${` for a literal `${`")
    if not environ.get(name):
        raise Unresolved(f"names the environment variable {name}, which is {'empty' if name in environ else 'not set'}")
    return environ[name]


def _content(path: Path) -> bytes:
    """Return the bytes of a small file less one final LF."""
    with open(path, "rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise OSError(f"it is larger than {_MAX_FILE_BYTES} bytes")
    return raw.removesuffix(b"\n")


def audit_secret(environ: Mapping[str, str], cwd: Path) -> tuple[bytes, str] | None:
    """Return the audit secret that the environment gives and the variable that gave it, None if there is none.

    Raises:
        ConfigError: given twice, unreadable, or shorter than 32 bytes.
    """
    if "AUDIT_SECRET" in environ and "AUDIT_SECRET_FILE" in environ:
        raise ConfigError("audit.secret", "AUDIT_SECRET and AUDIT_SECRET_FILE are both set; unset one of them", "env")
    if "AUDIT_SECRET" in environ:
        secret, name = os.fsencode(environ["AUDIT_SECRET"]), "AUDIT_SECRET"
    elif "AUDIT_SECRET_FILE" in environ:
        name, file = "AUDIT_SECRET_FILE", environ["AUDIT_SECRET_FILE"]
        try:
            secret = _content(cwd / file)
        except OSError as error:
            problem = f"cannot read the file {file} ({error.strerror or error})"
            raise ConfigError("audit.secret", problem, f"env {name}") from None
    else:
        return None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError("audit.secret", too_short(len(secret)), f"env {name}")
    return secret, name


def too_short(size: int) -> str:
    """Say that a secret of `size` bytes will not do."""
    return (
        f"must have at least {MIN_SECRET_BYTES} bytes, has {size}; make one with `mcp-audit keygen --secret FILE` "
        "and set AUDIT_SECRET_FILE, or leave it unset to run without MACs"
    )
