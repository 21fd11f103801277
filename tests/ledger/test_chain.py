"""The chain: what one seals another follows, and nothing that does not fit changes it."""

from __future__ import annotations

import hmac
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, ORIGIN, SECRET, Forge

from mcp_audit.ledger.batch import Lines, follow_many
from mcp_audit.ledger.chain import BrokenLine, Chain
from mcp_audit.ledger.entry import Unsealed, json_bytes
from mcp_audit.ledger.keys import derive
from mcp_audit.ledger.mac import Mac

SECRETS = derive(SECRET, ORIGIN)
KEYRING = {SECRETS.key_id: Mac(SECRETS.mac)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


def _joined(lines: list[bytes]) -> Lines:
    return Lines(b"\n".join([*lines, b""]))


def _state(chain: Chain) -> tuple[object, ...]:
    return (chain.size, chain.prev, chain.tree.root(), chain.key_id, set(chain.pending), set(chain.runs), chain.mac)


def test_the_worked_example_is_sealed_byte_for_byte() -> None:
    """Bodies of the example, sealed with its key, are its lines; followed, they end at its leaf."""
    sealing, following = Chain(ORIGIN, Mac(SECRETS.mac)), Chain(ORIGIN, keyring=KEYRING)
    for line in EXAMPLE_LINES:
        body, _, tail = line.rpartition(b',"log":')
        body, _, of = body.partition(b',"of":')
        assert tail
        assert sealing.seal(Unsealed(body, int(of) if of else None)) == line + b"\n"
        following.follow(line)

    assert sealing.prev == following.prev == b"84395bad7461eee3f354baa9d08fa63f98801980bf01310c2bf9b55adc827b85"
    assert sealing.runs == following.runs == {0}
    assert sealing.pending == following.pending == set()
    assert sealing.key_id == following.key_id == "f26937dc"


@given(st.binary(max_size=200), st.binary(max_size=300))
def test_mac_is_hmac_sha256(key: bytes, message: bytes) -> None:
    """The pre-keyed states compute RFC 2104."""
    assert Mac(key).hexdigest(message).decode() == hmac.new(key, message, "sha256").hexdigest()


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=8), st.booleans())
def test_what_one_seals_another_follows(bodies: list[dict[str, object]], keyed: bool) -> None:
    """For any JSON: the line stays JSON, `Chain.follow` and `follow_many` end where `seal` did."""
    secret = SECRET if keyed else None
    forge = Forge(secret)
    forge.open()
    for number, members in enumerate(bodies):
        of = forge.entry("request") if number % 2 else None
        body = json_bytes({"id": f"{number}", "payload": members})[:-1]
        forge.lines.append(forge.chain.seal(Unsealed(body, of)))
        assert json.loads(forge.lines[-1])["payload"] == members
    lines = [line[:-1] for line in forge.lines]
    one, many = Chain(ORIGIN, keyring=KEYRING), Chain(ORIGIN, keyring=KEYRING)
    for line in lines:
        one.follow(line)
    many.follow(lines[0])
    followed, requests = follow_many(many, _joined(lines), 1, len(lines))

    assert (followed, requests) == (len(lines) - 1, len(bodies) // 2)
    assert _state(one) == _state(many)
    assert _state(one)[:4] == _state(forge.chain)[:4]


def _example_chain() -> Chain:
    chain = Chain(ORIGIN, keyring=KEYRING)
    chain.follow(EXAMPLE_LINES[0])
    return chain


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"", "no mac", id="empty"),
        pytest.param(EXAMPLE_LINES[1][:-1], "no mac", id="cut"),
        pytest.param(EXAMPLE_LINES[2], "log, seq or prev", id="line-after-next"),
        pytest.param(EXAMPLE_LINES[0], "log, seq or prev", id="line-again"),
        pytest.param(EXAMPLE_LINES[1].replace(b"read_file", b"make_file"), "mac does not match", id="changed"),
        pytest.param(EXAMPLE_LINES[1][:-74] + b"}", "no mac", id="mac-stripped"),
        pytest.param(EXAMPLE_LINES[1].replace(b"host1", b"host2"), "log, seq or prev", id="log-renamed"),
        pytest.param(EXAMPLE_LINES[1].replace(b'"seq":1', b'"seq":01'), "log, seq or prev", id="seq-respelt"),
        pytest.param(EXAMPLE_LINES[1][:-2] + b"''", "no mac", id="end-changed"),
    ],
)
def test_a_line_that_does_not_fit_changes_nothing(line: bytes, reason: str) -> None:
    """It is refused with a reason, in bulk as well, and the right line still fits afterwards."""
    chain = _example_chain()
    before = _state(chain)
    with pytest.raises(BrokenLine, match=reason):
        chain.follow(line)

    assert follow_many(chain, _joined([line]), 0, 1) == (0, 0)
    assert _state(chain) == before
    chain.follow(EXAMPLE_LINES[1])


