"""The bridge between a client that the test plays and an upstream that it plays as well."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bridge_harness import (
    INITIALIZE,
    INITIALIZED,
    bridge,
    call,
    notification,
    request,
    result,
    shake_hands,
    upstream,
)
from memory_ledger import MemoryLedger

from mcp_audit.config.model import Policy, Rule

BOTH = "application/json, text/event-stream"


def _complaint(words: str) -> dict[str, Any]:
    """An error that nobody can pair with a request."""
    return {"jsonrpc": "2.0", "error": {"code": -32000, "message": words}}


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What the operator is told."""
    sentences: list[str] = []
    log, handler = logging.getLogger("mcp_audit"), logging.Handler()
    handler.emit = lambda record: sentences.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield sentences
    log.removeHandler(handler)


# -- one line, one POST ------------------------------------------------------------------------------------------------


async def test_a_line_is_a_post_of_the_same_bytes(tmp_path: Path) -> None:
    """Its terminator stays behind; everything else, odd spelling included, arrives."""
    line = b'{ "id":1e0,"method" : "ping","jsonrpc":"2.0", "params":{"a":1.10,"b":"\\/\\u00e9\xc3\xa9"} }'
    async with upstream() as server, bridge(tmp_path, server.url + "?tenant=a%2Fb") as client:
        client.send(line + b"\r\n")
        asked = await server.asked()
        await asked.answer(body={"jsonrpc": "2.0", "id": 1, "result": {}})

        assert asked.body == line
        assert asked.path == "/mcp?tenant=a%2Fb"
        assert asked.headers["accept"] == BOTH
        assert asked.headers["content-type"] == "application/json"
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"
        assert await client.message() == {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.mark.parametrize(
    ("body", "line"),
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":{"n":1.10}}', None, id="compact"),
        pytest.param(b'{\n"id":1,\r\n"result":{}}\n', b'{ "id":1,  "result":{}}', id="pretty"),
        pytest.param('{"jsonrpc":"2.0","id":1,"result":{"t":"\u2028\u0085\\n"}}'.encode(), None, id="other-breaks"),
    ],
)  # fmt: skip
async def test_only_line_breaks_between_tokens_change(tmp_path: Path, body: bytes, line: bytes | None) -> None:
    """Each becomes a space; what JavaScript or Unicode call a line break is content."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(request(1, "ping"))
        await (await server.asked()).answer(body=body)

        assert await client.line() == (line or body) + b"\n"


async def test_an_answer_that_is_broken_json_is_not_mended_in_secret(tmp_path: Path) -> None:
    """A line break inside a string makes JSON that no client takes; as a line it is recorded as what goes out."""
    body = b'{"jsonrpc":"2.0","id":1,"result":{"text":"a\nb"}}'
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(request(1, "ping"))
        await (await server.asked()).answer(body=body)
        line = await client.line()
        client.close()
        await client.ended()

        assert line == body.replace(b"\n", b" ") + b"\n"
        (entry,) = client.entries()
        assert entry["outcome"] == "answered"
        assert entry["result"]["text"] == "a b"


async def test_every_event_with_data_is_a_line(tmp_path: Path) -> None:
    """As it comes: the first is there before the second is sent; comments, ids and other types say nothing."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1))
        asked = await server.asked()
        await asked.stream()
        await asked.raw(b": hello\n\nid: 1\ndata:\n\nevent: ping\ndata: {}\n\n")
        progress = notification("notifications/progress", progressToken=1, progress=1)
        await asked.event(progress)
        assert await client.message() == progress
        await asked.raw(b'event: message\r\ndata: {"jsonrpc":"2.0",\r\ndata: "id":1,"result":{}}\r\n\r\n')

        assert await client.line() == b'{"jsonrpc":"2.0", "id":1,"result":{}}\n'
        await asked.end()
        client.close()
        assert (await client.ended()).returncode == 0
        assert [entry["outcome"] for entry in client.entries() if entry["method"] == "tools/call"][-1] == "answered"


