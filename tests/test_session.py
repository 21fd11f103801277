"""What the session decides about every kind of message, and what it says to whom. No ledger, no clock, no I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from memory_ledger import (
    MODERN,
    TO_CLIENT,
    TO_SERVER,
    Ids,
    encoded,
    modern,
    notification,
    request,
    result,
    rpc_error,
    sent,
)

from mcp_audit.middleware import ALLOW, Caller, Gate, Verdict
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.middleware.rate_limit import Limit, RateLimit
from mcp_audit.session import Session, Step
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.framing import LineDecoder, Oversized
from mcp_audit.wire.message import Direction, Era, Message

DENY_RM = Policy([Rule("deny", tool_name="rm", reason="too dangerous")], "allow")
LISTEN = "subscriptions/listen"


class Asks:
    """A gate that does as it is told."""

    name = "asks"

    def __init__(self, check: Callable[[Message, Caller, float], Any] = lambda message, caller, now: ALLOW) -> None:
        self._check = check
        self.seen: list[str | None] = []

    def check(self, message: Message, caller: Caller, now: float) -> Verdict:
        self.seen.append(message.method)
        verdict: Verdict = self._check(message, caller, now)
        return verdict


def raises(message: Message, caller: Caller, now: float) -> Verdict:
    raise RuntimeError("secret of the gate")


def session(*gates: Gate) -> Session:
    return Session(gates, Ids(), Caller("", "server", True, True))


def tell(of: Session, content: Any, direction: Direction = TO_SERVER, now: float = 0.0) -> Step:
    return of.receive(sent(content, direction), now)


def only(exchanges: tuple[Exchange, ...]) -> Exchange:
    [exchange] = exchanges
    return exchange


def error_of(step: Step, to: Direction = TO_CLIENT) -> dict[str, Any]:
    """The one error of a step."""
    [(direction, error)] = step.errors
    assert direction is to
    decoded: dict[str, Any] = json.loads(error)
    return decoded


# What passes


@pytest.mark.parametrize("gates", [[], [Asks()]], ids=["neutral", "enforcing"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(request(1), id="request"),
        pytest.param(modern(1), id="modern-request"),
        pytest.param(request(None), id="null-id"),
        pytest.param(notification("notifications/x"), id="notification"),
        pytest.param(result(1), id="answer"),
        pytest.param(rpc_error(1), id="error"),
        pytest.param([request(1), notification("x"), result(2)], id="batch"),
        pytest.param(b"\n", id="blank"),
        pytest.param(b" \r\n", id="blank-with-crlf"),
        pytest.param({}, id="empty-object"),
    ],
)
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
def test_what_passes_is_the_very_object_that_came(gates: list[Gate], content: Any, direction: Direction) -> None:
    """`forward is raw`, with and without gates, both ways."""
    payload = sent(content, direction)

    step = session(*gates).receive(payload, 0.0)

    assert step.forward is payload.raw
    assert step.errors == ()


NOISE = [
    pytest.param(b"Server listening on stdio\n", "not_json", id="banner"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,\n', "not_json", id="broken"),
    pytest.param(b'{"jsonrpc":"2.0",\r"id":1,"method":"x"}\n', "bare_cr", id="bare-cr"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"\xff"}\n', "invalid_utf8", id="not-utf8"),
    pytest.param(b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"x"}\n', "bom", id="bom"),
    pytest.param(b'{"id":1,"method":"x","params":{"a":%b}}\n' % (b"[" * 600 + b"]" * 600), "too_deep", id="deep"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}\n', "duplicate_key", id="two-ids"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"Method":"y","method":"x"}\n', "case_variant_key", id="two-cases"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"x"}\n', "escaped_key", id="escaped"),
    pytest.param(b'{"jsonrpc":"2.0","id":99999999999999999999,"method":"x"}\n', "number_range", id="large-id"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}\n', "shape", id="no-tool"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"x\\u0000"}\n', "bad_text", id="nul-in-method"),
    pytest.param(b"[]\n", "shape", id="empty-batch"),
]


@pytest.mark.parametrize(("line", "slug"), NOISE)
def test_an_ambiguous_message_of_the_client_passes_when_nothing_is_enforced(line: bytes, slug: str) -> None:
    """Untouched; recorded as opaque with the slug, and whole: whatever it may be, its bytes are the record."""
    talk = session()

    step = tell(talk, line)

    assert step.forward == line
    exchange = only(step.finished)
    assert exchange.outcome is Outcome.OPAQUE
    assert exchange.marks[0] == slug
    assert exchange.request is not None
    assert exchange.request.raw + b"\n" == line
    assert (step.opened, talk.open_requests) == ((), 0)


@pytest.mark.parametrize(("line", "slug"), NOISE)
def test_an_ambiguous_message_of_the_client_is_denied_when_something_is_enforced(line: bytes, slug: str) -> None:
    """-32600 with the slug as reason, whatever the era; no gate is asked to guess."""
    gate = Asks()
    talk = session(gate)

    step = tell(talk, line)

    assert step.forward is None
    [(to, answer)] = step.errors
    decoded = json.loads(answer)
    error = (decoded[0] if isinstance(decoded, list) else decoded)["error"]
    assert to is TO_CLIENT
    assert (error["code"], error["message"]) == (-32600, "ambiguous message")
    assert error["data"] == {
        "source": "mcp-audit",
        "kind": "ambiguous_message",
        "entry_id": only(step.finished).id,
        "action": "deny",
        "reason": slug,
    }
    exchange = only(step.finished)
    assert (exchange.outcome, exchange.marks[0]) == (Outcome.DENIED, slug)
    assert exchange.verdict == Verdict(False, "ambiguity", reason=slug, kind="ambiguous_message", recorded=True)
    assert gate.seen == []


@pytest.mark.parametrize(("line", "slug"), NOISE)
@pytest.mark.parametrize("gates", [[], [Asks()]], ids=["neutral", "enforcing"])
def test_the_server_may_be_as_ambiguous_as_it_likes(line: bytes, slug: str, gates: list[Gate]) -> None:
    """Its messages are always forwarded, and marked."""
    step = tell(session(*gates), line, TO_CLIENT)

    assert step.forward == line
    assert step.errors == ()
    assert slug in (*step.opened, *step.finished)[0].marks


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"params":{"Name":"x"},"method":"x"}\n', 1, id="once"),
        pytest.param(b'{"jsonrpc":"2.0","id":"\\u0061","method":"x","Method":1}\n', "a", id="escaped-value"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"id":1,"method":"x"}\n', None, id="twice"),
        pytest.param(b'{"jsonrpc":"2.0","\\u0069d":1,"method":"x"}\n', None, id="escaped-name"),
        pytest.param(b'{"jsonrpc":"2.0","id":{},"method":"x"}\n', None, id="no-id"),
        pytest.param(b'{"jsonrpc":"2.0","id":true,"method":"x"}\n', None, id="boolean"),
        pytest.param(b'{"jsonrpc":"2.0","id":null,"method":"x","Method":1}\n', None, id="null"),
        pytest.param(b"noise\n", None, id="noise"),
    ],
)
def test_the_id_of_an_ambiguous_message_is_answered_if_it_is_plain(line: bytes, id_: Any) -> None:
    """Once, plainly spelled, and an id; else null."""
    assert error_of(tell(session(Asks()), line))["id"] == id_


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"jsonrpc":"2.0","method":"x","Method":"y"}\n', id="notification"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}\n', id="response"),
    ],
)
def test_an_ambiguous_message_that_asks_for_nothing_is_denied_in_silence(line: bytes) -> None:
    """No reply to a denied notification or response."""
    step = tell(session(Asks()), line)

    assert (step.forward, step.errors) == (None, ())
    assert only(step.finished).outcome is Outcome.DENIED


def test_an_object_that_is_no_message_is_opaque_but_not_ambiguous() -> None:
    """Every parser reads it alike, so it passes; its bytes are the record."""
    exchange = only(tell(session(Asks()), {"jsonrpc": "2.0", "id": 5}).finished)

    assert (exchange.outcome, exchange.marks) == (Outcome.OPAQUE, ())


# Denials


@pytest.mark.parametrize(
    ("content", "code"), [(request(7, name="rm"), -32030), (modern(7, name="rm"), -31030)], ids=["legacy", "modern"]
)
def test_a_denial_by_policy(content: Any, code: int) -> None:
    """The error names its author, the rule and the ledger line; the line costs no time and is closed at once."""
    talk = session(DENY_RM)

    step = tell(talk, content, now=5.0)

    exchange = only(step.finished)
    assert (step.forward, step.opened, talk.open_requests) == (None, (), 0)
    assert error_of(step) == {
        "jsonrpc": "2.0",
        "id": 7,
        "error": {
            "code": code,
            "message": "policy denied",
            "data": {
                "source": "mcp-audit",
                "kind": "policy_denied",
                "entry_id": exchange.id,
                "action": "deny",
                "rule_index": 0,
                "reason": "too dangerous",
            },
        },
    }
    assert exchange.outcome is Outcome.DENIED
    assert exchange.ended - exchange.started == 0
    assert json.loads(exchange.error) == error_of(step)["error"]


@pytest.mark.parametrize(("content", "code"), [(request(7), -32029), (modern(7), -31029)], ids=["legacy", "modern"])
def test_a_denial_by_the_rate_limit(content: Any, code: int) -> None:
    """Its own code and outcome, and no rule."""
    talk = session(RateLimit(Limit(1)))
    assert tell(talk, content).forward is not None

    step = tell(talk, content)

    error = error_of(step)["error"]
    assert (error["code"], error["message"], error["data"]["kind"]) == (code, "rate limited", "rate_limited")
    assert "rule_index" not in error["data"]
    assert only(step.finished).outcome is Outcome.RATE_LIMITED


def test_a_denied_call_is_denied_without_an_id_as_well() -> None:
    """A `tools/call` sent as a notification is judged, and gets no reply."""
    step = tell(session(DENY_RM), notification("tools/call", name="rm"))

    assert (step.forward, step.errors) == (None, ())
    assert only(step.finished).outcome is Outcome.DENIED


@pytest.mark.parametrize("token", [b"0", b'""', b'"1"', b"1.0", b"1e0", b"-0", b'"\\u00e9"', b"null"])
def test_the_id_comes_back_byte_for_byte(token: bytes) -> None:
    """Whatever its spelling."""
    line = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"rm"}}\n' % token

    [(_, error)] = tell(session(DENY_RM), line).errors

    assert error.startswith(b'{"jsonrpc":"2.0","id":%b,"error":{' % token)


def test_the_first_denial_wins_and_the_rest_is_not_asked() -> None:
    """Gates are asked in order."""
    first = Asks(lambda m, c, n: Verdict(False, "first", reason="a"))
    second = Asks()

    step = tell(session(first, second), request(1))

    assert error_of(step)["error"]["data"]["reason"] == "a"
    assert second.seen == []


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        pytest.param(raises, "the gate failed: RuntimeError", id="raises"),
        pytest.param(lambda m, c, n: None, "the gate failed: AttributeError", id="says-nothing"),
        pytest.param(lambda m, c, n: True, "the gate failed: AttributeError", id="says-something-else"),
    ],
)
def test_a_gate_that_fails_denies(check: Any, reason: str) -> None:
    """And what its exception says stays inside."""
    step = tell(session(Asks(check)), request(1))

    error = error_of(step)["error"]
    assert (step.forward, error["code"], error["data"]["reason"]) == (None, -32030, reason)
    assert only(step.finished).verdict.recorded


def test_a_denial_of_an_unknown_kind_is_a_policy_denial() -> None:
    """A plugin cannot invent error codes, and its denial is recorded whether it asks for that or not."""
    gate = Asks(lambda m, c, n: Verdict(False, "asks", reason="r", kind="nonsense"))

    step = tell(session(gate), request(1))

    assert error_of(step)["error"]["data"]["kind"] == "policy_denied"
    assert only(step.finished).verdict.recorded


def test_gates_see_every_message_of_the_client_that_has_a_method() -> None:
    """Requests and notifications, never answers, nor anything of the server."""
    gate = Asks()
    talk = session(gate)
    for content in (request(1), notification("notifications/x"), result(9), {}):
        tell(talk, content)
        tell(talk, content, TO_CLIENT)

    assert gate.seen == ["tools/call", "notifications/x"]


def test_a_permission_is_on_the_record() -> None:
    """The rule that allowed a call is in its exchange; a gate without an opinion is not."""
    allowing = Policy([Rule("allow", tool_name="echo", reason="harmless")], "deny")

    exchange = only(tell(session(allowing), request(1)).opened)

    assert (exchange.verdict.rule, exchange.verdict.recorded) == (0, True)
    assert not only(tell(session(allowing), request(1, "tools/list")).opened).verdict.recorded


def test_a_rule_about_a_client_fits_its_very_first_message() -> None:
    """A modern message says itself who sends it, and there is no handshake before it."""
    talk = session(Policy([Rule("deny", client_id="modern-client")], "allow"))

    step = tell(talk, modern(1))

    assert step.forward is None
    assert only(step.finished).client_id == "modern-client"


# Batches


def test_a_batch_passes_whole() -> None:
    """Each element is an exchange of its own."""
    payload = sent([request(1), request("1", "ping"), notification("n")])

    step = session(DENY_RM).receive(payload, 0.0)

    assert step.forward is payload.raw
    assert [exchange.request.method for exchange in step.opened if exchange.request] == ["tools/call", "ping"]
    assert only(step.finished).outcome is Outcome.NOTIFICATION


def test_a_batch_with_a_denial_is_denied_whole() -> None:
    """One error per request, its own or `batch_rejected`, in order, as an array; every element is recorded."""
    talk = session(DENY_RM)

    step = tell(talk, [request(1), request(2, name="rm"), notification("n"), result(3), modern("4")])

    [(to, answer)] = step.errors
    errors = json.loads(answer)
    assert (to, step.forward, step.opened, talk.open_requests) == (TO_CLIENT, None, (), 0)
    assert [(e["id"], e["error"]["code"], e["error"]["data"]["kind"]) for e in errors] == [
        (1, -32600, "batch_rejected"),
        (2, -32030, "policy_denied"),
        ("4", -32600, "batch_rejected"),
    ]
    assert [e.outcome for e in step.finished] == [Outcome.DENIED] * 5
    assert [e["error"]["data"]["entry_id"] for e in errors] == [step.finished[i].id for i in (0, 1, 4)]


def test_a_denied_batch_of_notifications_gets_no_reply() -> None:
    """Not even an empty array."""
    step = tell(session(DENY_RM), [notification("tools/call", name="rm"), notification("n")])

    assert (step.forward, step.errors, len(step.finished)) == (None, (), 2)


def test_a_denied_answer_leaves_the_servers_request_open() -> None:
    """The server never got it, so at the end nobody answered."""
    talk = session(DENY_RM)
    tell(talk, request(5, "sampling/createMessage"), TO_CLIENT)
    tell(talk, [result(5), request(1, name="rm")])

    assert only(talk.close(1.0).finished).outcome is Outcome.LOST


# Pairs


@pytest.mark.parametrize(
    ("method", "answer", "outcome"),
    [
        pytest.param("tools/call", result(1), Outcome.ANSWERED, id="answered"),
        pytest.param("tools/call", result(1, isError=True), Outcome.TOOL_ERROR, id="tool-error"),
        pytest.param("tools/call", result(1, isError=False), Outcome.ANSWERED, id="no-tool-error"),
        pytest.param("tools/call", rpc_error(1), Outcome.RPC_ERROR, id="rpc-error"),
        pytest.param("prompts/get", result(1, isError=True), Outcome.ANSWERED, id="only-tools-have-tool-errors"),
    ],
)
@pytest.mark.parametrize("asker", [TO_SERVER, TO_CLIENT])
def test_an_answer_ends_its_exchange(method: str, answer: Any, outcome: Outcome, asker: Direction) -> None:
    """Whoever asked."""
    talk = session()
    opened = only(tell(talk, request(1, method), asker, now=1.0).opened)

    step = tell(talk, answer, asker.back, now=3.5)

    exchange = only(step.finished)
    assert exchange is opened
    assert (exchange.outcome, exchange.ended - exchange.started) == (outcome, 2.5)
    assert talk.open_requests == 0


def test_an_answer_has_the_era_of_its_request() -> None:
    """Whatever the session became meanwhile."""
    talk = session()
    tell(talk, modern(1))
    tell(talk, request(2, "initialize"))

    assert only(tell(talk, result(1), TO_CLIENT).finished).era is Era.MODERN
    assert only(tell(talk, result(2, protocolVersion="2025-11-25"), TO_CLIENT).finished).version == "2025-11-25"


def test_the_handshake_names_the_server_that_it_learned() -> None:
    """Its own line has the name already."""
    talk = session()
    tell(talk, request(0, "initialize", clientInfo={"name": "c"}))

    exchange = only(tell(talk, result(0, serverInfo={"name": "s"}), TO_CLIENT).finished)

    assert (exchange.client_id, exchange.server_id) == ("c", "s")


def test_a_null_id_waits_for_nothing() -> None:
    """Nothing can answer it, so it is one-way, judged like any other, and the answer a stranger."""
    talk = session(DENY_RM)

    step = tell(talk, request(None))

    assert (step.forward is not None, step.opened, talk.open_requests) == (True, (), 0)
    assert only(step.finished).outcome is Outcome.NOTIFICATION
    assert only(tell(talk, result(None), TO_CLIENT).finished).marks == ("unmatched",)
    assert error_of(tell(talk, request(None, name="rm")))["id"] is None


def test_an_id_in_use_is_forwarded_and_marked() -> None:
    """Answers pair first in, first out."""
    talk = session()
    first = only(tell(talk, request(1)).opened)
    second = only(tell(talk, request(1)).opened)

    assert (first.marks, second.marks) == ((), ("id_reused",))
    assert only(tell(talk, result(1), TO_CLIENT).finished) is first
    assert only(tell(talk, result(1), TO_CLIENT).finished) is second


def test_a_stray_answer_is_forwarded_and_recorded_on_its_own() -> None:
    """`unmatched` if nobody asked; `late`, in the era of its exchange, if that has ended."""
    talk = session()
    stranger = tell(talk, result(1), TO_CLIENT)
    tell(talk, modern(1))
    tell(talk, request(2, "initialize"))
    tell(talk, result(2, protocolVersion="2025-11-25"), TO_CLIENT)
    tell(talk, result(1), TO_CLIENT)
    second = tell(talk, result(1), TO_CLIENT)

    assert stranger.forward is not None
    assert (only(stranger.finished).outcome, only(stranger.finished).marks) == (Outcome.OPAQUE, ("unmatched",))
    assert second.forward is not None
    late = only(second.finished)
    assert (late.outcome, late.marks, late.era, late.version) == (Outcome.OPAQUE, ("late",), Era.MODERN, "2026-07-28")
    assert (late.request, late.seq) == (None, None)


def test_marks_of_an_ambiguous_answer_join_those_of_the_request() -> None:
    """The server's answer pairs all the same."""
    talk = session()
    tell(talk, request(1))
    tell(talk, request(1))

    tell(talk, result(1), TO_CLIENT)
    line = b'{"jsonrpc":"2.0","id":1,"result":{},"Result":{}}\n'
    exchange = only(tell(talk, line, TO_CLIENT).finished)

    assert exchange.outcome is Outcome.ANSWERED
    assert exchange.marks == ("id_reused", "case_variant_key")


