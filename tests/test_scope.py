"""Scopes as values: their normal form, what is within, how two compare."""

from __future__ import annotations

import pytest

from mynosql.errors import OptionInvalid
from mynosql.idkey import pack_id
from mynosql.scope import PREFIXES_MAX, Scope, added_to, check_scope, common, covers, is_within


def test_a_scope_is_sorted_and_says_nothing_twice() -> None:
    assert check_scope(["b", "ab", "a", "b", "abc"]) == ("a", "b")
    assert check_scope([]) == ()
    assert check_scope(None) is None
    assert check_scope(["x", ""]) == ("",)


@pytest.mark.parametrize("wrong", ["abc", [1], ["x" * 201], [f"{n:03}" for n in range(PREFIXES_MAX + 1)]])
def test_what_is_no_scope_is_refused(wrong: list[str]) -> None:
    with pytest.raises(OptionInvalid, match="scope"):
        check_scope(wrong)


def test_ids_are_within_a_scope_by_their_beginning() -> None:
    assert is_within(None, pack_id(7))
    assert is_within(("",), pack_id("any"))
    assert not is_within(("",), pack_id(7))
    assert not is_within((), pack_id("any"))
    assert is_within(("a/", "ü"), pack_id("a/1"))
    assert is_within(("a/", "ü"), pack_id("über"))
    assert not is_within(("a/", "ü"), pack_id("a"))


@pytest.mark.parametrize(("one", "other", "both", "is_covered"), [
    (None, ("a",), ("a",), True), (("a",), None, ("a",), False), (None, None, None, True), ((), ("a",), (), False),
    (("a",), (), (), True), (("a", "b"), ("ab", "c"), ("ab",), False), (("ab",), ("a",), ("ab",), False),
    (("a",), ("ab", "ac"), ("ab", "ac"), True),
])
def test_scopes_compare(one: Scope | None, other: Scope | None, both: Scope | None, is_covered: bool) -> None:
    assert common(one, other) == common(other, one) == both
    assert covers(one, other) is is_covered


def test_what_a_scope_gains() -> None:
    assert added_to(("a", "c"), ("ab", "b", "bc", "c")) == ("b",)
