"""Records are taken apart and joined without touching the caller's dict; made ids sort by time and never repeat."""

from __future__ import annotations

import collections
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.errors import RecordInvalid
from mynosql.record import TimeSortedIds, join, split
from tests.values import bodies


@given(bodies, st.none() | st.text() | st.integers(), st.none() | st.text())
def test_split_takes_id_and_rev_and_leaves_the_rest_in_order(body: dict[Any, Any], id: Any, rev: Any) -> None:
    body = {key: value for key, value in body.items() if key not in ("id", "rev")}
    record = {**body, "rev": rev, "id": id}
    before = list(record.items())
    found_id, found_rev, found = split(record)
    assert (found_id, found_rev) == (id, rev)
    assert list(map(id_of, found.items())) == list(map(id_of, body.items()))
    assert list(map(id_of, record.items())) == list(map(id_of, before))


def id_of(item: tuple[Any, Any]) -> tuple[int, int]:
    return id(item[0]), id(item[1])


def test_a_record_without_id_and_rev_has_none_of_them() -> None:
    assert split({"a": 1}) == (None, None, {"a": 1})


def test_the_body_is_a_dict_of_its_own() -> None:
    record = {"a": 1}
    assert split(record)[2] is not record


def test_only_the_outer_id_and_rev_are_the_records_own() -> None:
    assert split({"inner": {"id": 1, "rev": 2}})[2] == {"inner": {"id": 1, "rev": 2}}


def test_join_puts_id_and_rev_first_and_keeps_the_order_of_the_body() -> None:
    body = {"z": 1, "a": 2}
    assert list(join("x", "1-0", body).items()) == [("id", "x"), ("rev", "1-0"), ("z", 1), ("a", 2)]
    assert body == {"z": 1, "a": 2}


@pytest.mark.parametrize("record", [None, "id", [("id", 1)], collections.OrderedDict(id=1)])
def test_a_record_is_exactly_a_dict(record: Any) -> None:
    with pytest.raises(RecordInvalid, match=f"not {type(record).__name__}; convert it"):
        split(record)


# Ids made here


def _ids(seed: int) -> TimeSortedIds:
    return TimeSortedIds(random.Random(seed).getrandbits)


def test_ids_sort_by_the_millisecond_of_their_making() -> None:
    early, late = _ids(1), _ids(2)
    assert early.next(1_795_427_400_000) < late.next(1_795_427_400_001) < early.next(1_795_427_400_002)


def test_ids_of_one_millisecond_are_many_grow_and_are_unique() -> None:
    makers = [_ids(seed) for seed in range(3)]
    made = [[maker.next(1_795_427_400_000) for _ in range(2_000)] for maker in makers]
    assert all(ids == sorted(ids) for ids in made)
    assert len({id for ids in made for id in ids}) == 6_000


def test_ids_grow_when_the_clock_goes_back() -> None:
    ids = _ids(1)
    made = [ids.next(now_ms) for now_ms in (1_000, 900, 1_000, 1, 1_001, 1_001)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@given(st.lists(st.integers(0, (1 << 48) - 1), min_size=1), st.integers(0, 2**32))
def test_ids_grow_whatever_the_clock_does(clock: list[int], seed: int) -> None:
    ids = _ids(seed)
    made = [ids.next(now_ms) for now_ms in clock]
    assert made == sorted(set(made))
    assert all(len(id) == 26 and set(id) <= set("0123456789abcdefghjkmnpqrstvwxyz") for id in made)


def test_ids_of_one_millisecond_are_random_steps_apart() -> None:
    smallest, largest = TimeSortedIds(lambda _: 0), TimeSortedIds(lambda bits: (1 << bits) - 1)
    assert [smallest.next(1) for _ in range(3)] == ["0000000001" + "0" * 15 + digit for digit in "012"]
    steps = [_numbers(largest.next(1)) for _ in range(2)]
    assert steps[1] - steps[0] == 1 << 32


def _numbers(id: str) -> int:
    return int(id.translate(str.maketrans("ghjkmnpqrstvwxyz", "ghijklmnopqrstuv")), 32)


def test_an_id_is_the_time_and_then_random_bits() -> None:
    assert TimeSortedIds(lambda bits: (1 << bits) - 1).next(1) == "0000000001" + "fzzzzzzzzzzzzzzz"
    assert TimeSortedIds(lambda _: 0).next(32**10 - 1) == "zzzzzzzzzz" + "0" * 16
