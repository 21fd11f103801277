"""Who talks to whom, and in which era: learned from the handshake, or from what modern messages carry.

Pure. A learned name is a claim of the peer, and `Caller` says so; a configured one is kept whatever the peer claims.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from mcp_audit.wire.careful import read_text
from mcp_audit.wire.correlator import Correlator
from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.members import UNDECODABLE
from mcp_audit.wire.message import Direction, Era, Kind, Message

__all__ = ["PROTOCOL_VERSION", "SUBSCRIPTION_ID", "Caller", "Peers", "is_modern_request"]

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_MAX_NAME = 200  # characters; names and versions are claims, and repeated in every entry
_MAX_KNOWN = 1000  # bytes of a claim that is kept, to know it when it comes again


class Caller(Struct, frozen=True):
    """Names of the two ends; `client_learned` and `server_learned` tell a claim from a configured name."""

    client_id: str = ""
    server_id: str = ""
    client_learned: bool = False
    server_learned: bool = False


_read_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Peers:
    """What one session knows about its two ends.

    Attributes:
        caller: present names of both.
        era: what a message belongs to that names nothing: modern once modern requests are seen without a handshake.
        legacy_version: negotiated by the handshake, empty before.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.era = Era.LEGACY
        self.legacy_version = ""
        self._modern_version = ""
        self._modern_token = b""
        self._client_info = self._server_info = b""

    @property
    def version(self) -> str:
        """The protocol version in force for messages that carry none."""
        return self.version_of(self.era)

    def version_of(self, era: Era) -> str:
        """Return the version last seen in an era, empty if none."""
        return self._modern_version if era is Era.MODERN else self.legacy_version

    def modern_version(self, message: Message) -> str | None:
        """Return the version a message carries, None if it carries none that is a string, which makes it legacy."""
        token = message.meta.get(PROTOCOL_VERSION)
        if token is None:
            return None
        if token == self._modern_token:
            return self._modern_version
        version = read_text(token)
        if version is None:
            return None
        self._modern_version = version[:_MAX_NAME]
        self._modern_token = token if len(token) <= _MAX_KNOWN else b""
        return self._modern_version

    def era_of(self, message: Message | None, table: Correlator) -> tuple[Era, str]:
        """Return the era of a message and the version in force for it.

        A request says so itself; a notification has the era of the subscription, progress token or request it names,
        and what names nothing (None is an answer to nothing known) that of the session.
        """
        if message is None or message.method is None:
            return self.era, self.version
        if message.kind is Kind.REQUEST:
            version = self.modern_version(message)
            return (Era.MODERN, version) if version is not None else (Era.LEGACY, self.legacy_version)
        if (version := self.modern_version(message)) is not None:
            return Era.MODERN, version
        era = Era.MODERN if SUBSCRIPTION_ID in message.meta else table.named_era(message) or self.era
        return era, self.version_of(era)

    def learn(self, message: Message) -> None:
        """Take the client's name and the era from a request of the client; an ambiguous one teaches nothing."""
        if message.kind is not Kind.REQUEST or message.direction is not Direction.TO_SERVER or message.marks:
            return
        if message.method == "initialize":
            self.era = Era.LEGACY
            self._learn_client(_name(_members(message.params).get("clientInfo")))
        elif self.modern_version(message) is not None:
            if not self.legacy_version:
                self.era = Era.MODERN
            info = message.meta.get(_CLIENT_INFO)
            if info is not None and info != self._client_info:
                self._client_info = info if len(info) <= _MAX_KNOWN else b""
                self._learn_client(_name(info))

    def learn_from_answer(self, exchange: Exchange) -> None:
        """Take the server's name and the negotiated version from an answer of the server."""
        request, response = exchange.request, exchange.response
        if request is None or response is None or not response.result or response.direction is not Direction.TO_CLIENT:
            return
        if request.method == "initialize":
            answer = _members(response.result)
            self.legacy_version = exchange.version = (read_text(answer.get("protocolVersion")) or "")[:_MAX_NAME]
            self._learn_server(_name(answer.get("serverInfo")))
        elif (info := response.meta.get(_SERVER_INFO)) is not None:
            if info != self._server_info:
                self._server_info = info if len(info) <= _MAX_KNOWN else b""
                self._learn_server(_name(info))
        elif request.method == "server/discover":
            self._learn_server(_name(_members(response.result).get("serverInfo")))

    def _learn_client(self, name: str) -> None:
        old = self.caller
        if name and old.client_learned:
            self.caller = Caller(name, old.server_id, True, old.server_learned)

    def _learn_server(self, name: str) -> None:
        old = self.caller
        if name and old.server_learned:
            self.caller = Caller(old.client_id, name, old.client_learned, True)


def is_modern_request(message: Message) -> bool:
    """Say whether this is a request that stands alone: one that carries its protocol version."""
    return message.kind is Kind.REQUEST and read_text(message.meta.get(PROTOCOL_VERSION)) is not None


def _name(info: bytes | Raw | None) -> str:
    """Return the name that a `clientInfo` or `serverInfo` claims, empty if it claims none."""
    name = read_text(_members(info).get("name")) if info is not None else None
    return (name or "")[:_MAX_NAME]


def _members(text: bytes | Raw) -> Mapping[str, Raw]:
    """Read what a peer claims; what does not have the expected shape teaches nothing."""
    try:
        return _read_members(text)
    except UNDECODABLE:
        return {}
