"""Who talks to whom and in which era: claims are learned, configured names kept, each message decides for itself."""

from __future__ import annotations

from typing import Any

import pytest
from memory_ledger import MODERN, TO_CLIENT, TO_SERVER, modern, notification, request, result, sent

from mcp_audit.wire.correlator import Correlator
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.message import Direction, Era, Message
from mcp_audit.wire.peers import PROTOCOL_VERSION, SUBSCRIPTION_ID, Caller, Peers

LEARNING = Caller("", "program", True, True)
SERVER_INFO = "io.modelcontextprotocol/serverInfo"


def message(content: Any, direction: Direction = TO_SERVER) -> Message:
    return sent(content, direction).messages[0]


def era(peers: Peers, content: Any, direction: Direction = TO_SERVER, table: Correlator | None = None) -> Any:
    return peers.era_of(message(content, direction), table or Correlator())


def handshake(peers: Peers, client: Any = "inspector", server: Any = "files", version: Any = "2025-11-25") -> Exchange:
    """An `initialize` and its answer."""
    asked = message(request(0, "initialize", protocolVersion="2025-11-25", clientInfo={"name": client}))
    peers.learn(asked)
    answer = result(0, protocolVersion=version, serverInfo={"name": server})
    exchange = Exchange("x", asked, message(answer, TO_CLIENT))
    peers.learn_from_answer(exchange)
    return exchange


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        pytest.param('"2026-07-28"', (Era.MODERN, "2026-07-28"), id="string"),
        pytest.param('"whatever"', (Era.MODERN, "whatever"), id="any-string"),
        pytest.param('""', (Era.MODERN, ""), id="empty-string"),
        pytest.param('"\\ud800"', (Era.MODERN, "\ud800"), id="lone-surrogate"),
        pytest.param("20260728", (Era.LEGACY, ""), id="number"),
        pytest.param("null", (Era.LEGACY, ""), id="null"),
        pytest.param("true", (Era.LEGACY, ""), id="boolean"),
        pytest.param('["2026-07-28"]', (Era.LEGACY, ""), id="array"),
        pytest.param(None, (Era.LEGACY, ""), id="absent"),
    ],
)
def test_a_request_is_modern_if_it_carries_a_version_that_is_a_string(version: str | None, expected: Any) -> None:
    """Whatever its value, and whatever the session did before."""
    meta = f'{{"{PROTOCOL_VERSION}":{version}}}' if version is not None else "{}"
    line = f'{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"_meta":{meta}}}}}\n'.encode()

    assert era(Peers(LEARNING), line) == expected


def test_both_eras_share_a_session_message_by_message() -> None:
    """A dual-era server gets both; each request has its own era and version."""
    peers = Peers(LEARNING)
    handshake(peers)

    assert era(peers, modern(1)) == (Era.MODERN, "2026-07-28")
    assert era(peers, request(2)) == (Era.LEGACY, "2025-11-25")
    assert era(peers, request(3, "ping"), TO_CLIENT) == (Era.LEGACY, "2025-11-25")
    assert era(peers, notification("notifications/x")) == (Era.LEGACY, "2025-11-25")


def test_a_session_without_a_handshake_is_modern_from_its_first_modern_request() -> None:
    """That is the era of what names nothing."""
    peers = Peers(LEARNING)
    assert era(peers, notification("notifications/x"), TO_CLIENT) == (Era.LEGACY, "")

    peers.learn(message(modern(1)))

    assert era(peers, notification("notifications/x"), TO_CLIENT) == (Era.MODERN, "2026-07-28")
    assert era(peers, result(77), TO_CLIENT) == (Era.MODERN, "2026-07-28")
    assert era(peers, request(5)) == (Era.LEGACY, "")


def test_a_handshake_that_fails_leaves_the_way_to_the_modern_era() -> None:
    """A client that meets a modern-only server goes on without one."""
    peers = Peers(LEARNING)
    asked = message(request(0, "initialize", clientInfo={"name": "c"}))
    peers.learn(asked)
    error = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32601, "message": "no"}}
    peers.learn_from_answer(Exchange("x", asked, message(error, TO_CLIENT)))

    peers.learn(message(modern(1)))

    assert peers.era is Era.MODERN


def test_a_second_handshake_that_fails_does_not_undo_the_first() -> None:
    """The version in force stays."""
    peers = Peers(LEARNING)
    asked = handshake(peers).request
    error = {"jsonrpc": "2.0", "id": 0, "error": {"code": -32600, "message": "already initialized"}}

    peers.learn_from_answer(Exchange("y", asked, message(error, TO_CLIENT)))

    assert peers.version == "2025-11-25"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            notification("notifications/progress", progressToken="t", progress=1),
            Era.MODERN,
            id="progress-of-a-request",
        ),
        pytest.param(notification("notifications/progress", progressToken="u"), Era.LEGACY, id="progress-of-nothing"),
        pytest.param(notification("notifications/x", _meta={SUBSCRIPTION_ID: 9}), Era.MODERN, id="subscription"),
        pytest.param(notification("notifications/x", _meta=MODERN), Era.MODERN, id="its-own-word"),
        pytest.param(notification("notifications/x", _meta={PROTOCOL_VERSION: 5}), Era.LEGACY, id="its-own-nonsense"),
        pytest.param(notification("notifications/x"), Era.LEGACY, id="the-session's"),
    ],
)
def test_a_notification_has_the_era_of_what_it_names(content: Any, expected: Era) -> None:
    """Request, progress token or subscription; else the session's. The version goes with the era."""
    peers, table = Peers(LEARNING), Correlator()
    handshake(peers)
    asked = message(modern(1, _meta={**MODERN, "progressToken": "t"}))
    peers.learn(asked)
    table.open(Exchange("x", asked, era=Era.MODERN))

    version = "2026-07-28" if expected is Era.MODERN else "2025-11-25"
    assert era(peers, content, TO_CLIENT, table) == (expected, version)


