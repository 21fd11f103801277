"""A ledger that is slow or takes nothing: what a client is told, and what is on record when it works again."""

from __future__ import annotations

import fcntl
import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_hop import NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import EVENT_STREAM, JSON, answer, call, event, message, modern, note, post, session_headers
from http_peers import Request, Upstream

CONFIG = proxy_config(NEUTRAL + "audit: {block_timeout_ms: 200, write_ahead: all}\n")


@pytest.fixture
def hop(tmp_path: Path) -> Iterator[Hop]:
    """A proxy that waits a fifth of a second for its ledger."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, CONFIG) as hop:
        yield hop


@contextmanager
def full_disk(hop: Hop) -> Iterator[None]:
    """Let none of the program's files grow: it meets an error of the operating system, as on a full disk."""
    pid = hop.program.process.pid
    unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hop.program.ledger.stat().st_size, unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


def works_again(hop: Hop) -> None:
    """Wait until the proxy says so; it tries every second."""
    until = time.monotonic() + 5
    while "the ledger works again" not in hop.program.stderr:
        assert time.monotonic() < until, hop.program.stderr
        time.sleep(0.01)  # nobody is told of a line on stderr


def refused(raw: bytes, code: int) -> Any:
    """Check that this is the error of a ledger that takes nothing, and return its data."""
    error = json.loads(raw)["error"]
    assert (error["code"], error["data"]["kind"]) == (code, "audit_unavailable")
    return error["data"]


@pytest.mark.parametrize(("request_", "code"), [(post(call()), -32031), (modern(), -31031)], ids=["legacy", "modern"])
def test_without_its_line_no_call_goes_on(hop: Hop, request_: Request, code: int) -> None:
    """The client is told that it was not executed, with a status that no client takes for another era."""
    client = hop.client()
    with full_disk(hop):
        client.ask(request_)
        response = client.response()
        assert response.status == 200
        assert refused(response.read(), code)["executed"] is False
        assert hop.upstream.is_idle()
    works_again(hop)
    hop.golden(post(call(id=8)), 200, [JSON], answer(8))
    hop.record(type="blocked")


def test_an_answer_without_its_line_is_withheld(hop: Hop) -> None:
    """The requester learns that the call was executed, and the line comes when the ledger works again."""
    client, asked = hop.ask(post(call()))
    with full_disk(hop):
        asked.answer(200, [JSON], answer(7, secret=1))
        response = client.response()
        assert response.status == 200
        assert refused(response.read(), -32031)["executed"] is True
    works_again(hop)
    hop.record(method="tools/call", request_id="7", marks=lambda marks: marks and "withheld" in marks)
    assert [len(ends) for ends in hop.ends().values()] == [1]


def test_what_is_no_answer_is_withheld_as_well(hop: Hop) -> None:
    """In its place comes an error under the id of the request, or words where nobody asked for a message."""
    client, asked = hop.ask(post(call()))
    other, listed = hop.ask(Request(b"GET", b"/list", ()))
    with full_disk(hop):
        asked.answer(404, [JSON], b'{"no":"session"}')
        assert refused(client.response().read(), -32031)["executed"] is True
        listed.answer(200, [JSON], b'{"some":"thing"}')
        response = other.response()
        assert response.status == 503
        assert b"withheld" in response.read()
    works_again(hop)
    hop.record(method="tools/call", request_id="7", outcome="lost")
    assert [len(ends) for ends in hop.ends().values()] == [1]


def test_a_stream_without_its_line_breaks_off(hop: Hop) -> None:
    """The event does not go out; the stream, whose head did, does not end as if it were whole."""
    client, asked = hop.ask(post(call(), *session_headers()))
    asked.stream()
    response = client.response()
    first = event(note("notifications/message", n=1))
    asked.chunk(first)
    response.next(first)
    with full_disk(hop):
        asked.chunk(event(answer()))
        assert response.torn() == b""
    asked.over = True
    works_again(hop)
    hop.record(
        method="tools/call", request_id="7", outcome="answered", marks=lambda marks: marks and "withheld" in marks
    )
    assert [len(ends) for ends in hop.ends().values()] == [1]


@pytest.mark.parametrize("kind", [JSON, EVENT_STREAM], ids=["json", "events"])
def test_who_leaves_while_his_answer_is_recorded_leaves_its_line(hop: Hop, kind: tuple[bytes, bytes]) -> None:
    """Soon, not at the end of the run; and the upstream is told at once."""
    (first, one), (second, two) = (hop.ask(post(call(id=id_), *session_headers())) for id_ in (1, 2))
    with Path(f"{hop.program.ledger}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a peer that appends to the same ledger has it
        one.answer(200, [kind], event(answer(1)) if kind is EVENT_STREAM else answer(1))
        if kind is EVENT_STREAM:
            two.stream()
            two.chunk(event(answer(2)))
            second.response()
        else:
            two.answer(200, [JSON], answer(2))
        assert not two.gone.wait(0.2)
        second.close()
        assert two.gone.wait(1) or kind is JSON
    first.response().read()
    two.over = True
    for id_ in ("1", "2"):
        hop.record(method="tools/call", request_id=id_, outcome="answered")
    hop.golden(post(message("tools/list", 3)), 200, [JSON], answer(3))


@pytest.mark.parametrize("what", ["answer", "reset"])
def test_what_comes_while_a_deadline_is_recorded_is_too_late(tmp_path: Path, what: str) -> None:
    """The client gets the error that is on record, and nothing in its place."""
    config = proxy_config(NEUTRAL, call_timeout_ms="300")
    with Upstream() as upstream, running_proxy(tmp_path, upstream, config) as hop:
        client, asked = hop.ask(post(call()))
        with Path(f"{hop.program.ledger}.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert not asked.gone.wait(0.6)
            if what == "answer":
                asked.answer(200, [JSON], answer())
            else:
                asked.reset()
            client.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.response()
        client.sock.settimeout(5)
        response = client.response()
        assert response.status == 504
        assert json.loads(response.read())["error"]["data"]["kind"] == "upstream_timeout"
        hop.record(method="tools/call", request_id="7", outcome="timeout")