# Cancels


@pytest.mark.parametrize("sender", [TO_SERVER, TO_CLIENT])
def test_a_cancel_ends_the_exchange_and_a_later_answer_is_late(sender: Direction) -> None:
    """The notification is forwarded and recorded; so is the answer that crossed it."""
    talk = session()
    opened = only(tell(talk, request(1, "x"), sender, now=1.0).opened)

    step = tell(talk, notification("notifications/cancelled", requestId=1), sender, now=2.0)
    late = tell(talk, result(1), sender.back, now=3.0)

    withdrawn, told = step.finished
    assert step.forward is not None
    assert withdrawn is opened
    assert (withdrawn.outcome, withdrawn.ended) == (Outcome.CANCELLED, 2.0)
    assert told.outcome is Outcome.NOTIFICATION
    assert late.forward is not None
    assert only(late.finished).marks == ("late",)


def test_a_cancel_of_the_other_side_is_none() -> None:
    """It names a request of its own sender."""
    talk = session()
    tell(talk, request(1, "x"))

    step = tell(talk, notification("notifications/cancelled", requestId=1), TO_CLIENT)

    assert only(step.finished).outcome is Outcome.NOTIFICATION
    assert talk.open_requests == 1


def test_a_cancel_has_era_and_version_of_what_it_withdraws() -> None:
    """Not the session's."""
    talk = session()
    tell(talk, request(0, "initialize"))
    tell(talk, result(0, protocolVersion="2025-11-25"), TO_CLIENT)
    tell(talk, modern(1))

    _, told = tell(talk, notification("notifications/cancelled", requestId=1)).finished

    assert (told.era, told.version) == (Era.MODERN, "2026-07-28")