# Names


def test_names_are_learned_from_the_handshake() -> None:
    """And the negotiated version goes onto the handshake itself."""
    peers = Peers(LEARNING)
    exchange = handshake(peers)

    assert peers.caller == Caller("inspector", "files", True, True)
    assert exchange.version == peers.version == "2025-11-25"


def test_names_are_learned_from_modern_messages() -> None:
    """The client's from each request, the server's from each result."""
    peers = Peers(LEARNING)
    asked = message(modern(1))
    peers.learn(asked)
    answer = message(result(1, _meta={SERVER_INFO: {"name": "files", "version": "2"}}), TO_CLIENT)
    peers.learn_from_answer(Exchange("x", asked, answer))

    assert peers.caller == Caller("modern-client", "files", True, True)


def test_discover_may_name_the_server_in_its_result() -> None:
    """Where `_meta` does not."""
    peers = Peers(LEARNING)
    asked = message(modern(1, "server/discover"))
    peers.learn_from_answer(Exchange("x", asked, message(result(1, serverInfo={"name": "files"}), TO_CLIENT)))

    assert peers.caller.server_id == "files"


def test_configured_names_are_kept() -> None:
    """Whatever a peer claims."""
    peers = Peers(Caller("ops", "payments"))
    handshake(peers)
    peers.learn(message(modern(1)))

    assert peers.caller == Caller("ops", "payments")


@pytest.mark.parametrize("name", ["", None, 5, ["x"], {"name": "x"}, True])
def test_a_claim_that_is_no_name_teaches_nothing(name: Any) -> None:
    """And does not spoil what stands beside it."""
    peers = Peers(LEARNING)
    exchange = handshake(peers, name, name)

    assert peers.caller == LEARNING
    assert exchange.version == "2025-11-25"


@pytest.mark.parametrize("version", [None, 5, ["x"], ""])
def test_a_version_that_is_none_does_not_spoil_the_name(version: Any) -> None:
    """Members are read one by one."""
    peers = Peers(LEARNING)
    handshake(peers, version=version)

    assert (peers.caller.server_id, peers.version) == ("files", "")


def test_claims_are_cut_to_a_bounded_length() -> None:
    """They are repeated in every entry."""
    peers = Peers(LEARNING)
    handshake(peers, "c" * 100_000, "s" * 100_000, "v" * 100_000)
    assert [len(text) for text in (peers.caller.client_id, peers.caller.server_id, peers.version)] == [200, 200, 200]

    peers = Peers(LEARNING)
    meta = {PROTOCOL_VERSION: "w" * 100_000, "io.modelcontextprotocol/clientInfo": {"name": "d" * 100_000}}
    peers.learn(message(modern(1, _meta=meta)))
    assert (len(peers.version), peers.caller.client_id) == (200, "d" * 200)
    assert peers.modern_version(message(modern(2))) == "2026-07-28"


@pytest.mark.parametrize(
    ("content", "direction"),
    [
        pytest.param(request(1, "initialize", clientInfo={"name": "x"}), TO_CLIENT, id="the-server's-own-initialize"),
        pytest.param(notification("initialize", clientInfo={"name": "x"}), TO_SERVER, id="not-a-request"),
        pytest.param(modern(1), TO_CLIENT, id="modern-from-the-server"),
        pytest.param(
            b'{"jsonrpc":"2.0","id":1,"id":2,"method":"initialize","params":{"clientInfo":{"name":"x"}}}\n',
            TO_SERVER,
            id="ambiguous",
        ),
    ],
)
def test_only_plain_requests_of_the_client_teach(content: Any, direction: Direction) -> None:
    """What may not get through, or comes from the other side, says nothing about the client."""
    peers = Peers(LEARNING)
    peers.era = Era.MODERN

    peers.learn(message(content, direction))

    assert peers.caller == LEARNING
    assert peers.era is Era.MODERN


def test_an_answer_of_the_client_says_nothing_about_the_server() -> None:
    """Its result may hold what looks like it."""
    peers = Peers(LEARNING)
    asked = message(request(1, "initialize"), TO_CLIENT)

    peers.learn_from_answer(Exchange("x", asked, message(result(1, serverInfo={"name": "evil"}))))

    assert peers.caller == LEARNING


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" * 5000 + b"]" * 5000, id="deep"),
        pytest.param(b'{"name":' + b"[" * 5000 + b"]" * 5000 + b"}", id="deeper"),
        pytest.param(b'{"name":"\\ud800"}', id="surrogate"),
        pytest.param(b'"name"', id="string"),
    ],
)
def test_hostile_claims_do_not_raise(text: bytes) -> None:
    """From either side, in either era."""
    peers = Peers(LEARNING)
    line = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"clientInfo":%b}}\n' % text
    asked = message(line)
    peers.learn(asked)
    answer = b'{"jsonrpc":"2.0","id":1,"result":{"serverInfo":%b,"_meta":{"%b":%b}}}\n'
    response = message(answer % (text, SERVER_INFO.encode(), text), TO_CLIENT)
    peers.learn_from_answer(Exchange("x", asked, response))
    peers.learn_from_answer(Exchange("x", message(modern(1, "server/discover")), response))

    assert peers.caller.client_id in ("", "\ud800")
