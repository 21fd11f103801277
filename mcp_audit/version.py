"""What this build is: version, commit and time. Reads the package's own metadata and nothing else."""

from __future__ import annotations

from mcp_audit import __version__

__all__ = ["software", "version_line"]


def software() -> str:
    """Return how the ledger names this program."""
    return f"mcp-audit {__version__}"


def version_line() -> str:
    """Return `mcp-audit <version> (commit <sha>, built <iso8601>)`; `unknown` where the build did not say."""
    from importlib.resources import files

    try:
        lines = files("mcp_audit").joinpath("_build.txt").read_text().split()
        commit, built = lines
    except (OSError, ValueError):
        commit = built = "unknown"
    return f"mcp-audit {__version__} (commit {commit}, built {built})"
