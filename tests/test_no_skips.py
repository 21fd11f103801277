"""The switch that forbids skipping is itself tested: a gate that silently does not run is no gate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = "import pytest\n\n\ndef test_skips():\n    pytest.skip('no peer installed')\n"
MARKED = "import pytest\n\n\n@pytest.mark.skipif(True, reason='no peer installed')\ndef test_skips():\n    pass\n"
MODULE_SKIPS = "import pytest\n\npytest.skip('no peer installed', allow_module_level=True)\n"
OTHER_PLATFORM = "import pytest\n\n\ndef test_skips():\n    pytest.skip('platform: Windows only')\n"
XFAILS = "import pytest\n\n\n@pytest.mark.xfail(strict=True)\ndef test_known():\n    assert False\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "forbidding", "exit_code"),
    [
        pytest.param(SKIPS, "1", 1, id="skip-forbidden"),
        pytest.param(MARKED, "1", 1, id="skipif-forbidden"),
        pytest.param(MODULE_SKIPS, "1", 2, id="module-forbidden"),
        pytest.param(OTHER_PLATFORM, "1", 0, id="other-platform"),
        pytest.param(XFAILS, "1", 0, id="expected-failure"),
        pytest.param(SKIPS, "", 0, id="skip-allowed"),
    ],
)
def test_a_skip_counts_as_failure_where_skips_are_forbidden(
    tmp_path: Path, source: str, forbidding: str, exit_code: int
) -> None:
    """And the report still gives the reason."""
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(source)

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)],
        env={**os.environ, "MCP_AUDIT_TEST_NO_SKIPS": forbidding},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == exit_code, run.stdout
    assert source is XFAILS or "no peer installed" in run.stdout or "Windows only" in run.stdout