async def test_requests_run_side_by_side(tmp_path: Path) -> None:
    """The second is answered while the first waits."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1), call(2))
        both = {asked.message["id"]: asked for asked in (await server.asked(), await server.asked())}
        await both[2].answer(body=result(2))
        assert (await client.message())["id"] == 2
        await both[1].answer(body=result(1))
        assert (await client.message())["id"] == 1


async def test_what_follows_a_notification_waits_until_it_was_accepted(tmp_path: Path) -> None:
    """As over a pipe, where nothing overtakes anything."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        client.send(notification("notifications/roots/list_changed"), call(2), b"\n")
        first = await server.asked()
        assert first.message["method"] == "notifications/roots/list_changed"
        for number in range(10):  # which takes longer than sending a request would
            await stream.event(notification("notifications/message", data=number))
            await client.line()
        assert server.quiet()
        await first.accept()
        second = await server.asked()
        assert second.message["id"] == 2
        await second.answer(body=result(2))
        assert (await client.message())["id"] == 2


async def test_a_blank_line_is_no_message(tmp_path: Path) -> None:
    """Nothing is sent for it."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(b"\n\r\n", request(1, "ping"))
        asked = await server.asked()
        assert asked.message["id"] == 1
        await asked.answer(body=result(1))
        assert (await client.message())["id"] == 1


async def test_noise_is_passed_on_and_so_is_what_the_upstream_says_about_it(tmp_path: Path) -> None:
    """A server on a pipe would say it with a null id, too."""
    complaint = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}}
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(b"hello\n")
        asked = await server.asked()
        await asked.answer(400, complaint)

        assert asked.body == b"hello"
        assert await client.message() == complaint


async def test_the_end_of_stdin_does_not_cut_off_what_is_said_about_noise(tmp_path: Path) -> None:
    """It is waited for to its end, as no id tells when it has come."""
    complaint = {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}}
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(b"hello\n")
        asked = await server.asked()
        await asked.stream(Content_Type="application/json")
        client.close()
        await asyncio.wait((client.run,), timeout=0.2)
        await asked.raw(json.dumps(complaint).encode())
        await asked.end()

        assert await client.message() == complaint


# -- legacy sessions ---------------------------------------------------------------------------------------------------


async def test_a_session_is_kept_and_ended(tmp_path: Path) -> None:
    """Session id and negotiated version go with everything after the handshake, and with the DELETE at the end."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        client.send(call(2))
        asked = await server.asked()
        await asked.answer(body=result(2))
        await client.line()
        client.close()
        farewell = await server.asked("DELETE")
        await farewell.answer(405)
        ending = await client.ended()

        assert stream is not None
        for one in (stream, asked, farewell):
            assert one.headers["mcp-session-id"] == "s"
            assert one.headers["mcp-protocol-version"] == "2025-11-25"
        assert stream.headers["accept"] == "text/event-stream"
        assert stream.gone.is_set()
        assert (ending.returncode, ending.reason) == (0, "eof")


async def test_an_early_revision_gets_no_header_it_does_not_know(tmp_path: Path) -> None:
    """`MCP-Protocol-Version` came with 2025-06-18."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(INITIALIZE)
        await (await server.asked()).answer(body=result(1, protocolVersion="2025-03-26"))
        await (await server.asked("GET")).answer(405)
        client.send(INITIALIZED)

        assert "mcp-protocol-version" not in (await server.asked()).headers


async def test_all_lines_wait_for_the_handshake(tmp_path: Path) -> None:
    """A client that writes ahead, as to a pipe, must not be sent on without a session."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(INITIALIZE, INITIALIZED, request(2, "tools/list"))
        asked = await server.asked()
        assert asked.message["method"] == "initialize"
        assert server.quiet()
        await asked.answer(body=result(1, protocolVersion="2025-11-25"), Mcp_Session_Id="s")
        await (await server.asked("GET")).answer(405)
        initialized = await server.asked()
        assert (initialized.message["method"], initialized.headers["mcp-session-id"]) == (INITIALIZED["method"], "s")
        await initialized.accept()
        listed = await server.asked()
        assert listed.message["id"] == 2
        await listed.answer(body=result(2, tools=[]))


