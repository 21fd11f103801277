"""Calls in disguise, and calls that only look odd. Each is one stdio line, or what a line becomes in another encoding.

HOSTILE: some reader takes each for a call of the tool `delete_file`, and a proxy that forbids that tool must deny it.
LEGITIMATE: every reader takes each for the same harmless call, and no proxy may stand in its way.
"""

from __future__ import annotations

import json

__all__ = ["FORBIDDEN", "HOSTILE", "LEGITIMATE", "PERMITTED"]

FORBIDDEN = "delete_file"
PERMITTED = "read_file"

PARAMS = b'{"name":"delete_file","arguments":{"path":"/x"}}'
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":%b}' % PARAMS
PING = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'


def call(members: bytes = b"", params: bytes = PARAMS, before: bytes = b"") -> bytes:
    """Return a call with more members after and before its own."""
    return b'{%b"jsonrpc":"2.0","id":7,"method":"tools/call","params":%b%b}' % (before, params, members)


def named(params: bytes) -> bytes:
    """Return a call with these members of `params`."""
    return call(params=b"{%b}" % params)


def top(members: bytes) -> bytes:
    """Return an object with an id and these members."""
    return b'{"jsonrpc":"2.0","id":7,%b}' % members


TEXT = CALL.decode()
DEEP = b"[" * 600 + b"]" * 600

