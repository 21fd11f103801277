"""From a host name to a connection: resolve, race the addresses, TLS; and what went wrong in words.

The event loop's own `create_connection` would do for one address, but with uvloop it tries several one after the other,
so that a dead IPv6 route costs minutes (RFC 8305 tells why that is wrong). Nothing is left behind by a dial that is
cancelled or lost a race.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, TypeVar

from mcp_audit.errors import UpstreamUnavailable

__all__ = ["connect", "words"]

_STAGGER_SECONDS = 0.25  # between the attempts at two addresses, as RFC 8305 section 5 recommends
_TLS_GOODBYE_SECONDS = 1.0  # how long the peer may take to agree that a connection ends

P = TypeVar("P", bound=asyncio.Protocol)
Address = tuple[int, Any]  # family, and what `connect` wants


async def connect(
    factory: Callable[[], P], host: str, port: int, tls: ssl.SSLContext | None = None, server_name: str = ""
) -> P:
    """Connect to the upstream and return the protocol that `factory` made.

    Args:
        host: a name or an address, an IPv6 one without brackets.
        tls: None: plain TCP.
        server_name: the name to ask for and to verify; empty: the host.

    Raises:
        UpstreamUnavailable: the name cannot be resolved, nobody answers at any address, or TLS fails.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    opened = await _first(await _resolve(host, port), place)
    # An upstream that vanished without a word would otherwise hold its streams for ever: they have no read timeout.
    with suppress(OSError):  # as some systems say of a connection that was reset meanwhile
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options: dict[str, Any] = {}
    if tls is not None:
        name = server_name or host.partition("%")[0]
        options = {"ssl": tls, "server_hostname": name, "ssl_shutdown_timeout": _TLS_GOODBYE_SECONDS}
    transport: asyncio.BaseTransport | None = None
    try:
        # From here on the transport owns the socket, and closes it whatever happens.
        transport, protocol = await asyncio.get_running_loop().create_connection(factory, sock=opened, **options)
    except (OSError, ssl.CertificateError) as error:
        failure = f"cannot connect to {place}: {words(error)}"
        if tls is not None:
            failure = f"TLS with {place} failed: {_tls_words(error)}"
        raise UpstreamUnavailable(failure, sent=False) from None
    finally:
        if transport is None or transport.is_closing():
            _forget(opened)
    return protocol


def _forget(opened: socket.socket) -> None:
    """Keep a socket from closing its descriptor's number once more, which may be the ledger's by then.

    uvloop closes the descriptor itself, and tells the socket only if that happens after it has taken the socket over.
    """
    if type(asyncio.get_running_loop()).__module__.partition(".")[0] == "uvloop":
        opened.detach()


def words(error: BaseException) -> str:
    """Return what the system or OpenSSL said, for the middle of a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate verify failed: {error.verify_message.rstrip('.')}"
    elif isinstance(error, ssl.SSLError):
        text = (error.reason or str(error)).replace("_", " ").lower()
    elif isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)
    else:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def _tls_words(error: OSError | ssl.CertificateError) -> str:
    if isinstance(error, ssl.SSLError):
        return words(error)
    if isinstance(error, ConnectionAbortedError):
        return "the handshake took too long"
    return "it closed the connection during the handshake"


async def _resolve(host: str, port: int) -> list[Address]:
    try:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except socket.gaierror:  # it is a name, so this may take time
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UpstreamUnavailable(f"cannot resolve the name {host}: {words(error)}", sent=False) from None
    addresses = [(int(family), address) for family, _, _, _, address in found]
    return _alternating(addresses)


def _alternating(addresses: list[Address]) -> list[Address]:
    """Let the families take turns, beginning with the one the system prefers (RFC 8305 section 4)."""
    first = [a for a in addresses if a[0] == addresses[0][0]]
    other = [a for a in addresses if a[0] != addresses[0][0]]
    return [a for a in chain.from_iterable(zip_longest(first, other)) if a is not None]


async def _first(addresses: list[Address], place: str) -> socket.socket:
    failures: list[OSError] = []
    if len(addresses) == 1:
        try:
            return await _attempt(addresses[0])
        except OSError as error:
            failures.append(error)
    elif opened := await _race(addresses, failures):
        return opened
    said = "; ".join(dict.fromkeys(map(words, failures)))
    raise UpstreamUnavailable(f"cannot connect to {place}: {said}", sent=False)


async def _attempt(address: Address) -> socket.socket:
    family, where = address
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        await asyncio.get_running_loop().sock_connect(opened, where)
    except BaseException:
        opened.close()
        raise
    return opened


async def _race(addresses: list[Address], failures: list[OSError]) -> socket.socket | None:
    """Return the first socket that connects; each attempt gives the one before it a head start.

    Args:
        failures: gets what the attempts failed with, which is all there is if None is returned.
    """
    waiting = deque(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_attempt(waiting.popleft())))
            patience = _STAGGER_SECONDS if waiting else None
            done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, OSError):
                    raise error
                failures.append(error)
        return None
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_discard)


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """Close what a loser of the race connected before it could be cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
