"""sync.reconciling: what differs is found, in few round trips and few bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from mynosql.store.sums import BUCKET_BITS, RangeSums
from mynosql.sync.reconciling import (
    BITS_MAX,
    LISTED_MAX,
    LISTS_MAX,
    SUMS_MAX,
    Answer,
    Comparison,
    Item,
    Question,
    Range,
    Sum,
)


class Side:
    """An index: sums from RangeSums, entries by bucket; counts how many entries it had to read."""

    def __init__(self, entries: dict[int, bytes]) -> None:
        self.read = 0
        self._sums = RangeSums()
        self._buckets: dict[int, list[Item]] = {}
        for key, digest in entries.items():
            self._sums.change(key, None, digest)
            self._buckets.setdefault(key >> 64 - BUCKET_BITS, []).append(Item(key, digest))

    def sum_of(self, part: Range) -> Sum:
        return Sum(*self._sums.sum_of(*part))

    def items_of(self, part: Range) -> Sequence[Item]:
        first = part.prefix << BUCKET_BITS - part.bits
        found = [
            item for bucket in range(first, first + (1 << BUCKET_BITS - part.bits))
            for item in self._buckets.get(bucket, ())
        ]
        self.read += len(found)
        return found

    def answer(self, question: Question) -> Answer:
        return Answer(list(map(self.sum_of, question.sums)), list(map(self.items_of, question.lists)))


def compare(here: Side, there: Side, differences_max: int = 1 << 20) -> tuple[Comparison, int, int]:
    """The finished comparison, its round trips, and its bytes: 4 a range asked for, 20 a sum, 16 an entry."""
    comparison = Comparison(differences_max=differences_max)
    trips = size = 0
    while not comparison.is_done:
        question = comparison.question
        sums, lists = there.answer(question)
        assert len(sums) <= SUMS_MAX
        assert len(lists) <= LISTS_MAX
        trips += 1
        size += 4 * (len(sums) + len(lists)) + 20 * len(sums) + sum(16 * len(items) for items in lists)
        comparison.take(here.answer(question), Answer(sums, lists))
    return comparison, trips, size


def two_sides(count: int, differences: int, seed: int = 1) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Indexes of `count` entries: of the differences a third each lacks here, lacks there, has other leaves."""
    rng = random.Random(seed)
    here = {rng.getrandbits(64): rng.randbytes(16) for _ in range(count)}
    there = dict(here)
    for position, key in enumerate(rng.sample(list(here), differences)):
        if position % 3 == 0:
            del here[key]
        elif position % 3 == 1:
            del there[key]
        else:
            there[key] = rng.randbytes(16)
    return here, there


@pytest.mark.parametrize(("count", "differences"), [(0, 0), (1, 1), (40, 3), (5000, 0), (5000, 2000), (100_000, 100)])
def test_exactly_what_differs_is_found(count: int, differences: int) -> None:
    here, there = two_sides(count, differences)
    comparison, trips, size = compare(Side(here), Side(there))
    assert set(comparison.only_here) == {Item(*entry) for entry in here.items() - there.items()}
    assert set(comparison.only_there) == {Item(*entry) for entry in there.items() - here.items()}
    if differences == 0:
        assert trips == 1
    if differences <= 100:
        assert trips <= 7
        assert size < 256 << 10


def test_neither_side_reads_its_whole_index() -> None:
    here, there = (Side(entries) for entries in two_sides(100_000, 100))
    compare(here, there)
    assert max(here.read, there.read) < 10_000


@pytest.mark.parametrize(("differences_max", "is_given_up"), [(99, True), (100, False)])
def test_a_comparison_ends_where_more_differs_than_it_may_find(differences_max: int, is_given_up: bool) -> None:
    here = {key << 48: bytes(16) for key in range(100)}
    comparison, _, _ = compare(Side(here), Side({}), differences_max)
    assert comparison.is_done
    assert comparison.is_given_up is is_given_up


def test_a_bucket_with_many_entries_is_listed_because_finer_sums_are_not_kept() -> None:
    here = {key: bytes(15) + b"1" for key in range(3 * LISTED_MAX)}
    comparison, _, _ = compare(Side(here), Side({**here, 7: b"x" * 16}))
    assert comparison.only_here == [Item(7, here[7])]
    assert comparison.only_there == [Item(7, b"x" * 16)]


def test_nodes_that_share_nothing_are_told_apart_by_bounded_questions() -> None:
    here, there = (Side(two_sides(100_000, 0, seed)[0]) for seed in (1, 2))
    comparison, trips, _ = compare(here, there, 1000)
    assert comparison.is_given_up
    assert trips < 20
    assert max(here.read, there.read) < 10_000


def test_sums_that_differ_over_equal_entries_are_counted() -> None:
    side = Side({1: b"a" * 16})
    comparison = Comparison(differences_max=10)
    comparison.take(side.answer(comparison.question), Answer([Sum(1, 5)], []))
    comparison.take(side.answer(comparison.question), side.answer(comparison.question))
    assert comparison.is_done
    assert (comparison.equal_lists, comparison.only_here, comparison.only_there) == (1, [], [])


def test_the_ranges_with_sums_are_those_of_the_store() -> None:
    assert BITS_MAX == BUCKET_BITS


def test_an_answer_to_another_question_is_refused() -> None:
    side = Side({1: b"a" * 16})
    comparison = Comparison(differences_max=10)

    def take(sums: Sequence[Sum], lists: Sequence[Sequence[Item]]) -> None:
        comparison.take(side.answer(comparison.question), Answer(sums, lists))

    with pytest.raises(ValueError, match="another question"):
        take([], [])
    take([Sum(40, 3)], [])
    assert not comparison.is_done
    take([side.sum_of(part) if part.prefix else Sum(1, 5) for part in comparison.question.sums], [])
    with pytest.raises(ValueError, match="outside"):
        take([], [[Item((1 << 64) - 1, b"b" * 16)]])
    assert comparison.only_there == []
