"""One request to the proxy: what is known of it, and the response it gets, ours or the upstream's.

The parts that serve a request share this and nothing else. It decides nothing. A response that is not complete when the
request has been served is broken off by the listener.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import anyio

from mcp_audit.recorder import Recorder
from mcp_audit.relay.http.access import Access
from mcp_audit.relay.http.answers import Answer
from mcp_audit.relay.http.conversations import Conversation, Conversations
from mcp_audit.relay.http.headers import HeaderRules, Headers, to_client
from mcp_audit.relay.http.inbound import Receive
from mcp_audit.relay.http.metadata import OAuthMetadata
from mcp_audit.relay.http.outbound import EventStream
from mcp_audit.relay.http.pool import Pool, Response
from mcp_audit.relay.http.retry import RetryPolicy
from mcp_audit.relay.http.target import Target
from mcp_audit.relay.stdio import Witness
from mcp_audit.session import Session, Step
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.rewrite import Public

__all__ = ["BrokenOff", "HttpLimits", "Scope", "Send", "Services", "Visit"]

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BrokenOff(Exception):
    """A response has to end where it is, without looking complete."""


class HttpLimits(NamedTuple):
    """Sizes in bytes, times in seconds; a time of 0 means never."""

    max_message_bytes: int
    upstream_timeout: float
    call_timeout: float = 0.0


@dataclass(slots=True, kw_only=True)
class Services:
    """What all requests of one proxy share.

    Attributes:
        pool: connections to the upstream.
        access: who may use the listener.
        target: which of the upstream's paths a request means.
        rules: which headers go on.
        witness: of messages that are too large.
        public: the address that clients use, if they were told one.
        metadata: rewrites what OAuth discovery reads; None: it passes as it is.
        retry: of requests that are safe to repeat.
        told_of_401: the operator was told why the upstream answers so.
    """

    pool: Pool
    recorder: Recorder
    conversations: Conversations
    access: Access
    target: Target
    rules: HeaderRules
    limits: HttpLimits
    witness: Witness
    public: Public = field(default_factory=Public)
    metadata: OAuthMetadata | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    told_of_401: bool = False


class Visit:
    """See the module.

    Attributes:
        client: the name that the client's token proves, empty without one.
        address: path and query as the client sent them; `target`: as the upstream gets them.
        conversation: whose request this is; set once its body is there.
        opened: requests in the body that wait for their answers; `batch`: they came as an array.
        started: a head is out; `answered`: it was ours.
        status: of the upstream's response, 0 before.
        stream: the response as a stream of events, if it is one.
        modern: the body is requests that stand alone, whatever session the headers name.
        why: what kept answers from coming, for the record.
        gone: the client left before the response was complete.
        overdue: the client is being told that its time is over, so nothing else may be the response.
    """

    def __init__(self, services: Services, scope: Scope, receive: Receive, send: Send) -> None:
        self.services = services
        self.scope = scope
        self.method: str = scope["method"]
        self.headers: Headers = scope["headers"]
        self.receive = receive
        self.client = ""
        self.address: bytes = scope["raw_target"]
        self.target = b""
        self.conversation: Conversation
        self.opened: tuple[Exchange, ...] = ()
        self.batch = False
        self.started = self.answered = self.gone = self.overdue = self.modern = False
        self.status = 0
        self.stream: EventStream | None = None
        self.why = "no_answer"
        self._send = send

    @property
    def session(self) -> Session:
        """The session that decides about its messages."""
        return self.conversation.session

    async def settle(self, step: Step) -> None:
        """Write the lines of what has happened; nothing waits for them."""
        if step.finished and not await self.record([step]):
            self.owe(step)

    async def record(self, steps: Sequence[Step]) -> int:
        """Write the lines of steps and return how many of these may take effect, also if the client leaves meanwhile.

        What has happened is on record then, and not only at the end of the run.
        """
        recorded = 0
        with anyio.CancelScope(shield=True):
            recorded += await self.services.recorder.record(steps)
        return recorded

    def owe(self, step: Step) -> Step:
        """Note that the ledger could not take a step, and return what is said and recorded instead."""
        recorder = self.services.recorder
        refusal = self.session.refuse(step, recorder.cause, time.monotonic())
        recorder.owe(step, refusal)
        return refusal

    async def answer(self, answer: Answer) -> None:
        """Send a whole response of ours."""
        self.answered = self.started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await self.write(answer.body, more=False)

    async def start(self, response: Response, headers: Headers | None = None) -> None:
        """Send the head of the upstream's response, if it is not out; `headers` may replace its own."""
        if not self.started:
            self.started = True
            start = {"type": "http.response.start", "status": response.status, "reason": response.reason}
            await self._send({**start, "headers": to_client(response.headers if headers is None else headers)})

    async def write(self, data: bytes, more: bool = True) -> None:
        """Send a piece of the body, the last one if there is no more."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
