from __future__ import annotations

from mynosql.store.aging import AGE_S, Aging
from mynosql.store.cache import Cache
from tests.store.making import key, open_memory, row_of, seal


def one(_: object, value: object) -> int:
    return 1


def test_what_nobody_asks_for_leaves_and_what_is_asked_for_stays() -> None:
    cache: Cache[str, str] = Cache(10, one)
    aging = Aging([cache])
    cache.put("used", "a")
    cache.put("unused", "b")
    aging.begin()
    assert aging.next_due(5.0) == 5.0 + AGE_S

    assert not aging.age(5.0 + AGE_S - 1)
    assert aging.age(5.0 + AGE_S)
    assert cache.find("used") == "a"
    assert aging.age(5.0 + 2 * AGE_S)
    assert (cache.find("used"), cache.find("unused"), cache.size) == ("a", None, 1)


def test_nobody_has_to_come_round_while_nothing_is_kept() -> None:
    cache: Cache[str, str] = Cache(10, one)
    aging = Aging([cache])
    begun: list[None] = []
    aging.on_begun = lambda: begun.append(None)
    assert aging.next_due(0.0) is None

    for _ in range(2):
        cache.put("a", "a")
        aging.begin()
        aging.begin()
        assert aging.next_due(0.0) == AGE_S
        assert aging.age(AGE_S)
        assert aging.age(2 * AGE_S)
        assert (len(cache), aging.next_due(3 * AGE_S)) == (0, None)
    assert len(begun) == 2


def test_a_store_that_was_read_asks_for_it_until_all_has_left() -> None:
    store, _, _ = open_memory()
    store.put([row_of("a", 1), row_of("b", 2)])
    seal(store)
    begun: list[None] = []
    store.aging.on_begun = lambda: begun.append(None)

    assert store.read(key("a")) is not None
    assert store.read(key("b")) is not None
    assert begun == [None]
    due = store.aging.next_due(1000.0)
    assert due == 1000.0 + AGE_S
    assert (store.next_due(1000.0) or due) <= due
    assert store.age(due)
    assert store.age(due + AGE_S)
    assert store.aging.next_due(due + AGE_S) is None
    assert store.read(key("a")) is not None
    assert begun == [None, None]
