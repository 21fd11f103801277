"""What every test shares: with MCP_AUDIT_TEST_NO_SKIPS=1 a skipped test is a failed test.

A test that cannot run says so by skipping, which is right on a laptop and wrong where the verdict counts. The one
exception is a test for another platform, whose reason begins with PLATFORM.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest

PLATFORM = "platform: "

# A shell starts background jobs with SIGINT ignored, and whatever we start inherits that: no test could interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_NO_SKIPS = os.environ.get("MCP_AUDIT_TEST_NO_SKIPS", "") not in ("", "0")


def _forbid_skip(report: Any) -> None:
    """Turn a skip into a failure that repeats the reason."""
    if not (_NO_SKIPS and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(PLATFORM):
        report.outcome = "failed"
        report.longrepr = f"skipped, which MCP_AUDIT_TEST_NO_SKIPS=1 forbids: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips."""
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips as a whole."""
    report = yield
    _forbid_skip(report)
    return report
