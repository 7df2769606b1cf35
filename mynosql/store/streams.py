"""Compressed byte streams: packed once, decoded as far as someone reads.

Owns raw LZMA2 (no container, a dictionary as large as what it covers), the pieces of a large stream, and the checks
that bound what decoding may cost. Knows no file, row or block: whoever opens a stream says how its errors are named.
Driven by shard.py. Layout: docs/FORMAT.md, "Body stream".
"""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from mynosql.errors import StorageCorrupt

PIECE_BYTES = 64 << 10
"""A stream above this is cut, so that a part of a large body costs no more than its pieces (DESIGN §4)."""
SHRINK_MIN = 0.95
"""What does not shrink by 5 % is stored as it is: reading it then costs no decoding."""
NONE, AS_IS, LZMA, PIECES = 0, 2, 4, 6
"""Kinds of a stream; even, because bit 0 of a block's kind says how its head is stored."""
_PIECE = struct.Struct("<II")  # stored bytes (top bit: as it is), crc32 of them
PIECE_ENTRY_BYTES = _PIECE.size
_PIECE_AS_IS = 1 << 31
_DICT_MIN = 4 << 10
_DICT_MAX = 1 << 20
_SMALL_BYTES = 16 << 10
"""Below this the smaller match finder wins: a head of 6 kB takes 455 instead of 754 µs at the same size."""

Corrupt = Callable[[str], StorageCorrupt]
"""Makes the error that names the file and the place."""


