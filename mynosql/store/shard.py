"""The bytes of sealed blocks: rows of one segment, cut small, each block checked and readable alone.

Owns the layout of a shard file. A block is a header, a head (the rows' columns) and a body stream (their bodies);
a large body is cut in pieces that decode alone. Pure functions over rows and bytes; what reads takes the Files door.
Driven by seal.py (packing), Store (reading) and check (verify_block). Layout: docs/FORMAT.md, "Shard".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple
from zlib import crc32

import lz4.block

from mynosql import batch, codec
from mynosql.batch import Flat
from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.row import Leaf, Row
from mynosql.store import streams
from mynosql.store.files import Files
from mynosql.store.streams import PIECE_BYTES as PIECE_BYTES
from mynosql.store.streams import Bodies as Bodies
from mynosql.store.streams import Piece

FORMAT = 1
FILE_MAGIC = b"MNSQLsh"
FILE_HEADER = struct.Struct("<7sBQI")  # magic, format, shard number, crc32 of what stands before
BLOCK_MAGIC = b"BLK"
# magic, format, crc32 of the head part, kind, count, number, segment, head raw, head stored, body raw, body stored,
# body crc
HEADER = struct.Struct("<3sBIBHIIIIQQI")
_CRC_FROM = 8
"""The head's crc covers everything from here to the end of the head part."""

SLOT_BITS = 12
ROWS_A_BLOCK_MAX = 1 << SLOT_BITS
BLOCK_BYTES_MAX = 32 << 10
HEAD_COST_MAX = 10 << 10
"""Cut earlier than the bodies ask for: reading a head costs about 1 µs a row (256 plain rows: 0.2 ms), and longer
ones save nothing (measured: 10.1 bytes a row at 210 rows, 9.9 at 840)."""
HEAD_RAW_MAX = 64 << 20
"""Sanity bound for one head; a single row of 64 leaves with 64-node vectors stays far below it."""
_HEAD_AS_IS = 1
_THERE = batch.FLAG_BODY | batch.FLAG_DELETED
_ROW_BYTES = 32
"""What one row of a decoded head holds in memory beyond its bytes: numbers in arrays, of which each column is one."""
_HEAD_FIELDS_BYTES = 500
"""What a head that is not decoded holds beside its columns."""
_HEAD_BYTES = 1500
"""What a decoded head holds whatever its rows: its objects."""


class BlockRef(NamedTuple):
    """Where a block lies and what it must be."""

    number: int
    shard: int
    offset: int
    head_bytes: int
    """Header, head and piece table."""
    body_bytes: int
    row_count: int


class PackedBlock(NamedTuple):
    """One block, ready to be appended to a shard."""

    data: bytes
    number: int
    head_bytes: int
    body_bytes: int
    row_count: int
    seq_min: int
    """Lowest seq of its rows, strays left out; 0 when there are only strays."""
    seq_max: int
    missing: int
    """Live rows whose winner's body is not carried."""

    def ref(self, shard: int, offset: int) -> BlockRef:
        return BlockRef(self.number, shard, offset, self.head_bytes, self.body_bytes, self.row_count)


def shard_name(number: int) -> str:
    return f"shard-{number:08d}"


def parse_shard_name(name: str) -> int | None:
    """The number in a shard's file name, None for any other file."""
    prefix, _, digits = name.partition("-")
    return int(digits) if prefix == "shard" and digits.isascii() and digits.isdigit() else None


def pack_file_header(number: int) -> bytes:
    """The first bytes of a shard file; blocks follow."""
    start = FILE_HEADER.pack(FILE_MAGIC, FORMAT, number, 0)[:-4]
    return start + crc32(start).to_bytes(4, "little")


def place_of(block_number: int, slot: int) -> int:
    return block_number << SLOT_BITS | slot


def block_of(place: int) -> int:
    return place >> SLOT_BITS


def slot_of(place: int) -> int:
    return place & ROWS_A_BLOCK_MAX - 1


