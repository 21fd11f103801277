"""The JSON Schema says what the loader does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import yaml

from mcp_audit.cli.config import example_text
from mcp_audit.config import Config, Loaded
from mcp_audit.config.schema import json_schema
from mcp_audit.config.shapes import leaves_of
from mcp_audit.errors import ConfigError

Load = Callable[..., Loaded]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_example_fits(validator: Any) -> None:
    """An editor shows no complaint about the file we ship."""
    validator.validate(yaml.safe_load(example_text()))


def test_every_setting_is_described(validator: Any) -> None:
    """With its description; it is plain JSON."""
    schema = json.loads(json.dumps(validator.schema))
    definitions = schema["$defs"]

    def described(section: str) -> int:
        count = 0
        for property_ in definitions[section]["properties"].values():
            assert property_["description"]
            reference = property_.get("$ref", "").rpartition("/")[2]
            count += described(reference) if reference else 1
        return count

    aliases = 1
    assert described("Config") == len(leaves_of(Config)) + aliases


@pytest.mark.parametrize(
    "text",
    [
        "proxy: {port: 70000}",
        "proxy: {prot: 1}",
        "proxy: {transport: sse}",
        "proxy: {forward_headers: Authorization}",
        "audit: {checkpoint_interval_ms: 1}",
        "audit: {origin: 'a b'}",
        "policy: {rules: [{tool_name: x}]}",
        "policy: {rules: [{action: deny, args: {path: {exists: true}}}]}",
        "middleware: {rate_limit: {tools: {a: {}}}}",
        "metrics: {path: metrics}",
        "sinks: [{typ: x}]",
        "nothing: 1",
    ],
)
def test_schema_and_loader_refuse_the_same(validator: Any, loaded: Load, text: str) -> None:
    """A file that an editor marks does not load."""
    assert not validator.is_valid(yaml.safe_load(text))
    with pytest.raises(ConfigError):
        loaded(text)


@pytest.mark.parametrize(
    "text",
    [
        "metrics: {include_python_metrics: false}",
        "audit: {async: {enabled: true}}",
        "sinks: [otlp_logs, {type: otlp_logs}]",
        "policy: {rules: [{action: deny, args: {/a: {equals: [1], in: [1, x], exists: true}, '': {min: 0.5}}}]}",
    ],
)
def test_schema_and_loader_accept_the_same(validator: Any, loaded: Load, text: str) -> None:
    """And the other way round."""
    validator.validate(yaml.safe_load(text))
    loaded(text)


def test_secrets_are_marked(validator: Any) -> None:
    """So that tools that show a configuration can hide them."""
    definitions = validator.schema["$defs"]

    assert definitions["Audit"]["properties"]["secret"]["writeOnly"] is True
    assert definitions["Otel"]["properties"]["headers"]["additionalProperties"]["writeOnly"] is True
