"""A real file system that is really full: a small tmpfs, mounted for one test. Needs root on Linux.

    with small_disk(tmp_path / "disk", size_bytes=1 << 20) as folder:
        ...

Where it cannot be mounted the test is skipped and pytest's summary shows the reason.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def find_skip_reason() -> str | None:
    """Why no file system can be mounted here; None where it can."""
    if not sys.platform.startswith("linux"):
        return f"a small disk is a tmpfs mount, which {sys.platform} does not have"
    if os.geteuid() != 0:
        return "a small disk is a tmpfs mount, which only root may make: run this test as root"
    return None


@contextlib.contextmanager
def small_disk(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """`folder` is a file system of its own with `size_bytes` of space, rounded up to whole pages; gone afterwards."""
    reason = find_skip_reason()
    if reason is None:
        folder.mkdir(parents=True, exist_ok=True)
        reason = _find_mount_error(folder, size_bytes)
    if reason is not None:
        pytest.skip(reason)
    try:
        yield folder
    finally:
        # Lazily: a file that the test left open must not leave the mount behind as well.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, *, leave_bytes: int = 0) -> Path:
    """Write a file "filler" that leaves `leave_bytes` free, rounded up to a page; delete it to make room."""
    filler = folder / "filler"
    status = os.statvfs(folder)
    with filler.open("ab", buffering=0) as file:
        for _ in range(max(0, status.f_bavail * status.f_frsize - leave_bytes) // status.f_frsize):
            file.write(bytes(status.f_frsize))
    return filler


def _find_mount_error(folder: Path, size_bytes: int) -> str | None:
    """Mount the tmpfs; what mount said when it refused, as in a container without that right."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "a small disk is a tmpfs mount, and this machine has no mount command"
    return f"a small disk could not be mounted: {done.stderr.strip()}" if done.returncode else None
