"""Advice for what is allowed and probably not meant."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_audit.config import Loaded
from mcp_audit.config.advice import advise

Load = Callable[..., Loaded]
SECRET = {"AUDIT_SECRET": "0123456789abcdef0123456789abcdef"}
NO_SECRET = "there is no audit secret: without AUDIT_SECRET or AUDIT_SECRET_FILE lines get neither mac nor signature"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        pytest.param("proxy: {port: 1}", [], id="nothing"),
        pytest.param(
            "policy: {enabled: true, rules: [{action: deny, client_id: claude-desktop}, {action: deny, server_id: filesystem}]}",
            [
                "c.yaml:1: policy.rules name claude-desktop, which matches everyone while proxy.client_id is auto; set proxy.client_id to a name, or leave client_id out of the rules",
                "c.yaml:1: policy.rules name filesystem, which matches everyone while proxy.server_id is auto; set proxy.server_id to a name, or leave server_id out of the rules",
            ],
            id="former-names",
        ),
        pytest.param(
            "proxy: {client_id: claude-desktop}\npolicy: {enabled: true, rules: [{action: deny, client_id: claude-desktop}]}",
            [],
            id="former-name-set",
        ),
        pytest.param(
            "policy: {enabled: true, rules: [{action: deny, mode: shadow}, {action: allow, tool_name: '*'}, {action: deny, tool_name: x}, {action: deny, resource: x}]}",
            ["c.yaml:1: policy.rules rule 2 can never decide: rule 1 before it matches every tools/call"],
            id="unreachable",
        ),
        pytest.param(
            "proxy: {upstream: 'ls ${HOME}'}\naudit: {path: ~/a.jsonl}",
            [
                "c.yaml:1: proxy.upstream has `${`, which is taken literally: only secrets are expanded",
                "c.yaml:2: audit.path begins with ~/, which is taken literally; write the directory out",
            ],
            id="expansions",
        ),
        pytest.param("proxy: {upstream: 'ls ${HOME}', shell: true}", [], id="the-shell-expands"),
        pytest.param(
            "proxy: {shutdown_grace_ms: 5000}",
            ["c.yaml:1: proxy.shutdown_grace_ms is more than the 2 s that clients wait before they kill us"],
            id="grace",
        ),
        pytest.param(
            "proxy: {tls: {insecure_skip_verify: true}}",
            ["c.yaml:1: proxy.tls.insecure_skip_verify is true, so anybody on the way can pose as the server"],
            id="insecure",
        ),
        pytest.param(
            "proxy: {forward_headers: [Authorization, X-Key]}",
            ["c.yaml:1: proxy.forward_headers lists X-Key, which has no effect: only Authorization needs it"],
            id="header",
        ),
        pytest.param(
            "audit: {rotation: {compress: gzip}}",
            ["c.yaml:1: audit.rotation.compress has nothing to compress: neither max_size_bytes nor interval is set"],
            id="compress",
        ),
        pytest.param(
            "metrics: {port: 9090}",
            ["c.yaml:1: metrics.port is 9090, as dashboard.port; one of them will be moved"],
            id="ports",
        ),
    ],
)  # fmt: skip
def test_advice(loaded: Load, text: str, sentences: list[str]) -> None:
    """One sentence each, and silence about what is fine."""
    assert list(advise(loaded(text, SECRET))) == sentences


def test_without_a_secret(loaded: Load) -> None:
    """Unless there is one that a check cannot read."""
    assert list(advise(loaded("proxy: {port: 1}"))) == [NO_SECRET]
    assert list(advise(loaded("audit: {secret: ''}"))) == [NO_SECRET]
    assert list(advise(loaded("audit: {secret: '${LATER}'}"))) == []


@pytest.mark.skipif(os.name != "posix", reason="platform: modes are POSIX")
def test_secrets_in_a_file_that_others_can_read(loaded: Load, tmp_path: Path) -> None:
    """Only those written out: a reference gives nothing away."""
    one = loaded("otel: {headers: {A: x}}\ndashboard: {auth: {token: '${T}'}}", SECRET | {"T": "t"})
    (tmp_path / "c.yaml").chmod(0o640)

    assert list(advise(one)) == [
        "c.yaml:1: otel.headers is in a file that others can read; run chmod 600 on it, or refer to it by ${file:PATH}"
    ]
    (tmp_path / "c.yaml").chmod(0o600)
    assert list(advise(one)) == []