async def test_the_server_asks_and_is_answered(tmp_path: Path) -> None:
    """Its requests come on the stream beside or on that of a call; the client's answers go up as POSTs."""
    sampling = request(0, "sampling/createMessage", messages=[])
    roots = request("r", "roots/list")
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        await stream.event(roots)
        assert await client.message() == roots
        client.send(result("r", roots=[]))
        asked = await server.asked()
        assert asked.message == result("r", roots=[])
        await asked.accept()

        client.send(call(0))
        waiting = await server.asked()
        await waiting.stream()
        await waiting.event(sampling)
        assert await client.message() == sampling
        client.send(result(0, model="m"))
        answer = await server.asked()
        await answer.accept()
        await waiting.event(result(0))
        await waiting.end()

        assert answer.message == result(0, model="m")
        assert await client.message() == result(0)


async def test_a_call_that_lost_its_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    """`Last-Event-ID` names the last event, an empty one included, and `retry` says when."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        await shake_hands(client, server, listens=False)
        client.send(call(2))
        asked = await server.asked()
        await asked.stream()
        await asked.event(id_="a-1", retry=10)
        await asked.end()
        again = await server.asked("GET")
        assert again.headers["last-event-id"] == "a-1"
        await again.stream()
        await again.event(notification("notifications/message", level="info", data="x"), id_="a-2")
        await again.drop()
        third = await server.asked("GET")
        assert third.headers["last-event-id"] == "a-2"
        assert third.headers["mcp-session-id"] == "s"
        await third.stream()
        await third.event(result(2), id_="a-3")
        await third.end()

        assert (await client.message())["method"] == "notifications/message"
        assert await client.message() == result(2)


async def test_what_was_answered_elsewhere_is_not_asked_for_again(tmp_path: Path) -> None:
    """A server that repeats events from the last one on might answer twice."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        beside = await shake_hands(client, server)
        assert beside is not None
        client.send(call(2))
        asked = await server.asked()
        await asked.stream()
        await asked.event(id_="a", retry=300)
        await asked.drop()
        client.send(call(3))  # by the time this is answered, the other stream is known to have ended
        await (await server.asked()).answer(body=result(3))
        assert await client.message() == result(3)
        await beside.event(result(2))
        assert await client.message() == result(2)
        await asyncio.wait((client.run,), timeout=0.5)

        assert server.quiet()


async def test_the_stream_beside_is_opened_again(tmp_path: Path) -> None:
    """Also after a reset; what is sent there afterwards arrives."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        await stream.event(notification("notifications/tools/list_changed"), id_="7", retry=10)
        await stream.drop()
        assert (await client.message())["method"] == "notifications/tools/list_changed"
        again = await server.asked("GET")
        await again.stream()
        await again.event(request(9, "ping"))

        assert again.headers["last-event-id"] == "7"
        assert (await client.message())["id"] == 9


async def test_a_server_that_listens_to_nobody_before_initialized_is_asked_again(tmp_path: Path) -> None:
    """Only 405 says that there is no such stream at all."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(INITIALIZE)
        await (await server.asked()).answer(body=result(1, protocolVersion="2025-11-25"))
        await (await server.asked("GET")).answer(400)
        client.send(INITIALIZED)
        await (await server.asked()).accept()
        stream = await server.asked("GET")
        await stream.stream()
        await stream.event(request(9, "ping"))
        await client.line()

        assert (await client.message())["id"] == 9


async def test_what_was_cancelled_holds_nobody_up(tmp_path: Path, told: list[str]) -> None:
    """Its answer may never come, and that is nothing to complain of."""
    async with upstream() as server, bridge(tmp_path, server.url, upstream_timeout_ms=300) as client:
        await shake_hands(client, server)
        client.send(call(2))
        asked = await server.asked()
        client.send(notification("notifications/cancelled", requestId=2))
        await (await server.asked()).accept()
        with anyio.fail_after(5):
            await asked.gone.wait()
        client.send(call(3))
        await (await server.asked()).answer(body=result(3))
        assert await client.message() == result(3)

    assert [sentence for sentence in told if "transparent" not in sentence] == []


