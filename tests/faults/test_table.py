"""docs/faults.md says what the suite says: the same faults, the same conduct, no verdict that is not declared."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from table import DOCUMENT, declared, rows_of

HERE = Path(__file__).parent


def test_every_test_of_this_folder_declares_its_fault() -> None:
    """No fault without a row."""
    tests = set()
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
            tests |= {f"{path.name}::{name}" for name in names if name.startswith("test_")}

    assert tests == {key.partition("[")[0] for key in declared()}


def test_the_document_has_the_rows_of_the_suite() -> None:
    """After a change run `python tests/faults/table.py`."""
    rows = rows_of(DOCUMENT.read_text(encoding="utf-8"))

    assert sorted(rows) == sorted(declared())
    for key, text in declared().items():
        cells = rows[key]
        assert cells[: 3 if text.proxy else 2] == ((text.fault, text.by, text.proxy) if text.proxy else text[:2]), key
        said, _, sentence = cells[3 if text.proxy else 2].partition(": … ")
        seen = set(re.findall(r"[A-Z]{4,}", said))
        assert seen, key
        assert seen <= set(text.verdicts), key
        assert sentence.removesuffix(" …") == text.sentence, key


def test_the_document_reports_no_loss() -> None:
    """What was acknowledged was there."""
    text = " ".join(DOCUMENT.read_text(encoding="utf-8").split())

    assert "The number of acknowledged lines that were lost is 0." in text
