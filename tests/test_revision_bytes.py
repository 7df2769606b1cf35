"""The bytes of a leaf set: one form, its bounds, and whatever else may come from a disk or another node."""

from __future__ import annotations

from itertools import product

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.codec import BODY_BYTES_MAX
from mynosql.revision import (
    EXCEPTED_MAX,
    GENERATION_MAX,
    LEAVES_MAX_MERGED,
    entry_digest,
    merge_leaves,
    pack_leaves,
    unpack_leaves,
    winner_first,
)
from mynosql.row import Ancestry, Version
from tests.histories import leaf

A, B, C = 1, 2, 3
LEAVES = merge_leaves(
    (leaf(3, 30, A, vector={B: 20}, excepted=((25, A),), floor=4),), (leaf(9, 28, C, "", vector={B: 3}, floor=2),)
)



def test_leaf_sets_keep_their_bytes() -> None:
    """The form is part of docs/FORMAT.md: change it only together with the format's version."""
    assert pack_leaves((leaf(1, 5, A, "text"),)).hex() == "92c408000000000000000195010500" "04c4082e2e2e2e74657874"
    leaves = (leaf(3, 30, A, vector={B: 20}, excepted=((25, A),), floor=4), leaf(2, 22, B, ""))
    assert pack_leaves(leaves).hex() == (
        "93c41000000000000000010000000000000002" "98031e0004c4082e2e2e2e74657874" "92010a" "920005" "04" "94021601c0"
    )
    assert entry_digest(b"key", leaves).hex() == "f037398d3e5a34e9bf72247170e10b36"
    assert entry_digest(b"key", leaves) != entry_digest(b"kez", leaves)
    assert entry_digest(b"key", leaves) != entry_digest(b"key", leaves[:1])


def test_the_largest_leaf_set_unpacks_and_one_more_of_anything_does_not() -> None:
    full = winner_first(leaf(1, 100 + node, node) for node in range(LEAVES_MAX_MERGED))
    assert unpack_leaves(pack_leaves(full)) == full
    refuse(pack_leaves((*full, leaf(1, 50, 900))))

    excepted = leaf(1, 900, A, excepted=tuple((hlc, A) for hlc in range(1, EXCEPTED_MAX + 1)))
    assert unpack_leaves(pack_leaves((excepted,))) == (excepted,)
    refuse(pack_leaves((leaf(1, 900, A, excepted=tuple((hlc, A) for hlc in range(EXCEPTED_MAX + 1))),)))

    nodes = leaf(1, 900, A, vector={node: node for node in range(2, LEAVES_MAX_MERGED + 2)})
    assert unpack_leaves(pack_leaves((nodes,))) == (nodes,)
    refuse(pack_leaves((leaf(1, 900, A, vector={node: node for node in range(2, LEAVES_MAX_MERGED + 3)}),)))

    largest = leaf(GENERATION_MAX, 2**64 - 1, 2**64 - 1)._replace(size=BODY_BYTES_MAX)
    assert unpack_leaves(pack_leaves((largest,))) == (largest,)
    refuse(pack_leaves((largest._replace(generation=GENERATION_MAX + 1),)))
    refuse(pack_leaves((largest._replace(size=BODY_BYTES_MAX + 1),)))
    refuse(pack_leaves((largest._replace(generation=0),)))


def test_what_is_longer_than_any_leaf_set_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match=r"^leaves: 1048576 bytes, at most "):
        unpack_leaves(bytes(1 << 20))


