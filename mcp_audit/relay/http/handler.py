"""A request's way in: who asks, what it says, may it go on, and is it in the ledger.

Promise: the body that goes on is the one that came. What is refused is answered here, and nothing of it goes further.
Never: a message of our own in place of one that could have passed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import anyio

from mcp_audit.relay.http.answers import ACCEPTED, answer_to, plain_answer, status_of
from mcp_audit.relay.http.asking import Asking
from mcp_audit.relay.http.conversations import Conversation
from mcp_audit.relay.http.headers import value_of
from mcp_audit.relay.http.inbound import ClientGone, Receive, read_body, understand
from mcp_audit.relay.http.target import BadTarget
from mcp_audit.relay.http.visit import Scope, Send, Services, Visit
from mcp_audit.session import Step
from mcp_audit.wire.exchange import Exchange, Verdict
from mcp_audit.wire.framing import Line, Oversized
from mcp_audit.wire.message import Direction, Kind, Message, Payload
from mcp_audit.wire.peers import is_modern_request

__all__ = ["HttpRelay"]


class HttpRelay:
    """An ASGI application that relays every request to one upstream."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await _Entrance(Visit(self._services, scope, receive, send)).run()

    def close(self, now: float) -> Step:
        """End all sessions: what is still open ends as lost."""
        steps = [session.close(now) for session in self._services.conversations.everything()]
        return Step(finished=tuple(exchange for step in steps for exchange in step.finished))


class _Entrance:
    """Lets one request in, or not."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._services = visit.services

    async def run(self) -> None:
        """Serve the request."""
        visit, services = self._visit, self._services
        refused = services.access.check(visit.headers, visit.method)
        if refused is not None:
            await self._turn_away(refused.status, refused.kind, refused.reason, refused.headers)
            return
        visit.client = services.access.client_name(visit.headers) or ""
        announced = services.conversations.at_address(visit.client, visit.address)
        try:
            visit.target = announced.target if announced else services.target.map_target(visit.address)
        except BadTarget as error:
            await self._turn_away(400, "bad_target", str(error))
            return
        try:
            body = await read_body(visit.receive, services.limits.max_message_bytes, services.witness.new_hash)
        except ClientGone:
            return
        message = self._understand(body)
        visit.modern = isinstance(message, Payload) and _stands_alone(message)
        visit.conversation = announced or self._find()
        services.conversations.enter(visit.conversation)
        try:
            await self._serve(message)
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave()

    def _understand(self, body: Line) -> Payload | Oversized:
        if isinstance(body, Oversized):
            return body
        return understand(body, self._visit.headers, self._services.limits.max_message_bytes)

    def _find(self) -> Conversation:
        visit, conversations = self._visit, self._services.conversations
        # A request that stands alone shares no ids with others, whatever session it is sent along with.
        session_id = None if visit.modern else value_of(visit.headers, b"mcp-session-id")
        return conversations.of_session(visit.client, session_id) if session_id else conversations.begin(visit.client)

    async def _leave(self) -> None:
        visit = self._visit
        if self._services.conversations.leave(visit.conversation):
            why = "client_gone" if visit.gone else visit.why
            await visit.settle(visit.session.close(time.monotonic(), why))

    async def _serve(self, message: Payload | Oversized) -> None:
        visit = self._visit
        step = self._decide(message)
        kind = _denial(step)
        if kind:
            for exchange in step.finished:
                exchange.status = self._status_of(step, kind)
        if not await self._services.recorder.record([step]):
            await self._refuse(visit.owe(step), "audit_unavailable", [*step.opened, *step.finished])
        elif kind:
            await self._refuse(step, kind, step.finished)
        elif step.forward is None:  # an answer to what the server was told had timed out
            await visit.answer(ACCEPTED)
        elif not any(exchange.held for exchange in step.opened):
            visit.opened, visit.batch = step.opened, step.batch
            await Asking(visit).forward(step.forward, step.finished)

    def _decide(self, message: Payload | Oversized) -> Step:
        visit, now = self._visit, time.monotonic()
        if isinstance(message, Payload):
            return visit.session.receive(message, now)
        id_, commitment = self._services.witness.commit(message)
        return visit.session.oversized(message, Direction.TO_SERVER, id_, commitment, now)

    def _status_of(self, step: Step, kind: str) -> int:
        """Return the status of a refusal; with HTTP+SSE answers come on a stream, if there still is one."""
        visit = self._visit
        if visit.conversation.stream is not None and step.errors:
            return 202
        gone = self._services.conversations.was_address(visit.client, visit.address)
        return 403 if gone else status_of(step, kind)

    async def _refuse(self, step: Step, kind: str, refused: Sequence[Exchange]) -> None:
        """Answer in the upstream's place: as the response, or on the stream on which the client expects answers."""
        answer = answer_to(step, kind, refused)
        status = self._status_of(step, kind)
        stream = self._visit.conversation.stream
        if status == 202 and stream is not None:
            if await stream.inject(answer.body):
                answer = ACCEPTED
            else:  # it ended while we waited for our turn
                status = 403
        await self._visit.answer(answer._replace(status=status))

    async def _turn_away(
        self, status: int, kind: str, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Refuse a request before its body is looked at; the record says why."""
        visit = self._visit
        visit.conversation = self._services.conversations.begin("")
        verdict = Verdict(False, "access", reason=reason, kind=kind, recorded=True)
        message = Message(b"", Direction.TO_SERVER, Kind.OPAQUE)
        step = visit.session.turn_away(message, verdict, time.monotonic())
        for exchange in step.finished:
            exchange.status = status
        await visit.settle(step)
        if kind == "origin_rejected":
            await visit.answer(answer_to(Step(), kind, step.finished))
        else:
            await visit.answer(plain_answer(status, reason, headers))


def _stands_alone(payload: Payload) -> bool:
    return bool(payload.messages) and all(map(is_modern_request, payload.messages))


def _denial(step: Step) -> str:
    """Return the kind of the error with which a step refuses a message, empty if it does not."""
    for exchange in step.finished:
        if not exchange.verdict.allowed and exchange.verdict.kind != "batch_rejected":
            return exchange.verdict.kind
        if exchange.oversized:
            return "message_too_large"
    return ""
