"""Who talks to whom, and in which era: learned from the handshake, or from what modern messages carry.

Pure. A learned name is a claim of the peer, and `Caller` says so; a configured one is kept whatever the peer claims.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from mcp_audit.wire.exchange import Exchange
from mcp_audit.wire.message import Direction, Era, Kind, Message

__all__ = ["PROTOCOL_VERSION", "SUBSCRIPTION_ID", "Caller", "Peers"]

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_T = TypeVar("_T")
_MAX_NAME = 200  # a name is repeated in every entry


class Caller(Struct, frozen=True):
    """Names of the two ends; `client_learned` and `server_learned` tell a claim from a configured name."""

    client_id: str = ""
    server_id: str = ""
    client_learned: bool = False
    server_learned: bool = False


class _Info(Struct, frozen=True):
    name: str = ""


class _Handshake(Struct, frozen=True):
    clientInfo: _Info = _Info()
    serverInfo: _Info = _Info()
    protocolVersion: str = ""


_handshake = msgspec.json.Decoder(_Handshake).decode
_info = msgspec.json.Decoder(_Info).decode
_text = msgspec.json.Decoder(str).decode
_Undecodable = (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError)


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
        self._client_info = b""

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
        try:
            version = _text(token)
        except _Undecodable:
            return None
        self._modern_token, self._modern_version = bytes(token), version
        return version

    def learn(self, message: Message) -> None:
        """Take the client's name and the era from a message that the client sends."""
        if message.direction is not Direction.TO_SERVER:
            return
        if message.method == "initialize":
            self.era = Era.LEGACY
            self._learn_client(_read(_handshake, message.params, _Handshake()).clientInfo.name)
        elif message.kind is Kind.REQUEST and PROTOCOL_VERSION in message.meta:
            if self.modern_version(message) is not None and not self.legacy_version:
                self.era = Era.MODERN
            info = message.meta.get(_CLIENT_INFO)
            if info is not None and info != self._client_info:
                self._client_info = bytes(info)
                self._learn_client(_read(_info, info, _Info()).name)

    def learn_from_answer(self, exchange: Exchange) -> None:
        """Take the server's name and the negotiated version from an answer of the server."""
        request, response = exchange.request, exchange.response
        if request is None or response is None or response.direction is not Direction.TO_CLIENT:
            return
        if request.method == "initialize":
            answer = _read(_handshake, response.result, _Handshake())
            self.legacy_version = exchange.version = answer.protocolVersion
            self._learn_server(answer.serverInfo.name)
        elif request.method == "server/discover" or _SERVER_INFO in response.meta:
            info = response.meta.get(_SERVER_INFO)
            if info is not None:
                self._learn_server(_read(_info, info, _Info()).name)
            else:
                self._learn_server(_read(_handshake, response.result, _Handshake()).serverInfo.name)

    def _learn_client(self, name: str) -> None:
        old = self.caller
        if name and old.client_learned:
            self.caller = Caller(name[:_MAX_NAME], old.server_id, True, old.server_learned)

    def _learn_server(self, name: str) -> None:
        old = self.caller
        if name and old.server_learned:
            self.caller = Caller(old.client_id, name[:_MAX_NAME], old.client_learned, True)


def _read(decode: Callable[[bytes], _T], text: bytes, default: _T) -> _T:
    """Decode what a peer claims; a claim that does not have the expected shape teaches nothing."""
    try:
        return decode(text)
    except _Undecodable:
        return default
