"""Redaction: what is secret is gone, everything else is as relayed, byte by byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_audit.errors import NotStrictJson
from mcp_audit.ledger.entry import Entry, encode
from mcp_audit.middleware.capture import commitment
from mcp_audit.middleware.redact import Redactor
from mcp_audit.wire.strict_json import events

PATTERNS = ("password", "token", "secret", "api_key", "bearer", "authorization", "credential")
ALLOW = ("progressToken", "max_tokens", "io.mcp-audit/credential")
KEY = b"k" * 32


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(PATTERNS, ALLOW, redact_key=KEY)


def entry(type_: str = "", **payloads: Any) -> Entry:
    return Entry("01AB", "2026-05-25T12:34:56.123450Z", "client_to_server", "stdio", "m", type=type_, **payloads)


@pytest.mark.parametrize(
    ("payload", "stored", "pointers"),
    [
        pytest.param(b'{"token":"x"}', b'{"token":"[REDACTED]"}', ["/token"], id="string"),
        pytest.param(b'{"token":1.10,"a":1.10}', b'{"token":"[REDACTED]","a":1.10}', ["/token"], id="number"),
        pytest.param(b'{"token":true}', b'{"token":"[REDACTED]"}', ["/token"], id="true"),
        pytest.param(b'{"token":""}', b'{"token":"[REDACTED]"}', ["/token"], id="empty-string"),
        pytest.param(b'{"tokens":[1,{"a":[]}],"b":2}', b'{"tokens":"[REDACTED]","b":2}', ["/tokens"], id="container"),
        pytest.param(b'{"token":null}', b'{"token":null}', [], id="null-holds-nothing"),
        pytest.param(b'{"token":"[REDACTED]"}', b'{"token":"[REDACTED]"}', [], id="sent-like-that"),
        pytest.param(
            b'{ "a" : 1e2 , "token" :  "x" , "a":123456789012345678901234567890}',
            b'{ "a" : 1e2 , "token" :  "[REDACTED]" , "a":123456789012345678901234567890}',
            ["/token"],
            id="spaces-numbers-repeated-names",
        ),
        pytest.param(
            b'{"token":1,"token":2,"token":3}',
            b'{"token":"[REDACTED]","token":"[REDACTED]","token":"[REDACTED]"}',
            ["/token"] * 3,
            id="every-one-of-repeated-names",
        ),
        pytest.param(
            b'{"a":{"token":"x"},"a":1}', b'{"a":{"token":"[REDACTED]"},"a":1}', ["/a/token"], id="under-a-lost-name"
        ),
        pytest.param(
            b'{"a":{"token":"x"},"a" :1}', b'{"a":{"token":"[REDACTED]"},"a" :1}', ["/a/token"], id="lost-name-spaced"
        ),
        pytest.param(
            b'{"a":{"token":"x"},"a":"x\\u0022\\u0022\\u0022\\u0022\\u0022\\u0022"}',
            b'{"a":{"token":"[REDACTED]"},"a":"x\\u0022\\u0022\\u0022\\u0022\\u0022\\u0022"}',
            ["/a/token"],
            id="lost-name-and-escaped-quotes",
        ),
        pytest.param(b'{"pass\\u0077ord":"x"}', b'{"pass\\u0077ord":"[REDACTED]"}', ["/password"], id="escaped-key"),
        pytest.param(
            b'{"a/b":{"~c":[0,{"my token":1}]}}',
            b'{"a/b":{"~c":[0,{"my token":"[REDACTED]"}]}}',
            ["/a~1b/~0c/1/my token"],
            id="pointer-escapes",
        ),
        pytest.param(b'{"max_tokens":5,"progressToken":"t"}', None, [], id="allowed"),
        pytest.param(
            b'{"io.mcp-audit/credential":{"provider":"aws","secret":"x"}}',
            b'{"io.mcp-audit/credential":{"provider":"aws","secret":"[REDACTED]"}}',
            ["/io.mcp-audit~1credential/secret"],
            id="below-an-allowed-key",
        ),
        pytest.param(
            b'{"requestState":"abc"}', b'{"requestState":"[REDACTED]"}', ["/requestState"], id="request-state"
        ),
        pytest.param(b'{"token":"\\ud800","n":1e999}', b'{"token":"[REDACTED]","n":1e999}', ["/token"], id="odd"),
        pytest.param(
            b'{"\\ud800":{"token":1}}', b'{"\\ud800":{"token":"[REDACTED]"}}', ["/\ud800/token"], id="odd-pointer"
        ),
        pytest.param(b'"Bearer abcdefgh12345678"', b'"Bearer [REDACTED]"', [""], id="top-level-string"),
        pytest.param(b"17", None, [], id="top-level-number"),
        pytest.param(b'{"a":"xoxb-\\u0031234567890-a"}', b'{"a":"[REDACTED]"}', ["/a"], id="shape-behind-an-escape"),
        pytest.param(
            b'{"a":"{\\u0022token\\u0022:1}"}',
            b'{"a":"{\\u0022token\\u0022:\\"[REDACTED]\\"}"}',
            ["/a"],
            id="nested-behind-escapes",
        ),
        pytest.param(
            b'{"a":["x xoxb-1234567890 y","xoxb-1234567890"]}',
            b'{"a":["x [REDACTED] y","[REDACTED]"]}',
            ["/a/0", "/a/1"],
            id="shapes-in-a-list",
        ),
        pytest.param(b'{"xoxb-1234567890":1}', b'{"[REDACTED]":1}', ["/[REDACTED]"], id="shape-in-a-name"),
        pytest.param(
            b'{"xoxb-1234567890":{"token":1}}',
            b'{"[REDACTED]":{"token":"[REDACTED]"}}',
            ["/[REDACTED]", "/[REDACTED]/token"],
            id="path-through-a-hidden-name",
        ),
    ],
)
def test_what_is_hidden(redactor: Redactor, payload: bytes, stored: bytes | None, pointers: list[str]) -> None:
    """Values under sensitive keys go whole, secrets in strings alone; all else keeps its bytes."""
    assert redactor.redact(payload) == (payload if stored is None else stored, pointers)


def nested(value: str, levels: int) -> str:
    for _ in range(levels):
        value = json.dumps({"a": value})
    return value


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        pytest.param('{"token":"x","b":[1.10]}', '{"token":"[REDACTED]","b":[1.10]}', id="object"),
        pytest.param('\n [{"token" : "x"}] \n', '\n [{"token" : "[REDACTED]"}] \n', id="array-with-space-around"),
        pytest.param('"{\\"token\\":\\"x\\"}"', '"{\\"token\\":\\"[REDACTED]\\"}"', id="encoded-twice"),
        pytest.param('{"token":"x"', '{"token":"[REDACTED]"', id="cut-off"),
        pytest.param('{"a":NaN,"token":NaN}', '{"a":NaN,"token":"[REDACTED]"}', id="python-writes-nan"),
        pytest.param('[INFO] got {"token": "x"}', '[INFO] got {"token": "[REDACTED]"}', id="log-line"),
        pytest.param('{"a":{"token":1},"a":2}', '{"a":{"token":"[REDACTED]"},"a":2}', id="repeated-names"),
        pytest.param('{"a":"\ud800","token":1}', '{"a":"\ud800","token":"[REDACTED]"}', id="raw-lone-surrogate"),
        pytest.param('{"a":"xoxb-1234567890"}', '{"a":"[REDACTED]"}', id="shape-inside"),
        pytest.param(nested('{"token":1}', 3), nested('{"token":"[REDACTED]"}', 3), id="three-levels-down"),
        pytest.param(nested('{"x":1}', 3), nested('{"x":1}', 3), id="four-levels-clean"),
        pytest.param(nested('{"x":1}', 4), nested("[REDACTED]", 4), id="five-levels-are-too-many"),
        pytest.param("[" * 600 + '""' + "]" * 600, "[REDACTED]", id="too-deep-to-search"),
        pytest.param("[1, 2]", "[1, 2]", id="nothing-that-could-hide"),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_inside_strings(redactor: Redactor, text: str, stored: str, ascii_only: bool) -> None:
    """Only inner values are hidden; the string's own spelling stays, and the pointer is the string's."""

    def result(text: str) -> bytes:
        body = json.dumps({"content": [{"type": "text", "text": text}]}, ensure_ascii=ascii_only)
        return body.encode("utf-8", "backslashreplace")

    pointers = [] if text == stored else ["/result/content/0/text"]
    assert redactor.redact(result(text), "/result") == (result(stored), pointers)
    assert redactor.redact(result(stored), "/result") == (result(stored), [])


def test_nested_json_can_be_left_alone() -> None:
    """With `nested_json: false` a string is text."""
    payload = json.dumps({"text": '{"token":"x"} {"token":"y"}'}).encode()

    assert Redactor(PATTERNS, nested_json=False).redact(payload) == (payload, [])


def test_clean_payloads_are_not_copied(redactor: Redactor) -> None:
    """A clean payload is the very object that came in."""
    payload = b'{"name":"read_file","arguments":{"path":"/tmp/x","n":1.10,"text":"say \\"hi\\"\\n"}}'

    assert redactor.redact(payload)[0] is payload


def test_a_line_can_hold_what_is_stored(redactor: Redactor) -> None:
    """White space outside strings goes if there is a raw newline, also from a text in which something was hidden."""
    assert redactor.redact(b'{\n  "a": "x  y",\t"token": "z"\n}')[0] == b'{"a":"x  y","token":"[REDACTED]"}'
    assert redactor.redact(b'{\r\n  "a": [1, 2]\r\n}')[0] == b'{"a":[1,2]}'
    assert redactor.redact(b'{  "a": [1, 2] }')[0] == b'{  "a": [1, 2] }'


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"a":"\xff"}', id="invalid-utf8"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', id="surrogate-in-utf8"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', id="bom"),
        pytest.param(b'{"a":NaN}', id="nan"),
        pytest.param(b'{"a":"\x01"}', id="control-character"),
        pytest.param(b"[" * 513 + b"]" * 513, id="too-deep"),
        pytest.param(b'{"token":' * 513 + b"1" + b"}" * 513, id="too-deep-below-a-hidden-key"),
        pytest.param(b'{"token":"x"', id="cut-off"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_cannot_be_searched_is_dropped(redactor: Redactor, payload: bytes) -> None:
    """A payload that is not strict JSON is elided with its size and a commitment, never stored."""
    with pytest.raises(NotStrictJson):
        redactor.redact(payload)
    if not payload:
        return
    shaped = redactor(entry(params=payload, result=b"{}", error=payload, raw=payload))

    assert (shaped.params, shaped.result, shaped.error, shaped.raw) == (b"", b"{}", b"", b"")
    assert (shaped.params_b64, shaped.raw_b64) == ("", "")
    assert shaped.elided == [
        {"p": p, "bytes": len(payload), "why": "unredactable", "c": commitment(KEY, "01AB", p, payload)}
        for p in ("/params", "/error", "/raw")
    ]


def test_512_levels_are_searched(redactor: Redactor) -> None:
    """The deepest payload that a line takes is still redacted."""
    payload = b'{"a":' * 511 + b'{"token":"x"}' + b"}" * 511

    assert redactor.redact(payload) == (payload.replace(b'"x"', b'"[REDACTED]"'), ["/a" * 511 + "/token"])


def test_entries_point_into_the_line(redactor: Redactor) -> None:
    """Pointers begin with the member of the line, in the order of the line."""
    shaped = redactor(
        entry(
            params=b'{"token":1}',
            result=b'{"content":[{"text":"xoxb-1234567890"}]}',
            error=b'{"code":-1,"message":"bad postgres://u:pw@h/d","data":{"secret":2}}',
        )
    )

    assert shaped.redacted == [
        {"p": "/params/token"},
        {"p": "/result/content/0/text"},
        {"p": "/error/message"},
        {"p": "/error/data/secret"},
    ]
    assert shaped.error == b'{"code":-1,"message":"bad postgres://u:[REDACTED]@h/d","data":{"secret":"[REDACTED]"}}'


@pytest.mark.parametrize("params", [b'{"token":"x","a":1}', b'{"a":1}', b'{"a":\n1}'])
def test_both_lines_of_a_call_agree(redactor: Redactor, params: bytes) -> None:
    """What the request line stored comes again in the exchange line, and nothing is remembered after it."""
    request = redactor(entry("request", params=params))
    exchange = redactor(entry(params=params, result=b'{"secret":1}'))

    assert exchange.params is request.params
    assert exchange.redacted == [*request.redacted, {"p": "/result/secret"}]
    assert redactor._memory._kept == {}


def test_calls_without_answers_do_not_pile_up(redactor: Redactor) -> None:
    """What became of params is remembered for a bounded number of open calls, and bytes."""
    for i in range(1000):
        redactor(entry("request", params=b'{"a":"%d"}' % i + b" " * 5000))
    redactor(entry("request", params=b'{"a":1}' + b" " * 2_000_000))

    kept = [params for params, _, _ in redactor._memory._kept.values()]
    assert 0 < len(kept) <= 256
    assert sum(map(len, kept)) == redactor._memory._bytes <= 4 * 1024 * 1024


def test_pointers_cannot_outgrow_the_payload(redactor: Redactor) -> None:
    """A long path to many secrets would multiply a payload; it is hidden whole instead."""
    payload = b'{"%s":[%s]}' % (b"x" * 100_000, b",".join([b'{"token":1}'] * 1000))

    assert redactor.redact(payload, "/result") == (b'"[REDACTED]"', ["/result"])
    table = b'{"rows":[%s]}' % b",".join([b'{"token":1}'] * 1000)
    assert len(redactor.redact(table)[1]) == 1000


# The promise of the module. A document is made of parts (as sent, as stored), so that what must come out is known to
# the byte, whatever its spelling.

Parts = list[tuple[str, str]]
CANARY = "cAnArY"
HIDDEN = '"[REDACTED]"'

harmless_names = st.sampled_from(["a", "b", "", "é", 'q"', "back\\", "a/b~", ":", "max_tokens", "\u2028", "😀"])
sensitive_names = st.sampled_from(
    [
        "token",
        "X-API-Key",
        "apiKey",
        "ＰＡＳＳＷＯＲＤ",
        "ſecret",
        "pass\u00adword",
        'my"token"',
        "requestState",
        "tokens/~",
    ]
)
numbers = st.sampled_from(["0", "-0", "1.10", "1e2", "1E+5", "123456789012345678901234567890", "1e999", "-1.0e-400"])
texts = st.text(max_size=12) | st.sampled_from(['":', '"a":', '{"', "[x]", "\\", '\\"', "\ud800", "\x00\x1f", " {} "])
spaces = st.sampled_from(["", "", "", " ", "  "])
spellings = st.sampled_from(["plain", "ascii", "odd"])


def spelled(text: str, how: str) -> str:
    """Return the body of a JSON string."""
    if how == "ascii":
        return json.dumps(text)[1:-1]
    plain = [json.dumps(c, ensure_ascii=False)[1:-1] for c in text]
    if how == "odd":
        plain = [
            f"\\u{ord(c):04X}" if i % 3 == 0 and ord(c) < 0x10000 else s
            for i, (c, s) in enumerate(zip(text, plain, strict=True))
        ]
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in "".join(plain))


def fixed(text: str) -> Parts:
    return [(text, text)]


@st.composite
def documents(draw: st.DrawFn, depth: int = 4, levels: int = 3) -> tuple[Parts, list[str]]:
    """Draw a JSON text as parts, and the pointers that its redaction must give."""
    kind = draw(
        st.sampled_from(["object", "array", "nested", "text", "number", "literal"] if depth else ["text", "number"])
    )
    if kind == "number":
        return fixed(draw(numbers)), []
    if kind == "literal":
        return fixed(draw(st.sampled_from(["true", "false", "null"]))), []
    if kind == "text":
        return fixed('"' + spelled(draw(texts), draw(spellings)) + '"'), []
    if kind == "nested" and levels:
        inner, pointers = draw(documents(depth - 1, levels - 1))
        how = draw(st.sampled_from(["plain", "ascii"]))
        body = [(spelled(sent, how), spelled(stored, how)) for sent, stored in inner]
        return [*fixed('"'), *body, *fixed('"')], [""] if pointers else []
    parts: Parts = []
    pointers = []
    opening, closing = ("{", "}") if kind == "object" else ("[", "]")
    for index in range(draw(st.integers(0, 4))):
        parts += fixed("," if index else "") + fixed(draw(spaces))
        name = str(index)
        secret = False
        if kind == "object":
            secret = draw(st.booleans())
            name = draw(sensitive_names if secret else harmless_names)
            parts += fixed('"' + spelled(name, draw(spellings)) + '"' + draw(spaces) + ":" + draw(spaces))
        value, inside = draw(documents(depth - 1, levels))
        step = "/" + name.replace("~", "~0").replace("/", "~1")
        if secret:
            sent = json.dumps([CANARY, 1]) if draw(st.booleans()) else "".join(sent for sent, _ in value)
            hides = sent not in ("null", HIDDEN)
            parts += [(sent, HIDDEN if hides else sent)]
            pointers += [step] if hides else []
        else:
            parts += value
            pointers += [step + pointer for pointer in inside]
    return [*fixed(opening), *parts, *fixed(draw(spaces) + closing)], pointers


def joined(parts: Parts, which: int) -> bytes:
    return "".join(part[which] for part in parts).encode("utf-8", "surrogatepass")


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents())
def test_the_promise(document: tuple[Parts, list[str]]) -> None:
    """No secret stays, no other byte changes, the pointers are right, and doing it twice changes nothing."""
    parts, pointers = document
    sent, expected = joined(parts, 0), joined(parts, 1)
    redactor = Redactor(PATTERNS, ALLOW)
    stored, found = redactor.redact(sent)

    assert stored == expected
    assert found == pointers
    assert CANARY.encode() not in stored
    assert stored is sent or pointers
    assert list(events(stored))
    assert redactor.redact(stored) == (stored, [])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_the_fast_pass_never_overlooks(document: tuple[Parts, list[str]]) -> None:
    """Only a text in which the slow pass finds nothing is surely clean."""
    sent = joined(document[0], 0)
    search = Redactor(PATTERNS, ALLOW)._search

    assert not (search._is_surely_clean(sent, 0, ()) and document[1])


@settings(deadline=None)
@given(st.binary(max_size=80) | st.text(alphabet='{}[]":,token \\u0041\n\t1', max_size=60).map(str.encode))
def test_no_content_raises_or_breaks_the_line(payload: bytes) -> None:
    """Whatever a peer sends, the line is one JSON object without raw control bytes."""
    line = encode(Redactor(PATTERNS)(entry(params=payload, result=payload, error=payload, raw=payload))).body + b"}"

    assert min(line) >= 0x20
    assert json.loads(line)["id"] == "01AB"
