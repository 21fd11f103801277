"""Which answer belongs to which request: one table per session, one key space per direction.

Pure. Ids are never rewritten and nothing is dropped for age: a request stays open until it is answered, cancelled,
timed out by configuration, or its session ends. What is remembered of ended ones is bounded in number and in size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

import msgspec

from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.message import Direction, Era, Message, parse_id

__all__ = ["Correlator", "is_subscription", "is_tool_error"]

_REMEMBERED = 4096  # ended exchanges that are still recognised; an answer to an older one is `unmatched`
_REMEMBERED_TIMEOUTS = 16384  # kept apart, so that traffic does not make a timeout forgotten and its answer delivered
_LONGEST_ID = 128  # characters; of a longer id only a hash is remembered
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_IdKey = str | int | float
_Key = tuple[Direction, _IdKey]
_PastKey = tuple[Direction, _IdKey | bytes]


class Correlator:
    """Open exchanges of one session by (direction of the request, id)."""

    def __init__(self) -> None:
        # An id in use again is legal to forward, so a key may have several exchanges: answers pair first in, first out.
        self._open: dict[_Key, list[Exchange]] = {}
        self._ended: OrderedDict[_PastKey, Era] = OrderedDict()
        self._timed_out: OrderedDict[_PastKey, Era] = OrderedDict()
        self._progress: dict[tuple[Direction, bytes], Exchange] = {}

    def open(self, exchange: Exchange) -> bool:
        """Remember a request with an id that can be answered; return whether that id was in use already."""
        request = exchange.request
        assert request is not None
        assert request.id is not None
        assert request.id.key is not None
        key = (request.direction, request.id.key)
        waiting = self._open.get(key)
        if waiting is None:
            self._open[key] = [exchange]
        else:
            waiting.append(exchange)
        if "progressToken" in request.meta:
            self._progress[request.direction, request.meta["progressToken"]] = exchange
        return waiting is not None

    def answer(self, response: Message) -> Exchange | None:
        """Take out and return the exchange that a response ends, None if it answers nothing open."""
        if response.id is None or response.id.key is None:
            return None
        return self._take((response.direction.back, response.id.key))

    def cancelled(self, notification: Message) -> Exchange | None:
        """Take out and return the exchange that a `notifications/cancelled` withdraws.

        It is one of the same sender, or a subscription, which the server may end as well.
        """
        id_key = _cancelled_id(notification)
        if id_key is None:
            return None
        exchange = self._take((notification.direction, id_key))
        if exchange is None:
            key = (notification.direction.back, id_key)
            if any(is_subscription(subscribed) for subscribed in self._open.get(key, ())[:1]):
                return self._take(key)
        return exchange

    def withdraw(self, exchange: Exchange) -> None:
        """Forget an exchange that was opened and then refused: it never reached the peer."""
        request = exchange.request
        if request is None or request.id is None or request.id.key is None:
            return
        key = (request.direction, request.id.key)
        waiting = [other for other in self._open.get(key, ()) if other is not exchange]
        if waiting:
            self._open[key] = waiting
        else:
            self._open.pop(key, None)
        self._forget_progress(exchange)

    def give_up(self, exchange: Exchange, deliver_late: bool) -> None:
        """Forget an open exchange that will not be answered; say whether an answer that comes yet may be delivered."""
        self.withdraw(exchange)
        request = exchange.request
        if request is not None and request.id is not None and request.id.key is not None:
            past = self._ended if deliver_late else self._timed_out
            past[_past(request.direction, request.id.key)] = exchange.era
            if len(past) > (_REMEMBERED if deliver_late else _REMEMBERED_TIMEOUTS):
                past.popitem(last=False)

    def late_era(self, response: Message) -> tuple[Era, bool] | None:
        """Of a response to an exchange that ended before: its era, and whether it may still be delivered."""
        if response.id is None or response.id.key is None:
            return None
        key = _past(response.direction.back, response.id.key)
        if (era := self._timed_out.get(key)) is not None:
            return era, False
        return None if (era := self._ended.get(key)) is None else (era, True)

    def named_era(self, notification: Message) -> Era | None:
        """Return the era of the request that a progress or cancel notification is about, None if it is unknown."""
        if notification.method == "notifications/progress":
            token = _member(notification.params, "progressToken") if self._progress else None
            exchange = self._progress.get((notification.direction.back, token)) if token is not None else None
            return exchange.era if exchange is not None else None
        if notification.method != "notifications/cancelled" or (id_key := _cancelled_id(notification)) is None:
            return None
        for direction in (notification.direction, notification.direction.back):
            if waiting := self._open.get((direction, id_key)):
                return waiting[0].era
            if (era := self._ended.get(_past(direction, id_key))) is not None:
                return era
        return None

    def overdue(self, now: float, timeout: float, of: Direction | None = None) -> list[Exchange]:
        """Take out and return the exchanges that started more than `timeout` seconds ago, oldest first.

        A subscription is never overdue: its answer stays open until one side ends it.

        Args:
            of: only those whose request travels so; None: all.
        """
        late: list[Exchange] = []
        for key, waiting in list(self._open.items()):
            if of is not None and key[0] is not of:
                continue
            in_time = [e for e in waiting if now - e.started <= timeout or is_subscription(e)]
            if len(in_time) == len(waiting):
                continue
            overdue = [e for e in waiting if now - e.started > timeout and not is_subscription(e)]
            late += overdue
            if in_time:
                self._open[key] = in_time
            else:
                del self._open[key]
            self._timed_out[_past(*key)] = overdue[-1].era
        while len(self._timed_out) > _REMEMBERED_TIMEOUTS:
            self._timed_out.popitem(last=False)
        for exchange in late:
            self._forget_progress(exchange)
        return sorted(late, key=_started)

    def drain(self) -> list[Exchange]:
        """Take out and return all that is open, oldest first."""
        rest = sorted((e for waiting in self._open.values() for e in waiting), key=_started)
        self._open.clear()
        self._progress.clear()
        return rest

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def _take(self, key: _Key) -> Exchange | None:
        waiting = self._open.get(key)
        if waiting is None:
            return None
        exchange = waiting.pop(0)
        if not waiting:
            del self._open[key]
        past = _past(*key)
        if self._timed_out:  # the id was used again: which of two answers is the late one nobody can tell
            self._timed_out.pop(past, None)
        self._ended[past] = exchange.era
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._forget_progress(exchange)
        return exchange

    def _forget_progress(self, exchange: Exchange) -> None:
        request = exchange.request
        if request is not None and "progressToken" in request.meta:
            key = (request.direction, request.meta["progressToken"])
            if self._progress.get(key) is exchange:  # the token may be another request's by now
                del self._progress[key]


def is_subscription(exchange: Exchange) -> bool:
    """Say whether this is a request whose answer stays open."""
    return exchange.request is not None and exchange.request.method == "subscriptions/listen"


def is_tool_error(response: Message) -> bool:
    """Say whether the result of a `tools/call` reports that the tool failed (`isError: true`)."""
    result = response.result
    # Spares decoding most results; with an escape the name may be spelled in a way that this does not see.
    if b"true" not in result or (b"rror" not in result and b"\\u" not in result):
        return False
    return _member(result, "isError") == b"true"


def _cancelled_id(notification: Message) -> _IdKey | None:
    token = _member(notification.params, "requestId")
    id_ = parse_id(token) if token is not None else None
    return id_.key if id_ is not None else None


def _member(text: bytes, name: str) -> bytes | None:
    """Return a member of an object undecoded, None if there is none or the text is no object."""
    try:
        members: Mapping[str, msgspec.Raw] = _members(text)
    except UNDECODABLE:
        return None
    return bytes(members[name]) if name in members else None


def _past(direction: Direction, id_key: _IdKey) -> _PastKey:
    """Return a key of bounded size, for what is remembered although no message is kept any more."""
    if isinstance(id_key, str) and len(id_key) > _LONGEST_ID:
        return direction, sha256(id_key.encode("utf-8", "surrogatepass")).digest()
    return direction, id_key


def _started(exchange: Exchange) -> float:
    return exchange.started
