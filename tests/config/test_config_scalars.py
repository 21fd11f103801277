"""The key's type decides what letters mean; what readers of YAML disagree about is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_audit.config.scalars import Unfit, any_value, boolean, integer, is_null, number, text


@pytest.mark.parametrize("letters", ["true", "True", "TRUE", "yes", "on", "On", "y"])
def test_yes(letters: str) -> None:
    """Where a truth value is demanded, YAML 1.1's words are plain enough."""
    assert boolean(letters, quoted=False) is True


@pytest.mark.parametrize("letters", ["false", "False", "no", "off", "OFF", "n"])
def test_no(letters: str) -> None:
    """As above."""
    assert boolean(letters, quoted=False) is False


@pytest.mark.parametrize(
    ("letters", "quoted", "sentence"),
    [
        pytest.param("true", True, "must be true or false, found 'true'; remove the quotes", id="quoted"),
        pytest.param("1", False, "must be true or false, found '1'", id="one"),
        pytest.param("enabled", False, "must be true or false, found 'enabled'", id="word"),
    ],
)
def test_not_a_truth_value(letters: str, quoted: bool, sentence: str) -> None:
    """The sentence follows the key."""
    with pytest.raises(Unfit) as caught:
        boolean(letters, quoted)

    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("letters", "value"),
    [("0", 0), ("4422", 4422), ("-1", -1), ("+7", 7), ("1_000_000", 1_000_000)],
)
def test_whole_numbers(letters: str, value: int) -> None:
    """Decimal, digits grouped or not."""
    assert integer(letters, quoted=False) == value


@pytest.mark.parametrize(
    ("letters", "hint"),
    [
        pytest.param("010", "a leading 0 means octal to some readers of YAML, leave it out", id="octal"),
        pytest.param("08", "a leading 0 means octal to some readers of YAML, leave it out", id="no-octal-digit"),
        pytest.param("1:30", "YAML 1.1 takes this for base 60, write the number itself", id="sexagesimal"),
        pytest.param("0x10", "write it out in decimal", id="hex"),
        pytest.param("0o10", "write it out in decimal", id="octal-1.2"),
        pytest.param("1e6", "write it out in decimal", id="exponent"),
        pytest.param("30.0", "write it out in decimal", id="fraction"),
    ],
)
def test_numbers_that_readers_of_yaml_disagree_about(letters: str, hint: str) -> None:
    """A port must not depend on the YAML version."""
    with pytest.raises(Unfit, match="must be a whole number") as caught:
        integer(letters, quoted=False)

    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize("letters", ["", "-", "1_", "_1", "1 2", "4422x", "٣", "9" * 5000])
def test_not_numbers(letters: str) -> None:
    """Digits of other scripts and absurd lengths included; the sentence stays short."""
    with pytest.raises(Unfit) as caught:
        integer(letters, quoted=False)

    assert len(str(caught.value)) < 160


def test_a_quoted_number_is_a_text() -> None:
    """And the sentence says how to make it one no longer."""
    with pytest.raises(Unfit, match="found '80'; remove the quotes"):
        integer("80", quoted=True)


@pytest.mark.parametrize(("letters", "value"), [("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("-2", -2)])
def test_numbers(letters: str, value: float) -> None:
    """Whole ones stay whole."""
    assert number(letters, quoted=False) == value


@pytest.mark.parametrize("letters", [".inf", ".nan", "1e999", "010", "one", "1:30"])
def test_no_numbers(letters: str) -> None:
    """JSON has no infinity, so no argument can be compared with one."""
    with pytest.raises(Unfit):
        number(letters, quoted=False)


@pytest.mark.parametrize("letters", ["on", "08", "1.10", "2026-01-01", "no", "a\tb\nc", "é ☃"])
def test_texts_need_no_quotes(letters: str) -> None:
    """Where a text is demanded, letters are letters."""
    assert text(letters) == letters


@pytest.mark.parametrize("letters", ["a\x00b", "\x1b[31m", "\x7f"])
def test_texts_hold_no_control_characters(letters: str) -> None:
    """They would reach a terminal, or end a path early."""
    with pytest.raises(Unfit, match="must not contain the control character 0x"):
        text(letters)


@pytest.mark.parametrize(
    ("letters", "quoted", "value"),
    [
        ("null", False, None),
        ("~", False, None),
        ("null", True, "null"),
        ("true", False, True),
        ("true", True, "true"),
        ("17", False, 17),
        ("17", True, "17"),
        ("1.5", False, 1.5),
        ("2026-01-01", False, "2026-01-01"),
        ("/etc/passwd", False, "/etc/passwd"),
    ],
)
def test_any_value(letters: str, quoted: bool, value: object) -> None:
    """Where any JSON value may stand, YAML 1.2's core reading counts."""
    found = any_value(letters, quoted)

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("letters", ["on", "off", "yes", "No", "y", "010", "0x1f", "1:30", "1e999"])
def test_any_value_is_never_guessed(letters: str) -> None:
    """A policy must not depend on the YAML version; the sentence says how to write either meaning."""
    with pytest.raises(Unfit, match=f'"{letters}"'):
        any_value(letters, quoted=False)


@given(st.integers(-(10**30), 10**30))
def test_every_whole_number_survives(value: int) -> None:
    """Written in decimal it is read as itself."""
    assert integer(str(value), quoted=False) == any_value(str(value), quoted=False) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_survives(value: float) -> None:
    """In the spelling JSON gives it."""
    assert number(json.dumps(value), quoted=False) == value


@given(st.text(max_size=40), st.booleans())
def test_letters_give_a_value_or_a_sentence(letters: str, quoted: bool) -> None:
    """Nothing else is ever raised."""
    for read in (boolean, integer, number, any_value):
        with contextlib.suppress(Unfit):
            assert isinstance(read(letters, quoted), (bool, int, float, str, type(None)))


def test_nothing_written() -> None:
    """Quotes make a text of it."""
    assert is_null("", quoted=False)
    assert is_null("~", quoted=False)
    assert not is_null("", quoted=True)
    assert not is_null("none", quoted=False)
