"""Drive any MCP server through a whole client session and print what both sides said.

Promise: the transcript is what was on the wire, in wire order; two sessions with the same server print the same text,
so `diff` of a direct and a proxied transcript shows what the proxy changed. Only values that differ between two direct
sessions are replaced, each by a placeholder that says so: clock times, UUIDs, the sealed `requestState` of MCP
2026-07-28, and the folder given by `--root`. Nothing is sorted and nothing is left out.

The session does what the server offers: the tools of CALLS it lists, its resources, templates, prompts and completions,
then ping, log level, subscriptions, an unknown method, an unknown tool, wrong arguments and a cancelled call.

Over HTTP frames of different connections have no order among each other, so there whoever compares must sort.

Examples:
  python tests/clients/transcript.py --mode legacy -- python tests/servers/everything_stdio.py
  python tests/clients/transcript.py --transport http http://localhost:4102/mcp
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import warnings
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.context import ClientRequestContext
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitResult,
    EmptyResult,
    Implementation,
    ListRootsResult,
    PromptReference,
    Request,
    Root,
    TextContent,
)
from pydantic import FileUrl, ValidationError
from tap import Frame, Tap

SENTENCE = "é ☃ U+2028 \u2028 end"
SESSION_SECONDS = 90

ODD_PARAMS = {"uri": 7, "big": 2**70, "tiny": 1e-7, "text": SENTENCE, "deep": [[[[{}]]]]}
# Tools that real servers offer, in the order of the calls. `{root}` stands for the folder given by --root.
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("echo", {"message": SENTENCE}),
    # Python SDK, tests/servers/everything_stdio.py
    ("add", {"a": 0.1, "b": 1e21}),
    ("fail", {"reason": SENTENCE}),
    ("count", {"to": 5}),
    ("log", {"text": SENTENCE}),
    ("ask_model", {"prompt": SENTENCE}),
    ("ask_user", {}),
    ("list_roots", {}),
    ("surroundings", {}),
    # @modelcontextprotocol/server-everything
    ("get-sum", {"a": 9007199254740993, "b": 0.5}),
    ("get-env", {}),
    ("get-structured-content", {"location": "Chicago"}),
    ("get-annotated-message", {"messageType": "error", "includeImage": True}),
    ("get-tiny-image", {}),
    ("get-resource-links", {"count": 4}),
    ("get-resource-reference", {"resourceType": "Text", "resourceId": 1}),
    ("get-roots-list", {}),
    ("gzip-file-as-resource", {"name": "a.gz", "data": "data:text/plain,hello", "outputType": "resource"}),
    ("trigger-long-running-operation", {"duration": 0.4, "steps": 4}),
    ("trigger-sampling-request", {"prompt": SENTENCE, "maxTokens": 64}),
    ("trigger-elicitation-request", {}),
    ("trigger-url-elicitation", {"url": "https://example.com/authorize", "elicitationId": "transcript"}),
    ("trigger-url-elicitation", {"url": "https://example.com/authorize", "elicitationId": "e", "errorPath": True}),
    ("simulate-research-query", {"topic": "transparency"}),
    # @modelcontextprotocol/server-filesystem
    ("list_allowed_directories", {}),
    ("create_directory", {"path": "{root}/ünï"}),
    ("write_file", {"path": "{root}/ünï/snow ☃.txt", "content": f"{SENTENCE}\r\nsecond\n"}),
    ("read_text_file", {"path": "{root}/ünï/snow ☃.txt"}),
    ("read_media_file", {"path": "{root}/ünï/snow ☃.txt"}),
    ("edit_file", {"path": "{root}/ünï/snow ☃.txt", "edits": [{"oldText": "second", "newText": "third"}]}),
    ("move_file", {"source": "{root}/ünï/snow ☃.txt", "destination": "{root}/moved.txt"}),
    ("read_multiple_files", {"paths": ["{root}/moved.txt", "{root}/absent.txt"]}),
    ("list_directory", {"path": "{root}"}),
    ("directory_tree", {"path": "{root}"}),
    ("search_files", {"path": "{root}", "pattern": "*.txt"}),
    ("read_text_file", {"path": "/outside/of/every/root"}),
)
# A call that takes long enough to be cancelled while it runs, per server. `slow` tells that it began.
CANCELLABLE: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("slow", {}, True),
    ("trigger-long-running-operation", {"duration": 1.5, "steps": 1}, False),
)
# Read and completed where the server offers them; the server's own first resource and template are read in any case.
TEMPLATE_URIS = ("test://item/7", "test://item/99", "demo://resource/dynamic/text/1", "demo://resource/dynamic/text/x")
PROMPTS: dict[str, dict[str, str]] = {
    "greet": {"name": SENTENCE, "style": "formal"},
    "simple-prompt": {},
    "args-prompt": {"city": "Zürich"},
    "completable-prompt": {"department": "Sales", "name": "Eve"},
    "resource-prompt": {"resourceType": "Text", "resourceId": "1"},
}
COMPLETIONS = {"greet": {"name": "style", "value": "pl"}, "completable-prompt": {"name": "department", "value": "S"}}
# What a server does on its own after `initialized`; waiting for it keeps it from racing with our first requests.
ASKS_ROOTS_THEN_LOGS = "mcp-servers/everything"
ASKS_ROOTS = "secure-filesystem-server"

_RANDOM = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"\b\d{1,2}:\d\d:\d\d(\s[AP]M)?"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
)


class _AnyRequest(Request[dict[str, Any] | None, str]):
    """A request the SDK has no type for."""


class Transcript:
    """One session: the steps, in order, and the outcome of each."""

    def __init__(self, client: Client, tap: Tap, root: Path) -> None:
        self._client = client
        self._tap = tap
        self._root = root
        self.outcomes: list[tuple[str, str]] = []

    async def run(self) -> None:
        """Do everything the server offers."""
        await self._settle()
        await self._step("ping", self._client.send_ping)
        await self._step("logging/setLevel", self._client.set_logging_level, "debug")
        tools = await self._step("tools/list", self._client.list_tools)
        resources = await self._step("resources/list", self._client.list_resources)
        await self._step("resources/templates/list", self._client.list_resource_templates)
        prompts = await self._step("prompts/list", self._client.list_prompts)
        names = [tool.name for tool in tools.tools] if tools else []
        await self._calls(names)
        uris = [str(resource.uri) for resource in resources.resources] if resources else []
        await self._resources(uris)
        await self._prompts([prompt.name for prompt in prompts.prompts] if prompts else [])
        await self._cancel(names)
        await self._step("unknown tool", self._client.call_tool, "no such tool", {})
        await self._step("unknown method", self._request, "no/such", None)
        await self._step("odd params", self._request, "resources/read", ODD_PARAMS)
        await self._step("ping at the end", self._client.send_ping)

    async def _step(self, title: str, action: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        """Do one thing; an error is an outcome like any other."""
        try:
            result = await action(*args, **options)
        except (MCPError, ValidationError, RuntimeError) as error:
            code = f" {error.code}" if isinstance(error, MCPError) else ""
            self.outcomes.append((title, f"{type(error).__name__}{code}: {str(error).splitlines()[0]}"))
            return None
        self.outcomes.append((title, type(result).__name__))
        return result

    async def _settle(self) -> None:
        info = self._client.server_info
        if info is None or self._client.session.initialize_result is None:
            return
        if info.name in (ASKS_ROOTS, ASKS_ROOTS_THEN_LOGS):
            asked = await self._tap.until_received(lambda frame: frame.get("method") == "roots/list")
            await self._tap.until_sent(lambda frame: "result" in frame and frame.get("id") == asked["id"])
        if info.name == ASKS_ROOTS_THEN_LOGS:
            await self._tap.until_received(lambda frame: "Roots updated" in str(frame.get("params")))

    async def _calls(self, names: Sequence[str]) -> None:
        for name, arguments in CALLS:
            if name in names:
                await self._call(name, json.loads(json.dumps(arguments).replace("{root}", str(self._root))))
        if "echo" in names:
            await self._call("echo", {"message": ["not", "a", "string"]})

    async def _call(self, name: str, arguments: dict[str, Any]) -> None:
        async def noted(progress: float, total: float | None, message: str | None) -> None:
            """Having a callback is what asks the server for progress; the wire shows what came."""

        await self._step(f"call {name}", self._client.call_tool, name, arguments, progress_callback=noted)

    async def _resources(self, uris: Sequence[str]) -> None:
        for uri in (*uris, *(u for u in TEMPLATE_URIS if self._scheme_known(u, uris)), "test://no/such/resource"):
            await self._step(f"read {uri}", self._client.read_resource, uri)
        for uri in uris[:1]:
            await self._step(f"subscribe {uri}", self._client.subscribe_resource, uri)
            await self._step(f"unsubscribe {uri}", self._client.unsubscribe_resource, uri)

    @staticmethod
    def _scheme_known(uri: str, uris: Sequence[str]) -> bool:
        return any(known.split(":")[0] == uri.split(":")[0] for known in uris)

    async def _prompts(self, names: Sequence[str]) -> None:
        for name in names:
            await self._step(f"prompt {name}", self._client.get_prompt, name, PROMPTS.get(name, {}))
            if name in COMPLETIONS:
                reference = PromptReference(type="ref/prompt", name=name)
                await self._step(f"complete {name}", self._client.complete, reference, COMPLETIONS[name])
        await self._step("unknown prompt", self._client.get_prompt, "no such prompt")

    async def _cancel(self, names: Sequence[str]) -> None:
        """Abandon a running call, then show that the session and the server live on."""
        for name, arguments, announces in CANCELLABLE:
            if name not in names:
                continue
            before = len(self._tap.received)
            async with anyio.create_task_group() as group:
                group.start_soon(self._abandoned, name, arguments, announces)
                call = await self._tap.until_sent(_call_of(name, arguments))
                if announces:
                    await self._tap.until_received(_progress_of(call["id"]))
                group.cancel_scope.cancel()
            await self._tap.until_sent(lambda frame: frame.get("method") == "notifications/cancelled")
            answered = [f for f in self._tap.received[before:] if f.get("id") == call["id"]]
            self.outcomes.append((f"cancel {name}", "answered all the same" if answered else "cancelled"))
            if "cancelled" in names:
                await self._step("call cancelled", self._client.call_tool, "cancelled")

    async def _abandoned(self, name: str, arguments: dict[str, Any], announces: bool) -> None:
        async def noted(progress: float, total: float | None, message: str | None) -> None:
            """Asks for progress, which tells that the call runs."""

        await self._client.call_tool(name, arguments, progress_callback=noted if announces else None)

    async def _request(self, method: str, params: dict[str, Any] | None) -> EmptyResult:
        return await self._client.session.send_request(_AnyRequest(method=method, params=params), EmptyResult)


def _call_of(name: str, arguments: dict[str, Any]) -> Callable[[Frame], bool]:
    def wanted(frame: Frame) -> bool:
        params = frame.get("params") or {}
        return frame.get("method") == "tools/call" and (params["name"], params.get("arguments") or {}) == (
            name,
            arguments,
        )

    return wanted


def _progress_of(token: Any) -> Callable[[Frame], bool]:
    def wanted(frame: Frame) -> bool:
        return frame.get("method") == "notifications/progress" and frame["params"]["progressToken"] == token

    return wanted


async def _sample(context: ClientRequestContext, params: CreateMessageRequestParams) -> CreateMessageResult:
    content = TextContent(type="text", text=f"An answer to {len(params.messages)} message(s): {SENTENCE}")
    return CreateMessageResult(role="assistant", content=content, model="transcript-model", stop_reason="endTurn")


async def _elicit(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
    if not isinstance(params, ElicitRequestFormParams):
        return ElicitResult(action="decline")
    schema = params.requested_schema
    return ElicitResult(action="accept", content={k: _filled(k, v) for k, v in schema["properties"].items()})


def _filled(name: str, schema: dict[str, Any]) -> Any:
    """A value that a form field accepts."""
    if "default" in schema:
        return schema["default"]
    formats = {"email": "a@example.com", "uri": "https://example.com/", "date": "2001-02-03"}
    values = {"boolean": True, "integer": 7, "number": 7.5, "string": formats.get(schema.get("format", ""), name)}
    if "enum" in schema:
        return schema["enum"][0]
    return values[schema["type"]]


def _settled(text: str, root: Path) -> str:
    """Replace what differs between two direct sessions."""
    text = text.replace(str(root), "<root>")
    for pattern, placeholder in _RANDOM:
        text = pattern.sub(placeholder, text)
    return text


def _line(frame: Frame) -> str:
    for part in (frame.get("params"), frame.get("result")):
        if isinstance(part, dict) and isinstance(part.get("requestState"), str):
            part["requestState"] = "<sealed>"
    return json.dumps(frame)


def _connection(transport: str, command: Sequence[str]) -> Any:
    """Return the SDK's transport to a server that is a command, or a URL."""
    if transport == "http":
        return streamable_http_client(command[0])
    if transport == "sse":
        return sse_client(command[0])
    # Our own interpreter may have put LC_CTYPE there (PEP 538); a client in another language would not have.
    environment = {k: v for k, v in os.environ.items() if k != "LC_CTYPE"}
    return stdio_client(StdioServerParameters(command=command[0], args=list(command[1:]), env=environment))


