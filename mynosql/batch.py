"""Runs of rows as columns: the one codec for journal frames and blocks (then LZMA) and for messages (then lz4).

A head holds everything but the bodies, column by column, so that equal and slowly growing values cost next to
nothing after compression; the bodies follow as one stream in row order. A row that is more than one plain leaf
(conflicts, ancestry, a stale body) carries the rest in `extra`. Pure: no file, no clock. Byte tables:
docs/FORMAT.md, "Head". Bytes that are not a valid batch raise ValueError and nothing else; the callers say whose
fault it is (StorageCorrupt, PeerError).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, repeat
from typing import Any, NamedTuple

import lz4.block
import msgpack

from mynosql.columns import ID_BYTES_MAX, ColumnReader, NumberColumn, pack_ids, pack_numbers
from mynosql.idkey import check_id_keys
from mynosql.revision import pack_leaves, unpack_leaves
from mynosql.row import DIGEST_BYTES, NO_DIGEST, Entry, Leaf, Leaves, Row, StaleBody

FLAG_DELETED = 1
FLAG_OWED = 2
FLAG_STRAY = 4
FLAG_BODY = 8
"""The winner's body is in the stream."""
FLAG_EXTRA = 16
"""The row's whole leaf set, the mask of carried bodies and the stale leaf stand in `extra`."""
FLAGS_ALL = 31
FLAGS_PLAIN = FLAG_DELETED | FLAG_OWED | FLAG_STRAY | FLAG_BODY
"""Those of a row without anything extra."""

_SINGLE = 1
_COLUMNS = 2
_WIRE_STORED = 1
_WIRE_LZ4 = 2

ROWS_MAX = 1 << 20
"""Rows in one head; a row costs some 600 bytes of memory once unpacked."""
GENERATION_MAX = 1 << 31
SEQ_MAX = (1 << 63) - 1
"""The index keeps it as a signed number of 64 bits."""
SIZE_MAX = 1 << 28
"""Bytes of one packed body (codec.BODY_BYTES_MAX)."""
LZ4_EXPANSION_MAX = 255
"""An lz4 block cannot unpack to more than this many times its length: a larger claim is a lie."""

HIGH_COMPRESSION_BYTES_MIN = 8 << 10
HIGH_COMPRESSION_LEVEL = 3
"""How batches are compressed for the wire: by lz4's default, or, where that already takes off a third of at least this
many bytes, by its high compression, which every lz4 reads at the same speed. Measured over 1,000 (100) readings of 12
to 13 fields, 204 bytes from wandering sensors and 228 from random ones, head included:

| | bytes a row, 204 | bytes a row, 228 | µs a row |
| default | 58 (65) | 63 (70) | 0.1-0.2 |
| high compression 3 | 44 (55) | 51 (61) | 1.0-1.2 |
| high compression 9 | 42 (53) | 50 (60) | 2.6-3.2 |
| zlib 1 | 47 (52) | 52 (57) | 0.9-1.1, and 0.3 to decompress against 0.03 |

Below some 8 KiB level 3 saves 5 % and costs 2 µs a call. Transposing the bodies of equal length took 8 bytes off the
first kind and added 19 to 100 of the second."""

_SINGLE_HEAD = struct.Struct("<BBHIQQIQ8s")
_COLUMNS_HEAD = struct.Struct("<BI")
_U32 = struct.Struct("<I")
_WIRE_HEAD = struct.Struct("<BI")
_U64 = 1 << 64

