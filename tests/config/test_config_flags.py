"""The flags that are settings."""

from __future__ import annotations

import argparse

from mcp_audit.config import Config
from mcp_audit.config.flags import FLAGS, add_flags, read_flags
from mcp_audit.config.shapes import leaves_of


def parsed(*words: str) -> dict[str, tuple[str, object]]:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return dict(read_flags(parser.parse_args(words)))


def test_every_flag_sets_a_setting() -> None:
    """`log` apart, which follows the storage."""
    known = {key for key, _, _ in leaves_of(Config)} | {"log"}

    assert {key for flag in FLAGS for key in flag.keys} <= known


def test_what_is_not_given_is_not_set() -> None:
    """So that environment and file have their say."""
    assert parsed() == {}


def test_what_is_given_is_set() -> None:
    """With the flag's name, which sentences and `config show` repeat."""
    words = "--port 1 --no-dashboard --no-metrics --no-sign --policy p.yaml --log l --upstream-timeout 0"

    assert parsed(*words.split()) == {
        "proxy.port": ("--port", "1"),
        "dashboard.enabled": ("--no-dashboard", False),
        "metrics.enabled": ("--no-metrics", False),
        "audit.sign": ("--no-sign", False),
        "policy.file": ("--policy", "p.yaml"),
        "policy.enabled": ("--policy", True),
        "log": ("--log", "l"),
        "proxy.upstream_timeout_ms": ("--upstream-timeout", "0"),
    }


def test_the_flags_of_the_go_program_are_all_there() -> None:
    """Its command lines work here; --config and --version belong to the commands."""
    names = "transport upstream port upstream-timeout storage no-dashboard no-metrics log-level"

    assert {f"--{name}" for name in names.split()} <= {flag.name for flag in FLAGS}
