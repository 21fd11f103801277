"""`mcp-audit config`: check, show, example, schema."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from mcp_audit.cli import main
from mcp_audit.cli.config import HIDDEN
from mcp_audit.config import Config, load
from mcp_audit.config.shapes import leaves_of

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("MCP_AUDIT", "AUDIT_SECRET")):
            monkeypatch.delenv(name)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def test_check_prints_every_problem_and_exits_2(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, on stderr, with file and line."""
    write(here / "my.yaml", "proxy:\n  prot: 1\naudit: {capture: full}\n")

    code = main(["config", "check", "my.yaml"])

    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.splitlines() == [
        "my.yaml:2: proxy.prot: there is no such key; did you mean `port`?",
        "my.yaml:3: audit.capture: full stores payloads as relayed; set middleware.redact.enabled: false as well, "
        "or keep `redacted`",
        "invalid: 2 problems",
    ]


def test_check_of_a_valid_file(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes first, the verdict last; notes do not change the exit code."""
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    write(here / "my.yaml", "policy:\n  rules:\n    - {action: deny, client_id: claude-desktop}\n")

    code = main(["config", "check", "my.yaml"])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "note: my.yaml:2: policy.rules are not enforced, because policy.enabled is false",
        "note: my.yaml:2: policy.rules name claude-desktop, which matches everyone while proxy.client_id is auto; "
        "set proxy.client_id to a name, or leave client_id out of the rules",
        "my.yaml: valid",
    ]


def test_check_without_a_path_takes_what_run_would_take(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """./config.yaml here; where there is none, that is said."""
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no configuration file, only defaults and environment: valid"
    write(here / "config.yaml", "proxy: {port: 1}")
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "config.yaml: valid"


def test_check_includes_environment_and_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is checked is what would run."""
    monkeypatch.setenv("MCP_AUDIT__PROXY__PORT", "x")

    assert main(["config", "check", "--log-level", "loud"]) == 2
    assert capsys.readouterr().err.splitlines()[:2] == [
        "env MCP_AUDIT__PROXY__PORT: proxy.port: must be a whole number, found 'x'",
        "--log-level: must be auto, debug, info, warn or error, found 'loud'",
    ]


def test_check_of_two_files_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """Which of the two was meant?"""
    assert main(["config", "check", "a.yaml", "--config", "b.yaml"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_show_says_where_each_value_comes_from(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And marks what does nothing yet."""
    monkeypatch.setenv("MCP_AUDIT__AUDIT__PATH", "x.jsonl")
    write(here / "config.yaml", "proxy:\n  client_id: me\n")

    assert main(["config", "show", "--port", "4500"]) == 0

    lines: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        lines.setdefault(line.split(":")[0].strip(), line)  # the first of a name, from the section above the others
    assert lines["client_id"].split() == ["client_id:", '"me"', "#", "config.yaml:2"]
    assert lines["path"].split() == ["path:", '"x.jsonl"', "#", "env", "MCP_AUDIT__AUDIT__PATH"]
    assert lines["port"].split("#")[1] == " --port"
    assert lines["endpoint"].endswith("# default; not yet active: OpenTelemetry")
    assert lines["flush_interval_ms"].endswith("# default; read and unused, since group commit needs no timer")


def test_what_show_prints_can_be_loaded_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is YAML, and the same settings."""
    write(
        here / "config.yaml",
        """\
proxy: {client_id: "a\\tb: ☃", forward_headers: [Authorization], port: 5}
middleware: {rate_limit: {tools: {"x*": {requests_per_minute: 5}}}}
policy: {enabled: true, rules: [{action: deny, args: {/a: {equals: null, in: [1, "1"]}}}]}
sinks: [a, {type: b}]
""",
    )
    before = load({}, {}, here, to_run=False).config
    assert main(["config", "show"]) == 0
    write(here / "again.yaml", capsys.readouterr().out)

    assert load({}, {}, here, config="again.yaml", to_run=False).config == before


def test_show_hides_secrets(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of headers stay, values go; an unset secret is shown as unset."""
    monkeypatch.setenv("AUDIT_SECRET", SECRET)
    monkeypatch.setenv("TOKEN", "sesame")
    write(here / "config.yaml", "otel: {headers: {Authorization: 'Bearer ${TOKEN}', X: sesame}}\n")
    for words in (["config", "show"], ["config", "show", "--json"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "sesame" not in out
        assert SECRET not in out
        settings = json.loads(out)["settings"] if "--json" in words else None

    assert settings is not None
    assert settings["otel.headers"]["value"] == {"Authorization": HIDDEN, "X": HIDDEN}
    assert settings["audit.secret"] == {"value": HIDDEN, "source": "env AUDIT_SECRET"}
    assert settings["dashboard.auth.token"] == {"value": "", "source": "default"}


def test_show_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting with value and source, and what is not active."""
    write(here / "config.yaml", "proxy: {port: 1}")

    assert main(["config", "show", "--json"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert list(shown["settings"]) == [key for key, _, _ in leaves_of(Config)]
    assert shown["settings"]["proxy.port"] == {"value": 1, "source": "config.yaml:1"}
    assert shown["path"] == str(here / "config.yaml")
    assert len(shown["sha256"]) == 64
    assert shown["not_yet_active"]["otel.endpoint"] == "OpenTelemetry"
    assert "audit.path" not in shown["not_yet_active"]
    assert "audit.async.flush_interval_ms" in shown["unused"]


def test_show_of_a_broken_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The problems, and exit 2."""
    write(here / "config.yaml", "proxy: {prot: 1}")

    assert main(["config", "show"]) == 2
    assert capsys.readouterr().err.startswith("mcp-audit: config.yaml:1: proxy.prot: there is no such key")


def test_example_prints_the_documented_defaults(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints is a valid configuration."""
    assert main(["config", "example"]) == 0
    write(here / "config.yaml", capsys.readouterr().out)

    assert main(["config", "check"]) == 0


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Ready to be written to a file."""
    assert main(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")


def test_show_without_an_action_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit 2."""
    with pytest.raises(SystemExit) as caught:
        main(["config"])

    assert caught.value.code == 2
    assert "check|show|example|schema" in capsys.readouterr().err


def test_the_example_is_found_in_a_checkout_and_is_what_the_wheel_packs() -> None:
    """The build copies the file beside the module that reads it."""
    from mcp_audit.cli import config

    top = Path(config.__file__).resolve().parents[2]
    build = (top / "pyproject.toml").read_text(encoding="utf-8")

    assert '"config.example.yaml" = "mcp_audit/config/config.example.yaml"' in build
    assert yaml.safe_load(config.example_text())["proxy"]["port"] == 4422