class Bodies(Protocol):
    """A body stream, decoded as far as it was asked for. One reader at a time."""

    @property
    def raw_bytes(self) -> int:
        """Length of the whole stream."""
        ...

    @property
    def memory_bytes(self) -> int:
        """About what it costs to keep, at most."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """These bytes of the raw stream. Raises StorageCorrupt, also when they lie outside of it."""
        ...


class Piece(NamedTuple):
    """PIECE_BYTES of a large stream (the last one: the rest)."""

    offset: int
    """In the stored stream."""
    length: int
    """Stored bytes."""
    crc: int
    is_as_it_is: bool
    """Not compressed."""


class PackedStream(NamedTuple):
    """A stream as it is stored."""

    kind: int
    table: bytes
    """The piece table; empty unless kind is PIECES."""
    stored: bytes


def pack_stream(raw: bytes, preset: int) -> PackedStream:
    """Compress a stream where that helps, in pieces when it is large. preset: LZMA effort 0 to 9."""
    if not raw:
        return PackedStream(NONE, b"", b"")
    if len(raw) <= PIECE_BYTES:
        packed = compress(raw, preset)
        return PackedStream(AS_IS, b"", raw) if packed is None else PackedStream(LZMA, b"", packed)
    table, stream = [], []
    for start in range(0, len(raw), PIECE_BYTES):
        piece = raw[start:start + PIECE_BYTES]
        packed = compress(piece, preset)
        stored = piece if packed is None else packed
        table.append(_PIECE.pack(len(stored) | (_PIECE_AS_IS if packed is None else 0), crc32(stored)))
        stream.append(stored)
    return PackedStream(PIECES, b"".join(table), b"".join(stream))


def unpack_pieces(table: bytes) -> tuple[Piece, ...]:
    """The piece table of a stream; an incomplete last entry is left out."""
    pieces, start = [], 0
    for stored, crc in _PIECE.iter_unpack(table[:len(table) - len(table) % _PIECE.size]):
        length = stored & ~_PIECE_AS_IS
        pieces.append(Piece(start, length, crc, bool(stored & _PIECE_AS_IS)))
        start += length
    return tuple(pieces)


def is_sound(kind: int, raw_bytes: int, stored_bytes: int, pieces: tuple[Piece, ...]) -> bool:
    """What a header says of a stream does not contradict itself."""
    if kind == PIECES:
        covered = sum(piece.length for piece in pieces)
        return covered == stored_bytes and len(pieces) == -(-raw_bytes // PIECE_BYTES)
    if pieces or raw_bytes > PIECE_BYTES:
        return False
    if kind == LZMA:
        return raw_bytes > 0
    return kind in (NONE, AS_IS) and raw_bytes == stored_bytes


def compress(raw: bytes, preset: int) -> bytes | None:
    """The raw LZMA2 stream, None when it does not shrink enough to be worth decoding."""
    packed = lzma.compress(raw, lzma.FORMAT_RAW, filters=_filters(len(raw), preset))
    return packed if len(packed) <= len(raw) * SHRINK_MIN else None


def decompress(packed: bytes, raw_bytes: int, corrupt: Corrupt) -> bytes:
    """The raw bytes; never more memory than for raw_bytes, which the caller has bounded. Raises StorageCorrupt."""
    return _decode(_decoder(raw_bytes), packed, raw_bytes, corrupt)


def _filters(raw_bytes: int, preset: int) -> list[dict[str, Any]]:
    """A dictionary as large as what it covers: the default one would cost 200 MB and twice the time."""
    found: dict[str, Any] = {"id": lzma.FILTER_LZMA2, "preset": preset}
    found["dict_size"] = min(max(_DICT_MIN, raw_bytes), _DICT_MAX)
    if preset <= 1 and raw_bytes < _SMALL_BYTES:
        found["mf"] = lzma.MF_HC3
    return [found]


def _decoder(raw_bytes: int) -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(raw_bytes, 1))


def _decode(decoder: lzma.LZMADecompressor, packed: bytes, wanted: int, corrupt: Corrupt) -> bytes:
    """The next `wanted` bytes; what the decoder could make beyond them is never made."""
    try:
        raw = decoder.decompress(packed, wanted)
        while len(raw) < wanted and not decoder.eof and not decoder.needs_input:
            raw += decoder.decompress(b"", wanted - len(raw))
    except (lzma.LZMAError, EOFError) as error:
        raise corrupt("its compressed bytes cannot be decoded") from error
    if len(raw) != wanted:
        raise corrupt(f"its compressed bytes end after {len(raw)} of {wanted} bytes")
    return raw


def _check_span(offset: int, length: int, raw_bytes: int, corrupt: Corrupt) -> None:
    if offset < 0 or length < 0 or offset + length > raw_bytes:
        raise corrupt(f"a body at {offset} of {length} bytes lies outside its {raw_bytes} bytes")


class PlainBodies:
    """A stream stored as it is, or none."""

    def __init__(self, stored: bytes, corrupt: Corrupt) -> None:
        self._data, self._corrupt = stored, corrupt
        self.raw_bytes = self.memory_bytes = len(stored)

    def read(self, offset: int, length: int) -> bytes:
        _check_span(offset, length, self.raw_bytes, self._corrupt)
        return self._data[offset:offset + length]


class LzmaBodies:
    """A small compressed stream. The first read decodes up to its record (half the time); a second one beyond it
    decodes all: a decoder that waits for it would hold more memory than the records do."""

    def __init__(self, stored: bytes, raw_bytes: int, corrupt: Corrupt) -> None:
        self.raw_bytes = raw_bytes
        self.memory_bytes = len(stored) + raw_bytes
        self._packed, self._corrupt = stored, corrupt
        self._decoded = b""

    def read(self, offset: int, length: int) -> bytes:
        end = offset + length
        if end > len(self._decoded) or offset < 0 or length < 0:
            _check_span(offset, length, self.raw_bytes, self._corrupt)
            self._decode_to(end)
        return self._decoded[offset:end]

    def _decode_to(self, end: int) -> None:
        if self._decoded:
            end = self.raw_bytes
        self._decoded = _decode(_decoder(self.raw_bytes), self._packed, end, self._corrupt)
        if end == self.raw_bytes:
            self._packed = b""


class PiecedBodies:
    """A large stream in pieces; each read decodes only the pieces it touches and keeps the last one."""

    def __init__(
        self, read_stored: Callable[[int, int], bytes], raw_bytes: int, pieces: tuple[Piece, ...], corrupt: Corrupt
    ) -> None:
        """read_stored(offset, length): bytes of the stored stream."""
        self.raw_bytes = raw_bytes
        self.memory_bytes = PIECE_BYTES + 100 * len(pieces)
        self._read_stored, self._pieces, self._corrupt = read_stored, pieces, corrupt
        self._last: tuple[int, bytes] = (-1, b"")

    def read(self, offset: int, length: int) -> bytes:
        _check_span(offset, length, self.raw_bytes, self._corrupt)
        end = offset + length
        parts = []
        for number in range(offset // PIECE_BYTES, -(-end // PIECE_BYTES)):
            start = number * PIECE_BYTES
            parts.append(self._piece(number)[max(0, offset - start):end - start])
        return b"".join(parts)

    def _piece(self, number: int) -> bytes:
        last_number, last = self._last
        if last_number == number:
            return last
        piece = self._pieces[number]
        stored = self._read_stored(piece.offset, piece.length)
        if len(stored) != piece.length or crc32(stored) != piece.crc:
            raise self._corrupt(f"piece {number} of its body does not match its checksum")
        raw_bytes = min(PIECE_BYTES, self.raw_bytes - number * PIECE_BYTES)
        raw = stored if piece.is_as_it_is else decompress(stored, raw_bytes, self._corrupt)
        if len(raw) != raw_bytes:
            raise self._corrupt(f"piece {number} of its body has {len(raw)} of {raw_bytes} bytes")
        self._last = (number, raw)
        return raw
