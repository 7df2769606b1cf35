"""Which id hashes the index surely does not know: a Bloom filter in layers, so that saving a new id asks no disk.

Owns its bits and their file. No false "no", 1 to 2 % false "maybe" a full layer. Fed with the short hashes of
index.short_hash. Any thread may ask at any time, one at a time may add. Driven by Store; made anew from
Index.hashes() when its file is missing, damaged or behind. Layout: docs/FORMAT.md, "Filter".
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from collections.abc import Iterable

from mynosql.errors import StorageCorrupt

FORMAT = 1
FILE_NAME = "filter"
MAGIC = b"MNSQLbf"
_START = struct.Struct("<7sBI")  # magic, format, crc32 of all that follows
_REST = struct.Struct("<QBQ")  # last segment, layers, keys in the newest layer; then the bits, zlib
LAYER_KEYS_FIRST = 1 << 16
LAYER_GROWTH = 4
"""Each layer takes four times the keys of the one before: a look costs 0.1 µs a layer, and a million keys need three
(doubling: five, and 6.4 instead of 4.0 % false answers)."""
BITS_A_KEY = 16
BYTES_MAX = 64 << 20
"""22 million keys. Past this the bits are dropped and every answer is "maybe": saves of new ids then ask the index."""
_WORD_BYTES = 8
_PROBE_BITS = 12
_PROBES = [1 << (low & 63) | 1 << (low >> 6) for low in range(1 << _PROBE_BITS)]
"""The two bits that a hash sets in its word, by its lowest 12 bits. Both in one word: one access a layer."""


class Filter:
    """A set of hashes that answers "surely not" or "maybe"."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._layers: tuple[tuple[array[int], int], ...] = ()
        """Newest first: most keys are there."""
        self._capacity = 0
        self._keys = 0
        self.is_saturated = False
        """Grown past bytes_max: every answer is "maybe"."""
        self._add_layer()

    @property
    def size_bytes(self) -> int:
        """Memory held by the bits."""
        return sum(len(words) * _WORD_BYTES for words, _ in self._layers)

    def might_contain(self, short_hash: int) -> bool:
        """False: this hash was never added. True: it was, or another looks the same."""
        wanted = _PROBES[short_hash & 4095]
        place = short_hash >> 12
        for words, mask in self._layers:
            if words[place & mask] & wanted == wanted:
                return True
        return self.is_saturated

    def add(self, short_hash: int) -> None:
        """From now on might_contain(short_hash) is True."""
        self.add_many((short_hash,))

    def add_many(self, short_hashes: Iterable[int]) -> None:
        """add() for each; one that might be there already takes no room again."""
        for short_hash in short_hashes:
            wanted = _PROBES[short_hash & 4095]
            place = short_hash >> 12
            for words, mask in self._layers:
                if words[place & mask] & wanted == wanted:
                    break
            else:
                if self._keys >= self._capacity:
                    self._add_layer()
                if self.is_saturated:
                    return
                words, mask = self._layers[0]
                words[place & mask] |= wanted
                self._keys += 1

    def _add_layer(self) -> None:
        capacity = self._capacity * LAYER_GROWTH or LAYER_KEYS_FIRST
        if self.size_bytes + capacity * BITS_A_KEY // 8 > self._bytes_max:
            self.is_saturated = True  # before the bits go: another thread may be asking
            self._layers = ()
            return
        count = capacity * BITS_A_KEY // 8 // _WORD_BYTES
        self._layers = ((array("Q", (0,)) * count, count - 1), *self._layers)
        self._capacity = capacity
        self._keys = 0

    def pack(self, *, last_segment: int) -> bytes:
        """The content of its file. last_segment: every hash of segments up to this one is in the filter."""
        packer = zlib.compressobj(1)  # about 12 % of the bits are set: 1.2 instead of 2 bytes a key
        parts = [packer.compress(_swapped(words).tobytes()) for words, _ in self._layers]
        rest = _REST.pack(last_segment, len(self._layers), self._keys) + b"".join(parts) + packer.flush()
        return _START.pack(MAGIC, FORMAT, zlib.crc32(rest)) + rest

    @classmethod
    def unpack(cls, data: bytes, *, path: str, bytes_max: int = BYTES_MAX) -> tuple[Filter, int]:
        """The filter in its file and the last segment that it covers. StorageCorrupt: make it anew from the index."""
        if len(data) < _START.size + _REST.size:
            raise _corrupt(path, "too short for a filter")
        magic, version, crc = _START.unpack_from(data)
        if (magic, version) != (MAGIC, FORMAT):
            raise _corrupt(path, "not a filter of a format that this version reads")
        if zlib.crc32(memoryview(data)[_START.size:]) != crc:
            raise _corrupt(path, "the filter does not match its checksum")
        last_segment, layer_count, keys = _REST.unpack_from(data, _START.size)
        made = cls(bytes_max=bytes_max)
        if not layer_count:
            made._layers, made.is_saturated = (), True
        while len(made._layers) < layer_count and not made.is_saturated:
            made._add_layer()
        if not made.is_saturated:
            made._read_bits(data[_START.size + _REST.size:], path)
            made._keys = keys
        return made, last_segment

    def _read_bits(self, packed: bytes, path: str) -> None:
        unpacker = zlib.decompressobj()
        layers = []
        for words, mask in self._layers:
            bits = _decompressed(unpacker, packed, len(words) * _WORD_BYTES, path)
            packed = unpacker.unconsumed_tail
            layers.append((_swapped(array("Q", bits)), mask))
        self._layers = tuple(layers)


def _decompressed(unpacker: zlib._Decompress, packed: bytes, wanted: int, path: str) -> bytes:
    try:
        bits = unpacker.decompress(packed, wanted)
    except zlib.error as error:
        raise _corrupt(path, "the filter's bits cannot be decoded") from error
    if len(bits) != wanted:
        raise _corrupt(path, f"the filter has {len(bits)} of {wanted} bytes of a layer")
    return bits


def _swapped(words: array[int]) -> array[int]:
    """Between memory and file, which is little-endian."""
    if sys.byteorder == "big":
        words = words[:]
        words.byteswap()
    return words


def _corrupt(path: str, what: str) -> StorageCorrupt:
    return StorageCorrupt(path, None, f"{what}; nothing is lost, it is made anew from the index at the next opening")