def test_a_mac_without_a_key_at_hand_is_followed_unchecked() -> None:
    """Without the secret the chain goes on, but a line without any MAC is still refused."""
    chain = Chain(ORIGIN, keyring={})
    for line in EXAMPLE_LINES[:2]:
        chain.follow(line)

    assert chain.mac is None
    with pytest.raises(BrokenLine, match="no mac"):
        chain.follow(EXAMPLE_LINES[2][:-74] + b"}")
    chain.follow(EXAMPLE_LINES[2])


def test_a_log_gains_macs_and_never_loses_them() -> None:
    """An `open` may bring a key, which authenticates it already; one without a key cannot follow."""
    plain, keyed = Forge(None), Forge(SECRET)
    plain.open()
    keyed.chain = Chain(ORIGIN, Mac(SECRETS.mac), plain.chain.tree, plain.chain.prev)
    keyed.open("close")
    chain = Chain(ORIGIN, keyring=KEYRING)
    chain.follow(plain.lines[0][:-1])
    unauthenticated = keyed.lines[0][:-75] + b"}"
    with pytest.raises(BrokenLine, match="no mac"):
        chain.follow(unauthenticated)
    chain.follow(keyed.lines[0][:-1])
    assert chain.mac is KEYRING["f26937dc"]

    plain.chain = Chain(ORIGIN, None, chain.tree.copy(), chain.prev)
    plain.open("close")
    with pytest.raises(BrokenLine, match="without key_id"):
        chain.follow(plain.lines[1][:-1])


def test_a_foreign_key_is_noticed() -> None:
    """After an `open` under another secret `key_id` names it and `mac` is gone: a writer must stop there."""
    forge = Forge(b"another secret of thirty-two byte")
    forge.open()
    chain = Chain(ORIGIN, KEYRING["f26937dc"], keyring=KEYRING)
    chain.follow(forge.lines[0][:-1])

    assert chain.mac is None
    assert chain.key_id not in ("", "f26937dc")


def test_rewind_takes_back_what_did_not_reach_the_disk() -> None:
    """After a rewind the chain is as at the mark, however often, and seals the same bytes again."""
    forge = Forge()
    forge.open()
    first = forge.entry("request")
    chain = forge.chain
    before = _state(chain)
    mark = chain.mark()
    for _ in range(2):
        lines = forge.lines.copy()
        forge.entry(of=first)
        forge.entry("request")
        forge.close()
        assert _state(chain) != before
        chain.rewind(mark)
        assert _state(chain) == before
        forge.lines = lines


def test_runs_open_and_close() -> None:
    """`close` ends its run, `unclosed` those of the dead; a run that was replaced goes on under its first open."""
    forge = Forge()
    forge.open()
    forge.open("running")
    assert forge.chain.runs == {0, 1}
    forge.open("replaced", of=0)
    assert forge.chain.runs == {0, 1}
    forge.close(of=0, unclosed=[1])
    assert forge.chain.runs == set()


def test_an_orphan_closes_its_request() -> None:
    """So do an answer; a late second answer changes nothing."""
    forge = Forge()
    forge.open()
    first, second = forge.entry("request"), forge.entry("request")
    forge.typed("orphan", of=first, outcome="lost", why="crash")
    assert forge.chain.pending == {second}
    forge.entry(of=first, marks=["late"])
    forge.entry(of=second)
    assert forge.chain.pending == set()


def test_payload_text_cannot_pose_as_of() -> None:
    """A string that ends like an `of` is text: it does not close a request."""
    forge = Forge(None)
    forge.open()
    request = forge.entry("request")
    forge.entry(result=b'"\\",\\"of\\":%d"' % request)
    assert forge.chain.pending == {request}


