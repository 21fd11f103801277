"""Guess what a misspelt word was meant to be. Never acted upon: a guess only ends up in a sentence."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAX_DISTANCE", "distance", "near"]

MAX_DISTANCE = 2


def distance(a: str, b: str) -> int:
    """Return how many letters were left out, added, replaced or swapped with their neighbour."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def near(word: str, known: Iterable[str]) -> str:
    """Return the known word that is at most two typing errors away, the nearest first; empty if there is none."""
    folded = word.casefold().replace("-", "_")
    # Two errors in a word of three letters leave nothing to recognise it by.
    ranked = sorted((distance(folded, name.casefold().replace("-", "_")), name) for name in known)
    for errors, name in ranked[:1]:
        if errors <= min(MAX_DISTANCE, max(1, min(len(name), len(word)) // 2)):
            return name
    return ""
