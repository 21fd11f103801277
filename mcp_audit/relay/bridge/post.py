"""What is open towards the upstream: one line on its way, and the stream beside; what is waited for, what may fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from mcp_audit.relay.bridge.upstream import Cancellable
from mcp_audit.session import Step
from mcp_audit.wire.correlator import is_subscription
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.message import Era, Kind, Message, Payload

__all__ = ["Failure", "Listening", "Post"]


class Failure(Exception):
    """The upstream did not answer a message.

    Args:
        reason: a sentence for the client.
        status: of the HTTP response that came instead, 0 for none.
        timed_out: nothing came in time.
        lost: the upstream has forgotten the session.
    """

    def __init__(self, reason: str, status: int = 0, *, timed_out: bool = False, lost: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.timed_out = timed_out
        self.lost = lost

    @property
    def kind(self) -> str:
        """What the error of ours is called."""
        return "upstream_timeout" if self.timed_out else "upstream_unavailable"

    @property
    def data(self) -> Mapping[str, object]:
        """What the error of ours says beside its kind."""
        return {"status": self.status, "reason": self.reason} if self.status else {"reason": self.reason}


class Listening:
    """The stream beside the requests.

    Attributes:
        waits: its waits for the upstream.
        ready: it is open, or known not to be.
        refused: the upstream would not have it, for now.
    """

    def __init__(self) -> None:
        self.waits = Cancellable()
        self.ready = anyio.Event()
        self.refused = False


class Post:
    """A message or batch of the client, as one POST and all that follows from it.

    Attributes:
        exchanges: the requests in it, which wait for answers.
        sent: its last byte is out, or it failed.
        accepted: the head of its answer came, or it failed.
        settled: all its requests are answered, or it failed.
        waits: waits for the upstream, which a cancellation ends.
    """

    def __init__(
        self, body: bytes, messages: Sequence[Message] = (), step: Step | None = None, era: Era = Era.LEGACY
    ) -> None:
        self.body = body
        self.messages = messages
        self.exchanges: Sequence[Exchange] = step.opened if step is not None else ()
        self.batch = step is not None and step.batch
        self.era = era
        self.sent, self.accepted, self.settled = anyio.Event(), anyio.Event(), anyio.Event()
        self.waits = Cancellable()

    @classmethod
    def of(cls, payload: Payload, step: Step) -> Post:
        """Return the POST of a line that may go on; its terminator stays behind."""
        first = next(iter((*step.opened, *step.finished)), None)
        body = payload.raw.removesuffix(b"\n").removesuffix(b"\r")
        return cls(body, payload.messages, step, first.era if first is not None else Era.LEGACY)

    @property
    def is_handshake(self) -> bool:
        """Whether this is what a legacy session begins with."""
        return any(each.request is not None and each.request.method == "initialize" for each in self.exchanges)

    @property
    def succeeded(self) -> bool:
        """Whether all its requests got results."""
        return all(exchange.outcome is Outcome.ANSWERED for exchange in self.exchanges)

    @property
    def is_initialized(self) -> bool:
        """Whether this ends the handshake."""
        return any(message.method == "notifications/initialized" for message in self.messages)

    @property
    def is_response(self) -> bool:
        """Whether the upstream waits for this."""
        return bool(self.messages) and all(message.kind is Kind.RESPONSE for message in self.messages)

    @property
    def is_noise(self) -> bool:
        """Whether nobody knows what it is; the upstream may have something to say about it."""
        return any(message.kind is Kind.OPAQUE for message in self.messages)

    @property
    def is_one_way(self) -> bool:
        """Whether no answer is expected but that it was accepted."""
        return not (self.exchanges or self.is_noise)

    @property
    def is_subscription(self) -> bool:
        """Whether its answer stays open."""
        return any(map(is_subscription, self.exchanges))

    @property
    def waiting(self) -> list[Exchange]:
        """The requests in it that are not answered yet."""
        return [exchange for exchange in self.exchanges if exchange.outcome is Outcome.PENDING]

    @property
    def busy(self) -> bool:
        """Whether it has an effect or an answer to come; a subscription goes on for ever and does not count."""
        if self.is_noise:
            return True  # what the upstream says about it ends it, and has no id to be known by
        if not self.exchanges:
            return not self.accepted.is_set()
        # Nobody waits for the answer to what was cancelled, only for its way out.
        return not self.sent.is_set() or any(not is_subscription(exchange) for exchange in self.waiting)

    @property
    def is_late(self) -> bool:
        """Whether its requesters were told already that their time is up."""
        return bool(self.exchanges) and all(exchange.outcome is Outcome.TIMEOUT for exchange in self.exchanges)

    def advance(self) -> None:
        """Take note that answers may have come."""
        if not self.waiting:
            self.settled.set()

    def end(self) -> None:
        """Let nobody wait for it any longer."""
        for event in (self.sent, self.accepted, self.settled):
            event.set()
