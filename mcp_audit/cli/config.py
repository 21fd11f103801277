"""Check, show or explain the configuration.

  check [PATH]   every problem with file and line, then advice; exit 0 valid, 2 invalid
  show           the settings in force and where each one comes from, secrets hidden; --json for scripts
  example        config.example.yaml: every setting with its default and what it means
  schema         JSON Schema, for editors and CI

examples:
  mcp-audit config check ./config.yaml
  mcp-audit config show --port 4500
  mcp-audit config example > config.yaml
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mcp_audit.config import Config, Loaded, load
from mcp_audit.config.advice import advise
from mcp_audit.config.flags import add_flags, read_flags
from mcp_audit.config.inactive import UNUSED, get
from mcp_audit.config.shapes import Shape, leaves_of
from mcp_audit.errors import ConfigError

__all__ = ["add_arguments", "example_text", "run"]

HIDDEN = "<hidden>"
_SOURCE_COLUMN = 44


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be asked."""
    actions = parser.add_subparsers(dest="action", metavar="check|show|example|schema", required=True)
    check = actions.add_parser("check", help="say what is wrong with the configuration")
    check.add_argument("path", nargs="?", metavar="PATH", help="the file (--config, MCP_AUDIT_CONFIG, ./config.yaml)")
    show = actions.add_parser("show", help="print the settings in force")
    show.add_argument("--json", action="store_true", help="one JSON object")
    for action in (check, show):
        action.add_argument("--config", metavar="PATH", help="the configuration file; `none` reads none")
        add_flags(action)
    actions.add_parser("example", help="print every setting with its default")
    actions.add_parser("schema", help="print the JSON Schema")


def run(args: argparse.Namespace) -> int:
    """Do what `args.action` says; 0 done, 2 the configuration is invalid."""
    if args.action == "example":
        print(example_text(), end="")
        return 0
    if args.action == "schema":
        from mcp_audit.config.schema import json_schema

        print(json.dumps(json_schema(), indent=2))
        return 0
    return _check(args) if args.action == "check" else _show(args)


def example_text() -> str:
    """Return config.example.yaml: from the wheel, or from the top of a checkout."""
    folder = Path(__file__).resolve().parents[1]
    packed = folder / "config" / "config.example.yaml"
    path = packed if packed.exists() else folder.parent / "config.example.yaml"
    return path.read_text(encoding="utf-8")


def _load(args: argparse.Namespace, config: str | None) -> Loaded:
    return load(read_flags(args), os.environ, Path.cwd(), config=config, to_run=False)


def _check(args: argparse.Namespace) -> int:
    if args.path is not None and args.config is not None:
        print("mcp-audit config check: the file is given twice; drop PATH or --config", file=sys.stderr)
        return 2
    try:
        loaded = _load(args, args.config if args.path is None else args.path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        count = len(error.problems)
        print(f"invalid: {count} problem{'s' if count > 1 else ''}", file=sys.stderr)
        return 2
    for sentence in (*loaded.notices, *advise(loaded)):
        print(f"note: {sentence}")
    print(f"{_name(loaded)}: valid")
    return 0


def _name(loaded: Loaded) -> str:
    """Name what was read."""
    if loaded.path is None:
        return "no configuration file, only defaults and environment"
    return os.path.relpath(loaded.path) if loaded.path.is_relative_to(Path.cwd()) else str(loaded.path)


def _show(args: argparse.Namespace) -> int:
    loaded = _load(args, args.config)
    if args.json:
        print(json.dumps(_as_json(loaded), indent=2))
        return 0
    print(f"# {_name(loaded)}" + (f", sha256 {loaded.sha256}" if loaded.sha256 else ""))
    for line in _lines(loaded):
        print(line)
    for sentence in loaded.notices:
        print(f"# note: {sentence}")
    return 0


def _as_json(loaded: Loaded) -> dict[str, Any]:
    settings = {
        key: {"value": _shown(loaded, key, shape), "source": loaded.sources[key]} for key, _, shape in leaves_of(Config)
    }
    return {
        "path": None if loaded.path is None else str(loaded.path),
        "sha256": loaded.sha256 or None,
        "settings": settings,
        "not_yet_active": {found.key: found.row.feature for found in loaded.inactive},
        "unused": dict(UNUSED),
        "notices": list(loaded.notices),
    }


def _lines(loaded: Loaded) -> Iterator[str]:
    """Yield the settings as YAML that can be loaded again, but for hidden values."""
    waiting = {found.key: found.row.feature for found in loaded.inactive}
    above: list[str] = []
    for key, _, shape in leaves_of(Config):
        *sections, name = key.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(sections, above, strict=False)) if a != b), None)
        start = min(len(sections), len(above)) if shared is None else shared
        for depth in range(start, len(sections)):
            yield f"{'  ' * depth}{sections[depth]}:"
        above = sections
        value = json.dumps(_shown(loaded, key, shape), ensure_ascii=False)
        remark = loaded.sources[key]
        if loaded.path is not None and remark.startswith(str(loaded.path)):
            remark = remark.removeprefix(f"{loaded.path.parent}{os.sep}")
        if key in waiting:
            remark += f"; not yet active: {waiting[key]}"
        if key in UNUSED:
            remark += f"; {UNUSED[key]}"
        yield f"{'  ' * len(sections)}{name}: {value}".ljust(_SOURCE_COLUMN) + f"  # {remark}"


def _shown(loaded: Loaded, key: str, shape: Shape) -> Any:
    """Return a value as plain data, hidden if it is a secret and there is one."""
    value = msgspec.to_builtins(get(loaded.config, key))
    if not shape.secret:
        return value
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return HIDDEN if value or (key == "audit.secret" and loaded.secret is not None) else ""
