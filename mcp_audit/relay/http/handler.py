"""One HTTP request's life: who asks, what it says, may it go on, is it in the ledger, and what came back.

Promise: the body that goes on is the one that came, and the response passes piece by piece as it comes, each piece as
soon as the lines of the messages it completes are in the ledger. What ends abnormally upstream ends abnormally here.
Never: a message of our own in place of one that could have passed. Long because a request and its response share what
is open between them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import anyio

from mcp_audit.recorder import Recorder
from mcp_audit.relay.http.access import Access
from mcp_audit.relay.http.answers import Answer, answer_to, plain_answer, status_of
from mcp_audit.relay.http.conversations import Conversation, Conversations
from mcp_audit.relay.http.headers import HeaderRules, Headers, to_client, value_of
from mcp_audit.relay.http.inbound import ClientGone, Receive, read_body, understand
from mcp_audit.relay.http.metadata import METADATA_BYTES, OAuthMetadata
from mcp_audit.relay.http.outbound import EventAudit, EventStream, Heard, WholeAudit, kind_of
from mcp_audit.relay.http.pool import BrokenBody, Pool, Response, UpstreamUnavailable
from mcp_audit.relay.http.retry import RETRY_STATUSES, RetryPolicy, may_repeat
from mcp_audit.relay.http.target import BadTarget, Target
from mcp_audit.relay.stdio import Witness
from mcp_audit.session import Session, Step
from mcp_audit.wire.correlator import is_subscription
from mcp_audit.wire.exchange import Exchange, Outcome, Verdict
from mcp_audit.wire.framing import Line
from mcp_audit.wire.message import Direction, Era, Kind, Message, Payload
from mcp_audit.wire.rewrite import Announcement, Public, Rewrite

__all__ = ["HttpLimits", "HttpRelay"]

_log = logging.getLogger("mcp_audit")
_ACCEPTED = Answer(202, [(b"content-length", b"0")], b"")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]


class HttpLimits(NamedTuple):
    """Sizes in bytes, times in seconds; a time of 0 means never."""

    max_message_bytes: int
    upstream_timeout: float
    call_timeout: float = 0.0


class BrokenOff(Exception):
    """A response has to end where it is, without looking complete."""


class HttpRelay:
    """An ASGI application that relays every request to one upstream.

    Args:
        pool: connections to the upstream.
        access: who may use the listener.
        target: which of the upstream's paths a request means.
        rules: which headers go on.
        witness: of messages that are too large.
        public: the address that clients use, if they were told one.
        metadata: rewrites what OAuth discovery reads; None: it passes as it is.
        retry: of requests that are safe to repeat.
    """

    def __init__(
        self,
        pool: Pool,
        recorder: Recorder,
        conversations: Conversations,
        *,
        access: Access,
        target: Target,
        rules: HeaderRules,
        limits: HttpLimits,
        witness: Witness,
        public: Public = Public(),  # noqa: B008
        metadata: OAuthMetadata | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008
    ) -> None:
        self.retry = retry
        self.pool = pool
        self.recorder = recorder
        self.conversations = conversations
        self.access = access
        self.target = target
        self.rules = rules
        self.limits = limits
        self.public = public
        self.metadata = metadata
        self.witness = witness
        self.told_of_401 = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await _Visit(self, scope, receive, send).run()

    def close(self, now: float) -> Step:
        """End all sessions: what is still open ends as lost."""
        steps = [session.close(now) for session in self.conversations.everything()]
        return Step(finished=tuple(exchange for step in steps for exchange in step.finished))


class _Visit:
    """One request and its response."""

    def __init__(self, relay: HttpRelay, scope: Scope, receive: Receive, send: Send) -> None:
        self._relay = relay
        self._recorder = relay.recorder
        self._scope = scope
        self._method: str = scope["method"]
        self._headers: Headers = scope["headers"]
        self._receive = receive
        self._send = send
        self._client = ""
        self._address = b""  # path and query as the client sent them
        self._target = b""  # and as the upstream gets them
        self._conversation: Conversation
        self._session: Session
        self._opened: tuple[Exchange, ...] = ()
        self._batch = False
        self._started = False  # the head is out
        self._answered = False  # by us
        self._status = 0
        self._response_headers: Headers | None = None  # if they are not those of the response
        self._stream: EventStream | None = None
        self._why = "no_answer"
        self._passed = False  # all of the response is
        self._gone = False

    async def run(self) -> None:
        """Serve the request; a response that is not complete when this returns is broken off."""
        relay = self._relay
        refused = relay.access.check(self._headers)
        if refused is not None:
            await self._turn_away(refused.status, refused.kind, refused.reason, refused.headers)
            return
        self._client = relay.access.client_name(self._headers) or ""
        self._address = self._scope["raw_target"]
        announced = relay.conversations.at_address(self._client, self._address)
        try:
            self._target = announced.target if announced else relay.target.map_target(self._address)
        except BadTarget as error:
            await self._turn_away(400, "bad_target", str(error))
            return
        try:
            body = await read_body(self._receive, relay.limits.max_message_bytes, relay.witness.new_hash)
        except ClientGone:
            return
        self._join(announced or self._find())
        try:
            await self._serve(body)
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave()

    # -- which conversation --------------------------------------------------------------------------------------------

    def _find(self) -> Conversation:
        conversations = self._relay.conversations
        session_id = value_of(self._headers, b"mcp-session-id")
        if session_id:
            return conversations.of_session(self._client, session_id)
        return conversations.begin(self._client)

    def _join(self, conversation: Conversation) -> None:
        self._conversation, self._session = conversation, conversation.session
        self._relay.conversations.enter(conversation)

    async def _leave(self) -> None:
        if self._relay.conversations.leave(self._conversation):
            await self._settle(self._session.close(time.monotonic(), "client_gone" if self._gone else self._why))

    # -- the request ---------------------------------------------------------------------------------------------------

    async def _serve(self, body: Line) -> None:
        step = self._decide(body)
        kind = _denial(step)
        if kind:
            for exchange in step.finished:
                exchange.status = self._status_of(step, kind)
        if not await self._recorder.record([step]):
            refusal = self._session.refuse(step, self._recorder.cause, time.monotonic())
            self._recorder.owe(step, refusal)
            await self._refuse(refusal, "audit_unavailable", [*step.opened, *step.finished])
        elif kind:
            await self._refuse(step, kind, step.finished)
        elif step.forward is None:  # an answer to what the server was told had timed out
            await self._answer(_ACCEPTED)
        elif not any(exchange.held for exchange in step.opened):
            self._opened, self._batch = step.opened, step.batch
            await self._forward(step.forward, step.finished)

    def _status_of(self, step: Step, kind: str) -> int:
        """Return the status of a refusal; with HTTP+SSE answers come on a stream, if there still is one."""
        if self._conversation.stream is not None and step.errors:
            return 202
        gone = self._relay.conversations.was_address(self._client, self._address)
        return 403 if gone else status_of(step, kind)

    def _decide(self, body: Line) -> Step:
        now = time.monotonic()
        if isinstance(body, bytes):
            payload = understand(body, self._headers, self._relay.limits.max_message_bytes)
            return self._session.receive(payload, now)
        id_, commitment = self._relay.witness.commit(body)
        return self._session.oversized(body, Direction.TO_SERVER, id_, commitment, now)

    async def _refuse(self, step: Step, kind: str, refused: Sequence[Exchange]) -> None:
        """Answer in the upstream's place: as the response, or on the stream on which the client expects answers."""
        answer = answer_to(step, kind, refused)
        status = self._status_of(step, kind)
        stream = self._conversation.stream
        if status == 202 and stream is not None:
            await stream.inject(answer.body)
            answer = _ACCEPTED
        await self._answer(answer._replace(status=status))

    async def _turn_away(
        self, status: int, kind: str, reason: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Refuse a request before its body is looked at; the record says who asked for what."""
        session = self._relay.conversations.begin("").session
        verdict = Verdict(False, "access", reason=reason, kind=kind, recorded=True)
        message = Message(b"", Direction.TO_SERVER, Kind.OPAQUE)
        step = session.turn_away(message, verdict, time.monotonic())
        for exchange in step.finished:
            exchange.status = status
        await self._settle(step)
        if kind == "origin_rejected":
            await self._answer(answer_to(Step(), kind, step.finished))
        else:
            await self._answer(plain_answer(status, reason, headers))

    # -- the upstream --------------------------------------------------------------------------------------------------

    async def _forward(self, body: bytes, noted: Sequence[Exchange]) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_client, tasks.cancel_scope)
            if self._relay.limits.call_timeout and self._opened:
                tasks.start_soon(self._keep_deadline, tasks.cancel_scope)
            with suppress(BrokenOff, BrokenBody):
                await self._exchange(body, noted)
            tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._conclude()

    async def _watch_client(self, scope: anyio.CancelScope) -> None:
        """Notice that the client is gone; whoever is connected directly would be noticed as well."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._passed:
            self._gone = True
            scope.cancel()

    async def _keep_deadline(self, scope: anyio.CancelScope) -> None:
        """Give up on what has not been answered in time, and say so where the client waits for it."""
        timeout = self._relay.limits.call_timeout
        await anyio.sleep(timeout)
        late = [exchange for exchange in self._opened if not is_subscription(exchange)]
        data = {"reason": f"no answer within {timeout:g} s (proxy.call_timeout_ms)"}
        now = time.monotonic()
        step = self._session.give_up(late, Outcome.TIMEOUT, now, "upstream_timeout", data, self._batch)
        if not step.finished:
            return
        for exchange in step.finished:
            exchange.status = exchange.status or 504
        with anyio.CancelScope(shield=True):
            await self._settle(step)
            if self._stream is not None:
                await self._stream.inject(answer_to(step, "upstream_timeout", ()).body)
            elif not self._started:
                await self._answer(answer_to(step, "upstream_timeout", ()))
                scope.cancel()
            else:
                scope.cancel()

    async def _exchange(self, body: bytes, noted: Sequence[Exchange]) -> None:
        headers = self._relay.rules.to_upstream(self._headers, self._scope["client"], len(body))
        if self._is_metadata:
            headers = [field for field in headers if field[0].lower() != b"accept-encoding"]
            headers.append((b"accept-encoding", b"identity"))
        timeout = self._header_timeout()
        try:
            with anyio.fail_after(timeout):
                response = await self._ask(headers, body)
        except UpstreamUnavailable as error:
            await self._fail("upstream_unavailable", Outcome.LOST, {"reason": error.cause}, noted)
            return
        except TimeoutError:
            data = {"reason": f"no response within {timeout:g} s (proxy.upstream_timeout_ms)"}
            await self._fail("upstream_timeout", Outcome.TIMEOUT, data, noted)
            return
        try:
            await self._pass_on(response)
            self._passed = True
        finally:
            response.abort()

    async def _ask(self, headers: Headers, body: bytes) -> Response:
        """Send the request; again only where the configuration allows it and nothing can happen twice."""
        pool, retry = self._relay.pool, self._relay.retry
        method, target = self._method.encode("ascii"), self._target
        messages = [exchange.request for exchange in self._opened if exchange.request is not None]
        left = retry.max_retries if retry.max_retries and may_repeat(self._method, self._headers, messages) else 0
        for attempt in range(left):
            try:
                response = await pool.request(method, target, headers, body)
            except UpstreamUnavailable as error:
                if error.sent:
                    raise
                asked = None
            else:
                if response.status not in RETRY_STATUSES:
                    return response
                asked = value_of(response.headers, b"retry-after")
                response.abort()
            for exchange in self._opened:
                exchange.marks += ("retried",)
            await anyio.sleep(retry.pause(attempt, asked, time.time()))
        return await pool.request(method, target, headers, body)

    def _header_timeout(self) -> float | None:
        """Return how long the upstream may take to begin; a stream may have nothing to say for ever."""
        accept = value_of(self._headers, b"accept") or b""
        if self._method == "GET" and b"text/event-stream" in accept:
            return None
        if any(e.request is not None and e.request.method == "subscriptions/listen" for e in self._opened):
            return None
        return self._relay.limits.upstream_timeout or None

    async def _fail(self, kind: str, outcome: Outcome, data: Mapping[str, object], noted: Sequence[Exchange]) -> None:
        """Answer for an upstream that did not."""
        step = self._session.give_up(self._opened, outcome, time.monotonic(), kind, data, self._batch)
        for exchange in step.finished:
            exchange.status = 504 if kind == "upstream_timeout" else 502
        await self._settle(step)
        if step.errors or noted:
            await self._answer(answer_to(step, kind, noted, data))
        else:
            status = 504 if kind == "upstream_timeout" else 502
            await self._answer(plain_answer(status, f"{kind.replace('_', ' ')}: {data['reason']}"))

    # -- the response --------------------------------------------------------------------------------------------------

    @property
    def _is_metadata(self) -> bool:
        metadata = self._relay.metadata
        return metadata is not None and metadata.is_document(self._method, self._address)

    async def _pass_on(self, response: Response) -> None:
        self._learn(response)
        if self._relay.metadata is not None:
            self._response_headers, rewrites = self._relay.metadata.challenges(response.headers)
            await self._note_rewrites(rewrites)
            if self._is_metadata and response.status == 200:
                await self._pass_document(response)
                return
        kind = kind_of(response.headers)
        if kind == "events":
            await self._pass_events(response)
        elif kind == "json" and self._method != "HEAD":
            await self._pass_whole(response)
        else:
            await self._start(response)
            while piece := await response.read():
                await self._write(piece)
            await self._write(b"", more=False)

    async def _pass_document(self, response: Response) -> None:
        """Pass protected resource metadata, which names the address that clients use if it can be read."""
        assert self._relay.metadata is not None
        body = b""
        while len(body) <= METADATA_BYTES and (piece := await response.read()):
            body += piece
        if len(body) <= METADATA_BYTES and value_of(response.headers, b"content-encoding") is None:
            told, rewrites = self._relay.metadata.document(body)
            if rewrites:
                await self._note_rewrites(rewrites)
                kept = [field for field in response.headers if field[0].lower() != b"content-length"]
                self._response_headers, body = [*kept, (b"content-length", b"%d" % len(told))], told
        await self._start(response)
        await self._write(body)
        while piece := await response.read():
            await self._write(piece)
        await self._write(b"", more=False)

    async def _note_rewrites(self, rewrites: Sequence[Rewrite]) -> None:
        """Put on record what is not passed as it came."""
        for rewrite in rewrites:
            message = Message(rewrite.old, Direction.TO_CLIENT, Kind.OPAQUE)
            step = self._session.receive(Payload(rewrite.old, (message,)), time.monotonic())
            for exchange in step.finished:
                exchange.rewrites = (rewrite.name,)
            await self._settle(step)

    def _learn(self, response: Response) -> None:
        """Take what the head says about the session."""
        relay, status = self._relay, response.status
        self._status = status
        session_id = value_of(response.headers, b"mcp-session-id")
        if session_id:
            relay.conversations.name(self._conversation, self._client, session_id)
        if status == 401 and not relay.told_of_401 and relay.rules.withholds_authorization(self._headers):
            relay.told_of_401 = True
            _log.warning(
                "the upstream answers 401, and the client's Authorization was not passed on; "
                "proxy.forward_headers: [Authorization] does that"
            )
        for exchange in self._opened:
            exchange.status = status
            exchange.session = self._session.pseudonym
        has_id = value_of(self._headers, b"mcp-session-id") is not None
        if has_id and (status == 404 or (self._method == "DELETE" and 200 <= status < 300)):
            self._why = "session_end"
            relay.conversations.forget(self._conversation)

    async def _pass_whole(self, response: Response) -> None:
        """Pass a JSON body; a piece that may complete the message waits for its line in the ledger."""
        audit = WholeAudit(response.headers, self._relay.limits.max_message_bytes, self._relay.witness.new_hash)
        held = b""
        try:
            while piece := await response.read():
                held += piece
                if not audit.feed(piece):
                    await self._pass_piece(response, held)
                    held = b""
        except BrokenBody:
            await self._pass_piece(response, held)
            raise
        found = audit.finish()
        if found is not None and await self._take([Heard(found)]):
            if self._started:
                raise BrokenOff  # the answer to what the client was told had timed out
            await self._answer(_ACCEPTED)
            return
        if self._answered:
            return
        await self._start(response)
        await self._write(held, more=False)

    async def _pass_piece(self, response: Response, piece: bytes) -> None:
        await self._start(response)
        if piece:
            await self._write(piece)

    async def _pass_events(self, response: Response) -> None:
        """Pass a stream of events; each piece waits for the lines of the events it completes."""
        relay = self._relay
        audit = EventAudit(response.headers, relay.limits.max_message_bytes, relay.witness.new_hash)
        self._stream = stream = EventStream(self._write)
        try:
            await self._pass_each(response, audit, stream)
        finally:
            if self._conversation.stream is stream:  # nobody can be told anything any more
                self._conversation.stream = None
                relay.conversations.forget(self._conversation)

    async def _pass_each(self, response: Response, audit: EventAudit, stream: EventStream) -> None:
        relay = self._relay
        announcement = Announcement(relay.target.origin, relay.public) if self._may_announce(audit) else None
        await self._start(response)
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
            await self._write(piece)
        await self._write(b"", more=False)

    def _may_announce(self, audit: EventAudit) -> bool:
        """Say whether this may be the stream of an HTTP+SSE server, whose first event says where to POST."""
        return self._method == "GET" and not self._conversation.keys and audit.plain

    async def _announced(self, announcement: Announcement, stream: EventStream) -> None:
        """Note where the client is told to POST; a rewrite goes on record."""
        endpoint = announcement.endpoint
        target = endpoint.upstream_target(self._target) if endpoint is not None else None
        if endpoint is None or target is None:
            return
        addresses = endpoint.addresses(self._address)
        self._relay.conversations.announce(self._conversation, self._client, addresses, target, stream)
        await self._note_rewrites(announcement.rewrites)

    async def _take(self, found: Sequence[Heard]) -> list[Heard]:
        """Record what the upstream says, and return what of it is not to be delivered.

        Raises:
            BrokenOff: the ledger takes it no more; it is owed.
        """
        now = time.monotonic()
        steps = [self._hear(heard.message, now) for heard in found]
        recorded = await self._recorder.record(steps)
        if recorded == len(steps):
            return [heard for heard, step in zip(found, steps, strict=True) if step.forward is None]
        refusals = []
        for step in steps[recorded:]:
            refusal = self._session.refuse(step, self._recorder.cause, time.monotonic())
            self._recorder.owe(step, refusal)
            refusals.append(refusal)
        if not self._started and refusals[0].errors:
            await self._answer(answer_to(refusals[0], "audit_unavailable", ()))
            return []
        raise BrokenOff

    def _hear(self, message: Line | Payload, now: float) -> Step:
        if isinstance(message, Payload):
            return self._session.receive(message, now)
        assert not isinstance(message, bytes)
        id_, commitment = self._relay.witness.commit(message)
        return self._session.oversized(message, Direction.TO_CLIENT, id_, commitment, now, delivered=True)

    # -- how it ends ---------------------------------------------------------------------------------------------------

    async def _conclude(self) -> None:
        """End what this response was to bring and nothing else can bring any more."""
        outcome = Outcome.CANCELLED if self._gone else Outcome.LOST
        ended = [exchange for exchange in self._opened if exchange.era is Era.MODERN or not self._may_go_on]
        await self._settle(self._session.give_up(ended, outcome, time.monotonic(), why="no_answer"))

    @property
    def _may_go_on(self) -> bool:
        """Whether the answer to a legacy request may come on another stream of its session."""
        return self._gone or self._status == 202 or self._stream is not None

    async def _settle(self, step: Step) -> None:
        """Write the lines of what has happened; nothing waits for them."""
        if step.finished and not await self._recorder.record([step]):
            self._recorder.owe(step, self._session.refuse(step, self._recorder.cause, time.monotonic()))

    async def _answer(self, answer: Answer) -> None:
        self._answered = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self._write(answer.body, more=False)

    async def _start(self, response: Response) -> None:
        if not self._started:
            self._started = True
            start = {"type": "http.response.start", "status": response.status, "reason": response.reason}
            headers = response.headers if self._response_headers is None else self._response_headers
            await self._send({**start, "headers": to_client(headers)})

    async def _write(self, data: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


def _without(piece: bytes, dropped: Sequence[Heard]) -> bytes:
    """Return a piece of a stream without events; of one that has partly gone out already the rest goes as well."""
    for heard in reversed(dropped):
        if heard.start >= 0:
            piece = piece[: heard.start] + piece[heard.end :]
    return piece


def _denial(step: Step) -> str:
    """Return the kind of the error with which a step refuses a message, empty if it does not."""
    for exchange in step.finished:
        if not exchange.verdict.allowed and exchange.verdict.kind != "batch_rejected":
            return exchange.verdict.kind
        if exchange.oversized:
            return "message_too_large"
    return ""
