"""The seed-compatible signature."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from mcp_audit.ledger.entry import Entry
from mcp_audit.middleware.sign import Sign

SECRET = b"0123456789abcdef0123456789abcdef"


def entry(timestamp: str = "2026-05-25T12:34:56.123450Z", **members: object) -> Entry:
    values: dict[str, object] = {
        "id": "01KSFJ34FV6W9K6ZD7VJ4Q8X4R",
        "timestamp": timestamp,
        "direction": "client_to_server",
        "transport": "stdio",
        "method": "tools/call",
        "tool_name": "read_file",
        "params": b'{"name":"read_file","arguments":{"path":"/tmp/example.txt","token":"[REDACTED]"}}',
    }
    return Entry(**(values | members))  # type: ignore[arg-type]


def test_the_worked_example() -> None:
    """The signature of the ledger format's worked example comes out."""
    assert Sign(SECRET)(entry()).signature == (
        "hmac-sha256:ab617ec715d4fefe8487060f8add93f940330bb529cd5adf99ec49baff3de9d9"
    )


@pytest.mark.parametrize(
    ("ours", "as_go_prints_it"),
    [
        pytest.param("2026-05-25T12:34:56.123450Z", "2026-05-25T12:34:56.12345Z", id="trailing-zero"),
        pytest.param("2026-05-25T12:34:50.100000Z", "2026-05-25T12:34:50.1Z", id="many-zeros"),
        pytest.param("2026-05-25T12:34:50.000000Z", "2026-05-25T12:34:50Z", id="whole-second"),
        pytest.param("2026-05-25T12:34:50.000001Z", "2026-05-25T12:34:50.000001Z", id="nothing-to-trim"),
    ],
)
def test_the_time_enters_as_the_seed_prints_it(ours: str, as_go_prints_it: str) -> None:
    """RFC3339Nano has no trailing zeros in its fraction, and no fraction for a whole second."""
    signed = Sign(SECRET)(entry(ours))
    message = signed.id.encode() + as_go_prints_it.encode() + b"tools/callread_file" + signed.params

    assert signed.signature == "hmac-sha256:" + hmac.new(SECRET, message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("type_", ["request", "orphan"])
def test_only_exchange_lines_are_signed(type_: str) -> None:
    """Lines with a type have no signature."""
    assert Sign(SECRET)(entry(type=type_)).signature == ""


def test_absent_params_enter_as_nothing() -> None:
    """An entry without params, elided ones included, is signed over the rest."""
    signed = Sign(SECRET)(entry(params=b""))
    message = signed.id.encode() + b"2026-05-25T12:34:56.12345Ztools/callread_file"

    assert signed.signature == "hmac-sha256:" + hmac.new(SECRET, message, hashlib.sha256).hexdigest()


def test_a_lone_surrogate_is_signed_as_go_reads_it() -> None:
    """Go replaces what is no character by U+FFFD before it verifies."""
    assert Sign(SECRET)(entry(method="a\ud800b")).signature == Sign(SECRET)(entry(method="a\ufffdb")).signature
