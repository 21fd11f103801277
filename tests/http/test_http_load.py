"""What many streams and large bodies cost. The numbers are printed (`-s` shows them, so does a report of `-rP`)."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
from http_hop import ENFORCING, NEUTRAL, Hop, proxy_config, running_proxy
from http_messages import EVENT_STREAM, JSON, answer, call, event, get, note, post
from http_peers import Upstream

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

MIB = 1 << 20
OCTETS = (b"Content-Type", b"application/octet-stream")
CONFIGS = pytest.mark.parametrize("config", [NEUTRAL, ENFORCING], ids=["neutral", "enforcing"])


class Peak:
    """The largest resident size of a program while it works."""

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.most = hop.program.memory

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.most = max(self.most, self._hop.program.memory)

    @property
    def growth(self) -> int:
        return self.most - self.before


@CONFIGS
def test_500_idle_streams_for_a_minute(tmp_path: Path, config: str) -> None:
    """All live, all deliver after it, and another client is served meanwhile."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop:
        before = hop.program.memory
        streams = []
        for _ in range(500):
            client, asked = hop.ask(get())
            asked.stream()
            streams.append((client, asked, client.response()))
        held = hop.program.memory
        until = time.monotonic() + 60
        number = 0
        while time.monotonic() < until:
            number += 1
            hop.golden(post(call(id=number)), 200, [JSON], answer(number)).asked.gone.wait(1)
        after = hop.program.memory
        for _, asked, response in streams:
            assert not asked.gone.is_set()
            asked.chunk(event(note("notifications/message", n=1)))
            assert response.until(b"\n\n") == event(note("notifications/message", n=1))
            asked.end()
            assert response.read() == b""
        print(
            f"500 idle streams: {(held - before) / 500 / 1024:.1f} KiB each, {(after - held) / MIB:.1f} MiB in a minute"
        )
        assert held - before < 500 * 128 * 1024
        assert after - held < 16 * MIB


def body_of_64_mib() -> bytes:
    frame = len(call(text=""))
    body = call(text="x" * (64 * MIB - frame))
    assert len(body) == 64 * MIB
    return body


@CONFIGS
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_request_of_64_mib(tmp_path: Path, config: str, chunked: bool) -> None:
    """Exactly the limit: it is read whole, sent whole, and its memory is given back."""
    body = body_of_64_mib()
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop, Peak(hop) as peak:
        client = hop.client()
        sender = threading.Thread(target=client.ask, args=(post((body[:MIB], body[MIB:]) if chunked else body),))
        sender.start()
        asked = upstream.next(60)
        sender.join()
        assert hashlib.sha256(asked.body).digest() == hashlib.sha256(body).digest()
        asked.answer(200, [JSON], answer())
        assert client.response().read() == answer()
        hop.record(method="tools/call", outcome="answered")
        print(f"a request of 64 MiB: {peak.growth / MIB:.0f} MiB at the most")
        assert peak.growth < 320 * MIB


@CONFIGS
@pytest.mark.parametrize("kind", [JSON, EVENT_STREAM, OCTETS], ids=["json", "events", "other"])
def test_an_answer_of_64_mib(tmp_path: Path, config: str, kind: tuple[bytes, bytes]) -> None:
    """It passes piece by piece; what is kept is the copy that is recorded, if it is one message."""
    text = answer(7, text="x" * (64 * MIB - len(answer(7, text=""))))
    body = event(text) if kind is EVENT_STREAM else text
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop, Peak(hop) as peak:
        client, asked = hop.ask(post(call()))
        asked.begin(200, [kind, (b"Content-Length", b"%d" % len(body))])
        # The head of what may be the answer waits for its first bytes: if it cannot be recorded, another is sent.
        response = client.response() if kind is EVENT_STREAM else None
        sender = threading.Thread(target=asked.send, args=(body,), kwargs={"last": True})
        sender.start()
        response = response or client.response()
        digest = hashlib.sha256()
        while piece := response.piece():
            digest.update(piece)
        sender.join()
        assert digest.digest() == hashlib.sha256(body).digest()
        print(f"an answer of 64 MiB, {kind[1].decode()}: {peak.growth / MIB:.0f} MiB at the most")
        assert peak.growth < 320 * MIB
        if kind is not OCTETS:
            hop.record(method="tools/call", outcome="answered")


@CONFIGS
def test_a_stream_of_64_mib_in_small_events(tmp_path: Path, config: str) -> None:
    """Memory follows the largest event, not the stream."""
    one = event(note("notifications/message", text="x" * 64 * 1024))
    with Upstream() as upstream, running_proxy(tmp_path, upstream, proxy_config(config)) as hop, Peak(hop) as peak:
        client, asked = hop.ask(get())
        asked.stream()
        response = client.response()
        for _ in range(1024):
            asked.chunk(one)
            response.next(one)
        asked.end()
        assert response.read() == b""
        print(f"a stream of 64 MiB: {peak.growth / MIB:.0f} MiB at the most")
        assert peak.growth < 32 * MIB


def test_thousands_of_calls_one_after_the_other(tmp_path: Path) -> None:
    """Nothing grows with the number of calls."""
    with Upstream() as upstream, running_proxy(tmp_path, upstream) as hop:
        client = hop.client()
        for number in range(200):
            hop.golden(post(call(id=number)), 200, [JSON], answer(number), client=client)
        before = hop.program.memory
        for number in range(200, 3000):
            hop.golden(post(call(id=number)), 200, [JSON], answer(number), client=client)
        grown = hop.program.memory - before
        print(f"2800 calls: {grown / 1024:.0f} KiB")
        assert grown < 8 * MIB
