"""Nodes and types become values with their place; whatever is not in the types is a problem with its line."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.config import Loaded
from mcp_audit.config.document import compose
from mcp_audit.config.model import Config, Rule, SinkSpec, ToolLimit
from mcp_audit.config.reader import Reader
from mcp_audit.config.shapes import leaves_of, members_of

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def test_every_problem_of_a_file_is_said_at_once(problems: Problems) -> None:
    """In the order of the file, each with line, key, what was found and what is allowed."""
    text = """\
proxy:
  transport: htp
  prot: 5
  port: 65536
audit: [x]
middlewear: {}
"""

    assert problems(text) == [
        "c.yaml:2: proxy.transport: must be stdio or http, found 'htp'; did you mean `http`?",
        "c.yaml:3: proxy.prot: there is no such key; did you mean `port`?",
        "c.yaml:4: proxy.port: must be from 0 to 65535, found 65536",
        "c.yaml:5: audit: must be a mapping of keys to values, found a list",
        "c.yaml:6: middlewear: there is no such key; did you mean `middleware`?",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("rate_limit: {}", "rate_limit: there is no such key here; did you mean `middleware.rate_limit`?", id="section-misplaced"),
        pytest.param("audit: {max_files: 1}", "audit.max_files: there is no such key here; did you mean `audit.rotation.max_files`?", id="key-misplaced"),
        pytest.param("server: {}", "server: there is no such key; allowed here: proxy, audit, middleware, policy, dashboard, metrics, otel, sinks", id="foreign"),
        pytest.param("metrics: {include_pyton_metrics: true}", "metrics.include_pyton_metrics: there is no such key; did you mean `include_python_metrics`?", id="other-spelling"),
        pytest.param("proxy: {port: 1, port: 1}", "proxy.port: is given twice, first in line 1; keep one", id="twice"),
        pytest.param("metrics: {include_go_metrics: true, include_python_metrics: true}", "metrics.include_go_metrics: is given twice, under two spellings; keep one", id="two-spellings"),
        pytest.param("proxy: {[a]: 1}", "proxy: has a list as a key; keys are names", id="list-as-key"),
        pytest.param("proxy", "must be a mapping of keys to values, found a single value", id="no-mapping"),
        pytest.param("- proxy", "must be a mapping of keys to values, found a list", id="a-list"),
        pytest.param("sinks: otlp_logs", "sinks: must be a list such as [a, b], found a single value", id="no-list"),
        pytest.param("proxy: {port: [1]}", "proxy.port: must be a whole number, found a list", id="list-for-number"),
        pytest.param("proxy: {upstream: {a: b}}", "proxy.upstream: must be a text, found a mapping", id="mapping-for-text"),
        pytest.param("proxy: {bind_address: ''}", "proxy.bind_address: must not be empty", id="empty"),
        pytest.param("proxy: {forward_headers: [null]}", "proxy.forward_headers[0]: must be a text, found nothing", id="null-in-list"),
        pytest.param("audit: {rotation: {interval: weekly}}", 'audit.rotation.interval: must be "", hourly or daily, found \'weekly\'', id="choices"),
        pytest.param("audit: {origin: a b}", "audit.origin: must be 1 to 200 of A-Z a-z 0-9 . _ - /, found 'a b'", id="origin"),
        pytest.param("audit: {checkpoint_interval_ms: 9}", "audit.checkpoint_interval_ms: must be from 10 to 2147483647, found 9", id="range"),
        pytest.param("audit: {max_payload_bytes: 1023}", "audit.max_payload_bytes: must be 1024 or more, found 1023", id="minimum"),
        pytest.param("policy: {rules: [{tool_name: x}]}", "policy.rules[0]: needs `action`, allow or deny", id="required"),
        pytest.param("policy: {rules: [{action: deny, tool: x}]}", "policy.rules[0].tool: there is no such key; allowed here: action, client_id, server_id, tool_name, reason, method, prompt, resource, args, when, mode", id="rule-key"),
        pytest.param("policy: {rules: [{action: deny, args: {path: {exists: true}}}]}", "policy.rules[0].args.path: is not a key that fits here: must be a JSON Pointer such as /path or /options/0/name, found 'path'", id="pointer"),
        pytest.param("policy: {rules: [{action: deny, args: {/a: {equals: no}}}]}", "policy.rules[0].args./a.equals: `no` is a truth value to some readers of YAML and a text to others; write false or \"no\"", id="ambiguous-argument"),
        pytest.param("metrics: {path: metrics}", "metrics.path: must be a path that begins with /, found 'metrics'", id="path"),
        pytest.param("a: &a 1\nproxy: {<<: *a}", "proxy: merges a single value with `<<`; only mappings can be merged", id="merge"),
    ],
)  # fmt: skip
def test_a_sentence_names_place_key_finding_and_remedy(problems: Problems, text: str, sentence: str) -> None:
    """The table of sentences."""
    found = problems(text)

    assert [problem.partition(": ")[2] for problem in found if problem.endswith(sentence)] == [sentence]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("dashboard: {auth: {token: [sesame]}}", id="token-as-list"),
        pytest.param("dashboard: {auth: sesame}", id="token-one-level-up"),
        pytest.param("otel: {headers: sesame}", id="header-as-text"),
        pytest.param("otel: {headers: [sesame]}", id="headers-as-list"),
        pytest.param('otel: {headers: {A: "sesame\\x01"}}', id="header-with-control-character"),
        pytest.param("proxy: {auth: {tokens: sesame}}", id="tokens-as-text"),
        pytest.param("proxy: {auth: {tokens: [{name: a, sha256: sesame}]}}", id="token-for-its-digest"),
        pytest.param("audit: {secret: sesame}", id="short-secret"),
        pytest.param("audit: {secret: '${sesame'}", id="half-a-reference"),
    ],
)
def test_no_sentence_repeats_a_secret(problems: Problems, text: str) -> None:
    """Sentences end up in the logs of desktop clients."""
    found = problems(text, to_run=True)

    assert found
    assert "sesame" not in "".join(found)


def test_values_get_their_types_from_the_keys(loaded: Load) -> None:
    """`on`, `08` and `1.10` are texts where a text is demanded, `on` is true where a truth value is."""
    config = loaded(
        """\
