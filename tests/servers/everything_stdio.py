"""A stdio MCP server on the Python SDK that uses every feature a proxy could break.

Promise: the same client session gets the same answers, so two transcripts may be compared; whatever is random (the
sealed `requestState` of MCP 2026-07-28) is so by the protocol. It serves both eras: questions to the client travel as
server requests to a legacy client and as `input_required` results to a modern one.

Example: python tests/servers/everything_stdio.py
"""

from __future__ import annotations

import os
import warnings
from typing import Annotated

import anyio
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Context,
    Elicit,
    ElicitationResult,
    ListRoots,
    MCPServer,
    Resolve,
    Sample,
)
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel

server = MCPServer(
    "everything-stdio", version="1.0.0", instructions="Every feature, once. Ünïcödé included.", log_level="CRITICAL"
)
_cancelled_calls: list[str] = []


class Sum(BaseModel):
    """Structured output, so that clients check it against the schema they listed."""

    total: float


class Colour(BaseModel):
    """What `ask_user` asks for."""

    colour: str
    shades: int = 3


@server.tool()
async def echo(message: str) -> str:
    """Return the message with a prefix."""
    return f"Echo: {message}"


@server.tool()
async def add(a: float, b: float) -> Sum:
    """Add two numbers; the result is structured."""
    return Sum(total=a + b)


@server.tool()
async def fail(reason: str) -> str:
    """Fail in the way a tool is meant to: a result with `isError`."""
    raise ToolError(f"told to fail: {reason}")


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Report progress `to` times, then finish."""
    for step in range(1, to + 1):
        await ctx.report_progress(step, to, f"step {step} of {to}")
    return f"counted to {to}"


@server.tool()
async def log(text: str, ctx: Context) -> str:
    """Send one log message at each of three levels."""
    await ctx.debug(f"debug: {text}")
    await ctx.info({"text": text, "nested": [1, 2.5, None, True]})
    await ctx.error(f"error: {text}", logger_name="everything-stdio")
    return "logged"


@server.tool()
async def slow(ctx: Context) -> str:
    """Say that it began, then wait until the client cancels."""
    await ctx.report_progress(0, 1, "waiting to be cancelled")
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        _cancelled_calls.append(ctx.request_id)
        raise
    raise AssertionError("unreachable")


@server.tool()
async def cancelled() -> int:
    """How many calls of `slow` were cancelled: proves that the cancellation reached the server."""
    return len(_cancelled_calls)


async def _question(prompt: str) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=prompt))], max_tokens=64)


async def _colour() -> Elicit[Colour]:
    return Elicit("Which colour, please?", Colour)


async def _roots() -> ListRoots:
    return ListRoots()


@server.tool()
async def ask_model(prompt: str, answer: Annotated[CreateMessageResult, Resolve(_question)]) -> str:
    """Have the client's model answer a prompt."""
    return f"{answer.model} said: {answer.content.model_dump_json(exclude_none=True)}"


@server.tool()
async def ask_user(outcome: Annotated[ElicitationResult[Colour], Resolve(_colour)]) -> str:
    """Have the client's user choose a colour."""
    if isinstance(outcome, AcceptedElicitation):
        return f"{outcome.data.shades} shades of {outcome.data.colour}"
    return f"no colour: {outcome.action}"


@server.tool()
async def list_roots(roots: Annotated[ListRootsResult, Resolve(_roots)]) -> list[str]:
    """Which roots the client has."""
    return [f"{root.name}={root.uri}" for root in roots.roots]


@server.tool()
async def surroundings() -> dict[str, str]:
    """What this process was born with: working directory, umask, environment, and open descriptors above 2."""
    umask = os.umask(0o022)
    os.umask(umask)
    descriptors = {f"fd:{fd}": target for fd, target in _inherited}
    return {"cwd": os.getcwd(), "umask": oct(umask), **dict(sorted(os.environ.items())), **descriptors}


@server.resource("test://text", mime_type="text/plain")
def text() -> str:
    """Text with the characters that are line ends to some and not to JSON."""
    return "first\u2028second\u2029third\u0085fourth\r\nfifth"


@server.resource("test://binary", mime_type="application/octet-stream")
def binary() -> bytes:
    """Every byte there is."""
    return bytes(range(256))


@server.resource("test://item/{number}", mime_type="application/json")
def item(number: str) -> str:
    """An item by its number; there are nine."""
    if not (number.isdecimal() and 1 <= int(number) <= 9):
        raise ResourceNotFoundError(f"there is no item {number}")
    return f'{{"item":{number},"price":1.10,"tiny":1e-400}}'


@server.prompt()
def greet(name: str, style: str = "plain") -> str:
    """Greet somebody."""
    return f"Greet {name} in a {style} way."


@server.completion()  # type: ignore[no-untyped-call,untyped-decorator]
async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: CompletionContext | None
) -> Completion | None:
    """Complete the style of a greeting."""
    if argument.name != "style":
        return None
    return Completion(values=[s for s in ("plain", "plaintive", "formal") if s.startswith(argument.value)])


def _open_descriptors() -> list[tuple[int, str]]:
    """Descriptors above 2 at birth, where the platform lists them; the listing's own is gone by `readlink`."""
    found: list[tuple[int, str]] = []
    if not os.path.isdir("/proc/self/fd"):
        return found
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            try:
                found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
            except FileNotFoundError:
                continue
    return found


_inherited = _open_descriptors()

if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    server.run("stdio")