def test_a_subscription_stays_open_until_one_side_ends_it() -> None:
    """What it delivers are notifications of its era; no deadline counts for it."""
    talk = session()
    tell(talk, modern(9, LISTEN), now=0.0)
    tell(talk, request(0, "initialize"), now=0.0)
    tell(talk, result(0), TO_CLIENT, now=0.0)

    pushed = tell(talk, notification("notifications/x", _meta={"io.modelcontextprotocol/subscriptionId": 9}), TO_CLIENT)
    assert only(pushed.finished).era is Era.MODERN
    assert talk.overdue(1e9, 1.0) == Step()
    ended, _ = tell(talk, notification("notifications/cancelled", requestId=9), TO_CLIENT).finished
    assert (ended.outcome, talk.open_requests) == (Outcome.CANCELLED, 0)


def test_progress_has_the_era_of_its_request_and_is_forwarded_even_if_unknown() -> None:
    """Progress tokens belong to requests of the other side."""
    talk = session()
    tell(talk, modern(1, _meta={**MODERN, "progressToken": "t"}))
    tell(talk, request(0, "initialize"))
    tell(talk, result(0), TO_CLIENT)

    known = tell(talk, notification("notifications/progress", progressToken="t"), TO_CLIENT)
    unknown = tell(talk, notification("notifications/progress", progressToken="u"), TO_CLIENT)

    assert known.forward is not None
    assert unknown.forward is not None
    assert [only(step.finished).era for step in (known, unknown)] == [Era.MODERN, Era.LEGACY]


