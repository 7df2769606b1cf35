"""What a mirror refused: set aside with its reason, told, counted, remembered, and tried again. On whole nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.revision import LEAVES_MAX_PUSHED
from tests.mesh import wait_connected
from tests.waiting import wait_until


class Refused:
    """A mirror with records in eight-fold conflict, and a peer that was offline and adds a ninth edit to each."""

    def __init__(self, make_db: Callable[..., Any], home: Path) -> None:
        self.make_db = make_db
        self.home = home
        self.mirror = make_db("Story", mode="mirror", listen="127.0.0.1:0")
        self.url = self.mirror.endpoint
        self.peer = self.open_peer()
        self.bases: dict[str, dict[str, Any]] = {}

    def open_peer(self) -> Any:
        return self.make_db("Story", location=self.home / "peer")

    def refuse(self, *ids: str) -> None:
        """The peer knows each record, and saves over it what the mirror then refuses, and a record that it takes."""
        for id in ids:
            self.bases[id] = self.mirror.savedoc({"id": id, "n": 0})
        self.online()
        wait_until(lambda: all(id in self.peer for id in ids), 10, "the peer knows them")
        self.offline()
        for id in ids:
            for number in range(LEAVES_MAX_PUSHED):
                self.mirror.savedoc({**self.bases[id], "n": number + 1}, branch=True)
            self.peer.savedoc({**self.bases[id], "n": "ours"})
            self.peer.savedoc({"id": f"{id}+", "n": 1})
        self.online()
        wait_until(lambda: not self.peer.pendingdocs(), 20, "nothing waits any more")

    def online(self) -> None:
        self.peer.addpeer(self.url)
        wait_connected(self.peer)

    def offline(self) -> None:
        for url in self.peer.listpeers():
            self.peer.delpeer(url)
        wait_until(lambda: self.peer.syncstatus().mirror is None, 10, "the peer is offline")

    def reopen(self) -> None:
        self.peer.closedb()
        self.peer = self.open_peer()

    def wait_taken(self, *ids: str) -> None:
        wait_until(lambda: self.peer.rejecteddocs() == [] and self.peer.waitsync(1), 20, lambda: (
            f"all taken: {self.peer.rejecteddocs()}, {self.peer.syncstatus()}"
        ))
        for id in ids:
            wait_until(lambda id=id: self.mirror.docinfo(id).rev == self.peer.docinfo(id).rev, 10, "equal")  # type: ignore[misc]


@pytest.fixture
def refused(make_db: Callable[..., Any], tmp_path: Path) -> Refused:
    found = Refused(make_db, tmp_path)
    found.refuse("a", "b")
    return found


def test_a_refused_change_is_set_aside_with_its_reason_and_blocks_nothing(refused: Refused) -> None:
    peer, mirror = refused.peer, refused.mirror
    rejections = peer.rejecteddocs()
    assert [(each.id, each.code) for each in rejections] == [("a", "too-many-leaves"), ("b", "too-many-leaves")]
    assert "8 revisions of this record are in conflict" in rejections[0].reason
    ours = next(each for each in [peer.readdoc("a"), *(c.rec for c in peer.getconflicts("a"))] if each["n"] == "ours")
    assert rejections[0].rev == ours["rev"]
    assert mirror["a+"]["n"] == mirror["b+"]["n"] == 1, "what was saved after it is there"
    assert len(mirror.getconflicts("a")) == LEAVES_MAX_PUSHED - 1
    assert len(peer.getconflicts("a")) == LEAVES_MAX_PUSHED
    status = peer.syncstatus()
    assert (status.rejected, status.pending) == (2, 0)
    assert "too-many-leaves" in str(status.last_error)


def test_waitsync_is_false_at_once_while_a_save_stands_refused_and_pendingdocs_does_not_name_it(
    refused: Refused,
) -> None:
    assert refused.peer.pendingdocs() == []
    assert refused.peer.waitsync() is False, "it does not wait for ever"
    assert refused.peer.waitsync(10, level="sent") is True, "it was"
    refused.peer.resolvedoc("a", {"n": 1})
    refused.peer.resolvedoc("b", {"n": 1})
    wait_until(lambda: refused.peer.waitsync(10), 20, "delivered")


def test_it_is_remembered_over_reopening(refused: Refused) -> None:
    before = refused.peer.rejecteddocs()
    refused.reopen()
    assert refused.peer.rejecteddocs() == before
    assert refused.peer.syncstatus().rejected == 2
    refused.online()
    assert refused.peer.rejecteddocs() == before


def test_resolving_the_conflict_ends_the_refusal(refused: Refused) -> None:
    saved = refused.peer.resolvedoc("a", {"n": "all of it"})
    wait_until(lambda: refused.mirror["a"] == saved, 20, "the mirror took it")
    wait_until(lambda: [each.id for each in refused.peer.rejecteddocs()] == ["b"], 10, "one is left")
    assert refused.mirror.getconflicts("a") == []


def test_a_refused_change_goes_again_by_itself_when_others_resolved_the_record(refused: Refused) -> None:
    refused.mirror.resolvedoc("a", {"n": "ended"})
    wait_until(lambda: len(refused.mirror.getconflicts("a")) == 1, 20, "the mirror took it")
    values = {refused.mirror["a"]["n"], *(each.rec["n"] for each in refused.mirror.getconflicts("a"))}
    assert values == {"ended", "ours"}
    assert [each.id for each in refused.peer.rejecteddocs()] == ["b"]


def test_retrydoc_sends_it_once_more_and_a_new_refusal_is_told_again(refused: Refused) -> None:
    told: list[Any] = []
    refused.peer.onreject(told.append)
    wait_until(lambda: len(told) == 2, 10, "told of what there is")
    refused.peer.retrydoc("a")
    wait_until(lambda: len(told) == 3, 20, "refused again")
    assert [each.id for each in told] == ["a", "b", "a"]
    assert sorted(each.id for each in refused.peer.rejecteddocs()) == ["a", "b"]
    assert refused.peer.syncstatus().rejected == 2


def test_retrydoc_is_taken_where_there_is_room_now(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mynosql.ledger.LEAVES_MAX_PUSHED", LEAVES_MAX_PUSHED + 1)
    refused.peer.retrydoc("a")
    refused.peer.retrydoc("b")
    refused.wait_taken("a", "b")
    assert len(refused.mirror.getconflicts("a")) == LEAVES_MAX_PUSHED
    assert refused.peer.syncstatus().rejected == 0


def test_retrydoc_of_a_record_that_was_not_refused_is_no_change(refused: Refused) -> None:
    before = refused.peer.docinfo("a+")
    refused.peer.retrydoc("a+")
    assert (refused.peer.docinfo("a+").state, refused.peer.docinfo("a+").rev) == ("fresh", before.rev)
    with pytest.raises(mynosql.RecordNotFound, match="cannot retry 'none'"):
        refused.peer.retrydoc("none")


def test_a_newer_save_of_the_record_replaces_the_refused_one(refused: Refused) -> None:
    rec = refused.peer.readdoc("a")
    refused.offline()
    refused.peer.savedoc({**rec, "n": "again"})
    assert [each.id for each in refused.peer.rejecteddocs()] == ["b"]
    assert refused.peer.pendingdocs() == ["a"]


def test_a_mirror_has_nothing_that_was_refused(refused: Refused) -> None:
    refused.peer.setdbmode("Mirror")
    assert refused.peer.rejecteddocs() == []
    wait_until(lambda: len(refused.mirror.getconflicts("a")) == LEAVES_MAX_PUSHED, 20, "mirrors take all of each other")


def test_an_onreject_function_that_raises_is_reported_and_the_others_are_called(
    refused: Refused, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(rejection: mynosql.Rejection) -> None:
        raise LookupError(f"not {rejection.id}")

    threads: list[str] = []
    refused.peer.onreject(fail)
    end = refused.peer.onreject(lambda rejection: threads.append(threading.current_thread().name))
    wait_until(lambda: len(threads) == 2, 10, "both are told")
    assert threads == ["mynosql-onreject"] * 2
    assert refused.peer.syncstatus().last_error == "LookupError: not b"
    assert "onreject function raised" in caplog.text
    end()
    with pytest.raises(mynosql.OptionInvalid, match="onreject needs a function"):
        refused.peer.onreject("log")


def test_a_merge_function_ends_what_was_refused(refused: Refused) -> None:
    refused.peer.onconflict(lambda id, revisions: {"n": len(revisions)})
    refused.wait_taken("a", "b")
    assert (refused.mirror["a"]["n"], refused.mirror["b"]["n"]) == (LEAVES_MAX_PUSHED + 1,) * 2
