"""The tree: the compact range agrees with the definition of RFC 9162, leaf by leaf and in bulk."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, EXAMPLE_NOTE

from mcp_audit.ledger.merkle import EMPTY_ROOT, CompactRange, leaf_hash, node_hash


def _defined(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + _defined(leaves[:k]) + _defined(leaves[k:])).digest()


def test_the_worked_example() -> None:
    """Leaf, root, and the one-hash inclusion path of the last line."""
    leaves = [leaf_hash(line) for line in EXAMPLE_LINES]
    root = base64.b64decode(EXAMPLE_NOTE.split("\n")[2])
    path = base64.b64decode("L/RmhU5NVfumSTJxJloYBnxFwyMxqWvlF9iodKfDqq0=")
    tree = CompactRange()
    for leaf in leaves:
        tree.add(leaf)

    assert leaves[2].hex() == "84395bad7461eee3f354baa9d08fa63f98801980bf01310c2bf9b55adc827b85"
    assert tree.root() == root
    assert node_hash(path, leaves[2]) == root


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    """RFC 9162: MTH({}) = HASH()."""
    assert CompactRange().root() == EMPTY_ROOT == _defined([])


@given(st.integers(0, 70), st.lists(st.integers(0, 40), max_size=4))
def test_bulk_and_single_agree_with_the_definition(first: int, bulks: list[int]) -> None:
    """However the leaves arrive, the root is the defined one and the nodes cover them largest first."""
    tree = CompactRange()
    leaves = [sha256(bytes([number])).digest() for number in range(first)]
    for leaf in leaves:
        tree.add(leaf)
    for count in bulks:
        more = [sha256(bytes([count, number])).digest() for number in range(count)]
        leaves += more
        tree.extend(list(more))

    assert tree.size == len(leaves)
    assert tree.root() == _defined(leaves)
    assert CompactRange(tree.size, tree.nodes).root() == tree.root()


def test_a_range_with_the_wrong_number_of_nodes_is_refused() -> None:
    """A stored frontier that cannot be one is not taken."""
    with pytest.raises(ValueError, match="2 subtrees"):
        CompactRange(3, [b""])


def test_a_copy_goes_its_own_way() -> None:
    """Adding to a copy leaves the original as it was."""
    tree = CompactRange()
    tree.add(leaf_hash(b"a"))
    copy = tree.copy()
    copy.add(leaf_hash(b"b"))

    assert (tree.size, copy.size) == (1, 2)
    assert tree.root() == leaf_hash(b"a")
