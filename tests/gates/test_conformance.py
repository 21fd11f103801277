"""The official conformance suites see no difference between a direct connection and one through the proxy.

Equal, not merely green: the same checks in the same order with the same verdicts. The direct scores come first, since a
target that fails a check would hide what the proxy does to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml
from compare import Checks, differences, score
from http_proxy import MODES, SECRET, Proxy
from peers import GATES, PROFILES, run
from suites import (
    CLIENT_SCORES,
    REVISIONS,
    SERVER_SCORES,
    everything_server,
    read_client_run,
    run_client_suite,
    run_server_suite,
)

pytestmark = [pytest.mark.gate, pytest.mark.slow, pytest.mark.timeout(1800)]

DELTAS: dict[str, dict[str, str]] = yaml.safe_load((GATES / "oauth-deltas.yaml").read_text())


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The URL of the reference server."""
    with everything_server() as url:
        yield url


@cache
def direct_server(url: str, revision: str) -> dict[str, Checks]:
    """The run without us; one per worker is enough."""
    return run_server_suite(url, revision, Path(mkdtemp(prefix="gate-server-")))


@pytest.fixture(scope="session")
def direct_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Checks]]:
    """The same for the client, which takes a minute; so one run serves all workers."""
    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here

    @cache
    def direct(revision: str) -> dict[str, Checks]:
        folder = shared / f"direct-client-{revision}"
        with open(shared / f"{folder.name}.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                # Under its name only once it is complete: a worker that dies leaves no half a run.
                unfinished = Path(mkdtemp(dir=shared)) / "run"
                run_client_suite("direct", "neutral", revision, unfinished)
                unfinished.rename(folder)
            return read_client_run(folder)

    return direct


def assert_recorded(*ledgers: Path) -> None:
    """`mcp-audit verify` exits 0, and something is in them: a proxy that nobody used keeps an intact ledger as well."""
    command = [sys.executable, "-m", "mcp_audit", "verify", *map(str, ledgers)]
    verdict = run(command, ledgers[0].parent, AUDIT_SECRET=SECRET)
    assert verdict.code == 0, verdict
    for ledger in ledgers:
        assert any("type" not in json.loads(line) for line in ledger.read_bytes().splitlines()), ledger


Again = Callable[[str], tuple[dict[str, Checks], dict[str, Checks]]]


def lasting(
    first: dict[str, Checks],
    second: dict[str, Checks],
    again: Again,
    skip: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
) -> str:
    """Return the differences that recur when a scenario runs alone: some checks wait for a time on a busy machine."""
    found = differences(first, second, skip, ignore)
    return "\n\n".join(f"{name}:\n{what}" for name, what in found.items() if differences(*again(name), ignore=ignore))


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_reference_server_scores_like_the_sdk_s(target: str, revision: str, tmp_path: Path) -> None:
    """Every check passes direct, so none can hide behind a failure of the target.

    On a busy machine a check that waits for a time may miss it. What scores less than it should is run again, and the
    scenarios in which the two runs differ run once more, each alone; that has to make up the whole score.
    """
    checks = direct_server(target, revision)
    if score(checks) != SERVER_SCORES[revision]:
        second = run_server_suite(target, revision, tmp_path / "second")
        for name in differences(checks, second):
            second[name] = run_server_suite(target, revision, tmp_path / name, name)[name]
        checks = second
    wanting = {name: each for name, each in checks.items() if any(c["status"] not in ("SUCCESS", "INFO") for c in each)}
    assert score(checks) == SERVER_SCORES[revision], wanting


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_server_suite_sees_no_proxy(tmp_path: Path, target: str, revision: str, profile: str) -> None:
    """All scenarios of a revision, with gates off and with gates that allow everything."""
    with Proxy(tmp_path / "ledger", target, profile) as proxy:

        def again(name: str) -> tuple[dict[str, Checks], dict[str, Checks]]:
            return (
                run_server_suite(target, revision, tmp_path / "again" / name / "direct", name),
                run_server_suite(proxy.url, revision, tmp_path / "again" / name / "proxied", name),
            )

        proxied = run_server_suite(proxy.url, revision, tmp_path / "out")
        assert not (found := lasting(direct_server(target, revision), proxied, again)), found
    assert_recorded(proxy.ledger)


@pytest.mark.long
@pytest.mark.parametrize("revision", REVISIONS)
def test_three_suites_at_once_see_no_proxy(tmp_path: Path, target: str, revision: str) -> None:
    """Sessions that share a proxy share nothing else."""
    with Proxy(tmp_path / "ledger", target, "enforcing") as proxy, ThreadPoolExecutor(3) as pool:

        def again(name: str) -> tuple[dict[str, Checks], dict[str, Checks]]:
            return (
                run_server_suite(target, revision, Path(mkdtemp(dir=tmp_path)), name),
                run_server_suite(proxy.url, revision, Path(mkdtemp(dir=tmp_path)), name),
            )

        outs = [tmp_path / f"out-{number}" for number in range(3)]
        for proxied in pool.map(lambda out: run_server_suite(proxy.url, revision, out), outs):
            assert not (found := lasting(direct_server(target, revision), proxied, again)), found
    assert_recorded(proxy.ledger)


@pytest.mark.long
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_reference_client_scores_like_the_sdk_s(
    direct_client: Callable[[str], dict[str, Checks]], revision: str
) -> None:
    """What it fails, it fails in extensions that the SDK does not have."""
    checks = direct_client(revision)

    assert score(checks) == CLIENT_SCORES[revision]
    failing = {name for name, each in checks.items() if any(check["status"] == "FAILURE" for check in each)}
    assert failing == {"auth/dpop", "auth/dpop-nonce", "auth/wif-jwt-bearer"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "profile"), [*((mode, "neutral") for mode in MODES), ("forward", "enforcing"), ("reverse", "enforcing")]
)
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_client_suite_sees_no_proxy(
    tmp_path: Path, direct_client: Callable[[str], dict[str, Checks]], revision: str, mode: str, profile: str
) -> None:
    """A forward proxy equals a direct connection, OAuth included; a reverse proxy does so outside OAuth.

    With rewritten metadata OAuth works as well, less what `oauth-deltas.yaml` lists; that list may only shrink.
    """

    def again(name: str) -> tuple[dict[str, Checks], dict[str, Checks]]:
        legs = [(leg, tmp_path / "again" / leg / name.replace("/", "-")) for leg in ("direct", mode)]
        first, second = (run_client_suite(leg, profile, revision, out, name) for leg, out in legs)
        return first, second

    proxied = run_client_suite(mode, profile, revision, tmp_path / "run")

    ledgers = sorted((tmp_path / "run" / "ledgers").rglob("audit.jsonl"))
    assert len(ledgers) == len(proxied)
    assert_recorded(*ledgers)
    skip = {"forward": (), "reverse": ("auth/",), "reverse+rewrite": tuple(DELTAS["scenarios"])}[mode]
    ignore = tuple(DELTAS["checks"]) if mode == "reverse+rewrite" else ()
    assert not (found := lasting(direct_client(revision), proxied, again, skip, ignore)), found


@pytest.mark.long
def test_the_list_of_deltas_may_only_shrink(tmp_path: Path) -> None:
    """Every scenario and every check on it still differs, and has a reason that the README gives as well."""
    readme = " ".join((GATES.parents[1] / "README.md").read_text().split())
    checks, scenarios = DELTAS["checks"], DELTAS["scenarios"]
    differ: set[str] = set()
    for name in ("auth/metadata-default", *scenarios):
        legs = {
            leg: run_client_suite(leg, "neutral", REVISIONS[0], tmp_path / leg / name.replace("/", "-"), name)[name]
            for leg in ("direct", "reverse+rewrite")
        }
        passed = {leg: {check["id"] for check in run if check["status"] == "SUCCESS"} for leg, run in legs.items()}
        differ |= passed["direct"] - passed["reverse+rewrite"]
        if name in scenarios:
            assert passed["direct"] > passed["reverse+rewrite"], f"{name} is equal; take it off the list"
    assert set(checks) <= differ, "what is equal leaves the list"
    for name in (*checks, *scenarios):
        assert f"`{name}`" in readme