def refuse(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^leaves: "):
        unpack_leaves(data)


NODES = bytes(7) + b"\1" + bytes(7) + b"\2"
GOOD = [2, 20, 0, 4, b"8 bytes.", [1, 5], [0, 3], 4]
BAD: dict[str, object] = {
    "a number": 7, "nil": None, "a map": {}, "a string": "", "an array without anything": [],
    "no leaves": [NODES], "nothing": [b""],
    "nodes that are no bytes": [[1, 2], GOOD], "half a node id": [NODES[:12], GOOD],
    "a leaf that is bytes": [NODES, b"12345678"],
    "nodes out of order": [NODES[8:] + NODES[:8], GOOD], "a node twice": [NODES[:8] * 2, GOOD],
    "a node that no leaf names": [NODES + b"\xff" * 8, GOOD],
    "the wrong order": [NODES, [1, 20, 1, 4, b"8 bytes."], [2, 21, 0, 4, b"8 bytes."]],
    "one leaf twice": [NODES, GOOD, GOOD],
    "one version with two contents": [NODES[:8], [2, 20, 0, 4, b"8 bytes."], [1, 20, 0, 4, b"8 bytes."]],
    "a leaf and its ancestor": [NODES[:8], [2, 20, 0, 4, b"8 bytes."], [1, 19, 0, 4, b"8 bytes."]],
    "no parts": [NODES, []], "too few parts": [NODES, GOOD[:4]], "half an ancestry": [NODES, GOOD[:6]],
    "too many parts": [NODES, [*GOOD, 1]], "a deleted leaf with a digest": [NODES, [2, 20, 0, None, *GOOD[4:]]],
    "ancestry of one writer": [NODES[:8], [*GOOD[:5], [], [], 0]],
}
PARTS: dict[str, tuple[int, object]] = {
    "generation 0": (0, 0), "generation true": (0, True), "generation 1.0": (0, 1.0), "hlc -1": (1, -1),
    "a node not in the table": (2, 2), "node -1": (2, -1), "size -1": (3, -1), "a short digest": (4, b"7 bytes"),
    "a digest of numbers": (4, [0] * 8), "vector nil": (5, None), "a vector cut": (5, [1]),
    "a vector of bytes": (5, b"12"),
    "a vector entry as new as the leaf": (5, [1, 0]), "a vector entry newer than the leaf": (5, [1, -5]),
    "a vector entry below zero": (5, [1, 21]), "the own node in the vector": (5, [0, 5]),
    "a node twice in the vector": (5, [1, 5, 1, 6]), "an exception above the vector": (6, [1, 4]),
    "exceptions unsorted": (6, [0, 3, 0, 4]), "an exception twice": (6, [0, 3, 0, 3]),
    "the leaf itself excepted": (6, [0, 0]),
    "a floor at the leaf": (7, 20), "floor nil": (7, None),
}
BAD |= {name: [NODES, [*GOOD[:place], value, *GOOD[place + 1 :]]] for name, (place, value) in PARTS.items()}


def test_the_good_example_that_the_bad_ones_start_from_is_good() -> None:
    (good,) = unpack_leaves(msgpack.packb([NODES, GOOD]))
    assert good.ancestry == Ancestry((Version(20, 1), Version(15, 2)), (Version(17, 1),), 4)


@pytest.mark.parametrize("value", BAD.values(), ids=list(BAD))
def test_a_leaf_set_that_pack_leaves_cannot_make_is_refused(value: object) -> None:
    refuse(msgpack.packb(value))


def test_cut_lengthened_and_otherwise_coded_bytes_are_refused() -> None:
    data = pack_leaves(LEAVES)
    for end in range(len(data)):
        refuse(data[:end])
    refuse(data + b"\0")
    refuse(b"\xdc\x00" + bytes([data[0] & 15]) + data[1:])  # the same array with a longer head
    refuse(b"\x91" * 5000)
    refuse(msgpack.packb([NODES, msgpack.ExtType(5, b"x" * 40)]))
    refuse(msgpack.packb([NODES, msgpack.Timestamp(5)]))


@given(st.binary(max_size=80) | st.recursive(
    st.none() | st.integers(-1, 2**64 - 1) | st.binary(max_size=16) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=9), max_leaves=30,
).map(msgpack.packb))
def test_rubbish_is_a_leaf_set_or_a_value_error(data: bytes) -> None:
    is_form_of_leaves(data)


def test_flipped_bits_give_another_leaf_set_or_a_value_error() -> None:
    data = pack_leaves(LEAVES)
    taken = 0
    for place, bit in product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << bit
        taken += is_form_of_leaves(bytes(flipped))
    assert 0 < taken < 8 * len(data)


def is_form_of_leaves(data: bytes) -> bool:
    try:
        leaves = unpack_leaves(data)
    except ValueError:
        return False
    assert pack_leaves(leaves) == data
    return True
