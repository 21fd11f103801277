from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pictures


def test_the_picture_in_the_readme_shows_what_the_demo_prints() -> None:
    """docs/demo.svg is made from the program's own output; `python tests/pictures.py` makes it anew."""
    committed = (pictures.DOCS / "demo.svg").read_text()

    assert pictures.words(pictures.demo_svg()) == pictures.words(committed)
