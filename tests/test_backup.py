"""backupdb: a copy that is whole, made beside writers; a node of its own; nothing half-done when it fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql import OptionInvalid, StorageFailed, StorageFull
from mynosql.store import copying
from tests.mesh import SETTLE_DEADLINE_S, wait_equal
from tests.waiting import wait_until

ROUND = 12_000
"""Saves during one copy."""


def content(db: Any) -> dict[Any, Any]:
    return {id: db.readdoc(id) for id in db}


def test_a_copy_holds_everything_sealed_or_not_and_is_sound(make_db: Callable[..., Any], tmp_path: Path) -> None:
    db = make_db()
    db.savedocs([{"id": f"old/{number}", "text": "x" * 100} for number in range(500)])
    db.compactdb()
    db.deletedoc("old/7")
    db.savedocs([{"id": f"new/{number}", "large": os.urandom(200_000)} for number in range(3)])
    told: list[tuple[int, int]] = []

    folder = db.backupdb(tmp_path / "backups" / "monday", progress=lambda done, total: told.append((done, total)))

    assert folder == str(tmp_path / "backups" / "monday" / "Test")
    assert told[-1][0] == told[-1][1] > 600_000
    assert told == sorted(told)
    with mynosql.opendb("Test", location=tmp_path / "backups" / "monday") as copy:
        assert copy.checkdb().ok
        assert content(copy) == content(db)
        assert "old/7" not in copy
        assert copy.docinfo("old/7").rev == db.docinfo("old/7").rev


def test_a_copy_has_no_identity_and_joins_the_mesh_as_a_node_of_its_own(
    make_db: Callable[..., Any], tmp_path: Path
) -> None:
    mirror = make_db(mode="mirror", listen="127.0.0.1:0")
    mirror.savedoc({"id": "a", "n": 1})
    mirror.backupdb(tmp_path / "copy")
    assert not {"identity", "lock", "keys"} & set(os.listdir(tmp_path / "copy" / "Test"))
    copy = make_db(location=tmp_path / "copy", peers=[mirror.endpoint])
    assert copy.syncstatus().node != mirror.syncstatus().node
    mirror.savedoc({"id": "b", "n": 2})
    copy.savedoc({"id": "c", "n": 3})
    wait_until(lambda: "b" in copy and "c" in mirror, SETTLE_DEADLINE_S)
    wait_equal(mirror, copy)
    assert copy.getconflicts("a") == []


@pytest.mark.slow
def test_beside_writers_it_holds_all_that_was_saved_before_and_of_each_writer_a_beginning(
    make_db: Callable[..., Any], tmp_path: Path
) -> None:
    db = make_db()
    saved = [0] * 4
    allowed = threading.Semaphore(0)

    def write(writer: int) -> None:
        while allowed.acquire() and saved[writer] >= 0:
            db.savedoc({"id": f"{writer}/{saved[writer]:06}", "text": "x" * 1000})
            saved[writer] += 1

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(len(saved))]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            allowed.release(ROUND)
            wait_until(lambda number=number: sum(saved) > ROUND * number + ROUND // 4, 60.0)  # type: ignore[misc]
            before = list(saved)
            db.backupdb(tmp_path / f"copy {number}")
            after = [count + 1 for count in saved]
            with mynosql.opendb("Test", location=tmp_path / f"copy {number}") as copy:
                assert copy.checkdb().ok
                for writer in range(len(saved)):
                    ids = copy.listdocs(f"{writer}/")
                    assert before[writer] <= len(ids) <= after[writer]
                    assert ids == [f"{writer}/{count:06}" for count in range(len(ids))]
    finally:
        wait_until(lambda: sum(saved) == 3 * ROUND, 60.0)
        saved[:] = [-1] * len(saved)
        allowed.release(len(saved))
        for thread in threads:
            thread.join()


def test_sealing_and_rewriting_wait_and_go_on(
    make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = make_db()
    for value in range(3):
        for number in range(50):
            db[f"r/{number}"] = {"value": value}
    held: list[str] = []
    chunks = copying.Copying._chunks

    def look(self: copying.Copying, name: str) -> Any:
        store = db._node().store
        with db._node().lock:
            held.append(store._sealer.hold.name)
            assert store._sealer.hold.name != "ALL" or store.seal_job(time.monotonic()) is None
        return chunks(self, name)

    monkeypatch.setattr(copying.Copying, "_chunks", look)
    db.backupdb(tmp_path / "one")
    db.compactdb()
    db.backupdb(tmp_path / "other")
    assert set(held) == {"ALL", "REWRITING"}
    assert not db._node().store.is_held
    db.compactdb()


def test_a_place_that_is_taken_is_left_alone(make_db: Callable[..., Any], tmp_path: Path) -> None:
    db = make_db()
    db["a"] = {}
    (tmp_path / "taken" / "Test").mkdir(parents=True)
    db.backupdb(tmp_path / "taken")
    with pytest.raises(OptionInvalid, match="exists already"):
        db.backupdb(tmp_path / "taken")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed):
        db.backupdb(tmp_path / "file")


@pytest.mark.parametrize("error", [StorageFull("no space left"), StorageFailed("broken")])
def test_nothing_is_left_of_a_copy_that_failed_and_everything_goes_on(
    make_db: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    db = make_db()
    db["a"] = {"n": 1}
    with monkeypatch.context() as patch:
        patch.setattr(copying.Copying, "_chunks", lambda self, name: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            db.backupdb(tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == []
    db.compactdb()
    db.backupdb(tmp_path / "copy")


def test_what_a_killed_attempt_left_is_swept_away(make_db: Callable[..., Any], tmp_path: Path) -> None:
    db = make_db()
    db["a"] = {"n": 1}
    (tmp_path / "copy" / "Test.part").mkdir(parents=True)
    (tmp_path / "copy" / "Test.part" / "index").write_text("rubbish")
    db.backupdb(tmp_path / "copy")
    assert os.listdir(tmp_path / "copy") == ["Test"]
    with mynosql.opendb("Test", location=tmp_path / "copy") as copy:
        assert copy["a"]["n"] == 1
