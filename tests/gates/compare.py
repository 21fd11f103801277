"""Two runs of a conformance suite, compared check by check: `python compare.py OUT1 OUT2 [--skip PREFIX]...`

Promise: equal means equal, not merely as green. Results are paired by folder name without its timestamp; each pair
must hold the same ordered list of (id, name, status), INFO included, and as many messages must have been validated
against the schema. A run without results equals nothing. Exit codes: 0 equal, 1 different, 2 unreadable.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import unified_diff
from pathlib import Path
from typing import Any

__all__ = ["Checks", "differences", "main", "read_run", "score"]

Checks = list[dict[str, Any]]

_TIMESTAMP = re.compile(r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d{3}Z$")


def read_run(out: Path) -> dict[str, Checks]:
    """Return the checks of every scenario in an output folder of the suite.

    Raises:
        ValueError: there is no result at all, or two of one scenario.
    """
    run: dict[str, Checks] = {}
    for file in sorted(out.rglob("checks.json")):
        name = _TIMESTAMP.sub("", file.parent.relative_to(out).as_posix())
        if name in run:
            raise ValueError(f"{out} has two results of {name}; give every run a folder of its own")
        run[name] = json.loads(file.read_bytes())
    if not run:
        raise ValueError(f"{out} has no checks.json below it; the suite did not run")
    return run


def score(run: Mapping[str, Checks]) -> tuple[int, int]:
    """Return how many checks passed and failed, counted as the suite does."""
    statuses = [check["status"] for checks in run.values() for check in checks]
    return statuses.count("SUCCESS"), statuses.count("FAILURE")


def differences(
    first: Mapping[str, Checks], second: Mapping[str, Checks], skip: Sequence[str] = (), ignore: Sequence[str] = ()
) -> dict[str, str]:
    """Return what differs, by scenario; empty if the runs are equal.

    Args:
        first: usually the direct run, as `read_run` returns it.
        second: usually the proxied one.
        skip: beginnings of names; such scenarios are not looked at.
        ignore: ids of checks whose verdicts may differ.
    """
    found: dict[str, str] = {}
    for name in sorted({*first, *second}):
        if name.startswith(tuple(skip)):
            continue
        if name not in first or name not in second:
            found[name] = f"only the {'first' if name in first else 'second'} run has it"
        elif len({tuple(_key(check, ignore) for check in run[name]) for run in (first, second)}) > 1:
            told = ([_told(check) for check in run[name]] for run in (first, second))
            found[name] = "\n".join(unified_diff(*told, "first", "second", lineterm="", n=2))
    return found


def _key(check: Mapping[str, Any], ignore: Sequence[str] = ()) -> tuple[Any, ...]:
    """What must be equal."""
    if check["id"] in ignore:
        return (check["id"],)
    validated = check["details"]["messagesValidated"] if check["id"] == "wire-schema-valid" else None
    return check["id"], check["name"], check["status"], validated


def _told(check: Mapping[str, Any]) -> str:
    """The same for a reader, who also wants to know why."""
    reason = " ".join(str(check.get("errorMessage") or check.get("description", "")).split())
    return " ".join(str(part) for part in _key(check) if part is not None) + f" ({reason})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two output folders and say what differs."""
    parser = argparse.ArgumentParser(description="Compare two runs of a conformance suite, check by check.")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--skip", action="append", default=[], help="leave out scenarios that begin with this")
    options = parser.parse_args(arguments)
    try:
        first, second = read_run(options.first), read_run(options.second)
    except (OSError, ValueError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    found = differences(first, second, options.skip)
    for name, what in found.items():
        print(f"{name}:\n{what}\n")
    for path, run in ((options.first, first), (options.second, second)):
        passed, failed = score(run)
        print(f"{path}: {passed} passed, {failed} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
