"""store.searching: sound blocks are found, behind damage too, and each stretch of damage is told once."""

from __future__ import annotations

from mynosql.errors import StorageCorrupt
from mynosql.store.searching import find_blocks
from tests.sim.memory_files import MemoryFiles
from tests.store.making import open_memory, row_of, seal

COUNT = 4


def four_blocks() -> tuple[MemoryFiles, str]:
    store, files, _ = open_memory()
    for number in range(COUNT):
        store.put([row_of(f"{number}/{n}", n) for n in range(10)])
        seal(store)
    (name,) = [name for name in files.list() if name.startswith("shard")]
    return files, name


def test_all_blocks_are_found_in_order() -> None:
    files, _ = four_blocks()
    found = [each for each in find_blocks(files, 0) if not isinstance(each, StorageCorrupt)]
    assert [head.rows.id_key(0)[1:2] for _, head in found] == [b"0", b"1", b"2", b"3"]
    assert [ref.number for ref, _ in found] == list(range(COUNT))


def test_a_damaged_block_is_stepped_over_and_told_once() -> None:
    files, name = four_blocks()
    second = [each for each in find_blocks(files, 0) if not isinstance(each, StorageCorrupt)][1][0]
    files.damage(name, second.offset + 30, b"rubbish")
    found = list(find_blocks(files, 0))
    assert [isinstance(each, StorageCorrupt) for each in found] == [False, True, False, False]
    assert isinstance(found[1], StorageCorrupt)
    assert found[1].offset == second.offset


def test_rubbish_at_the_end_is_told() -> None:
    files, name = four_blocks()
    size = files.size(name)
    files.open_append(name).write(b"BLK" * 100)
    found = list(find_blocks(files, 0))
    assert len(found) == COUNT + 1
    assert isinstance(found[-1], StorageCorrupt)
    assert found[-1].offset == size