@pytest.mark.parametrize("unclosed", ['"x"', "[null]", "{}", '["0"]'])
def test_a_malformed_open_does_not_raise_anything_else(unclosed: str) -> None:
    """Bad content of a rare line is a broken line, not a crash of the checker."""
    chain = Chain(ORIGIN)
    body = b'{"type":"open","id":"1","unclosed":%s' % unclosed.encode()
    line = body + b',"log":"%s","seq":0,"prev":"%s"}' % (ORIGIN.encode(), b"0" * 64)
    with pytest.raises(BrokenLine, match="unclosed"):
        chain.follow(line)
    with pytest.raises(BrokenLine, match="not JSON"):
        chain.follow(line.replace(b'"unclosed":', b'"unclosed"'))


@pytest.mark.parametrize("keyed", [True, False], ids=["mac", "no-mac"])
@pytest.mark.parametrize("change", [b"", b"{}", b'{"id":"x"}', b"\0", b"flip-tail", b"flip-body", b"repeat"])
def test_many_at_once_is_one_by_one(keyed: bool, change: bytes) -> None:
    """Wherever a line is wrong, and across the steps at which `seq` grows a digit, both ways stop at the same line."""
    forge = Forge(SECRET if keyed else None)
    forge.open()
    for _ in range(55):
        forge.call()
    good = [line[:-1] for line in forge.lines]
    for place in (1, 2, 9, 10, 11, 57, 99, 100, 101, 109):
        line = good[place]
        wrong = {b"flip-tail": line[:-3] + b"X" + line[-2:], b"flip-body": line[:20] + b"X" + line[21:]}
        wrong[b"repeat"] = good[place - 1]
        lines = [*good[:place], wrong.get(change, change), *good[place + 1 :]]
        one, many = (Chain(ORIGIN, Mac(forge.secret.mac) if forge.secret else None) for _ in range(2))
        _go_on(one, lines, at_once=False)
        _go_on(many, lines, at_once=True)
        assert one.size == place + (change == b"flip-body" and not keyed)
        assert _state(one)[:-1] == _state(many)[:-1]


def _go_on(chain: Chain, lines: list[bytes], at_once: bool) -> None:
    """Follow up to the first line that does not fit."""
    chain.follow(lines[0])
    at = 1
    while True:
        at += follow_many(chain, _joined(lines), at, len(lines))[0] if at_once else 0
        try:
            chain.follow(lines[at])
        except BrokenLine:
            return
        at += 1


@pytest.mark.parametrize("keyed", [True, False])
def test_many_at_once_past_a_thousand(keyed: bool) -> None:
    """Where thousands meet, and with a batch of more lines than a thousand."""
    forge = Forge(SECRET if keyed else None)
    forge.open()
    for _ in range(1100):
        forge.call()
    lines = [line[:-1] for line in forge.lines]
    for pieces in ((1, len(lines)), (1, 998, 1002, 2000, len(lines)), (1, 1000, 1001, len(lines))):
        chain = Chain(ORIGIN, Mac(forge.secret.mac) if forge.secret else None)
        chain.follow(lines[0])
        for start, stop in pairwise(pieces):
            assert follow_many(chain, _joined(lines), start, stop)[0] == stop - start
        assert _state(chain)[:4] == _state(forge.chain)[:4]
    wrong = [*lines[:1500], lines[1500].replace(b'"seq":1500', b'"seq":0500'), *lines[1501:]]
    chain = Chain(ORIGIN)
    chain.follow(lines[0])
    assert follow_many(chain, _joined(wrong), 1, len(wrong))[0] <= 1499


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b'{"id":"a"', b'{"type":"request","id":"a"', b'{"id":"']),
            st.sampled_from([b',"of":', b"", b',"of":,"of":', b'1,"of":', b',"x":', b',"of":"', b',"of": ']),
            st.integers(0, 45) | st.just(10**18),
            st.integers(1, 22),
        ),
        max_size=60,
    )
)
def test_what_looks_like_an_of_closes_the_same_at_once(parts: list[tuple[bytes, bytes, int, int]]) -> None:
    """However a line's last member is spelt, and whichever request it names, above it or not."""
    writer = Chain(ORIGIN)
    lines = [writer.seal(Unsealed(b'{"type":"open","v":1', None))[:-1]]
    lines += [writer.seal(Unsealed(head + lead + b"%0*d" % (width, of), None))[:-1] for head, lead, of, width in parts]
    one, many = Chain(ORIGIN), Chain(ORIGIN)
    for line in lines:
        one.follow(line)
    many.follow(lines[0])
    at = 1
    while at < len(lines):
        at += follow_many(many, _joined(lines), at, len(lines))[0]
        if at < len(lines):
            many.follow(lines[at])
            at += 1

    assert _state(one) == _state(many)
