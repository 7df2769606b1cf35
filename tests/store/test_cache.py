from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mynosql.store.cache import Cache


def sized(_: object, value: int) -> int:
    return value


def ten(_: object, value: object) -> int:
    return 10


def test_what_was_put_is_found_until_it_is_dropped() -> None:
    cache: Cache[str, int] = Cache(100, ten)
    cache.put("a", 1)
    assert cache.find("a") == 1
    cache.drop("a")
    assert cache.find("a") is None
    assert (cache.size, len(cache)) == (0, 0)


def test_what_was_asked_for_lately_outlives_what_was_not() -> None:
    """All but once a turnover: a hit while there is room leaves no trace."""
    cache: Cache[int, int] = Cache(1000, ten)
    misses = 0
    for number in range(5000):
        cache.put(number, number)
        if cache.find(0) is None:
            misses += 1
            cache.put(0, 0)
    assert misses <= 5000 / 100
    assert cache.find(4800) is None


def test_what_fits_stays_however_often_it_is_asked_for() -> None:
    """A budget that is nearly full is as good as an empty one: nothing goes but for something that comes."""
    cache: Cache[int, int] = Cache(100, ten)
    for number in range(10):
        cache.put(number, number)
    for _ in range(5):
        assert [cache.find(number) for number in range(10)] == list(range(10))
    cache.put(10, 10)
    assert len(cache) == 10
    assert cache.find(0) is None  # the first that came, and nobody has asked since the room ran out
    assert [cache.find(number) for number in range(1, 11)] == list(range(1, 11))


def test_what_was_dropped_and_came_again_does_not_go_for_its_first_coming() -> None:
    cache: Cache[int, int] = Cache(100, ten)
    for number in range(11):
        cache.put(number, number)
    cache.drop(1)
    cache.put(1, 1)
    cache.put(11, 11)
    assert cache.find(1) == 1
    assert cache.find(2) is None


def test_nothing_larger_than_half_of_the_budget_is_kept_and_an_old_value_does_not_stay_instead() -> None:
    cache: Cache[str, int] = Cache(100, sized)
    cache.put("a", 50)
    assert cache.find("a") == 50
    cache.put("a", 51)
    assert cache.find("a") is None


def test_a_cache_without_budget_keeps_nothing() -> None:
    cache: Cache[str, int] = Cache(0, sized)
    cache.put("a", 1)
    assert cache.find("a") is None


def test_a_cleared_cache_is_empty() -> None:
    cache: Cache[int, int] = Cache(100, ten)
    for number in range(14):
        cache.put(number, number)
    cache.clear()
    assert (cache.size, len(cache)) == (0, 0)


steps = st.tuples(st.sampled_from(["put", "find", "drop"]), st.integers(0, 20), st.integers(0, 60))


@given(st.lists(steps, max_size=300))
def test_size_is_the_sum_of_what_is_kept_and_within_the_budget(steps: list[tuple[str, int, int]]) -> None:
    cache: Cache[int, int] = Cache(200, sized)
    newest: dict[int, int] = {}
    for what, key, size in steps:
        if what == "put":
            cache.put(key, size)
            newest[key] = size
        elif what == "drop":
            cache.drop(key)
            newest.pop(key, None)
        else:
            assert cache.find(key) in (None, newest.get(key))
        kept = [*cache.young, *cache._old]
        assert cache.size == sum(newest[key] for key in kept) <= 200
        assert len(cache) == len(set(kept)) == len(kept)
