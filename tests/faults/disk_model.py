"""A disk that a power cut may hit: what is durable, and every way in which the rest may have arrived, or not.

Owns files, folders and what was done to them since their last fsync. A file's writes, truncations and a folder's
entries are each their own: any of them may be on the disk while an earlier one is not, as POSIX allows. Knows no
system call (storage_calls.py turns them into these methods) and no database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

SECTOR_BYTES = 512


class Write(NamedTuple):
    """Data at an offset."""

    at: int
    """The event that did it."""
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """The file has this size; what is new in it is zeros."""

    at: int
    size: int


class Link(NamedTuple):
    """The name stands for the node; `source`, if any, no longer does (a rename: both or neither)."""

    at: int
    name: str
    node: int
    source: str | None = None


class Unlink(NamedTuple):
    """The name is gone."""

    at: int
    name: str


FileOperation = Write | Truncate
FolderOperation = Link | Unlink

Fate = int
"""What became of one operation that was not fsynced: KEPT, DROPPED, SIZED, or n > 0: the first n bytes arrived."""
KEPT, DROPPED, SIZED = -1, 0, -2
"""SIZED: the file grew, but the data did not arrive and reads as zeros; what it should overwrite is as it was."""
Fates = Mapping[int, tuple[Fate, ...]]
"""Per node a fate for each of its pending operations."""


@dataclass(slots=True)
class File:
    """A file's bytes as of its last fsync, and what was done since."""

    durable: bytes = b""
    pending: list[FileOperation] = field(default_factory=list)
    size: int = 0
    """As the process sees it."""
    is_socket: bool = False
    is_volatile: bool = False
    """Written through shared memory: its content is never counted on (SQLite's -shm)."""

    def content(self, fates: tuple[Fate, ...]) -> bytes:
        """What the disk holds when the pending operations had these fates."""
        if not self.pending:
            return self.durable
        data = bytearray(self.durable)
        for operation, fate in zip(self.pending, fates, strict=True):
            if fate == DROPPED:
                continue
            if isinstance(operation, Truncate):
                del data[operation.size:]
                data.extend(bytes(operation.size - len(data)))
                continue
            written = operation.data if fate < 0 else operation.data[:fate]
            end = operation.offset + len(written)
            if end > len(data):
                data.extend(bytes(end - len(data)))
            if fate != SIZED:
                data[operation.offset : end] = written
        return bytes(data)


@dataclass(slots=True)
class Folder:
    """A folder's names as of its last fsync, what was done since, and the names as the process sees them."""

    durable: dict[str, int] = field(default_factory=dict)
    pending: list[FolderOperation] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    def entries(self, fates: tuple[Fate, ...]) -> dict[str, int]:
        """Names that are on the disk when the pending operations had these fates."""
        names = dict(self.durable)
        for operation, fate in zip(self.pending, fates, strict=True):
            if fate != DROPPED:
                apply_to_names(names, operation)
        return names


def apply_to_names(names: dict[str, int], operation: FolderOperation) -> None:
    """The names after the operation."""
    if isinstance(operation, Unlink):
        names.pop(operation.name, None)
        return
    if operation.source is not None and names.get(operation.source) == operation.node:
        del names[operation.source]
    names[operation.name] = operation.node


class Disk:
    """Nodes by number; 0 is the root folder, which is durable."""

    def __init__(self) -> None:
        self.nodes: dict[int, File | Folder] = {0: Folder()}

    def file(self, node: int) -> File:
        found = self.nodes[node]
        assert isinstance(found, File), "a folder where a file was expected"
        return found

    def folder(self, node: int) -> Folder:
        found = self.nodes[node]
        assert isinstance(found, Folder), "a file where a folder was expected"
        return found

    def find(self, path: tuple[str, ...]) -> int | None:
        """The node of a path below the root, as the process sees it."""
        node = 0
        for name in path:
            found = self.nodes[node]
            if not isinstance(found, Folder) or name not in found.names:
                return None
            node = found.names[name]
        return node

    def add(self, at: int, parent: int, name: str, made: File | Folder) -> int:
        """A new node under a name."""
        node = len(self.nodes)
        self.nodes[node] = made
        self._change(parent, Link(at, name, node))
        return node

    def unlink(self, at: int, parent: int, name: str) -> None:
        self._change(parent, Unlink(at, name))

    def rename(self, at: int, parent: int, source: str, name: str) -> None:
        self._change(parent, Link(at, name, self.folder(parent).names[source], source))

    def _change(self, parent: int, operation: FolderOperation) -> None:
        folder = self.folder(parent)
        folder.pending.append(operation)
        apply_to_names(folder.names, operation)

    def write(self, at: int, node: int, offset: int, data: bytes) -> None:
        file = self.file(node)
        file.pending.append(Write(at, offset, data))
        file.size = max(file.size, offset + len(data))

    def truncate(self, at: int, node: int, size: int) -> None:
        file = self.file(node)
        file.pending.append(Truncate(at, size))
        file.size = size

    def sync(self, node: int, until: int) -> None:
        """What was done to this node before event `until` is durable; a file's name is its folder's business."""
        found = self.nodes[node]
        count = sum(1 for operation in found.pending if operation.at < until)
        if isinstance(found, File):
            head = File(found.durable, found.pending[:count])
            found.durable = head.content((KEPT,) * count)
            found.pending = found.pending[count:]
        else:
            for operation in found.pending[:count]:
                apply_to_names(found.durable, operation)
            found.pending = found.pending[count:]

    def reachable(self, top: int) -> list[int]:
        """Nodes that may be found below this one after a cut, with it: under any name, durable or pending."""
        seen = {top: None}
        todo = [top]
        while todo:
            found = self.nodes[todo.pop()]
            if isinstance(found, File):
                continue
            linked = [operation.node for operation in found.pending if isinstance(operation, Link)]
            for node in (*found.durable.values(), *linked):
                if node not in seen:
                    seen[node] = None
                    todo.append(node)
        return list(seen)

    def all_kept(self, nodes: list[int]) -> dict[int, tuple[Fate, ...]]:
        """The state that kill -9 leaves: nothing is lost."""
        return {node: (KEPT,) * len(self.nodes[node].pending) for node in nodes if self.nodes[node].pending}

    def paths(self, fates: Fates) -> Iterator[tuple[str, int]]:
        """Every path on the disk after the cut, with its node; a folder before what is in it."""
        todo: list[tuple[str, int]] = [("", 0)]
        while todo:
            path, node = todo.pop()
            found = self.nodes[node]
            assert isinstance(found, Folder)
            for name, child in sorted(found.entries(fates.get(node, ())).items()):
                inner = f"{path}/{name}" if path else name
                yield inner, child
                if isinstance(self.nodes[child], Folder):
                    todo.append((inner, child))


class Entry(NamedTuple):
    """One path after the cut."""

    path: str
    data: bytes | None
    """None: a folder."""
    is_socket: bool
