"""The Files door: one suite for the real folder and the model; then what only one of them can show."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from mynosql.errors import StorageCorrupt, StorageFailed, StorageFull
from mynosql.store import files as module
from mynosql.store.files import DiskFiles, Files
from tests.faults.small_disk import fill, small_disk
from tests.sim.memory_files import MemoryFiles, PowerCut


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return DiskFiles(str(tmp_path)) if request.param == "disk" else MemoryFiles()


# Both


def test_appended_bytes_are_read_back_at_the_offset_that_write_returned(files: Files) -> None:
    file = files.open_append("a")
    offsets = [file.write(data) for data in (b"one", b"", b"three")]
    assert offsets == [0, 3, 3]
    assert (file.size, files.size("a")) == (8, 8)
    assert (files.read("a", 3, 5), files.read("a", 0, 8), files.read("a", 1, 0)) == (b"three", b"onethree", b"")


def test_a_read_is_short_only_where_the_file_ends(files: Files) -> None:
    files.open_append("a").write(b"12345")
    assert (files.read("a", 3, 100), files.read("a", 5, 1), files.read("a", 99, 1)) == (b"45", b"", b"")


@pytest.mark.parametrize("length", [0, 1, 5, 6, 8 << 10, 9 << 10, 20_000])
def test_a_fresh_read_gives_the_same_as_a_read(files: Files, length: int) -> None:
    files.open_append("a").write(b"header" + bytes(range(256)) * 40)
    for offset in (0, 6, 10_000, 20_000):
        assert files.read_fresh("a", offset, length) == files.read("a", offset, length)
    with pytest.raises(StorageCorrupt, match="missing"):
        files.read_fresh("b", 0, length)


def test_a_read_sees_what_was_appended_after_an_earlier_read(files: Files) -> None:
    file = files.open_append("a")
    file.write(b"1")
    assert files.read("a", 0, 9) == b"1"
    file.write(b"2")
    assert files.read("a", 0, 9) == b"12"


def test_opening_again_appends_behind_what_is_there(files: Files) -> None:
    first = files.open_append("a")
    first.write(b"one")
    first.close()
    first.close()
    again = files.open_append("a")
    assert (again.size, again.write(b"two")) == (3, 3)
    again.flush()
    assert files.read("a", 0, 9) == b"onetwo"


def test_a_closed_file_refuses_to_write(files: Files) -> None:
    file = files.open_append("a")
    file.close()
    with pytest.raises(StorageFailed):
        file.write(b"x")
    with pytest.raises(StorageFailed):
        file.flush()
    assert files.size("a") == 0


@pytest.mark.parametrize("call", [lambda files: files.read("gone", 0, 1), lambda files: files.size("gone")])
def test_a_missing_file_is_named(files: Files, call: Callable[[Files], object]) -> None:
    with pytest.raises(StorageCorrupt, match="missing") as caught:
        call(files)
    assert caught.value.path == files.path("gone")


def test_list_is_sorted_and_knows_what_was_made_and_removed(files: Files) -> None:
    for name in ("b", "c", "a"):
        files.open_append(name).close()
    files.remove("b")
    files.remove("never there")
    files.sync_folder()
    assert files.list() == ["a", "c"]


def test_a_removed_file_starts_empty_when_made_again(files: Files) -> None:
    files.open_append("a").write(b"old")
    assert files.read("a", 0, 3) == b"old"
    files.remove("a")
    with pytest.raises(StorageCorrupt):
        files.read("a", 0, 3)
    files.open_append("a").write(b"new!")
    assert files.read("a", 0, 9) == b"new!"


def test_write_atomic_replaces_the_whole_content_and_leaves_no_other_file(files: Files) -> None:
    files.write_atomic("a", b"first and longer")
    assert files.read("a", 0, 99) == b"first and longer"
    files.write_atomic("a", b"second")
    assert (files.read("a", 0, 99), files.list()) == (b"second", ["a"])
    files.write_atomic("a", b"")
    assert files.size("a") == 0


def test_truncate_cuts_and_the_next_append_goes_to_the_new_end(files: Files) -> None:
    files.open_append("a").write(b"123456")
    files.truncate("a", 2)
    assert files.open_append("a").write(b"x") == 2
    assert files.read("a", 0, 9) == b"12x"
    with pytest.raises(StorageCorrupt):
        files.truncate("gone", 0)


def test_there_is_free_space_and_close_can_be_followed_by_a_read(files: Files) -> None:
    files.open_append("a").write(b"1")
    assert files.free_bytes() > 0
    files.read("a", 0, 1)
    files.close()
    assert files.read("a", 0, 1) == b"1"


# The real folder


def test_reads_of_many_files_keep_a_bounded_number_of_descriptors(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path), read_files_max=4)
    before = len(os.listdir("/proc/self/fd"))
    for n in range(20):
        files.write_atomic(f"f{n}", b"%d" % n)
    for _ in range(2):
        assert [files.read(f"f{n}", 0, 9) for n in range(20)] == [b"%d" % n for n in range(20)]
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_least_recently_read_file_is_closed_first(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path), read_files_max=2)
    for name in "abc":
        files.write_atomic(name, name.encode())
    for name in "abac":
        files.read(name, 0, 1)
    opened = {os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) for fd in map(int, os.listdir("/proc/self/fd"))
              if os.path.exists(f"/proc/self/fd/{fd}")}
    assert opened & set("abc") == {"a", "c"}


def test_threads_may_read_while_others_evict_what_they_read(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path), read_files_max=1)
    for n in range(8):
        files.write_atomic(f"f{n}", bytes([n]) * 4096)
    wrong: list[object] = []

    def read_all(seed: int) -> None:
        rng = Random(seed)
        for _ in range(1500):
            n = rng.randrange(8)
            try:
                if files.read(f"f{n}", 0, 4096) != bytes([n]) * 4096:
                    wrong.append(n)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class _Disk:
    """Stands in for os.write: gives what a test wants for the n-th call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: int | BaseException) -> None:
        monkeypatch.setattr(module, "_held_write", None)  # every write goes the way of large ones
        self._answers = list(answers)
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, fd: int, data: bytes) -> int:
        answer = self._answers.pop(0) if self._answers else len(data)
        if isinstance(answer, BaseException):
            raise answer
        return self._write(fd, data[:answer])


