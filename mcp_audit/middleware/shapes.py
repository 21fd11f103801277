r"""Secrets that show by their shape, whatever they are called: well-known tokens, keys, passwords in URLs.

Pure. `suspects` is a cheap look at a whole JSON text that rules most families out; `find` says where secrets stand in
one decoded string. Every expression is linear: possessive, anchored to where a token begins, or bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["FAMILIES", "Family", "find", "suspects"]

_BEGIN = rb"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
_END = rb"-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
# A name followed by a value is a parameter of WWW-Authenticate, which tells no secret.
_BEARER = (
    rb"earer(?<=[bB]earer)(?<![A-Za-z0-9].earer) +"
    rb"((?:(?=[A-Za-z_.~+/-]{0,64}+[0-9])[A-Za-z0-9_.~+/-]{8,}+|[A-Za-z0-9_.~+/-]{16,}+)(?!=+[\w\"\\])=*+)"
)
_ASSIGNED = rb"[\"'\\]{0,4}[ \t]{0,8}[:=][ \t]{0,8}[\"'\\]{0,4}"
_BEARER_HEADER = rb"uthorization" + _ASSIGNED + rb"[bB]earer +([^\s\"'\\,;<>${}\[\]]++)"
_AWS_SECRET = _ASSIGNED + rb"([A-Za-z0-9/+=]{40,}+)"


class Family(NamedTuple):
    """Shapes that share a sign.

    Attributes:
        is_possible: false if no text in which no ASCII character is written as an escape can hold one of them.
        shapes: find them; the secret is the only group, or else the whole match.
    """

    is_possible: Callable[[bytes], object]
    shapes: tuple[re.Pattern[bytes], ...]


def _family(sign: Callable[[bytes], object], *shapes: bytes) -> Family:
    return Family(sign, tuple(map(re.compile, shapes)))


def _has_bearer(text: bytes) -> bool:
    # In full capitals it is a name such as BEARER_TOKEN, and not a header.
    return b"earer " in text


_userinfo = re.compile(rb":(?:\\*+/){2}[^/?# ]+@").search


def _has_userinfo(text: bytes) -> bool:
    return b"@" in text and _userinfo(text) is not None


# Chosen by measurement: an expression that begins with a literal byte is searched at 0.3 ns a byte, `b"sk-" in text` at
# 0.8, an alternation or a look-behind in front at 10 and more. So what must precede a literal is asked after it.
FAMILIES = (
    _family(  # GitHub
        re.compile(
            rb"_(?:(?=[A-Za-z0-9_]{20})(?:(?<=gh[pousr]_)|(?<=github_pat_))|(?<=ecret_)(?=access_key)|(?<=ECRET_)(?=ACCESS_KEY))"
        ).search,
        rb"gh[pousr]_(?<![A-Za-z0-9]gh._)[A-Za-z0-9_]{20,}+",
        rb"github_pat_(?<![A-Za-z0-9]github_pat_)[A-Za-z0-9_]{20,}+",
        # AWS secret keys, in environments and credential files
        rb"secret_access_key" + _AWS_SECRET,
        rb"SECRET_ACCESS_KEY" + _AWS_SECRET,
    ),
    _family(  # OpenAI, Anthropic and others; Slack; PEM
        re.compile(
            rb"-(?:(?<=sk-)(?=[A-Za-z0-9_-]{20})|(?:(?<=xapp-)|(?<=xox.-))(?=[A-Za-z0-9%-]{10})|(?=----BEGIN ))"
        ).search,
        rb"sk-(?<![A-Za-z0-9]sk-)(?=[A-Za-z_-]{0,64}+[0-9])[A-Za-z0-9_-]{20,}+",
        rb"xox[a-z]-(?<![A-Za-z0-9]xox.-)[A-Za-z0-9%-]{10,}+",
        rb"xapp-(?<![A-Za-z0-9]xapp-)[A-Za-z0-9-]{10,}+",
        rb"(?s)" + _BEGIN + rb".*?(?:" + _END + rb"|\Z)",
    ),
    _family(  # AWS access key ids, lasting and temporary
        re.compile(rb"I(?<=A[KS]I)A[A-Z0-9]{16}").search,
        rb"A[KS]IA(?<![A-Za-z0-9]A.IA)[A-Z0-9]{16}(?![A-Za-z0-9])",
    ),
    _family(  # JWT and JWE
        re.compile(rb"J(?<=eyJ)(?=[A-Za-z0-9_-]{8,}+\.)").search,
        rb"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+){1,3}\.[A-Za-z0-9_-]++",
    ),
    _family(_has_bearer, _BEARER, _BEARER_HEADER),
    _family(  # the password, up to the last @ of the authority
        _has_userinfo,
        rb":\\{0,4}/\\{0,4}/[^\s/?#@:\"<>]*+:(?!\[REDACTED\]@)([^\s/?#\"<>]+)@",
    ),
)

_SPELLED = re.compile(rb"\\u00[2-7]").search


def suspects(text: bytes) -> tuple[Family, ...]:
    r"""Return the families whose secrets a JSON text may hold, JSON nested in its strings included."""
    if b"\\" in text and b"\\u00" in text and _SPELLED(text):
        return FAMILIES  # an ASCII character is spelled as an escape, so signs may be too
    return tuple([family for family in FAMILIES if family.is_possible(text)])


def find(text: bytes, families: Iterable[Family]) -> list[tuple[int, int]]:
    """Return where secrets of these families stand in a decoded string, as (start, end), in no order."""
    spans = _spans(text, families)
    if spans:
        # What touches a secret may look like another one, or like more of one, only without it.
        blanked = bytearray(text)
        for start, end in spans:
            blanked[start:end] = b"]" * (end - start)
        spans += _spans(bytes(blanked), families)
    return spans


def _spans(text: bytes, families: Iterable[Family]) -> list[tuple[int, int]]:
    return [
        found.span(shape.groups) for family in families for shape in family.shapes for found in shape.finditer(text)
    ]
