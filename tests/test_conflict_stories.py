"""The conflict stories of the documentation, as transcripts: two peers and a mirror on loopback, in one process.

To edit apart, a peer is closed and opened again without the mirror (offline), and later with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mynosql
from tests.mesh import wait_connected, wait_equal
from tests.waiting import wait_until


class Story:
    """A mirror M and two peers A and B that can be taken offline."""

    def __init__(self, make_db: Callable[..., Any]) -> None:
        self.m = make_db("Story", mode="mirror", listen="127.0.0.1:0")
        self.url = self.m.endpoint
        self.a = make_db("Story", peers=[self.url])
        self.b = make_db("Story", peers=[self.url])
        wait_connected(self.a, self.b)

    def offline(self, *peers: mynosql.MyNoSQL) -> None:
        for peer in peers:
            peer.delpeer(self.url)
            for learned in peer.listpeers():
                peer.delpeer(learned)
            wait_until(lambda peer=peer: peer.syncstatus().mirror is None, 10, "the peer is offline")

    def online(self, *peers: mynosql.MyNoSQL) -> None:
        for peer in peers:
            peer.addpeer(self.url)
        wait_connected(*peers)
        for peer in peers:
            assert peer.waitsync(20)

    def settle(self) -> None:
        wait_equal(self.m, self.a, self.b)

    def start(self, id: str = "lamp", **fields: Any) -> dict[str, Any]:
        rec = self.a.savedoc({"id": id, "colour": "white", **fields})
        assert self.a.waitsync(10)
        wait_until(lambda: self.b.docinfo(id).rev == rec["rev"], 10, "B heard of the record")
        self.b.readdoc(id)
        return rec

    def edit_apart(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """A and B change the same revision while they cannot talk. Returns (winner, loser) as saved."""
        base = self.start()
        self.offline(self.a, self.b)
        by_a = self.a.savedoc({**base, "colour": "red"})
        by_b = self.b.savedoc({**base, "colour": "blue"})
        self.online(self.a, self.b)
        self.settle()
        winner = self.m.readdoc("lamp")
        return (by_a, by_b) if winner["rev"] == by_a["rev"] else (by_b, by_a)


@pytest.fixture
def story(make_db: Callable[..., Any]) -> Story:
    return Story(make_db)


def losers(db: mynosql.MyNoSQL, id: str = "lamp") -> list[Any]:
    return [conflict.rec for conflict in db.getconflicts(id)]


def test_two_peers_edit_apart_and_every_node_agrees_on_winner_and_loser(story: Story) -> None:
    winner, loser = story.edit_apart()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == winner
        assert losers(node) == [loser]
        assert node.docinfo("lamp").conflicts == 1


def test_a_later_edit_of_the_winner_by_the_losers_author_does_not_hide_the_loser(story: Story) -> None:
    winner, loser = story.edit_apart()
    author = story.a if winner["colour"] == "blue" else story.b  # the one whose edit lost
    edited = author.savedoc({**author.readdoc("lamp"), "brightness": 7})
    assert author.waitsync(10)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == edited
        assert losers(node) == [loser]


def test_resolvedoc_ends_the_conflict_on_every_node(story: Story) -> None:
    story.edit_apart()
    resolved = story.b.resolvedoc("lamp", {"id": "lamp", "colour": "purple"})
    assert story.b.waitsync(10)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == resolved
        assert node.getconflicts("lamp") == []


def test_an_edit_wins_over_a_delete_made_apart_and_the_tombstone_is_no_conflict(story: Story) -> None:
    base = story.start()
    story.offline(story.a, story.b)
    story.a.deletedoc("lamp")
    edited = story.b.savedoc({**base, "colour": "blue"})
    story.online(story.a, story.b)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == edited
        assert "lamp" in node


def test_a_delete_that_knew_the_edit_removes_the_record_everywhere(story: Story) -> None:
    story.edit_apart()
    story.a.deletedoc("lamp")
    assert story.a.waitsync(10)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert "lamp" not in node
        assert node.docinfo("lamp").state == "deleted"
        with pytest.raises(mynosql.RecordNotFound):
            node.readdoc("lamp")


def test_a_peer_saves_over_a_record_that_it_does_not_hold(story: Story) -> None:
    base = story.m.savedoc({"id": "door", "open": False})
    wait_until(lambda: story.a.docinfo("door").state == "remote", 10, "A knows of the record")
    story.offline(story.a)
    with pytest.raises(mynosql.RevisionConflict) as without_rev:
        story.a.savedoc({"id": "door", "open": True})
    assert without_rev.value.latest == base["rev"]
    saved = story.a.savedoc({"id": "door", "rev": base["rev"], "open": True})
    assert saved["rev"].startswith("2-")
    assert story.a.docinfo("door").state == "pending"
    story.online(story.a)
    story.settle()
    assert story.m.readdoc("door") == saved
    assert story.m.getconflicts("door") == []


def test_branch_keeps_an_offline_edit_of_an_older_revision_beside_the_newest(story: Story) -> None:
    base = story.start()
    newer = story.b.savedoc({**base, "colour": "green"})
    assert story.b.waitsync(10)
    wait_until(lambda: story.a.docinfo("lamp").rev == newer["rev"], 10, "A heard of the newer revision")
    story.offline(story.a)
    with pytest.raises(mynosql.RevisionConflict) as refused:
        story.a.savedoc({**base, "colour": "black"})
    assert (refused.value.given, refused.value.latest) == (base["rev"], newer["rev"])
    branched = story.a.savedoc({**base, "colour": "black"}, branch=True)
    story.online(story.a)
    story.settle()
    for node in (story.m, story.a, story.b):
        both = {node.readdoc("lamp")["colour"], *(rec["colour"] for rec in losers(node))}
        assert both == {"green", "black"}
    assert branched["rev"].startswith("2-")


def test_the_same_edit_made_twice_apart_is_no_conflict(story: Story) -> None:
    base = story.start()
    story.offline(story.a, story.b)
    story.a.savedoc({**base, "colour": "red"})
    story.b.savedoc({**base, "colour": "red"})
    story.online(story.a, story.b)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp")["colour"] == "red"
        assert node.getconflicts("lamp") == []


def test_getconflicts_offline_lists_losers_that_are_not_held(story: Story) -> None:
    story.edit_apart()
    late = story.a
    story.offline(late)
    conflicts = late.getconflicts("lamp")
    assert len(conflicts) == 1
    assert all(conflict.held == (conflict.rec is not None) for conflict in conflicts)


def test_a_record_made_anew_after_its_delete_is_no_conflict(story: Story) -> None:
    story.start()
    story.a.deletedoc("lamp")
    assert story.a.waitsync(10)
    story.settle()
    anew = story.b.savedoc({"id": "lamp", "colour": "green"})
    assert anew["rev"].startswith("3-")
    assert story.b.waitsync(10)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == anew
        assert node.getconflicts("lamp") == []


def test_a_record_made_anew_by_two_apart_is_a_conflict_of_the_two_new_ones(story: Story) -> None:
    story.start()
    story.a.deletedoc("lamp")
    assert story.a.waitsync(10)
    story.settle()
    story.offline(story.a, story.b)
    by_a = story.a.savedoc({"id": "lamp", "colour": "red"})
    by_b = story.b.savedoc({"id": "lamp", "colour": "blue"})
    story.online(story.a, story.b)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert [node.readdoc("lamp"), *losers(node)] in ([by_a, by_b], [by_b, by_a])


def test_a_record_made_anew_beside_an_edit_of_the_deleted_one_is_a_conflict(story: Story) -> None:
    base = story.start()
    story.offline(story.b)
    edited = story.b.savedoc({**base, "colour": "blue"})
    story.a.deletedoc("lamp")
    anew = story.a.savedoc({"id": "lamp", "colour": "red"})
    story.online(story.b)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == anew, "generation 3 before 2"
        assert losers(node) == [edited]


def test_a_node_that_slept_through_a_delete_does_not_bring_the_record_back(story: Story) -> None:
    base = story.start()
    story.offline(story.b)
    story.a.deletedoc("lamp")
    assert story.a.waitsync(10)
    assert story.b.readdoc("lamp") == base, "it still has its copy"
    story.online(story.b)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert "lamp" not in node
        assert node.docinfo("lamp").state == "deleted"
    with pytest.raises(mynosql.RevisionConflict):
        story.b.savedoc({**base, "colour": "blue"})


def test_the_successive_edits_of_one_node_never_conflict(story: Story) -> None:
    rec = story.start()
    for number in range(60):
        if number % 20 == 10:
            story.offline(story.a)
        if number % 20 == 15:
            story.online(story.a)
        rec = story.a.savedoc({**rec, "n": number})
        assert story.a.getconflicts("lamp") == []
    assert story.a.waitsync(10)
    story.settle()
    for node in (story.m, story.a, story.b):
        assert node.readdoc("lamp") == rec
        assert node.getconflicts("lamp") == []
    assert rec["rev"].startswith("61-")


def test_mirrors_that_meet_keep_more_conflicts_than_they_would_take_from_a_peer(make_db: Callable[..., Any]) -> None:
    mirrors = [make_db("Story", mode="mirror", listen="127.0.0.1:0") for _ in range(2)]
    for place, mirror in enumerate(mirrors):
        base = mirror.savedoc({"id": "r", "n": -1})
        for number in range(6):
            mirror.savedoc({**base, "n": 10 * place + number}, branch=True)
    mirrors[0].addpeer(mirrors[1].endpoint, merge=True)
    wait_until(lambda: all(len(mirror.getconflicts("r")) == 11 for mirror in mirrors), 20, "12 revisions on both")
    wait_equal(*mirrors)
    mirrors[1].resolvedoc("r", {"n": 0})
    wait_until(lambda: all(mirror.getconflicts("r") == [] for mirror in mirrors), 20, "resolved on both")