def test_a_short_append_that_libc_refuses_is_asked_of_the_system_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DiskFiles(str(tmp_path))
    file = files.open_append("a")
    monkeypatch.setattr(module, "_held_write", lambda fd, data, size: -1)
    assert (file.write(b"123"), file.size) == (0, 3)
    monkeypatch.undo()
    assert file.write(b"456") == 3
    assert files.read("a", 0, 99) == b"123456"


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = DiskFiles(str(tmp_path))
    file = files.open_append("a")
    _Disk(monkeypatch, 3, 1)
    assert (file.write(b"123456789"), file.size) == (0, 9)
    assert files.read("a", 0, 99) == b"123456789"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageFull),
        (OSError(errno.EIO, "Input/output error"), StorageFailed),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, expected: type[BaseException]
) -> None:
    files = DiskFiles(str(tmp_path))
    file = files.open_append("a")
    file.write(b"before")
    _Disk(monkeypatch, 4, error)
    with pytest.raises(expected):
        file.write(b"cut in half")
    assert (files.read("a", 0, 99), file.size) == (b"before", 6)
    assert file.write(b"!") == 6
    assert files.read("a", 0, 99) == b"before!"


def test_when_not_even_the_half_written_tail_can_be_dropped_no_later_write_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DiskFiles(str(tmp_path))
    file = files.open_append("a")
    _Disk(monkeypatch, 4, OSError(errno.EIO, "Input/output error"))

    def refuse(fd: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", refuse)
    for _ in range(2):
        with pytest.raises(StorageFailed):
            file.write(b"cut in half")
    assert files.size("a") == 4


@pytest.mark.parametrize(
    ("doing", "act"),
    [
        ("flush to disk", lambda files: files.open_append("a").flush()),
        ("flush the folder", lambda files: files.sync_folder()),
        ("replace", lambda files: files.write_atomic("b", b"new")),
        ("truncate", lambda files: files.truncate("a", 1)),
    ],
)
@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_failed_flush_is_never_a_full_disk_that_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doing: str, act: Callable[[DiskFiles], None], error: OSError
) -> None:
    files = DiskFiles(str(tmp_path))
    files.open_append("a").write(b"text")

    def fail(fd: int) -> None:
        raise error

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(StorageFailed, match=f": cannot {doing}: {error.strerror}; what was written last may be lost"):
        act(files)
    assert files.list() == ["a"]


@pytest.mark.parametrize("size", [3_000, 30_000])
def test_a_disk_that_is_really_full_takes_no_part_of_a_write_and_goes_on_when_there_is_room(
    tmp_path: Path, size: int
) -> None:
    with small_disk(tmp_path / "disk", size_bytes=128 << 10) as folder:
        files = DiskFiles(str(folder))
        file = files.open_append("a")
        filler = fill(folder, leave_bytes=48 << 10)

        def write_on() -> None:
            for n in range(100):
                file.write(bytes([n]) * size)

        with pytest.raises(StorageFull, match="No space left on device; free some space"):
            write_on()
        written = file.size // size
        assert file.size == files.size("a") == written * size > 0
        with pytest.raises(StorageFull):
            files.write_atomic("b", bytes(60_000))
        assert files.list() == ["a", filler.name]
        filler.unlink()
        assert file.write(b"again") == written * size
        file.flush()
        assert files.read("a", written * size - 1, 9) == bytes([written - 1]) + b"again"
        file.close()
        files.close()


