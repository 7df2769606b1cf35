"""A model of the Files door: what is in memory, what is on the disk, and what a power cut may leave of the rest.

Held to the behaviour of DiskFiles by tests/store/test_files.py. Every operation first calls `on_operation`, where a
test raises what it likes: an error, or PowerCut to stop in the middle. No randomness of its own: crash() takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from mynosql.errors import StorageCorrupt, StorageFailed, StorageFull

NO_LIMIT = 1 << 50


class PowerCut(BaseException):
    """Raised by a test's on_operation: the machine stops here. Not an Exception, so that no handler swallows it."""


class _Write(NamedTuple):
    offset: int
    data: bytes
    is_doomed: bool
    """A failed flush lost it: the kernel took the pages for clean, no later flush writes them."""


@dataclass
class _Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    pending: list[_Write] = field(default_factory=list)

    def flush(self) -> None:
        doomed = [write for write in self.pending if write.is_doomed]
        durable = bytearray(self.content)
        for write in doomed:  # the length may have reached the disk, the bytes have not
            durable[write.offset:write.offset + len(write.data)] = bytes(len(write.data))
        self.durable, self.pending = bytes(durable), doomed

    def after_crash(self, rng: Random) -> _Inode:
        fate = rng.choice(("dropped", "kept", "torn", "reordered"))
        content = bytearray(self.durable)
        writes = [write for write in self.pending if not write.is_doomed]
        if fate == "dropped":
            writes = []
        elif fate == "torn" and writes:
            count = rng.randrange(len(writes))
            last = writes[count]
            writes = [*writes[:count], last._replace(data=last.data[:rng.randint(0, len(last.data))])]
        elif fate == "reordered":
            writes = [write for write in writes if rng.random() < 0.5]
        for write in writes:
            if len(content) < write.offset:
                content.extend(bytes(write.offset - len(content)))
            content[write.offset:write.offset + len(write.data)] = write.data
        return _Inode(content, bytes(content))


class _MemoryAppendFile:
    def __init__(self, files: MemoryFiles, name: str, inode: _Inode) -> None:
        self._files, self._name, self._inode = files, name, inode
        self._is_closed = False

    @property
    def size(self) -> int:
        return len(self._inode.content)

    def write(self, data: bytes) -> int:
        self._check_open("append")
        self._files._reserve(self._name, len(data))
        offset = self.size
        self._inode.content += data
        self._inode.pending.append(_Write(offset, bytes(data), False))
        self._files.on_operation("write", self._name)  # after: a cut here may leave the write torn
        return offset

    def flush(self) -> None:
        self._check_open("flush to disk")
        try:
            self._files.on_operation("flush", self._name)
        except StorageFailed:
            self._inode.pending = [write._replace(is_doomed=True) for write in self._inode.pending]
            raise
        self._inode.flush()

    def close(self) -> None:
        self._is_closed = True

    def _check_open(self, doing: str) -> None:
        if self._is_closed:
            raise StorageFailed(f"{self._files.path(self._name)}: cannot {doing}: closed")


class MemoryFiles:
    """A folder's files in memory. space_bytes: the disk is full beyond them."""

    def __init__(self, *, space_bytes: int = NO_LIMIT) -> None:
        self.space_bytes = space_bytes
        self.on_operation: Callable[[str, str], None] = lambda doing, name: None
        """Called with ("open" | "write" | "flush" | "remove" | "replace" | "sync_folder" | "truncate", file name)."""
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: list[tuple[str, _Inode | None]] = []

    # The door

    def open_append(self, name: str) -> _MemoryAppendFile:
        self.on_operation("open", name)
        if name not in self._names:
            self._name(name, _Inode())
        return _MemoryAppendFile(self, name, self._names[name])

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._inode(name).content[offset:offset + length])

    def read_fresh(self, name: str, offset: int, length: int) -> bytes:
        return self.read(name, offset, length)

    def size(self, name: str) -> int:
        return len(self._inode(name).content)

    def list(self) -> list[str]:
        return sorted(self._names)

    def remove(self, name: str) -> None:
        self.on_operation("remove", name)
        if name in self._names:
            self._name(name, None)

    def write_atomic(self, name: str, data: bytes) -> None:
        self._reserve(name, len(data))
        self.on_operation("replace", name)
        self._name(name, _Inode(bytearray(data), bytes(data)))
        self.sync_folder()

    def sync_folder(self) -> None:
        self.on_operation("sync_folder", "")
        self._durable_names = dict(self._names)
        self._name_changes = []

    def truncate(self, name: str, size: int) -> None:
        self.on_operation("truncate", name)
        inode = self._inode(name)
        del inode.content[size:]
        inode.content.extend(bytes(size - len(inode.content)))
        inode.pending = []
        inode.durable = bytes(inode.content)

    def write_again(self, name: str) -> None:
        inode = self._inode(name)
        inode.pending = [write for write in inode.pending if not write.is_doomed]
        inode.pending.append(_Write(0, bytes(inode.content), False))
        self.on_operation("write", name)
        _MemoryAppendFile(self, name, inode).flush()

    def free_bytes(self) -> int:
        return max(0, self.space_bytes - self.used_bytes)

    def path(self, name: str) -> str:
        return f"memory/{name}"

    def close(self) -> None:
        pass

    # What only a model can do

    @property
    def used_bytes(self) -> int:
        return sum(len(inode.content) for inode in self._names.values())

    @property
    def is_lying(self) -> bool:
        """A flush failed: reading gives bytes that are in memory only, and a later flush reports them as written."""
        return any(write.is_doomed for inode in self._names.values() for write in inode.pending)

    def crash(self, rng: Random) -> MemoryFiles:
        """The folder as a power cut now may leave it: un-synced writes and names dropped, kept, torn or reordered."""
        names = dict(self._durable_names)
        fates: dict[str, bool] = {}
        for name, inode in self._name_changes:
            # Per name a prefix of its changes survives; different names are independent of each other.
            if not fates.setdefault(name, True):
                continue
            fates[name] = rng.random() < 0.5
            if not fates[name]:
                continue
            if inode is None:
                names.pop(name, None)
            else:
                names[name] = inode
        made = MemoryFiles(space_bytes=self.space_bytes)
        made._names = {name: inode.after_crash(rng) for name, inode in sorted(names.items())}
        made._durable_names = dict(made._names)
        return made

    def copy(self) -> MemoryFiles:
        """The folder as a kill -9 leaves it: everything written is there."""
        made = MemoryFiles(space_bytes=self.space_bytes)
        made._names = {
            name: _Inode(bytearray(inode.content), bytes(inode.content)) for name, inode in self._names.items()
        }
        made._durable_names = dict(made._names)
        return made

    def damage(self, name: str, offset: int, data: bytes) -> None:
        """Overwrite bytes behind the store's back; data may reach past the end."""
        inode = self._inode(name)
        inode.content[offset:offset + len(data)] = data
        inode.durable = bytes(inode.content)

    def cut(self, name: str, size: int) -> None:
        """Drop the end of a file behind the store's back."""
        inode = self._inode(name)
        del inode.content[size:]
        inode.durable = bytes(inode.content)

    def _inode(self, name: str) -> _Inode:
        if name not in self._names:
            raise StorageCorrupt(self.path(name), None, "the file is missing")
        return self._names[name]

    def _name(self, name: str, inode: _Inode | None) -> None:
        if inode is None:
            del self._names[name]
        else:
            self._names[name] = inode
        self._name_changes.append((name, inode))

    def _reserve(self, name: str, count: int) -> None:
        if count > self.free_bytes():
            raise StorageFull(f"{self.path(name)}: the modelled disk is full")
