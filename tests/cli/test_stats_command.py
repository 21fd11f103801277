"""`mcp-audit stats`: counts, error rates and latency percentiles per tool."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import Forge

from mcp_audit.cli import main
from mcp_audit.cli.stats import percentile


@pytest.fixture
def log(tmp_path: Path) -> Path:
    forge = Forge()
    forge.open()
    for duration in range(1, 101):
        forge.call(tool="read_file", duration_ms=duration, outcome="tool_error" if duration > 95 else "answered")
    forge.entry(tool="delete_file", outcome="denied", duration_ms=0)
    forge.entry(tool="", method="ping", outcome="lost", duration_ms=9000)
    forge.entry("request", tool="slow")
    return forge.write(tmp_path / "audit.jsonl")


def test_figures(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """Errors and refusals apart, percentiles over what the server answered, unanswered calls counted as open."""
    assert main(["stats", str(log), "--format", "json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    groups = {group["tool_name"] or group["method"]: group for group in figures["groups"]}

    assert next(iter(groups)) == "read_file"
    assert {name: groups["read_file"][name] for name in ("count", "errors", "error_rate", "refused")} == {
        "count": 100,
        "errors": 5,
        "error_rate": 0.05,
        "refused": 0,
    }
    assert [groups["read_file"][name] for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")] == [50, 95, 99, 100]
    assert (groups["delete_file"]["refused"], groups["delete_file"]["p50_ms"]) == (1, None)
    assert (groups["ping"]["errors"], groups["ping"]["max_ms"]) == (1, None)
    assert groups["slow"]["open"] == 1
    assert figures["total"]["count"] == 103
    assert figures["first"] == "2026-05-25T12:00:03.000000Z"
    assert figures["total"]["outcomes"] == {"answered": 95, "tool_error": 5, "open": 1, "lost": 1, "denied": 1}


def test_table(capsys: pytest.CaptureFixture[str], log: Path) -> None:
    """A row per tool, a total, and the period; filters narrow it."""
    assert main(["stats", str(log), "--tool", "*_file"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]

    assert rows[0][:5] == ["method", "tool_name", "count", "errors", "error_rate"]
    assert rows[1] == ["tools/call", "read_file", "100", "5", "5.0%", "0", "0", "50", "95", "99", "100"]
    assert rows[2] == ["tools/call", "delete_file", "1", "0", "0.0%", "1", "0"]
    assert rows[3][:3] == ["total", "101", "5"]
    assert "answered 95, tool_error 5, denied 1" in out


def test_an_empty_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Zeros, no percentiles, no failure."""
    (tmp_path / "empty").touch()
    assert main(["stats", str(tmp_path / "empty"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["p50_ms"] is None
    assert main(["stats", str(tmp_path / "empty")]) == 0


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_percentile_is_nearest_rank(values: list[int], percent: int) -> None:
    """The smallest value that at least that share of all values is not above."""
    found = percentile(Counter(values), percent)

    assert found == sorted(values)[-(-len(values) * percent // 100) - 1]
