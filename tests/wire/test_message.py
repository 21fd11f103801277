"""`parse` against a slow and obvious reading, on texts that are made, mangled and hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
import reference
from hostile import HOSTILE, LEGITIMATE
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcp_audit.wire.message import Direction, Kind, Message, parse, parse_id

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT


def told(message: Message) -> dict[str, Any]:
    """Return a message in the words of the reference."""
    id_ = message.id
    return {
        "raw": message.raw,
        "kind": message.kind.value,
        "id": (id_.key, id_.token, id_.text) if id_ is not None else None,
        "method": message.method,
        "target": message.target,
        "marks": message.marks,
        "params": message.params,
        "result": message.result,
        "error": message.error,
        "meta": message.meta,
    }


def agree(raw: bytes, line: bool = True, deep_arguments: bool = False) -> None:
    payload = parse(raw, TO_SERVER, line, deep_arguments)
    assert payload.raw is raw
    assert [told(message) for message in payload.messages] == reference.read(raw, line, deep_arguments)


def one(raw: bytes, **options: bool) -> Message:
    (message,) = parse(raw, TO_SERVER, **options).messages
    return message


# Texts made of members that matter, in any spelling, order, number and spacing.
NAMES = ["jsonrpc", "id", "method", "params", "result", "error", "extra", "ID", "Method", "paramſ", "é", "id\0"]
PARAM_NAMES = ["name", "uri", "arguments", "_meta", "Name", "_META", "cursor", "x", "é", ""]
TEXTS = [
    "tools/call",
    "resources/read",
    "delete_file",
    "a",
    "",
    "é\u2028☃",
    "\ud83d\ude00",
    "\ud800",
    "a\u0000b",
    "\x7f",
]
NUMBERS = [
    "0",
    "-0",
    "7",
    "1.0",
    "1e2",
    "-1.5E+3",
    "9007199254740991",
    "9007199254740992",
    "1e400",
    "-1e400",
    "9" * 400,
]


def spelled(text: str, draw: Any) -> bytes:
    """Write a string in one of the ways JSON has."""
    way = draw(st.sampled_from(["ascii", "utf8", "escaped"]))
    if way == "escaped":
        units = text.encode("utf-16-be", "surrogatepass")
        return b'"%b"' % b"".join(b"\\u%02x%02x" % (units[i], units[i + 1]) for i in range(0, len(units), 2))
    if way == "ascii" or any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        return json.dumps(text).encode()
    return json.dumps(text, ensure_ascii=False).encode()


@st.composite
def strings(draw: Any, texts: list[str] = TEXTS) -> bytes:
    return spelled(draw(st.sampled_from(texts)), draw)


def spaces(draw: Any, style: str) -> bytes:
    if style == "compact":
        return b""
    return draw(st.sampled_from([b"", b" ", b"\t", b"\r"] if style == "wild" else [b" "]))


@st.composite
def objects(draw: Any, names: Any, values: Any, style: str) -> bytes:
    parts = []
    for name in draw(st.lists(names, max_size=5)):
        token = json.dumps(name, ensure_ascii=name == "\ud800").encode()
        if draw(st.integers(0, 9)) == 0:
            token = spelled(name, draw)
        gaps = [spaces(draw, style) for _ in range(4)]
        parts.append(gaps[0] + token + gaps[1] + b":" + gaps[2] + draw(values(name)) + gaps[3])
    return b"{" + b",".join(parts) + b"}"


@st.composite
def arrays(draw: Any, values: Any) -> bytes:
    return b"[" + b",".join(draw(st.lists(values, max_size=4))) + b"]"


SCALARS = st.one_of(
    strings(), st.sampled_from(NUMBERS).map(str.encode), st.sampled_from([b"true", b"false", b"null", b"NaN"])
)
PLAIN = st.one_of(strings(), st.sampled_from(NUMBERS).map(str.encode), st.sampled_from([b"true", b"null"]))


def anything(style: str) -> st.SearchStrategy[bytes]:
    names = st.sampled_from(["a", "b", "é", "\ud800", "A"])
    return st.recursive(PLAIN, lambda inner: objects(names, lambda _: inner, style) | arrays(inner), max_leaves=5)


@st.composite
def messages(draw: Any) -> bytes:
    style = draw(st.sampled_from(["compact", "compact", "spaced", "wild"]))
    odd = draw(st.booleans())
    inner = anything(style)

    def param(name: str) -> st.SearchStrategy[bytes]:
        if name in ("name", "uri"):
            return strings() if not odd else SCALARS
        if name == "_meta":
            return objects(st.sampled_from(["progressToken", "io.x/y", "p"]), lambda _: inner, style) | inner
        return inner

    def member(name: str) -> st.SearchStrategy[bytes]:
        if name == "jsonrpc":
            return st.just(b'"2.0"')
        if name == "method":
            return strings(["tools/call", "resources/read", "x", "a\nb"]) | (SCALARS if odd else st.nothing())
        if name == "id":
            return PLAIN | (inner if odd else st.nothing())
        if name in ("params", "result"):
            known = objects(st.sampled_from(PARAM_NAMES if odd else PARAM_NAMES[:4]), param, style)
            return known | (inner if odd else st.nothing())
        return inner

    return draw(objects(st.sampled_from(NAMES if odd else NAMES[:6]), member, style))


FRAGMENTS = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\r", b"\n", b"\t", b"\x00", b"\xff", b"\xef\xbb\xbf",
    b"\x0b", b"\\ud800", b"\\udc00", b"\\u0069", b"\\\\", b"\\\"", b"\\/", b"NaN", b"Infinity", b"-", b"0", b"1e999",
    b"null", b'"id":1,', b'"method":"tools/call",', b'"params":{"name":"delete_file"},', b"/**/",
    b"\xc2\x85", b"\xe2\x80\xa8",
]  # fmt: skip


@st.composite
def mangled(draw: Any, texts: st.SearchStrategy[bytes]) -> bytes:
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 3))
        text = text[:at] + draw(st.sampled_from([b"", *FRAGMENTS])) + text[at + cut :]
    return text


TABLES = st.sampled_from([raw for _, raw in HOSTILE + LEGITIMATE if len(raw) < 1000])
ENDS = st.sampled_from([b"\n", b"\r\n", b""])


@settings(max_examples=300, deadline=None)
@given(messages(), ENDS, st.booleans(), st.booleans())
@example(b'{"id":1,"id":1}', b"\n", True, False)
@example(b'{"id":12,"id":1}', b"\n", True, False)
@example(b'{"id": 12, "id": 1}', b"\n", True, False)
@example(b'{"method":"x","params":{},"params":{"a":1}}', b"\n", True, False)
@example(b'{"jsonrpc":{"params":1},"method":"x","params":{"a":1}}', b"\n", True, False)
@example(b'{"jsonrpc":{"result":{}},"id":1,"result":{"a":1}}', b"\n", True, False)
@example(b'{"error":{"params":{}},"params":{"a":1},"id":1}', b"\n", True, False)
def test_messages_in_any_spelling_are_read_as_the_reference_reads_them(
    text: bytes, end: bytes, line: bool, deep: bool
) -> None:
    """Every field and every mark, whichever of the three ways through the code a text takes."""
    agree(text + end, line, deep)


@settings(max_examples=100, deadline=None)
@given(arrays(messages() | SCALARS), ENDS, st.booleans())
def test_batches_are_read_as_the_reference_reads_them(text: bytes, end: bytes, deep: bool) -> None:
    """Each element is a message with its own slice; what is odd about the text is odd about all of them."""
    agree(text + end, True, deep)


@settings(max_examples=500, deadline=None)
@given(mangled(messages() | arrays(messages()) | TABLES), ENDS, st.booleans(), st.booleans())
@example(b"", b"\n", True, False)
@example(b'{"a":"\\\\ud800"}', b"\n", True, False)
@example(b'{"a":"\\\\\\ud800","b":"\\ud800\\ud800\\udc00"}', b"\n", True, False)
@example(b'{"a":"\\ud8"00","b":1}', b"\n", True, False)
@example(b'{"\\ud800":1,"\\ufffd":2}', b"\n", True, False)
@example(b'{"a":"\\ud800","id":1,"id":2}', b"\n", True, False)
@example(b'{"a":"\\ud800" "b":1}', b"\n", True, False)
@example(b'{"a":{"b":"\\udc00" :1}}', b"\n", True, False)
@example(b'{"a":"x\\"\\"\\ud800","b":{"\\"\\ud800":1}}', b"\n", True, False)
def test_mangled_messages_are_read_as_the_reference_reads_them(text: bytes, end: bytes, line: bool, deep: bool) -> None:
    """A few bytes in the wrong place change nothing about the agreement."""
    agree(text + end, line, deep)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda s: s.encode("utf-8", "surrogatepass")), st.booleans())
def test_no_bytes_make_parse_raise(data: bytes, line: bool) -> None:
    """Whatever arrives is a payload."""
    agree(data, line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=10),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
    st.dictionaries(st.sampled_from(["name", "arguments", "cursor", "_meta"]), JSON, max_size=3),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " : ")]),
    st.booleans(),
)
def test_what_encoders_write_comes_back(
    id_: int | str, method: str, params: dict[str, Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    """Id, method and params of any `json.dumps` are what went in, and nothing about them is ambiguous."""
    sent = {"jsonrpc": "2.0", "id": id_, "method": "x" + method, "params": params}
    message = one(json.dumps(sent, separators=separators, ensure_ascii=ascii_only).encode() + b"\n")

    assert message.kind is Kind.REQUEST
    assert message.id is not None
    assert (message.id.key, json.loads(message.id.token)) == (id_, id_)
    assert message.method == "x" + method
    assert json.loads(message.params) == params
    assert message.marks == ()
    assert {k: json.loads(v) for k, v in message.meta.items()} == (
        params["_meta"] if isinstance(params.get("_meta"), dict) else {}
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(b'{"id":1,"method":"ping"}\n', "request", id="request"),
        pytest.param(b'{"id":null,"method":"ping"}\n', "request", id="null-id"),
        pytest.param(b'{"id":true,"method":"ping"}\n', "request", id="bad-id"),
        pytest.param(b'{"method":"ping"}\n', "notification", id="notification"),
        pytest.param(b'{"id":1,"result":null}\n', "response", id="response"),
        pytest.param(b'{"id":null,"error":{}}\n', "response", id="error"),
        pytest.param(b'{"id":1}\n', "opaque", id="neither"),
        pytest.param(b"Server started\n", "opaque", id="noise"),
        pytest.param(b"7\n", "opaque", id="scalar"),
    ],
)
def test_the_members_decide_the_kind(raw: bytes, expected: str) -> None:
    """An id makes a request of a method, even one that pairs with nothing; a result or error makes a response."""
    assert one(raw).kind.value == expected


@pytest.mark.parametrize("raw", [b"\n", b"\r\n", b"", b" \t\n", b"\r\r\n"])
def test_a_blank_line_holds_no_message(raw: bytes) -> None:
    """Nothing to judge, nothing to record."""
    assert parse(raw, TO_CLIENT).messages == ()


@pytest.mark.parametrize(
    ("token", "key", "text"),
    [
        (b"1", 1, "1"),
        (b"1.0", 1, "1.0"),
        (b"-0", 0, "-0"),
        (b"1e2", 100, "1e2"),
        (b'"1"', "1", "1"),
        (b'""', "", ""),
        (b'"\\u0041"', "A", "A"),
        (b'"\\ud800"', "\ud800", "\ud800"),
        (b"9007199254740993", 9007199254740993, "9007199254740993"),
        (b"1" * 5000, float("inf"), "1" * 5000),
        (b"null", None, "null"),
    ],
)
def test_ids_pair_by_type_and_value(token: bytes, key: Any, text: str) -> None:
    """1 and 1.0 are one id, 1 and "1" two; the token is what an answer repeats."""
    id_ = parse_id(token)
    assert id_ is not None
    assert (id_.key, type(id_.key) is str, id_.token, id_.text) == (key, type(key) is str, token, text)


@pytest.mark.parametrize("token", [b"true", b"false", b"[1]", b"{}"])
def test_what_is_no_id(token: bytes) -> None:
    """`True == 1` in Python; here a boolean is nothing."""
    assert parse_id(token) is None


def nested(depth: int, opener: bytes = b"[", closer: bytes = b"]", inside: bytes = b"") -> bytes:
    """Return a call nested `depth` levels, of which the message, its params and the arguments are three."""
    value = opener * (depth - 3) + inside + closer * (depth - 3)
    return b'{"id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":%b}}}\n' % value


@pytest.mark.parametrize("flat", [b"", b'"]}"', b'"\\"]]]]"', b"[],[],{}", b'"[[[["', b"[]," * 2000 + b'"}\\\\"'])
@pytest.mark.parametrize(
    ("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}"), (b'["]",', b"]"), (b'["\\\\",{"]}":', b"}]")]
)
def test_512_levels_pass_and_513_do_not(opener: bytes, closer: bytes, flat: bytes) -> None:
    """Brackets inside strings neither hide depth nor feign it."""
    step = 2 if b"{" in opener[1:] else 1
    inside = b"[" + flat + b"]"
    for depth in (64, 300, 511, 512, 513, 514, 700, 5000):
        value = opener * ((depth - 4) // step) + inside + closer * ((depth - 4) // step)
        text = b'{"id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":%b}}}\n' % value
        real = 4 + (depth - 4) // step * step + (b"[]" in flat)
        message = one(text)
        assert message.marks == (("too_deep",) if real > 512 else ()), (depth, real)
        assert (message.target, message.id and message.id.key) == ("x", 1)


@pytest.mark.parametrize("text", [b"[" * 2000, b"{" * 2000, b"[" * 2000 + b"]" * 2000 + b"x"])
def test_only_json_can_be_too_deep(text: bytes) -> None:
    """Brackets in noise are noise."""
    assert one(text + b"\n").marks == ("not_json",)


@pytest.mark.parametrize(
    ("arguments", "marks"),
    [
        pytest.param(b'{"a":{"b":1,"c":[{"b":1}]}}', (), id="same-name-elsewhere"),
        pytest.param(b'{"a":[{"b":1,"b":1}]}', ("duplicate_key",), id="repeated-deep-down"),
        pytest.param(b'{"a":[{"b":1,"\\u0062":1}]}', ("duplicate_key",), id="repeated-in-disguise"),
        pytest.param(b'{ "a": [ {"b": 1, "b": 2} ] }', ("duplicate_key",), id="repeated-and-spaced"),
        pytest.param(b'{"a":1e400}', ("number_range",), id="overflow"),
        pytest.param(b'{"a":-1E+400}', ("number_range",), id="overflow-below"),
        pytest.param(b'{"a":%b}' % (b"9" * 309), ("number_range",), id="long-overflow"),
        pytest.param(b'{"a":0.%b}' % (b"1" * 4300), ("number_range",), id="too-many-digits"),
        pytest.param(b'{"a":0.%b}' % (b"1" * 4299), (), id="digits-enough"),
        pytest.param(b'{"a":%b,"b":1e308,"c":1e-400}' % (b"9" * 308), (), id="in-range"),
        pytest.param(b'{"a":"%b"}' % (b"9" * 400), (), id="digits-in-a-string"),
        pytest.param(b'[{"a":1,"a":2}]', ("duplicate_key",), id="array"),
        pytest.param(b"7", (), id="scalar"),
    ],
)
def test_arguments_are_searched_when_a_gate_reads_there(arguments: bytes, marks: tuple[str, ...]) -> None:
    """With `deep_arguments` repeated names and numbers out of range are found at any depth; without, none."""
    raw = b'{"id":1,"method":"tools/call","params":{"name":"x","arguments":%b}}\n' % arguments

    assert one(raw, deep_arguments=True).marks == marks
    assert one(raw).marks == ()


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'


@pytest.mark.parametrize(
    ("body", "raw", "marks"),
    [
        pytest.param(CALL, CALL, (), id="bare"),
        pytest.param(CALL + b"\n", CALL, (), id="newline-behind"),
        pytest.param(CALL + b"\r\n \t\n", CALL, (), id="white-space-behind"),
        pytest.param(b" \n\r\t" + CALL, b" \n\r\t" + CALL, (), id="white-space-before"),
        pytest.param(CALL.replace(b",", b",\r\n  "), CALL.replace(b",", b",\r\n  "), (), id="lines"),
        pytest.param(b"\xef\xbb\xbf" + CALL + b"\n", b"\xef\xbb\xbf" + CALL, ("bom",), id="bom"),
    ],
)
def test_a_body_is_json_with_white_space_around_it(body: bytes, raw: bytes, marks: tuple[str, ...]) -> None:
    """An HTTP body or an event has no terminator, and a line break in it means nothing."""
    message = one(body, line=False)

    assert (message.raw, message.marks, message.kind) == (raw, marks, Kind.REQUEST)
    assert (message.method, message.target) == ("tools/call", "x")
    agree(body, line=False)


@pytest.mark.parametrize(
    ("body", "marks"),
    [
        pytest.param(b" \xef\xbb\xbf" + CALL, ("not_json",), id="bom-behind-white-space"),
        pytest.param(b"\xef\xbb\xbf", ("not_json", "bom"), id="bom-alone"),
        pytest.param(CALL.decode().encode("utf-16"), ("not_json", "invalid_utf8", "bom", "utf16"), id="utf16"),
        pytest.param(CALL.decode().encode("utf-16-le"), ("not_json", "utf16"), id="utf16-without-mark"),
        pytest.param(CALL + b"\n" + CALL, ("not_json",), id="two-lines"),
        pytest.param(CALL + b"\x0b", ("not_json",), id="other-white-space"),
        pytest.param(CALL + b"\xc2\xa0", ("not_json",), id="no-break-space"),
    ],
)
def test_a_body_that_is_not_one_json_text_is_opaque(body: bytes, marks: tuple[str, ...]) -> None:
    """Though some server may read a message out of it."""
    message = one(body, line=False)

    assert (message.kind, message.marks) == (Kind.OPAQUE, marks)
    agree(body, line=False)


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n", b" \t\r\n"])
def test_an_empty_body_holds_no_message(body: bytes) -> None:
    """As an answer 202 has none."""
    payload = parse(body, TO_SERVER, line=False)

    assert payload.messages == ()
    assert payload.raw is body


@pytest.mark.parametrize("odd", [b"", b' ,"\\ud800"'])
def test_a_batch_is_a_thousand_messages_at_most(odd: bytes) -> None:
    """More would be memory for nothing: it is one opaque message, forwarded where nothing is enforced."""
    element = b'{"method":"ping"}'
    payload = parse(b"[" + b",".join([element] * 1000) + b"]\n", TO_SERVER)
    assert (len(payload.messages), payload.batch, payload.messages[999].raw) == (1000, True, element)

    payload = parse(b"[" + b",".join([element] * 1001) + odd + b"]\n", TO_SERVER)
    assert [(m.kind, m.marks) for m in payload.messages] == [(Kind.OPAQUE, ("shape",))]
    assert not payload.batch


ROWS = {
    "not_json": [
        b"{",
        b"{}{}",
        b"7",
        b'"x"',
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":"\t"}',
        b"\xc2\xa0{}",
    ],
    "bare_cr": [
        b'{"method":\r"x"}',
        b'\r{"method":"x"}',
        b'{"method":"x"}\r\r',
        b'{"method":"x","params":{"a":[\r1]}}',
    ],
    "invalid_utf8": [
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b'{"\xff":1}',
    ],
    "bom": [
        b'\xef\xbb\xbf{"method":"x"}',
        b"\xef\xbb\xbf[{}]",
    ],
    "utf16": [
        b"{\x00}\x00",
        b"{}\x00",
    ],
    "duplicate_key": [
        b'{"a":1,"a":1}',
        b'{"a":12,"a":1}',
        b'{"params":{"a":1,"a":2}}',
        b'{"params":{"_meta":{"a":1,"a":1}}}',
        b'{"result":{"_meta":{"a":1,"a":2}}}',
        b'{"a":1,"\\u0061":1}',
        b'[{"a":1,"a":1}]',
    ],
    "case_variant_key": [
        b'{"ID":1}',
        b'{"Method":1}',
        b'{"Result":{}}',
        b'{"param\xc5\xbf":1}',
        b'{"jsonRPC":1}',
        b'{"params":{"Name":1}}',
        b'{"params":{"URI":1}}',
        b'{"params":{"_META":1}}',
        b'{"params":{"argument\\u017f":1}}',
    ],
    "escaped_key": [
        b'{"\\u0069d":1}',
        b'{"method":"x","\\u0070arams":{}}',
        b'{"params":{"n\\u0061me":1}}',
    ],
    "number_range": [
        b'{"id":9007199254740992,"method":"x"}',
        b'{"id":9007199254740992}',
        b'{"id":-9007199254740992}',
        b'{"id":1e16}',
        b'{"id":1e400}',
        b'{"id":%b}' % (b"1" * 5000),
    ],
    "too_deep": [
        b'{"a":' + b"[" * 512 + b"]" * 512 + b"}",
        b"[" * 513 + b"]" * 513,
    ],
    "bad_text": [
        b'{"method":"a\\u0000"}',
        b'{"method":"\\ud800"}',
        b'{"id":"a\\n"}',
        b'{"id":"\\udfff"}',
        b'{"method":"\x7f"}',
        b'{"a":[{"\\ud800":1}]}',
        b'{"method":"tools/call","params":{"name":"\\u0085"}}',
        b'{"id\\u0000":1}',
        b'{"method":"resources/read","params":{"uri":"\\ud800"}}',
    ],
    "shape": [
        b'{"method":"x","result":1}',
        b'{"method":"x","error":1}',
        b'{"result":1,"error":1}',
        b'{"method":1}',
        b'{"id":true}',
        b'{"id":[]}',
        b'{"id":{}}',
        b'{"params":[]}',
        b'{"params":1}',
        b'{"method":"tools/call"}',
        b'{"method":"tools/call","params":{}}',
        b'{"method":"tools/call","params":{"name":1}}',
        b"[]",
        b"[1]",
    ],
}


@pytest.mark.parametrize(
    ("slug", "text"),
    [pytest.param(slug, text, id=f"{slug}-{i}") for slug, texts in ROWS.items() for i, text in enumerate(texts)],
)
def test_each_row_of_the_table_holds(slug: str, text: bytes) -> None:
    """What some reader takes differently is marked, with the slug that says why."""
    (message,) = parse(text + b"\n", TO_SERVER).messages

    assert slug in message.marks
    if slug != "too_deep":  # the reference recurses
        agree(text + b"\n")


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":9007199254740991,"method":"x"}',
        b'{"id":0.1,"method":"x","params":null}',
        b'{"id":null,"error":{"code":1,"code":2}}',
        b'{"id":1,"result":{"a":1,"a":2}}',
        b'{"id":1,"result":[]}',
        b'{"method":"prompts/get","params":{"name":7}}',
        b'{"method":"x","params":{"name":"a\\nb","_meta":7}}',
        b'{"_meta":{"a":1,"a":2},"x":{"id":1,"ID":2}}',
        b'{"idea":1,"Errors":2}',
    ],
)
def test_the_table_has_no_other_rows(text: bytes) -> None:
    """What no gate reads, and what is merely unusual, is not held against a message."""
    assert one(text + b"\n").marks == ()


def test_marks_come_in_the_order_of_the_table() -> None:
    """The first is the reason a denial gives, so the order is part of the contract."""
    raw = b'\xef\xbb\xbf{"id":9007199254740993,"id":true,"ID":1,"m\\u0065thod":"a\\u0000","result":NaN,\r"x":"\xff"}\n'

    assert one(raw).marks == (
        "not_json", "bare_cr", "invalid_utf8", "bom", "duplicate_key", "case_variant_key", "escaped_key",
        "number_range", "bad_text", "shape",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" * 3_000_000 + b"]" * 3_000_000, id="deep-array"),
        pytest.param(b'{"a":' * 1_000_000 + b"1" + b"}" * 1_000_000, id="deep-object"),
        pytest.param(b"[" * 3_000_000, id="never-closed"),
        pytest.param(b'{"id":1,"id":2,"a":[' + b'{"a":1},' * 500_000 + b"1]}", id="repeated-and-dense"),
        pytest.param(b'{"_":NaN,"a":[' + b'{"a":1},' * 500_000 + b"1]}", id="constant-and-dense"),
        pytest.param(b"{" + b",".join(b'"%d": 1' % i for i in range(400_000)) + b"}", id="many-members"),
        pytest.param(b'{"a":["\\ud800",' + b'"[[",' * 1_000_000 + b"1]}", id="brackets-in-strings"),
        pytest.param(b'{"a":"' + b"\\n" * 2_000_000 + b'\\ud800"}', id="escapes"),
        pytest.param(b'{"a":"' + b'\\"' * 200_000 + b'\\ud800"' + b',"b":"\\ud800"' * 100_000 + b"}", id="surrogates"),
        pytest.param(b'{"a":"' + b"\\" * 2_000_000 + b'"}', id="backslashes"),
        pytest.param(b"[" + b"{}," * 5_000_000 + b"{}]", id="batch"),
        pytest.param(b'{"a' + b"\\ud800" * 300_000 + b'":1}', id="surrogates-in-a-name"),
    ],
)
@pytest.mark.timeout(30)
def test_hostile_sizes_cost_little(text: bytes) -> None:
    """Megabytes made to hit every slow path take seconds at most, not minutes, and no stack."""
    parse(text + b"\n", TO_SERVER, deep_arguments=True)
