"""Pairing: ids by type and value, first in first out, cancels of the right sender, bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_ledger import MODERN, TO_CLIENT, TO_SERVER, encoded, notification, request, result

from mcp_audit.wire import correlator as module
from mcp_audit.wire.correlator import Correlator, is_tool_error
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.message import Direction, Era, Message, parse


def message(content: Any, direction: Direction) -> Message:
    [found] = parse(encoded(content), direction).messages
    return found


def opened(
    table: Correlator, id_: Any, started: float = 0.0, direction: Direction = TO_SERVER, **more: Any
) -> Exchange:
    """Open a request in the table."""
    content = id_ if isinstance(id_, bytes) else request(id_, **more)
    exchange = Exchange(str(id_)[:20], message(content, direction), started=started)
    table.open(exchange)
    return exchange


def answered(table: Correlator, id_: Any, direction: Direction = TO_CLIENT) -> Exchange | None:
    """Answer an id; a bytes `id_` is the token itself."""
    if isinstance(id_, bytes):
        return table.answer(message(b'{"jsonrpc":"2.0","id":%b,"result":{}}\n' % id_, direction))
    return table.answer(message(result(id_), direction))


@pytest.mark.parametrize(
    ("asked", "token", "pairs"),
    [
        pytest.param(1, b"1", True, id="same-number"),
        pytest.param(1, b"1.0", True, id="1.0-is-1"),
        pytest.param(1, b"1e0", True, id="1e0-is-1"),
        pytest.param(0, b"-0", True, id="minus-zero-is-zero"),
        pytest.param(1, b'"1"', False, id="number-and-string"),
        pytest.param("1", b"1", False, id="string-and-number"),
        pytest.param("", b'""', True, id="empty-string"),
        pytest.param("", b"0", False, id="empty-string-and-zero"),
        pytest.param(0, b"false", False, id="false-is-no-id"),
        pytest.param(1, b"true", False, id="true-is-no-id"),
        pytest.param(1, b"null", False, id="null-pairs-with-nothing"),
        pytest.param("é", b'"\\u00e9"', True, id="spelling-of-a-string-does-not-count"),
        pytest.param(9007199254740993, b"9007199254740992", False, id="no-rounding-beyond-2^53"),
        pytest.param(9007199254740993, b"9007199254740993", True, id="large-integers-are-exact"),
        pytest.param(1, b"[1]", False, id="an-array-is-no-id"),
    ],
)
def test_ids_pair_by_type_and_value(asked: Any, token: bytes, pairs: bool) -> None:
    """Four ids: 1, "1", "" and 0; the spelling of a number or string does not matter."""
    table = Correlator()
    exchange = opened(table, asked)

    assert answered(table, token) is (exchange if pairs else None)
    assert len(table) == (0 if pairs else 1)


def test_each_direction_has_its_own_ids() -> None:
    """Client and server may both use id 0 at once, and an answer goes to the other side's request."""
    table = Correlator()
    ours = opened(table, 0)
    theirs = opened(table, 0, direction=TO_CLIENT, method="ping")

    assert answered(table, 0, TO_SERVER) is theirs
    assert answered(table, 0, TO_CLIENT) is ours


def test_an_id_in_use_again_pairs_first_in_first_out() -> None:
    """Both requests are forwarded, so both answers count, in order."""
    table = Correlator()
    first = opened(table, 7)
    content = message(request(7), TO_SERVER)

    second = Exchange("second", content)

    assert table.open(second) is True
    assert [answered(table, 7), answered(table, 7), answered(table, 7)] == [first, second, None]


@given(st.lists(st.tuples(st.sampled_from(["open", "answer"]), st.sampled_from([1, "1", "", 0])), max_size=40))
def test_pairing_is_a_queue_for_each_id(events: list[tuple[str, Any]]) -> None:
    """Whatever the order of requests and answers, each id behaves as a queue of its own."""
    table = Correlator()
    queues: dict[tuple[type, Any], list[Exchange]] = {}
    for what, id_ in events:
        queue = queues.setdefault((type(id_), id_), [])
        if what == "open":
            queue.append(opened(table, id_))
        else:
            assert answered(table, id_) is (queue.pop(0) if queue else None)
    assert len(table) == sum(map(len, queues.values()))
    assert set(map(id, table.drain())) == {id(exchange) for queue in queues.values() for exchange in queue}
    assert len(table) == 0


# Cancels


@pytest.mark.parametrize("sender", [TO_SERVER, TO_CLIENT])
def test_a_cancel_withdraws_a_request_of_its_sender(sender: Direction) -> None:
    """The other side's request under the same id stays open."""
    table = Correlator()
    own = opened(table, 3, direction=sender, method="x")
    other = opened(table, 3, direction=sender.back, method="x")

    cancel = message(notification("notifications/cancelled", requestId=3), sender)

    assert table.cancelled(cancel) is own
    assert table.cancelled(cancel) is None
    assert table.drain() == [other]


