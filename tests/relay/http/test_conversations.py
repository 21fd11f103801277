"""Whose session a request belongs to, and how long a session is remembered."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from mcp_audit.relay.http import conversations as module
from mcp_audit.relay.http.conversations import Conversation, Conversations
from mcp_audit.session import Session
from mcp_audit.wire.message import Direction, parse

KEPT = 3
ids = itertools.count()


class Stream:
    """Takes messages of ours."""

    async def inject(self, message: bytes) -> bool:
        raise AssertionError(f"nobody is told anything here: {message!r}")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Conversations:
    """Remembers three idle sessions."""
    monkeypatch.setattr(module, "_KEPT_IDLE", KEPT)
    return Conversations(lambda client: Session([], lambda: str(next(ids))), lambda name: name.decode()[::-1])


def ask(conversation: Conversation, id_: int = 1) -> None:
    """Leave a request open."""
    body = b'{"id":%d,"method":"tools/call","params":{"name":"x"}}' % id_
    conversation.session.receive(parse(body, Direction.TO_SERVER, line=False), 0.0)


def test_a_session_is_one_for_all_its_requests_and_its_own_for_each_client(known: Conversations) -> None:
    """By id and by the name that a token proves; its pseudonym is what the record shows."""
    one = known.of_session("", b"id")

    assert known.of_session("", b"id") is one
    assert known.of_session("", b"di") is not one
    assert known.of_session("ci", b"id") is not one
    assert one.session.pseudonym == "di"


def test_what_has_no_name_ends_with_its_last_request(known: Conversations) -> None:
    """One that the server gave a name goes on, and is found by it."""
    nameless, named = known.begin(""), known.begin("")
    for each in (nameless, named, named):
        known.enter(each)
    known.name(named, "", b"new")
    known.name(named, "", b"ignored: it has one")

    assert known.leave(nameless)
    assert not known.leave(named)
    assert not known.leave(named)
    assert known.of_session("", b"new") is named
    assert known.everything() == []


def test_what_is_open_is_known_to_the_end(known: Conversations) -> None:
    """Of a session that nobody uses now, too; of one with nothing open there is nothing to say."""
    open_, done = known.of_session("", b"open"), known.of_session("", b"done")
    for each in (open_, done):
        known.enter(each)
    ask(open_)
    for each in (open_, done):
        known.leave(each)

    assert known.everything() == [open_.session]


@pytest.mark.parametrize("keep", [ask, lambda each: None], ids=["open", "idle"])
def test_only_idle_sessions_are_forgotten_and_the_oldest_first(
    known: Conversations, keep: Callable[[Conversation], Any]
) -> None:
    """However many are open: then more are kept."""
    first = [known.of_session("", b"%d" % number) for number in range(KEPT)]
    for each in first:
        keep(each)
    known.of_session("", b"more")
    known.of_session("", b"and more")

    again = [known.of_session("", b"%d" % number) for number in range(KEPT)]
    kept = [old is new for old, new in zip(first, again, strict=True)]
    assert kept == ([True] * KEPT if keep is ask else [False] * KEPT)


def test_a_new_session_is_not_forgotten_before_its_first_request(known: Conversations) -> None:
    """Where all others are busy it is the only one that seems idle."""
    for number in range(2 * KEPT):
        ask(known.of_session("", b"%d" % number))
    newest = known.of_session("", b"newest")

    assert known.of_session("", b"newest") is newest


def test_an_address_is_known_until_its_stream_ends(known: Conversations) -> None:
    """And remembered as one that was there; what was open on it then ends with its last request."""
    conversation = known.begin("")
    known.enter(conversation)
    known.announce(conversation, "", (b"/m?s=1", b"/p/m?s=1"), b"/m?s=1", Stream())

    assert known.at_address("", b"/m?s=1") is known.at_address("", b"/p/m?s=1") is conversation
    assert known.at_address("other", b"/m?s=1") is None
    assert not known.was_address("", b"/m?s=1")
    known.forget(conversation)
    assert known.at_address("", b"/m?s=1") is None
    assert known.was_address("", b"/m?s=1")
    assert not known.was_address("other", b"/m?s=1")
    assert known.leave(conversation)


def test_a_name_that_was_given_again_is_the_newer_ones(known: Conversations) -> None:
    """The end of the older one takes nothing from it."""
    older, newer = known.begin(""), known.begin("")
    for each in (older, newer):
        known.name(each, "", b"same")
        known.announce(each, "", (b"/same",), b"/same", Stream())
    known.forget(older)

    assert known.of_session("", b"same") is newer
    assert known.at_address("", b"/same") is newer
    assert not known.was_address("", b"/same")
