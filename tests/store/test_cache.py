from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mynosql.store.cache import Cache


def test_what_was_put_is_found_until_it_is_dropped() -> None:
    cache: Cache[str, int] = Cache(100)
    cache.put("a", 1, 10)
    assert cache.find("a") == 1
    cache.drop("a")
    assert cache.find("a") is None
    assert (cache.size, len(cache)) == (0, 0)


def test_what_was_asked_for_lately_outlives_what_was_not() -> None:
    cache: Cache[int, int] = Cache(100)
    for number in range(200):
        cache.put(number, number, 10)
        assert cache.find(0) == 0
    assert cache.find(150) is None


def test_nothing_larger_than_half_of_the_budget_is_kept_and_an_old_value_does_not_stay_instead() -> None:
    cache: Cache[str, str] = Cache(100)
    cache.put("a", "small", 50)
    assert cache.find("a") == "small"
    cache.put("a", "large", 51)
    assert cache.find("a") is None


def test_a_cache_without_budget_keeps_nothing() -> None:
    cache: Cache[str, int] = Cache(0)
    cache.put("a", 1, 1)
    assert cache.find("a") is None


def test_a_cleared_cache_is_empty() -> None:
    cache: Cache[int, int] = Cache(100)
    for number in range(8):
        cache.put(number, number, 10)
    cache.clear()
    assert (cache.size, len(cache)) == (0, 0)


steps = st.tuples(st.sampled_from(["put", "find", "drop"]), st.integers(0, 20), st.integers(0, 60))


@given(st.lists(steps, max_size=300))
def test_size_is_the_sum_of_what_is_kept_and_within_the_budget(steps: list[tuple[str, int, int]]) -> None:
    cache: Cache[int, int] = Cache(200)
    newest: dict[int, int] = {}
    for what, key, size in steps:
        if what == "put":
            cache.put(key, size, size)
            newest[key] = size
        elif what == "drop":
            cache.drop(key)
            newest.pop(key, None)
        else:
            assert cache.find(key) in (None, newest.get(key))
        kept = [*cache.young, *cache._old]
        assert cache.size == sum(newest[key] for key in kept) <= 200
        assert len(cache) == len(set(kept)) == len(kept)
