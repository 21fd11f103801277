"""What a line says of an exchange: members, which payloads, verdict, trace."""

from __future__ import annotations

from typing import Any

import pytest
from memory_ledger import TO_CLIENT, TO_SERVER, notification, request, result, rpc_error, sent

from mcp_audit.ledger.entry import Entry
from mcp_audit.middleware.entries import closing_entry, orphan_entry, request_entry, without_payloads
from mcp_audit.wire.exchange import Exchange, Outcome, Verdict
from mcp_audit.wire.message import Direction, Era, Message

NOW = "2026-05-25T12:34:56.123450Z"


def message(content: Any, direction: Direction = TO_SERVER) -> Message:
    return sent(content, direction).messages[0]


def exchange(asked: Any = None, answer: Any = None, outcome: Outcome = Outcome.ANSWERED, **more: Any) -> Exchange:
    """A finished exchange of the client."""
    return Exchange(
        "L1",
        message(asked) if asked is not None else None,
        message(answer, TO_CLIENT) if answer is not None else None,
        outcome=outcome,
        **more,
    )


def closing(of: Exchange) -> Entry:
    return closing_entry(of, of.id, NOW, "stdio")


def test_a_call_and_its_answer() -> None:
    """Params and result are the slices as received; the rest is what the format asks for."""
    finished = exchange(
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"echo","n":1.10}}\n',
        b'{"jsonrpc":"2.0","id":7,"result":{"n":1e2}}\n',
        started=1.0,
        ended=1.0189,
        era=Era.MODERN,
        version="2026-07-28",
        client_id="c",
        server_id="s",
        continues="L0",
        marks=("guessed",),
        seq=4,
    )

    assert closing(finished) == Entry(
        "L1", NOW, "client_to_server", "stdio", "tools/call", request_id="7", tool_name="echo",
        params=b'{"name":"echo","n":1.10}', result=b'{"n":1e2}', duration_ms=18, client_id="c", server_id="s",
        outcome="answered", era="modern", protocol_version="2026-07-28", continues="L0", marks=["guessed"], of=4,
    )  # fmt: skip


def test_the_line_ahead_says_what_is_known_then() -> None:
    """No outcome, no `of`; its own id."""
    entry = request_entry(exchange(request(7), outcome=Outcome.PENDING, seq=None), "L9", NOW, "stdio")

    assert (entry.type, entry.id, entry.method, entry.tool_name) == ("request", "L9", "tools/call", "echo")
    assert (entry.outcome, entry.of, entry.params) == ("", None, b'{"name":"echo"}')


def test_an_orphan_says_why() -> None:
    """With the seq of its request line, or the request's members if there is none."""
    entry = orphan_entry(exchange(request(7), outcome=Outcome.LOST, seq=3), "L9", NOW, "stdio", "upstream_exit")

    assert (entry.type, entry.outcome, entry.why, entry.of) == ("orphan", "lost", "upstream_exit", 3)
    assert entry.params == b'{"name":"echo"}'


@pytest.mark.parametrize(
    ("id_", "text"),
    [(7, "7"), (0, "0"), ("7", "7"), ("", ""), (1.5, "1.5"), (None, None)],
    ids=["number", "zero", "string", "empty-string", "fraction", "null"],
)
def test_the_request_id_is_text_or_literal(id_: Any, text: str | None) -> None:
    """An empty string is an id; null is none, and must not look like the string "null"."""
    assert closing(exchange(request(id_))).request_id == text


def test_a_notification_has_no_id_and_takes_no_time() -> None:
    """A tool's name only for calls."""
    entry = closing(exchange(notification("prompts/get", name="p"), outcome=Outcome.NOTIFICATION, started=3, ended=3))

    assert (entry.request_id, entry.duration_ms, entry.tool_name, entry.method) == (None, 0, "", "prompts/get")


def test_an_opaque_message_is_its_bytes() -> None:
    """No method, no id, no payload but the whole message: nothing of it was understood for sure."""
    line = b'{"jsonrpc":"2.0","id":1,"Method":"x","method":"tools/call","params":{"name":"rm"}}'
    entry = closing(exchange(line + b"\n", outcome=Outcome.OPAQUE))

    assert (entry.raw, entry.method, entry.request_id, entry.params, entry.tool_name) == (line, "", None, b"", "")


def test_a_denied_message_that_is_no_message_is_its_bytes() -> None:
    """There is nothing else to keep."""
    entry = closing(exchange(b"noise\n", outcome=Outcome.DENIED))

    assert (entry.raw, entry.method) == (b"noise", "")


