"""What `everything.py` offers: tools, resources and prompts by the names the conformance suites ask for.

Promise: the same question gets the same answer. Changed lists are announced and never changed, so that the second of
two runs meets the server of the first.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Annotated, Any, Literal

from everything_rounds import offer_rounds
from mcp.server import Server, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp.server.request_state import RequestStateSecurity
from mcp_types import (
    AudioContent,
    Completion,
    CompletionArgument,
    CompletionContext,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field

__all__ = ["make_server"]

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
SILENCE = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQIAAACAgA=="
RECONNECT_SECONDS = 0.2  # twice the time a client is told to wait, so that the answer finds it back
# Any key of 32 bytes will do; a fixed one lets a client finish a round after a restart.
STATE_KEY = b"of a test server, protects nothing: 0123456789abcdef"

DIALECT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


class Contact(BaseModel):
    """What `test_elicitation` asks for."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A default for each primitive type."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: Literal["active", "inactive", "pending"] = "active"
    verified: bool = True


def _titled(*names: str) -> list[dict[str, str]]:
    return [{"const": f"value{number}", "title": name} for number, name in enumerate(names, 1)]


class Choices(BaseModel):
    """The five ways to write an enumeration."""

    untitledSingle: Literal["option1", "option2", "option3"]
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled("First", "Second", "Third")})  # type: ignore[dict-item]
    legacyEnum: Literal["opt1", "opt2", "opt3"] = Field(json_schema_extra={"enumNames": ["One", "Two", "Three"]})
    untitledMulti: list[Literal["option1", "option2", "option3"]]
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": _titled("First", "Second", "Third")}})  # type: ignore[dict-item]


async def test_simple_text() -> str:
    """Return text."""
    return "This is a simple text response for testing."


async def test_image_content() -> list[ImageContent]:
    """Return an image."""
    return [ImageContent(data=PIXEL, mime_type="image/png")]


async def test_audio_content() -> list[AudioContent]:
    """Return a sound."""
    return [AudioContent(data=SILENCE, mime_type="audio/wav")]


def _embedded(uri: str, text: str, mime_type: str = "text/plain") -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=text))


async def test_embedded_resource() -> list[EmbeddedResource]:
    """Return a resource."""
    return [_embedded("test://embedded-resource", "This is an embedded resource content.")]


async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    """Return three kinds of content."""
    return [
        TextContent(text="Multiple content types test:"),
        ImageContent(data=PIXEL, mime_type="image/png"),
        _embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ]


async def test_tool_with_logging(ctx: Context) -> str:
    """Log three messages, some time apart."""
    await ctx.info("Tool execution started")
    await asyncio.sleep(0.05)
    await ctx.info("Tool processing data")
    await asyncio.sleep(0.05)
    await ctx.info("Tool execution completed")
    return "Tool with logging executed successfully"


async def test_logging_tool(ctx: Context) -> str:
    """Log once; whether the client hears of it is the protocol's business."""
    await ctx.info("logged")
    return "Logged."


async def test_tool_with_progress(ctx: Context) -> str:
    """Report progress three times, some time apart."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return "Tool with progress executed successfully"


async def test_error_handling() -> str:
    """Fail as a tool is meant to."""
    raise ToolError("This tool intentionally returns an error for testing")


async def test_sampling(prompt: str, ctx: Context) -> str:
    """Ask the client's model, with a request of our own."""
    messages = [SamplingMessage(role="user", content=TextContent(text=prompt))]
    # On the stream of this call: the standing one is opened in the background and may not be there yet.
    answer = await ctx.session.create_message(messages, max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content.text if isinstance(answer.content, TextContent) else answer.content.type}"


async def _elicited(ctx: Context, prefix: str, message: str, schema: type[BaseModel]) -> str:
    answer = await ctx.elicit(message, schema)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return f"{prefix}: action={answer.action}, content={content}"


async def test_elicitation(message: str, ctx: Context) -> str:
    """Ask the client's user, with a request of our own."""
    return await _elicited(ctx, "User response", message, Contact)


