"""One open database as a whole: what opening undoes when it fails, and the order in which closing ends its parts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import mynosql
from mynosql.errors import DatabaseLocked, ListenFailed
from mynosql.opened import OpenDatabase
from mynosql.options import OpenOptions


def opened(folder: Path, **options: Any) -> OpenDatabase:
    return OpenDatabase(str(folder), OpenOptions(name="Test", **options), answer=lambda request: request)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mynosql")}


def test_an_opening_that_fails_leaves_no_thread_and_no_lock(tmp_path: Path) -> None:
    node = opened(tmp_path / "one", mode="mirror", listen="127.0.0.1:0")
    taken = str(node.endpoint)
    before = threads()
    with pytest.raises(ListenFailed):
        opened(tmp_path / "two", mode="mirror", listen=taken)
    assert threads() <= before
    opened(tmp_path / "two").close()
    node.close()


def test_a_folder_is_free_after_close_and_only_then(tmp_path: Path) -> None:
    before = threads()
    node = opened(tmp_path / "db")
    assert threads() > before
    with pytest.raises(DatabaseLocked):
        opened(tmp_path / "db")
    node.close()
    node.close()
    opened(tmp_path / "db").close()
    assert threads() <= before


def test_a_folder_that_lost_its_identity_names_its_history_anew(tmp_path: Path) -> None:
    """A restored backup has none: under the old index id its next changes would pass for those that it lost."""
    folder = tmp_path / "db"
    node = opened(folder)
    before = node.index_id
    node.close()
    (folder / "identity").unlink()
    node = opened(folder)
    assert node.index_id != before
    kept = node.index_id
    node.close()
    node = opened(folder)
    assert node.index_id == kept
    node.close()


def test_closing_ends_the_newest_part_first_and_goes_on_past_a_failure(tmp_path: Path) -> None:
    node = opened(tmp_path / "db")
    ended: list[str] = []

    def fails() -> None:
        ended.append("second")
        raise mynosql.StorageFailed("odd")

    node.on_close(lambda: ended.append("first"))
    node.on_close(fails)
    with pytest.raises(mynosql.StorageFailed, match="odd"):
        node.close()
    assert ended == ["second", "first"]
    opened(tmp_path / "db").close()


def test_closing_seals_everything_and_leaves_no_journal(db: Any) -> None:
    db.savedocs({"id": number} for number in range(10))
    folder = Path(db._open.folder)
    db.closedb()
    journals = [path for path in folder.iterdir() if path.name.startswith("journal") and path.stat().st_size]
    assert journals == []
    assert list(folder.glob("shard-*"))


def test_waiting_for_a_change_is_over_with_the_change_the_time_or_the_closing(db: Any) -> None:
    node = db._open
    head = node.store.head_seq
    assert node.wait_change(head, 0.0, lambda: False) is False
    assert node.wait_change(head, None, lambda: True) is True
    db.savedoc({"id": "a"})
    assert node.wait_change(head, None, lambda: False) is True
    db.closedb()
    assert node.wait_change(head, None, lambda: False) is False