async def session(command: Sequence[str], mode: str, root: Path, transport: str = "stdio") -> str:
    """Run one session against `command`, which is a URL over HTTP, and return its transcript."""

    async def roots(context: ClientRequestContext) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=FileUrl(root.as_uri()), name="transcript root")])

    tap = Tap()
    client = Client(
        tap.around(_connection(transport, command)),
        mode=mode,
        client_info=Implementation(name="transcript", version="1.0.0"),
        sampling_callback=_sample,
        elicitation_callback=_elicit,
        list_roots_callback=roots,
        log_level="debug",
        cache=None,
    )
    transcript: Transcript | None = None
    try:
        with anyio.fail_after(SESSION_SECONDS):
            async with client:
                transcript = Transcript(client, tap, root)
                await transcript.run()
    except TimeoutError:
        done = transcript.outcomes[-1][0] if transcript and transcript.outcomes else "connecting"
        print(f"transcript: stuck for {SESSION_SECONDS} s after {done!r}", file=sys.stderr)
    outcomes = transcript.outcomes if transcript else []
    parts = ["# outcomes", *(f"{title} -> {outcome}" for title, outcome in outcomes)]
    parts += ["# client to server", *map(_line, tap.sent), "# server to client", *map(_line, tap.received), ""]
    return _settled("\n".join(parts), root)


def main() -> int:
    """Print the transcript; exit 0 if the session ended as planned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("auto", "legacy"), default="auto", help="how to negotiate the version")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the one root this client has")
    parser.add_argument(
        "--transport", choices=("stdio", "http", "sse"), default="stdio", help="how to reach the server"
    )
    parser.add_argument("command", nargs="+", help="the server: after `--` its command, or over HTTP its URL")
    args = parser.parse_args()
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    text = anyio.run(session, args.command, args.mode, args.root.resolve(), args.transport)
    sys.stdout.buffer.write(text.encode())
    return 0 if "ping at the end" in text else 1


if __name__ == "__main__":
    sys.exit(main())
