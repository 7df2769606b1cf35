"""Every block of a shard that can be read, also behind damage: what a lost index is made from, and what dump shows.

Reads only. A block that cannot be read is stepped over to the next sound one.
"""

from __future__ import annotations

from collections.abc import Iterator

from mynosql.errors import StorageCorrupt
from mynosql.store import shard
from mynosql.store.files import Files
from mynosql.store.shard import BlockHead, BlockRef

_SEARCH_BYTES = 1 << 20


def find_blocks(files: Files, number: int) -> Iterator[tuple[BlockRef, BlockHead] | StorageCorrupt]:
    """The blocks of that shard in order, and for each stretch of damage between them what is wrong where it begins."""
    offset, size = shard.FILE_HEADER.size, files.size(shard.shard_name(number))
    while offset < size:
        try:
            ref = shard.ref_at(files, number, offset)
            head = shard.read_head(files, ref)
        except StorageCorrupt as error:
            yield error
            offset = _next_block(files, number, offset + 1, size)
            continue
        yield ref, head
        offset += ref.head_bytes + ref.body_bytes


def _next_block(files: Files, number: int, offset: int, size: int) -> int:
    """Where the next sound block starts, size when there is none."""
    name = shard.shard_name(number)
    while offset < size:
        found = files.read(name, offset, _SEARCH_BYTES).find(shard.BLOCK_MAGIC)
        if found < 0:
            offset += _SEARCH_BYTES - len(shard.BLOCK_MAGIC) + 1
            continue
        offset += found
        try:
            shard.read_head(files, shard.ref_at(files, number, offset))
        except StorageCorrupt:
            offset += 1
            continue
        return offset
    return size
