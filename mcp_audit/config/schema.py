"""The JSON Schema of the configuration, for editors and CI; from the same types that check it."""

from __future__ import annotations

import copy
import json
from typing import Any

from mcp_audit.config.model import Config
from mcp_audit.config.shapes import ALIASES

__all__ = ["json_schema"]


def json_schema() -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) as plain JSON data."""
    import msgspec

    schema: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mcp-audit configuration",
    }
    # Through JSON once, since the defaults are tuples here and lists there.
    schema |= json.loads(json.dumps(msgspec.json.schema(Config)))
    for definition in schema["$defs"].values():
        definition["description"] = " ".join(definition["description"].split())
    for alias, key in ALIASES.items():
        section, _, name = key.rpartition(".")
        properties = schema["$defs"][section.capitalize()]["properties"]
        twin = copy.deepcopy(properties[name])
        del twin["default"]
        properties[alias.rpartition(".")[2]] = twin | {"description": f"another spelling of {name}"}
    return schema
