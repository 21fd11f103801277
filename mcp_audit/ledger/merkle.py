"""RFC 6962 (RFC 9162) hashing over a growing list of leaves, in memory logarithmic to its size.

Pure: bytes in, hashes out. An inclusion path is made on the way: one pass over the leaves, which may begin anywhere if
a compact range stands for all that lies to the left, and no leaf is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

__all__ = ["EMPTY_ROOT", "CompactRange", "PathRange", "leaf_hash", "node_hash", "root_of_path"]

EMPTY_ROOT = sha256(b"").digest()
_NODE = sha256(b"\x01")


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
            self._see_pairs(index & ~1, level)
            level = _joined(level)
            index >>= 1
        self.nodes.extend(reversed(odd))

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves so far."""
        return _bagged(self.nodes) if self.nodes else EMPTY_ROOT

    def copy(self) -> CompactRange:
        """Return an independent copy; at most 64 hashes."""
        return CompactRange(self.size, self.nodes)

    def _see_pairs(self, first: int, level: list[bytes]) -> None:
        """Be shown what `extend` joins: whole pairs of one height, `first` being the place of the first node."""


class PathRange(CompactRange):
    """A compact range that collects the inclusion path of one leaf while the leaves pass.

    Args:
        index: of the leaf to be proved; it must still come.
        goal: number of leaves of the tree it is proved in.
        size, nodes: where the range starts, if not at the first leaf.

    Attributes:
        path: the leaf's sibling first, the root's child last; None until `goal` leaves are there.
    """

    __slots__ = ("_goal", "_height", "_index", "_siblings", "path")

    def __init__(self, index: int, goal: int, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        super().__init__(size, nodes)
        if not size <= index < goal:
            raise ValueError(f"leaf {index} is not among the leaves {size} to {goal - 1} that are to come")
        self._goal = goal
        self._index = index
        self._height = 0
        self._siblings: list[bytes] = []
        self.path: tuple[bytes, ...] | None = None

    def add(self, leaf: bytes) -> None:
        """Append one leaf hash."""
        self.extend([leaf])

    def extend(self, leaves: list[bytes]) -> None:
        """Append many leaf hashes. `leaves` is used up."""
        missing = self._goal - self.size
        if not 0 < missing <= len(leaves):
            self._grow(leaves)
            return
        later = leaves[missing:]
        del leaves[missing:]
        self._grow(leaves)
        self.path = (*self._siblings, *self._peaks_beside())
        self._grow(later)

    def _grow(self, leaves: list[bytes]) -> None:
        self._height = 0
        super().extend(leaves)

    def _see_pairs(self, first: int, level: list[bytes]) -> None:
        # A node and its sibling are joined exactly once, the lower ones never after the higher ones.
        place = ((self._index >> self._height) ^ 1) - first
        if 0 <= place < len(level) and self.size <= self._goal:
            self._siblings.append(level[place])
        self._height += 1

    def _peaks_beside(self) -> list[bytes]:
        """Return the path above the leaf's perfect subtree: all on the right as one hash, then those on the left."""
        place, index, rest = 0, self._index, self.size
        while index >= (width := 1 << rest.bit_length() - 1):
            index, rest, place = index - width, rest - width, place + 1
        right = self.nodes[place + 1 :]
        return ([_bagged(right)] if right else []) + self.nodes[:place][::-1]


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion path leads to.

    Raises:
        ValueError: no path of leaf `index` in a tree of `size` leaves has this length.

    Source: RFC 9162 section 2.1.3.2
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    node, last, root = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise ValueError("the path is too short")
    return root


def _joined(level: list[bytes]) -> list[bytes]:
    """Return the parents of whole pairs. Copying a state that has the prefix is the fastest way to a short hash."""
    copy = _NODE.copy
    nodes = iter(level)
    parents = []
    for left, right in zip(nodes, nodes, strict=True):
        parent = copy()
        parent.update(left)
        parent.update(right)
        parents.append(parent.digest())
    return parents


def _bagged(peaks: Sequence[bytes]) -> bytes:
    """Return the root over perfect subtrees, largest first."""
    *others, root = peaks
    for left in reversed(others):
        root = node_hash(left, root)
    return root