HOSTILE: list[tuple[str, bytes]] = [
    (name, line if name.startswith("utf-") else line + b"\n")
    for name, line in [
        # In plain sight: denied for what it is, not for how it is written.
        ("plain", CALL),
        ("no-id", b'{"jsonrpc":"2.0","method":"tools/call","params":%b}' % PARAMS),
        ("method-value-escaped", top(b'"method":"\\u0074ools\\/call","params":%b' % PARAMS)),
        ("tool-value-escaped", named(b'"name":"delete\\u005ffile"')),
        ("spaced", json.dumps(json.loads(CALL)).encode()),
        ("id-beyond-javascript", call().replace(b'"id":7', b'"id":9007199254740993')),
        # Repeated names: first wins, last wins, or the two are merged.
        ("name-repeated-last", named(b'"name":"read_file","name":"delete_file"')),
        ("name-repeated-first", named(b'"name":"delete_file","name":"read_file"')),
        ("name-repeated-far-apart", named(b'"name":"delete_file","arguments":{"a":[1,{"b":"c"}]},"name":"read_file"')),
        ("name-repeated-as-prefix", named(b'"name":"delete_file", "name":"delete_fil"')),
        ("name-repeated-null", named(b'"name":"delete_file","name":null')),
        ("params-repeated-last", top(b'"method":"tools/call","params":{"name":"read_file"},"params":%b' % PARAMS)),
        ("params-repeated-first", call(b',"params":{"name":"read_file"}')),
        ("params-repeated-null", call(b',"params":null')),
        ("params-merged", top(b'"method":"tools/call","params":{"name":"delete_file"},"params":{"arguments":{}}')),
        ("method-repeated-last", top(b'"method":"ping","method":"tools/call","params":%b' % PARAMS)),
        ("method-repeated-first", call(b',"method":"ping"')),
        ("method-repeated-spaced", call(b' , "method" : "ping"')),
        ("name-repeated-in-batch", b"[%b]" % named(b'"name":"read_file","name":"delete_file"')),
        ("meta-repeated-too", named(b'"_meta":{},"name":"read_file","_meta":{},"name":"delete_file"')),
        # Look-alike names: readers that ignore case, and those that fold all of Unicode.
        ("method-capital", top(b'"Method":"tools/call","params":%b' % PARAMS)),
        ("method-upper", top(b'"METHOD":"tools/call","params":%b' % PARAMS)),
        ("method-beside-variant", top(b'"method":"ping","mEthod":"tools/call","params":%b' % PARAMS)),
        ("params-capital", top(b'"method":"tools/call","Params":%b' % PARAMS)),
        ("params-beside-variant", call(b',"PARAMS":%b' % PARAMS, b'{"name":"read_file"}')),
        ("params-long-s", top(b'"method":"tools/call","params":{"name":"x"},"param\xc5\xbf":%b' % PARAMS)),
        ("params-long-s-escaped", top(b'"method":"tools/call","params":{"name":"x"},"param\\u017f":%b' % PARAMS)),
        ("name-capital", named(b'"Name":"delete_file"')),
        ("name-beside-variant", named(b'"name":"read_file","NAME":"delete_file"')),
        ("name-variant-first", named(b'"nAME":"delete_file","name":"read_file"')),
        ("variant-in-batch", b'[%b,{"METHOD":"tools/call","params":%b}]' % (PING, PARAMS)),
        # Escaped names.
        ("method-escaped", top(b'"m\\u0065thod":"tools/call","params":%b' % PARAMS)),
        ("params-escaped", top(b'"method":"tools/call","\\u0070arams":%b' % PARAMS)),
        ("name-escaped", named(b'"\\u006e\\u0061\\u006d\\u0065":"delete_file"')),
        ("name-escaped-beside-plain", named(b'"name":"read_file","n\\u0061me":"delete_file"')),
        ("name-plain-beside-escaped", named(b'"name":"delete_file","n\\u0061me":"read_file"')),
        ("method-escaped-variant", top(b'"\\u004dethod":"tools/call","params":%b' % PARAMS)),
        ("method-cut-at-nul", top(b'"method":"ping","method\\u0000":"tools/call","params":%b' % PARAMS)),
        ("name-cut-at-nul", named(b'"name":"read_file","name\\u0000x":"delete_file"')),
        # Encodings.
        ("bom", b"\xef\xbb\xbf" + CALL),
        ("bom-batch", b"\xef\xbb\xbf[%b]" % CALL),
        ("utf-16", TEXT.encode("utf-16")),
        ("utf-16-line", (TEXT + "\n").encode("utf-16")),
        ("utf-16-le", TEXT.encode("utf-16-le")),
        ("utf-16-be", TEXT.encode("utf-16-be")),
        ("utf-16-be-line", (TEXT + "\n").encode("utf-16-be")),
        ("utf-32-le", (TEXT + "\n").encode("utf-32-le")),
        ("utf-32-be", TEXT.encode("utf-32")),
        ("invalid-utf8-elsewhere", call(b',"x":"\xff"')),
        ("invalid-utf8-in-tool", named(b'"name":"delete_file\xff"')),
        ("invalid-utf8-in-name", top(b'"method\x80":"tools/call","params":%b' % PARAMS)),
        ("surrogate-in-utf8", call(b',"x":"\xed\xa0\x80"')),
        ("invalid-utf8-beside", CALL + b"\xff"),
        # Lines: a carriage return ends one for text streams with universal newlines.
        ("cr-between", PING + b"\r" + CALL),
        ("cr-around", b"\r" + CALL + b"\r"),
        ("cr-inside-legal-json", b'{"jsonrpc":"2.0","id":1,"method":"ping","x":\r%b\r}' % CALL),
        ("cr-inside-string", b'{"x":"\r%b\r"}' % CALL),
        ("cr-before-crlf", CALL + b"\r\r"),
        ("cr-in-batch", b"[%b,\r%b\r]" % (PING, CALL)),
        # Almost JSON.
        ("two-values", PING + CALL),
        ("two-values-spaced", PING + b" " + CALL),
        ("garbage-behind", CALL + b" garbage"),
        ("brace-too-many", CALL + b"}"),
        ("nul-behind", CALL + b"\0"),
        ("nul-and-more-behind", CALL + b"\0" + PING),
        ("nan", call(b',"x":NaN')),
        ("infinity-in-arguments", named(b'"name":"delete_file","arguments":{"n":-Infinity}')),
        ("raw-tab-in-string", call(b',"x":"\t"')),
        ("raw-nul-in-string", call(b',"x":"\0"')),
        ("form-feed-before", b"\x0c" + CALL),
        ("next-line-behind", CALL + b"\xc2\x85"),
        ("no-break-space-before", b"\xc2\xa0" + CALL),
        ("line-separator-before", b"\xe2\x80\xa8" + CALL),
        ("json-in-a-string", json.dumps(TEXT).encode()),
        ("params-in-a-string", call(params=json.dumps(PARAMS.decode()).encode())),
        # Odd, but JSON.
        ("too-deep", named(b'"name":"delete_file","arguments":{"a":%b}' % DEEP)),
        ("too-deep-elsewhere", call(b',"x":%b' % DEEP)),
        ("tool-in-an-array", named(b'"name":["delete_file"]')),
        ("method-in-an-array", top(b'"method":["tools/call"],"params":%b' % PARAMS)),
        ("tool-cut-at-nul", named(b'"name":"delete_file\\u0000.txt"')),
        ("tool-with-surrogate", named(b'"name":"delete_file\\udc00"')),
        ("method-cut-at-nul-value", top(b'"method":"tools/call\\u0000","params":%b' % PARAMS)),
        ("method-beside-result", call(b',"result":{}')),
        ("method-beside-error", call(before=b'"error":null,')),
        ("id-boolean", CALL.replace(b'"id":7', b'"id":true')),
        ("id-object", CALL.replace(b'"id":7', b'"id":{}')),
        ("surrogate-in-a-name", call(b',"\\ud800":1')),
        # Batches.
        ("batch", b"[%b]" % CALL),
        ("batch-second", b"[%b,%b]" % (PING, CALL)),
        ("batch-with-a-number", b"[1,%b]" % CALL),
        ("batch-in-batch", b"[[%b]]" % CALL),
    ]
]


