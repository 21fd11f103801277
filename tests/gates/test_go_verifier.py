"""A verifier we did not write accepts what we sign and prove, and nothing that was altered.

It is golang.org/x/mod/sumdb, which checks the checksum database of the Go project, and Go's encoding/json for the
signature that mcp-audit for Go's own verifiers know.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from go_peer import GoVerifier, NoGo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, EXAMPLE_NOTE, KEY, OTHER_KEY, SECRET, Forge

from mcp_audit.errors import McpAuditError
from mcp_audit.ledger import check_proof, prove
from mcp_audit.ledger.entry import Entry, encode
from mcp_audit.middleware.sign import Sign

pytestmark = [pytest.mark.gate, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoVerifier]:
    try:
        verifier = GoVerifier(tmp_path_factory.mktemp("go"))
    except NoGo as error:
        pytest.skip(f"{error}; `make setup` as root on Debian installs both")
    yield verifier
    verifier.close()


def test_it_reads_the_worked_example(go: GoVerifier) -> None:
    """The note and the signature that the format's description prints."""
    assert go.note(EXAMPLE_NOTE, KEY.vkey) == "ok"
    assert go.signature(EXAMPLE_LINES[2], SECRET) == "ok"


def test_it_rejects_what_it_should(go: GoVerifier) -> None:
    """Without this, "ok" would prove nothing."""
    assert go.note(EXAMPLE_NOTE.replace("\n3\n", "\n4\n"), KEY.vkey) != "ok"
    assert go.note(EXAMPLE_NOTE, OTHER_KEY.vkey) != "ok"
    assert go.signature(EXAMPLE_LINES[2].replace(b"read_file", b"make_file"), SECRET) != "ok"
    assert go.signature(EXAMPLE_LINES[2], b"another secret, just as long as ours") != "ok"
    assert go.proof("", KEY.vkey) != "ok"


@pytest.mark.parametrize("storage", ["jsonl", "sqlite"])
def test_proofs_at_random_sizes(go: GoVerifier, tmp_path: Path, storage: str) -> None:
    """It accepts our checkpoint of any size and our proof of any entry under it, and no proof of another entry."""
    random = Random(6962)
    forge = Forge()
    forge.open()
    for size in sorted(random.sample(range(1, 400), 12)):
        while forge.chain.size < size:
            forge.entry(tool=f"tool{forge.chain.size}")
        note = forge.sign()
        path = (forge.write if storage == "jsonl" else forge.write_sqlite)(tmp_path / "audit")
        assert go.note(note, KEY.vkey) == "ok"
        for seq in {0, size - 1, random.randrange(size), random.randrange(size)}:
            proof = prove(path, seq)
            assert go.proof(proof, KEY.vkey) == "ok", (seq, size)
            assert size == 1 or go.proof(proof.replace(f"index {seq}\n", f"index {seq ^ 1}\n"), KEY.vkey) != "ok"


def test_every_flipped_bit_is_seen_by_both(go: GoVerifier, tmp_path: Path) -> None:
    """Line, index, path, size, root, signature: neither verifier takes an altered proof."""
    forge = Forge()
    forge.open()
    for _ in range(6):
        forge.entry()
    forge.sign()
    proof = prove(forge.write(tmp_path / "audit.jsonl"), 3).encode()
    random = Random(0)
    for bit in random.sample(range(len(proof) * 8), 1500):
        altered = bytearray(proof)
        altered[bit // 8] ^= 1 << bit % 8
        assert go.proof(bytes(altered), KEY.vkey) != "ok", bit
        with pytest.raises((McpAuditError, UnicodeDecodeError)):
            check_proof(altered.decode(), [KEY.vkey])


TEXT = st.text(st.characters(exclude_characters="\0"), max_size=12)
PARAMS = st.sampled_from([b"", b"{}", b'{"n":1.10,"n":1e2}', b'{"a":"\\u2028\xe2\x80\xa8<>&"}', b'[ 1,"\\ud800" ]'])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    TEXT,
    st.text(max_size=8) | st.sampled_from(["\ud800", "a\udfffb"]),
    PARAMS,
    st.integers(0, 999_999) | st.sampled_from([0, 100_000, 120_000]),
)
def test_the_signature_is_the_one_of_mcp_audit_for_go(
    go: GoVerifier, method: str, tool: str, params: bytes, microseconds: int
) -> None:
    """Whatever the members hold, Go decodes our line to what we signed: times, surrogates, separators, numbers."""
    entry = Entry(
        "01KSFJ34FV6W9K6ZD7VJ4Q8X4R",
        f"2026-05-25T12:34:56.{microseconds:06d}Z",
        "client_to_server",
        "stdio",
        method,
        tool_name=tool,
        params=params,
        outcome="answered",
    )
    forge = Forge()
    line = forge.chain.seal(encode(Sign(SECRET)(entry)))[:-1]

    assert go.signature(line, SECRET) == "ok"
