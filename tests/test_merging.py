"""Functions that merge conflicts: when they are called, on what, what becomes of their answer, and that it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import merging
from mynosql.reading import Reading
from mynosql.row import Leaves
from mynosql.turns import merge_delay_s
from tests.mesh import wait_connected, wait_equal
from tests.waiting import wait_until

Record = dict[str, Any]


class Calls:
    """A merge function that counts up in `n`, and remembers what it was called with."""

    def __init__(self, answer: Callable[[Any, list[Record]], Any] | None = None) -> None:
        self.answer = answer or (lambda id, revisions: {"n": sum(each["n"] for each in revisions)})
        self.seen: list[tuple[Any, list[Record]]] = []

    def __call__(self, id: Any, revisions: list[Record]) -> Any:
        self.seen.append((id, revisions))
        return self.answer(id, revisions)


def edit_apart(db: mynosql.MyNoSQL, id: str = "r", *values: int) -> list[Record]:
    """Concurrent revisions of one record with these values of `n`, made on one node."""
    base = db.savedoc({"id": id, "n": 0})
    return [db.savedoc({**base, "n": value}, branch=True) for value in values or (1, 2)]


def wait_merged(*dbs: mynosql.MyNoSQL) -> None:
    for db in dbs:
        wait_until(lambda db=db: not db.conflicteddocs(), 20, lambda db=db: f"no conflict left: {db.conflicteddocs()}")  # type: ignore[misc]


# What is called, and with what


def test_conflicts_that_exist_already_and_those_that_come_are_merged(db: Any) -> None:
    edit_apart(db, "before", 1, 2)
    calls = Calls()
    db.onconflict(calls)
    wait_merged(db)
    edit_apart(db, "after", 3, 4)
    wait_merged(db)
    assert (db["before"]["n"], db["after"]["n"]) == (3, 7)
    assert [id for id, _ in calls.seen] == ["before", "after"]
    assert db.syncstatus().conflicts == 0


def test_the_function_gets_the_revisions_as_records_the_winner_first(db: Any) -> None:
    saved = edit_apart(db, "r", 1, 2, 3)
    winner = db.readdoc("r")
    calls = Calls()
    db.onconflict(calls)
    wait_merged(db)
    ((id, revisions),) = calls.seen
    assert (id, revisions[0]) == ("r", winner)
    assert sorted(revisions, key=lambda each: each["n"]) == saved
    assert db.readdoc("r")["rev"].startswith("3-")


def test_none_leaves_the_conflict_until_it_changes(db: Any) -> None:
    first, _ = edit_apart(db)
    calls = Calls(lambda id, revisions: None)
    db.onconflict(calls)
    wait_until(lambda: calls.seen, 10, "called")
    assert db.conflicteddocs() == ["r"]
    db.savedoc({**first, "n": 9}, branch=True)
    wait_until(lambda: len(calls.seen) == 2, 10, "called again for what is new")
    assert {each["n"] for each in calls.seen[1][1]} == {2, 9}
    assert db.conflicteddocs() == ["r"]


def test_a_function_that_raises_is_reported_and_stops_nothing(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(id: Any, revisions: list[Record]) -> Record:
        raise LookupError("no idea")

    edit_apart(db, "a")
    edit_apart(db, "b")
    calls = Calls(lambda id, revisions: None if id == "a" else {"n": 7})
    db.onconflict(fail)
    db.onconflict(calls)
    wait_until(lambda: db.conflicteddocs() == ["a"], 10, "the next function is asked")
    assert db["b"]["n"] == 7
    assert db.syncstatus().last_error == "LookupError: no idea"
    assert "onconflict function raised for 'a'" in caplog.text


@pytest.mark.parametrize(("answer", "error"), [
    ({"id": "other", "n": 1}, "with id 'other'"), ("text", "a record is a dict"),
    ({"n": object()}, "cannot store object"),
])
def test_an_answer_that_is_no_record_is_reported_and_changes_nothing(db: Any, answer: Any, error: str) -> None:
    edit_apart(db)
    db.onconflict(lambda id, revisions: answer)
    wait_until(lambda: db.syncstatus().last_error, 10, "reported")
    assert error in db.syncstatus().last_error
    assert db.conflicteddocs() == ["r"]


def test_the_first_function_that_merges_is_the_last_one_asked(db: Any) -> None:
    edit_apart(db, "a/1")
    edit_apart(db, "b/1")
    for_a, for_all = Calls(), Calls()
    db.onconflict(for_a, prefix="a/")
    db.onconflict(for_all)
    wait_merged(db)
    assert [id for id, _ in for_a.seen] == ["a/1"]
    assert [id for id, _ in for_all.seen] == ["b/1"]


def test_what_onconflict_returned_ends_the_calls(db: Any) -> None:
    calls = Calls()
    end = db.onconflict(calls)
    edit_apart(db, "a")
    wait_merged(db)
    end()
    edit_apart(db, "b")
    others = Calls()
    db.onconflict(others)
    wait_merged(db)
    assert [[id for id, _ in each.seen] for each in (calls, others)] == [["a"], ["b"]]


@pytest.mark.parametrize("fn", [None, "newest", 7])
def test_what_cannot_merge_is_refused(db: Any, fn: Any) -> None:
    with pytest.raises(mynosql.OptionInvalid, match="needs a function or 'fields'"):
        db.onconflict(fn)


def test_an_edit_against_a_delete_is_no_conflict_to_merge(db: Any) -> None:
    base = db.savedoc({"id": "r", "n": 0})
    db.deletedoc("r")
    db.savedoc({**base, "n": 1}, branch=True)
    edit_apart(db, "s")
    calls = Calls()
    db.onconflict(calls)
    wait_merged(db)
    assert [id for id, _ in calls.seen] == ["s"]


# Threads


def test_the_function_runs_on_a_thread_of_its_own_without_the_lock(db: Any) -> None:
    entered, saved = threading.Event(), threading.Event()
    names: list[str] = []

    def slow(id: Any, revisions: list[Record]) -> Record:
        names.append(threading.current_thread().name)
        entered.set()
        assert saved.wait(10)
        return {"n": 5}

    edit_apart(db)
    db.onconflict(slow)
    assert entered.wait(10)
    db.savedoc({"id": "meanwhile"})
    assert db["meanwhile"]["id"] == "meanwhile"
    saved.set()
    wait_merged(db)
    assert names == ["mynosql-onconflict"]


def test_a_revision_that_comes_while_the_function_runs_is_not_covered_unseen(db: Any) -> None:
    first, _ = edit_apart(db, "r", 1, 2)

    def merge(id: Any, revisions: list[Record]) -> Record:
        if len(revisions) == 2:
            db.savedoc({**first, "n": 40}, branch=True)
            db.savedoc({**first, "n": 80}, branch=True)
        return {"n": sum(each["n"] for each in revisions)}

    calls = Calls(merge)
    db.onconflict(calls)
    wait_merged(db)
    assert db["r"]["n"] == 2 + 40 + 80
    assert len(calls.seen) == 2


@pytest.mark.parametrize("answer", [None, {"n": 3}])
def test_the_database_may_be_closed_from_inside_the_function(
    db: Any, answer: Record | None, caplog: pytest.LogCaptureFixture
) -> None:
    threads: list[threading.Thread] = []

    def close(id: Any, revisions: list[Record]) -> Record | None:
        threads.append(threading.current_thread())
        db.closedb()
        return answer

    edit_apart(db)
    db.onconflict(close)
    wait_until(lambda: threads, 10, "called")
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert db.location is None
    assert caplog.text == ""


def test_closing_ends_a_thread_that_waits_for_its_turn(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = threading.Event()

    def delay_s(leaves: Leaves, node: int, merges: int) -> float:
        noted.set()
        return 3600.0

    monkeypatch.setattr(merging, "merge_delay_s", delay_s)
    edit_apart(db)
    db.onconflict(Calls())
    assert noted.wait(10)
    db.closedb()
    assert not [thread for thread in threading.enumerate() if thread.name == "mynosql-onconflict"]


def test_more_conflicts_than_may_wait_are_all_merged(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "DUE_MAX", 5)
    monkeypatch.setattr(merging, "SCAN_PAGE", 2)
    monkeypatch.setattr(merging, "MERGES_MAX", 3)
    for number in range(30):
        edit_apart(db, f"r{number:02}", 1, 2)
        db.savedoc({"id": f"r{number:02}+"})
    assert len(db.conflicteddocs()) == 30
    assert db.conflicteddocs(prefix="r1") == [f"r1{digit}" for digit in range(10)]
    db.onconflict(Calls())
    wait_merged(db)
    assert {db[f"r{number:02}"]["n"] for number in range(30)} == {3}


def test_a_conflict_is_merged_when_it_is_our_turn(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[float, str, int]] = []

    def delay_s(leaves: Leaves, node: int, merges: int) -> float:
        noted.append((time.monotonic(), f"{node:016x}", merges))
        return 0.2

    monkeypatch.setattr(merging, "merge_delay_s", delay_s)
    edit_apart(db)
    called: list[float] = []
    db.onconflict(Calls(lambda id, revisions: called.append(time.monotonic()) or {"n": 3}))
    wait_merged(db)
    assert len(noted) == len(called) == 1
    assert called[0] - noted[0][0] >= 0.2
    assert noted[0][1:] == (db.syncstatus().node, 0)


# The built-in merge


def test_fields_merges_three_ways_from_the_base_that_is_still_on_the_disk(
    make_db: Callable[..., Any], tmp_path: Path
) -> None:
    db = make_db(location=tmp_path / "kept")
    base = db.savedoc({"id": "lamp", "on": False, "colour": "white", "place": "hall"})
    db.closedb()
    db = make_db(location=tmp_path / "kept")
    db.savedoc({**base, "on": True})
    db.savedoc({"id": "lamp", "rev": base["rev"], "on": False, "colour": "red"}, branch=True)
    db.onconflict("fields")
    wait_merged(db)
    merged = db.readdoc("lamp")
    del merged["rev"]
    assert merged == {"id": "lamp", "on": True, "colour": "red"}


def test_without_a_base_the_later_revision_wins_each_field(db: Any) -> None:
    base = db.savedoc({"id": "lamp", "on": False, "colour": "white"})
    db.savedoc({**base, "on": True, "place": "hall"})
    db.savedoc({**base, "colour": "red"}, branch=True)
    db.onconflict("fields")
    wait_merged(db)
    merged = db.readdoc("lamp")
    del merged["rev"]
    assert merged == {"id": "lamp", "on": False, "colour": "red", "place": "hall"}


def test_a_revision_that_only_one_side_descends_from_is_no_base(make_db: Callable[..., Any], tmp_path: Path) -> None:
    mirror = make_db("Story", mode="mirror", listen="127.0.0.1:0")
    db = make_db("Story", location=tmp_path / "kept")
    first = db.savedoc({"id": "r", "x": 1, "y": 1})
    db.closedb()
    db = make_db("Story", location=tmp_path / "kept")
    db.savedoc({"id": "r", "rev": first["rev"], "x": 1})
    mirror.savedoc({"id": "r", "x": 1, "y": 1})
    db.addpeer(mirror.endpoint)
    wait_until(lambda: db.conflicteddocs(), 20, "both made the same id")
    db.onconflict("fields")
    wait_merged(db)
    assert db.readdoc("r")["y"] == 1, "not removed: the other one never had the revision in which it was not"


# A mesh


class Mesh:
    """A mirror and two peers that can be taken offline."""

    def __init__(self, make_db: Callable[..., Any]) -> None:
        self.m = make_db("Story", mode="mirror", listen="127.0.0.1:0")
        self.url = self.m.endpoint
        self.peers = [make_db("Story", peers=[self.url]) for _ in range(2)]
        self.all = [self.m, *self.peers]
        wait_connected(*self.peers)

    def offline(self) -> None:
        for peer in self.peers:
            for url in peer.listpeers():
                peer.delpeer(url)
            wait_until(lambda peer=peer: peer.syncstatus().mirror is None, 10, "the peer is offline")  # type: ignore[misc]

    def online(self) -> None:
        for peer in self.peers:
            peer.addpeer(self.url)
        wait_connected(*self.peers)

    def edit_apart(self) -> None:
        """All three have the record, the peers edit it apart, and all three hold both edits and have merged neither."""
        base = self.m.savedoc({"id": "r", "n": 0, "text": ""})
        for peer in self.peers:
            wait_until(lambda peer=peer: "r" in peer, 10, "the peer heard of it")  # type: ignore[misc]
            peer.readdoc("r")
        self.offline()
        for number, peer in enumerate(self.peers, 1):
            peer.savedoc({**base, "n": number, "text": f"edit {number}"})
        self.online()
        wait_equal(*self.all)
        for db in self.all:
            db.readdoc("r")
            assert len(db.getconflicts("r")) == 1


@pytest.fixture
def mesh(make_db: Callable[..., Any]) -> Mesh:
    return Mesh(make_db)


def test_three_nodes_that_merge_at_once_and_never_agree_come_to_one_revision(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges: list[int] = []

    def delay_s(leaves: Leaves, node: int, in_vain: int) -> float:
        merges.append(in_vain)
        return merge_delay_s(leaves, node, in_vain)

    monkeypatch.setattr(merging, "merge_delay_s", delay_s)
    mesh.edit_apart()
    mesh.offline()
    calls = []
    for name, db in zip("mab", mesh.all, strict=True):
        calls.append(Calls(lambda id, revisions, name=name: {
            "by": name, "n": 1, "text": f"{name}({' '.join(each['text'] for each in revisions)})"
        }))
        db.onconflict(calls[-1])
    wait_merged(*mesh.all)
    assert len({db.readdoc("r")["text"] for db in mesh.all}) == 3, "three merges, made apart"
    mesh.online()
    wait_merged(*mesh.all)
    wait_equal(*mesh.all)
    wait_merged(*mesh.all)
    text = mesh.m.readdoc("r")["text"]
    assert [db.readdoc("r")["text"] for db in mesh.all] == [text] * 3
    assert all(f"{name}(" in text for name in "mab"), f"every merge is in the last one: {text}"
    assert 4 <= sum(len(each.seen) for each in calls) <= 15
    assert max(merges) >= 1, "who merged in vain waits longer"


def test_two_merges_with_equal_bodies_are_one(mesh: Mesh) -> None:
    mesh.edit_apart()
    mesh.offline()
    calls = [Calls() for _ in mesh.all]
    for each, db in zip(calls, mesh.all, strict=True):
        db.onconflict(each)
    wait_merged(*mesh.all)
    assert {db.readdoc("r")["n"] for db in mesh.all} == {3}
    assert len({db.readdoc("r")["rev"] for db in mesh.all}) == 3
    mesh.online()
    wait_equal(*mesh.all)
    assert [len(each.seen) for each in calls] == [1, 1, 1]
    assert all(db.getconflicts("r") == [] for db in mesh.all)
    assert len({db.readdoc("r")["rev"] for db in mesh.all}) == 1


def test_one_node_that_merges_is_enough_for_all(mesh: Mesh) -> None:
    calls = Calls()
    mesh.edit_apart()
    mesh.m.onconflict(calls)
    wait_merged(*mesh.all)
    assert [db.readdoc("r")["n"] for db in mesh.all] == [3, 3, 3]
    assert len(calls.seen) == 1


def test_a_peer_fetches_the_bodies_that_it_merges_and_waits_for_them_offline(
    make_db: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = make_db("Story", mode="mirror", listen="127.0.0.1:0")
    url = mirror.endpoint
    peer = make_db("Story", peers=[url])
    wait_connected(peer)
    edit_apart(mirror, "r", 1, 2)
    wait_until(lambda: peer.conflicteddocs() == ["r"], 10, "the peer's index names the conflict")
    for known in peer.listpeers():
        peer.delpeer(known)
    wait_until(lambda: peer.syncstatus().mirror is None, 10, "the peer is offline")
    tried = threading.Event()
    fetch_leaves = Reading.fetch_leaves

    def try_to_fetch(*arguments: Any) -> None:
        fetch_leaves(*arguments)
        tried.set()

    monkeypatch.setattr(Reading, "fetch_leaves", try_to_fetch)
    calls = Calls()
    peer.onconflict(calls)
    assert tried.wait(10)
    assert peer.conflicteddocs() == ["r"]
    peer.addpeer(url)
    wait_merged(mirror, peer)
    assert mirror["r"]["n"] == 3
    assert len(calls.seen) == 1
