"""The face: what an application sees of one node that stands alone. (Bad input: test_bad_input.py.)"""

from __future__ import annotations

import copy
import datetime
import threading
import uuid
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.database import LIST_PAGE, home_folder
from tests.waiting import wait_until

UNKNOWN_REV = "4-" + "0" * 15 + "1" + "0" * 15 + "2"
"""Well formed, and no node of these tests wrote it."""
IDS: list[Any] = [
    "text", "", "ünï", 1, -1, 0, 2**70, True, 1.0, b"bytes", (1, "two"), frozenset({1, 2}),
    Decimal("1.10"), uuid.UUID(int=7), datetime.date(2024, 2, 29), datetime.timedelta(seconds=3),
]


def generation(rec: dict[Any, Any]) -> int:
    return int(rec["rev"].split("-")[0])


def feed_point(db: Any) -> str:
    """Moves with every change of this node, and with nothing else."""
    feed = db.changes()
    list(feed)
    return str(feed.token)


# The mapping protocol


def test_the_mapping_protocol_speaks_of_live_records(db: Any) -> None:
    db["b"] = {"n": 2}
    db["a"] = {"n": 1}
    db["c"] = {"n": 3}
    del db["b"]
    assert len(db) == 2
    assert "a" in db
    assert "b" not in db
    assert "never" not in db
    assert list(db) == ["a", "c"]
    assert db["a"]["n"] == 1


def test_an_open_database_without_records_is_still_true(db: Any) -> None:
    assert len(db) == 0
    assert db


def test_setitem_overwrites_what_is_there_and_mutates_nothing(db: Any) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    given = {"n": 2}
    db["a"] = given
    assert given == {"n": 2}
    assert (db["a"]["n"], generation(db["a"])) == (2, generation(first) + 1)


def test_setitem_over_a_tombstone_makes_the_record_live_again(db: Any) -> None:
    db["a"] = {"n": 1}
    del db["a"]
    db["a"] = {"n": 2}
    assert db["a"]["n"] == 2


def test_setitem_takes_the_key_for_the_id_whatever_the_record_says(db: Any) -> None:
    db["a"] = {"id": "other", "n": 1}
    assert list(db) == ["a"]


def test_getitem_and_delitem_of_what_is_not_there_are_key_errors(db: Any) -> None:
    db["gone"] = {"n": 1}
    del db["gone"]
    for id in ("gone", "never"):
        with pytest.raises(KeyError):
            db[id]
        with pytest.raises(KeyError):
            del db[id]


def test_iteration_reads_page_by_page_and_stays_in_id_order(db: Any) -> None:
    ids = [f"{number:05}" for number in range(2 * LIST_PAGE + 3)]
    db.savedocs({"id": id} for id in reversed(ids))
    assert list(db) == ids
    for limit in (LIST_PAGE - 1, LIST_PAGE, LIST_PAGE + 1, 2 * LIST_PAGE):
        assert db.listdocs(limit=limit) == ids[:limit]


# savedoc: the table of the design


def test_save_over_the_current_rev_makes_a_child(db: Any) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    second = db.savedoc({**first, "n": 2})
    assert (generation(first), generation(second)) == (1, 2)
    assert db.readdoc("a") == second
    assert db.getconflicts("a") == []


@pytest.mark.parametrize("with_rev", [True, False], ids=["rev given", "no rev"])
def test_an_identical_body_is_no_change_and_gives_the_same_rev(db: Any, with_rev: bool) -> None:
    first = db.savedoc({"id": "a", "n": [1, {"k": "v"}]})
    before = feed_point(db)
    again = db.savedoc(first if with_rev else {"id": "a", "n": [1, {"k": "v"}]})
    assert again == first
    assert feed_point(db) == before


def test_the_order_of_fields_is_content(db: Any) -> None:
    first = db.savedoc({"id": "a", "x": 1, "y": 2})
    second = db.savedoc({"id": "a", "rev": first["rev"], "y": 2, "x": 1})
    assert generation(second) == 2


@pytest.mark.parametrize("rev", [None, "nonsense", ""])
def test_an_unknown_id_without_a_usable_rev_is_a_new_record(db: Any, rev: str | None) -> None:
    assert generation(db.savedoc({"id": "a", "rev": rev, "n": 1})) == 1


def test_an_unknown_id_with_a_well_formed_rev_goes_on_one_generation_later(db: Any) -> None:
    assert generation(db.savedoc({"id": "a", "rev": UNKNOWN_REV, "n": 1})) == 5