async def test_the_end_of_stdin_does_not_wait_for_what_was_cancelled(tmp_path: Path) -> None:
    """Clients grant two seconds, which is less than a server may take to answer."""
    async with upstream() as server, bridge(tmp_path, server.url, upstream_timeout_ms=0) as client:
        await shake_hands(client, server)
        client.send(call(2))
        await server.asked()
        client.send(notification("notifications/cancelled", requestId=2))
        await (await server.asked()).accept()
        client.close()
        await (await server.asked("DELETE")).answer(200)

        assert (await client.ended()).returncode == 0


async def test_a_cancellation_goes_to_a_legacy_server_as_a_message(tmp_path: Path) -> None:
    """A closed stream would mean nothing to it, so the stream stays open."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        await shake_hands(client, server)
        client.send(call(2))
        asked = await server.asked()
        await asked.stream()
        client.send(notification("notifications/cancelled", requestId=2))
        cancelled = await server.asked()
        await cancelled.accept()
        client.send(call(3))
        await (await server.asked()).answer(body=result(3))

        assert cancelled.message["method"] == "notifications/cancelled"
        assert (await client.message())["id"] == 3
        assert not asked.gone.is_set()


@pytest.mark.parametrize("where", ["POST", "GET"])
async def test_a_lost_session_ends_the_run(tmp_path: Path, where: str, told: list[str]) -> None:
    """404 to a session id: the request is answered, a sentence says why, and no handshake is repeated."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        if where == "POST":
            client.send(call(2), call(3))
            for _ in range(2):
                await (await server.asked()).answer(
                    404, {"jsonrpc": "2.0", "error": {"code": -32001, "message": "gone"}}
                )
            error = (await client.message())["error"]
            assert (error["code"], error["data"]["status"]) == (-32032, 404)
            assert "has to connect again" in error["data"]["reason"]
        else:
            await stream.event(notification("notifications/message"), id_="1", retry=1)
            await stream.end()
            await (await server.asked("GET")).answer(404)
        ending = await client.ended()

        assert (ending.returncode, ending.reason, ending.why) == (1, "upstream_exit", "upstream_exit")
        assert "forgotten the session" in "\n".join(told)
        assert server.quiet(), "no DELETE of what is gone, and no second handshake"


# -- modern requests ---------------------------------------------------------------------------------------------------


async def test_a_modern_request_carries_what_its_body_says(tmp_path: Path) -> None:
    """Version, method and name, in Base64 where plain text would not survive; no session."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1, "snow ☃", modern=True), request(2, "resources/read", modern=True, uri="file:///a b"))
        asked = {each.message["id"]: each for each in (await server.asked(), await server.asked())}
        for number, each in asked.items():
            await each.answer(body=result(number), Mcp_Session_Id="stray")
            assert each.headers["mcp-protocol-version"] == "2026-07-28"
        client.send(request(3, "tools/list", modern=True))
        third = await server.asked()

        assert asked[1].headers["mcp-method"] == "tools/call"
        assert asked[1].headers["mcp-name"] == "=?base64?c25vdyDimIM=?="
        assert asked[2].headers["mcp-name"] == "file:///a b"
        assert "mcp-session-id" not in third.headers
        assert "mcp-name" not in third.headers


async def test_listed_arguments_are_mirrored(tmp_path: Path) -> None:
    """Once the tool was listed through the bridge."""
    region = {"type": "string", "x-mcp-header": "Region"}
    tools = [{"name": "query", "inputSchema": {"type": "object", "properties": {"region": region}}}]
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1, "query", modern=True, region="eu"))
        before = await server.asked()
        await before.answer(body=result(1))
        await client.line()
        client.send(request(2, "tools/list", modern=True))
        await (await server.asked()).answer(body=result(2, tools=tools))
        await client.line()
        client.send(call(3, "query", modern=True, region="eu"))
        after = await server.asked()

        assert "mcp-param-region" not in before.headers
        assert after.headers["mcp-param-region"] == "eu"


async def test_a_modern_cancellation_closes_the_stream_it_names(tmp_path: Path) -> None:
    """Nothing is posted, nobody is answered, and the record says `cancelled`."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1, modern=True), request(2, "subscriptions/listen", modern=True))
        asked = {each.message["id"]: each for each in (await server.asked(), await server.asked())}
        for each in asked.values():
            await each.stream()
        await asked[1].event(notification("notifications/progress", progressToken=1, progress=1))
        await client.line()
        client.send(notification("notifications/cancelled", requestId=1))
        async with anyio.create_task_group():
            with anyio.fail_after(5):
                await asked[1].gone.wait()
        assert not asked[2].gone.is_set()
        client.send(notification("notifications/cancelled", requestId=2))
        with anyio.fail_after(5):
            await asked[2].gone.wait()
        client.close()
        await client.ended()

        assert server.quiet()
        assert [e["outcome"] for e in client.entries() if e["method"] in ("tools/call", "subscriptions/listen")] == [
            "cancelled",
            "cancelled",
        ]


