"""The hybrid clock never repeats, never goes back, stays near the wall clock and follows others two minutes at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.clock import COUNTER_BITS, FOLLOW_MS_MAX, HLC_MAX, HybridClock, hlc_from_ms, ms_from_hlc
from mynosql.errors import RecordInvalid

NOW_MS = 1_795_427_400_000


def test_a_value_holds_the_millisecond_in_its_upper_48_bits() -> None:
    assert HybridClock().next(NOW_MS) == NOW_MS << COUNTER_BITS == hlc_from_ms(NOW_MS)
    assert ms_from_hlc(hlc_from_ms(NOW_MS) + 65_535) == NOW_MS
    assert hlc_from_ms((1 << 48) - 1) <= HLC_MAX == (1 << 64) - 1


def test_within_one_millisecond_the_counter_grows() -> None:
    clock = HybridClock()
    first = clock.next(NOW_MS)
    assert [clock.next(NOW_MS) for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_a_clock_that_goes_back_does_not_take_values_back() -> None:
    clock = HybridClock()
    first = clock.next(NOW_MS)
    assert clock.next(NOW_MS - 10_000) == first + 1
    assert clock.next(NOW_MS + 1) == hlc_from_ms(NOW_MS + 1)


def test_after_a_restart_values_go_on_above_the_last() -> None:
    clock = HybridClock(last=hlc_from_ms(NOW_MS + 5_000))
    assert clock.next(NOW_MS) == hlc_from_ms(NOW_MS + 5_000) + 1


def test_a_child_of_a_parent_from_the_future_moves_its_own_value_but_not_the_clock() -> None:
    clock = HybridClock()
    parent = hlc_from_ms(NOW_MS + 3_600_000)
    assert clock.next(NOW_MS, at_least=parent + 1) == parent + 1
    assert clock.next(NOW_MS) == hlc_from_ms(NOW_MS) + 1


def test_a_parent_from_the_past_does_not_hold_the_value_back() -> None:
    assert HybridClock().next(NOW_MS, at_least=hlc_from_ms(5)) == hlc_from_ms(NOW_MS)


def test_another_clock_is_followed_two_minutes_and_not_a_millisecond_more() -> None:
    limit = hlc_from_ms(NOW_MS + FOLLOW_MS_MAX)
    assert FOLLOW_MS_MAX == 120_000
    clock = HybridClock()
    assert clock.observe(limit, NOW_MS)
    assert clock.last == limit
    assert clock.next(NOW_MS) == limit + 1

    clock = HybridClock()
    assert not clock.observe(limit + 1, NOW_MS)
    assert clock.last == 0


def test_what_lies_behind_the_clock_is_followed_already() -> None:
    clock = HybridClock(last=hlc_from_ms(NOW_MS))
    assert clock.observe(hlc_from_ms(NOW_MS - 1), NOW_MS)
    assert clock.observe(clock.last, 0)
    assert clock.last == hlc_from_ms(NOW_MS)


def test_a_restart_does_not_drag_the_clock_to_a_value_that_a_parent_had_forced() -> None:
    clock = HybridClock()
    forced = clock.next(NOW_MS, at_least=hlc_from_ms(NOW_MS + 10**9))
    assert HybridClock.resumed(forced, NOW_MS).last == hlc_from_ms(NOW_MS + FOLLOW_MS_MAX)
    assert HybridClock.resumed(clock.last, NOW_MS).last == clock.last
    assert HybridClock.resumed(hlc_from_ms(NOW_MS + 1_000), NOW_MS).next(NOW_MS) == hlc_from_ms(NOW_MS + 1_000) + 1


def test_nothing_follows_the_last_value_and_the_clock_goes_on_for_other_records() -> None:
    clock = HybridClock()
    assert clock.next(NOW_MS, at_least=HLC_MAX) == HLC_MAX
    with pytest.raises(RecordInvalid, match="save the record under another id"):
        clock.next(NOW_MS, at_least=HLC_MAX + 1)
    assert ms_from_hlc(clock.next(NOW_MS)) == NOW_MS


_hlcs = st.integers(0, hlc_from_ms(200_000))
_steps = st.lists(st.tuples(st.sampled_from(["next", "observe", "child"]), st.integers(0, 10_000), _hlcs))


@given(_steps)
def test_values_grow_and_children_come_after_their_parents(steps: list[tuple[str, int, int]]) -> None:
    clock = HybridClock()
    handed_out = [0]
    for kind, now_ms, hlc in steps:
        before = clock.last
        if kind == "observe":
            clock.observe(hlc, now_ms)
            assert clock.last in (before, hlc)
            assert clock.last <= max(before, hlc_from_ms(now_ms + FOLLOW_MS_MAX))
        else:
            at_least = hlc if kind == "child" else 0
            value = clock.next(now_ms, at_least)
            assert value == max(clock.last, at_least)
            assert value >= hlc_from_ms(now_ms)
            assert clock.last > max(before, handed_out[-1])
            handed_out.append(clock.last)
        assert clock.last >= before


@given(st.lists(st.tuples(st.integers(0, 10_000), _hlcs)))
def test_values_within_a_record_are_unique_whatever_its_parents_say(steps: list[tuple[int, int]]) -> None:
    """Each save's at_least counts every version of the record, foreign ones of any clock among them."""
    clock = HybridClock()
    versions = [0]
    for now_ms, foreign in steps:
        versions.append(foreign)
        value = clock.next(now_ms, at_least=max(versions) + 1)
        assert value > max(versions)
        versions.append(value)
