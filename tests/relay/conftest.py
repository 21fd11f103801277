from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def _no_secret_in_environment() -> Iterator[None]:
    """The harness gives the ledger its secret, and a verifier must find the same one."""
    from harness import SECRET

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDIT_SECRET", SECRET.decode())
        patch.delenv("AUDIT_SECRET_FILE", raising=False)
        yield