def read(params: bytes = b"", top_level: bytes = b"") -> bytes:
    """Return a call of the permitted tool with more members in `params` and at top level."""
    return b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"read_file"%b}%b}' % (params, top_level)


_LOOKS_LIKE_A_CALL = json.dumps({"text": TEXT}).encode()

LEGITIMATE: list[tuple[str, bytes]] = [
    (name, line + (b"" if name == "unterminated" else b"\n"))
    for name, line in [
        ("plain", read()),
        ("spaced", json.dumps(json.loads(read(b',"arguments":{"a":[1,2]}'))).encode()),
        ("spaced-wildly", b' \t{ "method"\t:"tools/call" ,"params" :{"name": "read_file"\t} , "id":7 }  '),
        ("crlf", read() + b"\r"),
        ("unterminated", read()),
        (
            "keys-reversed",
            b'{"params":{"arguments":{},"name":"read_file"},"method":"tools/call","id":7,"jsonrpc":"2.0"}',
        ),
        ("no-jsonrpc", b'{"id":7,"method":"tools/call","params":{"name":"read_file"}}'),
        ("jsonrpc-odd", b'{"jsonrpc":{"params":{}},"id":7,"method":"tools/call","params":{"name":"read_file"}}'),
        ("no-id", b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"read_file"}}'),
        ("id-null", b'{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"read_file"}}'),
        ("id-empty-string", b'{"jsonrpc":"2.0","id":"","method":"tools/call","params":{"name":"read_file"}}'),
        ("id-fraction", b'{"jsonrpc":"2.0","id":1.5,"method":"tools/call","params":{"name":"read_file"}}'),
        ("id-largest", b'{"jsonrpc":"2.0","id":9007199254740991,"method":"tools/call","params":{"name":"read_file"}}'),
        ("unknown-members", read(b',"x":[],"y":{"name":"delete_file"}', b',"z":{"method":"ping"},"trace":null')),
        ("unknown-member-escaped", read(top_level=b',"\\u007a":1')),
        ("unknown-member-in-params-escaped", read(b',"task\\u0049d":1')),
        ("integer-of-30-digits", read(b',"arguments":{"n":123456789012345678901234567890}')),
        ("number-spellings", read(b',"arguments":{"a":1e2,"b":-0,"c":1.10,"d":1E-400,"e":1e308}')),
        ("meta-solidus-escaped", read(b',"_meta":{"io.modelcontextprotocol\\/protocolVersion":"2026-07-28"}')),
        ("meta-modern", read(b',"_meta":{"io.modelcontextprotocol/clientInfo":{"name":"a","name2":"b"},"x":1}')),
        ("line-separators", read(b',"arguments":{"t":"a\xe2\x80\xa8b\xe2\x80\xa9c\xc2\x85d"}')),
        ("emoji", read(b',"arguments":{"t":"\xf0\x9f\x98\x80"}')),
        ("emoji-escaped", read(b',"arguments":{"\\ud83d\\ude00":"\\ud83d\\ude00"}')),
        ("lone-surrogate-in-a-value", read(b',"arguments":{"t":"cut \\ud83d"}')),
        ("lone-surrogates-in-values", read(b',"arguments":{"t":["\\udc00","\\\\ud800","\\ud800\\ud800\\udc00"]}')),
        ("escapes-in-a-value", read(b',"arguments":{"t":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f"}')),
        ("escapes-in-argument-names", read(b',"arguments":{"\\u006eame":1,"method":2,"Params":3,"ID":4}')),
        ("byte-order-mark-in-a-value", read(b',"arguments":{"t":"\xef\xbb\xbf"}')),
        ("call-in-a-string", read(b',"arguments":%b' % _LOOKS_LIKE_A_CALL)),
        ("call-in-arguments", read(b',"arguments":%b' % CALL)),
        ("brackets-in-strings", read(b',"arguments":{"t":"%b"}' % (b"[{" * 600))),
        ("deep-but-not-too-deep", read(b',"arguments":{"a":%b}' % (b"[" * 509 + b"]" * 509))),
        ("wide", read(b',"arguments":{"a":[%b{}]}' % (b"{}," * 2000))),
        ("empty-names", read(b',"":1,"arguments":{"":{"":""}}')),
        ("names-near-the-reserved", read(b',"names":1,"nam":2,"meta":3', b',"ids":1,"methods":2,"parameter":3')),
        ("tool-name-elsewhere", read(b',"uri":"delete_file","title":"delete_file"')),
        ("batch-of-one", b"[%b]" % read()),
        ("method-escaped-in-value", read().replace(b"tools/call", b"tools\\/call")),
    ]
]
