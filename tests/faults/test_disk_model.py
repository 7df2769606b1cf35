"""The model of a disk: what a cut may leave of writes, truncations and names."""

from __future__ import annotations

import pytest

from tests.faults.disk_model import DROPPED, KEPT, SIZED, Disk, Fate, File, Folder, Link


def with_file() -> tuple[Disk, int]:
    """A disk with the durable file "a" that holds b"old"."""
    disk = Disk()
    node = disk.add(0, 0, "a", File())
    disk.write(1, node, 0, b"old")
    disk.sync(node, 2)
    disk.sync(0, 2)
    return disk, node


@pytest.mark.parametrize(
    ("fates", "expected"),
    [
        ((KEPT, KEPT), b"NEW+tail"), ((DROPPED, DROPPED), b"old"), ((KEPT, DROPPED), b"NEW"),
        ((DROPPED, KEPT), b"old+tail"), ((1, KEPT), b"Nld+tail"), ((KEPT, 2), b"NEW+t"),
        ((SIZED, SIZED), b"old" + bytes(5)), ((2, SIZED), b"NEd" + bytes(5)),
    ],
)
def test_a_write_arrives_wholly_in_part_by_size_alone_or_not_at_all(fates: tuple[Fate, ...], expected: bytes) -> None:
    disk, node = with_file()
    disk.write(3, node, 0, b"NEW")
    disk.write(4, node, 3, b"+tail")
    assert disk.file(node).content(fates) == expected


def test_a_write_behind_one_that_is_lost_leaves_a_hole_of_zeros() -> None:
    disk, node = with_file()
    disk.write(3, node, 3, b"lost")
    disk.write(4, node, 7, b"!")
    assert disk.file(node).content((DROPPED, KEPT)) == b"old" + bytes(4) + b"!"


def test_a_truncation_may_be_lost_as_well() -> None:
    disk, node = with_file()
    disk.truncate(3, node, 1)
    disk.truncate(4, node, 2)
    assert disk.file(node).size == 2
    assert [disk.file(node).content(fates) for fates in [(KEPT, KEPT), (DROPPED, KEPT), (DROPPED, DROPPED)]] == [
        b"o\0", b"ol", b"old"
    ]


def test_an_fsync_covers_what_was_done_before_it_began() -> None:
    disk, node = with_file()
    disk.write(3, node, 3, b"1")
    disk.write(4, node, 4, b"2")
    disk.sync(node, 4)
    file = disk.file(node)
    assert (file.durable, len(file.pending)) == (b"old1", 1)
    assert file.content((KEPT,)) == b"old12"


def test_an_fsync_of_a_file_does_not_keep_its_name() -> None:
    disk = Disk()
    node = disk.add(0, 0, "a", File())
    disk.sync(node, 1)
    assert list(disk.paths({0: (DROPPED,)})) == []
    disk.sync(0, 1)
    assert list(disk.paths({})) == [("a", node)]


def test_a_rename_replaces_the_old_file_or_nothing() -> None:
    disk, old = with_file()
    new = disk.add(3, 0, "a.tmp", File())
    disk.rename(4, 0, "a.tmp", "a")
    assert dict(disk.paths({0: (KEPT, KEPT)})) == {"a": new}
    assert dict(disk.paths({0: (KEPT, DROPPED)})) == {"a": old, "a.tmp": new}
    assert dict(disk.paths({0: (DROPPED, DROPPED)})) == {"a": old}
    assert isinstance(disk.folder(0).pending[1], Link)


def test_a_name_that_was_removed_may_come_back() -> None:
    disk, node = with_file()
    disk.unlink(3, 0, "a")
    assert disk.find(("a",)) is None
    assert list(disk.paths({0: (DROPPED,)})) == [("a", node)]
    assert list(disk.paths({0: (KEPT,)})) == []


def test_folders_hold_files_and_go_with_their_names() -> None:
    disk = Disk()
    folder = disk.add(0, 0, "db", Folder())
    file = disk.add(1, folder, "a", File())
    assert disk.find(("db", "a")) == file
    assert disk.reachable(0) == [0, folder, file]
    assert [path for path, _ in disk.paths(disk.all_kept([0, folder]))] == ["db", "db/a"]
    assert list(disk.paths({0: (DROPPED,), folder: (KEPT,)})) == []
