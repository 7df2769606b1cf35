"""An entry answers three questions about one id from its leaves and its held bits."""

from __future__ import annotations

import pytest

from mynosql.row import DIGEST_BYTES, NO_DIGEST, Entry, Leaf, Row

LIVE = Leaf(2, 10, 1, False, 3, b"digest.8")
DEAD = Leaf(1, 9, 2, True, 0, NO_DIGEST)


def entry(*leaves: Leaf, held: int) -> Entry:
    return Entry(b"key", leaves, held, 1, False, None)


def test_the_first_leaf_wins_and_decides_whether_the_record_lives() -> None:
    assert entry(LIVE, DEAD, held=0).winner is LIVE
    assert entry(LIVE, DEAD, held=0).is_live
    assert not entry(DEAD, held=1).is_live


@pytest.mark.parametrize(("held", "is_fresh"), [(0b00, False), (0b01, True), (0b10, False), (0b11, True)])
def test_fresh_means_that_the_winners_body_is_held(held: int, is_fresh: bool) -> None:
    assert entry(LIVE, DEAD, held=held).is_fresh is is_fresh


def test_a_row_is_not_numbered_owed_or_stray_unless_it_says_so() -> None:
    assert Row(b"key", (LIVE,), (b"abc",))[3:] == (0, False, False, None)


def test_no_digest_is_as_long_as_a_digest() -> None:
    assert len(NO_DIGEST) == DIGEST_BYTES
