"""Responses of our own: the status, headers and body of a denial, a limit or a failure.

Pure. A denied request is answered 200, because a client of both eras takes an unfamiliar 4xx for a server of the other
one; what has no id to answer is refused by status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mcp_audit.session import Step
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.model import Direction
from mcp_audit.wire.refusal import error_response

__all__ = ["ACCEPTED", "Answer", "answer_to", "plain_answer", "status_of"]

_STATUS = {
    "upstream_unavailable": 502,
    "upstream_timeout": 504,
    "ambiguous_message": 400,
    "header_mismatch": 400,
    "message_too_large": 413,
    "origin_rejected": 403,
}
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


ACCEPTED = Answer(202, [(b"content-length", b"0")], b"")
"""What a message gets that needs no answer here."""


def status_of(step: Step, kind: str) -> int:
    """Return the status with which a step is refused."""
    if any(to is Direction.TO_CLIENT for to, _ in step.errors):
        return 200 if step.batch else _STATUS.get(kind, 200)
    return _STATUS.get(kind, 403)


def answer_to(step: Step, kind: str, refused: Sequence[Exchange], data: Mapping[str, object] | None = None) -> Answer:
    """Return the response to a request of which nothing went on.

    Args:
        step: what the session says; its errors for the client are the body.
        kind: of the refusal.
        refused: what the message was, if nobody waits for an answer to it: the first is named in the body.
        data: what the body says then; None: the verdict.
    """
    errors = [error for to, error in step.errors if to is Direction.TO_CLIENT]
    if errors:
        return _json(status_of(step, kind), errors[0])
    first = refused[0]
    return _json(status_of(step, kind), error_response(b"", kind, first.era, first.id, data or first.verdict.data))


def plain_answer(status: int, sentence: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> Answer:
    """Return a response in words, for what was not understood as a message."""
    body = f"mcp-audit: {sentence}\n".encode()
    return Answer(status, [_TEXT, (b"content-length", b"%d" % len(body)), *headers], body)


def _json(status: int, body: bytes) -> Answer:
    return Answer(status, [_JSON, (b"content-length", b"%d" % len(body))], body)
