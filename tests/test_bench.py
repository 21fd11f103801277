"""The benchmarks run and say something; how fast is theirs to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    """Small, as a user would start it: a table is printed, and the figures are kept with the machine's description."""
    output = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", name, "--quick", "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name} (")
    kept = json.loads(output.read_text())[name]
    assert kept["machine"]["cores"] > 0
    assert kept["figures"]


def test_an_unknown_benchmark_is_named() -> None:
    """With those that there are."""
    command = [sys.executable, "-m", "bench", "nonesuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "nonesuch: no such benchmark; there are verify" in done.stderr
