"""Every test here declares its row of docs/faults.md, and what it saw is checked against that row."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

for folder in ("e2e", "sinks", "faults"):
    sys.path.insert(0, str(Path(__file__).parent.parent / folder))

from launch import Zygote  # noqa: E402
from rows import Seen  # noqa: E402


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """Where a test puts what `verify` said and which acknowledged lines it looked for."""
    return Seen(request.function.row)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """Starts real proxies in a few milliseconds."""
    with Zygote() as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """A test that ended well has asked `verify` at least once; what it saw travels with its report."""
    yield
    saw = getattr(item, "funcargs", {}).get("seen")
    if isinstance(saw, Seen):
        item.user_properties.append(("seen", saw.finish()))
