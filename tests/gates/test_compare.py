"""What the gates take for equal: same checks, same order, same verdicts, as many messages validated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from compare import differences, main, read_run, score

Check = dict[str, Any]


def check(id_: str, status: str = "SUCCESS", **details: Any) -> Check:
    """One check, as the suite writes it."""
    return {"id": id_, "name": id_.title(), "status": status, "timestamp": "now", "details": details}


def write_run(out: Path, *scenarios: tuple[str, list[Check]], at: str = "2026-11-21T18-40-28-411Z") -> Path:
    """Write an output folder of the suite."""
    for name, checks in scenarios:
        folder = out / f"{name}-{at}"
        folder.mkdir(parents=True)
        (folder / "checks.json").write_text(json.dumps(checks))
    return out


USUAL = [check("ping"), check("log", "INFO", port=1), check("wire-schema-valid", messagesValidated=4)]


def test_equal_runs_are_equal_whenever_they_ran(tmp_path: Path) -> None:
    """Timestamps in names and values in details do not count; scenarios may have folders of their own."""
    first = write_run(tmp_path / "1", ("auth/basic", USUAL), ("ping", USUAL))
    other = [check("ping"), check("log", "INFO", port=2), check("wire-schema-valid", messagesValidated=4)]
    second = write_run(tmp_path / "2", ("auth/basic", other), ("ping", other), at="2027-01-01T00-00-00-000Z")

    assert read_run(first).keys() == {"auth/basic", "ping"}
    assert not differences(read_run(first), read_run(second))
    assert main([str(first), str(second)]) == 0


@pytest.mark.parametrize(
    "checks",
    [
        pytest.param([check("ping", "FAILURE"), *USUAL[1:]], id="status"),
        pytest.param([{**USUAL[0], "name": "Pong"}, *USUAL[1:]], id="name"),
        pytest.param([USUAL[1], USUAL[0], USUAL[2]], id="order"),
        pytest.param([USUAL[0], *USUAL], id="twice"),
        pytest.param(USUAL[1:], id="missing"),
        pytest.param([*USUAL[:2], check("wire-schema-valid", messagesValidated=3)], id="fewer-messages"),
        pytest.param([USUAL[0], USUAL[2]], id="info-missing"),
    ],
)
def test_a_difference_is_found_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checks: list[Check]
) -> None:
    """Both ways round, in the scenario that has it and in no other."""
    first = write_run(tmp_path / "1", ("ping", USUAL), ("tools", USUAL))
    second = write_run(tmp_path / "2", ("ping", checks), ("tools", USUAL))

    assert differences(read_run(first), read_run(second)).keys() == {"ping"}
    assert differences(read_run(second), read_run(first)).keys() == {"ping"}
    assert main([str(first), str(second)]) == 1
    assert "--- first" in capsys.readouterr().out
    assert main([str(first), str(second), "--skip", "pi"]) == 0


def test_a_check_whose_verdict_is_ignored_must_be_there_all_the_same() -> None:
    """In its place; a check that is missing was not made."""
    one, other = [check("a"), check("b")], [check("a", "FAILURE"), check("b")]

    assert differences({"ping": one}, {"ping": other}).keys() == {"ping"}
    assert not differences({"ping": one}, {"ping": other}, ignore=("a",))
    assert differences({"ping": one}, {"ping": other}, ignore=("b",)).keys() == {"ping"}
    assert differences({"ping": one}, {"ping": one[1:]}, ignore=("a",)).keys() == {"ping"}


def test_a_scenario_that_did_not_run_is_a_difference(tmp_path: Path) -> None:
    """On either side."""
    both, one = {"ping": USUAL, "tools": USUAL}, {"ping": USUAL}

    assert differences(both, one) == {"tools": "only the first run has it"}
    assert differences(one, both) == {"tools": "only the second run has it"}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((), id="no-results"),
        pytest.param(("2026-11-21T18-40-28-411Z", "2026-11-21T18-40-29-000Z"), id="two-results"),
    ],
)
def test_a_run_that_proves_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...]
) -> None:
    """An empty folder would equal another empty one."""
    out = tmp_path / "out"
    out.mkdir()
    for at in names:
        write_run(out, ("ping", USUAL), at=at)

    with pytest.raises(ValueError, match=r"no checks\.json|two results"):
        read_run(out)
    assert main([str(out), str(out)]) == 2
    assert capsys.readouterr().err.startswith("compare: ")


def test_a_score_counts_as_the_suite_does() -> None:
    """INFO, WARNING and SKIPPED are neither passed nor failed."""
    checks = [check("a"), check("b", "FAILURE"), check("c", "INFO"), check("d", "WARNING"), check("e", "SKIPPED")]

    assert score({"one": checks, "two": [check("a")]}) == (2, 1)
