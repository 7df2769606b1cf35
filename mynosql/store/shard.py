"""The bytes of sealed blocks: rows of one segment, cut small, each block checked and readable alone.

Owns the layout of a shard file. A block is a header, a head (the rows' columns) and a body stream (their bodies);
a large body is cut in pieces that decode alone. Pure functions over rows and bytes; what reads takes the Files door.
Driven by seal.py (packing), Store (reading) and check (verify_block). Layout: docs/FORMAT.md, "Shard".
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from mynosql import batch, codec
from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.row import Leaf, Row
from mynosql.store.files import Files

FORMAT = 1
FILE_MAGIC = b"MNSQLsh"
FILE_HEADER = struct.Struct("<7sBQI")  # magic, format, shard number, crc32 of what stands before
BLOCK_MAGIC = b"BLK"
# magic, format, crc32 of the head part, kind, count, number, head raw, head stored, body raw, body stored, body crc
HEADER = struct.Struct("<3sBIBHIIIQQI")
_CRC_FROM = 8
"""The head's crc covers everything from here to the end of the head part."""

SLOT_BITS = 12
ROWS_A_BLOCK_MAX = 1 << SLOT_BITS
BLOCK_BYTES_MAX = 32 << 10
PIECE_BYTES = 64 << 10
HEAD_RAW_MAX = 256 << 20
"""Sanity bound for a head: 4,096 rows of 1 KiB ids and 64 leaves with 64-node vectors each stay below it."""
_PIECE = struct.Struct("<II")  # stored bytes (top bit: as it is), crc32 of them
_AS_IS = 1 << 31
_HEAD_AS_IS = 1
_BODIES_NONE, _BODIES_AS_IS, _BODIES_LZMA, _BODIES_PIECES = 0, 2, 4, 6
_BODIES_MASK = 6
_DICT_MIN = 4096


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


class Bodies(Protocol):
    """The body stream of one block, decoded as far as it was asked for."""

    @property
    def raw_bytes(self) -> int: ...

    @property
    def memory_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


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


def cut_blocks(rows: Iterable[Row], block_bytes_max: int = BLOCK_BYTES_MAX) -> Iterator[list[Row]]:
    """Cut rows, sorted by id key, into runs that each make one block; a row over PIECE_BYTES stands alone."""
    run: list[Row] = []
    size = 0
    for row in rows:
        body = sum(len(body) for body in row.bodies if body is not None) + (len(row.stale.body) if row.stale else 0)
        cost = body + len(row.id_key) // 2 + 24 * len(row.leaves)
        if run and (size + cost > block_bytes_max or len(run) >= ROWS_A_BLOCK_MAX):
            yield run
            run, size = [], 0
        run.append(row)
        size += cost
    if run:
        yield run


def pack_block(rows: Sequence[Row], *, number: int, preset: int = 1) -> PackedBlock:
    """Pack rows, sorted by id key, as block `number`. preset: LZMA effort, 1 when sealing, 6 when there is time."""
    head_raw = batch.pack_head(rows)
    body_raw = batch.pack_bodies(rows)
    head = _compress(head_raw, preset)
    kind = 0
    if head is None:
        head, kind = head_raw, _HEAD_AS_IS
    table, body, body_kind = _pack_bodies(body_raw, preset)
    kind |= body_kind
    rest = HEADER.pack(
        BLOCK_MAGIC, FORMAT, 0, kind, len(rows), number, len(head_raw), len(head), len(body_raw), len(body),
        crc32(body),
    )[_CRC_FROM:] + head + table
    data = BLOCK_MAGIC + bytes((FORMAT,)) + crc32(rest).to_bytes(4, "little") + rest
    seqs = [row.seq for row in rows if not row.stray]
    return PackedBlock(
        data=data + body, number=number, head_bytes=len(data), body_bytes=len(body), row_count=len(rows),
        seq_min=min(seqs, default=0), seq_max=max(seqs, default=0),
        missing=sum(row.bodies[0] is None and not row.leaves[0].deleted for row in rows),
    )


def _pack_bodies(raw: bytes, preset: int) -> tuple[bytes, bytes, int]:
    """Piece table, stored stream, kind."""
    if not raw:
        return b"", b"", _BODIES_NONE
    if len(raw) <= PIECE_BYTES:
        packed = _compress(raw, preset)
        return (b"", raw, _BODIES_AS_IS) if packed is None else (b"", packed, _BODIES_LZMA)
    table, stream = [], []
    for start in range(0, len(raw), PIECE_BYTES):
        piece = raw[start:start + PIECE_BYTES]
        packed = _compress(piece, preset)
        stored = piece if packed is None else packed
        table.append(_PIECE.pack(len(stored) | (_AS_IS if packed is None else 0), crc32(stored)))
        stream.append(stored)
    return b"".join(table), b"".join(stream), _BODIES_PIECES


