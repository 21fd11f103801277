"""Health, readiness and the newest checkpoint, asked as an orchestrator asks: over HTTP, with nothing but GET."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import anyio
import anyio.abc
import httpx
import pytest

from mcp_audit import operations
from mcp_audit.operations import Operations, Reachability
from mcp_audit.relay.http.access import Access

NOTE = "audit.example.com/fs\n7\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n— audit.example.com/fs ünsigned\n"


class State:
    """What a running proxy knows; a test changes it."""

    def __init__(self) -> None:
        self.upstream = ""
        self.ledger = ""
        self.note = NOTE
        self.draining = False
        self.asked = 0

    async def upstream_problem(self) -> str:
        self.asked += 1
        return self.upstream

    def operations(self, access: Access | None = None) -> Operations:
        return Operations(
            access or Access("127.0.0.1"),
            upstream_problem=self.upstream_problem,
            ledger_problem=lambda: self.ledger,
            newest_note=lambda: self.note,
            draining=lambda: self.draining,
        )


@pytest.fixture
def state() -> State:
    return State()


async def ask(
    app: Operations, path: str, method: str = "GET", host: str = "127.0.0.1:9091", **headers: str
) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9091") as client:
        return await client.request(method, path, headers={"Host": host, **headers})


async def test_a_process_that_answers_is_healthy(state: State) -> None:
    """Whatever state upstream and ledger are in: a restart would mend neither."""
    state.upstream, state.ledger, state.draining = "gone", "No space left on device", True

    answer = await ask(state.operations(), "/healthz")

    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert answer.headers["cache-control"] == "no-store"


async def test_ready_means_that_a_message_would_get_through(state: State) -> None:
    """The upstream accepts connections, the ledger takes lines, and we are not about to end."""
    answer = await ask(state.operations(), "/readyz")

    assert (answer.status_code, answer.text) == (200, "ready\n")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda s: setattr(s, "draining", True), "draining: no new requests are taken", id="draining"),
        pytest.param(
            lambda s: setattr(s, "ledger", "No space left on device"),
            "the ledger takes no entries (No space left on device)",
            id="ledger",
        ),
        pytest.param(
            lambda s: setattr(s, "upstream", "cannot connect to h:1: connection refused"),
            "the upstream is not there: cannot connect to h:1: connection refused",
            id="upstream",
        ),
    ],
)
async def test_whatever_stands_in_the_way_is_said_in_words(
    state: State, spoil: Callable[[State], None], told: str
) -> None:
    """503, so that a load balancer looks elsewhere, and a reason for whoever has to mend it."""
    spoil(state)

    answer = await ask(state.operations(), "/readyz")

    assert (answer.status_code, answer.text) == (503, f"not ready: {told}\n")


async def test_an_upstream_is_left_alone_while_we_are_not_ready_anyway(state: State) -> None:
    """Its answer could not change ours, and draining is no time for new connections."""
    state.draining, state.ledger = True, "blocked"

    answer = await ask(state.operations(), "/readyz")

    assert answer.text.count("not ready: ") == 2
    assert state.asked == 0


async def test_the_newest_checkpoint_is_given_as_it_was_signed(state: State) -> None:
    """Byte for byte: a witness checks the signature of just these."""
    answer = await ask(state.operations(), "/checkpoint")

    assert answer.content == NOTE.encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-length"] == str(len(NOTE.encode()))


async def test_before_the_first_checkpoint_there_is_none(state: State) -> None:
    """404, not an empty note that a witness would have to tell from a real one."""
    state.note = ""

    assert (await ask(state.operations(), "/checkpoint")).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/checkpoint"])
async def test_head_gets_the_head_of_get(state: State, path: str) -> None:
    """RFC 9110 section 9.3.2."""
    app = state.operations()
    full, head = await ask(app, path), await ask(app, path, "HEAD")

    assert (head.status_code, head.headers, head.content) == (full.status_code, full.headers, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_can_be_changed_here(state: State, method: str) -> None:
    """Only GET and HEAD, and no CORS."""
    answer = await ask(state.operations(), "/readyz", method)

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz/", "/HEALTHZ", "/mcp", "//healthz"])
async def test_other_paths_are_not_there(state: State, path: str) -> None:
    """The answer names those that are."""
    answer = await ask(state.operations(), path)

    assert (answer.status_code, answer.text) == (404, "there is /healthz, /readyz, /checkpoint\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:9091", "ops.example.com", "OPS.example.com:80"])
async def test_loopback_names_and_allowed_ones_pass(state: State, host: str) -> None:
    """Whatever the port: a mapped one is not ours."""
    access = Access("127.0.0.1", allowed_hosts=["Ops.Example.com"])

    assert (await ask(state.operations(access), "/healthz", host=host)).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1"])
@pytest.mark.parametrize("path", ["/healthz", "/nowhere"])
async def test_a_rebound_name_learns_nothing(state: State, host: str, path: str) -> None:
    """403 for every path, and the setting that would let it pass."""
    answer = await ask(state.operations(), path, host=host)

    assert answer.status_code == 403
    assert "metrics.allowed_hosts" in answer.text


async def test_a_web_page_learns_nothing_either(state: State) -> None:
    """One that asks for a loopback address outright sends its Origin."""
    assert (await ask(state.operations(), "/readyz", Origin="https://evil.example")).status_code == 403


async def test_on_other_addresses_names_say_nothing(state: State) -> None:
    """A scraper uses whatever address the machine has there, until names are configured."""
    anywhere = Access("0.0.0.0", allowed_hosts=[])
    named = Access("0.0.0.0", allowed_hosts=["ops"])

    assert (await ask(state.operations(anywhere), "/healthz", host="10.1.2.3:9091")).status_code == 200
    assert (await ask(state.operations(named), "/healthz", host="10.1.2.3:9091")).status_code == 403


async def test_only_http_is_spoken(state: State) -> None:
    """A listener that offers a WebSocket or a lifespan is told at once."""
    with pytest.raises(NotImplementedError, match="websocket"):
        await state.operations()({"type": "websocket"}, never, never)


async def never(*_: object) -> NoReturn:
    raise AssertionError("nothing is read or sent")


class Listener:
    """An upstream that counts who connects and says nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.ended = anyio.Event()

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        async with stream:
            try:
                assert await stream.receive() == b"", "readiness never sends anything"
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self.ended.set()


async def test_an_upstream_that_accepts_is_reachable_and_asked_once() -> None:
    """However many ask at a time; it is sent nothing."""
    listener = Listener()
    server = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with server, anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, listener.serve)
        reachable = Reachability("127.0.0.1", server.extra(anyio.abc.SocketAttribute.local_port))
        answers: list[str] = []

        async def one_asks() -> None:
            answers.append(await reachable())

        async with anyio.create_task_group() as askers:
            for _ in range(20):
                askers.start_soon(one_asks)
        await listener.ended.wait()
        tasks.cancel_scope.cancel()

    assert answers == [""] * 20
    assert listener.connections == 1


async def test_an_upstream_that_refuses_is_named_with_the_reason() -> None:
    """Which address, and what the system said."""
    server = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    port = server.extra(anyio.abc.SocketAttribute.local_port)
    await server.aclose()

    assert await Reachability("127.0.0.1", port)() == f"cannot connect to 127.0.0.1:{port}: connection refused"


async def test_an_upstream_that_does_not_answer_is_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon enough for the prober to hear why."""

    async def stall(*_: object) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(operations, "connect", stall)

    assert await Reachability("h", 1, timeout=0.01)() == "h:1 accepts no connection within 0.01 s"