def test_the_server_may_end_a_subscription() -> None:
    """`subscriptions/listen` is the one request that its receiver may cancel."""
    table = Correlator()
    subscription = opened(table, "s", method="subscriptions/listen")
    cancel = message(notification("notifications/cancelled", requestId="s"), TO_CLIENT)

    assert table.cancelled(cancel) is subscription


def test_the_server_cannot_cancel_a_call() -> None:
    """Else a server could make a call look withdrawn that it ran."""
    table = Correlator()
    call = opened(table, "s")

    assert table.cancelled(message(notification("notifications/cancelled", requestId="s"), TO_CLIENT)) is None
    assert table.drain() == [call]


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(b"", id="no-params"),
        pytest.param(b',"params":null', id="null"),
        pytest.param(b',"params":[1]', id="array"),
        pytest.param(b',"params":{}', id="no-id"),
        pytest.param(b',"params":{"requestId":null}', id="null-id"),
        pytest.param(b',"params":{"requestId":true}', id="boolean"),
        pytest.param(b',"params":{"requestId":{"a":1}}', id="object"),
        pytest.param(b',"params":{"requestId":' + b"9" * 5000 + b"}", id="5000-digits"),
        pytest.param(b',"params":{"requestId":' + b"[" * 5000 + b"]" * 5000 + b"}", id="deep"),
        pytest.param(b',"params":{"requestId":"\\ud800"}', id="surrogate"),
        pytest.param(b',"params":{"requestId":"' + b"x" * 100_000 + b'"}', id="long"),
    ],
)
@pytest.mark.parametrize("method", [b"notifications/cancelled", b"notifications/progress"])
def test_an_odd_cancel_or_progress_withdraws_nothing(params: bytes, method: bytes) -> None:
    """Content of any kind is looked at without raising."""
    table = Correlator()
    opened(table, 1, _meta={"progressToken": 1})
    odd = message(b'{"jsonrpc":"2.0","method":"%b"%b}\n' % (method, params), TO_CLIENT)
    of_client = message(b'{"jsonrpc":"2.0","method":"%b"%b}\n' % (method, params), TO_SERVER)

    assert table.cancelled(odd) is None
    assert table.cancelled(of_client) is None
    assert table.named_era(odd) is None
    assert table.named_era(of_client) is None
    assert len(table) == 1


# What is remembered


def test_an_answer_after_the_end_is_known() -> None:
    """Answered or cancelled, the era is remembered, and a second answer may be delivered."""
    table = Correlator()
    opened(table, 1).era = Era.MODERN
    stranger = message(result(2), TO_CLIENT)
    answer = message(result(1), TO_CLIENT)

    assert table.late_era(answer) is None
    table.answer(answer)
    assert table.late_era(answer) == (Era.MODERN, True)
    assert table.late_era(stranger) is None
    assert table.late_era(message(result(1), TO_SERVER)) is None
    assert table.late_era(message(result(None), TO_CLIENT)) is None


def test_what_timed_out_is_not_delivered_later() -> None:
    """However much else ends meanwhile, and however often the answer comes."""
    table = Correlator()
    opened(table, "slow", started=1.0)
    slow = message(result("slow"), TO_CLIENT)

    [late] = table.overdue(now=11.5, timeout=10)
    for number in range(5000):
        opened(table, number)
        answered(table, number)

    assert late.id == "slow"
    assert table.answer(slow) is None
    assert table.late_era(slow) == (Era.LEGACY, False)
    assert table.late_era(slow) == (Era.LEGACY, False)


def test_an_id_used_again_after_a_timeout_gets_its_answer() -> None:
    """Nobody can tell whose answer it is, so the request that waits gets it."""
    table = Correlator()
    opened(table, 1, started=0.0)
    table.overdue(20, 10)
    again = opened(table, 1, started=21.0)

    assert answered(table, 1) is again
    assert table.late_era(message(result(1), TO_CLIENT)) == (Era.LEGACY, True)


def test_only_what_is_overdue_is_given_up() -> None:
    """Oldest first; a deadline that is just reached has not passed; a subscription has none."""
    table = Correlator()
    opened(table, "b", started=2.0)
    opened(table, "a", started=1.0)
    opened(table, "same", started=0.5)
    in_time = opened(table, "same", started=8.0)
    edge = opened(table, "edge", started=3.0)
    listening = opened(table, "s", started=0.0, method="subscriptions/listen")

    assert [exchange.id for exchange in table.overdue(13.0, 10.0)] == ["same", "a", "b"]
    assert table.drain() == [listening, edge, in_time]