def test_a_known_id_without_rev_and_with_another_body_is_a_conflict(db: Any) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    before = feed_point(db)
    with pytest.raises(mynosql.RevisionConflict) as refused:
        db.savedoc({"id": "a", "n": 2})
    assert (refused.value.id, refused.value.given, refused.value.latest) == ("a", None, first["rev"])
    assert db["a"] == first
    assert feed_point(db) == before


def test_without_rev_over_a_tombstone_makes_its_child(db: Any) -> None:
    db.savedoc({"id": "a", "n": 1})
    db.deletedoc("a")
    assert generation(db.savedoc({"id": "a", "n": 1})) == 3


@pytest.mark.parametrize("is_known", [True, False], ids=["older", "never seen"])
def test_a_rev_that_is_not_the_newest_is_a_conflict(db: Any, is_known: bool) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    second = db.savedoc({**first, "n": 2})
    given = first["rev"] if is_known else UNKNOWN_REV
    with pytest.raises(mynosql.RevisionConflict) as refused:
        db.savedoc({"id": "a", "rev": given, "n": 3})
    assert (refused.value.given, refused.value.latest) == (given, second["rev"])
    assert db["a"] == second


def branched(db: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record in conflict: (what readdoc gives, the loser)."""
    first = db.savedoc({"id": "a", "n": 1})
    second = db.savedoc({**first, "n": 2})
    beside = db.savedoc({**first, "n": 3}, branch=True)
    winner = db.readdoc("a")
    return (beside, second) if winner == beside else (second, beside)


def test_branch_keeps_both_and_resolvedoc_ends_it(db: Any) -> None:
    winner, loser = branched(db)
    assert [conflict.rec for conflict in db.getconflicts("a")] == [loser]
    assert db.docinfo("a").conflicts == db.syncstatus().conflicts == 1
    resolved = db.resolvedoc("a", {"n": 4})
    assert generation(resolved) == generation(winner) + 1
    assert db.readdoc("a") == resolved
    assert db.getconflicts("a") == []
    assert db.syncstatus().conflicts == 0


def test_a_losers_rev_is_a_conflict(db: Any) -> None:
    _, loser = branched(db)
    with pytest.raises(mynosql.RevisionConflict):
        db.savedoc({**loser, "n": 9})


def test_conflicts_and_resolving_of_an_absent_id_are_record_not_found(db: Any) -> None:
    with pytest.raises(mynosql.RecordNotFound):
        db.getconflicts("never")
    with pytest.raises(mynosql.RecordNotFound):
        db.resolvedoc("never", {"n": 1})


def test_a_changed_id_is_a_new_record(db: Any) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    db.savedoc({**first, "id": "b"})
    assert list(db) == ["a", "b"]
    assert db["a"] == first


def test_the_argument_is_never_changed_and_the_result_is_the_callers_own(db: Any) -> None:
    given = {"id": "a", "list": [1, [2, {"deep": [3]}]], "set": {1}, "bytes": bytearray(b"x")}
    before = copy.deepcopy(given)
    saved = db.savedoc(given)
    assert given == before
    saved["list"][1][1]["deep"].append("mine")
    saved["set"].add(2)
    assert given == before
    for _ in range(3):  # a record read again comes from a cache
        read = db.readdoc("a")
        assert {key: read[key] for key in before} == before
        read["list"].append("mine")
        read["bytes"].extend(b"mine")


def test_a_batch_leaves_its_records_alone_and_returns_its_own(db: Any) -> None:
    given = [{"id": "a", "list": [1]}, {"id": "b", "list": [2]}, {"n": 3}]
    before = copy.deepcopy(given)
    saved = db.savedocs(given)
    saved[0]["list"].append("mine")
    assert given == before
    assert [rec.get("list") for rec in (db["a"], db["b"])] == [[1], [2]]
    assert db[saved[2]["id"]] == saved[2]


def test_an_id_twice_in_a_batch_follows_itself(db: Any) -> None:
    first, again = db.savedocs([{"id": "a", "n": 1}, {"id": "a", "n": 1}])
    assert first == again
    with pytest.raises(mynosql.RevisionConflict) as refused:
        db.savedocs([{"id": "b", "n": 1}, {"id": "b", "n": 2}])
    assert refused.value.position == 1
    assert list(db) == ["a"]


# Ids


def test_ids_of_many_types_are_records_of_their_own_and_come_back_as_they_were(db: Any) -> None:
    saved = {repr(id): db.savedoc({"id": id, "is": repr(id)}) for id in IDS}
    for id in IDS:
        read = db.readdoc(id)
        assert read == saved[repr(id)]
        assert type(read["id"]) is type(id)
    assert sorted(map(repr, db)) == sorted(saved)


def test_generated_ids_are_unique_and_sort_by_time(db: Any) -> None:
    ids = [db.savedoc({"n": number})["id"] for number in range(200)]
    assert ids == sorted(set(ids))
    assert list(db) == ids


# Listing and reading many


def test_listdocs_takes_prefix_after_and_limit_together(db: Any) -> None:
    db.savedocs({"id": id} for id in ("b/2", "a/1", "b/1", "b/3", "c", 5, b"b/"))
    db.deletedoc("b/2")
    assert db.listdocs(prefix="b/") == ["b/1", "b/3"]
    assert db.listdocs(prefix="b/", after="b/1") == ["b/3"]
    assert db.listdocs(prefix="b/", after="b/3") == []
    assert db.listdocs(prefix="b/", after="a") == ["b/1", "b/3"]
    assert db.listdocs(prefix="b/", limit=1) == ["b/1"]
    assert db.listdocs(limit=0) == []
    assert db.listdocs(prefix="zz") == []


def test_pages_of_listdocs_cover_ids_of_every_type_once_in_one_order(db: Any) -> None:
    db.savedocs({"id": id} for id in IDS)
    everything = db.listdocs()
    paged: list[Any] = []
    while page := db.listdocs(after=paged[-1] if paged else None, limit=3):
        assert len(page) <= 3
        paged += page
    assert [*map(repr, paged)] == [*map(repr, everything)] == [*map(repr, db)]
    numbers = [id for id in everything if type(id) is int and abs(id) < 2**60]
    assert numbers == [-1, 0, 1]


def test_a_negative_limit_is_refused(db: Any) -> None:
    with pytest.raises(mynosql.OptionInvalid):
        db.listdocs(limit=-1)


def test_readdocs_keeps_the_order_and_repeats_what_is_asked_twice(db: Any) -> None:
    a, b = db.savedocs([{"id": "a"}, {"id": "b"}])
    assert db.readdocs(["b", "a", "b"]) == [b, a, b]
    assert db.readdocs([]) == []
    with pytest.raises(mynosql.RecordNotFound):
        db.readdocs(["a", "never"])


# docinfo and deletedoc


@pytest.mark.parametrize(("mode", "state"), [("peer", "pending"), ("mirror", "fresh")])
def test_docinfo_of_a_node_that_stands_alone(make_db: Callable[..., Any], mode: str, state: str) -> None:
    db = make_db(mode=mode, **({"listen": "127.0.0.1:0"} if mode == "mirror" else {}))
    saved = db.savedoc({"id": "a", "n": 1})
    info = db.docinfo("a")
    assert (info.id, info.state, info.rev, info.held_rev, info.conflicts) == ("a", state, saved["rev"], saved["rev"], 0)
    assert info.size > 0
    assert db.docinfo("never").state == "absent"
    assert db.docinfo("never").rev is None
    assert db.pendingdocs() == (["a"] if mode == "peer" else [])
    assert db.syncstatus().pending == len(db.pendingdocs())


def test_docinfo_of_a_deleted_record_names_its_tombstone(make_db: Callable[..., Any]) -> None:
    db = make_db(mode="mirror", listen="127.0.0.1:0")
    db.savedoc({"id": "a", "n": 1})
    db.deletedoc("a")
    info = db.docinfo("a")
    assert (info.state, info.rev[:2], info.held_rev, info.size) == ("deleted", "2-", None, 0)


def test_deletedoc_takes_an_id_or_a_record_and_twice_is_no_change(db: Any) -> None:
    db.savedoc({"id": "a", "n": 1})
    saved = db.savedoc({"id": "b", "n": 1})
    db.deletedoc("a")
    db.deletedoc(saved)
    before = feed_point(db)
    db.deletedoc("a")
    assert feed_point(db) == before
    assert len(db) == 0


def test_deletedoc_of_an_older_record_is_a_conflict_and_of_an_absent_id_not_found(db: Any) -> None:
    first = db.savedoc({"id": "a", "n": 1})
    db.savedoc({**first, "n": 2})
    with pytest.raises(mynosql.RevisionConflict):
        db.deletedoc(first)
    with pytest.raises(mynosql.RecordNotFound):
        db.deletedoc("never")
    assert db["a"]["n"] == 2


def test_deletedoc_covers_every_leaf(db: Any) -> None:
    branched(db)
    db.deletedoc("a")
    assert "a" not in db
    assert db.getconflicts("a") == []


# A record that is read again is kept whole: it must never be stale


def read_often(db: Any, id: Any = "a") -> dict[Any, Any]:
    """Often enough that the record is kept as its readers want it."""
    records = [db.readdoc(id) for _ in range(4)]
    assert all(rec == records[0] for rec in records)
    return dict(records[0])


def test_a_record_read_often_is_the_newest_after_every_kind_of_change(db: Any) -> None:
    saved = db.savedoc({"id": "a", "n": 1})
    assert read_often(db) == saved
    assert db._open.store.wholes.find("a") is not None, "the kept copy is what this test is about"
    saved = db.savedoc({**saved, "n": 2})
    assert read_often(db) == saved
    (saved,) = db.savedocs([{**saved, "n": 3}])
    assert read_often(db) == saved
    db.savedoc({"id": "a", "rev": saved["rev"], "n": 4})
    db.savedoc({**saved, "n": 5}, branch=True)
    winner = read_often(db)
    assert db.docinfo("a").rev == winner["rev"]
    resolved = db.resolvedoc("a", {"n": 6})
    assert read_often(db) == resolved
    db.deletedoc("a")
    with pytest.raises(mynosql.RecordNotFound):
        db.readdoc("a")
    reborn = db.savedoc({"id": "a", "n": 7})
    assert read_often(db) == reborn


def test_a_save_by_another_thread_is_seen_by_the_next_read_of_this_one(db: Any) -> None:
    saved = db.savedoc({"id": "a", "n": 0})
    for number in range(1, 50):
        read_often(db)
        thread = threading.Thread(target=lambda rec={**saved, "n": number}: db.savedoc(rec))
        thread.start()
        thread.join()
        saved = read_often(db)
        assert saved["n"] == number


def test_threads_that_save_and_read_at_once_see_only_what_was_saved_and_lose_nothing(db: Any) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(4)
    rounds = 150

    def writer(name: str) -> None:
        rec = db.savedoc({"id": name, "n": 0})
        start.wait()
        for number in range(1, rounds):
            rec = db.savedoc({**rec, "n": number})
            assert db.readdoc(name) == rec  # its own write, at once
            db.savedoc({"id": f"{name}/{number:03}", "n": number})

    def reader() -> None:
        start.wait()
        newest = {"x": 0, "y": 0}
        while min(newest.values()) < rounds - 1 and not errors:
            for name, least in newest.items():
                rec = db.readdoc(name)
                assert generation(rec) == rec["n"] + 1
                assert rec["n"] >= least
                newest[name] = rec["n"]
            list(db.listdocs(prefix="x/", limit=20))

    def guarded(run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            errors.append(error)
            start.abort()

    db.savedocs([{"id": "x", "n": 0}, {"id": "y", "n": 0}])
    runs: list[Callable[[], None]] = [partial(writer, "x"), partial(writer, "y"), reader, reader]
    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(db) == 2 + 2 * (rounds - 1)


# Opening, sealing, durability


def test_reopening_keeps_records_conflicts_mode_and_peers(make_db: Callable[..., Any], tmp_path: Path) -> None:
    db = make_db("Kept", location=tmp_path / "kept", peers=["http://127.0.0.1:1"])
    db.setdbmode("MIRROR")
    winner, loser = branched(db)
    db.savedoc({"id": "b", "n": 1})
    db.deletedoc("b")
    db.addpeer("tcp://127.0.0.1:2")
    point, node = feed_point(db), db.syncstatus().node
    db.closedb()
    again = make_db("Kept", location=tmp_path / "kept", listen="127.0.0.1:0")
    assert again.getdbmode() == "Mirror"
    assert again.listpeers() == ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert again["a"] == winner
    assert [conflict.rec for conflict in again.getconflicts("a")] == [loser]
    assert again.docinfo("b").state in ("deleted", "pending")
    assert "b" not in again
    assert (feed_point(again), again.syncstatus().node) == (point, node)
    again.delpeer("http://127.0.0.1:1")
    again.delpeer("http://127.0.0.1:9")
    assert again.listpeers() == ["http://127.0.0.1:2"]


def test_small_memtables_are_sealed_behind_the_saves_and_read_like_any_other(make_db: Callable[..., Any]) -> None:
    db = make_db(memtable_bytes_max=1 << 16)
    saved = {id: db.savedoc({"id": id, "text": id * 200}) for id in (f"{number:04}" for number in range(600))}
    wait_until(lambda: db.checkdb().blocks > 0, 20, "a block was sealed")
    assert {id: db[id] for id in db} == saved


def test_each_save_is_fsynced_on_return_under_durability_each(make_db: Callable[..., Any]) -> None:
    db = make_db(durability="each", fsync_interval_s=3600)
    store = db._open.store
    saved = db.savedoc({"id": "a", "n": 1})
    assert store.durable == store.written
    for change in (
        lambda: db.savedocs([{"id": "b"}]), lambda: db.resolvedoc("b", {"n": 2}), lambda: db.deletedoc(saved)
    ):
        change()
        assert store.durable == store.written


def test_location_is_what_was_given_or_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYNOSQL_HOME", str(tmp_path / "home"))
    assert home_folder() == str(tmp_path / "home")
    db = mynosql.MyNoSQL()
    assert db.location is None
    with db.opendb("One"):
        assert (tmp_path / "home" / "One").is_dir()
        with pytest.raises(mynosql.OptionInvalid):
            db.setdblocation(tmp_path)
        with pytest.raises(mynosql.OptionInvalid):
            db.opendb("Two")
    db.setdblocation(tmp_path / "given")
    with db.opendb("One"):
        assert db.location == str(tmp_path / "given")
        assert len(db) == 0


# waitsync


def test_a_mirror_alone_has_nobody_to_wait_for(make_db: Callable[..., Any]) -> None:
    db = make_db(mode="mirror", listen="127.0.0.1:0")
    db.savedoc({"id": "a"})
    assert db.waitsync() is True


def test_without_any_mirror_known_waiting_for_ever_is_refused_and_a_timeout_is_false(db: Any) -> None:
    db.savedoc({"id": "a"})
    with pytest.raises(mynosql.OptionInvalid, match="addpeer"):
        db.waitsync()
    assert db.waitsync(timeout=0.01) is False
    with pytest.raises(mynosql.OptionInvalid):
        db.waitsync(level="moon")


def test_waitsync_of_a_peer_whose_mirror_does_not_answer_is_false(make_db: Callable[..., Any]) -> None:
    db = make_db(peers=["http://127.0.0.1:1"])
    db.savedoc({"id": "a"})
    assert db.waitsync(timeout=0.05) is False
    assert db.pendingdocs() == ["a"]


def test_waitsync_is_true_once_the_mirror_has_it(make_db: Callable[..., Any]) -> None:
    mirror = make_db(mode="mirror", listen="127.0.0.1:0")
    peer = make_db(peers=mirror.endpoint)
    saved = peer.savedoc({"id": "a", "n": 1})
    assert peer.waitsync(20) is True
    assert mirror["a"] == saved
    assert peer.pendingdocs() == []
    assert peer.docinfo("a").state == "fresh"


# Space


def shard_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("shard-*"))


def test_compactdb_gives_back_what_replaced_revisions_took(tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path, memtable_bytes_max=1 << 16) as db:
        for turn in range(30):
            for number in range(100):
                db[f"id-{number}"] = {"turn": turn, "number": number, "text": f"{turn * number} " * 20}
        told: list[tuple[int, int]] = []
        db.compactdb(lambda done, total: told.append((done, total)))
        after = shard_bytes(tmp_path)

        assert told[-1][0] == told[-1][1]
        assert all(db[f"id-{number}"]["turn"] == 29 for number in range(100))
        assert db.checkdb().ok
        db["one more"] = {}
        db.compactdb()
    with mynosql.opendb("Once", location=tmp_path / "once") as once:
        for number in range(100):
            once[f"id-{number}"] = {"turn": 29, "number": number, "text": f"{29 * number} " * 20}
    assert after <= 1.5 * shard_bytes(tmp_path / "once")


def test_compactdb_while_others_save_ends(tmp_path: Path) -> None:
    with mynosql.opendb("Test", location=tmp_path, memtable_bytes_max=1 << 16) as db:
        is_over = threading.Event()

        def save() -> None:
            turn = 0
            while not is_over.is_set():
                turn += 1
                db[f"id-{turn % 50}"] = {"turn": turn}

        writer = threading.Thread(target=save)
        writer.start()
        try:
            for _ in range(3):
                db.compactdb()
        finally:
            is_over.set()
            writer.join()
        assert db.checkdb().ok
        assert len(db) == 50
