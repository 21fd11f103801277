"""What is allowed and still probably not meant: one sentence of advice each. Never decides anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

from mcp_audit.config.inactive import get
from mcp_audit.config.loader import DEFAULT, Loaded
from mcp_audit.config.model import Config, Rule
from mcp_audit.config.references import looks_like_reference
from mcp_audit.config.shapes import leaves_of

__all__ = ["advise"]

_FORMER_NAMES = {"client_id": "claude-desktop", "server_id": "filesystem"}  # the defaults of mcp-audit for Go
_ANY = ("", "*")


def advise(loaded: Loaded) -> Iterator[str]:
    """Yield advice, each sentence with its file and line where there is one."""
    config = loaded.config
    yield from _names(loaded)
    yield from _unreachable(loaded)
    yield from _expansions(loaded)
    yield from _secrets(loaded)
    if config.proxy.shutdown_grace_ms > 2000:
        yield _at(loaded, "proxy.shutdown_grace_ms", "is more than the 2 s that clients wait before they kill us")
    for key in ("proxy.tls", "otel.tls"):
        if get(config, key).insecure_skip_verify:
            yield _at(loaded, f"{key}.insecure_skip_verify", "is true, so anybody on the way can pose as the server")
    for name in config.proxy.forward_headers:
        if name.lower() != "authorization":
            yield _at(
                loaded, "proxy.forward_headers", f"lists {name}, which has no effect: only Authorization needs it"
            )
    rotation = config.audit.rotation
    if rotation.compress != "none" and not (rotation.max_size_bytes or rotation.interval):
        yield _at(
            loaded, "audit.rotation.compress", "has nothing to compress: neither max_size_bytes nor interval is set"
        )
    board, metrics = config.dashboard, config.metrics
    if board.enabled and metrics.enabled and board.port == metrics.port != 0:
        yield _at(loaded, "metrics.port", f"is {metrics.port}, as dashboard.port; one of them will be moved")


def _at(loaded: Loaded, key: str, sentence: str) -> str:
    where = loaded.sources.get(key, DEFAULT)
    return f"{key} {sentence}" if where == DEFAULT else f"{where}: {key} {sentence}"


def _names(loaded: Loaded) -> Iterator[str]:
    for field, former in _FORMER_NAMES.items():
        if getattr(loaded.config.proxy, field) != "auto":
            continue
        if any(getattr(rule, field) == former for rule in loaded.config.policy.rules):
            sentence = (
                f"name {former}, which matches everyone while proxy.{field} is auto; "
                f"set proxy.{field} to a name, or leave {field} out of the rules"
            )
            yield _at(loaded, "policy.rules", sentence)


def _unreachable(loaded: Loaded) -> Iterator[str]:
    closed_by = -1
    for index, rule in enumerate(loaded.config.policy.rules):
        if rule.prompt or rule.resource or rule.method:
            continue
        if closed_by >= 0:
            sentence = f"rule {index} can never decide: rule {closed_by} before it matches every tools/call"
            yield _at(loaded, "policy.rules", sentence)
        elif _matches_all(rule):
            closed_by = index


def _matches_all(rule: Rule) -> bool:
    if rule.mode != "enforce" or rule.args or rule.when:
        return False
    return all(glob in _ANY for glob in (rule.client_id, rule.server_id, rule.tool_name))


def _expansions(loaded: Loaded) -> Iterator[str]:
    for key, _, shape in leaves_of(Config):
        if shape.secret:
            continue
        for text in _texts(get(loaded.config, key)):
            if looks_like_reference(text) and not (key == "proxy.upstream" and loaded.config.proxy.shell):
                yield _at(loaded, key, "has `${`, which is taken literally: only secrets are expanded")
            elif text.startswith("~/") and key != "proxy.upstream":
                yield _at(loaded, key, "begins with ~/, which is taken literally; write the directory out")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, str))


def _secrets(loaded: Loaded) -> Iterator[str]:
    if loaded.secret is None and not loaded.config.audit.secret:
        yield "there is no audit secret: without AUDIT_SECRET or AUDIT_SECRET_FILE lines get neither mac nor signature"
    for key in sorted(loaded.literal):
        in_file = not loaded.sources[key].startswith(("env ", "-"))
        if in_file and loaded.path is not None and os.name == "posix":
            mode = loaded.path.stat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
                yield _at(
                    loaded,
                    key,
                    "is in a file that others can read; run chmod 600 on it, or refer to it by ${file:PATH}",
                )