async def test_the_servers_own_error_is_passed_on(tmp_path: Path) -> None:
    """400 with -32022 or 404 with -32601 tell a client which era and versions it met."""
    unsupported = {"code": -32022, "message": "Unsupported", "data": {"supported": ["2026-07-28"]}}
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(request(1, "server/discover", modern=True))
        await (await server.asked()).answer(400, {"jsonrpc": "2.0", "id": 1, "error": unsupported})

        assert await client.message() == {"jsonrpc": "2.0", "id": 1, "error": unsupported}


async def test_a_subscription_does_not_keep_us_when_the_client_has_gone(tmp_path: Path) -> None:
    """It would stay open for ever; calls are waited for."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(request(1, "subscriptions/listen", modern=True), call(2, modern=True))
        asked = {each.message["id"]: each for each in (await server.asked(), await server.asked())}
        await asked[1].stream()
        client.close()
        await asked[2].answer(body=result(2))

        assert await client.message() == result(2)
        assert (await client.ended()).reason == "eof"


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "headers", "reason"),
    [
        pytest.param(401, b"", {}, "the bridge runs no OAuth flow, so put a token into proxy.bridge.headers", id="401"),
        pytest.param(403, b"", {}, "proxy.bridge.headers is their place", id="403"),
        pytest.param(307, b"", {"Location": "/mcp/?t=secret"}, "to /mcp/; nothing is followed, so make that", id="307"),
        pytest.param(302, b"", {"Location": "//a:secret@b/c#secret"}, "302 Found, to //b/c; nothing", id="302"),
        pytest.param(503, b"busy", {}, "the upstream answered 503 Service Unavailable", id="503"),
        pytest.param(404, b"{}", {}, "404 Not Found", id="404"),
        pytest.param(400, _complaint("no session"), {}, "400 Bad Request (no session)", id="400"),
        pytest.param(400, _complaint("a\x1b[2J\nb\x9b"), {}, "400 Bad Request (a [2J b )", id="escapes"),
        pytest.param(200, b"", {}, "without a message", id="empty"),
        pytest.param(200, b" \n", {}, "its answer is empty", id="blank"),
        pytest.param(202, b"", {}, "without a message", id="202"),
        pytest.param(200, result(7), {}, "its answer answers something else", id="other-id"),
    ],
)  # fmt: skip
async def test_a_failure_is_answered_and_explained(
    tmp_path: Path, status: int, body: Any, headers: dict[str, str], reason: str
) -> None:
    """Under the request's id, with the status, in words that name the next move."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1, modern=True))
        await (await server.asked()).answer(status, body, **headers)
        answer = await client.message()
        if answer.get("id") == 7:
            answer = await client.message()
        client.send(call("next", modern=True))
        await (await server.asked()).answer(body=result("next"))
        assert await client.message() == result("next")

    error = answer["error"]
    assert (answer["id"], error["code"], error["data"]["kind"]) == (1, -31032, "upstream_unavailable")
    assert reason in error["data"]["reason"]
    assert "secret" not in error["data"]["reason"]


