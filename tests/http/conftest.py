"""The hops of the golden tests. Starting the program takes longer than most tests, so one serves many of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from http_hop import ENFORCING, NEUTRAL, PROFILES, Hop, Program, direct_hop, proxy_config
from http_peers import Upstream


class Shelf:
    """Programs that are running, by profile; one that a test spoiled is thrown away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, tuple[Upstream, Program]] = {}
        self._started = 0

    def take(self, profile: str) -> tuple[Upstream, Program]:
        """Return a program of the profile and its upstream."""
        if profile not in self._running:
            self._started += 1
            folder = self._folder / f"{profile}-{self._started}"
            folder.mkdir()
            upstream = Upstream()
            try:
                config = proxy_config(ENFORCING if profile == "enforcing" else NEUTRAL)
                self._running[profile] = (upstream, Program(folder, config, upstream.url))
            except BaseException:
                upstream.close()
                raise
        return self._running[profile]

    def discard(self, profile: str) -> None:
        """Throw one away without asking how it is."""
        upstream, program = self._running.pop(profile)
        program.kill()
        upstream.close()

    def close(self) -> None:
        """Stop all in an orderly way."""
        while self._running:
            _, (upstream, program) = self._running.popitem()
            try:
                program.stop()
            finally:
                upstream.close()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Programs that outlive a test; at the end each must exit 0 and its ledger verify."""
    shelf = Shelf(tmp_path_factory.mktemp("http"))
    yield shelf
    shelf.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test itself went well."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


_FAILED = pytest.StashKey[bool]()


def _hop(request: pytest.FixtureRequest, profile: str) -> Iterator[Hop]:
    if profile == "direct":
        with Upstream() as upstream, direct_hop(upstream) as hop:
            yield hop
        return
    shelf: Shelf = request.getfixturevalue("shelf")
    upstream, program = shelf.take(profile)
    hop = Hop(profile, upstream, program.address, program)
    spoiled = True
    try:
        yield hop
        spoiled = request.node.stash.get(_FAILED, True)
        if not spoiled:
            spoiled = True
            hop.close()
            spoiled = False
    finally:
        if spoiled:
            print(program.stderr[-4000:])
            hop.leave()
            shelf.discard(profile)


@pytest.fixture(params=PROFILES)
def hop(request: pytest.FixtureRequest) -> Iterator[Hop]:
    """No proxy, a proxy that enforces nothing, and one whose gates allow: none may show."""
    yield from _hop(request, request.param)


@pytest.fixture(params=("neutral", "enforcing"))
def proxy(request: pytest.FixtureRequest) -> Iterator[Hop]:
    """The program, under both profiles."""
    yield from _hop(request, request.param)


@pytest.fixture
def neutral(request: pytest.FixtureRequest) -> Iterator[Hop]:
    """The program with nothing to enforce."""
    yield from _hop(request, "neutral")


@pytest.fixture
def enforcing(request: pytest.FixtureRequest) -> Iterator[Hop]:
    """The program with its gates on."""
    yield from _hop(request, "enforcing")
