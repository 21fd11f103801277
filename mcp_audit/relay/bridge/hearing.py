"""What the upstream answers: bodies and events as messages for the client, refusals as reasons.

Promise: of a response only messages reach the client, each as soon as it is whole; and whatever is in the way of an
answer becomes a sentence that says what happened and what to do next. Never: a decision about messages.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mcp_audit.errors import BrokenBody
from mcp_audit.relay.bridge.client import ClientSide
from mcp_audit.relay.bridge.place import Place
from mcp_audit.relay.bridge.post import Failure, Post
from mcp_audit.relay.bridge.upstream import Answer, Cancellable
from mcp_audit.wire.framing import Bounded, Hasher, Line
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.message import Direction, Kind, Message, parse
from mcp_audit.wire.sse import MESSAGE, SseDecoder

__all__ = ["EVENTS", "JSON", "Hearing", "phrase"]

JSON, EVENTS = "application/json", "text/event-stream"
_MAX_WORDS = 300  # of the upstream's that we repeat
_CREDENTIALS = re.compile(r"(?<=//)[^/]*@|[?#].*", re.DOTALL)  # what may be one in a URL
_NO_OAUTH = "the bridge runs no OAuth flow, so put a token into proxy.bridge.headers"
_OLD_TRANSPORT = "if it speaks HTTP+SSE of 2024-11-05 only, it cannot be bridged"


class _Words(msgspec.Struct):
    message: str = ""


_decode_words = msgspec.json.Decoder(_Words).decode


class Hearing:
    """Reads responses to their end.

    Args:
        client: is told what they say.
        max_bytes: of a message that is kept.
        new_hash: begins to hash a longer one.
        heard: is called after something was delivered.
    """

    def __init__(
        self, client: ClientSide, max_bytes: int, new_hash: Callable[[], Hasher], heard: Callable[[], None]
    ) -> None:
        self._client = client
        self._max_bytes = max_bytes
        self._new_hash = new_hash
        self._heard = heard

    async def answer(self, post: Post, answer: Answer, place: Place) -> None:
        """Pass on what a response to requests holds; `place` says how far a stream was read.

        Raises:
            Failure: it holds no messages.
        """
        kind = answer.media_type
        if kind == EVENTS:
            await self.events(answer, place, post.waits)
        elif kind == JSON:
            body = await self._body(answer, post.waits)
            if body:
                await self._client.deliver([body])
                self._heard()
            place.cause = "its answer answers something else" if body else "its answer is empty"
        elif post.exchanges:
            what = f"with {kind[:80]}" if kind else "without a message"
            raise Failure(f"the upstream answered {what} instead of JSON or an event stream", answer.status)

    async def events(self, answer: Answer, place: Place, waits: Cancellable) -> None:
        """Pass events on until the stream ends, however it does."""
        decoder = SseDecoder(self._max_bytes, self._new_hash)
        place.connected()
        try:
            while piece := await waits.wait(answer.read):
                events = [event for event in decoder.feed(piece) if event.type == MESSAGE]
                if events:
                    await self._client.deliver([event.data for event in events])
                    self._heard()
                place.advance(decoder, bool(events))
        except BrokenBody as error:
            place.cause = error.cause

    async def refusal(self, post: Post, answer: Answer) -> None:
        """Pass the upstream's own error on if it is about this request, else say what happened.

        Raises:
            Failure: in our words.
        """
        status = answer.status
        words = ""
        if answer.media_type == JSON:
            try:
                body = await self._body(answer, post.waits)
            except Failure:
                body = b""
            if isinstance(body, bytes) and body:
                messages = parse(body, Direction.TO_CLIENT, line=False).messages
                if _is_about(messages, post):
                    await self._client.deliver([body])
                    self._heard()
                    return
                words = _words_of(messages)
        raise Failure(_told(status, words, answer, post.is_handshake), status)

    async def _body(self, answer: Answer, waits: Cancellable) -> Line:
        """Return a whole body, or what is known of one too long; empty for a blank one."""
        body = Bounded(self._max_bytes, self._new_hash)
        try:
            while piece := await waits.wait(answer.read):
                body.add(piece)
        except BrokenBody as error:
            raise Failure(f"the answer broke off: {error.cause}", answer.status) from error
        line = body.end()
        return line if not isinstance(line, bytes) or line.strip(b" \t\r\n") else b""


def _is_about(messages: tuple[Message, ...], post: Post) -> bool:
    """Say whether an error body answers just what was sent; nobody could pair one without that id."""
    if not messages or any(message.kind is not Kind.RESPONSE for message in messages):
        return False
    if post.is_noise:
        return True
    asked = {e.request.id.key for e in post.exchanges if e.request is not None and e.request.id is not None}
    return all(message.id is not None and message.id.key in asked for message in messages)


def _words_of(messages: tuple[Message, ...]) -> str:
    """Return what an error says that nobody can pair."""
    for message in messages:
        with suppress(*UNDECODABLE):
            return _printable(_decode_words(message.error).message) if message.error else ""
    return ""


def _told(status: int, words: str, answer: Answer, is_handshake: bool) -> str:
    """Return what happened and the next move."""
    told = f"the upstream answered {phrase(status)}" + (f" ({words})" if words else "")
    if status == 401:
        return f"{told}; {_NO_OAUTH}"
    if status == 403:
        return f"{told}; if it wants other credentials, proxy.bridge.headers is their place"
    if status < 400 and (location := answer.header(b"location")):
        place = _printable(_CREDENTIALS.sub("", location.decode("latin-1")))
        return f"{told}, to {place}; nothing is followed, so make that proxy.upstream if it is the server you mean"
    if is_handshake and status in (400, 404, 405):
        return f"{told}; {_OLD_TRANSPORT}"
    return told


def _printable(words: str) -> str:
    """Return words of the upstream's for a sentence of ours: terminals show it, so no escape sequence is among them."""
    return "".join(each if each.isprintable() else " " for each in words[:_MAX_WORDS])


def phrase(status: int) -> str:
    """Return a status as people read it, such as `404 Not Found`."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
