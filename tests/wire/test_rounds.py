"""Multi round-trip requests: which retry continues which exchange, surely or as a guess."""

from __future__ import annotations

from typing import Any

import pytest
from memory_ledger import TO_CLIENT, encoded, modern, sent

from mcp_audit.wire import rounds as module
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.rounds import Rounds


def asking(rounds: Rounds, id_: str, method: str = "tools/call", name: str = "echo", **members: Any) -> None:
    """A call whose answer asks for input."""
    answer = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", **members}}
    request = sent(modern(1, method, name=name)).messages[0]
    rounds.ask(Exchange(id_, request, sent(answer, TO_CLIENT).messages[0]))


def retry(rounds: Rounds, method: str = "tools/call", name: str = "echo", **members: Any) -> tuple[str, bool]:
    return rounds.continued(sent(modern(2, method, name=name, **members)).messages[0])


def test_equal_state_continues_surely() -> None:
    """However the state is spelled: what counts is the text."""
    rounds = Rounds()
    asking(rounds, "first", requestState="é/1")

    assert retry(rounds, requestState="é/1") == ("first", False)
    spelled = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","requestState":"\\u00e9\\/1"}}\n'
    assert rounds.continued(sent(spelled).messages[0]) == ("first", False)


@pytest.mark.parametrize(
    ("method", "name", "state"),
    [
        pytest.param("tools/call", "other", "s", id="another-tool"),
        pytest.param("prompts/get", "echo", "s", id="another-method"),
        pytest.param("tools/call", "echo", "S", id="another-state"),
    ],
)
def test_a_state_counts_within_its_method_and_target(method: str, name: str, state: str) -> None:
    """The same text elsewhere is a coincidence."""
    rounds = Rounds()
    asking(rounds, "first", requestState="s")

    assert retry(rounds, method, name, requestState=state) == ("", False)


def test_equal_keys_are_a_guess_and_good_for_once() -> None:
    """Without a state, the names of the inputs are all there is."""
    rounds = Rounds()
    asking(rounds, "first", inputRequests={"a": {}, "b": {}})

    assert retry(rounds, inputResponses={"b": 1}) == ("", False)
    assert retry(rounds, inputResponses={"b": 1, "a": 2}) == ("first", True)
    assert retry(rounds, inputResponses={"a": 1, "b": 2}) == ("", False)


def test_a_tampered_state_leaves_the_guess() -> None:
    """The server will reject it, but the record can say what it probably meant."""
    rounds = Rounds()
    asking(rounds, "first", requestState="signed", inputRequests={"a": {}})

    assert retry(rounds, requestState="forged", inputResponses={"a": 1}) == ("first", True)


def test_a_sure_link_uses_up_its_guess_and_stays_sure() -> None:
    """A retry that the proxy turned back comes again with the same state."""
    rounds = Rounds()
    asking(rounds, "first", requestState="s", inputRequests={"a": {}})

    assert retry(rounds, requestState="s", inputResponses={"a": 1}) == ("first", False)
    assert retry(rounds, inputResponses={"a": 1}) == ("", False)
    assert retry(rounds, requestState="s", inputResponses={"a": 1}) == ("first", False)


def test_the_newest_of_equal_rounds_counts() -> None:
    """A second call of the same tool asks for the same inputs."""
    rounds = Rounds()
    asking(rounds, "first", inputRequests={"a": {}})
    asking(rounds, "second", inputRequests={"a": {}})

    assert retry(rounds, inputResponses={"a": 1}) == ("second", True)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b'{"resultType":"complete","requestState":"s","note":"input_required"}', id="another-type"),
        pytest.param(b'{"x":"input_required","requestState":"s"}', id="no-type"),
        pytest.param(b'{"resultType":["input_required"],"requestState":"s"}', id="type-is-no-string"),
        pytest.param(b'{"resultType":"input_required","requestState":5,"inputRequests":["a"]}', id="odd-members"),
        pytest.param(b'{"resultType":"input_required"}', id="nothing-to-go-by"),
        pytest.param(b'{"resultType":"input_required","inputRequests":{}}', id="no-inputs"),
        pytest.param(b'"input_required"', id="no-object"),
    ],
)
def test_what_asks_for_nothing_opens_no_round(answer: bytes) -> None:
    """Only a result of that type, with something to know its retry by."""
    rounds = Rounds()
    response = sent(b'{"jsonrpc":"2.0","id":1,"result":%b}\n' % answer, TO_CLIENT).messages[0]
    rounds.ask(Exchange("first", sent(modern(1)).messages[0], response))

    assert not rounds._open
    assert retry(rounds, requestState="s", inputResponses={"a": 1}) == ("", False)


def test_keys_that_look_joined_are_not() -> None:
    """No choice of names makes two lists of inputs alike."""
    rounds = Rounds()
    asking(rounds, "first", inputRequests={"a": {}, "b": {}})

    assert retry(rounds, inputResponses={"a\0b": 1}) == ("", False)
    assert retry(rounds, inputResponses={"a1:b": 1}) == ("", False)


def test_memory_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile server may ask for ever, with states as large as a message may be."""
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    rounds = Rounds()
    for number in range(50):
        asking(rounds, str(number), requestState=f"{number}" + "x" * 50_000, inputRequests={"y" * 50_000: {}})

    assert len(rounds._open) == 10
    assert all(len(link) == 32 for link in rounds._open)
    assert retry(rounds, requestState="49" + "x" * 50_000) == ("49", False)
    assert retry(rounds, requestState="1" + "x" * 50_000) == ("", False)


def test_hostile_rounds_do_not_raise() -> None:
    """Depth, surrogates and broken texts are just not linked, or linked."""
    rounds = Rounds()
    deep = b"[" * 400 + b"]" * 400
    for state in (b'"\\ud800"', b"null", deep, b'{"a":1}'):
        text = b'{"resultType":"input_required","requestState":%b,"inputRequests":{"\\ud800":%b}}' % (state, deep)
        response = sent(b'{"jsonrpc":"2.0","id":1,"result":%b}\n' % text, TO_CLIENT).messages[0]
        rounds.ask(Exchange("first", sent(modern(1)).messages[0], response))
        params = b'{"name":"echo","requestState":%b,"inputResponses":{"\\ud800":%b}}' % (state, deep)
        line = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":%b}\n' % params
        earlier, _ = rounds.continued(sent(line).messages[0])
        assert earlier in ("", "first")

    assert rounds.continued(sent(encoded(modern(3, requestState="never"))).messages[0]) == ("", False)