_new_leaf = partial(tuple.__new__, Leaf)
_new_row = partial(tuple.__new__, Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireLimits:
    """What one batch from another node may cost before a byte of it is unpacked."""

    raw_bytes_max: int = 16 << 20
    """Bytes after decompression; a batch of bodies is a megabyte or so, large bodies travel in pieces."""
    rows_max: int = 1 << 16


class Span(NamedTuple):
    """Where one body lies in the stream of bodies."""

    offset: int
    length: int


class _Extra(NamedTuple):
    leaves: Leaves
    held: int
    stale: Leaf | None

    def body_bytes(self) -> int:
        carried = sum(leaf.size for i, leaf in enumerate(self.leaves) if self.held >> i & 1)
        return carried + (self.stale.size if self.stale else 0)


# Packing


Flat = tuple[bytes, int, int, int, int, int, int, bytes, bytes, "list[Any] | None"]
"""A row as columns are made from it: id key, flags, the winner's generation, hlc, node and size, seq, the winner's
digest, the bodies it carries joined, and what else there is (_pack_extra), None for a plain row. A plain tuple: a
seal makes one per row."""


def flat_row(row: Row) -> Flat:
    """The row for pack_flats."""
    id_key, leaves, bodies, seq, owed, stray, stale = row
    generation, hlc, node, deleted, size, digest, ancestry = leaves[0]
    body = bodies[0]
    assert body is None or len(body) == size, "a row carries a body of another size than its leaf states"
    flags = deleted | owed << 1 | stray << 2 | (body is not None) << 3
    if stale is None and len(leaves) == 1 and ancestry is None:
        return id_key, flags, generation, hlc, node, size, seq, digest, body or b"", None
    return (
        id_key, flags | FLAG_EXTRA, generation, hlc, node, size, seq, digest, pack_bodies((row,)), _pack_extra(row)
    )


def pack_flats(flats: Sequence[Flat], *, flags_mask: int = FLAGS_ALL) -> tuple[bytes, bytes]:
    """Head and bodies of these rows, which unpack_head and rows_from read, flags outside the mask left out."""
    id_keys, flags, generations, hlcs, nodes, sizes, seqs, digests, bodies, extras = zip(*flats, strict=True)
    kept_flags = flags if flags_mask == FLAGS_ALL else [value & flags_mask for value in flags]
    return _pack_columns(id_keys, kept_flags, generations, hlcs, nodes, sizes, seqs, digests, extras), b"".join(bodies)


def pack_head(rows: Sequence[Row]) -> bytes:
    """Everything of the rows but their bodies; unpack_head reads it. Not compressed."""
    return pack_flats(list(map(flat_row, rows)))[0] if rows else _COLUMNS_HEAD.pack(_COLUMNS, 0)


def pack_bodies(rows: Sequence[Row]) -> bytes:
    """The bodies that the rows carry, in row order, in a row by leaf, its stale body last."""
    parts: list[bytes] = []
    for row in rows:
        parts += [body for body in row[2] if body is not None]
        if row[6] is not None:
            parts.append(row[6][1])
    return b"".join(parts)


def pack_wire(rows: Sequence[Row]) -> bytes:
    """One message part with head and bodies, compressed; what our disk alone needs (owed, stray, stale) is left out."""
    if any(row[6] is not None for row in rows):
        rows = [row if row[6] is None else row._replace(stale=None) for row in rows]
    head, bodies = _COLUMNS_HEAD.pack(_COLUMNS, 0), b""
    if rows:
        head, bodies = pack_flats(list(map(flat_row, rows)), flags_mask=FLAGS_ALL & ~(FLAG_OWED | FLAG_STRAY))
    raw = b"".join((_U32.pack(len(head)), head, bodies))
    packed: bytes = lz4.block.compress(raw, store_size=False)
    if len(packed) >= len(raw):
        return _WIRE_HEAD.pack(_WIRE_STORED, len(raw)) + raw
    if len(raw) >= HIGH_COMPRESSION_BYTES_MIN and len(packed) < len(raw) * 2 // 3:
        packed = lz4.block.compress(
            raw, mode="high_compression", compression=HIGH_COMPRESSION_LEVEL, store_size=False
        )
    return _WIRE_HEAD.pack(_WIRE_LZ4, len(raw)) + packed


def _pack_columns(
    id_keys: Sequence[bytes], flags: Sequence[int], generations: Sequence[int], hlcs: Sequence[int],
    nodes: Sequence[int], sizes: Sequence[int], seqs: Sequence[int], digests: Sequence[bytes],
    extras: Sequence[list[Any] | None],
) -> bytes:
    if len(flags) == 1 and extras[0] is None:
        return _SINGLE_HEAD.pack(
            _SINGLE, flags[0], len(id_keys[0]), generations[0], hlcs[0], nodes[0], sizes[0], seqs[0], digests[0]
        ) + id_keys[0]
    node_table = sorted(set(nodes))
    number = {node: i for i, node in enumerate(node_table)}
    parts = [
        _COLUMNS_HEAD.pack(_COLUMNS, len(flags)),
        pack_ids(id_keys),
        pack_numbers(flags),
        pack_numbers(generations),
        pack_numbers(hlcs, is_growing=True),
        _U32.pack(len(node_table)) + struct.pack(f"<{len(node_table)}Q", *node_table),
        pack_numbers([number[node] for node in nodes]) if len(node_table) > 1 else _NO_NUMBERS,
        pack_numbers(sizes),
        pack_numbers(seqs, is_growing=True),
        b"".join(digests),
    ]
    extra = [item for item in extras if item is not None]
    if extra:
        parts.append(msgpack.packb(extra))
    return b"".join(parts)


_NO_NUMBERS = pack_numbers([0])
"""Any number of zeros."""


def _pack_extra(row: Row) -> list[Any]:
    held = 0
    for i, (leaf, body) in enumerate(zip(row.leaves, row.bodies, strict=True)):
        if body is not None:
            assert len(body) == leaf.size, "a row carries a body of another size than its leaf states"
            assert not leaf.deleted, "a row carries the body of a deleted revision"
            held |= 1 << i
    if row.stale is None:
        return [pack_leaves(row.leaves), held, b""]
    assert len(row.stale.body) == row.stale.leaf.size, "a stale body has another size than its leaf states"
    return [pack_leaves(row.leaves), held, pack_leaves((row.stale.leaf,))]


# Unpacking


class Head:
    """What pack_head packed: rows by position, without bodies. find() needs rows sorted by id key, as in a block."""

    __slots__ = (
        "_digests", "_extra", "_flags", "_generations", "_hlcs", "_id_keys", "_nodes", "_offsets", "_seqs", "_sizes",
        "count",
    )

    def __init__(self, data: bytes, rows_max: int = ROWS_MAX) -> None:
        self._offsets: array[int] | None = None
        self._extra: dict[int, _Extra] = {}
        kind = data[0] if data else 0
        if kind == _SINGLE and len(data) >= _SINGLE_HEAD.size:
            self._read_single(data)
        elif kind == _COLUMNS:
            self._read_columns(ColumnReader(data), rows_max)
        else:
            raise ValueError(f"head of kind {kind} and {len(data)} bytes unknown")
        if self.count and min(self._generations) < 1:
            raise ValueError("generation 0 in a head")
        if any(value & FLAG_DELETED for value in set(self._flags)):
            self._check_deleted()

    def _read_single(self, data: bytes) -> None:
        _, flags, id_bytes, generation, hlc, node, size, seq, digest = _SINGLE_HEAD.unpack_from(data)
        self.count = 1
        self._id_keys: Sequence[bytes] = [data[_SINGLE_HEAD.size :]]
        self._flags: bytes = bytes((flags,))
        self._generations: Sequence[int] = (generation,)
        self._hlcs: Sequence[int] = (hlc,)
        self._nodes: Sequence[int] = (node,)
        self._sizes: Sequence[int] = (size,)
        self._seqs: Sequence[int] = (seq,)
        self._digests: bytes = digest
        if (
            id_bytes != len(data) - _SINGLE_HEAD.size or id_bytes > ID_BYTES_MAX or flags >= FLAG_EXTRA
            or generation > GENERATION_MAX or size > SIZE_MAX or seq > SEQ_MAX
        ):
            raise ValueError("head of a single row out of bounds")

    def _read_columns(self, reader: ColumnReader, rows_max: int) -> None:
        _, self.count = reader.unpack(_COLUMNS_HEAD)
        count = self.count
        # Constant columns cost no bytes: without this, a few bytes would claim four thousand million rows.
        if count > rows_max or count * DIGEST_BYTES > len(reader.data):
            raise ValueError(f"head claims {count} rows in {len(reader.data)} bytes, at most {rows_max} expected")
        if not count:
            self._id_keys, self._digests, self._flags = [], b"", b""
            self._generations = self._hlcs = self._nodes = self._sizes = self._seqs = ()
            if reader.rest():
                raise ValueError("bytes behind an empty head")
            return
        self._id_keys = reader.ids(count)
        self._flags = bytes(reader.numbers(count, below=FLAGS_ALL + 1).all())
        self._generations = reader.numbers(count, below=GENERATION_MAX + 1)
        self._hlcs = reader.numbers(count, below=_U64)
        (node_count,) = reader.unpack(_U32)
        if not 0 < node_count <= count:
            raise ValueError(f"head claims {node_count} nodes for {count} rows")
        table = struct.unpack(f"<{node_count}Q", reader.take(8 * node_count))
        numbers = reader.numbers(count, below=node_count)
        self._nodes = NumberColumn(b"", count, table[0], 0, None) if node_count == 1 else [table[i] for i in numbers]
        self._sizes = reader.numbers(count, below=SIZE_MAX + 1)
        self._seqs = reader.numbers(count, below=SEQ_MAX + 1)
        self._digests = reader.take(DIGEST_BYTES * count)
        self._read_extra(reader.rest())

    def _read_extra(self, data: bytes) -> None:
        positions = [i for i, flags in enumerate(self._flags) if flags & FLAG_EXTRA]
        if not positions:
            if data:
                raise ValueError(f"{len(data)} bytes behind the head")
            return
        for i, item in zip(positions, _unpack_extra(data, len(positions)), strict=True):
            if item.leaves[0][:6] != self._winner(i)[:6] or bool(item.held & 1) is not bool(self._flags[i] & FLAG_BODY):
                raise ValueError(f"row {i}: the winner in the columns is not the first of its leaves")
            self._extra[i] = item

    def _check_deleted(self) -> None:
        for i, flags in enumerate(self._flags):
            if flags & FLAG_DELETED and (flags & FLAG_BODY or self._sizes[i] or self._digest(i) != NO_DIGEST):
                raise ValueError(f"row {i}: deleted, and yet with a body")

    def _winner(self, i: int) -> Leaf:
        return Leaf(
            self._generations[i], self._hlcs[i], self._nodes[i], bool(self._flags[i] & FLAG_DELETED), self._sizes[i],
            self._digest(i),
        )

    def _digest(self, i: int) -> bytes:
        return self._digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES]


    def id_key(self, i: int) -> bytes:
        return self._id_keys[i]

    def seq(self, i: int) -> int:
        return self._seqs[i]

    def flags(self, i: int) -> int:
        """FLAG_* bits."""
        return self._flags[i]

    def leaves(self, i: int) -> Leaves:
        """The leaf set of row i."""
        extra = self._extra.get(i)
        return (self._winner(i),) if extra is None else extra.leaves

    def entry(self, i: int) -> Entry:
        """Row i as the index answers it. Deleted leaves count as held."""
        flags = self._flags[i]
        extra = self._extra.get(i)
        if extra is None:
            held = int(bool(flags & (FLAG_BODY | FLAG_DELETED)))
            return Entry(self._id_keys[i], (self._winner(i),), held, self._seqs[i], bool(flags & FLAG_OWED), None)
        held = extra.held | sum(1 << k for k, leaf in enumerate(extra.leaves) if leaf.deleted)
        return Entry(self._id_keys[i], extra.leaves, held, self._seqs[i], bool(flags & FLAG_OWED), extra.stale)

    def find(self, id_key: bytes) -> int | None:
        """The position of this id in a head whose rows are sorted by id key."""
        i = bisect_left(self._id_keys, id_key)
        return i if i < self.count and self._id_keys[i] == id_key else None

    def body_span(self, i: int, leaf: int = 0) -> Span | None:
        """Where the body of a leaf of row i lies in the bodies; None when it is not carried."""
        extra = self._extra.get(i)
        if extra is None:
            if leaf or not self._flags[i] & FLAG_BODY:
                return None
            return Span(self._body_offsets()[i], self._sizes[i])
        if not extra.held >> leaf & 1:
            return None
        before = sum(item.size for k, item in enumerate(extra.leaves[:leaf]) if extra.held >> k & 1)
        return Span(self._body_offsets()[i] + before, extra.leaves[leaf].size)

    def stale_span(self, i: int) -> Span | None:
        """Where the stale body of row i lies in the bodies."""
        extra = self._extra.get(i)
        if extra is None or extra.stale is None:
            return None
        return Span(self._body_offsets()[i] + extra.body_bytes() - extra.stale.size, extra.stale.size)

    @property
    def bodies_bytes(self) -> int:
        """Bytes of all bodies that the rows carry."""
        return self._body_offsets()[-1]

    def expand(self) -> None:
        """The columns are decoded: for who is going to ask for row after row, and has the memory."""
        self._id_keys = list(self._id_keys)
        self._generations, self._hlcs = list(self._generations), list(self._hlcs)
        self._nodes, self._sizes, self._seqs = list(self._nodes), list(self._sizes), list(self._seqs)

    def _body_offsets(self) -> Sequence[int]:
        """Where each row's bodies start, and the end."""
        if self._offsets is None:
            lengths = [size if flags & FLAG_BODY else 0 for size, flags in zip(self._sizes, self._flags, strict=True)]
            for i, extra in self._extra.items():
                lengths[i] = extra.body_bytes()
            self._offsets = array("Q", accumulate(lengths, initial=0))
        return self._offsets

    def row(self, i: int, bodies: bytes | None) -> Row:
        """Row i; bodies: those of all rows, bodies_bytes long, or None to leave them out."""
        value = self._flags[i]
        body = None
        if bodies is not None and value & FLAG_BODY:
            offsets = self._body_offsets()
            body = bodies[offsets[i] : offsets[i + 1]]
        leaf = _new_leaf((
            self._generations[i], self._hlcs[i], self._nodes[i], bool(value & FLAG_DELETED), self._sizes[i],
            self._digest(i), None,
        ))
        row = _new_row((
            self._id_keys[i], (leaf,), (body,), self._seqs[i], bool(value & FLAG_OWED), bool(value & FLAG_STRAY), None
        ))
        extra = self._extra.get(i)
        return row if extra is None else self._extra_row(row, i, extra, bodies)

    def _rows(self, bodies: bytes | None) -> list[Row]:
        count, flags = self.count, self._flags
        if bodies is not None and self.bodies_bytes != len(bodies):
            raise ValueError(f"head names {self.bodies_bytes} bytes of bodies, {len(bodies)} there")
        if count == 1 and not self._extra:
            value = flags[0]
            body = bodies if value & FLAG_BODY else None
            return [Row(
                self._id_keys[0], (self._winner(0),), (body,), self._seqs[0], bool(value & FLAG_OWED),
                bool(value & FLAG_STRAY),
            )]
        deleted = [bool(value & FLAG_DELETED) for value in flags]
        leaves = map(_new_leaf, zip(
            self._generations, self._hlcs, self._nodes, deleted, self._sizes,
            [self._digests[at : at + DIGEST_BYTES] for at in range(0, len(self._digests), DIGEST_BYTES)],
            repeat(None, count),
            strict=True))
        owed = [bool(value & FLAG_OWED) for value in flags]
        stray = [bool(value & FLAG_STRAY) for value in flags]
        carried: Iterable[tuple[bytes | None]]
        if bodies is None:
            carried = repeat((None,), count)
        else:
            offsets = self._body_offsets()
            carried = [
                (bodies[start:end],) if value & FLAG_BODY else (None,)
                for start, end, value in zip(offsets[:-1], offsets[1:], flags, strict=True)
            ]
        rows = list(map(_new_row, zip(
            self._id_keys, zip(leaves), carried, self._seqs, owed, stray, repeat(None, count), strict=True)))
        for i, extra in self._extra.items():
            rows[i] = self._extra_row(rows[i], i, extra, bodies)
        return rows

    def _extra_row(self, row: Row, i: int, extra: _Extra, bodies: bytes | None) -> Row:
        if bodies is None:
            return row._replace(leaves=extra.leaves, bodies=(None,) * len(extra.leaves))
        at = self._body_offsets()[i]
        carried: list[bytes | None] = []
        for k, leaf in enumerate(extra.leaves):
            is_held = extra.held >> k & 1
            carried.append(bodies[at : at + leaf.size] if is_held else None)
            at += leaf.size if is_held else 0
        stale = StaleBody(extra.stale, bodies[at : at + extra.stale.size]) if extra.stale else None
        return row._replace(leaves=extra.leaves, bodies=tuple(carried), stale=stale)


