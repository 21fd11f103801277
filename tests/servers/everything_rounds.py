"""The parts of `everything.py` that ask the client: `input_required` results of MCP 2026-07-28, in every shape.

Promise: a handler keeps nothing between rounds. What it must remember travels in `requestState`, which the SDK seals,
so any round may reach any process that holds the key.
"""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    MissingRequiredClientCapabilityErrorData,
    SamplingCapability,
    SamplingMessage,
    TextContent,
)

__all__ = ["offer_rounds"]


def _form(message: str, field: str, kind: str = "string") -> ElicitRequest:
    """Ask for one required field."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, max_tokens: int = 100) -> CreateMessageRequest:
    """Ask the client's model."""
    messages = [SamplingMessage(role="user", content=TextContent(type="text", text=text))]
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=messages, max_tokens=max_tokens))


def _ask(state: str | None = None, **requests: InputRequest) -> InputRequiredResult:
    return InputRequiredResult(input_requests=requests, request_state=state)


def _answer(ctx: Context, key: str) -> Any:
    """The client's answer under `key`, or None if this is the first round or it answered something else."""
    return (ctx.input_responses or {}).get(key)


def _field(ctx: Context, key: str, field: str) -> Any:
    """One field of an accepted form, or None."""
    answer = _answer(ctx, key)
    if isinstance(answer, ElicitResult) and answer.action == "accept":
        return (answer.content or {}).get(field)
    return None


async def test_input_required_result_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Ask for a name; ask again until it comes."""
    name = _field(ctx, "user_name", "name")
    return f"Hello, {name}!" if name else _ask(user_name=_form("What is your name?", "name"))


async def test_input_required_result_sampling(ctx: Context) -> str | InputRequiredResult:
    """Ask the client's model one question."""
    answer = _answer(ctx, "capital_question")
    if isinstance(answer, CreateMessageResult) and isinstance(answer.content, TextContent):
        return f"{answer.model} says: {answer.content.text}"
    return _ask(capital_question=_sample("What is the capital of France?"))


async def test_input_required_result_list_roots(ctx: Context) -> str | InputRequiredResult:
    """Ask which roots the client has."""
    answer = _answer(ctx, "client_roots")
    if isinstance(answer, ListRootsResult):
        return "Roots: " + ", ".join(str(root.uri) for root in answer.roots)
    return _ask(client_roots=ListRootsRequest())


async def test_input_required_result_request_state(ctx: Context) -> str | InputRequiredResult:
    """Hand out a state and want it back."""
    if _field(ctx, "confirm", "ok") is not None and ctx.request_state == "waiting for the confirmation":
        return "state-ok"
    return _ask("waiting for the confirmation", confirm=_form("Please confirm", "ok", "boolean"))


async def test_input_required_result_tampered_state(ctx: Context) -> str | InputRequiredResult:
    """The same, for a client that forges the state: the seal rejects it before it comes here."""
    return await test_input_required_result_request_state(ctx)


async def test_input_required_result_multiple_inputs(ctx: Context) -> str | InputRequiredResult:
    """Ask for three things of three kinds at once."""
    name, greeting, roots = _field(ctx, "user_name", "name"), _answer(ctx, "greeting"), _answer(ctx, "client_roots")
    if name and isinstance(greeting, CreateMessageResult) and isinstance(roots, ListRootsResult):
        return f"{name} from {len(roots.roots)} root(s), greeted by {greeting.model}"
    return _ask(
        "waiting for three answers",
        user_name=_form("What is your name?", "name"),
        greeting=_sample("Generate a greeting", 50),
        client_roots=ListRootsRequest(),
    )


async def test_input_required_result_multi_round(ctx: Context) -> str | InputRequiredResult:
    """Two questions, one after the other; the first answer travels in the state."""
    name, colour = _field(ctx, "step1", "name"), _field(ctx, "step2", "color")
    stage, _, known = (ctx.request_state or "").partition(":")
    if stage == "name" and colour:
        return f"{known} likes {colour}"
    if name and stage == "begun":
        return _ask(f"name:{name}", step2=_form("Step 2: What is your favorite color?", "color"))
    return _ask("begun", step1=_form("Step 1: What is your name?", "name"))


async def test_input_required_result_capabilities(ctx: Context) -> str | InputRequiredResult:
    """Ask only what the client said it can answer."""
    declared = ctx.client_capabilities or ClientCapabilities()
    requests: dict[str, InputRequest] = {}
    if declared.elicitation is not None:
        requests["user_name"] = _form("What is your name?", "name")
    if declared.sampling is not None:
        requests["capital_question"] = _sample("What is the capital of France?")
    if declared.roots is not None:
        requests["client_roots"] = ListRootsRequest()
    if not requests:
        return "There is nothing this client could be asked."
    if set(requests) <= set(ctx.input_responses or ()):
        return "Answered: " + ", ".join(sorted(requests))
    return _ask(**requests)


async def test_streaming_elicitation(ctx: Context) -> str | InputRequiredResult:
    """Report progress on the stream, then ask: a question is a result, never a request of its own."""
    await ctx.report_progress(1, 2, "about to ask")
    return await test_input_required_result_elicitation(ctx)


async def test_missing_capability(ctx: Context) -> str:
    """Refuse a client that did not declare sampling, in the words the protocol has for it."""
    if ctx.client_capabilities is not None and ctx.client_capabilities.sampling is not None:
        return "This client declared sampling."
    missing = MissingRequiredClientCapabilityErrorData(
        required_capabilities=ClientCapabilities(sampling=SamplingCapability())
    )
    raise MCPError(
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        message="This tool needs the sampling capability.",
        data=missing.model_dump(by_alias=True, mode="json", exclude_none=True),
    )


async def test_input_required_result_prompt(ctx: Context) -> list[UserMessage] | InputRequiredResult:
    """A prompt that needs an answer first."""
    context = _field(ctx, "user_context", "context")
    if context is None:
        return _ask(user_context=_form("What context should the prompt use?", "context"))
    if not isinstance(context, str):
        raise MCPError(code=INVALID_PARAMS, message="the context must be a string")
    return [UserMessage(f"Use this context: {context}")]


def offer_rounds(server: MCPServer) -> None:
    """Add the tools and the prompt of this module to a server."""
    for tool in (
        test_input_required_result_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_tampered_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_capabilities,
        test_streaming_elicitation,
        test_missing_capability,
    ):
        server.add_tool(tool)
    server.prompt()(test_input_required_result_prompt)
