"""What a user gives by naming it: keys, notes and lines, as themselves or as files that hold them.

Whatever cannot be read is one sentence that names the flag, and exit code 2.
"""

from __future__ import annotations

import os
import sys

from mcp_audit.errors import ConfigError

__all__ = ["given_bytes", "given_text", "given_vkeys"]


def given_vkeys(value: str) -> list[str]:
    """Return the keys of --vkey; a value that names a file is one with a key per line."""
    if os.path.exists(value):
        return [line for line in given_text(value, "--vkey").split("\n") if line.strip()]
    if value.count("+") < 2:
        raise ConfigError("", f"{value!r} is neither a file nor a verifier key (<origin>+<key ID>+<base64>)", "--vkey")
    return [value]


def given_text(path: str, flag: str) -> str:
    """Return a file's text; bytes that are not UTF-8 survive as something no signature fits."""
    return given_bytes(path, flag).decode("utf-8", "surrogateescape")


def given_bytes(path: str, flag: str) -> bytes:
    """Return a file's bytes; `-` is standard input."""
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}; name a readable file", flag) from error