def _unpack_extra(data: bytes, count: int) -> list[_Extra]:
    try:
        items = msgpack.unpackb(
            data, use_list=True, max_array_len=max(count, 3), max_map_len=0, max_str_len=0, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"extra columns unreadable: {error}") from error
    if type(items) is not list or len(items) != count:
        raise ValueError(f"extra columns: {count} rows expected")
    found = []
    for item in items:
        if type(item) is not list or list(map(type, item)) != [bytes, int, bytes]:
            raise ValueError("extra columns: leaves, held and stale expected")
        leaves, held = unpack_leaves(item[0]), item[1]
        stale = unpack_leaves(item[2]) if item[2] else ()
        if not 0 <= held < 1 << len(leaves) or any(leaf.deleted and held >> i & 1 for i, leaf in enumerate(leaves)):
            raise ValueError("extra columns: a body without a live leaf")
        if len(stale) > 1 or any(leaf.deleted for leaf in stale):
            raise ValueError("extra columns: one live leaf expected for a stale body")
        found.append(_Extra(leaves, held, stale[0] if stale else None))
    return found


def unpack_head(data: bytes) -> Head:
    """The rows of a head by position. Raises ValueError when it is not what pack_head made."""
    return Head(data)


def rows_from(head: Head, bodies: bytes | None) -> list[Row]:
    """All rows of a head; bodies: what pack_bodies made of them, or None to leave every body and stale out."""
    return head._rows(bodies)


