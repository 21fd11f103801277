"""`${ENV}` and `${file:PATH}` in secrets, and the audit secret."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.config import Loaded
from mcp_audit.config.references import Unresolved, env_names, expand

Load = Callable[..., Loaded]
Problems = Callable[..., list[str]]
SECRET = "0123456789abcdef0123456789abcdef"


def test_references_may_stand_anywhere_in_a_secret(tmp_path: Path) -> None:
    """Variables and files, less one final LF; `$${` is no reference."""
    (tmp_path / "token").write_bytes(b"from file\n\n")

    found = expand("Bearer ${TOKEN}/${file:token}/$${x}/$5", {"TOKEN": "${NOT_AGAIN}"}, tmp_path)

    assert found == "Bearer ${NOT_AGAIN}/from file\n/${x}/$5"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        pytest.param("${MISSING}", "names the environment variable MISSING, which is not set", id="missing"),
        pytest.param("${EMPTY}", "names the environment variable EMPTY, which is empty", id="empty"),
        pytest.param(
            "${file:none}", "names the file none, which cannot be read (No such file or directory)", id="no-file"
        ),
        pytest.param("${file:.}", "names the file ., which cannot be read (Is a directory)", id="directory"),
        pytest.param(
            "${file:/dev/zero}", "names the file /dev/zero, which cannot be read (it is larger than", id="endless"
        ),
        pytest.param("${file:binary}", "names the file binary, which is not UTF-8", id="binary"),
        pytest.param("${A-B}", "has a reference that is neither ${ENV_NAME} nor ${file:PATH}", id="shell-default"),
        pytest.param("${}", "has a reference that is neither ${ENV_NAME} nor ${file:PATH}", id="nothing"),
        pytest.param("x${TOKEN", "has `${` without a closing `}`", id="unclosed"),
    ],
)
def test_a_reference_that_leads_nowhere(tmp_path: Path, value: str, sentence: str) -> None:
    """The sentence follows the key, and says which of several it was."""
    (tmp_path / "binary").write_bytes(b"\xff")

    with pytest.raises(Unresolved) as caught:
        expand(value, {"EMPTY": ""}, tmp_path)

    assert str(caught.value).startswith(sentence)


@given(st.text(st.sampled_from("$ {}aB_:0"), max_size=20))
def test_what_is_expanded_is_also_hidden_from_the_upstream(value: str) -> None:
    """Every variable that an expansion reads is among `env_names`."""
    read: set[str] = set()

    class Environ(dict[str, str]):
        def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
            read.add(name)
            return "x"

        def __getitem__(self, name: str) -> str:
            return "x"

    with contextlib.suppress(Unresolved):
        expand(value, Environ(), Path("/nonexistent"))
    assert read <= env_names(value)


@pytest.mark.parametrize(
    ("environ", "text", "source"),
    [
        pytest.param({"AUDIT_SECRET": SECRET}, "audit: {secret: " + "x" * 32 + "}", "env AUDIT_SECRET", id="env-over-file"),
        pytest.param({"AUDIT_SECRET_FILE": "s"}, "audit: {secret: '${GONE}'}", "env AUDIT_SECRET_FILE", id="file-variable"),
        pytest.param({"S": SECRET}, "audit: {secret: '${S}'}", "c.yaml:1", id="reference"),
        pytest.param({}, "audit: {secret: '${file:s}'}", "c.yaml:1", id="file-reference"),
        pytest.param({}, f"audit: {{secret: {SECRET}}}", "c.yaml:1", id="written-out"),
        pytest.param({"MCP_AUDIT__AUDIT__SECRET": SECRET}, "", "env MCP_AUDIT__AUDIT__SECRET", id="setting-variable"),
    ],
)  # fmt: skip
def test_the_audit_secret(loaded: Load, tmp_path: Path, environ: dict[str, str], text: str, source: str) -> None:
    """Where it comes from; it is handed out once, and no copy stays in the settings."""
    (tmp_path / "s").write_text(SECRET + "\n")

    one = loaded(text, environ, to_run=True, argv=["server"])

    assert one.secret == SECRET.encode()
    assert one.sources["audit.secret"] == source
    assert SECRET not in repr(one)


def test_the_bytes_of_the_secret_are_the_variables_own(loaded: Load) -> None:
    """Also where they are not UTF-8, as the shell set them."""
    raw = b"\xff" * 32

    assert loaded(environ={"AUDIT_SECRET": os.fsdecode(raw)}).secret == raw


@pytest.mark.parametrize(
    ("environ", "text", "sentence"),
    [
        pytest.param({"AUDIT_SECRET": "x", "AUDIT_SECRET_FILE": "y"}, "", "env: audit.secret: AUDIT_SECRET and AUDIT_SECRET_FILE are both set; unset one of them", id="twice"),
        pytest.param({"AUDIT_SECRET": "change-me"}, "", "env AUDIT_SECRET: audit.secret: must have at least 32 bytes, has 9; make one with `mcp-audit keygen --secret FILE` and set AUDIT_SECRET_FILE, or leave it unset to run without MACs", id="short"),
        pytest.param({"AUDIT_SECRET": ""}, "", "env AUDIT_SECRET: audit.secret: must have at least 32 bytes, has 0", id="empty"),
        pytest.param({"AUDIT_SECRET_FILE": "gone"}, "", "env AUDIT_SECRET_FILE: audit.secret: cannot read the file gone (No such file or directory)", id="gone"),
        pytest.param({}, "audit: {secret: change-me}", "c.yaml:1: audit.secret: must have at least 32 bytes, has 9", id="short-in-file"),
        pytest.param({}, "audit: {secret: '${S}'}", "c.yaml:1: audit.secret: names the environment variable S, which is not set", id="reference"),
    ],
)  # fmt: skip
def test_a_secret_that_is_refused(problems: Problems, environ: dict[str, str], text: str, sentence: str) -> None:
    """31 characters less than needed, or none at all, must not start a proxy that seems to authenticate."""
    (only,) = problems(text, environ, to_run=True, argv=["server"])

    assert only.startswith(sentence)


def test_a_check_needs_no_secrets(loaded: Load) -> None:
    """CI checks the file without holding what it refers to."""
    one = loaded("audit: {secret: '${S}'}\notel: {headers: {Authorization: 'Bearer ${T}'}}")

    assert one.secret is None
    assert one.notices[:2] == (
        "c.yaml:1: audit.secret names the environment variable S, which is not set",
        "c.yaml:2: otel.headers names the environment variable T, which is not set",
    )


def test_what_the_upstream_must_not_see(loaded: Load) -> None:
    """Our secrets, our settings and every variable a secret names; the bundled broker's variables are its own."""
    environ = {
        "AUDIT_SECRET": SECRET,
        "MCP_AUDIT__PROXY__PORT": "1",
        "MCP_AUDIT_BROKER_CONFIG": "b.yaml",
        "MCP_AUDITOR": "x",
        "PATH": "/bin",
        "T": "t",
        "MCP_AUDIT__OTEL__HEADERS": "{A: '${U}'}",
        "U": "u",
    }

    one = loaded("otel: {headers: {A: 'Bearer ${T}'}}\nproxy: {upstream: 'echo ${PATH}'}", environ)

    assert one.config.otel.headers == {"A": "u"}
    assert one.secret_env_names & set(environ) == {
        "AUDIT_SECRET",
        "MCP_AUDIT__PROXY__PORT",
        "MCP_AUDIT__OTEL__HEADERS",
        "MCP_AUDITOR",
        "T",
        "U",
    }
    assert "AUDIT_SECRET_FILE" in one.secret_env_names


def test_only_secrets_are_expanded(loaded: Load) -> None:
    """Everything else is literal."""
    one = loaded("proxy: {upstream: 'echo ${HOME}'}\naudit: {path: '${HOME}/a'}", {"HOME": "/h"})

    assert (one.config.proxy.upstream, one.config.audit.path) == ("echo ${HOME}", "${HOME}/a")