async def test_an_html_page_is_no_answer(tmp_path: Path) -> None:
    """A captive portal says 200 as well; none of it reaches the client."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1))
        await (await server.asked()).answer(200, b"<html>\nlog in", kind="text/html; charset=utf-8")

        data = (await client.message())["error"]["data"]
        assert (data["status"], data["reason"]) == (
            200, "the upstream answered with text/html instead of JSON or an event stream",
        )  # fmt: skip


async def test_an_upstream_that_is_not_there_is_named(tmp_path: Path) -> None:
    """And the session goes on: it may come back."""
    async with upstream() as server:
        gone = server.url
    async with bridge(tmp_path, gone) as client:
        client.send(call(1))
        answer = await client.message()

    assert answer["error"]["data"]["reason"].endswith("connection refused")
    assert "status" not in answer["error"]["data"]


async def test_a_connection_that_breaks_is_an_answer_that_never_came(tmp_path: Path) -> None:
    """Before the head, in a body, and in a stream that cannot be resumed; nothing is sent twice."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1))
        await (await server.asked()).drop()
        assert "before it answered" in (await client.message())["error"]["data"]["reason"]
        client.send(call(2))
        asked = await server.asked()
        await asked.stream(Content_Type="application/json")
        await asked.raw(b'{"jsonrpc":')
        await asked.drop()
        assert "broke off" in (await client.message())["error"]["data"]["reason"]
        client.send(call(3))
        asked = await server.asked()
        await asked.stream()
        await asked.end()
        assert "ended before the answer came" in (await client.message())["error"]["data"]["reason"]
        assert server.quiet()


async def test_an_upstream_that_stalls_is_given_up_on(tmp_path: Path) -> None:
    """`upstream_timeout` after proxy.upstream_timeout_ms, but never a stream that has begun."""
    async with upstream() as server, bridge(tmp_path, server.url, upstream_timeout_ms=200) as client:
        client.send(call(1))
        slow = await server.asked()
        await slow.stream()
        client.send(call(2))
        await server.asked()
        error = (await client.message())["error"]
        await slow.event(result(1))

        assert (error["code"], error["data"]["kind"]) == (-32032, "upstream_timeout")
        assert "proxy.upstream_timeout_ms" in error["data"]["reason"]
        assert await client.message() == result(1)


async def test_a_notification_that_is_not_accepted_is_told_to_the_operator(tmp_path: Path, told: list[str]) -> None:
    """The client must not get an answer to it."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(notification("notifications/x"), call(1))
        await (await server.asked()).answer(400, {"jsonrpc": "2.0", "id": None, "error": {"code": 1, "message": "no"}})
        await (await server.asked()).answer(body=result(1))

        assert await client.message() == result(1)
        assert "was not accepted: the upstream answered 400 Bad Request (no)" in "\n".join(told)


async def test_an_answer_too_large_is_withheld_and_said_to_be(tmp_path: Path) -> None:
    """In a body and in an event; the next one passes."""
    text = "x" * 2000
    async with upstream() as server, bridge(tmp_path, server.url, max_message_bytes=1000) as client:
        client.send(call(1))
        await (await server.asked()).answer(body=result(1, text=text))
        assert (await client.message())["error"]["data"]["kind"] == "message_too_large"
        client.send(call(2))
        asked = await server.asked()
        await asked.stream()
        await asked.event({"jsonrpc": "2.0", "id": 2, "result": {"text": text}})
        await asked.end()
        assert (await client.message())["error"]["data"]["kind"] == "message_too_large"
        client.send(b'{"jsonrpc":"2.0","id":3,"method":"' + b"x" * 2000 + b'"}\n', call(4))
        assert (await client.message())["id"] == 3
        assert (await server.asked()).message["id"] == 4


async def test_a_server_that_asks_too_much_is_told(tmp_path: Path) -> None:
    """An oversized request of the server is answered in the client's place, by a POST."""
    async with upstream() as server, bridge(tmp_path, server.url, max_message_bytes=1000) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        await stream.event(request(5, "sampling/createMessage", text="x" * 2000))
        told = await server.asked()
        await told.accept()

        assert (told.message["id"], told.message["error"]["code"]) == (5, -32600)
        assert told.headers["mcp-session-id"] == "s"


async def test_a_deadline_is_kept(tmp_path: Path) -> None:
    """The requester gets our error, and a later answer is not delivered."""
    async with upstream() as server, bridge(tmp_path, server.url, call_timeout_ms=100) as client:
        client.send(call(1))
        asked = await server.asked()
        assert (await client.message())["error"]["data"]["kind"] == "upstream_timeout"
        await asked.answer(body=result(1))
        client.send(call(2))
        await (await server.asked()).answer(body=result(2))

        assert await client.message() == result(2)