def test_a_retry_continues_the_round_that_asked_for_input() -> None:
    """By its state; by its keys it is marked as a guess. Only requests of the client do."""
    talk = session()
    first = only(tell(talk, modern(1)).opened)
    asking = result(1, resultType="input_required", requestState="s", inputRequests={"k": {}})
    assert only(tell(talk, asking, TO_CLIENT).finished).outcome is Outcome.ANSWERED

    sure = only(tell(talk, modern(2, requestState="s")).opened)
    guess = only(tell(talk, modern(3, inputResponses={"k": 1})).opened)
    fake = only(tell(talk, modern(4, requestState="s"), TO_CLIENT).opened)

    assert (sure.continues, sure.marks) == (first.id, ())
    assert (guess.continues, guess.marks) == (first.id, ("guessed",))
    assert fake.continues == ""


# Deadlines and the end


@pytest.mark.parametrize(("content", "code"), [(request(1), -32032), (modern(1), -31032)], ids=["legacy", "modern"])
def test_past_its_deadline_a_request_gets_our_error_and_a_later_answer_is_kept_back(content: Any, code: int) -> None:
    """Recorded as late, not delivered."""
    talk = session()
    opened = only(tell(talk, content, now=1.0).opened)

    assert talk.overdue(11.0, 10.0) == Step()
    step = talk.overdue(11.5, 10.0)
    late = tell(talk, result(1), TO_CLIENT, now=12.0)

    assert only(step.finished) is opened
    assert (opened.outcome, opened.ended) == (Outcome.TIMEOUT, 11.5)
    error = error_of(step)
    assert (error["id"], error["error"]["code"], error["error"]["message"]) == (1, code, "upstream timed out")
    assert error["error"]["data"] == {"source": "mcp-audit", "kind": "upstream_timeout", "entry_id": opened.id}
    assert late.forward is None
    assert only(late.finished).marks == ("late",)
    assert talk.overdue(99.0, 10.0) == Step()