def test_a_failed_replacement_leaves_the_old_content_and_no_stray_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DiskFiles(str(tmp_path))
    files.write_atomic("a", b"old")
    _Disk(monkeypatch, 2, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageFull):
        files.write_atomic("a", b"new content")
    assert (files.read("a", 0, 99), files.list()) == (b"old", ["a"])


def test_a_place_that_the_device_cannot_read_is_damage_of_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DiskFiles(str(tmp_path))
    files.write_atomic("a", b"12345")

    def fail(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StorageCorrupt) as caught:
        files.read("a", 2, 3)
    assert (caught.value.path, caught.value.offset) == (str(tmp_path / "a"), 2)


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    files = DiskFiles(str(tmp_path))
    files.open_append("a").close()
    files.write_atomic("b", b"")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [0o600, 0o600]


# The model


def outcomes(make: Callable[[], MemoryFiles], look: Callable[[MemoryFiles], object]) -> set[object]:
    """Everything that a power cut may leave, over many seeds."""
    return {look(make().crash(Random(seed))) for seed in range(200)}


def content(name: str) -> Callable[[MemoryFiles], object]:
    return lambda files: files.read(name, 0, 999) if name in files.list() else None


def test_what_was_flushed_and_named_durably_survives_every_power_cut() -> None:
    def make() -> MemoryFiles:
        files = MemoryFiles()
        file = files.open_append("a")
        file.write(b"12")
        file.flush()
        files.sync_folder()
        file.write(b"34")
        file.write(b"56")
        return files

    found = outcomes(make, content("a"))
    assert all(isinstance(data, bytes) and data.startswith(b"12") for data in found)
    assert {b"12", b"1234", b"123", b"123456", b"12345", b"12\0\x0056"} <= found  # dropped, kept, torn, reordered


def test_a_name_that_was_not_synced_may_be_gone_with_all_its_flushed_bytes() -> None:
    def make() -> MemoryFiles:
        files = MemoryFiles()
        file = files.open_append("a")
        file.write(b"12")
        file.flush()
        return files

    assert outcomes(make, content("a")) == {None, b"12"}


def test_a_removal_that_was_not_synced_may_come_back() -> None:
    def make() -> MemoryFiles:
        files = MemoryFiles()
        files.write_atomic("a", b"12")
        files.remove("a")
        return files

    assert outcomes(make, content("a")) == {None, b"12"}


def test_a_replaced_file_is_old_or_new_and_new_once_the_call_returned() -> None:
    def make() -> MemoryFiles:
        files = MemoryFiles()
        files.write_atomic("a", b"old")
        files.write_atomic("a", b"new")
        return files

    def make_cut() -> MemoryFiles:
        files = MemoryFiles()
        files.write_atomic("a", b"old")

        def cut(doing: str, name: str) -> None:
            if doing == "sync_folder":
                raise PowerCut

        files.on_operation = cut
        with pytest.raises(PowerCut):
            files.write_atomic("a", b"new")
        return files

    assert outcomes(make, content("a")) == {b"new"}
    assert outcomes(make_cut, content("a")) == {b"old", b"new"}


def test_bytes_of_a_failed_flush_never_become_durable_even_when_a_later_flush_succeeds() -> None:
    def make() -> MemoryFiles:
        files = MemoryFiles()
        file = files.open_append("a")
        files.sync_folder()
        file.write(b"doomed")

        def fail(doing: str, name: str) -> None:
            if doing == "flush":
                raise StorageFailed("modelled")

        files.on_operation = fail
        with pytest.raises(StorageFailed):
            file.flush()
        files.on_operation = lambda doing, name: None
        file.write(b"later")
        file.flush()
        assert files.read("a", 0, 99) == b"doomedlater"
        return files

    assert outcomes(make, content("a")) == {bytes(6) + b"later"}


def test_a_full_modelled_disk_takes_no_part_of_a_write() -> None:
    files = MemoryFiles(space_bytes=10)
    file = files.open_append("a")
    file.write(b"12345678")
    with pytest.raises(StorageFull):
        file.write(b"901")
    with pytest.raises(StorageFull):
        files.write_atomic("b", b"901")
    assert (files.list(), files.size("a"), files.free_bytes()) == (["a"], 8, 2)
    file.write(b"90")


def test_a_killed_process_leaves_everything_it_wrote() -> None:
    files = MemoryFiles()
    file = files.open_append("a")
    file.write(b"12")
    left = files.copy()
    file.write(b"34")
    assert left.read("a", 0, 9) == b"12"
    assert left.crash(Random(1)).read("a", 0, 9) == b"12"
