"""Which keys hide their values. Pure; answers are remembered, because the same few keys come again and again."""

from __future__ import annotations

from collections.abc import Iterable
from unicodedata import category, normalize

__all__ = ["SensitiveKeys"]

# MCP's opaque state of a multi round-trip request: whoever holds it can continue the request.
_ALWAYS = "requeststate"
_SEPARATORS = str.maketrans("", "", "_-. ")
_REMEMBERED = 4096
_LONGEST_REMEMBERED = 128  # characters


class SensitiveKeys(dict[str, bool]):
    """`keys[name]` says whether the value under a member name is hidden.

    A pattern is a substring of the name, both compared after NFKC and without case or invisible characters. A pattern
    of several words finds them however they are joined: `api_key` also hides `apiKey` and `X-API-Key`.

    Args:
        patterns: parts of names.
        allow: exact names, as written, that no pattern hides.

    Attributes:
        harmless: some of the names that hide nothing, to settle a whole object with one set operation.
    """

    __slots__ = ("_allow", "_joined", "_patterns", "harmless")

    def __init__(self, patterns: Iterable[str], allow: Iterable[str] = ()) -> None:
        super().__init__()
        self._patterns = tuple(folded for pattern in patterns if (folded := _fold(pattern)))
        self._joined = tuple(
            joined for pattern in self._patterns if (joined := pattern.translate(_SEPARATORS)) not in ("", pattern)
        )
        self._allow = frozenset(allow)
        self.harmless: set[str] = set()

    def __missing__(self, name: str) -> bool:
        hidden = self._hides(name)
        if len(name) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
                self.harmless.clear()
            self[name] = hidden
            if not hidden:
                self.harmless.add(name)
        return hidden

    def _hides(self, name: str) -> bool:
        folded = _fold(name)
        if folded == _ALWAYS:
            return True
        if name in self._allow:
            return False
        if any(pattern in folded for pattern in self._patterns):
            return True
        joined = folded.translate(_SEPARATORS)
        return any(pattern in joined for pattern in self._joined)


def _fold(name: str) -> str:
    if name.isascii():
        return name.lower()
    folded = normalize("NFKC", normalize("NFKC", name).casefold())
    # Soft hyphens and zero-width characters split a word for us, and for no reader.
    return "".join(character for character in folded if category(character) != "Cf")