def test_the_server_gets_our_error_for_its_own_request() -> None:
    """Errors go back to whoever asked."""
    talk = session()
    tell(talk, request(1, "roots/list"), TO_CLIENT)

    assert error_of(talk.overdue(11.0, 10.0), TO_SERVER)["id"] == 1


def test_a_late_answer_does_not_hold_back_its_batch() -> None:
    """An array cannot be split; losing the other answers would be worse than one too many."""
    talk = session()
    tell(talk, request(1), now=0.0)
    talk.overdue(11.0, 10.0)
    tell(talk, request(2), now=12.0)

    step = tell(talk, [result(1), result(2)], TO_CLIENT, now=13.0)

    assert step.forward is not None
    assert [exchange.outcome for exchange in step.finished] == [Outcome.OPAQUE, Outcome.ANSWERED]
    assert tell(talk, [result(1)], TO_CLIENT).forward is None


def test_what_is_open_at_the_end_is_lost_and_nobody_is_answered() -> None:
    """Oldest first, both directions; a direct peer would see an end of stream and no more."""
    talk = session()
    ours = only(tell(talk, request(1), now=1.0).opened)
    theirs = only(tell(talk, request(1, "ping"), TO_CLIENT, now=2.0).opened)

    step = talk.close(9.0)

    assert step == Step(finished=(ours, theirs))
    assert [(exchange.outcome, exchange.ended) for exchange in step.finished] == [(Outcome.LOST, 9.0)] * 2
    assert talk.close(9.0) == Step()


