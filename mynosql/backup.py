"""A copy of an open database in another folder, made beside its application.

Owns the order of the copy, and that it is there whole or not at all. Which bytes are copied is store/copying.py's.
Driven by database.MyNoSQL.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Protocol

from mynosql.errors import OptionInvalid, StorageFailed
from mynosql.store.files import DiskFiles, raise_mapped
from mynosql.store.folder import make_folder
from mynosql.store.store import Store
from mynosql.workers import Workers

Progress = Callable[[int, int], None]


class Node(Protocol):
    """What is asked of opened.OpenDatabase."""

    name: str
    store: Store
    workers: Workers


def back_up(node: Node, folder: str | os.PathLike[str], progress: Progress | None) -> str:
    """See MyNoSQL.backupdb."""
    location = os.path.abspath(os.fspath(folder))
    target = os.path.join(location, node.name)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise OptionInvalid(f"{target} exists already; choose a folder that holds no copy of {node.name!r} yet")
    part = target + ".part"
    make_folder(location)
    try:
        shutil.rmtree(part, ignore_errors=True)  # of an attempt that was killed
        os.mkdir(part, 0o700)
    except OSError as error:
        raise_mapped(error, part, "make the folder")
    try:
        _copy(node, DiskFiles(part), progress or (lambda done, total: None))
        os.replace(part, target)
        DiskFiles(location).sync_folder()
    except OSError as error:
        raise_mapped(error, target, "put the copy in place")
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part, ignore_errors=True)
    return target


def _copy(node: Node, files: DiskFiles, progress: Progress) -> None:
    workers, copying = node.workers, node.store.copying()
    with workers.lock:
        workers.check()
        if not workers.wait(lambda: not node.store.is_busy and not node.store.is_held, None):
            raise StorageFailed("no copy was made: the database is being closed")
        copying.begin()
    try:
        copying.copy_small(files, progress)
        with workers.lock:
            copying.go_on()
            workers.wake_sealer()
        copying.copy_shards(files, progress)
    finally:
        with workers.lock:
            copying.end()
            workers.wake_sealer()
            workers.changed.notify_all()
        files.close()