def cut_blocks(extents: Iterable[tuple[int, int]], block_bytes_max: int = BLOCK_BYTES_MAX) -> Iterator[slice]:
    """Cut rows, sorted by id key, into runs that each make one block.

    extents: for each row the bytes of its bodies and about what it adds to a raw head. A block's bodies stay within
    block_bytes_max and its head small; a row that is larger alone makes a block of its own, so that only a single row
    is ever cut in pieces.
    """
    start = end = body_bytes = head_cost = 0
    for row_bytes, row_cost in extents:
        is_full = body_bytes + row_bytes > block_bytes_max or head_cost + row_cost > HEAD_COST_MAX
        if end > start and (is_full or end - start >= ROWS_A_BLOCK_MAX):
            yield slice(start, end)
            start, body_bytes, head_cost = end, 0, 0
        end += 1
        body_bytes += row_bytes
        head_cost += row_cost
    if end > start:
        yield slice(start, end)


def pack_block(rows: Sequence[Flat], *, number: int, segment: int = 0, preset: int = 1) -> PackedBlock:
    """Pack rows, sorted by id key, as block `number` of a segment. preset: LZMA effort, 1 or, when there is time, 6."""
    head_raw, body_raw = batch.pack_flats(rows)
    assert 0 < len(rows) <= ROWS_A_BLOCK_MAX
    assert len(head_raw) <= HEAD_RAW_MAX
    head = streams.compress(head_raw, preset)
    body = streams.pack_stream(body_raw, preset)
    kind = body.kind
    if head is None:
        head, kind = head_raw, kind | _HEAD_AS_IS
    rest = HEADER.pack(
        BLOCK_MAGIC, FORMAT, 0, kind, len(rows), number, segment, len(head_raw), len(head), len(body_raw),
        len(body.stored), crc32(body.stored),
    )[_CRC_FROM:] + head + body.table
    data = BLOCK_MAGIC + bytes((FORMAT,)) + crc32(rest).to_bytes(4, "little") + rest
    flags = bytes([row[1] for row in rows])
    seqs = [row[6] for row in rows if not row[1] & batch.FLAG_STRAY]
    return PackedBlock(
        data=data + body.stored, number=number, head_bytes=len(data), body_bytes=len(body.stored), row_count=len(rows),
        seq_min=min(seqs, default=0), seq_max=max(seqs, default=0),
        missing=sum([flags.count(value) for value in set(flags) if not value & _THERE]),
    )


class _Header(NamedTuple):
    """The fields of HEADER in order."""

    magic: bytes
    version: int
    crc: int
    kind: int
    row_count: int
    number: int
    segment: int
    head_raw: int
    head_stored: int
    body_raw: int
    body_stored: int
    body_crc: int


class BlockHead(NamedTuple):
    """A block's decoded head."""

    ref: BlockRef
    segment: int
    """Number of the segment that it was written for."""
    rows: batch.Head
    body_kind: int
    body_raw: int
    body_crc: int
    pieces: tuple[Piece, ...]
    """Empty unless the bodies are cut in pieces."""
    memory_bytes: int
    """About what it costs to keep."""


class HeadBytes(NamedTuple):
    """A block's head that was read and checked, its rows not decoded."""

    ref: BlockRef
    segment: int
    body_kind: int
    body_raw: int
    body_crc: int
    pieces: tuple[Piece, ...]
    columns: bytes
    """As batch.unpack_head takes them."""
    is_packed: bool
    """They are packed with lz4."""

    @property
    def memory_bytes(self) -> int:
        """About what it costs to keep."""
        return len(self.columns) + _HEAD_FIELDS_BYTES


