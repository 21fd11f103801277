"""What `load` promises beside what its parts do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mcp_audit.config import Config, Loaded, load
from mcp_audit.config.shapes import leaves_of

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


def test_without_anything_the_defaults_count(loaded: Load) -> None:
    """And every setting has a source."""
    one = loaded()

    assert one.config == Config()
    assert one.sources == {key: "default" for key, _, _ in leaves_of(Config)}
    assert (one.path, one.sha256, one.secret, one.notices) == (None, "", None, ())


def test_nothing_global_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Environment and directory are arguments; those of the process do not count."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.yaml").write_text("proxy: {port: 1}")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MCP_AUDIT__PROXY__PORT", "2")
    monkeypatch.setenv("AUDIT_SECRET", "x")

    assert load({}, {}, tmp_path, ["server"]).config == Config()


def test_problems_of_all_sources_are_said_together(problems: Problems) -> None:
    """File, environment, flags, then what contradicts."""
    found = problems(
        "proxy: {port: x}\naudit: {capture: full}",
        {"MCP_AUDIT__METRICS__PORT": "y", "AUDIT_SECRET": "z"},
        flags={"dashboard.port": ("--x", "z")},
    )

    assert [problem.split(":")[0] for problem in found] == [
        "c.yaml",
        "env MCP_AUDIT__METRICS__PORT",
        "--x",
        "env AUDIT_SECRET",
        "c.yaml",
    ]


def test_a_broken_file_does_not_hide_behind_the_environment(problems: Problems) -> None:
    """An overridden mistake is still one; it would come back with the next change."""
    assert problems("proxy: {port: x}", {"MCP_AUDIT__PROXY__PORT": "1"}) == [
        "c.yaml:1: proxy.port: must be a whole number, found 'x'"
    ]


@pytest.mark.parametrize("text", ["", "proxy: {port: 1}"])
def test_loading_imports_nothing_heavy(tmp_path: Path, text: str) -> None:
    """Every wrapped server pays for it: no YAML without a file, and never the things other parts need."""
    (tmp_path / "c.yaml").write_text(text or "# nothing")
    program = (
        "import sys; from pathlib import Path; from mcp_audit.config import load; "
        f"load({{}}, {{}}, Path({str(tmp_path)!r}), ['x'], config={'c.yaml' if text else 'none'!r}); "
        "print(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    modules = set(done.stdout.split())
    assert ("yaml" in modules) == bool(text)
    assert not modules & {"rich", "cryptography", "asyncio", "anyio", "difflib", "ssl", "http.client", "jsonschema"}