def test_a_denied_ambiguous_request_is_recorded_as_we_read_it() -> None:
    """Method, tool and params are what the verdict was about."""
    line = b'{"jsonrpc":"2.0","id":1,"Method":"x","method":"tools/call","params":{"name":"rm"}}\n'
    entry = closing(exchange(line, outcome=Outcome.DENIED))

    assert (entry.raw, entry.method, entry.tool_name) == (b"", "tools/call", "rm")


def test_an_answer_to_nothing_has_no_method() -> None:
    """Its id and result are all there is; the direction is that of the request it would answer."""
    entry = closing(Exchange("L1", None, message(result(9), TO_CLIENT), outcome=Outcome.OPAQUE, marks=("unmatched",)))

    assert (entry.method, entry.request_id, entry.result, entry.direction) == ("", "9", b"{}", "client_to_server")


@pytest.mark.parametrize(
    ("ours", "kept"), [(b"", b'{"code":-32601,"message":"no"}'), (b'{"ours":1}', b'{"ours":1}')], ids=["peer", "ours"]
)
def test_the_error_is_the_one_the_requester_got(ours: bytes, kept: bytes) -> None:
    """The peer's, or the one we answered with."""
    assert closing(exchange(request(1), rpc_error(1), Outcome.RPC_ERROR, error=ours)).error == kept


def test_a_message_too_large_is_a_size_and_a_commitment() -> None:
    """And what is known of the request whose answer it was."""
    answer = Message(b"", TO_CLIENT, message(result(1), TO_CLIENT).kind, message(request(1)).id)
    finished = Exchange("L1", message(request(1)), answer, outcome=Outcome.DENIED, oversized=99, commitment="c")

    assert closing(finished).elided == [{"p": "/raw", "bytes": 99, "why": "size", "c": "c"}]
    assert closing(finished).params == b'{"name":"echo"}'
    finished.commitment = ""
    assert closing(finished).elided == [{"p": "/raw", "bytes": 99, "why": "size"}]


@pytest.mark.parametrize(
    ("verdict", "policy"),
    [
        pytest.param(Verdict(True), None, id="nobody-decided"),
        pytest.param(
            Verdict(True, "policy", 2, recorded=True), {"action": "allow", "rule_index": 2}, id="a-rule-allows"
        ),
        pytest.param(
            Verdict(False, "policy", 0, "no", recorded=True),
            {"action": "deny", "rule_index": 0, "reason": "no"},
            id="a-rule-denies",
        ),
        pytest.param(
            Verdict(False, "rate_limit", reason="r", recorded=True),
            {"action": "deny", "rule_index": -1, "reason": "r", "gate": "rate_limit"},
            id="another-gate",
        ),
        pytest.param(
            Verdict(True, "policy", -1, recorded=True, extra={"shadow": {"action": "deny"}}),
            {"action": "allow", "rule_index": -1, "shadow": {"action": "deny"}},
            id="a-shadow-disagrees",
        ),
    ],
)
def test_the_verdict_is_on_the_record_if_a_gate_decided(verdict: Verdict, policy: Any) -> None:
    """With its gate unless that is the policy."""
    assert closing(exchange(request(1), verdict=verdict)).policy == policy


TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("parent", "trace"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", {"trace_id": TRACE, "span_id": SPAN}, id="w3c"),
        pytest.param(f"01-{TRACE}-{SPAN}-01-more", {"trace_id": TRACE, "span_id": SPAN}, id="a-future-version"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", None, id="capitals"),
        pytest.param(f"00-{'z' * 32}-{SPAN}-01", None, id="not-hex"),
        pytest.param(f"00-{TRACE}-{SPAN}", None, id="no-flags"),
        pytest.param("", None, id="empty"),
        pytest.param(5, None, id="number"),
        pytest.param({"a": 1}, None, id="object"),
    ],
)
def test_the_callers_trace_is_kept_if_it_is_one(parent: Any, trace: Any) -> None:
    """W3C Trace Context, version 00 or a later one that begins alike."""
    assert closing(exchange(request(1, _meta={"traceparent": parent}))).trace == trace


def test_what_no_processor_had_its_say_about_is_dropped() -> None:
    """Every payload becomes its size; of the policy what is ours stays."""
    entry = Entry(
        "L1", NOW, "client_to_server", "stdio", "x", params=b"12", result=b"1", error=b"123", raw=b"1234",
        policy={"action": "deny", "rule_index": 0, "reason": "r", "shadow": object()},
    )  # fmt: skip

    bare = without_payloads(entry)

    assert (bare.params, bare.result, bare.error, bare.raw) == (b"", b"", b"", b"")
    assert [(e["p"], e["bytes"], e["why"]) for e in bare.elided] == [
        ("/params", 2, "unredactable"),
        ("/result", 1, "unredactable"),
        ("/error", 3, "unredactable"),
        ("/raw", 4, "unredactable"),
    ]
    assert bare.policy == {"action": "deny", "rule_index": 0, "reason": "r"}
