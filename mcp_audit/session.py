"""One client-server conversation: a `Payload` in, one `Step` out.

Pure: no I/O, no clock, no randomness; callers pass `now` (monotonic seconds) and a source of ids.
Promise: `Step.forward` is the very bytes object received, or None. We never re-serialise.
A payload visits: wire.framing, wire.message, here, the gates, wire.exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mcp_audit.middleware import ALLOW, Caller, Gate, Verdict, first_denial
from mcp_audit.wire.exchange import Correlator, Exchange, Outcome, is_tool_error
from mcp_audit.wire.framing import Oversized, recover
from mcp_audit.wire.message import Direction, Era, Id, Kind, Message, Payload
from mcp_audit.wire.peers import PROTOCOL_VERSION, SUBSCRIPTION_ID, Peers
from mcp_audit.wire.refusal import error_object, error_response

__all__ = ["Session", "Step"]

_INTRODUCTIONS = ("initialize", "server/discover")
_NO_ID = Id(None, b"null", "null")
_NOBODY = Caller(client_learned=True, server_learned=True)


class Step(NamedTuple):
    """What the relay must do now, in this order: record, answer, forward.

    Attributes:
        forward: the bytes received, to send on unchanged; None when the message goes no further.
        errors: our own answers, without terminator, and which way each travels.
        opened: requests that wait for an answer from now on.
        finished: exchanges that ended, one-way messages included.
    """

    forward: bytes | None = None
    errors: tuple[tuple[Direction, bytes], ...] = ()
    opened: tuple[Exchange, ...] = ()
    finished: tuple[Exchange, ...] = ()


class Session:
    """Decides about every message between one client and one server, and pairs answers with requests.

    Args:
        gates: asked in order about each message of the client; the first denial wins.
        new_id: makes ids of ledger lines.
        caller: the configured names; `client_learned` and `server_learned` say which of them are to be learned.
    """

    def __init__(self, gates: Sequence[Gate], new_id: Callable[[], str], caller: Caller = _NOBODY) -> None:
        self._gates = tuple(gates)
        self._new_id = new_id
        self._table = Correlator()
        self.peers = Peers(caller)

    @property
    def open_requests(self) -> int:
        """How many requests wait for an answer."""
        return len(self._table)

    def receive(self, payload: Payload, now: float) -> Step:
        """Decide about one unit. A blank line is forwarded and leaves nothing."""
        messages = payload.messages
        if not messages:
            return Step(payload.raw)
        to_server = messages[0].direction is Direction.TO_SERVER
        verdicts = [self._judge(message, now) for message in messages] if to_server and self._gates else None
        if verdicts is not None and not all(verdict.allowed for verdict in verdicts):
            return self._deny(payload, verdicts, now)
        opened: list[Exchange] = []
        finished: list[Exchange] = []
        deliver = True
        for index, message in enumerate(messages):
            verdict = ALLOW if verdicts is None else verdicts[index]
            deliver &= self._accept(message, verdict, now, opened, finished)
        return Step(payload.raw if deliver else None, (), tuple(opened), tuple(finished))

    def refuse(self, step: Step, reason: str, now: float) -> Step:
        """Turn back a step that the ledger could not take; nothing of it was forwarded.

        Requests are answered in the peer's place; an answer that was under way is withheld and its requester told that
        the call was executed. The `finished` of the returned step are the lines still owed to the ledger.
        """
        errors: list[tuple[Direction, bytes]] = []
        owed: list[Exchange] = []
        for exchange in step.opened:
            self._table.withdraw(exchange)
            self._answer_unaudited(exchange, reason, False, errors)
            if exchange.seq is not None:  # its request line is in the ledger, so it must be closed there
                exchange.verdict = Verdict(False, "ledger", reason=reason, kind="audit_unavailable", recorded=True)
                _end(exchange, Outcome.DENIED, now)
                owed.append(exchange)
        for exchange in step.finished:
            # A call that timed out went upstream as well, so it may have been executed.
            executed = exchange.outcome is Outcome.TIMEOUT or (
                exchange.response is not None and exchange.request is not None
            )
            if executed:
                exchange.marks += ("withheld",)
            if executed or exchange.seq is not None:
                owed.append(exchange)
            if executed or exchange.error:
                self._answer_unaudited(exchange, reason, executed, errors)
        return Step(None, tuple(errors), (), tuple(owed))

    def oversized(self, message: Oversized, direction: Direction, id_: str, commitment: str, now: float) -> Step:
        """Answer whoever waits for a message that exceeded the limit; it is not delivered.

        Args:
            id_: of the line that records it, chosen before the message was hashed.
            commitment: to its bytes; empty without a secret.
        """
        found = recover(message, direction)
        exchange: Exchange | None = None
        if found.kind is Kind.RESPONSE:
            exchange = self._table.answer(found)
        if exchange is None:
            exchange = self._begin(found, ALLOW, now)
        else:
            exchange.response = found
        exchange.id = id_
        exchange.oversized, exchange.commitment = message.size, commitment
        exchange.marks += ("too_large",)
        if found.kind in (Kind.REQUEST, Kind.NOTIFICATION) or exchange.request is not found:
            outcome = Outcome.DENIED
        else:
            outcome = Outcome.OPAQUE
        _end(exchange, outcome, now)
        asked = exchange.request
        if asked is None or asked.id is None or asked.kind is not Kind.REQUEST:
            return Step(finished=(exchange,))
        error = self._error(exchange, asked.id, "message_too_large", {"bytes": message.size})
        return Step(None, ((asked.direction.back, error),), (), (exchange,))

    def overdue(self, now: float, timeout: float) -> Step:
        """Give up on what has waited for more than `timeout` seconds; a later answer is recorded, not delivered."""
        errors: list[tuple[Direction, bytes]] = []
        late = self._table.overdue(now, timeout)
        for exchange in late:
            _end(exchange, Outcome.TIMEOUT, now)
            if exchange.request is not None and exchange.request.id is not None:
                error = self._error(exchange, exchange.request.id, "upstream_timeout", {})
                errors.append((exchange.request.direction.back, error))
        return Step(None, tuple(errors), (), tuple(late))

    def close(self, now: float) -> Step:
        """End the session: what is still open ends as lost. Nobody is answered, as without us nobody would be."""
        rest = self._table.drain()
        for exchange in rest:
            _end(exchange, Outcome.LOST, now)
        return Step(finished=tuple(rest))

    def _judge(self, message: Message, now: float) -> Verdict:
        if message.marks:
            reason = message.marks[0]
            kind = "header_mismatch" if reason == "header_mismatch" else "ambiguous_message"
            return Verdict(False, "ambiguity", reason=reason, kind=kind, recorded=True)
        if message.method is None:
            return ALLOW
        return first_denial(self._gates, message, self.peers.caller, now)

    def _accept(
        self, message: Message, verdict: Verdict, now: float, opened: list[Exchange], finished: list[Exchange]
    ) -> bool:
        """Take note of a message that may pass; return whether it is to be delivered."""
        kind = message.kind
        if kind is Kind.OPAQUE or (message.marks and message.direction is Direction.TO_SERVER):
            exchange = self._begin(message, verdict, now)
            exchange.marks = message.marks
            _end(exchange, Outcome.OPAQUE, now)
            finished.append(exchange)
            return True
        if kind is Kind.RESPONSE:
            return self._close_pair(message, now, finished)
        exchange = self._begin(message, verdict, now)
        exchange.marks = message.marks
        if kind is Kind.REQUEST:
            exchange.continues, guessed = self._table.continued(message)
            if guessed:
                exchange.marks += ("guessed",)
            if self._table.open(exchange):
                exchange.marks += ("id_reused",)
            opened.append(exchange)
            if message.id is None or message.id.key is None:
                # Nothing can answer a null id, so waiting for it would only make it `lost` at the end.
                _end(exchange, Outcome.NOTIFICATION, now)
                finished.append(exchange)
                opened.pop()
            return True
        if message.method == "notifications/cancelled":
            withdrawn = self._table.cancelled(message)
            if withdrawn is not None:
                _end(withdrawn, Outcome.CANCELLED, now)
                finished.append(withdrawn)
                exchange.era = withdrawn.era
        _end(exchange, Outcome.NOTIFICATION, now)
        finished.append(exchange)
        return True

    def _close_pair(self, response: Message, now: float, finished: list[Exchange]) -> bool:
        exchange = self._table.answer(response)
        if exchange is None:
            return self._stray(response, now, finished)
        exchange.response = response
        exchange.marks += response.marks
        self.peers.learn_from_answer(exchange)
        if exchange.request is not None and exchange.request.method in _INTRODUCTIONS:
            exchange.server_id = self.peers.caller.server_id
        if response.error:
            outcome = Outcome.RPC_ERROR
        elif exchange.request is not None and exchange.request.method == "tools/call" and is_tool_error(response):
            outcome = Outcome.TOOL_ERROR
        else:
            outcome = Outcome.ANSWERED
            self._table.ask_for_input(exchange)
        _end(exchange, outcome, now)
        finished.append(exchange)
        return True

    def _stray(self, response: Message, now: float, finished: list[Exchange]) -> bool:
        """Record an answer that nothing open waits for."""
        known = self._table.late_era(response)
        exchange = self._begin(None, ALLOW, now)
        exchange.response = response
        exchange.marks = ("late" if known else "unmatched", *response.marks)
        if known:
            exchange.era = known[0]
        _end(exchange, Outcome.OPAQUE, now)
        finished.append(exchange)
        return known is None or known[1]

    def _deny(self, payload: Payload, verdicts: Sequence[Verdict], now: float) -> Step:
        """Answer a unit of which at least one message is denied; a batch goes through whole or not at all."""
        finished: list[Exchange] = []
        answers: list[bytes] = []
        for message, verdict in zip(payload.messages, verdicts, strict=True):
            if verdict.allowed:
                verdict = Verdict(
                    False, "batch", reason="another message of its batch is denied", kind="batch_rejected", recorded=True
                )
            exchange = self._begin(message, verdict, now)
            exchange.marks = message.marks
            _end(exchange, Outcome.RATE_LIMITED if verdict.kind == "rate_limited" else Outcome.DENIED, now)
            finished.append(exchange)
            if _wants_answer(message):
                token = message.id or _NO_ID
                answers.append(self._error(exchange, token, verdict.kind, _denial_data(verdict)))
        back = payload.messages[0].direction.back
        if not answers:
            return Step(finished=tuple(finished))
        answer = b"[" + b",".join(answers) + b"]" if payload.batch else answers[0]
        return Step(None, ((back, answer),), (), tuple(finished))

    def _begin(self, message: Message | None, verdict: Verdict, now: float) -> Exchange:
        """Start an exchange with who and which era it belongs to; a response is recorded without a request."""
        peers = self.peers
        if message is not None and message.method is not None:
            peers.learn(message)
        if message is not None and message.kind is Kind.RESPONSE:
            request, response = None, message
        else:
            request, response = message, None
        era, version = self._era(message)
        caller = peers.caller
        return Exchange(
            self._new_id(), request, response, era, version, caller.client_id, caller.server_id, verdict, now
        )  # fmt: skip

    def _era(self, message: Message | None) -> tuple[Era, str]:
        peers = self.peers
        if message is None or message.method is None:
            return peers.era, peers.version
        if message.kind is Kind.REQUEST:
            version = peers.modern_version(message)
            return (Era.MODERN, version) if version is not None else (Era.LEGACY, peers.legacy_version)
        if PROTOCOL_VERSION in message.meta or SUBSCRIPTION_ID in message.meta:
            return Era.MODERN, peers.modern_version(message) or peers.version
        if message.method == "notifications/progress":
            era = self._table.progress_era(message)
            if era is not None:
                return era, peers.version_of(era)
        return peers.era, peers.version

    def _answer_unaudited(
        self, exchange: Exchange, reason: str, executed: bool, errors: list[tuple[Direction, bytes]]
    ) -> None:
        request = exchange.request
        if request is None or not _wants_answer(request):
            return
        entry_id = exchange.id if executed or exchange.seq is not None else None
        data: dict[str, object] = {"reason": reason, "executed": executed}
        exchange.error = error_object("audit_unavailable", exchange.era, entry_id, data)
        token = (request.id or _NO_ID).token
        error = error_response(token, "audit_unavailable", exchange.era, entry_id, data)
        errors.append((request.direction.back, error))

    def _error(self, exchange: Exchange, id_: Id, kind: str, data: dict[str, object]) -> bytes:
        exchange.error = error_object(kind, exchange.era, exchange.id, data)
        return error_response(id_.token, kind, exchange.era, exchange.id, data)


def _end(exchange: Exchange, outcome: Outcome, now: float) -> None:
    exchange.outcome = outcome
    exchange.ended = now


def _wants_answer(message: Message) -> bool:
    """Whether a denied message is answered: requests are, and so is what may have been one."""
    return message.kind is Kind.REQUEST or (message.kind is Kind.OPAQUE and bool(message.marks))


def _denial_data(verdict: Verdict) -> dict[str, object]:
    data: dict[str, object] = {"action": "deny"}
    if verdict.gate == "policy":
        data["rule_index"] = verdict.rule
    if verdict.reason:
        data["reason"] = verdict.reason
    return data
