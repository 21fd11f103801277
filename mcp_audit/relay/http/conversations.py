"""Which `Session` a request belongs to: by session id, by the address HTTP+SSE announced, or by nothing but itself.

In memory only. A session the proxy has not seen before (it was restarted, the upstream was not) simply begins here. An
idle one may be forgotten, one with an open request or stream never is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from mcp_audit.session import Session

__all__ = ["Conversation", "Conversations", "Injector"]

_KEPT_IDLE = 10_000
_ADDRESS = "address"

_Key = tuple[str, str, bytes]


class Injector(Protocol):
    """A stream towards the client that takes messages of ours between those of the server."""

    async def inject(self, message: bytes) -> bool:
        """Send a message as soon as the stream is between two events; False if it cannot be sent any more."""
        ...


class Conversation:
    """One session and how many requests are using it.

    Attributes:
        single: it is about one POST only, so nothing but its response can bring an answer.
        stream: where our errors go if answers do not come as responses (HTTP+SSE), else None.
        target: where messages go then, as the server announced it.
    """

    __slots__ = ("keys", "session", "single", "stream", "target", "users")

    def __init__(self, session: Session, single: bool) -> None:
        self.session = session
        self.single = single
        self.stream: Injector | None = None
        self.target = b""
        self.keys: list[_Key] = []
        self.users = 0


class Conversations:
    """All sessions of one proxy.

    Args:
        new_session: makes one for a client; its argument is the name that the client's token gives it, or empty.
        pseudonym: of a session id, for the record.
    """

    def __init__(self, new_session: Callable[[str], Session], pseudonym: Callable[[bytes], str]) -> None:
        self._new_session = new_session
        self._pseudonym = pseudonym
        self._known: OrderedDict[_Key, Conversation] = OrderedDict()
        self._live: set[Conversation] = set()
        self._left: OrderedDict[_Key, None] = OrderedDict()

    def begin(self, client: str) -> Conversation:
        """Return a conversation that has no name yet: that of a first or only request."""
        return Conversation(self._new_session(client), single=True)

    def of_session(self, client: str, session_id: bytes) -> Conversation:
        """Return the one with this `Mcp-Session-Id`."""
        key = ("session", client, session_id)
        found = self._known.get(key)
        if found is None:
            found = self.begin(client)
            self._name(found, key)
        self._known.move_to_end(key)
        return found

    def at_address(self, client: str, address: bytes) -> Conversation | None:
        """Return the one whose client was told to POST to this path and query, None if nobody was."""
        return self._known.get((_ADDRESS, client, address))

    def was_address(self, client: str, address: bytes) -> bool:
        """Say whether somebody was told to POST there, on a stream that has ended."""
        return (_ADDRESS, client, address) in self._left

    def name(self, conversation: Conversation, client: str, session_id: bytes) -> None:
        """Note the `Mcp-Session-Id` that the server gave a conversation."""
        if not conversation.keys:
            self._name(conversation, ("session", client, session_id))

    def announce(
        self, conversation: Conversation, client: str, addresses: Iterable[bytes], target: bytes, stream: Injector
    ) -> None:
        """Note where the client of an HTTP+SSE stream was told to POST, and where these messages go."""
        conversation.stream, conversation.target = stream, target
        for address in addresses:
            self._name(conversation, (_ADDRESS, client, address))

    def enter(self, conversation: Conversation) -> None:
        """Count a request that uses a conversation."""
        conversation.users += 1
        self._live.add(conversation)

    def leave(self, conversation: Conversation) -> bool:
        """Count a request less; return whether the conversation is over, because nothing can continue it."""
        conversation.users -= 1
        if conversation.users:
            return False
        if conversation.single:
            self._live.discard(conversation)
            return True
        if not conversation.session.open_requests:
            self._live.discard(conversation)
        return False

    def forget(self, conversation: Conversation) -> None:
        """Drop a conversation that ended: the session was deleted, or is not known any more."""
        for key in conversation.keys:
            if self._known.get(key) is not conversation:  # the server gave the name to another one since
                continue
            del self._known[key]
            if key[0] == _ADDRESS:
                self._left[key] = None
        while len(self._left) > _KEPT_IDLE:
            self._left.popitem(last=False)
        conversation.keys.clear()
        conversation.single = True

    def everything(self) -> list[Session]:
        """Return all sessions that may have open requests."""
        return [conversation.session for conversation in self._live]

    def _name(self, conversation: Conversation, key: _Key) -> None:
        conversation.keys.append(key)
        conversation.single = False
        conversation.session.pseudonym = self._pseudonym(key[2])
        self._known[key] = conversation
        if len(self._known) > _KEPT_IDLE:
            self._forget_idle(conversation)

    def _forget_idle(self, newest: Conversation) -> None:
        """Forget the one that has been idle for longest; `newest` only seems idle, for its user has yet to enter."""
        for key, conversation in self._known.items():
            if conversation is newest or conversation.users or conversation.session.open_requests:
                continue
            del self._known[key]
            self._live.discard(conversation)
            return
