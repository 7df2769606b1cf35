"""A folder whose index is damaged, lost or old is opened all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.store import rebuild
from mynosql.store.files import DiskFiles
from mynosql.store.opening import open_store
from mynosql.store.store import Store
from tests.store.making import SMALL, body_of, key, row_of, seal, tombstone


def opened(folder: Path) -> Store:
    return open_store(DiskFiles(str(folder)), SMALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store of three segments, with notes."""
    store = opened(tmp_path)
    for turn in range(3):
        store.put([row_of(f"{turn}-{n:03d}", n, owed=n % 2 == 0) for n in range(200)])
        store.put([row_of("each", turn), tombstone("0-001")], notes={"addresses": b"a", "cursor/x": b"%d" % turn})
        seal(store)
    store.put([], notes={"delivered": b"100"})
    store.close()
    return tmp_path


def assert_whole(store: Store) -> None:
    assert store.records == 600
    assert store.head_seq == 606
    for turn in range(3):
        for n in range(200):
            body = None if (turn, n) == (0, 1) else body_of(n)
            assert store.read_body(key(f"{turn}-{n:03d}"), 0) == body
    assert store.read_body(key("each"), 0) == body_of(2)
    assert store.check().problems == ()


def test_a_sound_folder_is_simply_opened(folder: Path) -> None:
    store = opened(folder)
    assert store.problems == ()
    assert (store.note("cursor/x"), store.counters.pending) == (b"2", 250)
    assert_whole(store)
    store.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "no index at all", "pages", "cut"])
def test_a_lost_or_damaged_index_is_made_anew_and_says_so(folder: Path, damage: str) -> None:
    index = folder / "index"
    data = bytearray(index.read_bytes())
    if damage == "missing":
        index.unlink()
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "no index at all":
        index.write_bytes(b"something else" * 1000)
    elif damage == "pages":
        for at in range(4096, len(data), 512):
            data[at] ^= 0xFF
        index.write_bytes(data)
    else:
        index.write_bytes(data[: len(data) // 2])
    store = opened(folder)
    assert [problem.file for problem in store.problems] == [str(index)]
    assert_whole(store)
    assert store.note("cursor/x") == b"", "what others have is asked for once more"
    assert store.counters.pending == 300, "what we owe is sent once more"
    store.put_one(row_of("new", 1))
    store.close()
    store = opened(folder)
    assert (store.problems, store.records) == ((), 601)
    store.close()


def test_an_old_copy_of_the_index_loses_nothing_either_and_keeps_its_notes(folder: Path) -> None:
    old = (folder / "index").read_bytes()
    store = opened(folder)
    store.put_one(row_of("later", 1))
    store.close()
    (folder / "index").write_bytes(old)
    store = opened(folder)
    assert (store.records, store.note("addresses"), store.note("cursor/x")) == (601, b"a", b"")
    assert store.check().ok
    store.close()


def test_a_rebuilding_that_was_interrupted_begins_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "index").unlink()

    def stop(self: object, node: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rebuild.Rebuilder, "_count", stop)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    store = opened(folder)
    assert_whole(store)
    store.close()


def test_an_index_of_a_newer_version_is_left_alone(folder: Path) -> None:
    data = bytearray((folder / "index").read_bytes())
    data[60:64] = (99).to_bytes(4, "big")
    (folder / "index").write_bytes(data)
    with pytest.raises(FormatUnknown):
        opened(folder)
    assert (folder / "index").read_bytes() == data


def test_damage_without_any_shard_is_raised(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"something else" * 1000)
    with pytest.raises(StorageCorrupt):
        opened(tmp_path)
