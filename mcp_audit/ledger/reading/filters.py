"""Which records are wanted: by name, outcome, time, credential or text.

Pure. A filter answers at three depths, each final when it says no: about values known from an index, about a line's
bytes, and about its members.
"""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache
from typing import Any

from mcp_audit.ledger.reading.lines import COLUMNS, Facts

__all__ = ["Filter"]

_TIMESTAMP = re.compile(rb'"timestamp":"([^"]*)"')
_OUTCOME = COLUMNS.index("outcome")


class Filter:
    """Which records are wanted. Names are globs (`read_*`), `outcome` and lists of names are separated by commas.

    Args:
        since, until: timestamps as the log writes them; `since` included, `until` excluded.
        grep: regular expression, searched in the line as it stands in the log.
        credential: the session or provider of an issued credential.

    Attributes:
        named: column and test of each name that is asked for, as in `COLUMNS`.
        since, until: as given, empty if not.

    Raises:
        ValueError: `grep` is no regular expression.
    """

    def __init__(
        self,
        *,
        method: str | None = None,
        tool: str | None = None,
        client: str | None = None,
        server: str | None = None,
        outcome: str | None = None,
        credential: str | None = None,
        since: str | None = None,
        until: str | None = None,
        grep: str | None = None,
    ) -> None:
        texts = (method, tool, client, server, outcome)
        self.named = {column: _globs(text) for column, text in enumerate(texts) if text}
        self.since = since or ""
        self.until = until or ""
        self._credential = credential
        self._since = self.since.encode()
        self._until = self.until.encode()
        self._fits = lru_cache(maxsize=4096)(self._compute)
        try:
            self._grep = re.compile(grep) if grep else None
        except re.error as error:
            raise ValueError(f"{grep!r} is no regular expression: {error}") from None

    @property
    def selective(self) -> bool:
        """Whether an index can tell what need not be read."""
        return bool(self.named or self.since or self.until)

    def fits(self, column: int, value: bytes | None) -> bool:
        """Decide about the value of one column of `COLUMNS`; None is a value that is absent."""
        return self._fits(column, value)

    def _compute(self, column: int, value: bytes | None) -> bool:
        wanted = self.named.get(column)
        if wanted is None:
            return True
        return value is not None and wanted.match(value.decode("utf-8", "surrogatepass")) is not None

    def overlaps(self, first: str, last: str) -> bool:
        """Decide about a block of lines by its earliest and latest timestamp."""
        return last >= self.since and (not self.until or first < self.until)

    def may_match(self, raw: bytes) -> bool:
        """Decide what can be decided about a line without parsing it."""
        if self._since or self._until:
            found = _TIMESTAMP.search(raw, 0, 200)
            if found is not None and (found[1] < self._since or (self._until and found[1] >= self._until)):
                return False
        return self._grep is None or self._grep.search(raw.decode("utf-8", "replace")) is not None

    def may_fit(self, known: Facts, outcome: bytes | None) -> bool:
        """Decide about the names of a line that ended with `outcome`."""
        for column in self.named:
            try:
                if not self.fits(column, outcome if column == _OUTCOME else known.values[column]):
                    return False
            except UnicodeDecodeError:
                return True  # such a line cannot be parsed, and the notice about that comes then
        return True

    def matches(self, line: dict[str, Any]) -> bool:
        """Decide about the members of a line for which all the others said yes."""
        for column, wanted in self.named.items():
            value = line.get(COLUMNS[column])
            if not isinstance(value, str) or not wanted.match(value):
                return False
        if self._credential:
            credential = line.get("credential")
            if not isinstance(credential, dict):
                return False
            return self._credential in (credential.get("session_id"), credential.get("provider"))
        return True


def _globs(text: str) -> re.Pattern[str]:
    return re.compile("|".join(translate(part.strip()) for part in text.split(",")))
