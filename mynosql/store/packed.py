"""One row as one bytes object: what a journal frame holds, a memtable points at, and a seal takes its columns from.

A plain row (one leaf that one node wrote) has a layout of its own, because every save makes one. Pure: no file, no
clock. Driven by journal.py, memtable.py and seal.py. Layout: docs/FORMAT.md, "Packed row".
"""

from __future__ import annotations

import struct

import lz4.block

from mynosql import batch
from mynosql.batch import FLAG_BODY, FLAG_DELETED, FLAG_STRAY, FLAGS_PLAIN, Flat
from mynosql.row import Leaf, Row

KIND_LZ4, KIND_PLAIN, KIND_OTHER = 2, 3, 4
PLAIN_HEAD = struct.Struct("<BBHIQQIQ8s")
"""Kind, flags, bytes of the id key, generation, hlc, node, size, seq, digest; then id key and body."""
_OTHER_HEAD = struct.Struct("<BI")  # kind, bytes of the head; then head and bodies as batch.py packs them
_LZ4_HEAD = struct.Struct("<BI")  # kind, raw bytes; then the lz4 block
PLAIN_LIVE = FLAG_BODY | batch.FLAG_OWED
LZ4_BYTES_MIN = 512
"""Below, a lone record gains nothing from lz4 (measured: 248 bytes grow by 3 %) and would pay 0.6 µs for it."""
LZ4_RATIO_MAX = 255
RAW_BYTES_MAX = 1 << 30
HEAD_ROW_BYTES = 24
"""About what a plain row adds to a head beside its id."""


def pack_row(row: Row) -> bytes:
    """The row, seq and all, not compressed."""
    id_key, leaves, bodies, seq, owed, stray, stale = row
    generation, hlc, node, deleted, size, digest, ancestry = leaves[0]
    if len(leaves) != 1 or ancestry is not None or stale is not None:
        head = batch.pack_head((row,))
        return b"".join((_OTHER_HEAD.pack(KIND_OTHER, len(head)), head, batch.pack_bodies((row,))))
    body = bodies[0]
    flags = deleted | owed << 1 | stray << 2
    if body is None:
        body = b""
    else:
        flags |= FLAG_BODY
    return PLAIN_HEAD.pack(KIND_PLAIN, flags, len(id_key), generation, hlc, node, size, seq, digest) + id_key + body


def compressed(raw: bytes) -> bytes:
    """The same as an lz4 block of kind KIND_LZ4 where that is smaller, else raw itself."""
    if len(raw) < LZ4_BYTES_MIN:
        return raw
    packed: bytes = lz4.block.compress(raw, store_size=False)
    return _LZ4_HEAD.pack(KIND_LZ4, len(raw)) + packed if len(packed) + _LZ4_HEAD.size < len(raw) else raw


def raw_of(packed: bytes) -> bytes:
    """What compressed() was given. Raises ValueError when that cannot be."""
    if packed[:1] != b"\2":  # KIND_LZ4
        return packed
    if len(packed) < _LZ4_HEAD.size:
        raise ValueError("frame is cut short")
    _, raw_bytes = _LZ4_HEAD.unpack_from(packed)
    if raw_bytes > RAW_BYTES_MAX or raw_bytes > LZ4_RATIO_MAX * len(packed):
        raise ValueError(f"frame of {len(packed)} bytes claims {raw_bytes}")
    try:
        raw: bytes = lz4.block.decompress(packed[_LZ4_HEAD.size :], uncompressed_size=raw_bytes)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"frame does not decompress: {error}") from error
    if len(raw) != raw_bytes:
        raise ValueError(f"frame decompresses to {len(raw)} bytes instead of {raw_bytes}")
    return raw


def unpack_row(packed: bytes) -> Row:
    """The row that pack_row was given, compressed or not. Raises ValueError when there is none in it."""
    raw = raw_of(packed)
    kind = raw[0] if raw else 0
    if kind == KIND_OTHER and len(raw) >= _OTHER_HEAD.size:
        body_at = _OTHER_HEAD.size + _OTHER_HEAD.unpack_from(raw)[1]
        rows = batch.rows_from(batch.unpack_head(raw[_OTHER_HEAD.size : body_at]), raw[body_at:])
        if len(rows) != 1:
            raise ValueError(f"{len(rows)} rows where one was packed")
        return rows[0]
    if kind != KIND_PLAIN or len(raw) < PLAIN_HEAD.size:
        raise ValueError(f"packed row of kind {kind} and {len(raw)} bytes unknown, or cut short")
    _, flags, id_bytes, generation, hlc, node, size, seq, digest = PLAIN_HEAD.unpack_from(raw)
    body_at = PLAIN_HEAD.size + id_bytes
    body = raw[body_at:] if flags & FLAG_BODY else None
    if body_at > len(raw) or flags > FLAGS_PLAIN or len(raw) - body_at != (size if flags & FLAG_BODY else 0):
        raise ValueError(f"row of {len(raw)} bytes with flags {flags}, id of {id_bytes} and body of {size} bytes")
    leaf = Leaf(generation, hlc, node, bool(flags & FLAG_DELETED), size, digest)
    return Row(raw[PLAIN_HEAD.size : body_at], (leaf,), (body,), seq, bool(flags & 2), bool(flags & FLAG_STRAY))


def extent_of(packed: bytes, id_bytes: int) -> tuple[int, int]:
    """About how many bytes the row's bodies have, and how many its part of a head before compression."""
    raw_bytes = len(packed)
    if packed[0] == KIND_LZ4:
        raw_bytes = _LZ4_HEAD.unpack_from(packed)[1]
    elif packed[0] == KIND_OTHER:
        head_bytes: int = _OTHER_HEAD.unpack_from(packed)[1]
        return raw_bytes - head_bytes, head_bytes
    return raw_bytes - PLAIN_HEAD.size - id_bytes, HEAD_ROW_BYTES + id_bytes // 2


def flat_of(packed: bytes, id_key: bytes) -> Flat:
    """What a block is packed from (batch.Flat), without an object that it does not need.

    Raises ValueError when the packed row is not that of the id.
    """
    raw = packed if packed[0] == KIND_PLAIN else raw_of(packed)
    if raw[0] != KIND_PLAIN:
        row = unpack_row(raw)
        if row.id_key != id_key:
            raise ValueError("the row of another id stands there")
        return batch.flat_row(row)
    _, flags, id_bytes, generation, hlc, node, size, seq, digest = PLAIN_HEAD.unpack_from(raw)
    body_at = PLAIN_HEAD.size + id_bytes
    if raw[PLAIN_HEAD.size : body_at] != id_key or len(raw) - body_at != (size if flags & FLAG_BODY else 0):
        raise ValueError("the row of another id stands there, or it is cut short")
    return id_key, flags, generation, hlc, node, size, seq, digest, raw[body_at:], None
