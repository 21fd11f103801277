"""Which requests may be sent again after an upstream was busy or not there, and how long to wait before.

Pure. Promise: what could act twice is never repeated, `tools/call` least of all, nor what has had a byte of an answer.
Off unless the configuration asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from mcp_audit.relay.http.headers import Headers, value_of
from mcp_audit.wire.members import last_values
from mcp_audit.wire.model import Message

__all__ = ["RETRY_STATUSES", "RetryPolicy", "may_repeat"]

RETRY_STATUSES = frozenset({429, 503})
_SAFE_METHODS = frozenset(
    {
        "server/discover",
        "ping",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "prompts/list",
        "prompts/get",
        "completion/complete",
    }
)
_CONTINUATIONS = (b"requestState", b"inputResponses")


def may_repeat(method: str, headers: Headers, messages: Sequence[Message]) -> bool:
    """Say whether a request may be sent more than once.

    Args:
        messages: in its body; a retry of an unfinished round carries answers of the user, so it is none.
    """
    if method == "POST":
        return bool(messages) and all(map(_is_safe, messages))
    if method == "GET":
        return b"text/event-stream" not in (value_of(headers, b"accept") or b"").lower()
    return method in ("HEAD", "OPTIONS")


def _is_safe(message: Message) -> bool:
    if message.method not in _SAFE_METHODS or message.id is None:
        return False
    params = bytes(message.params)
    if b"\\u" in params:  # a name may be spelled so that its letters are not there
        params = b" ".join(name.encode(errors="replace") for name in last_values(params))
    return not any(name in params for name in _CONTINUATIONS)


class RetryPolicy(NamedTuple):
    """How often and when; times in seconds."""

    max_retries: int = 0
    initial: float = 0.2
    longest: float = 2.0

    def pause(self, attempt: int, retry_after: bytes | None, now: float) -> float | None:
        """Return how long to wait after attempt number `attempt`, from 0: as asked, else doubled each time.

        Args:
            retry_after: the header of the response that asks to come again; None: there is none.
            now: seconds since the epoch, for a date in it.

        Returns:
            None if we are asked to wait longer than we may: to come earlier would be to come uninvited.
        """
        asked = _seconds(retry_after, now) if retry_after is not None else None
        if asked is not None:
            return asked if asked <= self.longest else None
        return min(self.longest, self.initial * 2.0**attempt)


def _seconds(retry_after: bytes, now: float) -> float | None:
    """Return what a `Retry-After` asks for: seconds or a date (RFC 9110 section 10.2.3); None if it is neither."""
    text = retry_after.decode("latin-1").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
