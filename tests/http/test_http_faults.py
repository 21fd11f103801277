"""Faults, a hundred times each: every one leaves a truthful line, and nothing else.

What is counted: open descriptors of the program, connections that the upstream still holds, threads, and whether the
program can end at once, which it cannot while a task is left waiting. One way to fail after the other, and all mixed.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import JSON, answer, call, event, get, modern, note, post, session_headers
from http_peers import Client, Request, Upstream

AGAIN = 30


def id_of(request: Request) -> Any:
    """Return the id of the request in a body."""
    return json.loads(request.content)["id"]


def served(hop: Hop, request: Request) -> str:
    """No fault at all."""
    client, asked = hop.ask(request)
    asked.answer(200, [JSON], answer(id_of(request)))
    assert client.response().read() == answer(id_of(request))
    client.close()
    return "answered"


def upstream_resets(hop: Hop, request: Request) -> str:
    """Before its head."""
    client, asked = hop.ask(request)
    asked.reset()
    response = client.response()
    response.read()
    assert response.status == 502
    client.close()
    return "lost"


def upstream_dies_in_its_answer(hop: Hop, request: Request) -> str:
    """In the middle of a JSON body."""
    client, asked = hop.ask(request)
    asked.begin(200, [JSON, (b"Content-Length", b"99")])
    asked.send(b'{"a":')
    response = client.response()
    response.at_least(4)
    asked.reset()
    response.torn()
    client.close()
    return "lost"


def upstream_closes_when_idle(hop: Hop, request: Request) -> str:
    """After an answer, without saying so before."""
    client, asked = hop.ask(request)
    asked.answer(200, [JSON], answer(id_of(request)))
    client.response().read()
    asked.close()
    client.close()
    return "answered"


def client_vanishes_while_it_waits(hop: Hop, request: Request) -> str:
    """Before the head of its answer."""
    client, asked = hop.ask(request)
    client.reset()
    assert asked.gone.wait(1)
    asked.over = True
    return "cancelled"


def client_vanishes_from_a_stream(hop: Hop, request: Request) -> str:
    """Between two events."""
    client, asked = hop.ask(request)
    asked.stream()
    asked.chunk(event(note("notifications/message", n=1)))
    client.response().until(b"\n\n")
    client.close()
    assert asked.gone.wait(1)
    asked.over = True
    return "cancelled"


def client_vanishes_while_it_sends(hop: Hop, request: Request) -> str:
    """In the middle of its body."""
    client = hop.client()
    client.send(request.encode(client.host)[:-3])
    client.reset()
    return ""


FAULTS: list[Callable[[Hop, Request], str]] = [
    served, upstream_resets, upstream_dies_in_its_answer, upstream_closes_when_idle, client_vanishes_while_it_waits,
    client_vanishes_from_a_stream, client_vanishes_while_it_sends,
]  # fmt: skip


def threads(hop: Hop) -> int:
    """How many the program has."""
    return len(list(Path(f"/proc/{hop.program.process.pid}/task").iterdir()))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def test_a_fault_leaves_its_line_and_nothing_else(
    tmp_path: Path, config: str, fault: Callable[[Hop, Request], str]
) -> None:
    """In the modern era, where each call ends with its request: as many outcomes as calls."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop:
        served(hop, modern(id=0))
        before = threads(hop)
        outcome = ""
        for number in range(1, AGAIN + 1):
            outcome = fault(hop, modern(id=number))
        served(hop, modern(id="last"))
        if outcome.startswith("lost"):
            hop.lost(AGAIN)
        elif outcome:
            hop.record(outcome=outcome, request_id=str(AGAIN))
        ended = hop.ends()
        expected = {str(number): [outcome] for number in range(1, AGAIN + 1)} if outcome else {}
        assert ended == expected | {"0": ["answered"], "last": ["answered"]}
        assert threads(hop) <= before + 4


@pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def test_all_faults_mixed_in_both_eras(tmp_path: Path, config: str) -> None:
    """In a hundred random orders; every request has exactly one end in the ledger once the program has ended."""
    chance = random.Random(4)
    asked = 0
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop:
        for number in range(100):
            fault = chance.choice(FAULTS)
            request = modern(id=number) if chance.random() < 0.5 else post(call(id=number), *session_headers())
            asked += bool(fault(hop, request))
        program = hop.program
    lines = [record.line for record in program.records(-1)]
    begun = {line["seq"] for line in lines if line.get("type") == "request"}
    ended = Counter(line["of"] for line in lines if "of" in line and line.get("type") in (None, "orphan"))
    assert len(begun) == asked
    assert ended == Counter(begun)


@pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])
def test_the_program_survives_a_refusing_upstream(tmp_path: Path, config: str) -> None:
    """Fifty refused calls are fifty lost calls."""
    upstream = Upstream()
    with running_proxy(tmp_path, upstream, proxy_config(config)) as hop:
        upstream.close()
        for number in range(50):
            with Client(hop.address) as client:
                client.ask(modern(id=number))
                response = client.response()
                response.read()
                assert response.status == 502
        assert Counter(line["outcome"] for line in hop.exchanges()) == {"lost": 50}


def test_many_streams_end_with_their_clients(tmp_path: Path) -> None:
    """A hundred at once, and a hundred upstream requests that are gone when they are."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream) as hop:
        streams = []
        for _ in range(100):
            client, asked = hop.ask(get())
            asked.stream()
            client.response()
            streams.append((client, asked))
        for client, _ in streams:
            client.close()
        for _, asked in streams:
            assert asked.gone.wait(2)
            asked.over = True
        assert upstream.wait_until_closed(2) == 0


def test_a_stalled_upstream_stalls_nobody_else(tmp_path: Path) -> None:
    """Fifty calls that nobody answers, and the fifty-first is answered."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream) as hop:
        stalled = [hop.ask(modern(id=number)) for number in range(50)]
        served(hop, modern(id=51))
        for client, asked in stalled:
            client.close()
            assert asked.gone.wait(1)
            asked.over = True
        hop.record(outcome="cancelled", request_id="49")
