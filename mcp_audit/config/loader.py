"""Flags, environment, file and defaults -> one `Config` that knows where each value came from.

Promise: everything that is wrong is said at once, with file and line; a setting that does nothing yet is never ignored
in silence. Environment and directory are arguments; nothing global is read and nothing is written.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mcp_audit.config.contradictions import Given, contradictions
from mcp_audit.config.files import find, named_file
from mcp_audit.config.inactive import NOTICED, REFUSED, Found, get, inactive_in
from mcp_audit.config.layers import Flags, from_environment, from_flags, upstream_must_not_see
from mcp_audit.config.model import Config
from mcp_audit.config.reader import Reader
from mcp_audit.config.references import (
    MIN_SECRET_BYTES,
    Unresolved,
    audit_secret,
    env_names,
    expand,
    looks_like_reference,
    too_short,
)
from mcp_audit.config.shapes import Leaf, leaves_of
from mcp_audit.errors import ConfigError, ConfigErrors

__all__ = ["DEFAULT", "SECRET_KEYS", "Loaded", "load"]

DEFAULT = "default"
SECRET_KEYS = "audit.secret", "dashboard.auth.token", "otel.headers", "proxy.bridge.headers"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective configuration.

    Attributes:
        config: every value; `audit.secret` is empty in it, see `secret`.
        sources: dotted key -> `default`, `FILE:LINE`, `env NAME` or the flag.
        notices: sentences to print before the first message.
        path: the file that was read, None without one; `sha256` of its bytes in hex, empty without one;
            `policy_sha256` likewise of `policy.file`.
        secret: the audit secret, None without one.
        secret_env_names: variables that must not be in the upstream's environment.
        inactive: settings whose value does nothing yet.
        literal: keys of secrets whose value is written out and not referred to.
    """

    config: Config
    sources: Mapping[str, str]
    notices: tuple[str, ...]
    path: Path | None
    sha256: str
    policy_sha256: str
    secret: bytes | None = field(repr=False)
    secret_env_names: frozenset[str]
    inactive: tuple[Found, ...]
    literal: frozenset[str]


def load(
    flags: Flags,
    environ: Mapping[str, str],
    cwd: Path,
    argv: Sequence[str] | None = None,
    *,
    config: str | None = None,
    to_run: bool = True,
) -> Loaded:
    """Return the effective configuration.

    Args:
        flags: dotted key -> (flag, value); the key `log` is the path of whichever ledger is in use.
        environ: the environment.
        cwd: what relative paths are relative to.
        argv: the upstream command after `--`, None without one.
        config: what followed `--config`: a path, or `none`.
        to_run: also demand what running needs: an upstream, secrets that can be read, features that exist.

    Raises:
        ConfigError: one problem; ConfigErrors: several.
    """
    return _Loading(environ, cwd, to_run).load(flags, argv, config)


