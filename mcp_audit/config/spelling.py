"""Guess what a misspelt word was meant to be. Never acted upon: a guess only ends up in a sentence."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAX_DISTANCE", "distance", "near"]

MAX_DISTANCE = 2


def distance(a: str, b: str) -> int:
    """Return how many letters were left out, added, replaced or swapped (Damerau and Levenshtein, a metric)."""
    rows = [list(range(len(b) + 1))]
    above: dict[str, int] = {}  # where each letter stood last in `a`, from 1
    for i, letter in enumerate(a, 1):
        row, left = [i], 0  # `left`: where this letter stood last in `b`
        for j, other in enumerate(b, 1):
            cost = min(row[j - 1] + 1, rows[i - 1][j] + 1, rows[i - 1][j - 1] + (letter != other))
            top = above.get(other, 0)
            if top and left:  # swapped, with what came between them left out or added
                cost = min(cost, rows[top - 1][left - 1] + (i - top) + (j - left) - 1)
            if letter == other:
                left = j
            row.append(cost)
        above[letter] = i
        rows.append(row)
    return rows[-1][-1]


def near(word: str, known: Iterable[str]) -> str:
    """Return the known word that is at most two typing errors away, the nearest first; empty if there is none."""
    folded = word.casefold().replace("-", "_")
    # Two errors in a word of three letters leave nothing to recognise it by.
    ranked = sorted((distance(folded, name.casefold().replace("-", "_")), name) for name in known)
    for errors, name in ranked[:1]:
        if errors <= min(MAX_DISTANCE, max(1, min(len(name), len(word)) // 2)):
            return name
    return ""