async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
    """Ask for fields that have defaults."""
    return await _elicited(ctx, "Elicitation completed", "Please check these defaults", Defaults)


async def test_elicitation_sep1330_enums(ctx: Context) -> str:
    """Ask for choices, in every way to write them."""
    return await _elicited(ctx, "Elicitation completed", "Please choose", Choices)


async def test_reconnection(ctx: Context) -> str:
    """Close the stream of this very call; the client comes back for the answer."""
    await ctx.close_sse_stream()
    await asyncio.sleep(RECONNECT_SECONDS)
    return "Reconnection test completed"


async def test_x_mcp_header(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
    """Take an argument that a client repeats in the header Mcp-Param-Region."""
    return f"The region is {region}."


async def test_trigger_tool_change(ctx: Context) -> str:
    """Announce a changed list of tools."""
    await ctx.notify_tools_changed()
    return "Announced."


async def test_trigger_prompt_change(ctx: Context) -> str:
    """Announce a changed list of prompts."""
    await ctx.notify_prompts_changed()
    return "Announced."


async def json_schema_2020_12_tool(name: str = "") -> str:
    """Take arguments that only JSON Schema 2020-12 can describe."""
    return f"Hello, {name}!"


TOOLS = (
    test_simple_text, test_image_content, test_audio_content, test_embedded_resource, test_multiple_content_types,
    test_tool_with_logging, test_logging_tool, test_tool_with_progress, test_error_handling, test_sampling,
    test_elicitation, test_elicitation_sep1034_defaults, test_elicitation_sep1330_enums, test_reconnection,
    test_x_mcp_header, test_trigger_tool_change, test_trigger_prompt_change,
)  # fmt: skip


def _offer_resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain", description="Text that never changes")
    def static_text() -> str:
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png", description="Bytes that never change")
    def static_binary() -> bytes:
        return base64.b64decode(PIXEL)

    @server.resource("test://watched-resource", mime_type="text/plain", description="Text one may subscribe to")
    def watched_resource() -> str:
        return "Watched resource content"

    @server.resource("test://template/{id}/data", mime_type="application/json", description="Text made of its name")
    def template(id: str) -> str:  # noqa: A002 - the template names it
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


def _offer_prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> list[UserMessage]:
        """A prompt without arguments."""
        return [UserMessage("This is a simple prompt for testing.")]

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
        """A prompt with two arguments."""
        return [UserMessage(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")]

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """A prompt that carries a resource."""
        resource = _embedded(resourceUri, "Embedded resource content for testing.")
        return [UserMessage(resource), UserMessage("Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """A prompt that carries an image."""
        image = ImageContent(data=PIXEL, mime_type="image/png")
        return [UserMessage(image), UserMessage("Please analyze the image above.")]

    @server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
    async def complete(
        ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, _: CompletionContext | None
    ) -> Completion:
        values = [value for value in ("paris", "park", "party") if value.startswith(argument.value)]
        return Completion(values=values, total=len(values), has_more=False)


def _offer_legacy(server: Server[Any]) -> None:
    """What handshake revisions have and 2026-07-28 removed; acknowledged, since nothing here depends on it."""

    async def acknowledge(_: ServerRequestContext[Any], __: BaseModel) -> EmptyResult:
        return EmptyResult()

    server.add_request_handler("logging/setLevel", SetLevelRequestParams, acknowledge)
    server.add_request_handler("resources/subscribe", SubscribeRequestParams, acknowledge)
    server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, acknowledge)


def make_server() -> MCPServer:
    """Return the server, offering everything."""
    dialect = Tool.from_function(json_schema_2020_12_tool).model_copy(update={"parameters": DIALECT})
    server = MCPServer(
        "everything",
        version="1.0.0",
        instructions="Every feature the conformance suites ask about.",
        log_level="CRITICAL",
        tools=[*(Tool.from_function(tool) for tool in TOOLS), dialect],
        request_state_security=RequestStateSecurity(keys=[STATE_KEY]),
    )
    offer_rounds(server)
    _offer_resources(server)
    _offer_prompts(server)
    _offer_legacy(server._lowlevel_server)
    return server