async def test_a_deadline_closes_a_modern_stream(tmp_path: Path) -> None:
    """Its server is to know that nobody waits; that of a legacy call stays open, since closing it would say nothing."""
    async with upstream() as server, bridge(tmp_path, server.url, call_timeout_ms=100) as client:
        client.send(call(1, modern=True), call(2))
        asked = {each.message["id"]: each for each in (await server.asked(), await server.asked())}
        for each in asked.values():
            await each.stream()
        await client.line(), await client.line()
        with anyio.fail_after(5):
            await asked[1].gone.wait()

        assert not asked[2].gone.is_set()


async def test_what_is_too_late_before_its_turn_comes_is_not_sent(tmp_path: Path) -> None:
    """The client was told not to expect an answer, so there must be no effect, either."""
    async with upstream() as server, bridge(tmp_path, server.url, call_timeout_ms=300) as client:
        client.send(INITIALIZE, call(2))
        handshake = await server.asked()
        assert {(await client.message())["id"], (await client.message())["id"]} == {1, 2}
        await handshake.answer(500)
        client.send(call(3))
        asked = await server.asked()
        await asked.answer(body=result(3))
        client.close()
        await client.ended()

        assert asked.message["id"] == 3
        assert server.quiet()


# -- evidence before effect --------------------------------------------------------------------------------------------


async def test_what_is_denied_is_not_sent(tmp_path: Path) -> None:
    """The client is answered by us, and what it sent together with it goes on."""
    policy = Policy(enabled=True, rules=(Rule(action="deny", tool_name="rm"),))
    async with upstream() as server, bridge(tmp_path, server.url, policy=policy) as client:
        client.send(call(1, "rm"), call(2))
        asked = await server.asked()
        await asked.answer(body=result(2))
        denied = await client.message()

        assert (denied["id"], denied["error"]["data"]["kind"]) == (1, "policy_denied")
        assert asked.message["id"] == 2
        assert await client.message() == result(2)
        assert server.quiet()


async def test_a_call_that_cannot_be_recorded_is_not_sent(tmp_path: Path) -> None:
    """The client hears that it was not executed."""
    ledger = MemoryLedger()
    async with upstream() as server, bridge(tmp_path, server.url, ledger=ledger) as client:
        ledger.fail_after, ledger.broken = 0, True
        client.send(call(1))
        error = (await client.message())["error"]
        ledger.broken = False

        assert (error["data"]["kind"], error["data"]["executed"]) == ("audit_unavailable", False)
        assert server.quiet()


async def test_an_answer_that_cannot_be_recorded_is_withheld(tmp_path: Path) -> None:
    """The client hears that the call was executed, and the record says so once it can."""
    ledger = MemoryLedger()
    async with upstream() as server, bridge(tmp_path, server.url, ledger=ledger) as client:
        client.send(call(1))
        asked = await server.asked()
        ledger.fail_after, ledger.broken = 0, True
        await asked.answer(body=result(1))
        answer = await client.message()
        ledger.broken = False
        client.close()
        await client.ended()

    assert (answer["error"]["data"]["kind"], answer["error"]["data"]["executed"]) == ("audit_unavailable", True)
    assert [line["marks"] for line in ledger.typed("")] == [["withheld"]]


async def test_the_call_is_on_record_before_it_is_sent(tmp_path: Path) -> None:
    """And its answer before the client has it."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1))
        asked = await server.asked()
        assert [line["type"] for line in client.lines()] == ["open", "request"]
        await asked.answer(body=result(1))
        await client.line()
        (entry,) = client.entries()

        assert (entry["outcome"], entry["transport"], entry["http"]) == ("answered", "stdio", {"status": 200})


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No task, no descriptor, no connection, however the streams ended."""
    async with upstream() as server:
        tasks, descriptors = len(asyncio.all_tasks()), _descriptors()
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with bridge(folder, server.url) as client:
                stream = await shake_hands(client, server)
                client.send(call(2), call(3), call(4))
                asked = {each.message["id"]: each for each in [await server.asked() for _ in range(3)]}
                await asked[2].stream()
                await asked[3].drop()
                await asked[4].answer(body=result(4))
                await client.line(), await client.line()
                os.kill(os.getpid(), signal.SIGTERM)
                await (await server.asked("DELETE")).answer(200)
                await client.ended()
                assert stream is not None
                with anyio.fail_after(5):
                    await stream.gone.wait()
                    await asked[2].gone.wait()
                    for each in (stream, asked[2]):
                        each.answered.set()
        with anyio.fail_after(5):
            while len(asyncio.all_tasks()) > tasks or _descriptors() > descriptors:
                await anyio.lowlevel.checkpoint()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


