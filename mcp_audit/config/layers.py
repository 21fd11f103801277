"""The sources beside the file: environment variables `MCP_AUDIT__SECTION__KEY` with values in YAML, and flags."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal

from mcp_audit.config.document import Scalar, compose
from mcp_audit.config.model import Config
from mcp_audit.config.reader import Reader
from mcp_audit.config.shapes import ALIASES, Leaf, leaves_of, members_of, paths_of
from mcp_audit.config.spelling import near
from mcp_audit.errors import ConfigError

__all__ = ["Flags", "from_environment", "from_flags", "upstream_must_not_see"]

Flags = Mapping[str, tuple[str, object]]
_PREFIX = "MCP_AUDIT__"


def from_environment(environ: Mapping[str, str]) -> tuple[dict[str, Leaf], list[ConfigError], list[str]]:
    """Return settings, problems and notices. An empty value counts as not set; `''` is an empty text."""
    leaves: dict[str, Leaf] = {}
    problems: list[ConfigError] = []
    known = {_variable(path): path for path in (*members_of(Config), *paths_of(Config), *ALIASES)}
    # Sections before the keys in them, so that the more exact name has the last word.
    for name in sorted(
        (name for name in environ if name.startswith(_PREFIX)), key=lambda name: (name.count("__"), name)
    ):
        path = known.get(name, "")
        reader = Reader(Config, f"env {name}", lines=False)
        if not path:
            guess = near(name, known)
            problem = f"there is no such setting; did you mean {guess}?" if guess else "there is no such setting"
            problems.append(ConfigError("", problem, f"env {name}"))
            continue
        try:
            leaves |= reader.read(compose(environ[name], name), ALIASES.get(path, path))
        except ConfigError as error:
            problems.append(ConfigError(path, error.problem, f"env {name}"))
        problems += reader.problems
    return leaves, problems, _misspelt(environ, known)


def _variable(path: str) -> str:
    return _PREFIX + path.upper().replace(".", "__")


def _misspelt(environ: Mapping[str, str], known: Mapping[str, str]) -> list[str]:
    """Notice the variables that say what ours say, but with single underscores."""
    flat = {name.replace("__", "_"): name for name in known}
    wrong = (name for name in sorted(environ) if name in flat and name not in known)
    return [f"the environment variable {name} is not read; the setting is {flat[name]}" for name in wrong]


def from_flags(flags: Flags) -> tuple[dict[str, Leaf], list[ConfigError]]:
    """Return settings and problems. Keys are dotted; a value is what followed the flag, or what the flag stands for."""
    leaves: dict[str, Leaf] = {}
    problems: list[ConfigError] = []
    texts = {key for key, _, shape in leaves_of(Config) if _is_text(shape.types[0])}
    for key, (flag, value) in flags.items():
        reader = Reader(Config, flag, lines=False)
        # A text on the command line is literal: no YAML, and `null` or nothing at all are texts, too.
        node = Scalar(0, str(value).lower() if isinstance(value, bool) else str(value), quoted=key in texts)
        leaves |= reader.read(node, key)
        problems += [ConfigError("", problem.problem, flag) for problem in reader.problems]
    return leaves, problems


def _is_text(kind: Any) -> bool:
    return kind is str or typing.get_origin(kind) is Literal


def upstream_must_not_see(name: str) -> bool:
    """Tell whether a variable of ours must not reach the upstream; those of the bundled broker are its own."""
    upper = name.upper()  # Windows
    if upper.startswith("MCP_AUDIT_BROKER"):
        return False
    return upper in ("AUDIT_SECRET", "AUDIT_SECRET_FILE") or upper.startswith("MCP_AUDIT")
