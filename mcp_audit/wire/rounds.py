"""Multi round-trip requests: a result that asks for input ends its exchange, and the retry continues it under a new id.

Pure, and bounded: what links two rounds is kept as a hash, so that neither a `requestState`, which is a secret and may
be huge, nor a name stays in memory. A link is for the record only; nothing is decided by it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

import msgspec
from msgspec import Raw

from mcp_audit.wire.careful import read_text
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.model import Message

__all__ = ["Rounds"]

_REMEMBERED = 4096  # links; of older rounds the retry stands alone
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Rounds:
    """The rounds of one session that asked for input and may still be continued."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, str] = OrderedDict()

    def ask(self, exchange: Exchange) -> None:
        """Remember the round that a result with `resultType: input_required` opens."""
        request, response = exchange.request, exchange.response
        if request is None or response is None or b'"input_required"' not in response.result:
            return
        result = _read(response.result)
        if read_text(result.get("resultType")) != "input_required":
            return
        for link in _links(request, result, "inputRequests"):
            if link is not None:
                self._open[link] = exchange.id
                self._open.move_to_end(link)
        while len(self._open) > _REMEMBERED:
            self._open.popitem(last=False)

    def continued(self, request: Message) -> tuple[str, bool]:
        """Return the id of the exchange whose round a request answers ("" if none), and whether that is a guess."""
        if not self._open or (b'"requestState"' not in request.params and b'"inputResponses"' not in request.params):
            return "", False
        by_state, by_keys = _links(request, _read(request.params), "inputResponses")
        earlier = self._open.get(by_state, "") if by_state is not None else ""
        guess = self._open.get(by_keys, "") if by_keys is not None else ""
        # A state stays known: a retry that was turned back is sent again. A guess is good for once.
        if by_keys is not None and guess and (not earlier or guess == earlier):
            del self._open[by_keys]
        return (earlier, False) if earlier else (guess, bool(guess))


def _links(request: Message, members: Mapping[str, Raw], inputs: str) -> tuple[bytes | None, bytes | None]:
    """Return what links two rounds within one method and target: by the state, and by the names of the inputs."""
    state = read_text(members.get("requestState"))
    keys = _read(members[inputs]) if inputs in members else {}
    return (
        _hash(request, "state", state) if state is not None else None,
        _hash(request, "keys", *sorted(keys)) if keys else None,
    )


def _hash(request: Message, *parts: str) -> bytes:
    hashed = sha256()
    for part in (request.method or "", request.target or "", *parts):
        text = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:" % len(text))
        hashed.update(text)
    return hashed.digest()


def _read(text: bytes | Raw) -> Mapping[str, Raw]:
    """Read an object for a look at it; anything else is an empty one."""
    try:
        return _members(text)
    except UNDECODABLE:
        return {}