# Too large


def too_large(content: Any, limit: int = 100_000) -> Oversized:
    """A message that a decoder discards, with 200 kB of padding."""
    if not isinstance(content, bytes):
        content = encoded({**content, "padding": "x" * 200_000})
    [line] = LineDecoder(limit, hashlib.sha256).feed(content)
    assert isinstance(line, Oversized)
    return line


@pytest.mark.parametrize("asker", [TO_SERVER, TO_CLIENT])
def test_a_request_too_large_is_answered_to_its_sender(asker: Direction) -> None:
    """-32600 under its id; nothing waits for an answer."""
    talk = session()
    line = too_large(request(7, "x"))

    step = talk.oversized(line, asker, "WITNESS", "commit", 1.0)

    exchange = only(step.finished)
    error = error_of(step, asker.back)
    assert (error["id"], error["error"]["code"]) == (7, -32600)
    assert error["error"]["data"] == {
        "source": "mcp-audit", "kind": "message_too_large", "entry_id": "WITNESS", "bytes": line.size,
    }  # fmt: skip
    assert (step.forward, step.opened, talk.open_requests) == (None, (), 0)
    assert (exchange.id, exchange.oversized, exchange.commitment) == ("WITNESS", line.size, "commit")
    assert (exchange.outcome, exchange.marks, exchange.direction) == (Outcome.DENIED, ("too_large",), asker)


def test_an_answer_too_large_is_replaced_for_whoever_waits() -> None:
    """Under the pending id, which is then answered; the line keeps the request."""
    talk = session()
    opened = only(tell(talk, modern(7), now=1.0).opened)

    step = talk.oversized(too_large(result(7)), TO_CLIENT, "WITNESS", "", 2.0)

    assert error_of(step)["id"] == 7
    assert only(step.finished) is opened
    assert (opened.outcome, opened.marks, opened.ended - opened.started) == (Outcome.DENIED, ("too_large",), 0)
    assert opened.request is not None
    assert opened.request.params
    assert talk.open_requests == 0


@pytest.mark.parametrize(
    ("line", "outcome", "marks"),
    [
        pytest.param(too_large(notification("n")), Outcome.DENIED, ("too_large",), id="notification"),
        pytest.param(too_large(result(99)), Outcome.DENIED, ("unmatched", "too_large"), id="answer-to-nothing"),
        pytest.param(too_large(result(1)), Outcome.DENIED, ("late", "too_large"), id="second-answer"),
        pytest.param(
            too_large(b'{"id":1,"method":"x","a":"' + b"x" * 200_000 + b'","id":2}\n'),
            Outcome.DENIED,
            ("too_large",),
            id="two-ids",
        ),
        pytest.param(too_large(b"x" * 200_000 + b"\n"), Outcome.OPAQUE, ("too_large",), id="noise"),
    ],
)
def test_what_nobody_waits_for_is_only_recorded(line: Oversized, outcome: Outcome, marks: tuple[str, ...]) -> None:
    """Notifications, strangers, and ids that cannot be recovered."""
    talk = session()
    tell(talk, request(1))
    tell(talk, result(1), TO_CLIENT)

    step = talk.oversized(line, TO_CLIENT, "WITNESS", "", 1.0)

    assert (step.forward, step.errors) == (None, ())
    assert (only(step.finished).outcome, only(step.finished).marks) == (outcome, marks)


def test_the_era_of_a_message_too_large_is_the_sessions() -> None:
    """Its own word for it is lost with its middle."""
    talk = session()
    tell(talk, modern(1))

    assert only(talk.oversized(too_large(modern(2)), TO_SERVER, "W", "", 1.0).finished).era is Era.MODERN


