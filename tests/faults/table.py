"""Runs the fault suite and writes docs/faults.md: what was broken, how, what the proxy did, what `verify` said.

    python tests/faults/table.py                the whole suite, the long tests included
    python tests/faults/table.py -k cut         some of it; the other rows keep what they said
    python tests/faults/table.py --report FILE  no tests: what a run said with -o junit_family=xunit1 --junitxml=FILE

The text of a row is what its test declares; the figures are what the tests saw. A row whose test was skipped says why.
"""

from __future__ import annotations

import importlib
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from xml.etree import ElementTree

__all__ = ["DOCUMENT", "Declared", "declared", "render", "rows_of"]

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "faults.md"
HEAD = """# Faults

Made by `python tests/faults/table.py`, which runs the suite and writes down what it saw. Each fault is real: a process
is killed, a disk is full, a system call fails, a file is changed. Each test ends with `verify`, and
`standalone_verify.py`, which shares no code with it, must say the same. *Checks* counts those verdicts; *kept* counts
the lines that were acknowledged (their answer was let through, or the sink returned) and had to be in the ledger
afterwards. The number of acknowledged lines that were lost is {lost}.

INTACT, TAMPERED, UNKNOWN and UNCLEAN are the exits 0, 1, 3 and 4 of `verify`. {machine}

{faults}

## Attacks

What somebody who can write the files can do, and the sentence that gives it away.

{attacks}
"""
Cells = tuple[str, ...]
FAULTS = ("fault", "how it is made", "what the proxy does", "`verify` says", "checks", "kept", "test")
ATTACKS = ("attack", "how it is made", "`verify` says", "checks", "test")


@dataclass
class Result:
    """What the tests of one row saw."""

    verdicts: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: int = 0
    skipped: str = ""


class Declared(NamedTuple):
    """The text of one row; `sentence` is what `verify` says about an attack, `verdicts` what it may."""

    fault: str
    by: str
    proxy: str
    sentence: str
    verdicts: tuple[str, ...]


def declared() -> dict[str, Declared]:
    """Return every row by `file::test` or `file::test[case]`."""
    found = {}
    for module in modules():
        for name, test in vars(module).items():
            row = getattr(test, "row", None)
            if not name.startswith("test_") or row is None:
                continue
            for case, (fault, sentence) in (row.cases or {"": (row.fault, "")}).items():
                key = f"{module.__name__}.py::{name}" + (f"[{case}]" if case else "")
                found[key] = Declared(fault, row.by, row.proxy, sentence, row.verify)
    return found


def modules() -> Iterator[ModuleType]:
    """The test modules of this folder that break something."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.stem != "test_table":
            yield importlib.import_module(path.stem)


def render(results: Mapping[str, Result], machine: str, old: Mapping[str, Cells] | None = None) -> str:
    """Return the document; rows that did not run keep what `old` says of them."""
    rows = {key: cells_of(key, text, results.get(key), (old or {}).get(key)) for key, text in declared().items()}
    faults = [cells for key, cells in rows.items() if declared()[key].proxy]
    attacks = [cells for key, cells in rows.items() if not declared()[key].proxy]
    lost = sum(result.lost for result in results.values())
    return HEAD.format(lost=lost, machine=machine, faults=table(FAULTS, faults), attacks=table(ATTACKS, attacks))


def table(names: Cells, rows: Iterable[Cells]) -> str:
    lines = [names, ("---",) * len(names), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells_of(key: str, text: Declared, result: Result | None, old: Cells | None) -> Cells:
    """Return one row: the text is what the test declares, the figures are what it saw."""
    said, checks, kept = ", ".join(text.verdicts), "not run", ""
    if result is not None and result.verdicts:
        said = ", ".join(f"{name} {count}" for name, count in sorted(result.verdicts.items()))
        checks, kept = str(result.verdicts.total()), str(result.acknowledged or "")
    elif result is not None:
        checks = f"skipped: {result.skipped}"
    elif old is not None:
        said, checks, kept = (old[3], old[4], old[5]) if text.proxy else (old[2], old[3], "")
        said = said.partition(":")[0]
    if text.sentence:
        said = f"{said}: … {text.sentence} …"
    figures = (said, checks, kept) if text.proxy else (said, checks)
    return (text.fault, text.by, *((text.proxy,) if text.proxy else ()), *figures, f"`{key}`")


def rows_of(document: str) -> dict[str, Cells]:
    """Return the cells of each row of a document, by its test."""
    rows = {}
    for line in document.split("\n"):
        cells = tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if cells and "::" in cells[-1]:
            rows[cells[-1].strip("`")] = cells
    return rows


def run(arguments: list[str], report: Path) -> None:
    """Run the suite and leave what it saw in a file."""
    options = ["-q", "-o", "junit_family=xunit1", f"--junitxml={report}", f"--ignore={HERE / 'test_table.py'}"]
    code = subprocess.run([sys.executable, "-m", "pytest", str(HERE), *options, *arguments], check=False).returncode
    if code:
        sys.exit(f"the table stays as it was: pytest exits with {code}")


def read(report: Path) -> dict[str, Result]:
    """Return what each row saw."""
    results: dict[str, Result] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            sys.exit(f"the table stays as it was: {case.attrib['name']} failed")
        key = key_of(case.attrib)
        if key in declared():
            take(results.setdefault(key, Result()), case)
    return results


def key_of(attributes: dict[str, Any]) -> str:
    """Return the row that a test belongs to: its own, or that of its parameter."""
    name, _, parameter = attributes["name"].partition("[")
    key = f"{attributes['classname'].rpartition('.')[2]}.py::{name}"
    return key if key in declared() else f"{key}[{parameter}"


def take(result: Result, case: ElementTree.Element) -> None:
    skipped = case.find("skipped")
    if skipped is not None:
        result.skipped = skipped.attrib.get("message", "").removeprefix("platform: ")
    for each in case.iter("property"):
        if each.attrib["name"] == "seen":
            saw = json.loads(each.attrib["value"])
            result.verdicts.update(saw["verdicts"])
            result.acknowledged += saw["acknowledged"]
            result.lost += saw["lost"]


def main() -> None:
    for folder in ("e2e", "sinks", ".", "faults"):
        sys.path.insert(0, str(HERE.parent / folder))
    arguments = sys.argv[1:]
    if arguments[:1] == ["--report"]:
        results = read(Path(arguments[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            run(arguments, report)
            results = read(report)
    old = rows_of(DOCUMENT.read_text(encoding="utf-8")) if arguments and DOCUMENT.exists() else None
    version = platform.release().partition("-")[0]
    machine = f"This run: {platform.system()} {version}, Python {platform.python_version()}."
    DOCUMENT.write_text(render(results, machine, old), encoding="utf-8")
    print(f"wrote {DOCUMENT.relative_to(HERE.parent.parent)}: {len(results)} rows")


if __name__ == "__main__":
    main()
