"""A forward proxy for one upstream: the client keeps the real URL and names us in HTTP_PROXY.

Requests for the upstream's origin are MCP and take the usual way. Those for hosts that the operator lists, such as
authorization servers, pass unexamined and unrecorded. Everything else is refused: nobody's open relay.
"""

from __future__ import annotations

from collections.abc import Iterable

import anyio

from mcp_audit.errors import BrokenBody, UpstreamUnavailable
from mcp_audit.relay.http.answers import Answer, plain_answer
from mcp_audit.relay.http.asgi import Receive, Scope, Send
from mcp_audit.relay.http.handler import HttpRelay
from mcp_audit.relay.http.headers import HeaderRules, Headers, to_client
from mcp_audit.relay.http.pool import Pool
from mcp_audit.relay.http.target import BadTarget, Target, absolute

__all__ = ["ForwardProxy"]

_KEPT = 64  # origins whose connections are remembered; a host without a port stands for 65535 of them
_MAX_BODY = 1 << 20  # of a request that nobody examines: forms and registrations


class ForwardProxy:
    """An ASGI application in front of a relay.

    Args:
        upstream: whose origin is MCP.
        hosts: relayed unexamined; a name, or name:port. Without a port every one is meant.
    """

    def __init__(self, relay: HttpRelay, upstream: Target, hosts: Iterable[str]) -> None:
        self._relay = relay
        self._origin = (upstream.scheme, upstream.host, upstream.port)
        self._hosts = frozenset(host.lower() for host in hosts)
        self._pools: dict[Target, Pool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whose target is absolute."""
        try:
            origin, authority, target = absolute(scope["raw_target"])
        except BadTarget as error:
            await _answer(plain_answer(400, str(error)), send)
            return
        if (origin.scheme, origin.host, origin.port) == self._origin:
            await self._relay({**scope, "raw_target": target}, receive, send)
        elif origin.scheme == "http" and self._hosts & {origin.host, f"{origin.host}:{origin.port}"}:
            await self._pass(origin, authority, target, scope, receive, send)
        else:
            sentence = f"{authority.decode('latin-1')} is neither proxy.upstream nor in proxy.forward_hosts"
            await _answer(plain_answer(403, sentence), send)

    async def close(self) -> None:
        """Close the connections to the hosts that pass unexamined."""
        for pool in self._pools.values():
            await pool.close()

    async def _pass(
        self, origin: Target, authority: bytes, target: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = b""
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) > _MAX_BODY:
                await _answer(plain_answer(413, f"a body for {origin.host} may have {_MAX_BODY} bytes"), send)
                return
        if origin not in self._pools and len(self._pools) >= _KEPT:
            self._pools = {known: pool for known, pool in self._pools.items() if not pool.is_unused}
        pool = self._pools.setdefault(origin, Pool(origin))
        rules = HeaderRules(authority, ("Authorization",))
        headers = rules.to_upstream(scope["headers"], scope["client"], len(body))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave_with, receive, tasks.cancel_scope)
            await _exchange(pool, scope["method"].encode("ascii"), target, headers, body, send)
            tasks.cancel_scope.cancel()


async def _leave_with(receive: Receive, scope: anyio.CancelScope) -> None:
    """Give up what is done for a client once that is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _exchange(pool: Pool, method: bytes, target: bytes, headers: Headers, body: bytes, send: Send) -> None:
    try:
        response = await pool.request(method, target, headers, body)
    except UpstreamUnavailable as error:
        await _answer(plain_answer(502, str(error)), send)
        return
    try:
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "reason": response.reason,
                "headers": to_client(response.headers),
            }
        )
        while piece := await response.read():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except BrokenBody:
        return  # and so is ours
    finally:
        response.abort()


async def _answer(answer: Answer, send: Send) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
