"""The letters of a scalar -> the value its key demands.

The key's type decides, not the letters: a text may be `on`, `08` or `1.10` without quotes, as in mcp-audit for Go. What
YAML 1.1 and 1.2 read differently where a number or a value of any type is meant is refused, never guessed at.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["Unfit", "any_value", "boolean", "integer", "is_null", "number", "text"]

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_YES = frozenset({"yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_NO = frozenset({"no", "No", "NO", "off", "Off", "OFF", "n", "N"})
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_RADIX = re.compile(r"[-+]?0[xob][0-9a-fA-F_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MAX_DIGITS = 32


class Unfit(ValueError):
    """A scalar is not what its key demands; the message follows the key in a sentence."""


def is_null(letters: str, quoted: bool) -> bool:
    """Tell whether nothing was written: an empty value, `~` or `null`."""
    return not quoted and letters in _NULL


def text(letters: str) -> str:
    """Return a text as written."""
    if found := _CONTROL.search(letters):
        raise Unfit(f"must not contain the control character 0x{ord(found[0]):02x}")
    return letters


def boolean(letters: str, quoted: bool) -> bool:
    """Return a truth value; `yes`, `no`, `on` and `off` count, because the key demands one."""
    if not quoted and letters in _TRUE | _YES:
        return True
    if not quoted and letters in _FALSE | _NO:
        return False
    hint = "; remove the quotes" if quoted and letters in _TRUE | _FALSE else ""
    raise Unfit(f"must be true or false, found {letters!r}{hint}")


def integer(letters: str, quoted: bool) -> int:
    """Return a whole number in decimal; `_` may group digits."""
    if not quoted and _INTEGER.fullmatch(letters) and len(letters) <= _MAX_DIGITS:
        return int(letters)
    raise Unfit(f"must be a whole number, found {letters[:80]!r}{_number_hint(letters, quoted)}")


def number(letters: str, quoted: bool) -> int | float:
    """Return a number."""
    if not quoted and len(letters) <= _MAX_DIGITS:
        if _INTEGER.fullmatch(letters):
            return int(letters)
        if _FLOAT.fullmatch(letters) and not _OCTAL.fullmatch(letters):
            return _finite(letters)
    raise Unfit(f"must be a number, found {letters[:80]!r}{_number_hint(letters, quoted)}")


def any_value(letters: str, quoted: bool) -> Any:
    """Return a JSON value, where any type is allowed."""
    if quoted:
        return text(letters)
    if letters in _NULL:
        return None
    if letters in _TRUE or letters in _FALSE:
        return letters in _TRUE
    if letters in _YES | _NO:
        meant = "true" if letters in _YES else "false"
        raise Unfit(
            f'`{letters}` is a truth value to some readers of YAML and a text to others; write {meant} or "{letters}"'
        )
    if (
        _INTEGER.fullmatch(letters)
        or _FLOAT.fullmatch(letters)
        or _RADIX.fullmatch(letters)
        or _SEXAGESIMAL.fullmatch(letters)
    ):
        try:
            return number(letters, quoted)
        except Unfit as unfit:
            raise Unfit(f'{unfit}; a text needs quotes: "{letters[:80]}"') from None
    return text(letters)


def _finite(letters: str) -> float:
    value = float(letters)
    if value in (float("inf"), float("-inf")):
        raise Unfit(f"must be a number that a double can hold, found {letters!r}")
    return value


def _number_hint(letters: str, quoted: bool) -> str:
    if quoted and (_INTEGER.fullmatch(letters) or _FLOAT.fullmatch(letters)):
        return "; remove the quotes"
    if _OCTAL.fullmatch(letters):
        return "; a leading 0 means octal to some readers of YAML, leave it out"
    if _SEXAGESIMAL.fullmatch(letters):
        return "; YAML 1.1 takes this for base 60, write the number itself"
    if _RADIX.fullmatch(letters) or _FLOAT.fullmatch(letters):
        return "; write it out in decimal"
    return ""
