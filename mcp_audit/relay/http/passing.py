"""A response's way to the client: piece by piece, each as soon as the lines of the messages it completes are written.

Promise: the bytes that go out are those that came, but for the sanctioned rewrites, which are on record, and for
answers that the client was told would not come. What ends abnormally upstream ends abnormally here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from mcp_audit.relay.http.answers import ACCEPTED, answer_to
from mcp_audit.relay.http.headers import Headers, value_of
from mcp_audit.relay.http.metadata import METADATA_BYTES
from mcp_audit.relay.http.outbound import EventAudit, EventStream, Heard, WholeAudit, kind_of
from mcp_audit.relay.http.pool import BrokenBody, Response
from mcp_audit.relay.http.visit import BrokenOff, Visit
from mcp_audit.session import Step
from mcp_audit.wire.framing import Line
from mcp_audit.wire.message import Direction, Kind, Message, Payload
from mcp_audit.wire.rewrite import Announcement, Rewrite

__all__ = ["Passing"]

_log = logging.getLogger("mcp_audit")


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
        elif kind == "json" and visit.method != "HEAD":
            await self._pass_json(response)
        else:
            await self._pass_rest(response)

    def _learn(self, response: Response) -> None:
        """Take what the head says about the session."""
        visit, services, status = self._visit, self._services, response.status
        visit.status = status
        session_id = value_of(response.headers, b"mcp-session-id")
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
        if has_id and (status == 404 or (visit.method == "DELETE" and 200 <= status < 300)):
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

    async def _pass_json(self, response: Response) -> None:
        """Pass a JSON body; a piece that may complete the message waits for its line in the ledger."""
        visit, services = self._visit, self._services
        audit = WholeAudit(response.headers, services.limits.max_message_bytes, services.witness.new_hash)
        held = bytearray()  # of a body that is compressed, and so may be complete with any piece, it is all
        try:
            while piece := await response.read():
                held += piece
                if not audit.feed(piece):
                    await self._pass_piece(response, bytes(held))
                    held.clear()
        except BrokenBody:
            await self._pass_piece(response, bytes(held))
            raise
        found = audit.finish()
        late = await self._take([Heard(found)]) if found is not None else []
        if visit.answered:
            return
        if late:  # the answer to what the client was told had timed out
            if visit.started:
                raise BrokenOff
            await visit.answer(ACCEPTED)
            return
        await visit.start(response, self._headers)
        await visit.write(bytes(held), more=False)

    async def _pass_piece(self, response: Response, piece: bytes) -> None:
        await self._visit.start(response, self._headers)
        if piece:
            await self._visit.write(piece)

    # -- many messages -----------------------------------------------------------------------------------------------

    async def _pass_events(self, response: Response) -> None:
        """Pass a stream of events; each piece waits for the lines of the events it completes."""
        visit, services = self._visit, self._services
        audit = EventAudit(response.headers, services.limits.max_message_bytes, services.witness.new_hash)
        visit.stream = stream = EventStream(visit.write)
        try:
            await self._pass_each(response, audit, stream)
        finally:
            if visit.conversation.stream is stream:  # nobody can be told anything any more
                visit.conversation.stream = None
                services.conversations.forget(visit.conversation)

    async def _pass_each(self, response: Response, audit: EventAudit, stream: EventStream) -> None:
        visit, services = self._visit, self._services
        announcement = Announcement(services.target.origin, services.public) if self._may_announce(audit) else None
        await visit.start(response, self._headers)
        while piece := await response.read():
            dropped: list[Heard] = []
            for found in audit.feed(piece):
                dropped += await self._take(found)
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
        await visit.write(b"", more=False)

    def _may_announce(self, audit: EventAudit) -> bool:
        """Say whether this may be the stream of an HTTP+SSE server, whose first event says where to POST."""
        return self._visit.method == "GET" and not self._visit.conversation.keys and audit.plain

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
        visit, now = self._visit, time.monotonic()
        steps = [self._hear(heard.message, now) for heard in found]
        recorded = await self._services.recorder.record(steps)
        if recorded == len(steps):
            return [heard for heard, step in zip(found, steps, strict=True) if step.forward is None]
        refusals = [visit.owe(step) for step in steps[recorded:]]
        if visit.started or not refusals[0].errors:
            raise BrokenOff
        await visit.answer(answer_to(refusals[0], "audit_unavailable", ()))
        return []

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
        while len(body) <= METADATA_BYTES and (piece := await response.read()):
            body += piece
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


def _without(piece: bytes, dropped: Sequence[Heard]) -> bytes:
    """Return a piece of a stream without some events; one that has begun to go out goes on."""
    for heard in reversed(dropped):
        if heard.start >= 0:
            piece = piece[: heard.start] + piece[heard.end :]
    return piece
