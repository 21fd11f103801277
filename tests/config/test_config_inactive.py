"""What does nothing yet is refused, noticed or listed, never ignored in silence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcp_audit.config import Config, Loaded
from mcp_audit.config.inactive import INACTIVE, LISTED, NOTICED, REFUSED, UNUSED, get
from mcp_audit.config.shapes import leaves_of, paths_of

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def test_the_table_names_settings_that_exist() -> None:
    """A row for a key that is gone would hide nothing and help nobody."""
    known = {*paths_of(Config), *(key.partition(".")[0] for key, _, _ in leaves_of(Config))}

    assert {row.key for row in INACTIVE} | set(UNUSED) <= known
    assert {row.switch for row in INACTIVE if row.switch} <= known
    assert {row.level for row in INACTIVE} <= {REFUSED, NOTICED, LISTED}


def test_the_defaults_start(loaded: Load) -> None:
    """No row refuses what nobody set, or says a word about it."""
    one = loaded(argv=["server"], to_run=True)

    assert one.notices == ()
    assert all(not found.asked for found in one.inactive)


# Rows of the table as a user meets them: the refused ones by what has to be written to be refused.
_REFUSABLE = {
    "audit.durability": ("audit: {durability: fsync}", ["audit.durability"]),
    "middleware.gates": ("middleware: {gates: [x]}", ["middleware.gates"]),
    "middleware.processors": ("middleware: {processors: [x]}", ["middleware.processors"]),
    "policy.rules": ("policy: {enabled: true, rules: [{action: deny, when: 'true'}]}", ["policy.rules"]),
    "policy.on_tool_change": ("policy: {on_tool_change: deny}", ["policy.on_tool_change"]),
}


@pytest.mark.parametrize("key", sorted({row.key for row in INACTIVE if row.level == REFUSED}))
def test_what_would_leave_something_open_is_refused(problems: Problems, loaded: Load, key: str) -> None:
    """To run, that is; a check accepts it, with a note."""
    text, keys = _REFUSABLE[key]
    argv = None if "upstream" in text else ["server"]

    found = problems(text, argv=argv, to_run=True)

    assert [problem.split(": ")[1] for problem in found] == keys
    assert all("is not available in this version yet" in problem for problem in found)
    assert any("not available in this version yet" in notice for notice in loaded(text).notices)


@pytest.mark.parametrize(
    "more",
    ["method: x", "prompt: x", "resource: x", "args: {/a: {exists: true}}", "when: 'true'", "mode: shadow"],
)
def test_half_a_rule_is_not_enforced(problems: Problems, loaded: Load, more: str) -> None:
    """While the gate knows only names, a rule that says more is refused; with the policy off it may stand."""
    rule = f"rules: [{{action: allow, {more}}}]"

    (only,) = problems(f"policy: {{enabled: true, {rule}}}", argv=["server"], to_run=True)

    assert only.startswith("c.yaml:1: policy.rules: is not available in this version yet (rules with method,")
    assert loaded(f"policy: {{{rule}}}", argv=["server"], to_run=True).config.policy.rules


_NOTICEABLE = {
    "proxy.workers": "proxy: {transport: http, upstream: 'http://localhost:1', workers: 2}",
    "policy.deny_as": "policy: {deny_as: tool_error}",
    "policy.filter_lists": "policy: {filter_lists: true}",
    "policy.on_tool_change": "policy: {on_tool_change: warn}",
    "dashboard": "dashboard: {port: 1}",
    "metrics": "metrics: {port: 1}",
    "otel": "otel: {enabled: true}",
    "sinks": "sinks: [x]",
}


@pytest.mark.parametrize("key", sorted({row.key for row in INACTIVE if row.level == NOTICED}))
def test_what_is_less_than_asked_for_is_noticed(loaded: Load, key: str) -> None:
    """One sentence with feature, key and place; the proxy runs."""
    feature = next(row.feature for row in INACTIVE if row.key == key and row.level == NOTICED)

    argv = None if "upstream" in _NOTICEABLE[key] else ["server"]

    (notice,) = loaded(_NOTICEABLE[key], argv=argv, to_run=True).notices

    assert notice.startswith(f"not available in this version yet: {feature}; without effect: {key}")
    assert notice.endswith("(c.yaml:1)")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("dashboard: {enabled: false, port: 1}", id="dashboard-off"),
        pytest.param("metrics: {enabled: false, port: 1}", id="metrics-off"),
        pytest.param("otel: {enabled: false, endpoint: 'http://h'}", id="otel-off"),
        pytest.param("audit: {rotation: {interval: '', max_files: 0, compress: none}}", id="rotation-off"),
        pytest.param("policy: {filter_lists: false, file: '', deny_as: error, on_tool_change: record}", id="policy"),
        pytest.param("proxy: {port: 1, workers: 2, tls: {ca_file: x}}", id="http-settings-in-stdio-mode"),
        pytest.param("audit: {durability: write, on_failure: shutdown}", id="active"),
        pytest.param("middleware: {gates: [], processors: []}\nsinks: []", id="empty-lists"),
    ],
)
def test_what_is_switched_off_is_not_missed(loaded: Load, text: str) -> None:
    """Nobody waits for it, so nothing is said."""
    assert loaded(text, argv=["server"], to_run=True).notices == ()


def test_several_keys_of_one_feature_are_one_sentence(loaded: Load) -> None:
    """A configuration with every key of the Go program must not print thirty lines into a client's log."""
    text = "dashboard:\n  port: 1\n  bind_address: localhost\n  auth: {token: x}\n"

    (notice,) = loaded(text).notices

    assert notice.endswith("the dashboard; without effect: dashboard.bind_address (c.yaml:3) and 2 more")


def test_rules_that_nobody_enforces_are_noticed(loaded: Load) -> None:
    """The most expensive misunderstanding of a policy file."""
    rules = "  rules: [{action: deny}]\n"

    assert loaded("policy:\n" + rules).notices == (
        "c.yaml:2: policy.rules are not enforced, because policy.enabled is false",
    )
    assert loaded("policy:\n  enabled: true\n" + rules).notices == ()


def test_get_reaches_every_setting() -> None:
    """Also the one whose name Python reserves."""
    assert get(Config(), "audit.async.queue_size") == 4096
    for key, _, _ in leaves_of(Config):
        get(Config(), key)
