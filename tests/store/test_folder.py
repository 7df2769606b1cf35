"""folder.py: one process, one format, one identity per place."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mynosql.errors import DatabaseLocked, FormatUnknown, StorageFailed, StorageFull
from mynosql.store import folder as module
from mynosql.store.folder import Folder, Identity
from tests.faults.processes import PythonChild


def minter() -> Callable[[int], bytes]:
    """Bytes that differ at every call and are the same in every run."""
    count = iter(range(1, 1000))
    return lambda length: next(count).to_bytes(length, "little")


@pytest.fixture
def mint() -> Callable[[int], bytes]:
    return minter()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "Test"


def snapshot(place: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(place.iterdir())}


def test_a_missing_folder_is_made_with_its_parents_for_its_owner_only(
    place: Path, mint: Callable[[int], bytes]
) -> None:
    Folder.open(place, mint=mint).close()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert sorted(path.name for path in place.iterdir()) == ["format", "identity", "lock"]
    assert (place / "format").read_text() == "MyNoSQL database, format 1\n"


def test_the_names_of_a_new_folder_and_its_parents_are_durable_before_anything_is_in_it(
    place: Path, mint: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        module.DiskFiles, "sync_folder", lambda files: synced.append((files.path(""), (place / "format").exists()))
    )
    Folder.open(place, mint=mint).close()
    above = [(str(folder) + os.sep, False) for folder in (place.parent, place.parent.parent)]
    assert synced[: len(above)] == above
    synced.clear()
    Folder.open(place, mint=mint).close()
    assert synced == []


def test_the_node_id_is_minted_once_and_found_again(place: Path, mint: Callable[[int], bytes]) -> None:
    first = Folder.open(place, mint=mint)
    first.close()
    again = Folder.open(place, mint=mint)
    again.close()
    assert first.identity == Identity(node=1, is_new=True, is_moved=False)
    assert again.identity == Identity(node=1, is_new=False, is_moved=False)


def test_a_copied_folder_gets_a_node_id_of_its_own_and_the_original_keeps_its(
    place: Path, mint: Callable[[int], bytes], tmp_path: Path
) -> None:
    Folder.open(place, mint=mint).close()
    shutil.copytree(place, tmp_path / "copy")
    copy = Folder.open(tmp_path / "copy", mint=mint)
    copy.close()
    assert copy.identity == Identity(node=2, is_new=True, is_moved=True)
    for where, node in ((tmp_path / "copy", 2), (place, 1)):
        opened = Folder.open(where, mint=mint)
        opened.close()
        assert opened.identity == Identity(node=node, is_new=False, is_moved=False)


def test_a_folder_moved_within_its_disk_keeps_its_node_id(
    place: Path, mint: Callable[[int], bytes], tmp_path: Path
) -> None:
    Folder.open(place, mint=mint).close()
    place.rename(tmp_path / "elsewhere")
    moved = Folder.open(tmp_path / "elsewhere", mint=mint)
    moved.close()
    assert moved.identity.node == 1


def test_the_same_disk_in_another_machine_gets_a_new_node_id(place: Path, mint: Callable[[int], bytes]) -> None:
    Folder.open(place, mint=mint, machine=b"machine A").close()
    other = Folder.open(place, mint=mint, machine=b"machine B")
    other.close()
    assert other.identity == Identity(node=2, is_new=True, is_moved=True)


@pytest.mark.parametrize("at", [0, 7, 8, 20, 40, 50])
def test_a_damaged_identity_is_never_used(place: Path, mint: Callable[[int], bytes], at: int) -> None:
    Folder.open(place, mint=mint).close()
    data = bytearray((place / "identity").read_bytes())
    data[at] ^= 1
    (place / "identity").write_bytes(data)
    opened = Folder.open(place, mint=mint)
    opened.close()
    assert opened.identity == Identity(node=2, is_new=True, is_moved=True)


def test_a_renewed_identity_is_found_at_the_next_opening(place: Path, mint: Callable[[int], bytes]) -> None:
    opened = Folder.open(place, mint=mint)
    assert opened.renew_identity(mint) == opened.identity == Identity(node=2, is_new=True, is_moved=True)
    opened.close()
    again = Folder.open(place, mint=mint)
    again.close()
    assert again.identity == Identity(node=2, is_new=False, is_moved=False)


def test_the_machine_id_is_stable_and_does_not_show_the_one_of_the_system() -> None:
    assert module.machine_id() == module.machine_id()
    assert len(module.machine_id()) == module.MACHINE_BYTES
    if os.path.exists("/etc/machine-id"):
        assert module.machine_id().hex() not in Path("/etc/machine-id").read_text()


def test_what_a_crash_left_of_a_replacement_is_removed(place: Path, mint: Callable[[int], bytes]) -> None:
    Folder.open(place, mint=mint).close()
    (place / "filter.tmp").write_bytes(b"half")
    opened = Folder.open(place, mint=mint)
    opened.close()
    assert "filter.tmp" not in opened.files.list()


# Format


@pytest.mark.parametrize("text", ["MyNoSQL database, format 2\n", "something else\n", ""])
def test_a_folder_of_a_newer_or_unknown_format_is_refused_and_left_untouched(
    place: Path, mint: Callable[[int], bytes], text: str
) -> None:
    place.mkdir(parents=True)
    (place / "format").write_text(text)
    (place / "identity.tmp").write_text("theirs")
    before = snapshot(place)
    with pytest.raises(FormatUnknown, match="this version reads up to 1; open it with a newer version"):
        Folder.open(place, mint=mint)
    assert snapshot(place) == before


def test_an_identity_of_a_newer_format_is_refused_and_the_lock_released(
    place: Path, mint: Callable[[int], bytes]
) -> None:
    Folder.open(place, mint=mint).close()
    data = bytearray((place / "identity").read_bytes()[:-4])
    data[7] = 2
    newer = bytes(data) + module.crc32(data).to_bytes(4, "little")
    (place / "identity").write_bytes(newer)
    for _ in range(2):
        with pytest.raises(FormatUnknown, match="identity format 2"):
            Folder.open(place, mint=mint)
    assert (place / "identity").read_bytes() == newer


# Lock


def test_the_same_process_cannot_open_a_folder_twice(place: Path, mint: Callable[[int], bytes]) -> None:
    first = Folder.open(place, mint=mint)
    with pytest.raises(DatabaseLocked, match="in use by this process itself") as caught:
        Folder.open(place, mint=mint)
    assert caught.value.pid == os.getpid()
    first.close()
    first.close()
    Folder.open(place, mint=mint).close()


HOLD = """
import os, sys
from mynosql.store.folder import Folder
folder = Folder.open(sys.argv[1], mint=os.urandom, program="logger.py")
emit({"pid": os.getpid(), "node": folder.identity.node})
wait_for_kill()
"""


def test_a_second_process_is_told_who_has_the_folder_and_may_have_it_once_that_one_was_killed(
    place: Path, mint: Callable[[int], bytes]
) -> None:
    with PythonChild(HOLD, str(place)) as child:
        held = child.read(20)
        with pytest.raises(DatabaseLocked, match=rf"in use by process {held['pid']} \(logger\.py\)") as caught:
            Folder.open(place, mint=mint)
        assert caught.value.pid == held["pid"]
        child.kill()
    opened = Folder.open(place, mint=mint)
    opened.close()
    assert opened.identity == Identity(node=held["node"], is_new=False, is_moved=False)


def test_a_forked_child_does_not_keep_the_folder_from_others(place: Path, mint: Callable[[int], bytes]) -> None:
    opened = Folder.open(place, mint=mint)
    ready, release = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(ready[1], b"1")
        os.read(release[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(DatabaseLocked):
            Folder.open(place, mint=mint)
        opened.close()
        Folder.open(place, mint=mint).close()
    finally:
        os.write(release[1], b"1")
        os.waitpid(pid, 0)
        for fd in (*ready, *release):
            os.close(fd)


def test_a_failed_opening_releases_the_lock(place: Path, mint: Callable[[int], bytes]) -> None:
    def broken(length: int) -> bytes:
        raise RuntimeError("no randomness")

    with pytest.raises(RuntimeError):
        Folder.open(place, mint=broken)
    Folder.open(place, mint=mint).close()


# Rights and space


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path, mint: Callable[[int], bytes]) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageFailed, match=f"{place}: cannot be made, a file stands in its place"):
            Folder.open(place, mint=mint)


AS_NOBODY = """
import os, sys
from mynosql.errors import StorageFailed
from mynosql.store.folder import Folder
os.setgroups([]); os.setgid(65534); os.setuid(65534)
texts = []
for place in sys.argv[1:]:
    try:
        Folder.open(place, mint=os.urandom)
    except StorageFailed as error:
        texts.append(str(error))
emit(texts)
"""


def as_common_user(*places: Path) -> list[str]:
    """What opening these places says to a user who has no rights there."""
    if os.getuid() == 0:
        with PythonChild(AS_NOBODY, *map(str, places)) as child:
            texts: list[str] = child.read(20)
            return texts
    texts = []
    for place in places:
        with pytest.raises(StorageFailed) as caught:
            Folder.open(place, mint=minter())
        texts.append(str(caught.value))
    return texts


def test_a_place_without_write_rights_is_named_with_what_to_do() -> None:
    """Read-only folders of the system: one that exists, one that would have to be made."""
    texts = as_common_user(Path("/usr"), Path("/usr/mynosql-test"))
    assert texts == [
        "/usr: no permission to write in this folder; choose another location (setdblocation or MYNOSQL_HOME) or ask "
        "its owner for write rights",
        "/usr/mynosql-test: no permission to make this folder; choose another location (setdblocation or "
        "MYNOSQL_HOME) or ask its owner for write rights",
    ]


def test_a_full_disk_says_so_and_releases_the_lock(
    place: Path, mint: Callable[[int], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageFull, match="No space left"):
            Folder.open(place, mint=mint)
    Folder.open(place, mint=mint).close()