# The ledger takes nothing


@pytest.mark.parametrize(("content", "code"), [(request(7), -32031), (modern(7), -31031)], ids=["legacy", "modern"])
def test_a_request_that_cannot_be_recorded_is_refused_and_forgotten(content: Any, code: int) -> None:
    """Not executed, no line to name; it was never open, so it cannot be lost."""
    talk = session()
    step = tell(talk, content, now=1.0)

    refusal = talk.refuse(step, "disk full", 2.0)

    assert (refusal.forward, refusal.opened, refusal.finished) == (None, (), ())
    error = error_of(refusal)
    assert (error["id"], error["error"]["code"], error["error"]["message"]) == (7, code, "audit unavailable")
    assert error["error"]["data"] == {
        "source": "mcp-audit", "kind": "audit_unavailable", "reason": "disk full", "executed": False,
    }  # fmt: skip
    assert talk.close(3.0) == Step()
    assert only(tell(talk, result(7), TO_CLIENT).finished).marks == ("unmatched",)


def test_a_refused_request_whose_line_is_written_is_closed() -> None:
    """Its request line must not stay open, and the error may name the line to come; no time passed for it."""
    talk = session()
    step = tell(talk, request(7), now=1.0)
    only(step.opened).seq = 5

    refusal = talk.refuse(step, "disk full", 9.0)

    owed = only(refusal.finished)
    assert owed is only(step.opened)
    assert (owed.outcome, owed.seq, owed.ended - owed.started) == (Outcome.DENIED, 5, 0)
    assert (owed.verdict.gate, owed.verdict.reason, owed.verdict.recorded) == ("ledger", "disk full", True)
    assert error_of(refusal)["error"]["data"]["entry_id"] == owed.id
    assert owed.error


@pytest.mark.parametrize("asker", [TO_SERVER, TO_CLIENT])
def test_an_answer_that_cannot_be_recorded_is_withheld(asker: Direction) -> None:
    """Its requester learns that the call was executed; the line is owed, with what the peer answered."""
    talk = session()
    tell(talk, request(7, "x"), asker)
    step = tell(talk, result(7), asker.back)

    refusal = talk.refuse(step, "disk full", 2.0)

    owed = only(refusal.finished)
    data = error_of(refusal, asker.back)["error"]["data"]
    assert (data["executed"], data["entry_id"]) == (True, owed.id)
    assert (owed.outcome, owed.marks) == (Outcome.ANSWERED, ("withheld",))
    assert owed.response is not None
    assert refusal.forward is None


def test_a_timeout_that_cannot_be_recorded_may_have_run() -> None:
    """The call went upstream, so the line is owed."""
    talk = session()
    tell(talk, request(7), now=0.0)

    refusal = talk.refuse(talk.overdue(11.0, 10.0), "disk full", 12.0)

    assert error_of(refusal)["error"]["data"]["executed"] is True
    assert only(refusal.finished).outcome is Outcome.TIMEOUT


def test_a_cancel_that_cannot_be_recorded_still_closes_its_request() -> None:
    """Else a request that was forwarded would have no line at all. Nobody is answered: nobody waits."""
    talk = session()
    opened = only(tell(talk, request(7, "tools/list")).opened)
    step = tell(talk, notification("notifications/cancelled", requestId=7))

    refusal = talk.refuse(step, "disk full", 2.0)

    assert refusal == Step(finished=(opened,))
    assert (opened.outcome, opened.marks) == (Outcome.CANCELLED, ())


@pytest.mark.parametrize(
    ("content", "direction"),
    [
        pytest.param(notification("n"), TO_SERVER, id="notification"),
        pytest.param(notification("n"), TO_CLIENT, id="notification-of-the-server"),
        pytest.param(result(9), TO_SERVER, id="stray-answer"),
        pytest.param(b"banner\n", TO_CLIENT, id="noise-of-the-server"),
        pytest.param({}, TO_SERVER, id="no-message"),
    ],
)
def test_what_asks_for_nothing_is_dropped_in_silence(content: Any, direction: Direction) -> None:
    """Nothing is forwarded, answered or owed."""
    talk = session()

    assert talk.refuse(tell(talk, content, direction), "disk full", 2.0) == Step()


@pytest.mark.parametrize(
    ("content", "id_"),
    [
        pytest.param(request(None), None, id="null-id"),
        pytest.param(b'{"jsonrpc":"2.0","id":5,"method":"x","Method":"y"}\n', 5, id="ambiguous"),
        pytest.param(b"noise\n", None, id="noise"),
    ],
)
def test_what_may_be_a_request_is_answered(content: Any, id_: Any) -> None:
    """Somebody may be waiting for it."""
    talk = session()
    step = tell(talk, content)

    refusal = talk.refuse(step, "disk full", 2.0)

    assert error_of(refusal)["id"] == id_
    assert error_of(refusal)["error"]["data"]["executed"] is False
    assert refusal.finished == ()


