"""store.copying: what is copied is the state when it began, whatever is written and sealed afterwards."""

from __future__ import annotations

import pytest

from mynosql.errors import StorageFailed
from mynosql.store.store import Store
from tests.sim.memory_files import MemoryFiles
from tests.store.making import SMALL, key, open_memory, row_of, seal


def copied(store: Store, files: MemoryFiles, between: object = None) -> MemoryFiles:
    target = MemoryFiles()
    step = store.copying()
    step.begin()
    store.put([row_of("during", 1)])
    assert store.seal_job(1e12) is None, "held"
    step.copy_small(target, lambda done, total: None)
    step.go_on()
    store.put([row_of("later", 1)])
    assert seal(store)
    step.copy_shards(target, lambda done, total: None)
    step.end()
    return target


def test_the_copy_is_the_state_at_its_beginning() -> None:
    store, files, index = open_memory()
    store.put([row_of(f"sealed {n}", n) for n in range(20)])
    seal(store)
    store.put([row_of(f"open {n}", n) for n in range(20)])
    then = index.crash()
    target = copied(store, files)
    copy = Store.open(target, then, SMALL)
    assert copy.find(key("open 7")) is not None
    assert copy.find(key("during")) is None
    assert copy.records == 40
    assert store.records == 42


def test_a_store_that_is_read_only_is_not_copied() -> None:
    store, _, _ = open_memory()
    store._sealer.fail(StorageFailed("an fsync failed"))
    with pytest.raises(StorageFailed, match="no copy can be made"):
        store.copying().begin()


def test_a_copy_that_cannot_begin_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO at openat of the folder: everything waited for ever for a copy that was not being made."""
    store, files, _ = open_memory()

    def fail() -> list[str]:
        raise StorageFailed("cannot list the folder")

    monkeypatch.setattr(files, "list", fail)
    with pytest.raises(StorageFailed, match="cannot list"):
        store.copying().begin()
    assert not store.is_held


def test_a_file_that_became_shorter_is_told() -> None:
    store, files, _ = open_memory()
    store.put([row_of("a", 1)])
    step = store.copying()
    step.begin()
    (journal,) = [name for name in files.list() if name.startswith("journal")]
    files.cut(journal, 3)
    with pytest.raises(StorageFailed, match="shorter than it was"):
        step.copy_small(MemoryFiles(), lambda done, total: None)
