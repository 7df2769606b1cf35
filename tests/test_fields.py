"""The built-in merge: field by field, three-way where a base is known, else the last writer wins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mynosql
from mynosql.fields import merge_fields

NAN = float("nan")


def revision(hlc: int, fields: dict[Any, Any], *, generation: int = 2, node: int | None = None) -> dict[Any, Any]:
    """A revision as onconflict gives it; a higher hlc is later."""
    return {"id": "r", "rev": f"{generation}-{hlc:016x}{node or hlc:016x}", **fields}


def merged(*fields: dict[Any, Any], base: dict[Any, Any] | None = None) -> dict[Any, Any]:
    """The fields of the merge; the later revision stands last."""
    revisions = [revision(hlc, each) for hlc, each in enumerate(fields, 10)]
    result = merge_fields(revisions, None if base is None else revision(1, base, generation=1))
    assert result.pop("id") == "r"
    assert "rev" not in result
    return result


BASE = {"a": 1, "b": 1}

THREE_WAY: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "different fields": (BASE, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}),
    "the same field: the later one": (BASE, {"a": 2, "b": 1}, {"a": 3, "b": 1}, {"a": 3, "b": 1}),
    "only the earlier one changed it": (BASE, {"a": 2, "b": 1}, BASE, {"a": 2, "b": 1}),
    "the same change twice": (BASE, {"a": 2, "b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 1}),
    "added apart": (BASE, {**BASE, "c": 1}, {**BASE, "d": 1}, {**BASE, "d": 1, "c": 1}),
    "added twice: the later one": (BASE, {**BASE, "c": 1}, {**BASE, "c": 2}, {**BASE, "c": 2}),
    "removed and untouched: gone": (BASE, {"b": 1}, BASE, {"b": 1}),
    "removed and changed: the change": (BASE, {"b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 1}),
    "changed and removed later: the change": (BASE, {"a": 2, "b": 1}, {"b": 1}, {"b": 1, "a": 2}),
    "removed twice": (BASE, {"b": 1}, {"b": 1}, {"b": 1}),
    "lists are taken whole": ({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 3]}),
    "sets are taken whole": ({"s": {1}}, {"s": {1, 2}}, {"s": {1, 3}}, {"s": {1, 3}}),
    "a list that one changed": ({"l": [1], "x": 0}, {"l": [2], "x": 0}, {"l": [1], "x": 1}, {"l": [2], "x": 1}),
    "nested dicts by their fields": (
        {"d": {"x": 1, "y": 1}}, {"d": {"x": 2, "y": 1}}, {"d": {"x": 1, "y": 2}}, {"d": {"x": 2, "y": 2}},
    ),
    "removed inside": ({"d": {"x": 1, "y": 1}}, {"d": {"y": 1}}, {"d": {"x": 1, "y": 2}}, {"d": {"y": 2}}),
    "nested dicts added apart": ({}, {"d": {"x": 1}}, {"d": {"y": 2}}, {"d": {"y": 2, "x": 1}}),
    "a dict and something else: the later one": ({"d": {"x": 1}}, {"d": {"x": 2}}, {"d": 7}, {"d": 7}),
    "something else that became dicts": ({"d": 7}, {"d": {"x": 2}}, {"d": {"y": 3}}, {"d": {"y": 3, "x": 2}}),
    "types count: 1 became True": ({"a": 1}, {"a": True}, {"a": 1}, {"a": True}),
    "nan is equal to itself": ({"a": NAN}, {"a": 1.0}, {"a": float("nan")}, {"a": 1.0}),
    "None is a value": ({"a": 1}, {"a": None}, {"a": 1}, {"a": None}),
}


@pytest.mark.parametrize(("base", "earlier", "later", "expected"), THREE_WAY.values(), ids=list(THREE_WAY))
def test_with_a_base_each_field_is_what_was_made_of_it(
    base: dict[str, Any], earlier: dict[str, Any], later: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = merged(earlier, later, base=base)
    assert found == expected
    assert str(found) == str(expected), "order and types too"


WITHOUT_BASE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "the later one has the last word on each field": ({"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
    "fields of either are there": ({"a": 1, "c": 3}, {"a": 2}, {"a": 2, "c": 3}),
    "nested dicts by their fields": ({"d": {"x": 1, "y": 1}}, {"d": {"x": 2}}, {"d": {"x": 2, "y": 1}}),
    "lists are taken whole": ({"l": [1, 2]}, {"l": [3]}, {"l": [3]}),
}


@pytest.mark.parametrize(("earlier", "later", "expected"), WITHOUT_BASE.values(), ids=list(WITHOUT_BASE))
def test_without_a_base_the_last_writer_wins_each_field(
    earlier: dict[str, Any], later: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merged(earlier, later) == expected


def test_the_later_revision_is_the_one_with_the_higher_clock_not_the_winner() -> None:
    winner = revision(10, {"a": "winner"}, generation=9)
    later = revision(11, {"a": "later"}, generation=2)
    assert merge_fields([winner, later])["a"] == "later"
    twin = revision(11, {"a": "higher node"}, node=99)
    assert merge_fields([later, twin])["a"] == "higher node"


def test_three_revisions_merge_like_two() -> None:
    base = {"a": 0, "b": 0, "c": 0, "d": 0}
    found = merged({**base, "a": 1, "d": 1}, {**base, "b": 2, "d": 2}, {**base, "c": 3}, base=base)
    assert found == {"a": 1, "b": 2, "c": 3, "d": 2}


def test_the_arguments_stay_as_they_are() -> None:
    one, other = revision(10, {"d": {"x": 1}}), revision(11, {"d": {"y": 1}})
    before = repr((one, other))
    merge_fields([one, other])["d"]["x"] = 99
    assert repr((one, other)) == before


fields = st.dictionaries(
    st.sampled_from("abc"), st.recursive(
        st.sampled_from([None, 0, 1, True, 1.0, "x", b"x", (1, 2)]),
        lambda inner: st.dictionaries(st.sampled_from("xy"), inner) | st.lists(inner, max_size=2), max_leaves=4,
    ),
)


@given(st.lists(fields, min_size=1, max_size=3), st.none() | fields)
def test_every_node_comes_to_the_same_record_in_whatever_order(
    each: list[dict[str, Any]], base: dict[str, Any] | None
) -> None:
    revisions = [revision(hlc, found) for hlc, found in enumerate(each, 10)]
    given_base = None if base is None else revision(1, base)
    results = {repr(merge_fields(order, given_base)) for order in itertools.permutations(revisions)}
    assert len(results) == 1


@given(fields, fields)
def test_what_only_one_changed_is_what_that_one_says(base: dict[str, Any], changed: dict[str, Any]) -> None:
    assert merged(base, changed, base=base) == changed
    assert merged(changed, base, base=base) == changed


@pytest.mark.parametrize("rev", [None, "", "2-xyz", 7])
def test_a_revision_without_its_rev_is_refused(rev: Any) -> None:
    with pytest.raises(mynosql.RecordInvalid, match="expected the rev"):
        merge_fields([{"id": "r", "rev": rev, "a": 1}])


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(mynosql.RecordInvalid, match="nothing to merge"):
        merge_fields([])
