"""Which configuration file there is. Opens at most one, and never one that belongs to another program.

A file that was named is ours. The one of the current directory is only for starting by hand: it must look like ours,
and nobody else may be able to write it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mcp_audit.config.document import Mapping as MappingNode
from mcp_audit.config.document import Node, Scalar, compose, decode
from mcp_audit.config.model import Config
from mcp_audit.config.shapes import members_of
from mcp_audit.config.spelling import near
from mcp_audit.errors import ConfigError

__all__ = ["HERE", "ConfigFile", "find", "named_file"]

HERE = "config.yaml"
_MAX_BYTES = 1 << 20
_NOT_OURS = "; if it belongs to another program, pass `--config none`"
_TOP_KEY = re.compile(r"""^[{\s]{0,2}["']?([A-Za-z][\w-]*)["']?\s*:""", re.MULTILINE)


class ConfigFile(NamedTuple):
    """A file that was read: its name in sentences, where it is, its bytes, its tree; `hint` if it was not named."""

    name: str
    path: Path
    raw: bytes
    root: Node | None
    hint: str = ""


def find(named: tuple[str, str] | None, environ: Mapping[str, str], cwd: Path) -> tuple[ConfigFile | None, list[str]]:
    """Return the configuration file, None if there is none, and notices for the user.

    Args:
        named: flag and value of `--config`; else MCP_AUDIT_CONFIG decides, else what is in `cwd`.

    Raises:
        ConfigError: a named file cannot be read, is not one YAML document, or may not be trusted.
    """
    if named is None and environ.get("MCP_AUDIT_CONFIG"):
        named = ("env MCP_AUDIT_CONFIG", environ["MCP_AUDIT_CONFIG"])
    if named is not None:
        return (None, []) if named[1] == "none" else named_file(*named, cwd)
    try:
        return _here(cwd)
    except ConfigError as error:
        raise ConfigError(error.key, error.problem + _NOT_OURS, error.where) from None


def named_file(flag: str, name: str, cwd: Path) -> tuple[ConfigFile, list[str]]:
    """Return a file that a setting or a flag names, and notices for the user.

    Raises:
        ConfigError: it cannot be read, or is not one YAML document.
    """
    if not name:
        raise ConfigError("", "needs a path, or `none`", flag)
    raw, open_to_all = _read(cwd / name, name)
    if not raw.strip():
        raise ConfigError("", "the file is empty; write at least one key, or pass `--config none`", name)
    root = compose(decode(raw, name), name)
    notices = [f"{name} can be changed by every user of this machine; run chmod o-w on it"] if open_to_all else []
    if root is None:
        notices.append(f"{name} holds only comments, so every setting has its default")
    return ConfigFile(name, cwd / name, raw, root), notices


def _here(cwd: Path) -> tuple[ConfigFile | None, list[str]]:
    path = cwd / HERE
    if not path.is_file():
        return None, []
    raw, open_to_all = _read(path, HERE)
    try:
        text = decode(raw, HERE)
    except ConfigError:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1", "replace")
    try:
        root = compose(decode(raw, HERE), HERE)
        ours = _is_ours(_top_keys(root))
    except ConfigError:
        # What cannot be read may still be meant for us, and then leaving it alone would drop a policy.
        if not _is_ours(_TOP_KEY.findall(text)):
            return None, [_left_alone("cannot be read as YAML and")]
        raise
    if not ours:
        return None, [_left_alone("")]
    if open_to_all:
        problem = "every user of this machine can change it, so it is not trusted; run chmod o-w on it"
        raise ConfigError("", problem, HERE)
    return ConfigFile(HERE, path, raw, root, _NOT_OURS), []


def _left_alone(why: str) -> str:
    sections = ", ".join(members_of(Config))
    return f"{HERE} {why + ' ' if why else ''}has no section of mcp-audit ({sections}), so it was left alone"


def _top_keys(root: Node | None) -> list[str]:
    pairs = root.pairs if isinstance(root, MappingNode) else []
    return [key.text for key, _ in pairs if isinstance(key, Scalar)]


def _is_ours(keys: list[str]) -> bool:
    return any(near(key, members_of(Config)) for key in keys)


def _read(path: Path, name: str) -> tuple[bytes, bool]:
    """Return the bytes of a file and whether everybody may write it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError("", f"cannot be read ({error.strerror or error})", name) from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError("", f"is larger than {_MAX_BYTES} bytes, which no configuration is", name)
    return raw, os.name == "posix" and stat.S_ISREG(mode) and bool(mode & stat.S_IWOTH)