def test_a_denial_that_cannot_be_recorded_becomes_a_refusal() -> None:
    """No verdict leaves without its line."""
    talk = session(DENY_RM)

    refusal = talk.refuse(tell(talk, request(7, name="rm")), "disk full", 2.0)

    assert error_of(refusal)["error"]["data"]["kind"] == "audit_unavailable"
    assert "entry_id" not in error_of(refusal)["error"]["data"]
    assert refusal.finished == ()


def test_an_answer_too_large_that_cannot_be_recorded_was_executed() -> None:
    """The error changes, the marks add up."""
    talk = session()
    tell(talk, request(7))

    refusal = talk.refuse(talk.oversized(too_large(result(7)), TO_CLIENT, "W", "", 1.0), "disk full", 2.0)

    assert error_of(refusal)["error"]["data"]["executed"] is True
    assert only(refusal.finished).marks == ("too_large", "withheld")


def test_a_refused_batch_is_answered_by_arrays() -> None:
    """One for each direction: answers under way to the client, the server's own requests back to it."""
    talk = session()
    tell(talk, request(1))
    step = tell(talk, [result(1), request("r", "roots/list"), request("s", "ping"), notification("n")], TO_CLIENT)

    refusal = talk.refuse(step, "disk full", 2.0)

    assert {to: [error["id"] for error in json.loads(array)] for to, array in refusal.errors} == {
        TO_SERVER: ["r", "s"],
        TO_CLIENT: [1],
    }
    assert only(refusal.finished).marks == ("withheld",)
    assert talk.open_requests == 0


def test_what_is_recorded_already_is_not_owed_again() -> None:
    """Part of a batch is in the ledger: it is answered with its line's id, and not written twice."""
    talk = session()
    tell(talk, request(1))
    tell(talk, request(2))
    step = tell(talk, [result(1), result(2)], TO_CLIENT)
    step.finished[0].recorded = True

    refusal = talk.refuse(step, "disk full", 2.0)

    [(_, array)] = refusal.errors
    assert [error["error"]["data"]["entry_id"] for error in json.loads(array)] == [e.id for e in step.finished]
    assert refusal.finished == (step.finished[1],)
    assert step.finished[0].marks == ()


def test_what_ended_while_the_ledger_was_waited_for_is_not_answered_twice() -> None:
    """Its deadline passed, and it was told so."""
    talk = session()
    step = tell(talk, request(1), now=0.0)
    talk.overdue(11.0, 10.0)

    assert talk.refuse(step, "disk full", 12.0) == Step()
    assert only(step.opened).outcome is Outcome.TIMEOUT


def test_a_blank_line_needs_no_ledger() -> None:
    """It leaves nothing, so it passes."""
    talk = session()
    step = tell(talk, b"\r\n")

    assert talk.refuse(step, "disk full", 1.0) is step


def test_a_turned_back_retry_still_finds_its_round() -> None:
    """The client sends the same state again once the ledger works."""
    talk = session()
    first = only(tell(talk, modern(1)).opened)
    tell(talk, result(1, resultType="input_required", requestState="s"), TO_CLIENT)
    talk.refuse(tell(talk, modern(2, requestState="s")), "disk full", 1.0)

    assert only(tell(talk, modern(3, requestState="s")).opened).continues == first.id


# Hostile content


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":' + b"9" * 100_000 + b',"method":"x"}\n', id="id-of-100000-digits"),
        pytest.param(b'{"jsonrpc":"2.0","id":1e400,"method":"x"}\n', id="id-beyond-a-double"),
        pytest.param(b'{"jsonrpc":"2.0","id":"' + b"x" * 1_000_000 + b'","method":"x"}\n', id="id-of-a-megabyte"),
        pytest.param(b'{"jsonrpc":"2.0","id":"\\ud800","method":"x"}\n', id="surrogate-id"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"' + b"y" * 1_000_000 + b'"}\n', id="method-of-a-megabyte"),
        pytest.param(b'{"id":1,"method":"x","params":' + b"[" * 5000 + b"]" * 5000 + b"}\n", id="deep-params"),
        pytest.param(b'{"id":1,"result":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}\n", id="deep-result"),
        pytest.param(b"[" + b'{"id":1,"method":"x"},' * 2000 + b"1]\n", id="batch-of-2001"),
        pytest.param(b"\x00" * 1000 + b"\n", id="zeros"),
    ],
)
@pytest.mark.parametrize("gates", [[], [DENY_RM]], ids=["neutral", "enforcing"])
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
def test_no_content_raises(line: bytes, gates: list[Gate], direction: Direction) -> None:
    """Whatever it is: forwarded as it came or denied, refused, answered, ended."""
    talk = session(*gates)

    step = tell(talk, line, direction)

    assert step.forward in (line, None)
    talk.refuse(step, "disk full", 1.0)
    tell(talk, line, direction)
    tell(talk, line.replace(b'"method":"x"', b'"result":{}'), direction.back)
    talk.overdue(100.0, 10.0)
    talk.close(101.0)
    assert talk.open_requests == 0
