"""store.sorting: the same order as sorted(), whatever there is."""

from __future__ import annotations

import random
from operator import itemgetter

import pytest

from mynosql.store.sorting import STEP, pairs_in_steps, sort_in_steps


@pytest.mark.parametrize("count", [0, 1, 2, STEP - 1, STEP, STEP + 1, 3 * STEP, 3 * STEP + 7, 10_000])
def test_it_is_what_sorted_gives(count: int) -> None:
    rng = random.Random(count)
    items = [(rng.randrange(count // 2 + 1), number) for number in range(count)]
    assert sort_in_steps(iter(items), itemgetter(0)) == sorted(items, key=itemgetter(0)), "equal keys keep their order"


def test_pairs_come_in_the_order_asked_for() -> None:
    keys, values = list(range(3 * STEP)), list(range(7, 3 * STEP + 7))
    order = sorted(range(3 * STEP), key=lambda i: -i)
    assert list(pairs_in_steps(keys, values, order).items()) == [(keys[i], values[i]) for i in order]
