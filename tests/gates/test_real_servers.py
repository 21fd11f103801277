"""Real clients and real servers do not notice the proxy, whether its gates are off or on.

The SDK transcript shows both directions of a whole session; the inspector is a client we did not write.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from peers import GATES, PROFILES, SECRET, Ran, covering, inspector, proxied, run, server

pytestmark = [pytest.mark.gate, pytest.mark.timeout(300)]

TRANSCRIPT = str(GATES.parent / "clients" / "transcript.py")
SERVERS = ("everything", "filesystem", "python-sdk")
MODES = ("auto", "legacy")
INSPECTIONS = {
    "tools": ("--method", "tools/list"),
    "resources": ("--method", "resources/list"),
    "templates": ("--method", "resources/templates/list"),
    "prompts": ("--method", "prompts/list"),
    "echo": ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=hello"),
}
OFFERED = {"tools": 14, "resources": 7, "templates": 2, "prompts": 4}


def transcript(mode: str, root: Path, command: list[str], **environment: str) -> Ran:
    """Drive one session; `root` is the folder of the client and the server alike."""
    return run([sys.executable, TRANSCRIPT, "--mode", mode, "--root", str(root), "--", *command], root, **environment)


@cache
def direct(name: str, mode: str) -> Ran:
    """The session without us; one per worker is enough."""
    root = Path(mkdtemp(prefix="gate-direct-"))
    return transcript(mode, root, server(name, root))


@cache
def inspected(what: str) -> Ran:
    """The inspector's answer without us."""
    cwd = Path(mkdtemp(prefix="gate-inspector-"))
    return run(inspector(server("everything", cwd), *INSPECTIONS[what]), cwd)


def assert_same(name: str, without: bytes, with_us: bytes) -> None:
    """Equal byte for byte; a difference is shown as a diff, since the texts are long."""
    if without != with_us:
        before, after = (text.decode(errors="replace").splitlines() for text in (without, with_us))
        diff = difflib.unified_diff(before, after, "direct", "proxied", lineterm="", n=1)
        pytest.fail(f"{name} differs\n" + "\n".join(diff))


def assert_intact(ledger: Path) -> None:
    """`mcp-audit verify` exits 0."""
    verdict = run([sys.executable, "-m", "mcp_audit", "verify", str(ledger)], ledger.parent, AUDIT_SECRET=SECRET)
    assert verdict.code == 0, verdict


def sent_calls(text: bytes) -> Counter[str]:
    """Return how often each tool was called, from a transcript."""
    frames = [json.loads(line) for line in text.decode().split("\n") if line.startswith('{"jsonrpc"')]
    return Counter(frame["params"]["name"] for frame in frames if frame.get("method") == "tools/call")


def recorded_calls(ledger: Path) -> Counter[str]:
    """Return how often each tool is in the ledger as a finished exchange."""
    entries = [json.loads(line) for line in ledger.read_bytes().split(b"\n") if line]
    return Counter(e["tool_name"] for e in entries if e.get("method") == "tools/call" and "type" not in e)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), covering(SERVERS, MODES))
def test_a_direct_session_is_a_fair_baseline(name: str, mode: str) -> None:
    """It ran to its end, did real work, and a second one says the same: what differs later is the proxy's doing."""
    first = direct(name, mode)
    root = Path(mkdtemp(prefix="gate-again-"))
    second = transcript(mode, root, server(name, root))

    assert first.code == 0, first.stderr.decode()
    assert sum(sent_calls(first.stdout).values()) >= 10
    assert_same("transcript", first.stdout, second.stdout)
    assert_same("stderr", first.stderr, second.stderr)


@pytest.mark.parametrize(("name", "mode", "profile"), covering(SERVERS, MODES, PROFILES))
def test_a_session_through_the_proxy_equals_a_direct_one(tmp_path: Path, name: str, mode: str, profile: str) -> None:
    """Both directions, stderr and exit code; the server's environment lacks our secrets; the ledger is intact."""
    root, ledger = tmp_path / "root", tmp_path / "ledger" / "audit.jsonl"
    root.mkdir()
    ledger.parent.mkdir()
    without = direct(name, mode)

    with_us = transcript(
        mode, root, proxied(profile, ledger, server(name, root)), AUDIT_SECRET=SECRET, MCP_AUDIT_TEST_UNKNOWN="ours"
    )

    assert_same("stderr", without.stderr, with_us.stderr)
    assert_same("transcript", without.stdout, with_us.stdout)
    assert with_us.code == without.code
    assert_intact(ledger)
    assert recorded_calls(ledger) == sent_calls(without.stdout)


@pytest.mark.parametrize(("what", "profile"), covering(INSPECTIONS, PROFILES))
def test_the_inspector_prints_the_same_through_the_proxy(tmp_path: Path, what: str, profile: str) -> None:
    """Stdout and exit code, for what every user tries first."""
    without = inspected(what)

    wrapper = [str(GATES / "wrapped.sh"), profile, *server("everything", tmp_path)]
    with_us = run(inspector(wrapper, *INSPECTIONS[what]), tmp_path)

    assert_same("stderr", without.stderr, with_us.stderr)
    assert_same("stdout", without.stdout, with_us.stdout)
    assert with_us.code == without.code == 0
    assert_intact(tmp_path / "audit.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("what", INSPECTIONS)
def test_the_inspector_finds_what_the_server_offers(what: str) -> None:
    """An inspector that prints nothing would agree with any proxy."""
    answer = json.loads(inspected(what).stdout)

    if what == "echo":
        assert answer["content"] == [{"type": "text", "text": "Echo: hello"}]
    else:
        (items,) = (value for value in answer.values() if isinstance(value, list))
        assert len(items) == OFFERED[what]