def ref_at(files: Files, shard: int, offset: int) -> BlockRef:
    """What the header at this offset says of its block: how a lost index is made anew. Raises StorageCorrupt.

    Only the header is read and nothing is checked but its shape; read_head() tells whether it can be believed.
    """
    data = files.read(shard_name(shard), offset, HEADER.size)
    if len(data) < HEADER.size or data[:3] != BLOCK_MAGIC:
        raise StorageCorrupt(files.path(shard_name(shard)), offset, "no block starts here")
    header = _Header._make(HEADER.unpack(data))
    pieces = -(-header.body_raw // streams.PIECE_BYTES) if header.kind & ~_HEAD_AS_IS == streams.PIECES else 0
    head_bytes = HEADER.size + header.head_stored + pieces * streams.PIECE_ENTRY_BYTES
    return BlockRef(header.number, shard, offset, head_bytes, header.body_stored, header.row_count)


def read_head(files: Files, ref: BlockRef) -> BlockHead:
    """Read and check header and head of a block: one read, no bodies. Raises StorageCorrupt."""
    return decode_head(files, read_head_bytes(files, ref))


def read_head_bytes(files: Files, ref: BlockRef) -> HeadBytes:
    """The same for decode_head(), and to be kept with pack_head(). Raises StorageCorrupt."""
    return _check_head(files, ref, files.read(shard_name(ref.shard), ref.offset, ref.head_bytes))


def pack_head(head: HeadBytes) -> HeadBytes:
    """In a fifth of the memory of a decoded one: decoding it again takes a fifth of reading it from its block."""
    return head._replace(columns=lz4.block.compress(head.columns), is_packed=True)


def open_bodies(files: Files, ref: BlockRef, head: BlockHead) -> Bodies:
    """The block's body stream, nothing decoded yet. Raises StorageCorrupt."""
    if head.body_kind == streams.PIECES:
        return _pieced_bodies(files, ref, head)
    data = files.read(shard_name(ref.shard), ref.offset + ref.head_bytes, ref.body_bytes)
    return _bodies_from(files, ref, head, data)


def read_block(files: Files, ref: BlockRef) -> tuple[BlockHead, Bodies]:
    """Head and body stream with one read (two when the bodies are cut in pieces). Raises StorageCorrupt."""
    if ref.body_bytes > PIECE_BYTES:
        head = read_head(files, ref)
        return head, open_bodies(files, ref, head)
    data = files.read(shard_name(ref.shard), ref.offset, ref.head_bytes + ref.body_bytes)
    head = decode_head(files, _check_head(files, ref, data[:ref.head_bytes]))
    if head.body_kind == streams.PIECES:
        return head, open_bodies(files, ref, head)
    return head, _bodies_from(files, ref, head, data[ref.head_bytes:])


def read_body(files: Files, ref: BlockRef, head: BlockHead, offset: int, length: int) -> bytes:
    """Bytes of the raw body stream, decoded only as far as needed. Raises StorageCorrupt."""
    return open_bodies(files, ref, head).read(offset, length)


def check_body(files: Files, ref: BlockRef, body: bytes, leaf: Leaf) -> bytes:
    """The body itself, once its length and digest are those of its leaf. Raises StorageCorrupt."""
    if len(body) != leaf.size or codec.digest(body) != leaf.digest:
        raise _corrupt(files, ref, "a body is not the one that its revision names")
    return body


def read_rows(files: Files, ref: BlockRef, *, bodies: bool = True) -> list[Row]:
    """Every row of the block; with bodies=False none carries a body or a stale one. Raises StorageCorrupt."""
    head, raw = read_raw(files, ref, bodies=bodies)
    return batch.rows_from(head, raw)


def read_raw(files: Files, ref: BlockRef, *, bodies: bool = True) -> tuple[batch.Head, bytes | None]:
    """The block's decoded head and all its bodies, or None without them, for Head.row(). Raises StorageCorrupt."""
    if not bodies:
        return read_head(files, ref).rows, None
    head, stream = read_block(files, ref)
    if head.rows.bodies_bytes != stream.raw_bytes:
        raise _corrupt(files, ref, "its head and bodies do not fit")
    return head.rows, stream.read(0, stream.raw_bytes)


def verify_block(files: Files, ref: BlockRef) -> BlockHead:
    """Every byte of the block read, decoded and compared with checksums and digests. Raises StorageCorrupt.

    Needs memory for the whole block: one row of large bodies at most.
    """
    head, stream = read_block(files, ref)
    id_key = b""
    for row in _rows(files, ref, head, stream.read(0, stream.raw_bytes)):
        if row.id_key <= id_key:
            raise _corrupt(files, ref, "its rows are not sorted by id")
        id_key = row.id_key
        for leaf, body in zip(row.leaves, row.bodies, strict=True):
            if body is not None:
                check_body(files, ref, body, leaf)
        if row.stale is not None:
            check_body(files, ref, row.stale.body, row.stale.leaf)
    return head


def _rows(files: Files, ref: BlockRef, head: BlockHead, bodies: bytes | None) -> list[Row]:
    try:
        return batch.rows_from(head.rows, bodies)
    except ValueError as error:
        raise _corrupt(files, ref, f"its head and bodies do not fit: {error}") from error


def check_file_header(files: Files, shard: int) -> None:
    """The shard file exists and starts as it should. Raises StorageCorrupt, FormatUnknown."""
    data = files.read(shard_name(shard), 0, FILE_HEADER.size)
    path = files.path(shard_name(shard))
    is_whole = len(data) == FILE_HEADER.size and crc32(data[:-4]).to_bytes(4, "little") == data[-4:]
    if is_whole and data[:7] == FILE_MAGIC and data[7] > FORMAT:
        raise FormatUnknown(f"{path}: shard format {data[7]}, this version reads up to {FORMAT}; "
                            "open it with a newer version of mynosql")
    if data != pack_file_header(shard):
        raise StorageCorrupt(path, 0, "not the header of this shard; restore the file from a backup or another node")


def _corrupt(files: Files, ref: BlockRef, what: str) -> StorageCorrupt:
    path = files.path(shard_name(ref.shard))
    return StorageCorrupt(path, ref.offset, f"block {ref.number}: {what}; run checkdb, restore it from another node")


def _check_head(files: Files, ref: BlockRef, data: bytes) -> HeadBytes:
    if len(data) != ref.head_bytes or len(data) < HEADER.size:
        raise _corrupt(files, ref, f"cut short: {len(data)} of {ref.head_bytes} bytes of its head")
    header = _Header._make(HEADER.unpack_from(data))
    if header.magic != BLOCK_MAGIC:
        raise _corrupt(files, ref, "no block starts here")
    if crc32(memoryview(data)[_CRC_FROM:]) != header.crc:
        raise _corrupt(files, ref, "its head does not match its checksum")
    if header.version != FORMAT:
        raise _corrupt(files, ref, f"block format {header.version}, this version reads {FORMAT}")
    if (header.number, header.row_count, header.body_stored) != (ref.number, ref.row_count, ref.body_bytes):
        raise _corrupt(files, ref, f"block {header.number} with {header.row_count} rows stands in its place")
    if header.head_raw > HEAD_RAW_MAX:
        raise _corrupt(files, ref, f"its head claims {header.head_raw} bytes, at most {HEAD_RAW_MAX} expected")
    stored = data[HEADER.size:HEADER.size + header.head_stored]
    if not header.kind & _HEAD_AS_IS:
        stored = streams.decompress(stored, header.head_raw, partial(_corrupt, files, ref))
    body_kind = header.kind & ~_HEAD_AS_IS
    pieces = streams.unpack_pieces(data[HEADER.size + header.head_stored:])
    if not streams.is_sound(body_kind, header.body_raw, header.body_stored, pieces):
        raise _corrupt(files, ref, "its header contradicts itself")
    return HeadBytes(ref, header.segment, body_kind, header.body_raw, header.body_crc, pieces, stored, False)


def decode_head(files: Files, head: HeadBytes) -> BlockHead:
    """The head's rows. Raises StorageCorrupt."""
    ref, columns = head.ref, head.columns
    if head.is_packed:
        columns = lz4.block.decompress(columns)
    try:
        rows = batch.unpack_head(columns)
    except ValueError as error:
        raise _corrupt(files, ref, f"its head cannot be read: {error}") from error
    if rows.count != ref.row_count:
        raise _corrupt(files, ref, f"its head holds {rows.count} rows instead of {ref.row_count}")
    return BlockHead(
        ref, head.segment, rows, head.body_kind, head.body_raw, head.body_crc, head.pieces,
        len(columns) + _HEAD_BYTES + _ROW_BYTES * rows.count,
    )


def _bodies_from(files: Files, ref: BlockRef, head: BlockHead, stored: bytes) -> Bodies:
    if len(stored) != ref.body_bytes or crc32(stored) != head.body_crc:
        raise _corrupt(files, ref, "its bodies do not match their checksum")
    corrupt = partial(_corrupt, files, ref)
    if head.body_kind == streams.LZMA:
        return streams.LzmaBodies(stored, head.body_raw, corrupt)
    return streams.PlainBodies(stored, corrupt)


def _pieced_bodies(files: Files, ref: BlockRef, head: BlockHead) -> Bodies:
    name, start = shard_name(ref.shard), ref.offset + ref.head_bytes

    def read_stored(offset: int, length: int) -> bytes:
        return files.read(name, start + offset, length)

    return streams.PiecedBodies(read_stored, head.body_raw, head.pieces, partial(_corrupt, files, ref))
