"""The configuration: every key, default, unit and rule, and the one way to get a `Config`.

`load` reads; `model` says what there is. A sentence about a mistake gives file, line, dotted key, what was found and
what is allowed.
"""

from __future__ import annotations

from mcp_audit.config.loader import Loaded, load
from mcp_audit.config.model import Config

__all__ = ["Config", "Loaded", "load"]