# -- credentials -------------------------------------------------------------------------------------------------------


async def test_configured_headers_go_with_everything(tmp_path: Path) -> None:
    """POST, GET and DELETE; MCP's own headers win."""
    headers = {"Authorization": "Bearer t\n", "User-Agent": "mine", "X-Name": "ünï", "accept": "text/plain"}
    async with upstream() as server, bridge(tmp_path, server.url, headers=headers) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        client.send(call(2))
        asked = await server.asked()
        await asked.answer(body=result(2), Set_Cookie="a=b")
        await client.line()
        client.close()
        farewell = await server.asked("DELETE")
        await farewell.answer(200)
        await client.ended()

        for each in (stream, asked, farewell):
            assert each.headers["authorization"] == "Bearer t"
            assert each.headers["user-agent"] == "mine"
            assert each.headers["x-name"].encode("latin-1").decode() == "ünï"
            assert "cookie" not in each.headers
        assert asked.headers["accept"] == BOTH


# -- how a run ends ----------------------------------------------------------------------------------------------------


async def test_answers_under_way_are_waited_for(tmp_path: Path) -> None:
    """The end of stdin is not the end of the client's patience."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(call(1), call(2), call(3))
        client.close()
        for asked in [await server.asked() for _ in range(3)]:
            await asked.answer(body=result(asked.message["id"]))

        assert sorted([(await client.message())["id"] for _ in range(3)]) == [1, 2, 3]
        assert await client.line() == b""
        assert (await client.ended()).returncode == 0


async def test_a_last_line_without_newline_is_sent(tmp_path: Path) -> None:
    """It is a message like any other."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        client.send(json.dumps(call(1)).encode())
        client.close()
        await (await server.asked()).answer(body=result(1))

        assert await client.message() == result(1)


async def test_a_client_that_reads_no_more_ends_the_run(tmp_path: Path) -> None:
    """As for a server whose pipe breaks; the session is ended."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        stream = await shake_hands(client, server)
        assert stream is not None
        client.stop_reading()
        await stream.event(notification("notifications/message", data="x"))
        await (await server.asked("DELETE")).answer(200)

        assert (await client.ended()).reason == "eof"


async def test_a_signal_ends_the_run_and_the_session(tmp_path: Path) -> None:
    """What is open is on record as lost, and nobody is answered: a server that was killed would not, either."""
    async with upstream() as server, bridge(tmp_path, server.url) as client:
        await shake_hands(client, server)
        client.send(call(2))
        asked = await server.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        await (await server.asked("DELETE")).answer(200)
        ending = await client.ended()

        assert (ending.returncode, ending.reason) == (-signal.SIGTERM, "signal")
        assert asked.gone.is_set()
        assert await client.line() == b""
        assert [line["why"] for line in client.lines() if line.get("type") == "orphan"] == ["exit"]


async def test_a_farewell_has_its_time(tmp_path: Path) -> None:
    """An upstream that does not answer the DELETE holds nobody up."""
    async with upstream() as server, bridge(tmp_path, server.url, shutdown_grace_ms=100) as client:
        await shake_hands(client, server)
        client.close()
        await server.asked("DELETE")

        assert (await client.ended()).returncode == 0


async def test_the_death_of_whoever_started_us_ends_the_run(tmp_path: Path) -> None:
    """It closes no pipe if somebody else holds them."""
    async with upstream() as server, bridge(tmp_path, server.url, parent=os.getppid() + 1_000_000) as client:
        assert (await client.ended()).reason == "signal"
        assert server.quiet()
