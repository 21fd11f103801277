"""Follow many lines of a log at once, faster than one by one: the checker's speed is here.

Pure. All that `Chain.follow` compares line by line is compared here by columns: exchange and request lines end alike,
so a part of their ends is joined from many lines and compared in one piece. Nearly all that is left is hashing.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from itertools import compress, repeat
from operator import eq, itemgetter, lt
from struct import Struct
from struct import error as TooShort

from mcp_audit.ledger.chain import OF_LEAD, Chain, of_before
from mcp_audit.ledger.mac import MAC_BYTES, MAC_LEAD, Mac

__all__ = ["Lines", "follow_many"]

_EXCHANGE = b'{"id":"', b'{"id":#'  # what begins like the one sorts from there to before the other
_REQUEST = b'{"type":"request"', b'{"type":"request#'
_THIRD = itemgetter(2)
_IS_TYPED = bytes(byte == ord("t") for byte in range(256))  # the third byte of a line with a type, and of no other
_IS_DIGIT = bytes(48 <= byte <= 57 for byte in range(256))
_NOT = bytes([1, *bytes(255)])
_PREV_LEAD = b',"prev":"'
_MAC_LEAD = b'"' + MAC_LEAD
_END = b'"}\n'
_LEAF = sha256(b"\x00")


class Lines:
    """The whole lines in some bytes, with their leaf hashes.

    Args:
        begun: the beginning of the first line, from earlier bytes.

    Attributes:
        lines: each with its LF.
        leaves: the RFC 6962 leaf hash of each.
        rest: what follows the last LF.
    """

    __slots__ = ("leaves", "lines", "rest")

    def __init__(self, data: bytes, begun: bytes = b"") -> None:
        lines = BytesIO(data).readlines()  # several times faster than `split`, which looks at one byte after the other
        self.rest = b"" if data.endswith(b"\n") or not lines else lines.pop()
        if lines:
            lines[0] = begun + lines[0]
        self.lines = lines
        self.leaves: list[bytes] = []
        copy, add = _LEAF.copy, self.leaves.append
        for line in lines:
            leaf = copy()
            leaf.update(line[:-1])
            add(leaf.digest())

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, place: int) -> bytes:
        """Return a line without its LF."""
        return self.lines[place][:-1]

    def size(self, start: int, stop: int) -> int:
        """Return how many bytes these lines have, with their LFs."""
        return sum(map(len, self.lines[start:stop]))


def follow_many(chain: Chain, lines: Lines, start: int, stop: int) -> tuple[int, int]:
    """Do as `Chain.follow` with leading exchange and `request` lines among those from `start` to before `stop`.

    Drops the chain's mark.

    Returns:
        How many lines were followed, and how many of them are requests. Less than all: `Chain.follow` tells about the
        next line, which may be of another type or not fit.
    """
    chain.unmark()
    typed = _leading(lines.lines[start:stop])
    place, stop = 0, len(typed)
    while place < stop:
        digits = len(b"%d" % chain.size)
        end = min(stop, place + 10**digits - chain.size)  # lines whose seq has as many digits
        batch, leaves = lines.lines[start + place : start + end], lines.leaves[start + place : start + end]
        if _follow_batch(chain, batch, leaves, digits, typed[place:end]):
            place = end
        else:
            stop = place + (end - place) // 2  # what is wrong is not far behind: leave it to `follow`
    return place, typed.count(1, 0, place)


def _leading(lines: list[bytes]) -> bytes:
    """Return for each leading exchange or request line whether it is a request, as bytes of 0 and 1."""
    try:
        typed = bytes(map(_THIRD, lines)).translate(_IS_TYPED)
    except IndexError:
        return _leading(lines[: next(place for place, line in enumerate(lines) if len(line) < 3)])
    requests, exchanges = list(compress(lines, typed)), list(compress(lines, typed.translate(_NOT)))
    if _all_between(requests, *_REQUEST) and _all_between(exchanges, *_EXCHANGE):
        return typed
    for place, line in enumerate(lines):
        low, high = _REQUEST if typed[place] else _EXCHANGE
        if not low <= line < high:
            return typed[:place]
    return typed


def _all_between(lines: list[bytes], low: bytes, high: bytes) -> bool:
    return not lines or (low <= min(lines) and max(lines) < high)


def _follow_batch(chain: Chain, lines: list[bytes], leaves: list[bytes], digits: int, typed: bytes) -> bool:
    """Follow lines that begin right and have as many digits in their `seq`, all or none; say whether they fit."""
    end = _MAC_LEAD if chain.key_id else _END
    ends = _ends(len(chain.log_lead) + digits + len(_PREV_LEAD), 64 + len(end), 64 + len(_END) if chain.key_id else 0)
    try:
        leads, links, *macs = zip(*map(ends.unpack_from, lines, repeat(-ends.size)), strict=True)
    except TooShort:
        return False
    hexes = chain.prev + b"\n" + hexlify(b"".join(leaves), "\n", 32)
    if b"".join(links) != hexes[:-64].replace(b"\n", end):
        return False
    if b"".join(leads) != _leads(chain.log_lead, chain.size, len(lines)):
        return False
    if macs and not _macs_hold(chain.mac, lines, *macs):
        return False
    _pair(chain, lines, typed, ends.size, digits)
    chain.advance(leaves, hexes[-64:])
    return True


@lru_cache(maxsize=64)
def _ends(*widths: int) -> Struct:
    return Struct("".join(f"{width}s" for width in widths if width))


def _leads(log_lead: bytes, first: int, number: int) -> bytes:
    """Return what stands in so many lines between their own members and the link, all of it in one piece."""
    if first < 1000:
        return b"".join([b"%b%d%b" % (log_lead, seq, _PREV_LEAD) for seq in range(first, first + number)])
    last = first + number - 1
    leads = b"".join([_thousand(log_lead, high) for high in range(first // 1000, last // 1000 + 1)])
    width = len(log_lead) + len(b"%d" % first) + len(_PREV_LEAD)
    return leads[first % 1000 * width :][: number * width]


@lru_cache(maxsize=2)
def _thousand(log_lead: bytes, high: int) -> bytes:
    return _template(log_lead).replace(b"\n", b"%d" % high)


@lru_cache(maxsize=2)
def _template(log_lead: bytes) -> bytes:
    return b"".join([b"%b\n%03d%b" % (log_lead, low, _PREV_LEAD) for low in range(1000)])


def _macs_hold(mac: Mac | None, lines: list[bytes], found: Sequence[bytes]) -> bool:
    """Say whether what stands in the lines from their MAC on is right; without a key, whether it ends right."""
    if mac is None:
        return all(map(bytes.endswith, found, repeat(_END)))
    return b"".join(found) == mac.hexdigests([line[: -MAC_BYTES - 1] for line in lines]).replace(b"\n", _END)


def _pair(chain: Chain, lines: list[bytes], typed: bytes, ends: int, digits: int) -> None:
    """Note the requests that lines open and close.

    All are opened before any is closed, which is the same, since a line closes only what is above it.

    Args:
        ends: length of what follows an `of` in each line.
        digits: of a usual `of`.
    """
    pending, seqs = chain.pending, range(chain.size, chain.size + len(lines))
    pending.update(compress(seqs, typed))
    untyped = typed.translate(_NOT)
    lines, above = list(compress(lines, untyped)), list(compress(seqs, untyped))
    of = _ends(len(OF_LEAD), digits)
    with suppress(TooShort):
        leads, texts = tuple(zip(*map(of.unpack_from, lines, repeat(-ends - of.size)), strict=True)) or ((), ())
        usual = bytes(map(eq, leads, repeat(OF_LEAD)))
        numbers = list(compress(texts, usual))
        closing = b"".join(texts)[digits - 1 :: digits].translate(_IS_DIGIT)
        if usual == closing and b"0".join((b"", *numbers, b"")).isdigit():
            closed = list(map(int, numbers))
            if all(map(lt, closed, compress(above, usual))):
                pending.difference_update(closed)
                return
    for seq, line in zip(above, lines, strict=True):
        one = of_before(line, len(line) - ends)
        if one is not None and one < seq:
            pending.discard(one)
