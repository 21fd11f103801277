"""What the tests of the configuration share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mcp_audit.config import Loaded, load
from mcp_audit.errors import ConfigError

SECRET = "0123456789abcdef0123456789abcdef"

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Load a text as a named file, as `run` does but without demanding an upstream."""

    def loaded(text: str = "", environ: Mapping[str, str] | None = None, **more: object) -> Loaded:
        config: str | None = "none"
        if text:
            (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
            config = "c.yaml"
        options: dict[str, object] = {"flags": {}, "argv": None, "to_run": False} | more
        return load(
            options["flags"],  # type: ignore[arg-type]
            environ or {},
            tmp_path,
            options["argv"],  # type: ignore[arg-type]
            config=config,
            to_run=bool(options["to_run"]),
        )

    return loaded


@pytest.fixture
def problems(loaded: Load) -> Problems:
    """Load a text that must be refused, and return the sentences."""

    def problems(text: str = "", environ: Mapping[str, str] | None = None, **more: object) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            loaded(text, environ, **more)
        return [str(problem) for problem in caught.value.problems]

    return problems
