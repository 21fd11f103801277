"""YAML text becomes nodes with lines; what no configuration needs is refused with its line."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_audit.config.document import MAX_DEPTH, Mapping, Scalar, Sequence, compose, decode
from mcp_audit.errors import ConfigError

ALIAS_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with and without libyaml."""
    import yaml

    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(text, "f")
    return str(caught.value)


def test_every_node_knows_its_line() -> None:
    """Lines count from 1, in block and flow style alike."""
    root = compose("a: 1\nb:\n  - x\n  - {c: y}\n", "f")

    assert isinstance(root, Mapping)
    (_, _), (b, items) = root.pairs
    assert isinstance(b, Scalar)
    assert (b.text, b.line) == ("b", 2)
    assert isinstance(items, Sequence)
    assert [item.line for item in items.items] == [3, 4]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        pytest.param("on", False, id="plain"),
        pytest.param("'on'", True, id="single"),
        pytest.param('"on"', True, id="double"),
        pytest.param("!!str on", True, id="tagged-as-text"),
        pytest.param("! on", True, id="non-specific-tag"),
        pytest.param("!!bool on", False, id="tagged-otherwise"),
        pytest.param("|-\n  on", True, id="block"),
    ],
)
def test_a_scalar_keeps_its_letters_and_whether_it_is_plainly_a_text(text: str, quoted: bool) -> None:
    """Interpreting is for the key's type to do."""
    node = compose(text, "f")

    assert isinstance(node, Scalar)
    assert (node.text, node.quoted) == ("on", quoted)


@pytest.mark.parametrize("text", ["", "   \n", "# only a comment\n", "---\n"])
def test_nothing_is_not_an_error_here(text: str) -> None:
    """Whether a file may be empty is not for YAML to say."""
    node = compose(text, "f")

    assert node is None or (isinstance(node, Scalar) and node.text == "")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("a:\n\tb: 1\n", "f:2: the line is indented with a tab; YAML allows only spaces there", id="tab"),
        pytest.param(
            "a: 1\n---\nb: 2\n", "f:2: a second document begins here; the configuration is one document", id="two"
        ),
        pytest.param(
            "a: b: c\n", "f:1: not YAML: a second `: ` in the line; put the value in quotes, or check the", id="colon"
        ),
        pytest.param(
            "x: 1\na: @scope/server\n", "f:2: not YAML: a value cannot start with '@' unless it is in quotes", id="at"
        ),
        pytest.param(
            "a: [1,\nb: 2", "f:2: not YAML: the bracket that opens in line 1 is not closed, or a comma", id="bracket"
        ),
        pytest.param("a: 'x\nb: 2\n", "f:2: not YAML: the quote that opens in line 1 is not closed", id="quote"),
        pytest.param("a: *b\n", "f:1: *b has no anchor &b before it", id="alias"),
        pytest.param("&a [*a]", "f:1: *a stands inside the value it names", id="recursive"),
        pytest.param("a: !!binary aGk=\n", "f:1: the tag !!binary has no meaning here; remove it", id="binary"),
        pytest.param("a: !!python/object:os.system x\n", "f:1: the tag !!python/object:os.system has no", id="python"),
        pytest.param("a: 1\nb: \x01\n", "f:2: it holds a control character, which YAML does not allow", id="control"),
    ],
)
def test_a_sentence_says_where_and_what(text: str, sentence: str) -> None:
    """Each of these is a mistake somebody makes, or an attack."""
    assert refusal(text).startswith(sentence)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 50_000, id="flow-lists"),
        pytest.param("{a: " * 50_000, id="flow-mappings"),
        pytest.param("- " * 50_000, id="block-lists"),
    ],
)
def test_deep_nesting_is_refused_and_does_not_end_the_process(text: str) -> None:
    """libyaml's composer overflows the C stack on this."""
    assert refusal(text).startswith(f"f:1: nested deeper than {MAX_DEPTH} levels")


def test_an_alias_bomb_is_refused_before_it_goes_off() -> None:
    """A few hundred bytes that stand for a thousand million values."""
    started = time.process_time()

    assert "counting each use of an alias" in refusal(ALIAS_BOMB)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        pytest.param(b"a: 1\nb: caf\xe9\n", "f:2: byte 0xe9 is not UTF-8; save the file as UTF-8", id="latin-1"),
        pytest.param("a: 1".encode("utf-16"), "f: the file is UTF-16; save it as UTF-8", id="utf-16"),
    ],
)
def test_other_encodings_are_named(raw: bytes, sentence: str) -> None:
    """PowerShell's `>` writes UTF-16, old editors Latin-1."""
    with pytest.raises(ConfigError) as caught:
        decode(raw, "f")

    assert str(caught.value) == sentence


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    """Windows editors put one there."""
    root = compose(decode(b"\xef\xbb\xbfproxy: {}", "f"), "f")

    assert isinstance(root, Mapping)
    assert isinstance(root.pairs[0][0], Scalar)
    assert root.pairs[0][0].text == "proxy"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"#%@,?\n\t \\~0"), max_size=60))
def test_any_text_gives_a_tree_or_a_config_error(text: str) -> None:
    """No content makes another exception."""
    try:
        node = compose(text, "f")
    except ConfigError as error:
        where = error.where
    else:
        where = f"f:{node.line}" if node else "f:1"
    assert 1 <= int(where.removeprefix("f:")) <= text.count("\n") + 1
