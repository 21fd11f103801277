"""The gate `policy`: first match wins, however many rules there are."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_audit.middleware import ALLOW, Caller
from mcp_audit.middleware.policy import Policy, Rule
from mcp_audit.wire.message import Direction, Kind, Message

CONFIGURED = Caller("claude", "files")


def call(tool: str | None, kind: Kind = Kind.REQUEST, method: str = "tools/call") -> Message:
    return Message(b"{}", Direction.TO_SERVER, kind, method=method, target=tool)


@pytest.mark.parametrize(
    ("rule", "tool", "caller", "matches"),
    [
        pytest.param(Rule("deny"), "any", CONFIGURED, True, id="empty-is-anything"),
        pytest.param(Rule("deny", "*", "*", "*"), "any", CONFIGURED, True, id="star-is-anything"),
        pytest.param(Rule("deny", tool_name="rm"), "rm", CONFIGURED, True, id="exact"),
        pytest.param(Rule("deny", tool_name="rm"), "Rm", CONFIGURED, False, id="case-counts"),
        pytest.param(Rule("deny", tool_name="rm"), "rmdir", CONFIGURED, False, id="exact-is-whole"),
        pytest.param(Rule("deny", tool_name="rm*"), "rmdir", CONFIGURED, True, id="glob"),
        pytest.param(Rule("deny", tool_name="RM*"), "rmdir", CONFIGURED, False, id="glob-case-counts"),
        pytest.param(Rule("deny", tool_name="r?"), "rm", CONFIGURED, True, id="question-mark"),
        pytest.param(Rule("deny", tool_name="[!r]m"), "rm", CONFIGURED, False, id="negated-class"),
        pytest.param(Rule("deny", tool_name="[rs]m"), "sm", CONFIGURED, True, id="class"),
        pytest.param(Rule("deny", tool_name="a*"), "a\nb", CONFIGURED, True, id="star-crosses-lines"),
        pytest.param(Rule("deny", tool_name="rm"), None, CONFIGURED, False, id="call-without-tool"),
        pytest.param(Rule("deny", "cla*", "files", "rm"), "rm", CONFIGURED, True, id="all-three"),
        pytest.param(Rule("deny", "other", "files", "rm"), "rm", CONFIGURED, False, id="other-client"),
        pytest.param(Rule("deny", "claude", "other", "rm"), "rm", CONFIGURED, False, id="other-server"),
    ],
)
def test_what_a_rule_matches(rule: Rule, tool: str | None, caller: Caller, matches: bool) -> None:
    """Each field of a rule is anything, exact, or a case-sensitive glob."""
    verdict = Policy([rule], "allow").check(call(tool), caller, 0.0)

    assert verdict.allowed is not matches
    assert verdict.rule == (0 if matches else -1)


@pytest.mark.parametrize(
    ("caller", "client_matches", "server_matches"),
    [
        pytest.param(Caller("", "", True, True), True, True, id="nobody-introduced-yet"),
        pytest.param(Caller("zed", "git", True, True), True, True, id="learned"),
        pytest.param(Caller("zed", "git", False, True), False, True, id="client-configured"),
        pytest.param(Caller("zed", "git", True, False), True, False, id="server-configured"),
        pytest.param(Caller("zed", "git"), False, False, id="both-configured"),
        pytest.param(Caller("claude-desktop", "filesystem"), True, True, id="configured-by-those-names"),
    ],
)
def test_rules_of_the_seed_keep_their_teeth(caller: Caller, client_matches: bool, server_matches: bool) -> None:
    """A rule that names the seed's defaults matches everyone, but only as long as nobody set the names."""
    by_client = Policy([Rule("deny", client_id="claude-desktop")], "allow")
    by_server = Policy([Rule("deny", server_id="filesystem")], "allow")

    assert by_client.check(call("rm"), caller, 0.0).allowed is not client_matches
    assert by_server.check(call("rm"), caller, 0.0).allowed is not server_matches


def test_other_learned_names_are_compared() -> None:
    """A name that is not the seed's default matches a learned name only if it is that name."""
    policy = Policy([Rule("deny", client_id="zed")], "allow")

    assert not policy.check(call("rm"), Caller("zed", "", True, True), 0.0).allowed
    assert policy.check(call("rm"), Caller("vim", "", True, True), 0.0).allowed


