"""Which calls are allowed: ordered rules, the first that matches decides.

Pure. Judges `tools/call` only, request or notification alike, and only by who calls what; it never looks at arguments.
A verdict depends on nothing but the caller and the tool, so it is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import translate
from heapq import merge
from typing import Literal

from msgspec import Struct

from mcp_audit.middleware import ALLOW, Caller, Verdict
from mcp_audit.wire.message import Message

__all__ = ["Policy", "Rule"]

# A rule written for the Go seed names these, which is what it called everyone; see `Policy`.
_SEED_CLIENT = "claude-desktop"
_SEED_SERVER = "filesystem"
_REMEMBERED = 1024  # verdicts; a client that invents tool names costs work, not memory
_LONGEST_REMEMBERED = 256  # characters of a tool name

_Fits = Callable[[str, bool], bool]


class Rule(Struct, frozen=True):
    """Allow or deny; each of the three names is anything (empty or `*`), exact, or a case-sensitive glob."""

    action: Literal["allow", "deny"]
    client_id: str = ""
    server_id: str = ""
    tool_name: str = ""
    reason: str = ""


class _Compiled(Struct, frozen=True):
    index: int
    fits_client: _Fits
    fits_server: _Fits
    fits_tool: _Fits
    verdict: Verdict


class Policy:
    """The gate `policy`.

    While a name is merely learned, a rule that names the seed's `claude-desktop` or `filesystem` matches everyone, as
    it did there: a policy written for the seed keeps its teeth.

    Args:
        rules: in order of precedence.
        default_action: what happens to a call that no rule matches: `allow` or `deny`.
    """

    name = "policy"

    def __init__(self, rules: Iterable[Rule], default_action: Literal["allow", "deny"]) -> None:
        reason = "" if default_action == "allow" else "no rule allows it and policy.default_action is deny"
        self._default = Verdict(default_action == "allow", self.name, -1, reason, recorded=True)
        self._exact: dict[str, list[_Compiled]] = {}
        self._others: list[_Compiled] = []  # rules for any tool, or for a glob
        self._remembered: dict[tuple[str, Caller], Verdict] = {}
        for index, rule in enumerate(rules):
            compiled = self._compile(index, rule)
            if _is_glob(rule.tool_name) or not rule.tool_name:
                self._others.append(compiled)
            else:
                self._exact.setdefault(rule.tool_name, []).append(compiled)

    def check(self, message: Message, caller: Caller, now: float) -> Verdict:
        """Return the recorded verdict about a `tools/call`, `ALLOW` about anything else."""
        if message.method != "tools/call":
            return ALLOW
        tool = message.target or ""
        key = (tool, caller)
        verdict = self._remembered.get(key)
        if verdict is None:
            verdict = self._decide(tool, caller)
            if len(tool) <= _LONGEST_REMEMBERED:
                if len(self._remembered) >= _REMEMBERED:
                    self._remembered.clear()
                self._remembered[key] = verdict
        return verdict

    def _decide(self, tool: str, caller: Caller) -> Verdict:
        exact: Sequence[_Compiled] = self._exact.get(tool, ())
        candidates = merge(exact, self._others, key=_index) if exact else self._others
        for rule in candidates:
            if (
                rule.fits_tool(tool, False)
                and rule.fits_client(caller.client_id, caller.client_learned)
                and rule.fits_server(caller.server_id, caller.server_learned)
            ):
                return rule.verdict
        return self._default

    def _compile(self, index: int, rule: Rule) -> _Compiled:
        return _Compiled(
            index,
            _matcher(rule.client_id, _SEED_CLIENT),
            _matcher(rule.server_id, _SEED_SERVER),
            _matcher(rule.tool_name, ""),
            # Anything but a plain allow denies: a misspelt action must not open the gate.
            Verdict(rule.action == "allow", self.name, index, rule.reason, recorded=True),
        )


def _index(rule: _Compiled) -> int:
    return rule.index


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _matcher(pattern: str, seed_name: str) -> _Fits:
    """Return whether a name fits; its second argument says that the name is only learned."""
    if pattern in ("", "*"):
        return lambda name, learned: True
    if _is_glob(pattern):
        fits = re.compile(translate(pattern)).match
        return lambda name, learned: fits(name) is not None
    if pattern == seed_name:
        return lambda name, learned: learned or name == pattern
    return lambda name, learned: name == pattern
