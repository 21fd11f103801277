"""`policy.file`: the policy in a file of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from conftest import Load, Problems

RULES = "default_action: deny\nrules:\n  - {action: allow, tool_name: 'read_*'}\n"


def test_its_keys_are_the_policys_and_know_their_lines(tmp_path: Path, loaded: Load) -> None:
    """--policy names it and turns the policy on; the ledger gets the hash of its bytes."""
    (tmp_path / "p.yaml").write_text(RULES)
    flags = {"policy.file": ("--policy", "p.yaml"), "policy.enabled": ("--policy", True)}
    one = loaded("", flags=flags)

    assert one.config.policy.enabled
    assert one.config.policy.default_action == "deny"
    assert [rule.tool_name for rule in one.config.policy.rules] == ["read_*"]
    assert one.sources["policy.rules"] == "p.yaml:2"
    assert one.policy_sha256 == hashlib.sha256(RULES.encode()).hexdigest()


@pytest.mark.parametrize(
    ("policy", "text", "expected"),
    [
        pytest.param(
            "rulez: []\n", "", "p.yaml:1: policy.rulez: there is no such key; did you mean `rules`", id="typo"
        ),
        pytest.param("file: q.yaml\n", "", "cannot name another one", id="nested"),
        pytest.param(RULES, "default_action: allow", "is given twice, the other time by c.yaml:", id="both"),
        pytest.param(None, "", "p.yaml: cannot be read", id="missing"),
    ],
)
def test_what_is_wrong_in_it_is_said_with_its_name(
    tmp_path: Path, problems: Problems, policy: str | None, text: str, expected: str
) -> None:
    """The same sentences as for the configuration itself."""
    if policy is not None:
        (tmp_path / "p.yaml").write_text(policy)
    said = problems(f"policy:\n  file: p.yaml\n  {text}\n")

    assert len(said) == 1
    assert expected in said[0]
