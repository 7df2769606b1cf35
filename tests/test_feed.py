"""The feed for the application: tokens that resume, live iteration, and functions that are called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import mynosql
from mynosql.feed import PAGE_BYTES, Feed, pack_token, parse_token
from tests.waiting import wait_until

OURS, OTHER = bytes(16), bytes(range(16))


class Iteration(threading.Thread):
    """A live feed read in a thread of its own; `seen` grows until the feed is closed."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(daemon=True)
        self.feed, self.seen = feed, list[Any]()
        self.start()

    def run(self) -> None:
        for change in self.feed:
            self.seen.append(change.id)


def ids(feed: Any) -> list[Any]:
    return [change.id for change in feed]


# Tokens


def test_a_token_names_a_point_in_one_index() -> None:
    assert parse_token(pack_token(OURS, 12), OURS) == 12
    assert parse_token(pack_token(OTHER, 12), OURS) == 0


@pytest.mark.parametrize("token", ["", "12", "-12", OURS.hex(), OURS.hex() + "-", OURS.hex() + "--1", "x-y", 7, b"a-1"])
def test_what_no_feed_ever_gave_is_no_token(db: Any, token: Any) -> None:
    with pytest.raises(mynosql.OptionInvalid, match="since="):
        db.changes(since=token)


def test_each_id_comes_once_at_its_newest_oldest_change_first(db: Any) -> None:
    a = db.savedoc({"id": "a", "n": 1})
    db.savedoc({"id": "b", "n": 1})
    db.savedoc({"id": "c", "n": 1})
    newest = db.savedoc({**a, "n": 2})
    db.deletedoc("b")
    changes = list(db.changes())
    assert [(change.id, change.deleted) for change in changes] == [("c", False), ("a", False), ("b", True)]
    assert changes[1].rev == newest["rev"]
    assert changes[2].rev == db.docinfo("b").rev


def test_every_change_carries_the_token_to_go_on_after_it(db: Any) -> None:
    db.savedocs({"id": id} for id in "abc")
    changes = list(db.changes())
    assert ids(db.changes(since=changes[0].token)) == ["b", "c"]
    assert ids(db.changes(since=changes[-1].token)) == []
    db.savedoc({"id": "d"})
    assert ids(db.changes(since=changes[-1].token)) == ["d"]


def test_the_feeds_own_token_is_the_point_reached(db: Any) -> None:
    db.savedocs({"id": id} for id in "abc")
    feed = db.changes()
    next(feed)
    assert ids(db.changes(since=feed.token)) == ["b", "c"]


def test_a_token_resumes_after_a_restart(make_db: Callable[..., Any], tmp_path: Any) -> None:
    db = make_db(location=tmp_path / "kept")
    db.savedocs({"id": id} for id in "ab")
    token = next(db.changes()).token
    db.closedb()
    again = make_db(location=tmp_path / "kept")
    assert ids(again.changes(since=token)) == ["b"]


def test_a_token_of_another_index_starts_from_the_beginning(db: Any) -> None:
    db.savedocs({"id": id} for id in "ab")
    assert ids(db.changes(since=pack_token(OTHER, 1000))) == ["a", "b"]


def test_a_prefix_takes_only_str_ids_that_begin_so_and_the_token_moves_past_the_others(db: Any) -> None:
    db.savedocs({"id": id} for id in ("x/1", "y/1", "x/2", 7, "y/2"))
    feed = db.changes(prefix="x/")
    assert ids(feed) == ["x/1", "x/2"]
    assert ids(db.changes(since=feed.token)) == []


def test_a_long_feed_is_read_in_pages_and_misses_nothing(db: Any) -> None:
    names = [f"{number:05}-" + "x" * 500 for number in range(4 * PAGE_BYTES // 500)]
    db.savedocs({"id": name} for name in names)
    assert ids(db.changes()) == names


# Live


def test_a_live_feed_goes_on_with_what_is_saved_later(db: Any) -> None:
    db.savedoc({"id": "before"})
    iteration = Iteration(db.changes(live=True))
    wait_until(lambda: iteration.seen == ["before"], 10, "the first change")
    db.savedoc({"id": "later"})
    wait_until(lambda: iteration.seen == ["before", "later"], 10, "the later change")
    iteration.feed.close()
    iteration.join(10)
    assert not iteration.is_alive()


@pytest.mark.parametrize("end", ["close", "with", "closedb"])
def test_a_thread_that_waits_in_a_live_feed_ends_with_it(db: Any, end: str) -> None:
    feed = db.changes(live=True)
    waits = threading.Event()
    wait_change = feed._node.wait_change
    feed._node.wait_change = lambda *args: (waits.set(), wait_change(*args))[1]
    iteration = Iteration(feed)
    assert waits.wait(10)
    if end == "close":
        feed.close()
    elif end == "with":
        with feed:
            pass
    else:
        db.closedb()
    iteration.join(10)
    assert not iteration.is_alive()
    assert iteration.seen == []


def test_next_within_gives_up_after_its_time(db: Any) -> None:
    feed = db.changes(live=True)
    assert feed.next_within(0.01) is None
    db.savedoc({"id": "a"})
    change = feed.next_within(0.0)
    assert change is not None
    assert change.id == "a"


# onchange


def test_onchange_is_called_for_changes_from_now_on_until_it_is_ended(db: Any) -> None:
    db.savedoc({"id": "before"})
    all_of_them: list[Any] = []
    only_x: list[Any] = []
    db.onchange(lambda change: all_of_them.append(change.id))
    end = db.onchange(lambda change: only_x.append(change.id), prefix="x/")
    for id in ("x/1", "y/1", 7):
        db.savedoc({"id": id})
    wait_until(lambda: all_of_them == ["x/1", "y/1", 7], 10, lambda: f"three calls: {all_of_them}")
    end()
    end()
    db.savedoc({"id": "x/2"})
    wait_until(lambda: "x/2" in all_of_them, 10, "the call of the one that goes on")
    assert only_x == ["x/1"]


def test_an_exception_in_an_onchange_function_is_shown_and_ends_nothing(db: Any) -> None:
    seen: list[Any] = []

    def fails(change: Any) -> None:
        seen.append(change.id)
        raise ValueError(f"cannot take {change.id}")

    db.onchange(fails)
    db.savedoc({"id": "a"})
    wait_until(lambda: db.syncstatus().last_error == "ValueError: cannot take a", 10, "the error is shown")
    db.savedoc({"id": "b"})
    wait_until(lambda: seen == ["a", "b"], 10, "the next call")


def test_an_onchange_function_may_use_the_database(db: Any) -> None:
    db.onchange(lambda change: db.savedoc({"id": "copy/" + change.id, "of": db[change.id]["n"]}), prefix="a")
    db.savedoc({"id": "a", "n": 1})
    wait_until(lambda: "copy/a" in db, 10, "the record that the function saved")
    assert db["copy/a"]["of"] == 1


def test_no_call_runs_after_closedb(db: Any) -> None:
    seen: list[Any] = []
    db.onchange(lambda change: seen.append(change.id))
    thread = next(thread for thread in threading.enumerate() if thread.name == "mynosql-onchange")
    db.closedb()
    assert not thread.is_alive()


def test_onchange_needs_a_function(db: Any) -> None:
    with pytest.raises(mynosql.OptionInvalid, match="function"):
        db.onchange("print")
