"""The small disk: its space is as small as said, full means ENOSPC, and nothing stays mounted."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.faults import small_disk as small_disk_module
from tests.faults.small_disk import fill, find_skip_reason, small_disk

SIZE_BYTES = 256 * 1024


def test_a_small_disk_takes_its_size_and_then_says_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=SIZE_BYTES) as folder:
        assert os.path.ismount(folder)
        with (folder / "file").open("wb", buffering=0) as file:
            for _ in range(SIZE_BYTES // 4096):
                assert file.write(bytes(4096)) == 4096
            with pytest.raises(OSError, match="No space left") as caught:
                file.write(b"x")
        assert caught.value.errno == errno.ENOSPC
    assert not os.path.ismount(tmp_path / "disk")


def test_fill_leaves_the_room_asked_for_and_deleting_the_filler_gives_it_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=SIZE_BYTES) as folder:
        filler = fill(folder, leave_bytes=16 * 1024)
        assert os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize == 16 * 1024
        filler.unlink()
        assert os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize == SIZE_BYTES


def test_it_is_unmounted_after_a_failing_test_with_a_file_open(tmp_path: Path) -> None:
    left_open: list[BinaryIO] = []

    def failing_test() -> None:
        with small_disk(tmp_path / "disk", size_bytes=SIZE_BYTES) as folder:
            left_open.append((folder / "file").open("wb"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_test()

    assert not os.path.ismount(tmp_path / "disk")
    left_open[0].close()


def test_who_may_not_mount_gets_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "as root" in (find_skip_reason() or "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in (find_skip_reason() or "")


def test_a_refused_mount_skips_with_what_mount_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_disk_module, "_find_mount_error", lambda folder, size_bytes: "mount: permission denied")
    monkeypatch.setattr(small_disk_module, "find_skip_reason", lambda: None)
    with pytest.raises(pytest.skip.Exception, match="permission denied"), small_disk(tmp_path, size_bytes=SIZE_BYTES):
        pass
