"""The promise: bytes out equal bytes in; every well-formed message leaves one entry, or a request/outcome pair."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from harness import enforcing, neutral, relay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_audit.config import Config
from mcp_audit.ledger import verify

pytestmark = pytest.mark.usefixtures("_no_secret_in_environment")
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def in_a_loop(config: Config, from_client: list[bytes], from_server: list[bytes]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        outcome = anyio.run(relay, Path(folder), config, from_client, from_server)
        verdict = verify(Path(folder) / "audit.jsonl")
        assert verdict.exit_code == 0, verdict
        return outcome


def cut(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at the given places, taken modulo its length."""
    places = sorted({place % (len(stream) + 1) for place in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


noise = st.lists(
    st.binary(max_size=60) | st.sampled_from([b"\n", b"\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"{}", b"[]", b"\x00"]),
    max_size=12,
).map(b"".join)
cuts = st.lists(st.integers(0, 5000), max_size=8)

json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
ids = st.integers(0, 5) | st.sampled_from(["", "1", "a"])
legible = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
requests = st.one_of(
    st.fixed_dictionaries({"id": ids, "method": st.sampled_from(["ping", "tools/list", "x/y"]), "params": st.just({})}),
    st.fixed_dictionaries(
        {
            "id": ids,
            "method": st.just("tools/call"),
            "params": st.fixed_dictionaries(
                {"name": legible, "arguments": st.dictionaries(st.text(max_size=6), json_value, max_size=3)}
            ),
        }
    ),
)
notifications = st.fixed_dictionaries({"method": st.sampled_from(["notifications/x", "notifications/progress"])})
responses = st.fixed_dictionaries({"id": ids, "result": st.dictionaries(st.just("r"), json_value, max_size=1)})


def line(message: dict[str, Any], style: int, crlf: bool) -> bytes:
    """Encode a message in one of three styles that all parsers read alike."""
    message = {"jsonrpc": "2.0", **message}
    text = json.dumps(message, ensure_ascii=style == 1, separators=(",", ":") if style < 2 else (", ", ": "))
    return text.encode("utf-8", "surrogatepass" if style == 1 else "replace") + (b"\r\n" if crlf else b"\n")


lines = st.builds(line, requests | notifications | responses, st.sampled_from([0, 1, 2]), st.booleans())
streams = st.lists(lines, max_size=8)


@SLOW
@given(noise, noise, cuts, cuts)
def test_arbitrary_bytes_pass_both_ways_when_nothing_is_enforced(
    client: bytes, server: bytes, client_cuts: list[int], server_cuts: list[int]
) -> None:
    """Noise, blank lines, broken JSON, unfinished last lines, in any chunks: out comes what went in."""
    outcome = in_a_loop(neutral(), cut(client, client_cuts), cut(server, server_cuts))

    assert outcome.to_server == client
    assert outcome.to_client == server


@SLOW
@given(streams, streams, cuts, cuts)
@pytest.mark.parametrize("config", [neutral(), enforcing()], ids=["neutral", "enforcing"])
def test_unambiguous_messages_pass_and_each_is_recorded_once(
    config: Config, client: list[bytes], server: list[bytes], client_cuts: list[int], server_cuts: list[int]
) -> None:
    """Each request is closed by one line (an exchange or an orphan), every other message is one line."""
    outcome = in_a_loop(config, cut(b"".join(client), client_cuts), cut(b"".join(server), server_cuts))

    assert outcome.to_server == b"".join(client)
    assert outcome.to_client == b"".join(server)
    sent = [json.loads(text) for text in (*client, *server)]
    asked = sum("method" in message and "id" in message for message in sent)
    told = sum("method" in message and "id" not in message for message in sent)
    answers = sum("method" not in message for message in sent)
    kinds = Counter(line.get("type", line.get("outcome")) for line in outcome.lines)
    exchanges = [line for line in outcome.lines if "type" not in line]
    unmatched = sum("unmatched" in line.get("marks", ()) or "late" in line.get("marks", ()) for line in exchanges)
    paired = answers - unmatched
    assert kinds["notification"] == told
    assert kinds["answered"] + kinds["rpc_error"] + kinds["tool_error"] == paired
    assert kinds["opaque"] == unmatched
    assert paired + kinds["orphan"] == asked
    ahead = [line["seq"] for line in outcome.lines if line.get("type") == "request"]
    assert sorted(line["of"] for line in outcome.lines if "of" in line and line.get("type") != "close") == ahead
