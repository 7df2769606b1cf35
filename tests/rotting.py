"""Bits that flip: where the blocks of a closed folder lie, and the means to damage one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mynosql.store import shard
from mynosql.store.files import DiskFiles
from mynosql.store.index import SqliteIndex


class Place(NamedTuple):
    """A stretch of a file."""

    file: Path
    offset: int
    length: int


def flip(path: Path, offset: int, bit: int = 0) -> None:
    """One bit of the file is another."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


class Block(NamedTuple):
    """A sealed block of a folder."""

    head: Place
    body: Place
    id_keys: tuple[bytes, ...]


def blocks_of(folder: Path) -> list[Block]:
    """All blocks that the index of a closed database names."""
    files, index = DiskFiles(str(folder)), SqliteIndex(str(folder / "index"))
    found = []
    for segment in index.segments():
        for row in index.blocks_of(segment.number):
            path = folder / shard.shard_name(row.shard)
            rows = shard.read_head(files, row.ref).rows
            found.append(Block(
                Place(path, row.offset, row.head_bytes), Place(path, row.offset + row.head_bytes, row.body_bytes),
                tuple(rows.id_key(slot) for slot in range(rows.count)),
            ))
    index.close()
    files.close()
    return found