def test_memory_of_the_past_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In number and, for ids a peer makes as long as it likes, in size."""
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    monkeypatch.setattr(module, "_REMEMBERED_TIMEOUTS", 5)
    table = Correlator()
    for number in range(100):
        id_ = f"{number} " + "x" * 10_000
        opened(table, id_)
        answered(table, id_)
        opened(table, f"{number} slow" + "x" * 10_000)
        assert len(table.overdue(11, 10)) == 1

    assert len(table) == 0
    assert len(table._ended) == 10
    assert len(table._timed_out) == 5
    assert all(isinstance(key, bytes) for _, key in (*table._ended, *table._timed_out))
    assert table.late_era(message(result("99 " + "x" * 10_000), TO_CLIENT)) == (Era.LEGACY, True)
    assert table.late_era(message(result("89 " + "x" * 10_000), TO_CLIENT)) is None


@pytest.mark.parametrize("end", ["answer", "cancel", "overdue", "withdraw", "drain"])
def test_progress_tokens_go_with_their_request(end: str) -> None:
    """However a request ends, its token is forgotten."""
    table = Correlator()
    exchange = opened(table, 1, _meta={"progressToken": "t"})
    progress = message(notification("notifications/progress", progressToken="t", progress=1), TO_CLIENT)
    exchange.era = Era.MODERN
    assert table.named_era(progress) is Era.MODERN

    if end == "answer":
        answered(table, 1)
    elif end == "cancel":
        table.cancelled(message(notification("notifications/cancelled", requestId=1), TO_SERVER))
    elif end == "overdue":
        table.overdue(100, 1)
    elif end == "withdraw":
        table.withdraw(exchange)
    else:
        table.drain()

    assert table.named_era(progress) is None
    assert not table._progress
    assert len(table) == 0


def test_a_progress_token_used_again_belongs_to_the_later_request() -> None:
    """The end of the earlier one does not take it away."""
    table = Correlator()
    opened(table, 1, _meta={"progressToken": 5})
    opened(table, 2, _meta={"progressToken": 5}).era = Era.MODERN
    answered(table, 1)

    assert table.named_era(message(notification("notifications/progress", progressToken=5), TO_CLIENT)) is Era.MODERN


@pytest.mark.parametrize("token", ["t", 5])
def test_progress_is_about_a_request_of_the_other_side(token: Any) -> None:
    """The same token of the sender's own request is another one."""
    table = Correlator()
    opened(table, 1, _meta={**MODERN, "progressToken": token}).era = Era.MODERN

    assert table.named_era(message(notification("notifications/progress", progressToken=token), TO_SERVER)) is None
    assert (
        table.named_era(message(notification("notifications/progress", progressToken=token), TO_CLIENT)) is Era.MODERN
    )


def test_a_cancel_names_an_era_even_after_the_end() -> None:
    """A cancel that crosses the answer on its way still belongs to that exchange's era."""
    table = Correlator()
    opened(table, 1).era = Era.MODERN
    cancel = message(notification("notifications/cancelled", requestId=1), TO_SERVER)
    assert table.named_era(cancel) is Era.MODERN
    answered(table, 1)

    assert table.named_era(cancel) is Era.MODERN


def test_what_was_refused_was_never_there() -> None:
    """A withdrawn request leaves its neighbours under the same id, and no memory: its answer would be a stranger."""
    table = Correlator()
    first, second, third = opened(table, 1), opened(table, 1), opened(table, 1)

    table.withdraw(second)
    table.withdraw(second)

    assert [answered(table, 1), answered(table, 1)] == [first, third]
    alone = opened(table, "alone")
    table.withdraw(alone)
    assert table.late_era(message(result("alone"), TO_CLIENT)) is None


# Tool errors


@pytest.mark.parametrize(
    ("text", "is_error"),
    [
        pytest.param(b'{"isError":true}', True, id="plain"),
        pytest.param(b'{ "isError" : true }', True, id="spaced"),
        pytest.param(b'{"isErro\\u0072":true}', True, id="escaped-r"),
        pytest.param(b'{"\\u0069sError":true}', True, id="escaped-i"),
        pytest.param(b'{"is\\u0045\\u0072\\u0072or":true}', True, id="escaped-middle"),
        pytest.param(b'{"isError":false,"isError":true}', True, id="last-wins"),
        pytest.param(b'{"isError":false}', False, id="false"),
        pytest.param(b'{"isError":"true"}', False, id="string"),
        pytest.param(b'{"a":true,"content":[{"isError":true}]}', False, id="nested"),
        pytest.param(b'{"content":"an error, true"}', False, id="words"),
        pytest.param(b'["isError",true]', False, id="array"),
        pytest.param(b'{"isError":true', False, id="broken"),
        pytest.param(b'{"error":true,"x":' + b"[" * 9000 + b"]" * 9000 + b"}", False, id="deep"),
        pytest.param(b"", False, id="empty"),
    ],
)
def test_a_tool_error_says_so_at_the_top(text: bytes, is_error: bool) -> None:
    """`isError: true` of the result itself, however the name is spelled."""
    assert is_tool_error(Message(b"", TO_CLIENT, message(result(1), TO_CLIENT).kind, result=text)) is is_error