class _Loading:
    """One call of `load`: its inputs, and the problems and notices found so far."""

    def __init__(self, environ: Mapping[str, str], cwd: Path, to_run: bool) -> None:
        self._environ = environ
        self._cwd = cwd
        self._to_run = to_run
        self._problems: list[ConfigError] = []
        self._notices: list[str] = []
        self._leaves: dict[str, Leaf] = {}
        self._literal: set[str] = set()
        self._hidden = {name for name in environ if upstream_must_not_see(name)} | {"AUDIT_SECRET", "AUDIT_SECRET_FILE"}

    def load(self, flags: Flags, argv: Sequence[str] | None, named: str | None) -> Loaded:
        file, notices = find(None if named is None else ("--config", named), self._environ, self._cwd)
        self._notices += notices
        if file is not None:
            reader = Reader(Config, file.name, hint=file.hint)
            self._take(reader.read(file.root), reader.problems)
        leaves, problems, notices = from_environment(self._environ)
        self._take(leaves, problems)
        self._notices += notices
        self._take(*from_flags({key: flag for key, flag in flags.items() if key != "log"}))
        if "log" in flags:
            storage = self._leaves.get("audit.storage")
            key = "audit.sqlite_path" if storage is not None and storage.value == "sqlite" else "audit.path"
            self._take(*from_flags({key: flags["log"]}))
        policy = self._take_policy_file()
        secret = self._resolve_secrets()
        config = self._build()
        sources = {key: DEFAULT for key, _, _ in leaves_of(Config)} | {
            key: at.where for key, at in self._leaves.items()
        }
        self._judge(config, Given(sources, argv))
        inactive = inactive_in(config, sources)
        self._tell(config, inactive, sources)
        self._raise()
        return Loaded(
            config=config,
            sources=sources,
            notices=tuple(self._notices),
            path=file.path if file else None,
            sha256=hashlib.sha256(file.raw).hexdigest() if file else "",
            policy_sha256=hashlib.sha256(policy).hexdigest() if policy else "",
            secret=secret,
            secret_env_names=frozenset(self._hidden),
            inactive=inactive,
            literal=frozenset(self._literal),
        )

    def _take_policy_file(self) -> bytes:
        """Lay the keys of `policy.file` over the other sources, and return its bytes; a key in both is a problem."""
        named = self._leaves.get("policy.file")
        if named is None or not named.value:
            return b""
        file, notices = named_file("policy.file", str(named.value), self._cwd)
        self._notices += notices
        reader = Reader(Config, file.name)
        leaves = reader.read(file.root, "policy")
        self._problems += reader.problems
        for key, leaf in leaves.items():
            earlier = self._leaves.get(key)
            if key == "policy.file":
                self._problems.append(ConfigError(key, "a policy file cannot name another one; remove it", leaf.where))
            elif earlier is not None and earlier.where != named.where:
                problem = f"is given twice, the other time by {earlier.where}; keep one"
                self._problems.append(ConfigError(key, problem, leaf.where))
            else:
                self._leaves[key] = leaf
        return file.raw

    def _take(self, leaves: Mapping[str, Leaf], problems: Sequence[ConfigError]) -> None:
        """Lay one source over those before it. What the source names as a secret's origin is remembered regardless."""
        for key in SECRET_KEYS:
            if key in leaves:
                for text in _texts(leaves[key].value):
                    self._hidden |= env_names(text)
        self._leaves.update(leaves)
        self._problems += problems

    def _resolve_secrets(self) -> bytes | None:
        """Put what references name into the values, and return the audit secret."""
        secret = None
        try:
            given = audit_secret(self._environ, self._cwd)
        except ConfigError as error:
            self._problems.append(error)
        else:
            if given is not None:
                secret = given[0]
                self._leaves["audit.secret"] = Leaf("", f"env {given[1]}", {})
        for key in SECRET_KEYS:
            if key in self._leaves and self._expand(key) and key == "audit.secret":
                secret = self._take_out_secret() or secret
        return secret

    def _take_out_secret(self) -> bytes | None:
        """Return the audit secret the settings hold, and leave no copy in them."""
        leaf = self._leaves["audit.secret"]
        if not leaf.value:
            return None
        secret: bytes = leaf.value.encode("utf-8", "surrogateescape")
        self._leaves["audit.secret"] = Leaf("", leaf.where, {})
        if len(secret) < MIN_SECRET_BYTES:
            self._problems.append(ConfigError("audit.secret", too_short(len(secret)), leaf.where))
        return secret

    def _expand(self, key: str) -> bool:
        """Replace the references in one setting; False if one leads nowhere, which then stays as it is."""
        value, where, _ = self._leaves[key]
        texts = list(_texts(value))
        if any(text and not looks_like_reference(text) for text in texts):
            self._literal.add(key)
        try:
            if isinstance(value, dict):
                value = {name: expand(text, self._environ, self._cwd) for name, text in value.items()}
            else:
                value = expand(value, self._environ, self._cwd)
        except Unresolved as unresolved:
            # Whoever only checks a file, in CI say, has no reason to hold its secrets.
            if self._to_run:
                self._problems.append(ConfigError(key, str(unresolved), where))
            else:
                self._notices.append(f"{where}: {key} {unresolved}")
            return False
        self._leaves[key] = Leaf(value, where, {})
        return True

    def _build(self) -> Config:
        nested: dict[str, Any] = {}
        for key, leaf in self._leaves.items():
            *path, name = key.split(".")
            at = nested
            for section in path:
                at = at.setdefault(section, {})
            at[name] = leaf.value
        return msgspec.convert(nested, Config)

    def _judge(self, config: Config, given: Given) -> None:
        """Note contradictions, but for keys that are in error already."""
        failed = [problem.key for problem in self._problems if problem.key]
        for keys, problem in contradictions(config, given):
            leaves = [key.partition("[")[0] for key in keys]
            if not any(_touches(wrong, leaf) for wrong in failed for leaf in leaves):
                where = next((at for at in map(self._where, keys) if at), "")
                self._problems.append(ConfigError(keys[0], problem, where))
        if self._to_run and given.argv is None and not config.proxy.upstream and "proxy.upstream" not in failed:
            what = "put the server after two dashes, `mcp-audit -- COMMAND ARG...`"
            if config.proxy.transport == "http":
                what = "give the server's URL with --upstream"
            problem = f"there is no upstream; {what}, or set this key"
            self._problems.append(ConfigError("proxy.upstream", problem))

    def _where(self, key: str) -> str:
        leaf = self._leaves.get(key.partition("[")[0])
        return leaf.parts.get(key, leaf.where) if leaf else ""

    def _tell(self, config: Config, inactive: Sequence[Found], sources: Mapping[str, str]) -> None:
        """Refuse or notice what does nothing yet, and notice rules that nobody enforces."""
        waiting: dict[str, list[str]] = {}
        failed = {problem.key for problem in self._problems}
        for key, row, asked in inactive:
            if not asked or key in failed:
                continue
            if row.level == REFUSED and self._to_run:
                value = get(config, key)
                shown = f"{value} " if isinstance(value, str) and key != "proxy.upstream" else ""
                problem = f"{shown}is not available in this version yet ({row.feature}); remove it"
                self._problems.append(ConfigError(key, problem, sources[key]))
            elif row.level in (REFUSED, NOTICED):
                waiting.setdefault(row.feature, []).append(f"{key} ({sources[key]})")
        for feature, keys in waiting.items():
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            self._notices.append(f"not available in this version yet: {feature}; without effect: {keys[0]}{more}")
        if config.policy.rules and not config.policy.enabled:
            where = sources["policy.rules"]
            self._notices.append(f"{where}: policy.rules are not enforced, because policy.enabled is false")

    def _raise(self) -> None:
        if len(self._problems) > 1:
            raise ConfigErrors(self._problems)
        if self._problems:
            raise self._problems[0]


def _touches(wrong: str, leaf: str) -> bool:
    """Tell whether a problem with the key `wrong` is one with the setting `leaf`."""
    return wrong == leaf or wrong.startswith((leaf + ".", leaf + "[")) or leaf.startswith(wrong + ".")


def _texts(value: Any) -> typing.Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value.values()
