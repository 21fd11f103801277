"""Keys: the derivations of the format's worked example, and one spelling per key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import KEY, ORIGIN, SECRET

from mcp_audit.ledger.keys import (
    BadKey,
    LogKey,
    VerifierKey,
    check_origin,
    default_origin,
    derive,
    key_id_of,
    mac_key,
    read_secret,
    session_key,
)

VKEY = "audit.example/host1/fs+99299683+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"


def test_the_worked_example_derives() -> None:
    """AUDIT_SECRET and seed of the example give its MAC key, key_id and verifier key."""
    secrets = derive(SECRET, ORIGIN)

    assert secrets.mac.hex() == "81034c248c98df5108198b1640e384271901bfb2c517a2e11939dae964532a97"
    assert secrets.key_id == key_id_of(mac_key(SECRET, ORIGIN)) == "f26937dc"
    assert KEY.vkey == VKEY


def test_every_purpose_and_log_has_its_own_key() -> None:
    """No two derived keys are equal, across purposes and origins."""
    keys = [key for origin in (ORIGIN, ORIGIN + "x") for key in _keys(origin)]

    assert len(set(keys)) == len(keys)


def _keys(origin: str) -> list[bytes]:
    secrets = derive(SECRET, origin)
    return [secrets.mac, secrets.redact, secrets.session, session_key(None, origin)]


def test_session_key_is_the_derived_one() -> None:
    """`session_key` with a secret is what `derive` calls session."""
    assert session_key(SECRET, ORIGIN) == derive(SECRET, ORIGIN).session


def test_a_short_secret_is_refused() -> None:
    """31 bytes are too few, 32 do; the message says how to get one."""
    derive(b"x" * 32, ORIGIN)
    with pytest.raises(BadKey, match=r"31 bytes.*at least 32.*keygen"):
        derive(b"x" * 31, ORIGIN)


def test_nothing_prints_a_secret() -> None:
    """Neither repr holds key material."""
    shown = repr(derive(SECRET, ORIGIN)) + repr(KEY)

    assert SECRET.decode() not in shown
    assert "PRIVATE" not in shown
    assert repr(bytes(range(32)))[2:-1] not in shown


def test_secret_comes_from_variable_or_file(tmp_path: Path) -> None:
    """The variable's bytes, or the file's less one final LF; both is an error, none is None."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n\n")

    assert read_secret({}) is None
    assert read_secret({"AUDIT_SECRET": SECRET.decode()}) == SECRET
    assert read_secret({"AUDIT_SECRET_FILE": str(file)}) == SECRET + b"\n"
    with pytest.raises(BadKey, match="both set"):
        read_secret({"AUDIT_SECRET": SECRET.decode(), "AUDIT_SECRET_FILE": str(file)})
    with pytest.raises(BadKey, match="No such file"):
        read_secret({"AUDIT_SECRET_FILE": str(tmp_path / "none")})
    with pytest.raises(BadKey, match="0 bytes"):  # set to nothing is a mistake, not a wish for a log without MACs
        read_secret({"AUDIT_SECRET": ""})


@given(st.binary(min_size=32, max_size=32))
def test_key_files_round_trip(seed: bytes) -> None:
    """A private key read back signs what its verifier key accepts, and nothing else verifies."""
    key = LogKey.parse(LogKey(ORIGIN, seed).to_text() + "\n")
    verifier = VerifierKey.parse(key.vkey)

    assert verifier.verify(key.sign(b"message"), b"message")
    assert not verifier.verify(key.sign(b"message"), b"massage")
    assert verifier.vkey == key.vkey


def test_generated_keys_differ() -> None:
    """Two new keys of one origin are two keys."""
    assert LogKey.generate(ORIGIN).vkey != LogKey.generate(ORIGIN).vkey


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(VKEY.replace("99299683", "99299684"), id="key-id-of-another"),
        pytest.param(VKEY.replace("99299683", "9929968"), id="short-key-id"),
        pytest.param(VKEY.replace("host1", "host2"), id="origin-of-another"),
        pytest.param(VKEY.replace("audit.example", "audit example"), id="origin-with-space"),
        pytest.param(VKEY[:-4], id="cut"),
        pytest.param(VKEY + "\n\n", id="two-line-feeds"),
        pytest.param(VKEY.replace("+AQ", "+Ag"), id="other-algorithm"),
        pytest.param(VKEY[:-1] + "é", id="not-ascii"),
    ],
)
def test_a_damaged_verifier_key_is_refused(text: str) -> None:
    """Every way to spoil it is an error that says what a key looks like or what is wrong."""
    with pytest.raises(BadKey):
        VerifierKey.parse(text)


def test_a_damaged_private_key_is_refused() -> None:
    """A wrong lead or a seed that does not fit its key ID is refused without showing the seed."""
    text = KEY.to_text()
    with pytest.raises(BadKey, match=r"PRIVATE\+KEY"):
        LogKey.parse(KEY.vkey)
    with pytest.raises(BadKey, match="damaged"):
        LogKey.parse(text.replace("99299683", "00000000"))


@pytest.mark.parametrize("text", ["", "a" * 201, "a b", "a+b", 'a"b', "ä", "a\n"])
def test_origin_characters(text: str) -> None:
    """What would need escaping cannot name a log."""
    with pytest.raises(BadKey):
        check_origin(text)


@given(st.text(), st.text())
def test_a_default_origin_is_always_allowed(hostname: str, stem: str) -> None:
    """Whatever the host and the file are called."""
    assert check_origin(default_origin(hostname, stem, "0123abcd")).endswith("-0123abcd")
