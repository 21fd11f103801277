"""What the bridge asks of the upstream: a POST per line, the stream a session listens on, and what ends them.

Promise: no request is sent twice, no handshake repeated, and every request is answered, if only by us. A message that
must not overtake another one waits: all wait for a handshake, what follows a notification waits until that was
accepted, and a notification until what came before it was sent. Requests run side by side, as with any HTTP client.
Long because a POST, the stream that resumes it and the stream beside it share one session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress

import anyio
from anyio.abc import TaskGroup

from mcp_audit.errors import UpstreamUnavailable
from mcp_audit.relay.bridge.client import ClientSide
from mcp_audit.relay.bridge.hearing import EVENTS, JSON, Hearing, phrase
from mcp_audit.relay.bridge.mirror import ToolHeaders, standard_headers
from mcp_audit.relay.bridge.place import Place
from mcp_audit.relay.bridge.post import Failure, Listening, Post
from mcp_audit.relay.bridge.upstream import Aborted, Answer, Cancellable, HttpUpstream
from mcp_audit.relay.http.headers import Headers
from mcp_audit.session import Session, Step
from mcp_audit.wire.exchange import Exchange, Outcome
from mcp_audit.wire.framing import Hasher
from mcp_audit.wire.message import Era, Payload

__all__ = ["Streams"]

_log = logging.getLogger("mcp_audit")

_BOTH = (b"Accept", f"{JSON}, {EVENTS}".encode())
_STREAM = (b"Accept", EVENTS.encode())
_CONTENT = (b"Content-Type", JSON.encode())
_SESSION_ID = b"mcp-session-id"
_FIRST_VERSION_WITH_HEADER = "2025-06-18"
_ACCEPTED_SECONDS = 5.0  # that the next line waits for a notification; a server that stalls must not stall the client
_BEGUN_SECONDS = 1.0  # that a cancellation waits for its request to begin; many answer with nothing before the end
_MAX_FAILURES = 5  # attempts in a row to resume an answer

_LOST = (
    "the upstream has forgotten the session (404 Not Found); "
    "the bridge repeats no handshake, so the client has to connect again"
)


class Streams:
    """All that is open towards the upstream.

    Args:
        max_bytes: of a message that is kept.
        new_hash: begins to hash a longer one.
        lose: is told why the run has to end.
    """

    def __init__(
        self,
        upstream: HttpUpstream,
        session: Session,
        max_bytes: int,
        new_hash: Callable[[], Hasher],
        lose: Callable[[str], None],
    ) -> None:
        self._upstream = upstream
        self._session = session
        self._limit = max_bytes, new_hash
        self._lose = lose
        self.tools = ToolHeaders()
        self._client: ClientSide
        self._hearing: Hearing
        self._tasks: TaskGroup
        self._under_way: dict[Post, None] = {}  # oldest first
        self._by_exchange: dict[str, Post] = {}
        self._handshake: Post | None = None
        self._session_id = b""
        self._listening: Listening | None = None
        self._complained: set[int] = set()
        self._changed = anyio.Event()

    def start(self, tasks: TaskGroup, client: ClientSide) -> None:
        """Say where tasks run and who is told."""
        self._tasks, self._client = tasks, client
        self._hearing = Hearing(client, *self._limit, self.pulse)

    async def send(self, payload: Payload, step: Step) -> None:
        """Send a line that may go on; returns when the next one may be sent."""
        if not payload.messages:
            return  # a blank line
        post = Post.of(payload, step)
        named = [self._by_exchange[e.id] for e in step.finished if e.id in self._by_exchange]
        if _is_cancellation(payload) and (post.era is Era.MODERN or any(each.era is Era.MODERN for each in named)):
            for each in named:
                each.waits.abort()
            self._pulse()
            return  # to a modern server the end of the stream is the message
        await self._wait_for_turn(post, named)
        if post.is_late:
            return  # by the time it may be sent, the client has been told not to expect it
        self._begin(post)
        if post.is_one_way:
            with anyio.move_on_after(_ACCEPTED_SECONDS):
                await post.accepted.wait()

    def send_error(self, error: bytes) -> None:
        """Send an error of ours to a request of the server."""
        self._begin(Post(error))

    async def drained(self) -> None:
        """Wait until everything is sent and every request answered, but for subscriptions."""
        while self._client.busy or any(post.busy for post in self._under_way):
            await self._changed.wait()

    def give_up(self, exchanges: Iterable[Exchange]) -> None:
        """Close the streams of those that are modern: to their server that says that nobody waits any longer."""
        for exchange in exchanges:
            post = self._by_exchange.get(exchange.id)
            if post is not None and post.era is Era.MODERN:
                post.waits.abort()
        self.pulse()

    def pulse(self) -> None:
        """Have waiting requests looked at again."""
        for post in self._under_way:
            post.advance()
        if self._listening is None and self._handshake is not None and self._handshake.succeeded:
            self._listen()
        self._pulse()

    async def say_goodbye(self) -> None:
        """End the session, if there is one; whether the upstream wants that is its business."""
        if not self._session_id:
            return
        with suppress(UpstreamUnavailable, TimeoutError, Aborted):
            async with self._upstream.ask("DELETE", self._legacy_headers()) as answer:
                if answer.status not in (200, 202, 204, 404, 405):
                    _log.info("the upstream did not end the session: %s", phrase(answer.status))

    # -- what goes up --------------------------------------------------------------------------------------------------

    async def _wait_for_turn(self, post: Post, named: list[Post]) -> None:
        handshake = self._handshake
        if handshake is not None and not handshake.settled.is_set():
            # A server may want an answer before it answers `initialize`.
            await (handshake.accepted if post.is_response else handshake.settled).wait()
        if not post.is_one_way:
            return
        with anyio.move_on_after(_ACCEPTED_SECONDS):
            for earlier in list(self._under_way):
                await earlier.sent.wait()
        with anyio.move_on_after(_BEGUN_SECONDS):
            for each in named:
                await each.accepted.wait()
            if post.is_initialized and self._listening is not None:
                await self._listening.ready.wait()  # what the server says at once is said there, or not at all

    def _begin(self, post: Post) -> None:
        self._under_way[post] = None
        for exchange in post.exchanges:
            self._by_exchange[exchange.id] = post
        if post.is_handshake:
            self._handshake = post
        self._tasks.start_soon(self._run, post)

    async def _run(self, post: Post) -> None:
        try:
            await self._post(post)
        except Aborted:
            pass
        except Failure as failure:
            await self._fail(post, failure)
        finally:
            post.end()
            del self._under_way[post]
            for exchange in post.exchanges:
                self._by_exchange.pop(exchange.id, None)
            self._pulse()

    async def _post(self, post: Post) -> None:
        place = Place()
        try:
            async with self._upstream.ask(
                "POST",
                self._headers_of(post),
                post.body,
                patient=post.is_subscription,
                sent=post.sent.set,
                waits=post.waits,
            ) as answer:
                for exchange in post.exchanges:
                    exchange.status = answer.status
                if post.is_handshake and answer.status < 300:
                    self._begin_session(answer)
                post.accepted.set()
                self._pulse()
                await self._hear(post, answer, place)
        except UpstreamUnavailable as error:
            raise Failure(error.cause) from error
        except TimeoutError:
            limit = f"{self._upstream.header_timeout:g} s (proxy.upstream_timeout_ms)"
            raise Failure(f"no response within {limit}", timed_out=True) from None
        while post.waiting:
            await self._resume(post, place)

    def _headers_of(self, post: Post) -> Headers:
        headers = [_BOTH, _CONTENT]
        if post.era is Era.MODERN:
            for message in post.messages[:1]:
                version = self._session.peers.modern_version(message) or self._session.peers.version_of(Era.MODERN)
                headers += standard_headers(message, version) + self.tools.of(message)
        elif not post.is_handshake:
            headers += self._legacy_headers()
        return headers

    def _legacy_headers(self) -> Headers:
        headers: Headers = [(b"Mcp-Session-Id", self._session_id)] if self._session_id else []
        version = self._session.peers.legacy_version
        # Earlier revisions do not know the header. What a server calls its version may be any text.
        if version >= _FIRST_VERSION_WITH_HEADER and version.isascii() and version.replace("-", "").isalnum():
            headers.append((b"MCP-Protocol-Version", version.encode()))
        return headers

    def _begin_session(self, answer: Answer) -> None:
        session_id = answer.header(_SESSION_ID)
        self._session_id = session_id if all(0x21 <= byte <= 0x7E for byte in session_id) else b""
        if self._listening is not None:
            self._listening.waits.abort()
            self._listening = None

    # -- what comes back -----------------------------------------------------------------------------------------------

    async def _hear(self, post: Post, answer: Answer, place: Place) -> None:
        status = answer.status
        if status == 404 and post.era is Era.LEGACY and self._session_id and not post.is_handshake:
            raise Failure(_LOST, status, lost=True)
        if status >= 300:
            await self._hearing.refusal(post, answer)
        elif not post.is_one_way:
            await self._hearing.answer(post, answer, place)
        elif post.is_initialized and self._listening is not None and self._listening.refused:
            self._listen()  # a server that listens to nobody before

    async def _resume(self, post: Post, place: Place) -> None:
        """Go on where an answer's stream ended."""
        if post.era is Era.MODERN or not place.last_id or place.failures > _MAX_FAILURES:
            cause = f" ({place.cause})" if place.cause else ""
            raise Failure(f"the stream ended before the answer came{cause}")
        await post.waits.wait(anyio.sleep, place.pause)
        if not post.waiting:
            return  # withdrawn, or answered on another stream: the server might say the same again
        try:
            async with self._stream_from(place, post.waits) as answer:
                if answer.status == 200 and answer.media_type == EVENTS:
                    await self._hearing.events(answer, place, post.waits)
                elif answer.status == 404 and self._session_id:
                    raise Failure(_LOST, answer.status, lost=True)
                elif answer.status < 500:
                    reason = f"the stream ended before the answer came and cannot be resumed: {phrase(answer.status)}"
                    raise Failure(reason, answer.status)
                else:
                    place.failed(phrase(answer.status))
        except UpstreamUnavailable as error:
            place.failed(error.cause)

    def _stream_from(self, place: Place, waits: Cancellable) -> AbstractAsyncContextManager[Answer]:
        headers = [_STREAM, *self._legacy_headers()]
        if place.last_id:
            headers.append((b"Last-Event-ID", place.last_id))
        return self._upstream.ask("GET", headers, patient=True, waits=waits)

    # -- the stream beside the requests --------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._listening = Listening()
        self._tasks.start_soon(self._keep_listening, self._listening)

    async def _keep_listening(self, listening: Listening) -> None:
        place, waits, was_open = Place(), listening.waits, False
        with suppress(Aborted):
            while True:
                try:
                    async with self._stream_from(place, waits) as answer:
                        status = answer.status
                        if status == 200 and answer.media_type == EVENTS:
                            was_open = True
                            listening.ready.set()
                            await self._hearing.events(answer, place, waits)
                        elif status == 404 and was_open and self._session_id:
                            self._lose_session()
                            return
                        elif status == 405 or (status < 500 and not was_open):
                            # Also 404: servers that route nothing there mean no stream, not a lost session.
                            _log.info("the upstream offers no stream to listen on: %s", phrase(status))
                            listening.refused = status != 405
                            return
                        else:
                            place.failed(phrase(status))
                except UpstreamUnavailable as error:
                    place.failed(error.cause)
                finally:
                    listening.ready.set()
                await waits.wait(anyio.sleep, place.pause)

    # -- failures ------------------------------------------------------------------------------------------------------

    async def _fail(self, post: Post, failure: Failure) -> None:
        outcome = Outcome.TIMEOUT if failure.timed_out else Outcome.LOST
        waiting = post.waiting
        for exchange in waiting:
            exchange.status = failure.status
        now = time.monotonic()
        await self._client.settle(self._session.give_up(waiting, outcome, now, failure.kind, failure.data, post.batch))
        if failure.lost:
            self._lose_session()
        elif post.is_one_way:
            _log.warning("a message to the upstream was not accepted: %s", failure.reason)
        elif failure.status in (401, 403) and failure.status not in self._complained:
            self._complained.add(failure.status)
            _log.warning("%s", failure.reason)

    def _lose_session(self) -> None:
        self._session_id = b""  # there is nothing left to end
        self._lose(_LOST)

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _is_cancellation(payload: Payload) -> bool:
    return all(message.method == "notifications/cancelled" for message in payload.messages)
