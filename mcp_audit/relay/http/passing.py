"""A response's way to the client: piece by piece, each as soon as the lines of the messages it completes are written.

Promise: the bytes that go out are those that came, but for the sanctioned rewrites, which are on record, and for
answers that the client was told would not come. What ends abnormally upstream ends abnormally here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from anyio.lowlevel import checkpoint

from mcp_audit.relay.http.answers import ACCEPTED, answer_to, plain_answer
from mcp_audit.relay.http.headers import Headers, value_of
from mcp_audit.relay.http.metadata import METADATA_BYTES
from mcp_audit.relay.http.outbound import EventAudit, EventStream, Heard, WholeAudit, kind_of
from mcp_audit.relay.http.pool import BrokenBody, Response
from mcp_audit.relay.http.visit import BrokenOff, Visit
from mcp_audit.session import Step
from mcp_audit.wire.exchange import Outcome
from mcp_audit.wire.framing import Line
from mcp_audit.wire.message import Direction, Kind, Message, Payload
from mcp_audit.wire.rewrite import Announcement, Rewrite

__all__ = ["Passing"]

_log = logging.getLogger("mcp_audit")
_TURN = 256  # events that are recorded at a time; a piece may hold a hundred times that


class Passing:
    """Passes the response to one request."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._services = visit.services
        self._headers: Headers | None = None  # if they are not those of the response

    def wishes(self, headers: Headers) -> Headers:
        """Return the request's headers with what the response needs: it is not to be compressed if it is rewritten."""
        if not self._is_document:
            return headers
        kept = [field for field in headers if field[0].lower() != b"accept-encoding"]
        return [*kept, (b"accept-encoding", b"identity")]

    async def pass_on(self, response: Response) -> None:
        """Pass a whole response.

        Raises:
            BrokenOff, BrokenBody: it ends where it is.
        """
        self._learn(response)
        visit, metadata = self._visit, self._services.metadata
        if metadata is not None:
            self._headers, rewrites = metadata.challenges(response.headers)
            await self._note(rewrites)
        kind = kind_of(response.headers)
        if metadata is not None and self._is_document and response.status == 200:
            await self._pass_document(response)
        elif kind == "events":
            await self._pass_events(response)
        elif (kind == "json" or visit.opened) and visit.method != "HEAD":
            await self._pass_json(response, doubtful=not kind)
        else:
            await self._pass_rest(response)

    def _learn(self, response: Response) -> None:
        """Take what the head says about the session."""
        visit, services, status = self._visit, self._services, response.status
        visit.status = status
        session_id = None if visit.modern else value_of(response.headers, b"mcp-session-id")
        if session_id:
            services.conversations.name(visit.conversation, visit.client, session_id)
        if status == 401 and not services.told_of_401 and services.rules.withholds_authorization(visit.headers):
            services.told_of_401 = True
            _log.warning(
                "the upstream answers 401, and the client's Authorization was not passed on; "
                "proxy.forward_headers: [Authorization] does that"
            )
        for exchange in visit.opened:
            exchange.status = status
            exchange.session = visit.session.pseudonym
        has_id = value_of(visit.headers, b"mcp-session-id") is not None
        if has_id and not visit.modern and (status == 404 or (visit.method == "DELETE" and 200 <= status < 300)):
            visit.why = "session_end"
            services.conversations.forget(visit.conversation)

    async def _pass_rest(self, response: Response, first: bytes = b"") -> None:
        """Pass what holds no message."""
        visit = self._visit
        await visit.start(response, self._headers)
        if first:
            await visit.write(first)
        while piece := await response.read():
            await visit.write(piece)
        await visit.write(b"", more=False)

    # -- one message -------------------------------------------------------------------------------------------------

    async def _pass_json(self, response: Response, doubtful: bool = False) -> None:
        """Pass a JSON body; a piece that may complete the message waits for its line in the ledger.

        Args:
            doubtful: it is not said to be one, and on record only if it is an answer nevertheless.
        """
        visit, services = self._visit, self._services
        limit = services.limits.max_message_bytes
        audit = WholeAudit(response.headers, limit, services.witness.new_hash)
        held = bytearray()
        told = False
        try:
            while piece := await response.read():
                for _ in audit.feed(piece):
                    await checkpoint()
                held += piece
                if audit.unreadable and not told:
                    told = True
                    if not await self._pass_message(None if doubtful else audit.finish()):
                        return
                if told or not audit.may_be_whole:
                    await self._pass_piece(response, held)
                elif len(held) > limit:  # longer than what is kept of a message, so only its end can wait
                    await self._pass_piece(response, held, but=len(piece))
        except BrokenBody:
            found = None if told else audit.finish(cut=True)
            if await self._pass_message(found if _is_message(found) else None):
                await self._pass_piece(response, held)
            raise
        found = None if told else audit.finish()
        if await self._pass_message(found if _is_message(found) or not doubtful else None):
            await visit.start(response, self._headers)
            await visit.write(bytes(held), more=False)

    async def _pass_message(self, found: Line | Payload | None) -> bool:
        """Record what a body says, if anything; return whether it is to be delivered, for else there is another answer.

        Raises:
            BrokenOff: it is not, and a part of it went out.
        """
        visit = self._visit
        late = await self._take([Heard(found)]) if found is not None else []
        if visit.answered or not late:
            return not visit.answered
        if visit.started:
            raise BrokenOff
        if not visit.overdue:  # who was told that his time is over is told so here, or was elsewhere
            await visit.answer(ACCEPTED)
        return False

    async def _pass_piece(self, response: Response, held: bytearray, but: int = 0) -> None:
        """Pass what was held back, except for the last `but` bytes."""
        piece = bytes(held[: len(held) - but])
        del held[: len(piece)]
        await self._visit.start(response, self._headers)
        if piece:
            await self._visit.write(piece)

    # -- many messages -----------------------------------------------------------------------------------------------

    async def _pass_events(self, response: Response) -> None:
        """Pass a stream of events; each piece waits for the lines of the events it completes."""
        visit, services = self._visit, self._services
        audit = EventAudit(response.headers, services.limits.max_message_bytes, services.witness.new_hash)
        malleable = audit.plain and value_of(response.headers, b"content-length") is None
        visit.stream = stream = EventStream(visit.write, malleable)
        try:
            await self._pass_each(response, audit, stream)
        finally:
            if visit.conversation.stream is stream:  # nobody can be told anything any more
                visit.conversation.stream = None
                services.conversations.forget(visit.conversation)

    async def _pass_each(self, response: Response, audit: EventAudit, stream: EventStream) -> None:
        visit, services = self._visit, self._services
        announcement = Announcement(services.target.origin, services.public) if self._may_announce(stream) else None
        await visit.start(response, self._headers)
        while piece := await response.read():
            dropped: list[Heard] = []
            for found in audit.feed(piece):
                if not (found and audit.plain):
                    await checkpoint()
                for start in range(0, len(found), _TURN):
                    dropped += await self._take(found[start : start + _TURN])
            if dropped and not stream.malleable:
                raise BrokenOff
            piece = _without(piece, dropped)
            if announcement is not None:
                piece = announcement.feed(piece)
                if announcement.over:
                    await self._announced(announcement, stream)
                    announcement = None
            if piece:
                await stream.write(piece, audit.between_events)
        if announcement is not None and (piece := announcement.finish()):
            await visit.write(piece)
        await stream.end()

    def _may_announce(self, stream: EventStream) -> bool:
        """Say whether this may be the stream of an HTTP+SSE server, whose first event says where to POST."""
        return self._visit.method == "GET" and not self._visit.conversation.keys and stream.malleable

    async def _announced(self, announcement: Announcement, stream: EventStream) -> None:
        """Note where the client is told to POST; a rewrite goes on record."""
        visit, endpoint = self._visit, announcement.endpoint
        target = endpoint.upstream_target(visit.target) if endpoint is not None else None
        if endpoint is None or target is None:
            return
        addresses = endpoint.addresses(visit.address)
        self._services.conversations.announce(visit.conversation, visit.client, addresses, target, stream)
        await self._note(announcement.rewrites)

    async def _take(self, found: Sequence[Heard]) -> list[Heard]:
        """Record what the upstream says, and return what of it is not to be delivered.

        Raises:
            BrokenOff: the ledger takes it no more; it is owed.
        """
        if len(found) == _TURN:
            await checkpoint()
        visit, now = self._visit, time.monotonic()
        steps = [self._hear(heard.message, now) for heard in found]
        recorded = await visit.record(steps)
        if recorded == len(steps):
            return [heard for heard, step in zip(found, steps, strict=True) if step.forward is None]
        refusals = [visit.owe(step) for step in steps[recorded:]]
        if visit.started:
            raise BrokenOff
        await self._withhold(refusals[0])
        return []

    async def _withhold(self, refusal: Step) -> None:
        """Say that there is an answer, which cannot be had without a ledger."""
        visit, kind, cause = self._visit, "audit_unavailable", self._services.recorder.cause
        if not refusal.errors:  # it was none to the request
            data = {"reason": cause, "executed": True}
            refusal = visit.session.give_up(visit.opened, Outcome.LOST, time.monotonic(), kind, data, visit.batch)
            await visit.settle(refusal)
        if refusal.errors:
            await visit.answer(answer_to(refusal, kind, ()))
        else:
            await visit.answer(
                plain_answer(503, f"what the upstream said is withheld, for it cannot be recorded: {cause}")
            )

    def _hear(self, message: Line | Payload, now: float) -> Step:
        session, witness = self._visit.session, self._services.witness
        if isinstance(message, Payload):
            return session.receive(message, now)
        assert not isinstance(message, bytes)
        id_, commitment = witness.commit(message)
        return session.oversized(message, Direction.TO_CLIENT, id_, commitment, now, delivered=True)

    # -- OAuth metadata ----------------------------------------------------------------------------------------------

    @property
    def _is_document(self) -> bool:
        metadata = self._services.metadata
        return metadata is not None and metadata.is_document(self._visit.method, self._visit.address)

    async def _pass_document(self, response: Response) -> None:
        """Pass protected resource metadata, which names the address that clients use if it can be read."""
        metadata, body = self._services.metadata, b""
        try:
            while len(body) <= METADATA_BYTES and (piece := await response.read()):
                body += piece
        except BrokenBody:
            await self._pass_piece(response, bytearray(body))
            raise
        plain = value_of(response.headers, b"content-encoding") is None
        if metadata is not None and plain and len(body) <= METADATA_BYTES:
            body, rewrites = metadata.document(body)
            if rewrites:
                await self._note(rewrites)
                kept = [field for field in response.headers if field[0].lower() != b"content-length"]
                self._headers = [*kept, (b"content-length", b"%d" % len(body))]
        await self._pass_rest(response, body)

    async def _note(self, rewrites: Sequence[Rewrite]) -> None:
        """Put on record what is not passed as it came."""
        for rewrite in rewrites:
            message = Message(rewrite.old, Direction.TO_CLIENT, Kind.OPAQUE)
            step = self._visit.session.receive(Payload(rewrite.old, (message,)), time.monotonic())
            for exchange in step.finished:
                exchange.rewrites = (rewrite.name,)
            await self._visit.settle(step)


def _is_message(found: Line | Payload | None) -> bool:
    """Say whether a body that need not be one is a message or a batch."""
    return isinstance(found, Payload) and all(message.kind is not Kind.OPAQUE for message in found.messages)


def _without(piece: bytes, dropped: Sequence[Heard]) -> bytes:
    """Return a piece of a stream without some events; one that has begun to go out goes on."""
    for heard in reversed(dropped):
        if heard.start >= 0:
            piece = piece[: heard.start] + piece[heard.end :]
    return piece
