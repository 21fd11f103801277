"""What a forward proxy keeps of hosts that pass unexamined. What passes is told by the golden tests."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from typing import Any, cast

import anyio
import pytest

from mcp_audit.relay.http import forward as module
from mcp_audit.relay.http.forward import ForwardProxy
from mcp_audit.relay.http.handler import HttpRelay
from mcp_audit.relay.http.target import Target


async def status_of(proxy: ForwardProxy, url: str) -> int:
    """Ask for a URL and return the status of the response."""
    sent: list[MutableMapping[str, Any]] = []
    body: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": b""}]

    async def receive() -> MutableMapping[str, Any]:
        if not body:
            await anyio.sleep_forever()
        return body.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"raw_target": url.encode(), "method": "GET", "headers": [], "client": ("127.0.0.1", 1)}
    await proxy(scope, receive, send)
    return cast(int, sent[0]["status"])


@pytest.fixture
def closed_ports() -> list[int]:
    """Ports of loopback where nobody listens."""
    bound = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    ports = [one.getsockname()[1] for one in bound]
    for one in bound:
        one.close()
    return ports


async def test_a_host_without_a_port_does_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, closed_ports: list[int]
) -> None:
    """It stands for 65535 of them; those without a connection are forgotten."""
    monkeypatch.setattr(module, "_KEPT", 2)
    proxy = ForwardProxy(cast(HttpRelay, None), Target.parse("http://upstream.invalid"), ["127.0.0.1"])
    for port in closed_ports:
        assert await status_of(proxy, f"http://127.0.0.1:{port}/x") == 502

    assert len(proxy._pools) <= 2
    await proxy.close()
