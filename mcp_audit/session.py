"""One client-server conversation: a `Payload` in, one `Step` out.

Pure: no I/O, no clock, no randomness; callers pass `now` (monotonic seconds) and a source of ids.
Promise: `Step.forward` is the very bytes object received, or None. We never re-serialise.
A payload visits: wire.framing, wire.message, here, the gates, wire.exchange. Long because every way in which an
exchange can begin and end is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from mcp_audit.middleware import ALLOW, Caller, Gate, Verdict, first_denial
from mcp_audit.wire.correlator import Correlator, is_tool_error
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.framing import Oversized, recover
from mcp_audit.wire.message import Direction, Id, Kind, Message, Payload
from mcp_audit.wire.peers import Peers
from mcp_audit.wire.refusal import error_object, error_response
from mcp_audit.wire.rounds import Rounds

__all__ = ["Session", "Step"]

_INTRODUCTIONS = ("initialize", "server/discover")
_ONE_WAY = (Outcome.NOTIFICATION, Outcome.OPAQUE)
_NO_ID = Id(None, b"null", "null")
_NOBODY = Caller(client_learned=True, server_learned=True)
_NOTHING: Mapping[str, object] = MappingProxyType({})
_HELD: dict[str, object] = {"reason": "the ledger is too slow for the deadline", "executed": False}
_BATCH_REJECTED = Verdict(
    False, "batch", reason="another message of its batch is denied", kind="batch_rejected", recorded=True
)


class Step(NamedTuple):
    """What the relay must do now, in this order: record, answer, forward.

    Attributes:
        forward: the bytes received, to send on unchanged; None when the message goes no further.
        errors: our own answers, without terminator, and which way each travels.
        opened: requests that wait for an answer from now on.
        finished: exchanges that ended, one-way messages included.
        batch: what came was an array, so errors about it come as arrays.
    """

    forward: bytes | None = None
    errors: tuple[tuple[Direction, bytes], ...] = ()
    opened: tuple[Exchange, ...] = ()
    finished: tuple[Exchange, ...] = ()
    batch: bool = False


class Session:
    """Decides about every message between one client and one server, and pairs answers with requests.

    Args:
        gates: asked in order about each message of the client; the first denial wins. Who made the session may change
            the sequence between two messages.
        new_id: makes ids of ledger lines.
        caller: the configured names; `client_learned` and `server_learned` say which of them are to be learned.
        rounds: where multi round-trip requests are linked, if more than this session takes part; None: its own.
    """

    def __init__(
        self,
        gates: Sequence[Gate],
        new_id: Callable[[], str],
        caller: Caller = _NOBODY,
        rounds: Rounds | None = None,
    ) -> None:
        self._gates = gates
        self._new_id = new_id
        self._table = Correlator()
        self._rounds = rounds or Rounds()
        self.peers = Peers(caller)
        self.pseudonym = ""  # of the HTTP session

    @property
    def open_requests(self) -> int:
        """How many requests wait for an answer."""
        return len(self._table)

    def receive(self, payload: Payload, now: float) -> Step:
        """Decide about one unit. A blank line is forwarded and leaves nothing."""
        messages = payload.messages
        if not messages:
            return Step(payload.raw)
        verdicts = None
        if self._gates and messages[0].direction is Direction.TO_SERVER:
            verdicts = [self._judge(message, now) for message in messages]
            if not all(verdict.allowed for verdict in verdicts):
                return self._deny(payload, verdicts, now)
        opened: list[Exchange] = []
        finished: list[Exchange] = []
        deliver = False  # of a batch each message would have to be held back, for it goes through whole or not at all
        for index, message in enumerate(messages):
            verdict = ALLOW if verdicts is None else verdicts[index]
            deliver |= self._accept(message, verdict, now, opened, finished)
        return Step(payload.raw if deliver else None, (), tuple(opened), tuple(finished), payload.batch)

    def refuse(self, step: Step, reason: str, now: float) -> Step:
        """Turn back a step that the ledger could not take; nothing of it was forwarded.

        Requests are answered in the peer's place; an answer that was under way is withheld and its requester told that
        the call was executed. The `finished` of the returned step are the lines still owed to the ledger.
        """
        if not step.opened and not step.finished:  # a blank line owes the ledger nothing
            return step
        errors: list[tuple[Direction, bytes]] = []
        owed: list[Exchange] = []
        for exchange in step.opened:
            if exchange.outcome is not Outcome.PENDING:  # it ended, and was answered, while the ledger was waited for
                continue
            self._table.withdraw(exchange)
            _end(exchange, Outcome.DENIED, exchange.started)
            if exchange.owes_line:
                exchange.verdict = Verdict(False, "ledger", reason=reason, kind="audit_unavailable", recorded=True)
                owed.append(exchange)
            self._answer_unaudited(exchange, reason, errors)
        for exchange in step.finished:
            request = exchange.request
            waits = exchange.outcome in _ONE_WAY and request is not None and _wants_answer(request)
            if waits or exchange.error or exchange.may_have_run:
                self._answer_unaudited(exchange, reason, errors)
            if exchange.owes_line:
                exchange.marks += ("withheld",) if exchange.may_have_run else ()
                owed.append(exchange)
        return Step(None, _bundled(errors) if step.batch else tuple(errors), (), tuple(owed))

    def oversized(
        self,
        message: Oversized,
        direction: Direction,
        id_: str,
        commitment: str,
        now: float,
        delivered: bool = False,
    ) -> Step:
        """Answer whoever waits for a message that exceeded the limit; it is not delivered.

        Args:
            id_: of the line that records it, chosen before the message was hashed.
            commitment: to its bytes; empty without a secret.
            delivered: it is on its way nevertheless, a piece at a time, so nobody is answered.
        """
        found = recover(message, direction)
        exchange = self._table.answer(found) if found.kind is Kind.RESPONSE else None
        if exchange is not None:
            exchange.response = found
        else:
            exchange = self._begin(found, ALLOW, now)
            exchange.era, exchange.version = self.peers.era, self.peers.version  # its own word for it is lost
            if found.kind is Kind.RESPONSE:
                exchange.marks = ("late" if self._table.late_era(found) else "unmatched",)
        exchange.id = id_
        exchange.oversized, exchange.commitment = message.size, commitment
        exchange.marks += ("too_large",)
        _end(exchange, Outcome.OPAQUE if found.kind is Kind.OPAQUE else Outcome.DENIED, exchange.started)
        if delivered:
            if exchange.request is not None and exchange.response is not None:
                exchange.outcome = Outcome.ANSWERED
            return Step(b"", finished=(exchange,))
        asked = exchange.request
        if asked is None or asked.id is None or asked.kind is not Kind.REQUEST:
            return Step(finished=(exchange,))
        error = self._error(exchange, asked.id, "message_too_large", {"bytes": message.size})
        return Step(None, ((asked.direction.back, error),), (), (exchange,))

    def turn_away(self, message: Message, verdict: Verdict, now: float) -> Step:
        """Record a message that was refused before any gate was asked, and what could not be looked at."""
        exchange = self._begin(message, verdict, now)
        _end(exchange, Outcome.DENIED, now)
        return Step(finished=(exchange,))

    def overdue(self, now: float, timeout: float, of: Direction | None = None) -> Step:
        """Give up on what has waited for more than `timeout` seconds; a later answer is recorded, not delivered.

        What still waits for the ledger then was not forwarded, and must not be any more.

        Args:
            of: only requests that travel so, for whoever cannot tell the other side; None: all.
        """
        errors: list[tuple[Direction, bytes]] = []
        late = self._table.overdue(now, timeout, of)
        for exchange in late:
            _end(exchange, Outcome.TIMEOUT, now)
            if exchange.request is not None and exchange.request.id is not None:
                kind, data = ("audit_unavailable", _HELD) if exchange.held else ("upstream_timeout", {})
                error = self._error(exchange, exchange.request.id, kind, data)
                errors.append((exchange.request.direction.back, error))
        return Step(None, tuple(errors), (), tuple(late))

    def give_up(
        self,
        exchanges: Iterable[Exchange],
        outcome: Outcome,
        now: float,
        kind: str = "",
        data: Mapping[str, object] = _NOTHING,
        batch: bool = False,
        why: str = "",
    ) -> Step:
        """End those of `exchanges` that are still open, because what should have brought their answers is gone.

        Args:
            kind: of the error that their requesters get, and nothing after it; empty: nobody is answered.
            data: what else `error.data` says.
            batch: they came as an array, so the errors are one.
            why: of lost ones, for the record.
        """
        errors: list[tuple[Direction, bytes]] = []
        ended = [exchange for exchange in exchanges if exchange.outcome is Outcome.PENDING]
        for exchange in ended:
            self._table.give_up(exchange, deliver_late=not kind)
            _end(exchange, outcome, now)
            exchange.why = why
            request = exchange.request
            if kind and request is not None and request.id is not None:
                errors.append((request.direction.back, self._error(exchange, request.id, kind, data)))
        return Step(None, _bundled(errors) if batch else tuple(errors), (), tuple(ended), batch)

    def close(self, now: float, why: str = "") -> Step:
        """End the session: what is still open ends as lost. Nobody is answered, as without us nobody would be.

        Args:
            why: for the record; empty: the run ends.
        """
        rest = self._table.drain()
        for exchange in rest:
            _end(exchange, Outcome.LOST, now)
            exchange.why = why
        return Step(finished=tuple(rest))

    def _judge(self, message: Message, now: float) -> Verdict:
        if message.marks:
            reason = message.marks[0]
            kind = "header_mismatch" if reason == "header_mismatch" else "ambiguous_message"
            return Verdict(False, "ambiguity", reason=reason, kind=kind, recorded=True)
        if message.method is None:
            return ALLOW
        self.peers.learn(message)  # a modern message says who sends it, and a rule may name just that client
        return first_denial(self._gates, message, self.peers.caller, now)

    def _accept(
        self, message: Message, verdict: Verdict, now: float, opened: list[Exchange], finished: list[Exchange]
    ) -> bool:
        """Take note of a message that may pass; return whether it is to be delivered."""
        kind, id_ = message.kind, message.id
        ambiguous = message.marks and message.direction is Direction.TO_SERVER
        if kind is Kind.RESPONSE and not ambiguous:
            return self._close_pair(message, now, finished)
        self.peers.learn(message)
        exchange = self._begin(message, verdict, now)
        if ambiguous or kind is Kind.OPAQUE:
            exchange.request, exchange.response = message, None  # whatever it may be, its bytes are the record
            _end(exchange, Outcome.OPAQUE, now)
        elif kind is Kind.REQUEST and id_ is not None and id_.key is not None:
            self._open(exchange, message)
            opened.append(exchange)
            return True
        else:
            # Nothing can answer a null id, so waiting for an answer would only make it `lost` at the end.
            _end(exchange, Outcome.NOTIFICATION, now)
            if message.method == "notifications/cancelled":
                withdrawn = self._table.cancelled(message)
                if withdrawn is not None:
                    _end(withdrawn, Outcome.CANCELLED, now)
                    finished.append(withdrawn)
        finished.append(exchange)
        return True

    def _open(self, exchange: Exchange, request: Message) -> None:
        if request.direction is Direction.TO_SERVER:
            exchange.continues, guessed = self._rounds.continued(request)
            if guessed:
                exchange.marks += ("guessed",)
        if self._table.open(exchange):
            exchange.marks += ("id_reused",)

    def _close_pair(self, response: Message, now: float, finished: list[Exchange]) -> bool:
        exchange = self._table.answer(response)
        if exchange is None:
            return self._stray(response, now, finished)
        exchange.response = response
        exchange.marks += response.marks
        self.peers.learn_from_answer(exchange)
        method = exchange.request.method if exchange.request is not None else None
        if method in _INTRODUCTIONS:
            exchange.server_id = self.peers.caller.server_id
        if response.error:
            outcome = Outcome.RPC_ERROR
        elif method == "tools/call" and is_tool_error(response):
            outcome = Outcome.TOOL_ERROR
        else:
            outcome = Outcome.ANSWERED
            self._rounds.ask(exchange)
        _end(exchange, outcome, now)
        finished.append(exchange)
        return True

    def _stray(self, response: Message, now: float, finished: list[Exchange]) -> bool:
        """Record an answer that nothing open waits for."""
        known = self._table.late_era(response)
        exchange = self._begin(response, ALLOW, now)
        exchange.marks = ("late" if known else "unmatched", *response.marks)
        if known:
            exchange.era, exchange.version = known[0], self.peers.version_of(known[0])
        _end(exchange, Outcome.OPAQUE, now)
        finished.append(exchange)
        return known is None or known[1]

    def _deny(self, payload: Payload, verdicts: Sequence[Verdict], now: float) -> Step:
        """Answer a unit of which at least one message is denied; a batch goes through whole or not at all."""
        finished: list[Exchange] = []
        errors: list[tuple[Direction, bytes]] = []
        for message, verdict in zip(payload.messages, verdicts, strict=True):
            verdict = _BATCH_REJECTED if verdict.allowed else verdict
            exchange = self._begin(message, verdict, now)
            _end(exchange, Outcome.RATE_LIMITED if verdict.kind == "rate_limited" else Outcome.DENIED, now)
            finished.append(exchange)
            if _wants_answer(message):
                error = self._error(exchange, message.id or _NO_ID, verdict.kind, verdict.data)
                errors.append((message.direction.back, error))
        return Step(None, _bundled(errors) if payload.batch else tuple(errors), (), tuple(finished), payload.batch)

    def _begin(self, message: Message, verdict: Verdict, now: float) -> Exchange:
        """Start an exchange with who and which era it belongs to; an answer to nothing has no request."""
        peers = self.peers
        caller = peers.caller
        era, version = peers.era_of(message, self._table)
        request, response = (None, message) if message.kind is Kind.RESPONSE else (message, None)
        exchange = Exchange(
            self._new_id(), request, response, era, version, caller.client_id, caller.server_id, verdict, now
        )  # fmt: skip
        exchange.marks = message.marks
        exchange.session = self.pseudonym
        return exchange

    def _answer_unaudited(self, exchange: Exchange, reason: str, errors: list[tuple[Direction, bytes]]) -> None:
        """Tell a requester that the ledger takes nothing, and whether what it asked for may have happened."""
        request = exchange.request
        if request is None:
            return
        has_line = exchange.recorded or exchange.owes_line
        data: dict[str, object] = {"reason": reason, "executed": exchange.may_have_run}
        error = self._error(exchange, request.id or _NO_ID, "audit_unavailable", data, has_line)
        errors.append((request.direction.back, error))

    def _error(
        self, exchange: Exchange, id_: Id, kind: str, data: Mapping[str, object], has_line: bool = True
    ) -> bytes:
        entry_id = exchange.id if has_line else None
        exchange.error = error_object(kind, exchange.era, entry_id, data)
        return error_response(id_.token, kind, exchange.era, entry_id, data)


def _end(exchange: Exchange, outcome: Outcome, now: float) -> None:
    exchange.outcome = outcome
    exchange.ended = now


def _wants_answer(message: Message) -> bool:
    """Say whether a denied message is answered: a request is, and so is what the client may have meant as one."""
    if message.kind is Kind.OPAQUE:
        return bool(message.marks) and message.direction is Direction.TO_SERVER
    return message.kind is Kind.REQUEST


def _bundled(errors: Iterable[tuple[Direction, bytes]]) -> tuple[tuple[Direction, bytes], ...]:
    """Return errors about a batch as arrays, one for each direction."""
    arrays: dict[Direction, list[bytes]] = {}
    for to, error in errors:
        arrays.setdefault(to, []).append(error)
    return tuple((to, b"[" + b",".join(some) + b"]") for to, some in arrays.items())
