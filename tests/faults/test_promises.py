"""What may and must be held, from what a process said."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.promises import Feeds, Held, Promises

TRIED_TWICE: list[dict[str, Any]] = [
    {"node": "A", "tries": {"x": 1}}, {"node": "A", "of": "A", "promises": "durable", "feed": "f", "seq": 1},
    {"node": "A", "tries": {"x": 2}}, {"node": "A", "of": "A", "promises": "killed", "feed": "f", "seq": 2},
]


def broken(marks: list[dict[str, Any]], versions: dict[str, Any], *, kept: bool = False, node: str = "A",
           cursors: dict[str, int] | None = None) -> list[str]:
    promises = Promises.of(node, marks)
    for mark in marks:
        promises.take(mark)
    return promises.find_broken(Held(versions, cursors or {}), Feeds(marks), is_kept=kept)


@pytest.mark.parametrize(("versions", "is_cut_sound", "is_kill_sound"), [
    ({"x": 2}, True, True), ({"x": 1}, True, False), ({}, False, False), ({"x": 9}, False, False),
    ({"x": None}, False, False), ({"x": 2, "y": 1}, False, False),
])
def test_between_the_last_promise_and_the_last_try_all_is_well(
    versions: dict[str, Any], is_cut_sound: bool, is_kill_sound: bool
) -> None:
    assert (not broken(TRIED_TWICE, versions)) == is_cut_sound
    assert (not broken(TRIED_TWICE, versions, kept=True)) == is_kill_sound


def test_a_deletion_is_a_version() -> None:
    marks: list[dict[str, Any]] = [
        *TRIED_TWICE, {"node": "A", "tries": {"x": None}}, {"node": "A", "of": "A", "promises": "durable"}
    ]
    assert broken(marks, {"x": None}) == []
    assert broken(marks, {"x": 2}) == ["x: version 2 is left of version None, which was promised"]


def test_a_batch_is_there_or_not_and_a_later_version_says_nothing() -> None:
    marks: list[dict[str, Any]] = [{"node": "A", "tries": {"x": 1, "y": 2}}]
    assert broken(marks, {}) == broken(marks, {"x": 1, "y": 2}) == []
    assert broken(marks, {"x": 1}) == ["only a part of the batch ['x', 'y'] is there"]
    later = [*marks, {"node": "A", "tries": {"x": 3}}]
    assert broken(later, {"x": 3}) == []


def test_another_node_promises_only_what_it_was_sent() -> None:
    marks: list[dict[str, Any]] = [
        {"node": "B", "opened": True, "receives": ["A"]}, {"node": "A", "tries": {"x": 1}},
        {"node": "B", "tries": {"y": 2}}, {"node": "B", "of": "A", "promises": "durable"},
    ]
    assert broken(marks, {"x": 1}, node="B") == []
    assert broken(marks, {"y": 2}, node="B") == ["x: nothing is left of version 1, which was promised"]
    assert broken(marks, {"y": 2}) == ["y: a record that nobody saved"]


def test_a_cursor_must_not_run_ahead_of_what_is_held() -> None:
    marks = [{"node": "B", "opened": True, "receives": ["A"]}, *TRIED_TWICE]
    assert broken(marks, {"x": 1}, node="B", cursors={"f": 1, "other": 9}) == []
    assert broken(marks, {"x": 1}, node="B", cursors={"f": 2}) == [
        "x: not held as of version 2, although the cursor of its feed says so (seq 2)"
    ]


def test_a_mode_is_of_its_own_node_alone() -> None:
    marks: list[dict[str, Any]] = [
        {"node": "B", "opened": True, "receives": ["A"]}, {"node": "A", "tries": {"#mode": "Mirror"}},
    ]
    assert broken(marks, {"#mode": "Mirror"}) == []
    assert broken(marks, {"#mode": "Mirror"}, node="B") == ["#mode: a record that nobody saved"]