def _filters(raw_bytes: int, preset: int) -> list[dict[str, Any]]:
    return [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": max(_DICT_MIN, raw_bytes)}]


def _compress(raw: bytes, preset: int) -> bytes | None:
    """The raw LZMA2 stream, None when it does not shrink by 5 %."""
    packed = lzma.compress(raw, lzma.FORMAT_RAW, filters=_filters(len(raw), preset))
    return packed if len(packed) <= len(raw) * 0.95 else None


class BlockHead(NamedTuple):
    """A block's decoded head."""

    ref: BlockRef
    rows: batch.Head
    body_kind: int
    body_raw: int
    body_crc: int
    pieces: tuple[tuple[int, int, int, bool], ...]
    """Per piece: offset in the stored stream, stored bytes, crc32, stored as it is. Empty unless cut in pieces."""
    memory_bytes: int
    """About what it costs to keep."""


def read_head(files: Files, ref: BlockRef) -> BlockHead:
    """Read and check header and head of a block: one read, no bodies. Raises StorageCorrupt."""
    return _decode_head(files, ref, files.read(shard_name(ref.shard), ref.offset, ref.head_bytes))


def open_bodies(files: Files, ref: BlockRef, head: BlockHead) -> Bodies:
    """The block's body stream, nothing decoded yet. Raises StorageCorrupt."""
    if head.body_kind == _BODIES_PIECES:
        return _PiecedBodies(files, ref, head)
    data = files.read(shard_name(ref.shard), ref.offset + ref.head_bytes, ref.body_bytes)
    return _bodies_from(files, ref, head, data)


def read_block(files: Files, ref: BlockRef) -> tuple[BlockHead, Bodies]:
    """Head and body stream with one read (two when the bodies are cut in pieces). Raises StorageCorrupt."""
    if ref.body_bytes > PIECE_BYTES:
        head = read_head(files, ref)
        return head, open_bodies(files, ref, head)
    data = files.read(shard_name(ref.shard), ref.offset, ref.head_bytes + ref.body_bytes)
    head = _decode_head(files, ref, data[:ref.head_bytes])
    if head.body_kind == _BODIES_PIECES:
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
    """Every row of the block; with bodies=False none carries a body. Raises StorageCorrupt."""
    if not bodies:
        return batch.rows_from(read_head(files, ref).rows, None)
    head, stream = read_block(files, ref)
    try:
        return batch.rows_from(head.rows, stream.read(0, stream.raw_bytes))
    except ValueError as error:
        raise _corrupt(files, ref, f"its head and bodies do not fit: {error}") from error


def verify_block(files: Files, ref: BlockRef) -> BlockHead:
    """Every byte of the block read, decoded and compared with crc and digests. Raises StorageCorrupt, FormatUnknown."""
    head, _ = read_block(files, ref)
    data = files.read(shard_name(ref.shard), ref.offset + ref.head_bytes, ref.body_bytes)
    if len(data) != ref.body_bytes or crc32(data) != head.body_crc:
        raise _corrupt(files, ref, "its bodies do not match their checksum")
    for row in read_rows(files, ref):
        for leaf, body in zip(row.leaves, row.bodies, strict=True):
            if body is not None:
                check_body(files, ref, body, leaf)
        if row.stale is not None:
            check_body(files, ref, row.stale.body, row.stale.leaf)
    return head


def check_file_header(files: Files, shard: int) -> None:
    """The shard file exists and starts as it should. Raises StorageCorrupt, FormatUnknown."""
    data = files.read(shard_name(shard), 0, FILE_HEADER.size)
    path = files.path(shard_name(shard))
    if data[:7] == FILE_MAGIC and len(data) > 7 and data[7] > FORMAT:
        raise FormatUnknown(f"{path}: shard format {data[7]}, this version reads up to {FORMAT}; "
                            "open it with a newer version of mynosql")
    if data != pack_file_header(shard):
        raise StorageCorrupt(path, 0, "not the header of this shard; restore the file from a backup or another node")


def _corrupt(files: Files, ref: BlockRef, what: str) -> StorageCorrupt:
    path = files.path(shard_name(ref.shard))
    return StorageCorrupt(path, ref.offset, f"block {ref.number}: {what}; run checkdb, restore it from another node")


def _decode_head(files: Files, ref: BlockRef, data: bytes) -> BlockHead:
    if len(data) != ref.head_bytes or len(data) < HEADER.size:
        raise _corrupt(files, ref, f"cut short: {len(data)} of {ref.head_bytes} bytes of its head")
    (magic, version, crc, kind, count, number, head_raw, head_stored, body_raw, body_stored,
     body_crc) = HEADER.unpack_from(data)
    if magic != BLOCK_MAGIC:
        raise _corrupt(files, ref, "no block starts here")
    if crc32(memoryview(data)[_CRC_FROM:]) != crc:
        raise _corrupt(files, ref, "its head does not match its checksum")
    if version != FORMAT:
        raise _corrupt(files, ref, f"block format {version}, this version reads {FORMAT}")
    if (number, count, body_stored) != (ref.number, ref.row_count, ref.body_bytes) or head_raw > HEAD_RAW_MAX:
        raise _corrupt(files, ref, f"block {number} with {count} rows stands in its place")
    stored = data[HEADER.size:HEADER.size + head_stored]
    raw = stored if kind & _HEAD_AS_IS else _decompress(files, ref, stored, head_raw)
    try:
        rows = batch.unpack_head(raw)
    except ValueError as error:
        raise _corrupt(files, ref, f"its head cannot be read: {error}") from error
    pieces = _unpack_pieces(data[HEADER.size + head_stored:])
    return BlockHead(ref, rows, kind & _BODIES_MASK, body_raw, body_crc, pieces, 3 * len(raw) + 64 * count)


def _unpack_pieces(table: bytes) -> tuple[tuple[int, int, int, bool], ...]:
    pieces, start = [], 0
    for stored, crc in _PIECE.iter_unpack(table):
        length = stored & ~_AS_IS
        pieces.append((start, length, crc, bool(stored & _AS_IS)))
        start += length
    return tuple(pieces)


def _decompress(files: Files, ref: BlockRef, packed: bytes, raw_bytes: int) -> bytes:
    try:
        raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(raw_bytes, 1)).decompress(packed, raw_bytes)
    except (lzma.LZMAError, EOFError) as error:
        raise _corrupt(files, ref, "its compressed bytes cannot be decoded") from error
    if len(raw) != raw_bytes:
        raise _corrupt(files, ref, f"decodes to {len(raw)} bytes instead of {raw_bytes}")
    return raw


