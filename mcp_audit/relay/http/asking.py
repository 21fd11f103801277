"""A request's way to the upstream: sent, perhaps again, in time, and ended whatever happens.

Promise: a request is sent once unless the configuration and its kind allow more. When this is over, every exchange that
it opened has ended, or may still end on another stream of its session.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio

from mcp_audit.relay.http.answers import answer_to, plain_answer
from mcp_audit.relay.http.headers import Headers, value_of
from mcp_audit.relay.http.passing import Passing
from mcp_audit.relay.http.pool import BrokenBody, Response, UpstreamUnavailable
from mcp_audit.relay.http.retry import RETRY_STATUSES, may_repeat
from mcp_audit.relay.http.visit import BrokenOff, Visit
from mcp_audit.wire.correlator import is_subscription
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.model import Direction, Era

__all__ = ["Asking"]


class Asking:
    """Asks the upstream on behalf of one request."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._services = visit.services
        self._passed = False  # all of the response is
        self._response: Response | None = None

    async def forward(self, body: bytes, noted: Sequence[Exchange]) -> None:
        """Send the request and pass the response on, until either end is gone.

        Args:
            noted: one-way messages in the body, which are on record.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch_client, tasks.cancel_scope)
                if self._services.limits.call_timeout:
                    tasks.start_soon(self._keep_deadline, tasks.cancel_scope)
                with suppress(BrokenOff, BrokenBody):
                    await self._exchange(body, noted)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._conclude()

    async def _watch_client(self, scope: anyio.CancelScope) -> None:
        """Notice that the client is gone; whoever is connected directly would be noticed as well."""
        visit = self._visit
        while (event := await visit.receive())["type"] != "http.disconnect":
            pass
        if self._passed:
            return
        if event.get("ours"):
            visit.why = "exit"
        else:
            visit.gone = True
        if self._response is not None:  # at once, though what it said may still be on its way into the ledger
            self._response.abort()
        scope.cancel()

    async def _keep_deadline(self, scope: anyio.CancelScope) -> None:
        """Give up on what has not been answered in time, and say so where the client waits for it."""
        visit, timeout = self._visit, self._services.limits.call_timeout
        if not visit.opened:
            if visit.method == "GET":
                await self._keep_deadlines_of_posts()
            return
        await anyio.sleep(timeout)
        late = [exchange for exchange in visit.opened if not is_subscription(exchange)]
        data = {"reason": f"no answer within {timeout:g} s (proxy.call_timeout_ms)"}
        kind, now = "upstream_timeout", time.monotonic()
        step = visit.session.give_up(late, Outcome.TIMEOUT, now, kind, data, visit.batch)
        if not step.finished:
            return
        for exchange in step.finished:
            exchange.status = exchange.status or 504
        visit.overdue = True  # from now on: what comes while this is written is too late
        with anyio.CancelScope(shield=True):
            await visit.settle(step)
            stream = visit.stream
            if stream is not None and stream.malleable:
                await stream.inject(answer_to(step, kind, ()).body)
                return
            if not visit.started:
                await visit.answer(answer_to(step, kind, ()))
        scope.cancel()  # what has begun to go out, and cannot hold an error of ours, ends where it is

    async def _keep_deadlines_of_posts(self) -> None:
        """Do the same for messages whose answers come on this stream (HTTP+SSE), while it is open."""
        visit, timeout = self._visit, self._services.limits.call_timeout
        while True:
            await anyio.sleep(min(1.0, timeout / 4))
            stream = visit.stream
            if stream is None or visit.conversation.stream is not stream:
                continue
            step = visit.session.overdue(time.monotonic(), timeout, Direction.TO_SERVER)
            await visit.settle(step)
            for _, error in step.errors:
                await stream.inject(error)

    async def _exchange(self, body: bytes, noted: Sequence[Exchange]) -> None:
        visit, timeout = self._visit, self._header_timeout()
        headers = self._services.rules.to_upstream(visit.headers, visit.scope["client"], len(body))
        passing = Passing(visit)
        try:
            with anyio.fail_after(timeout):
                response = await self._ask(passing.wishes(headers), body)
        except UpstreamUnavailable as error:
            await self._fail("upstream_unavailable", Outcome.LOST, {"reason": error.cause}, noted)
            return
        except TimeoutError:
            data = {"reason": f"no response within {timeout:g} s (proxy.upstream_timeout_ms)"}
            await self._fail("upstream_timeout", Outcome.TIMEOUT, data, noted)
            return
        self._response = response
        try:
            await passing.pass_on(response)
            self._passed = True
        finally:
            response.abort()

    async def _ask(self, headers: Headers, body: bytes) -> Response:
        """Send the request; again only where the configuration allows it and nothing can happen twice."""
        visit, pool, retry = self._visit, self._services.pool, self._services.retry
        method, target = visit.method.encode("ascii"), visit.target
        messages = [exchange.request for exchange in visit.opened if exchange.request is not None]
        left = retry.max_retries if retry.max_retries and may_repeat(visit.method, visit.headers, messages) else 0
        for attempt in range(left):
            response = asked = None
            try:
                response = await pool.request(method, target, headers, body)
            except UpstreamUnavailable as error:
                if error.sent:
                    raise
            if response is not None:
                if response.status not in RETRY_STATUSES:
                    return response
                asked = value_of(response.headers, b"retry-after")
            pause = retry.pause(attempt, asked, time.time())
            if response is not None:
                if pause is None:  # the client may wait for so long, or not
                    return response
                response.abort()
            for exchange in visit.opened:
                exchange.marks += ("retried",)
            await anyio.sleep(pause or 0.0)
        return await pool.request(method, target, headers, body)

    def _header_timeout(self) -> float | None:
        """Return how long the upstream may take to begin; a stream may have nothing to say for ever."""
        visit = self._visit
        accept = (value_of(visit.headers, b"accept") or b"").lower()
        if visit.method == "GET" and b"text/event-stream" in accept:
            return None
        if any(map(is_subscription, visit.opened)):
            return None
        return self._services.limits.upstream_timeout or None

    async def _fail(self, kind: str, outcome: Outcome, data: Mapping[str, object], noted: Sequence[Exchange]) -> None:
        """Answer for an upstream that did not."""
        visit = self._visit
        if visit.overdue:  # and told so already
            return
        status = 504 if kind == "upstream_timeout" else 502
        step = visit.session.give_up(visit.opened, outcome, time.monotonic(), kind, data, visit.batch)
        for exchange in step.finished:
            exchange.status = status
        await visit.settle(step)
        if step.errors or noted:
            await visit.answer(answer_to(step, kind, noted, data))
        else:
            await visit.answer(plain_answer(status, f"{kind.replace('_', ' ')}: {data['reason']}"))

    async def _conclude(self) -> None:
        """End what this response was to bring and nothing else can bring any more."""
        visit = self._visit
        outcome = Outcome.CANCELLED if visit.gone else Outcome.LOST
        # The answer to a legacy request may come on another stream of its session.
        may_go_on = visit.gone or visit.status == 202 or visit.stream is not None
        ended = [exchange for exchange in visit.opened if exchange.era is Era.MODERN or not may_go_on]
        await visit.settle(visit.session.give_up(ended, outcome, time.monotonic(), why=visit.why))
