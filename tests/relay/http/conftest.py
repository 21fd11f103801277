"""Transports differ: what is about them runs on the program's event loop (uvloop) and on the one it falls back to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_ABOUT_TRANSPORTS = ("test_client_connection.py", "test_listener.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops that an asynchronous test of this folder runs on."""
    if item.path.name in _ABOUT_TRANSPORTS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
