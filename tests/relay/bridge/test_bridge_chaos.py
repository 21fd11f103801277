"""An upstream that does anything at any time: each call still gets one answer, and one outcome in the ledger."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bridge_harness import DEADLINE, Asked, Bridged, Upstream, bridge, call, notification, request, result, shake_hands
from bridge_harness import upstream as scripted

LIMIT = 5000
HUGE = "x" * (LIMIT + 1000)
CALLS = range(2, 32)
ANSWERS = (
    "json", "event", "question", "huge body", "huge event", "hang", "hang up", "half an event", "another id", "nothing",
    "to be resumed", "accepted", "302", "401", "500", "own error",
)  # fmt: skip
STREAMS = ("405", "503", "html", "hang up", "events")


class Chaos:
    """Answers as chance will have it."""

    def __init__(self, server: Upstream, chance: random.Random) -> None:
        self._server, self._chance = server, chance
        self._owed: list[Any] = []  # ids of calls whose answers may still come on a stream of their own
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        """Take requests until cancelled."""
        try:
            while True:
                asked = await self._server.next()
                answer = {"POST": self._post, "GET": self._get, "DELETE": Asked.accept}[asked.method]
                self._tasks.append(asyncio.create_task(answer(asked)))
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _get(self, asked: Asked) -> None:
        match self._chance.choice(STREAMS):
            case "405" | "503" as status:
                await asked.answer(int(status))
            case "html":
                await asked.answer(200, b"<html>", kind="text/html")
            case "hang up":
                await asked.drop()
            case _:
                await asked.stream()
                while self._owed:
                    await asked.event(result(self._owed.pop()))
                await asked.end()

    async def _post(self, asked: Asked) -> None:
        message = json.loads(asked.body) if asked.body.startswith(b"{") else {}
        id_ = message.get("id")
        if id_ is None or "method" not in message:
            await asked.answer(self._chance.choice((202, 202, 202, 400)))
            return
        how = self._chance.choice(ANSWERS)
        match how:
            case "json" | "huge body" | "another id":
                members = {"text": HUGE} if how == "huge body" else {}
                await asked.answer(body=result(f"other {id_}" if how == "another id" else id_, **members))
            case "event" | "question" | "huge event":
                await asked.stream()
                await asked.event(notification("notifications/message", data="x"))
                if how == "question":
                    await asked.event(request(f"question {id_}", "ping"))
                await asked.event(result(id_, text=HUGE if how == "huge event" else ""))
                await asked.end()
            case "hang":
                self._owed.append(id_)
            case "hang up":
                await asked.drop()
            case "half an event":
                await asked.stream()
                await asked.raw(b"data: {")
                await asked.drop()
            case "to be resumed":
                self._owed.append(id_)
                await asked.stream()
                await asked.event(id_=f"event {id_}", retry=5)
                await asked.drop()
            case "own error":
                await asked.answer(400, {"jsonrpc": "2.0", "id": id_, "error": {"code": -32601, "message": "no"}})
            case _:
                status = {"nothing": 200, "accepted": 202}.get(how) or int(how)
                await asked.answer(status, Location="/elsewhere")


async def _talk(client: Bridged, chance: random.Random, modern: bool) -> tuple[set[int], set[int]]:
    """Send calls and all else that clients send, whether it makes sense or not; return what was sent and cancelled."""
    sent: set[int] = set()
    cancelled: set[int] = set()
    for number in CALLS:
        line: Any = call(number, modern=modern)
        match chance.choices(("call", "cancel", "notify", "noise", "huge"), (75, 10, 5, 5, 5))[0]:
            case "call":
                sent.add(number)
            case "cancel" if sent:
                withdrawn = chance.choice(sorted(sent))
                cancelled.add(withdrawn)
                line = notification("notifications/cancelled", requestId=withdrawn)
            case "noise":
                line = b"noise\n"
            case "huge":
                line = call(f"huge {number}", HUGE)
            case _:
                line = notification("notifications/roots/list_changed")
        client.send(line)
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() / 50)
    client.close()
    return sent, cancelled


async def _read(client: Bridged) -> list[Any]:
    lines = []
    while line := await client.line():
        lines.append(json.loads(line))
    return lines


def _marked(seed: int) -> Any:
    return pytest.param(seed, marks=pytest.mark.slow if seed < 10 else pytest.mark.long)


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
@pytest.mark.parametrize("seed", [0, *(_marked(seed) for seed in range(1, 60))])
async def test_each_call_has_one_answer_and_one_outcome(tmp_path: Path, seed: int, modern: bool) -> None:
    """A cancelled one may have none; the record has an outcome of every one, and nothing is left open at the end."""
    chance = random.Random(f"{seed} {modern}")
    limits = {"upstream_timeout_ms": 400, "call_timeout_ms": chance.choice((0, 0, 700)), "max_message_bytes": LIMIT}
    async with scripted() as server, bridge(tmp_path, server.url, **limits) as client:
        if not modern:
            await shake_hands(client, server, listens=False)
        chaos = asyncio.create_task(Chaos(server, chance).serve())
        reading = asyncio.create_task(_read(client))
        sent, cancelled = await _talk(client, chance, modern)
        async with asyncio.timeout(3 * DEADLINE):
            ending = await client.run
            heard = await reading
        chaos.cancel()
        with suppress(asyncio.CancelledError):
            await chaos

    assert ending.returncode == 0
    answers = Counter(each["id"] for each in heard if "method" not in each and each.get("id") in CALLS)
    assert {id_: answers[id_] for id_ in sent - cancelled} == dict.fromkeys(sent - cancelled, 1)
    assert all(answers[id_] <= 1 for id_ in cancelled)
    _check_ledger(client.lines(), sent)


def _check_ledger(lines: Sequence[dict[str, Any]], sent: set[int]) -> None:
    calls = [line for line in lines if line.get("method") == "tools/call" and line["request_id"].isdigit()]
    assert Counter(line["request_id"] for line in calls if "type" not in line) == Counter(map(str, sent))
    opened = {line["seq"] for line in calls if line.get("type") == "request"}
    assert Counter(line["of"] for line in calls if "of" in line) == Counter(opened)
