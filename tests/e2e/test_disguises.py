"""Calls of a forbidden tool in disguise, through the real proxy: none reaches the server, all are recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from proxy import ENFORCING, NEUTRAL, converse, entries, python, verified

from mcp_audit.wire.message import Direction, parse

sys.path.insert(0, str(Path(__file__).parent.parent / "wire"))

from hostile import FORBIDDEN, HOSTILE, LEGITIMATE

# Keeps what reaches it, byte for byte, and answers nothing.
KEEP = "import sys; open('reached', 'wb').write(sys.stdin.buffer.read())"
LINES = [(name, text) for name, text in HOSTILE if text.count(b"\n") == 1 and text.endswith(b"\n")]
# A batch leaves an entry for each of its messages.
MESSAGES = sum(len(parse(text, Direction.TO_SERVER).messages) for _, text in LINES)
OTHERS = [pytest.param(text, id=name) for name, text in HOSTILE if (name, text) not in LINES]


def test_no_disguise_reaches_the_server_and_each_is_recorded(tmp_path: Path) -> None:
    """One line, one denial, one entry; where the line may have been a request, one answer."""
    done = converse(tmp_path, python(KEEP), b"".join(text for _, text in LINES), ENFORCING)

    assert (tmp_path / "reached").read_bytes() == b""
    denied = [line for line in entries(tmp_path) if line.get("outcome") == "denied"]
    assert len(denied) == MESSAGES >= len(LINES) >= 40
    units = [json.loads(unit) for unit in done.stdout.splitlines()]
    answers = [answer["error"] for unit in units for answer in (unit if isinstance(unit, list) else [unit])]
    assert {answer["data"]["source"] for answer in answers} == {"mcp-audit"}
    assert {answer["code"] for answer in answers} <= {-32030, -31030, -32600}
    assert {answer["data"]["entry_id"] for answer in answers} <= {line["id"] for line in denied}
    assert verified(tmp_path) == 0


@pytest.mark.parametrize("text", OTHERS)
def test_other_encodings_of_a_call_reach_nobody(tmp_path: Path, text: bytes) -> None:
    """UTF-16 and UTF-32 are several lines to us; whatever is forwarded of them is no call to anybody."""
    converse(tmp_path, python(KEEP), text, ENFORCING)
    reached = (tmp_path / "reached").read_bytes()

    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        assert FORBIDDEN not in reached.decode(encoding, "replace")
    assert any(line.get("outcome") == "denied" for line in entries(tmp_path))
    assert verified(tmp_path) == 0


def test_unusual_calls_pass_untouched(tmp_path: Path) -> None:
    """Legal but odd is not ambiguous; every byte arrives."""
    unterminated = [text for _, text in LEGITIMATE if not text.endswith(b"\n")]
    sent = b"".join([text for _, text in LEGITIMATE if text.endswith(b"\n")] + unterminated[:1])
    done = converse(tmp_path, python(KEEP), sent, ENFORCING)

    assert (tmp_path / "reached").read_bytes() == sent
    assert done.stdout == b""
    assert len(LEGITIMATE) >= 20
    assert verified(tmp_path) == 0


def test_with_nothing_to_enforce_disguises_pass_untouched_and_are_recorded(tmp_path: Path) -> None:
    """Without policy and limits there is nothing to get round: forwarded byte for byte, ambiguous ones as opaque."""
    sent = b"".join(text for _, text in LINES)
    converse(tmp_path, python(KEEP), sent, NEUTRAL)

    assert (tmp_path / "reached").read_bytes() == sent
    outcomes = [line.get("outcome") for line in entries(tmp_path) if line.get("type") in (None, "orphan")]
    assert len(outcomes) == MESSAGES
    assert outcomes.count("opaque") >= len(LINES) // 2
    assert verified(tmp_path) == 0
