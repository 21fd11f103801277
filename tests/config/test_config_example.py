"""config.example.yaml is the documentation of every setting, and true."""

from __future__ import annotations

import re
from collections.abc import Callable

from mcp_audit.cli.config import example_text
from mcp_audit.config import Config, Loaded
from mcp_audit.config.inactive import get
from mcp_audit.config.shapes import leaves_of

Load = Callable[..., Loaded]


def test_it_holds_every_setting_with_its_default(loaded: Load) -> None:
    """`proxy.upstream` apart, which has none."""
    one = loaded(example_text())

    assert [key for key, source in one.sources.items() if source == "default"] == []
    differing = [key for key, _, _ in leaves_of(Config) if get(one.config, key) != get(Config(), key)]
    assert differing == ["proxy.upstream"]


def test_it_says_plainly_which_defaults_are_not_neutral() -> None:
    """Three of them change what client and server see; each is marked where it stands and listed at the top."""
    text = example_text()

    marked = re.findall(r"^ +(\w+): .*# NOT NEUTRAL", text, re.MULTILINE)
    assert marked == ["upstream_timeout_ms", "forward_headers", "enabled"]
    head = text[: text.index("\nproxy:")]
    for key in ("proxy.forward_headers", "proxy.upstream_timeout_ms", "middleware.rate_limit.enabled"):
        assert key in head


def test_every_line_explains_itself() -> None:
    """No setting without a word, unless its neighbours on the line or above say it."""
    lines = example_text().splitlines()
    bare = [line.strip() for line in lines if re.match(r" *\w+:.*", line) and "#" not in line]

    assert set(bare) <= {
        "proxy:",
        "auth:",
        "oauth:",
        "middleware:",
        "policy:",
        "requests_per_minute: 60",
        'client_key_file: ""',
        "enabled: true",
        "enabled: false",
        "bind_address: 127.0.0.1",
        "service_name: mcp-audit",
        'tls: {ca_file: "", server_name: "", insecure_skip_verify: false}',
        "retry: {max_retries: 3, initial_interval_ms: 200, max_interval_ms: 2000}",
    }
    assert max(map(len, lines)) <= 120


def test_its_commented_rule_is_a_rule(loaded: Load) -> None:
    """Whoever removes the `#` gets a policy."""
    comments = re.findall(r"^ {32}#   (  .*|- .*?) +# ", example_text(), re.MULTILINE)
    text = "policy:\n  enabled: true\n  rules:\n" + "".join(f"    {line}\n" for line in comments)

    (rule,) = loaded(text).config.policy.rules
    assert (rule.action, rule.tool_name, rule.mode) == ("deny", "delete_*", "enforce")
    assert rule.args["/path"].glob == "/etc/*"
