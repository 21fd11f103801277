"""Which file is read: a named one, or one here that is plainly ours."""

# ruff: noqa: E501 - a sentence of the tables is kept on one line, so that it can be searched for.

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mcp_audit.config import Loaded, load
from mcp_audit.errors import ConfigError


def from_here(cwd: Path, environ: dict[str, str] | None = None, config: str | None = None) -> Loaded:
    return load({}, environ or {}, cwd, config=config, to_run=False)


def refusal(cwd: Path, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        from_here(cwd, **more)  # type: ignore[arg-type]
    return str(caught.value)


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_precedence_of_files(tmp_path: Path) -> None:
    """`--config`, else MCP_AUDIT_CONFIG, else ./config.yaml, else none; `none` reads none."""
    for name, port in (("config.yaml", 1), ("env.yaml", 2), ("flag.yaml", 3)):
        write(tmp_path / name, f"proxy: {{port: {port}}}")
    environ = {"MCP_AUDIT_CONFIG": "env.yaml"}

    assert from_here(tmp_path).config.proxy.port == 1
    assert from_here(tmp_path, environ).config.proxy.port == 2
    assert from_here(tmp_path, environ, "flag.yaml").config.proxy.port == 3
    assert from_here(tmp_path, environ, "none").path is None
    assert from_here(tmp_path, {"MCP_AUDIT_CONFIG": "none"}).path is None
    assert from_here(tmp_path, {"MCP_AUDIT_CONFIG": ""}).config.proxy.port == 1
    assert from_here(tmp_path / "..").path is None


def test_what_is_said_of_the_file(tmp_path: Path) -> None:
    """Its path, and the digest of its very bytes for the ledger's first line."""
    path = write(tmp_path / "config.yaml", "proxy: {port: 1}\n")

    one = from_here(tmp_path)

    assert one.path == path
    assert one.sha256 == hashlib.sha256(b"proxy: {port: 1}\n").hexdigest()
    assert one.notices == ()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("server: {host: x}\nlogging: 3\n", id="other-keys"),
        pytest.param("", id="empty"),
        pytest.param("# nothing\n", id="comment"),
        pytest.param("- a\n- b\n", id="list"),
        pytest.param("just words", id="text"),
        pytest.param("services:\n  metrics: {}\n", id="our-words-deeper"),
        pytest.param("a: 1\n---\nkind: Deployment\n", id="two-documents"),
        pytest.param("name: {{ .Values.name }}\n\tx: 1", id="template"),
    ],
)
def test_another_programs_file_is_left_alone(tmp_path: Path, text: str) -> None:
    """With a notice, valid YAML or not."""
    write(tmp_path / "config.yaml", text, 0o666)

    one = from_here(tmp_path)

    assert one.path is None
    assert one.sha256 == ""
    (notice,) = one.notices
    assert notice.startswith("config.yaml ")
    assert notice.endswith("so it was left alone")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("polcy: {}", "config.yaml:1: polcy: there is no such key; did you mean `policy`?", id="misspelt"),
        pytest.param("POLICY: {}", "config.yaml:1: POLICY: there is no such key; did you mean `policy`?", id="shouted"),
        pytest.param("policy: {}\nserver: 1", "config.yaml:2: server: there is no such key; allowed here:", id="mixed"),
        pytest.param("policy:\n\tenabled: true", "config.yaml:2: the line is indented with a tab", id="broken"),
        pytest.param("policy: {}\n---\nb: 1", "config.yaml:2: a second document begins here", id="two-documents"),
    ],
)
def test_a_file_that_may_be_ours_is_not_left_alone(tmp_path: Path, text: str, sentence: str) -> None:
    """To drop it would drop its policy; the sentence also says what to do if it is not ours."""
    write(tmp_path / "config.yaml", text)

    said = refusal(tmp_path)

    assert said.startswith(sentence)
    assert said.endswith("; if it belongs to another program, pass `--config none`")


def test_a_broken_file_in_another_encoding_is_looked_at_too(tmp_path: Path) -> None:
    """UTF-16 from PowerShell is ours all the same."""
    (tmp_path / "config.yaml").write_bytes("policy: {enabled: true}\n".encode("utf-16"))

    assert refusal(tmp_path).startswith("config.yaml: the file is UTF-16; save it as UTF-8")


@pytest.mark.skipif(os.name != "posix", reason="platform: modes are POSIX")
def test_a_file_that_everybody_can_write(tmp_path: Path) -> None:
    """Found here it is refused; named it is read, with a notice."""
    write(tmp_path / "config.yaml", "proxy: {port: 1}", 0o666)

    assert refusal(tmp_path).startswith(
        "config.yaml: every user of this machine can change it, so it is not trusted; run chmod o-w on it"
    )
    one = from_here(tmp_path, config="config.yaml")
    assert one.config.proxy.port == 1
    assert one.notices == ("config.yaml can be changed by every user of this machine; run chmod o-w on it",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("gone.yaml", "gone.yaml: cannot be read (No such file or directory)", id="missing"),
        pytest.param(".", ".: cannot be read (Is a directory)", id="directory"),
        pytest.param("", "--config: needs a path, or `none`", id="no-name"),
        pytest.param("empty.yaml", "empty.yaml: the file is empty; write at least one key, or pass `--config none`", id="empty"),
        pytest.param("/dev/zero", "/dev/zero: is larger than 1048576 bytes, which no configuration is", id="endless"),
    ],
)  # fmt: skip
def test_a_named_file_must_be_there(tmp_path: Path, name: str, sentence: str) -> None:
    """An empty one too: half-written files are empty, and no policy is the worst default."""
    write(tmp_path / "empty.yaml", "\n")

    assert refusal(tmp_path, config=name) == sentence


def test_a_named_file_of_comments_is_said_to_be_one(tmp_path: Path) -> None:
    """The example with everything commented out is a way to begin."""
    write(tmp_path / "c.yaml", "# proxy:\n")

    assert from_here(tmp_path, config="c.yaml").notices == (
        "c.yaml holds only comments, so every setting has its default",
    )


def test_a_pipe_can_be_named(tmp_path: Path) -> None:
    """`--config <(generate)` of a shell."""
    reader, writer = os.pipe()
    os.write(writer, b"proxy: {port: 7}")
    os.close(writer)
    try:
        assert from_here(tmp_path, config=f"/dev/fd/{reader}").config.proxy.port == 7
    finally:
        os.close(reader)