def test_only_calls_are_judged() -> None:
    """Another method is none of this gate's business; a call sent as a notification is."""
    policy = Policy([], "deny")

    assert policy.check(call("rm", method="prompts/get"), CONFIGURED, 0.0) is ALLOW
    assert not policy.check(call("rm", kind=Kind.NOTIFICATION), CONFIGURED, 0.0).allowed


def test_the_verdict_says_which_rule_and_why() -> None:
    """Permissions and denials are recorded with the index of the rule; -1 is the default action."""
    policy = Policy([Rule("allow", tool_name="ls"), Rule("deny", tool_name="rm", reason="destructive")], "deny")
    allowed = policy.check(call("ls"), CONFIGURED, 0.0)
    denied = policy.check(call("rm"), CONFIGURED, 0.0)
    default = policy.check(call("cp"), CONFIGURED, 0.0)

    assert (allowed.allowed, allowed.gate, allowed.rule, allowed.reason, allowed.recorded) == (
        True, "policy", 0, "", True,
    )  # fmt: skip
    assert (denied.allowed, denied.rule, denied.reason, denied.kind) == (False, 1, "destructive", "policy_denied")
    assert (default.allowed, default.rule, default.recorded) == (False, -1, True)
    assert "policy.default_action" in default.reason


def test_a_call_that_names_one_tool_does_not_meet_the_rules_of_others() -> None:
    """Among 1000 rules for exact tools only those of the called tool are compared."""
    policy = Policy([Rule("deny", tool_name=f"tool{i}") for i in range(1000)], "allow")

    assert not policy.check(call("tool999"), CONFIGURED, 0.0).allowed
    assert {tool: len(rules) for tool, rules in policy._exact.items()} == {f"tool{i}": 1 for i in range(1000)}
    assert policy._others == []


def test_invented_names_do_not_grow_memory() -> None:
    """Verdicts are remembered, but only so many, and not under names of any length."""
    policy = Policy([Rule("deny", tool_name="rm")], "allow")
    for i in range(5000):
        assert policy.check(call(f"tool{i}"), CONFIGURED, 0.0).allowed
    assert policy.check(call("x" * 100_000), CONFIGURED, 0.0).allowed

    assert len(policy._remembered) <= 1024
    assert max(len(tool) for tool, _ in policy._remembered) <= 256


names = st.sampled_from(["", "*", "a", "b", "ab", "a*", "*b", "?", "[ab]", "claude-desktop", "filesystem"])
rules = st.builds(Rule, st.sampled_from(["allow", "deny"]), names, names, names)
actual = st.sampled_from(["a", "b", "ab", "ba", "", "claude-desktop", "filesystem", "[ab]"])


def obviously(rules: list[Rule], default: str, tool: str, caller: Caller) -> tuple[bool, int]:
    def fits(pattern: str, name: str, seed: str, learned: bool) -> bool:
        return pattern in ("", "*") or (learned and pattern == seed) or fnmatchcase(name, pattern)

    for index, rule in enumerate(rules):
        if (
            fits(rule.tool_name, tool, "", False)
            and fits(rule.client_id, caller.client_id, "claude-desktop", caller.client_learned)
            and fits(rule.server_id, caller.server_id, "filesystem", caller.server_learned)
        ):
            return rule.action == "allow", index
    return default == "allow", -1


@settings(deadline=None)
@given(
    st.lists(rules, max_size=12),
    st.sampled_from(["allow", "deny"]),
    st.lists(st.tuples(actual, st.builds(Caller, actual, actual, st.booleans(), st.booleans())), max_size=8),
)
def test_the_index_keeps_the_meaning_of_the_order(
    rules: list[Rule], default: str, calls: list[tuple[str, Caller]]
) -> None:
    """With the index and its memory, every verdict is that of reading the rules from top to bottom."""
    policy = Policy(rules, default)  # type: ignore[arg-type]
    for tool, caller in calls * 2:
        verdict = policy.check(call(tool), caller, 0.0)
        assert (verdict.allowed, verdict.rule) == obviously(rules, default, tool, caller)
