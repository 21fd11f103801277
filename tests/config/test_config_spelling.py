"""Guesses at misspelt words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.config.model import Config
from mcp_audit.config.shapes import leaves_of, members_of
from mcp_audit.config.spelling import distance, near

SECTIONS = list(members_of(Config))


@pytest.mark.parametrize(
    ("a", "b", "errors"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("port", "port", 0),
        ("prot", "port", 1),
        ("porrt", "port", 1),
        ("pert", "port", 1),
        ("pot", "port", 1),
        ("polciy", "policy", 1),
        ("kitten", "sitting", 3),
        ("abcaa", "caaa", 2),
    ],
)
def test_distance(a: str, b: str, errors: int) -> None:
    """Left out, added, replaced, or swapped with the neighbour: one error each."""
    assert distance(a, b) == distance(b, a) == errors


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.integers(0, 5), st.sampled_from("abc"))
def test_one_change_is_at_most_one_error(a: str, b: str, at: int, letter: str) -> None:
    """Adding a letter moves no distance by more than one."""
    changed = a[:at] + letter + a[at:]

    assert distance(a, changed) == 1
    assert abs(distance(a, b) - distance(changed, b)) <= 1


@pytest.mark.parametrize(
    ("word", "guess"),
    [
        ("prxy", "proxy"),
        ("Proxy", "proxy"),
        ("polices", "policy"),
        ("metric", "metrics"),
        ("ottel", "otel"),
        ("services", ""),
        ("version", ""),
        ("x", ""),
    ],
)
def test_near(word: str, guess: str) -> None:
    """At most two errors, and something left to recognise."""
    assert near(word, SECTIONS) == guess


def test_every_key_is_recognised_as_itself() -> None:
    """No key of a section is shadowed by a neighbour."""
    keys = {key.rpartition(".")[2] for key, _, _ in leaves_of(Config)}

    assert [key for key in keys if near(key, keys) != key] == []
