"""Where the product keeps files of its own, per platform. Pure: environment and platform are arguments."""

from __future__ import annotations

import ntpath
from collections.abc import Mapping
from pathlib import Path

__all__ = ["state_directory"]


def state_directory(environ: Mapping[str, str], platform: str) -> Path:
    """Return the folder for ledgers nobody placed; it may not exist yet (create it 0700).

    Linux: `$XDG_STATE_HOME/mcp-audit`; macOS: `~/Library/Application Support/mcp-audit`; Windows:
    `%LOCALAPPDATA%\\mcp-audit`. Source: XDG Base Directory Specification.
    """
    home = environ.get("USERPROFILE" if platform == "win32" else "HOME") or str(Path.home())
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or ntpath.join(home, "AppData", "Local")) / "mcp-audit"
    if platform == "darwin":
        return Path(home) / "Library" / "Application Support" / "mcp-audit"
    state = environ.get("XDG_STATE_HOME", "")
    # A relative path there is invalid and to be ignored.
    return (Path(state) if state.startswith("/") else Path(home) / ".local" / "state") / "mcp-audit"
