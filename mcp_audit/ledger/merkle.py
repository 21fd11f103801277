"""RFC 6962 (RFC 9162) hashing over a growing list of leaves, in memory logarithmic to its size.

Pure: bytes in, hashes out. Inclusion proofs live here as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

__all__ = ["EMPTY_ROOT", "CompactRange", "leaf_hash", "node_hash"]

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(line: bytes) -> bytes:
    """Return the leaf of a line given without its LF. Source: RFC 9162 section 2.1.1."""
    return sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes. Source: RFC 9162 section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The roots of the perfect subtrees that cover leaves 0 to `size` - 1, largest first."""

    __slots__ = ("nodes", "size")

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.nodes = list(nodes)
        if len(self.nodes) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} subtrees, not {len(self.nodes)}")

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        index = self.size
        self.size = index + 1
        nodes = self.nodes
        while index & 1:
            leaf = sha256(b"\x01" + nodes.pop() + leaf).digest()
            index >>= 1
        nodes.append(leaf)

    def extend(self, leaves: list[bytes]) -> None:
        """Append many leaf hashes, level by level, which costs less per leaf than `add`. `leaves` is used up."""
        index = self.size
        self.size = index + len(leaves)
        level, odd = leaves, []
        while level:
            if index & 1:
                level.insert(0, self.nodes.pop())
            if len(level) & 1:
                odd.append(level.pop())
            pairs = iter(level)
            level = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
            index >>= 1
        self.nodes.extend(reversed(odd))

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves so far."""
        if not self.nodes:
            return EMPTY_ROOT
        *others, root = self.nodes
        for left in reversed(others):
            root = node_hash(left, root)
        return root

    def copy(self) -> CompactRange:
        """Return an independent copy; at most 64 hashes."""
        return CompactRange(self.size, self.nodes)