def _bodies_from(files: Files, ref: BlockRef, head: BlockHead, data: bytes) -> Bodies:
    if len(data) != ref.body_bytes or crc32(data) != head.body_crc:
        raise _corrupt(files, ref, "its bodies do not match their checksum")
    if head.body_kind == _BODIES_LZMA:
        return _LzmaBodies(files, ref, head.body_raw, data)
    return _PlainBodies(files, ref, data)


class _PlainBodies:
    """A stream stored as it is (or none)."""

    def __init__(self, files: Files, ref: BlockRef, data: bytes) -> None:
        self._files, self._ref, self._data = files, ref, data

    @property
    def raw_bytes(self) -> int:
        return len(self._data)

    @property
    def memory_bytes(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > len(self._data):
            raise _corrupt(self._files, self._ref, "a body lies outside its block")
        return self._data[offset:offset + length]


class _LzmaBodies:
    """A small compressed stream; decoding goes on where the last read stopped."""

    def __init__(self, files: Files, ref: BlockRef, raw_bytes: int, packed: bytes) -> None:
        self._files, self._ref = files, ref
        self.raw_bytes = raw_bytes
        self._packed = packed
        self._decoded = b""

    @property
    def memory_bytes(self) -> int:
        return self.raw_bytes

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if offset < 0 or length < 0 or end > self.raw_bytes:
            raise _corrupt(self._files, self._ref, "a body lies outside its block")
        if end > len(self._decoded):
            self._decoded = _decompress_prefix(self._files, self._ref, self._packed, self.raw_bytes, end)
        return self._decoded[offset:end]


def _decompress_prefix(files: Files, ref: BlockRef, packed: bytes, raw_bytes: int, wanted: int) -> bytes:
    try:
        raw = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(raw_bytes, 1)).decompress(packed, wanted)
    except (lzma.LZMAError, EOFError) as error:
        raise _corrupt(files, ref, "its compressed bodies cannot be decoded") from error
    if len(raw) != wanted:
        raise _corrupt(files, ref, f"its bodies decode to {len(raw)} bytes instead of {wanted}")
    return raw


class _PiecedBodies:
    """A large stream in pieces; each read decodes only the pieces it touches and keeps the last one."""

    def __init__(self, files: Files, ref: BlockRef, head: BlockHead) -> None:
        self._files, self._ref, self._head = files, ref, head
        self._last: tuple[int, bytes] = (-1, b"")

    @property
    def raw_bytes(self) -> int:
        return self._head.body_raw

    @property
    def memory_bytes(self) -> int:
        return PIECE_BYTES

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if offset < 0 or length < 0 or end > self._head.body_raw:
            raise _corrupt(self._files, self._ref, "a body lies outside its block")
        parts = []
        for number in range(offset // PIECE_BYTES, (end + PIECE_BYTES - 1) // PIECE_BYTES):
            start = number * PIECE_BYTES
            parts.append(self._piece(number)[max(0, offset - start):end - start])
        return b"".join(parts)

    def _piece(self, number: int) -> bytes:
        if self._last[0] == number:
            return self._last[1]
        start, length, crc, as_is = self._head.pieces[number]
        ref = self._ref
        stored = self._files.read(shard_name(ref.shard), ref.offset + ref.head_bytes + start, length)
        if len(stored) != length or crc32(stored) != crc:
            raise _corrupt(self._files, ref, f"piece {number} of its body does not match its checksum")
        raw_bytes = min(PIECE_BYTES, self._head.body_raw - number * PIECE_BYTES)
        piece = stored if as_is else _decompress(self._files, ref, stored, raw_bytes)
        self._last = (number, piece)
        return piece