def unpack_wire(data: bytes, limits: WireLimits) -> list[Row]:
    """The rows of one message part; raises ValueError when it is not a batch or beyond the limits.

    Memory is bounded before it is spent: by the limits, and by what the compression can make of these bytes.
    """
    if len(data) < _WIRE_HEAD.size:
        raise ValueError(f"batch of {len(data)} bytes is cut short")
    kind, raw_bytes = _WIRE_HEAD.unpack_from(data)
    block = data[_WIRE_HEAD.size :]
    if raw_bytes > limits.raw_bytes_max or raw_bytes > LZ4_EXPANSION_MAX * len(block):
        raise ValueError(f"batch of {len(block)} bytes claims {raw_bytes}, at most {limits.raw_bytes_max} expected")
    if kind == _WIRE_LZ4:
        try:
            raw = lz4.block.decompress(block, uncompressed_size=raw_bytes)
        except lz4.block.LZ4BlockError as error:
            raise ValueError(f"batch does not decompress: {error}") from error
    elif kind == _WIRE_STORED:
        raw = block
    else:
        raise ValueError(f"batch kind {kind} unknown")
    if len(raw) != raw_bytes or raw_bytes < _U32.size:
        raise ValueError(f"batch claims {raw_bytes} bytes, {len(raw)} there")
    (head_bytes,) = _U32.unpack_from(raw)
    if head_bytes > raw_bytes - _U32.size:
        raise ValueError(f"head claims {head_bytes} of {raw_bytes} bytes")
    head = Head(raw[_U32.size : _U32.size + head_bytes], limits.rows_max)
    is_private = any(flags & (FLAG_OWED | FLAG_STRAY) for flags in set(head._flags))
    if is_private or any(extra.stale for extra in head._extra.values()):
        raise ValueError("batch carries what another node must not say (owed, stray or stale)")
    check_id_keys(list(head._id_keys))
    return rows_from(head, raw[_U32.size + head_bytes :])
