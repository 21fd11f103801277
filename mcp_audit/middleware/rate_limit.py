"""How often a client may call a tool: a token bucket for each pair of them.

Pure. Memory is bounded although clients choose the names: a pair that has recovered is forgotten, and while none has,
newcomers share one bucket. So inventing names neither grows the table nor resets a spent bucket.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fnmatch import translate
from hashlib import sha256

from msgspec import Struct

from mcp_audit.errors import ConfigError
from mcp_audit.middleware import ALLOW, Caller, Verdict
from mcp_audit.wire.message import Message

__all__ = ["Limit", "RateLimit"]

_LONGEST_NAME = 128  # characters; a longer name is kept as its hash
_LIMITS_REMEMBERED = 1024
_SWEEP_SECONDS = 1.0
_ROUNDING = 1e-6  # seconds: sums of floats must not deny a call that arrives exactly on time


class Limit(Struct, frozen=True):
    """`burst` calls at once (0: as many as `requests_per_minute`), then `requests_per_minute` on average."""

    requests_per_minute: float
    burst: int = 0

    def __post_init__(self) -> None:
        if not self.requests_per_minute > 0 or self.burst < 0:
            raise ConfigError(
                "middleware.rate_limit",
                f"requests_per_minute must be above 0 and burst 0 or above, got {self.requests_per_minute} and "
                f"{self.burst}; to forbid a tool, deny it in policy.rules",
            )


class _Rate(Struct, frozen=True, eq=False):
    """A limit as the bucket needs it: seconds for one token to return, and for a whole burst less one."""

    number: int
    period: float
    slack: float


class RateLimit:
    """The gate `rate_limit`: deny a `tools/call` whose caller has spent its tokens for that tool.

    Args:
        default: for tools that `tools` does not name.
        tools: name or case-sensitive glob to limit; the first that fits counts.
        max_buckets: how many pairs are told apart at most.
    """

    name = "rate_limit"

    def __init__(self, default: Limit, tools: Mapping[str, Limit] | None = None, max_buckets: int = 10_000) -> None:
        self._default = _rate(0, default)
        self._tools = [
            (re.compile(translate(pattern)).match, _rate(number, limit))
            for number, (pattern, limit) in enumerate((tools or {}).items(), start=1)
        ]
        self._rates: dict[str, _Rate] = {}
        self._max_buckets = max_buckets
        # A bucket is one number, the time at which it will be full again: a full one equals one that never was.
        self._full_at: dict[tuple[str, str], float] = {}
        self._shared: dict[int, float] = {}  # by limit: what newcomers spend while the table is full
        self._next_sweep = -math.inf

    def check(self, message: Message, caller: Caller, now: float) -> Verdict:
        """Take a token for a `tools/call`, or deny it and say when it may run again."""
        if message.method != "tools/call":
            return ALLOW
        tool = message.target or ""
        rate = self._rates.get(tool) or self._rate_of(tool)
        key = (caller.client_id, tool) if len(tool) <= _LONGEST_NAME else (caller.client_id, _digest(tool))
        full_at = self._full_at.get(key)
        own = full_at is not None or self._has_room(now)
        if full_at is None:
            # What a pair spent in the shared bucket stays spent when it gets one of its own.
            full_at = self._shared.get(rate.number, now)
        wait = full_at - now - rate.slack
        if wait > _ROUNDING:
            return self._denied(tool, wait)
        full_at = max(full_at, now) + rate.period
        if own:
            self._full_at[key] = full_at
        else:
            self._shared[rate.number] = full_at
        return ALLOW

    def _denied(self, tool: str, wait: float) -> Verdict:
        seconds = math.ceil(wait * 10) / 10  # rounded up: who waits that long is let through
        name = tool if len(tool) <= _LONGEST_NAME else tool[:_LONGEST_NAME] + "..."
        reason = f"{name} may run again in {seconds:.1f} s"
        return Verdict(False, self.name, reason=reason, kind="rate_limited", recorded=True)

    def _has_room(self, now: float) -> bool:
        """Say whether there is room for one more bucket, after forgetting those that are full again if need be."""
        if len(self._full_at) < self._max_buckets:
            return True
        # Each look walks the whole table, and whoever invents names decides how often we would look.
        if now < self._next_sweep:
            return False
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._shared = {number: full_at for number, full_at in self._shared.items() if full_at > now}
        self._next_sweep = now + _SWEEP_SECONDS
        return len(self._full_at) < self._max_buckets

    def _rate_of(self, tool: str) -> _Rate:
        rate = next((rate for fits, rate in self._tools if fits(tool)), self._default)
        if len(tool) <= _LONGEST_NAME:
            if len(self._rates) >= _LIMITS_REMEMBERED:
                self._rates.clear()
            self._rates[tool] = rate
        return rate


def _rate(number: int, limit: Limit) -> _Rate:
    period = 60.0 / limit.requests_per_minute
    # Without a burst of its own a limit of 0.5 a minute still lets one call through.
    burst = limit.burst or max(1, int(limit.requests_per_minute))
    return _Rate(number, period, (burst - 1) * period)


def _digest(name: str) -> str:
    return sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
