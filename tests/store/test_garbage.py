"""What is worth writing again, from numbers alone."""

from __future__ import annotations

import pytest

from mynosql.store import garbage
from mynosql.store.garbage import Choice, Situation, choose
from mynosql.store.index import Segment, Usage

KIB = 1024


def segment(number: int, rows: int, dead: int = 0) -> Segment:
    return Segment(number, b"a", b"z", 100 * number, 100 * number + 99, 10 * number, 10 * number + 9, rows, dead)


def situation(
    *segments: Segment, shard_bytes: dict[int, int] | None = None, shard_of: dict[int, int] | None = None,
    fixed: frozenset[int] = frozenset(),
) -> Situation:
    """Blocks of 10 bytes a row; a shard file holds exactly them unless shard_bytes says more."""
    usage = [Usage(found.number, (shard_of or {}).get(found.number, 0), 10 * found.row_count) for found in segments]
    sizes = {found.shard: sum(other.bytes for other in usage if other.shard == found.shard) for found in usage}
    sizes.update(shard_bytes or {})
    return Situation(segments, usage, sizes, max(sizes, default=0), fixed)


def numbers(choice: Choice | None) -> list[int] | None:
    return None if choice is None else [found.number for found in choice.group]


def test_nothing_is_worth_it_where_all_rows_count() -> None:
    large = [segment(number, 30_000) for number in range(20)]
    for is_asked in (False, True):
        assert choose(situation(*large), is_asked=is_asked) is None
    assert choose(situation(), is_asked=True) is None


@pytest.mark.parametrize(("dead", "is_asked", "expected"), [
    (14_999, False, None), (15_000, False, [1]), (30_000, False, [1]), (0, True, None), (1, True, [1]),
])
def test_a_segment_is_rewritten_when_half_of_it_is_dead_or_somebody_asks(
    dead: int, is_asked: bool, expected: list[int] | None
) -> None:
    there = situation(segment(0, 30_000), segment(1, 30_000, dead), segment(2, 30_000))
    assert numbers(choose(there, is_asked=is_asked)) == expected


def test_small_neighbours_are_joined_and_not_across_a_large_one() -> None:
    small = [segment(number, 100) for number in range(garbage.MERGED_MIN)]
    assert numbers(choose(situation(*small), is_asked=False)) == list(range(garbage.MERGED_MIN))
    split = [*small[:-1], segment(50, 30_000), segment(51, 100)]
    assert choose(situation(*split), is_asked=False) is None
    assert numbers(choose(situation(*small[:2]), is_asked=True)) == [0, 1]


def test_what_one_rewriting_makes_stays_small() -> None:
    segments = [segment(number, 6_000, 3_000) for number in range(20)]
    group = choose(situation(*segments), is_asked=False)
    assert group is not None
    assert sum(found.row_count - found.dead for found in group.group) <= garbage.GROUP_ROWS_MAX
    assert numbers(group) == [0, 1, 2, 3, 4]


def test_segments_of_a_shard_that_is_mostly_garbage_move_to_the_one_that_is_appended_to() -> None:
    there = situation(
        segment(0, 30_000), segment(1, 30_000), shard_of={0: 0, 1: 1}, shard_bytes={0: 1500 * KIB, 1: 300_000},
    )
    assert choose(there, is_asked=False) == Choice((there.segments[0],), False)
    lighter = situation(segment(0, 30_000), segment(1, 30_000), shard_of={0: 0, 1: 1}, shard_bytes={0: 500_000})
    assert choose(lighter, is_asked=False) is None
    assert numbers(choose(lighter, is_asked=True)) == [0]


def test_a_shard_that_is_appended_to_and_mostly_garbage_gets_a_successor() -> None:
    there = situation(segment(0, 30_000), shard_bytes={0: 1500 * KIB})
    assert choose(there, is_asked=False) == Choice((there.segments[0],), True)


def test_a_shard_without_any_segment_may_go() -> None:
    there = situation(segment(1, 30_000), shard_of={1: 1}, shard_bytes={0: 500})
    assert choose(there, is_asked=False) == Choice((), False)


def test_segments_that_are_fixed_stay_as_they_are() -> None:
    segments = [segment(0, 100, 100), segment(1, 100, 90)]
    assert numbers(choose(situation(*segments, fixed=frozenset({0})), is_asked=False)) == [1]
    assert choose(situation(*segments, fixed=frozenset({0, 1})), is_asked=False) is None
