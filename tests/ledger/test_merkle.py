"""The tree: ranges and paths agree with the definition of RFC 9162, leaf by leaf and in bulk, from any start."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_forge import EXAMPLE_LINES, EXAMPLE_NOTE

from mcp_audit.ledger.merkle import EMPTY_ROOT, CompactRange, PathRange, leaf_hash, node_hash, root_of_path


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


def _defined_path(index: int, leaves: list[bytes]) -> tuple[bytes, ...]:
    """PATH of RFC 9162 section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return ()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return (*_defined_path(index, leaves[:k]), _defined(leaves[k:]))
    return (*_defined_path(index - k, leaves[k:]), _defined(leaves[:k]))


# The vectors that Certificate Transparency implementations share: eight leaves, the roots of all sizes, and paths.
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_PATHS = {
    (0, 1): "",
    (0, 8): """
        96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7
        5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e
        6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4
    """,
    (5, 8): """
        bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b
        ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0
        d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7
    """,
    (2, 3): "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    (1, 5): """
        6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d
        5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e
        bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b
    """,
}


def path_of(index: int, leaves: list[bytes], start: int = 0) -> tuple[bytes, ...] | None:
    """The path as one pass makes it, everything before `start` being known by its compact range only."""
    left = CompactRange()
    left.extend(leaves[:start])
    tree = PathRange(index, len(leaves), start, left.nodes)
    tree.extend(leaves[start:])
    return tree.path


@pytest.mark.parametrize("size", range(1, 9))
def test_the_shared_roots(size: int) -> None:
    """Every implementation of RFC 6962 computes these."""
    tree = CompactRange()
    for data in CT_LEAVES[:size]:
        tree.add(leaf_hash(data))

    assert tree.root().hex() == CT_ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size"), list(CT_PATHS))
def test_the_shared_paths(index: int, size: int) -> None:
    """Made and checked."""
    leaves = [leaf_hash(data) for data in CT_LEAVES[:size]]
    path = tuple(map(bytes.fromhex, CT_PATHS[index, size].split()))

    assert path_of(index, leaves) == path
    assert root_of_path(leaves[index], index, size, path).hex() == CT_ROOTS[size - 1]


@given(st.data(), st.integers(1, 150))
def test_a_path_from_any_start_is_the_defined_one(data: st.DataObject, size: int) -> None:
    """However the leaves arrive, whatever lies left of the start, and though more leaves follow the signed size."""
    index = data.draw(st.integers(0, size - 1))
    start = data.draw(st.integers(0, index))
    later = data.draw(st.integers(0, 20))
    leaves = [sha256(number.to_bytes(2, "big")).digest() for number in range(size + later)]
    left = CompactRange()
    left.extend(leaves[:start])
    tree = PathRange(index, size, start, left.nodes)
    position = start
    while position < len(leaves):
        count = data.draw(st.integers(1, 40))
        bulk = leaves[position : position + count]
        if len(bulk) == 1:
            tree.add(bulk[0])
        else:
            tree.extend(bulk)
        position += count
        assert tree.path is None or position >= size

    path = _defined_path(index, leaves[:size])
    assert tree.path == path
    assert tree.root() == _defined(leaves)
    assert root_of_path(leaves[index], index, size, path) == _defined(leaves[:size])


@given(st.integers(1, 70), st.data())
def test_no_altered_path_leads_to_the_root(size: int, data: st.DataObject) -> None:
    """Another leaf, index, size, hash, order or length: a different root, or none."""
    index = data.draw(st.integers(0, size - 1))
    leaves = [sha256(bytes([number])).digest() for number in range(size)]
    path = list(_defined_path(index, leaves))
    root = _defined(leaves)

    def leads(leaf: bytes, index: int, size: int, path: list[bytes]) -> bool:
        try:
            return root_of_path(leaf, index, size, path) == root
        except ValueError:
            return False

    assert leads(leaves[index], index, size, path)
    assert not leads(leaf_hash(leaves[index]), index, size, path)
    assert not any(leads(leaves[index], other, size, path) for other in range(size) if other != index)
    assert not leads(leaves[index], index, size, [*path, root])
    assert not leads(leaves[index], index, 0, path)
    assert not leads(leaves[index], -1, size, path)
    for place in range(len(path)):
        flipped = bytes([path[place][0] ^ 1]) + path[place][1:]
        assert not leads(leaves[index], index, size, [*path[:place], flipped, *path[place + 1 :]])
        assert not leads(leaves[index], index, size, path[:place] + path[place + 1 :])


@pytest.mark.parametrize(("index", "goal", "start"), [(3, 3, 0), (2, 5, 3), (-1, 3, 0)])
def test_a_path_for_a_leaf_that_cannot_come_is_refused(index: int, goal: int, start: int) -> None:
    """It has passed, or lies beyond the signed size."""
    with pytest.raises(ValueError, match="not among the leaves"):
        PathRange(index, goal, start, [b""] * start.bit_count())


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
    assert path_of(2, leaves) == (path,)


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