proxy: {client_id: on, server_id: 08, shell: on, port: 4_422, upstream: 1.10}
middleware: {redact: {patterns: [no, 010]}, rate_limit: {tools: {1: {requests_per_minute: 5}}}}
sinks: [otlp_logs, {type: otlp_logs}]
policy: {rules: [{action: deny, args: {/n: {equals: 1, in: [1, null, "1"], min: 0.5}, /s: {equals: null}}}]}
"""
    ).config

    assert (config.proxy.client_id, config.proxy.server_id, config.proxy.upstream) == ("on", "08", "1.10")
    assert config.proxy.shell is True
    assert config.proxy.port == 4422
    assert config.middleware.redact.patterns == ("no", "010")
    assert config.middleware.rate_limit.tools == {"1": ToolLimit(requests_per_minute=5)}
    assert config.sinks == ("otlp_logs", SinkSpec(type="otlp_logs"))
    number, nothing = config.policy.rules[0].args.values()
    assert (number.equals, number.in_, number.min) == (1, (1, None, "1"), 0.5)
    assert nothing.equals is None


def test_a_key_without_a_value_keeps_its_default(loaded: Load) -> None:
    """As in mcp-audit for Go; `rules:` with every rule commented out is common."""
    one = loaded("proxy:\n  port:\n  tls: ~\naudit:\npolicy:\n  rules:\n  # - action: deny\n")

    assert one.config == Config()
    assert set(one.sources.values()) == {"default"}


def test_merge_keys_bring_what_is_not_given(loaded: Load) -> None:
    """Own keys win over merged ones, wherever they stand; earlier mappings over later ones."""
    rules = loaded(
        """\
policy:
  rules:
    - &base {action: deny, reason: no, tool_name: base}
    - {tool_name: own, <<: *base}
    - {<<: [{mode: shadow}, *base, {mode: enforce, method: tools/call}], tool_name: own}
"""
    ).config.policy.rules

    assert rules[1] == Rule(action="deny", reason="no", tool_name="own")
    assert rules[2] == Rule(action="deny", reason="no", tool_name="own", mode="shadow", method="tools/call")


def test_two_spellings_of_one_key(loaded: Load) -> None:
    """The runtime is Python's here, the key is Go's."""
    one = loaded("metrics: {include_python_metrics: false}")

    assert one.config.metrics.include_go_metrics is False
    assert one.sources["metrics.include_go_metrics"] == "c.yaml:1"


_ANY = st.recursive(
    st.sampled_from(["x", "1", "true", "null", "on", "''", "deny", "010"]),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(st.sampled_from(["action", "a", "/x", "equals"]), inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=5,
)


@given(st.sampled_from([key for key, _, _ in leaves_of(Config)]), _ANY)
def test_a_value_fits_or_is_a_problem(key: str, value: str) -> None:
    """Whatever stands under whatever key: a value of the key's type, a problem with the key, or nothing written."""
    *sections, name = key.split(".")
    text = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
    reader = Reader(Config, "f")

    found = reader.read(compose(f"{text}{'  ' * len(sections)}{name}: {value}", "f"))

    if value != "null":
        assert (list(found) == [key]) != bool(reader.problems)
    for problem in reader.problems:
        assert problem.key.startswith(key)
        assert problem.where == f"f:{len(sections) + 1}"


def test_every_section_and_key_is_reachable() -> None:
    """The types are one tree of about a hundred settings, none of which shadows another."""
    keys = [key for key, _, _ in leaves_of(Config)]

    assert len(keys) == len(set(keys)) > 90
    assert {key.partition(".")[0] for key in keys} == set(members_of(Config))
