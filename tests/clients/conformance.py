"""The conformance client: an MCP client on the Python SDK that plays every scenario of the client suites.

Promise: it does what a good client does and nothing a scenario does not ask for, one request after the other, so that
two runs send the same requests in the same order. It exits 0 if the scenario went through.

The suite passes the URL as the last argument and the rest in the environment: MCP_CONFORMANCE_SCENARIO,
MCP_CONFORMANCE_PROTOCOL_VERSION and MCP_CONFORMANCE_CONTEXT (JSON, where a scenario needs it).

Example: MCP_CONFORMANCE_SCENARIO=tools_call python tests/clients/conformance.py http://localhost:4102/mcp
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx2
from conformance_logins import login
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import (
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    TextContent,
)

__all__ = ["main"]

MODERN = "2026-07-28"
SAMPLES: dict[str, Any] = {"string": "x", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}


def _context() -> dict[str, Any]:
    return dict(json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}"))


async def _elicited(_: Any, params: Any) -> ElicitResult:
    """Accept, with the defaults the form names."""
    if not isinstance(params, ElicitRequestFormParams):
        return ElicitResult(action="decline")
    fields = params.requested_schema["properties"]
    return ElicitResult(action="accept", content={k: v["default"] for k, v in fields.items() if "default" in v})


async def _sampled(_: Any, __: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", model="none", content=TextContent(text="I have no model."))


async def _roots(_: Any) -> ListRootsResult:
    return ListRootsResult(roots=[])


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """The least a tool accepts."""
    return {name: SAMPLES[schema["properties"][name]["type"]] for name in schema.get("required", ())}


async def use_every_tool(client: Client) -> None:
    """List the tools, and call each once: what most scenarios need."""
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, _arguments(tool.input_schema))


async def only_list(client: Client) -> None:
    """Read the schemas; a reference in them that names another host must stay unread."""
    await client.list_tools()


async def add_numbers(client: Client) -> None:
    """Call a tool with arguments."""
    await client.list_tools()
    await client.call_tool("add_numbers", {"a": 5, "b": 3})


async def echo_schema(client: Client) -> None:
    """Send a schema back as it was understood."""
    schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
    await client.call_tool("json_schema_echo", {"schema": schemas["json_schema_2020_12_tool"]})


async def call_as_told(client: Client) -> None:
    """Call tools whose arguments travel in headers as well."""
    await client.list_tools()
    for call in _context()["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def use_everything(client: Client) -> None:
    """One request of each kind that has a name."""
    await use_every_tool(client)
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def answer_rounds(client: Client) -> None:
    """Answer questions that come as results; another call between two rounds must not carry anything over."""
    await client.list_tools()
    first = await client.session.call_tool("test_mrtr_echo_state", {}, allow_input_required=True)
    assert isinstance(first, InputRequiredResult), first
    await client.call_tool("test_mrtr_unrelated", {})
    yes = ElicitResult(action="accept", content={"confirmed": True})
    answers = dict.fromkeys(first.input_requests or (), yes)
    await client.call_tool("test_mrtr_echo_state", {}, input_responses=answers, request_state=first.request_state)
    await client.call_tool("test_mrtr_no_state", {})
    await client.call_tool("test_mrtr_no_result_type", {})


async def insist_once(client: Client) -> None:
    """Ask again after a refusal: a server that wants ever more scopes must not be asked for ever."""
    with suppress(MCPError):
        await client.list_tools()
    await client.list_tools()


SCENARIOS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "tools_call": add_numbers,
    "sep-2322-client-request-state": answer_rounds,
    "http-standard-headers": use_everything,
    "http-custom-headers": call_as_told,
    "json-schema-ref-no-deref": only_list,
    "json-schema-2020-12-preservation": echo_schema,
    "auth/scope-retry-limit": insist_once,
}


async def play(scenario: str, url: str, *, modern: bool) -> None:
    """Connect in the era the scenario wants, able to answer everything a server may ask, and play."""
    auth = await login(scenario, url, _context())
    # No timeout of ours: on a slow machine it would be the machine's failure that a suite reports.
    async with (
        httpx2.AsyncClient(auth=auth, timeout=None) as web,
        Client(
            streamable_http_client(url, http_client=web),
            mode="auto" if modern else "legacy",
            elicitation_callback=_elicited,
            sampling_callback=_sampled,
            list_roots_callback=_roots,
        ) as client,
    ):
        await SCENARIOS.get(scenario, use_every_tool)(client)


def main() -> None:
    """Play the scenario the environment names; what the server refuses ends in a traceback and exit code 1."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION") == MODERN
    asyncio.run(play(os.environ.get("MCP_CONFORMANCE_SCENARIO", ""), sys.argv[-1], modern=modern))


if __name__ == "__main__":
    main()
