"""Which id hashes the index surely does not know: a Bloom filter in layers, so that saving a new id asks no disk.

Owns its bits and their file. No false "no", about 1.5 % false "maybe" a layer. Fed with the short hashes of
index.short_hash. Driven by Store; rebuilt from Index.hashes() when its file is missing, damaged or behind.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterable

from mynosql.errors import StorageCorrupt

FORMAT = 1
FILE_NAME = "filter"
MAGIC = b"MNSQLbf"
_HEADER = struct.Struct("<7sBIQBQ")  # magic, format, crc32 of what follows, last segment, layers, keys in the last
LAYER_KEYS_FIRST = 1 << 16
BITS_A_KEY = 16
BYTES_MAX = 64 << 20
"""Past this the filter is dropped and answers "maybe" to everything: saves of new ids then ask the index."""


class Filter:
    """A set of hashes that answers "surely not" or "maybe"."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._layers: list[tuple[array[int], int]] = []
        self._capacity = 0
        self._keys = 0
        self.is_saturated = False
        """Grown past bytes_max: every answer is "maybe"."""
        self._add_layer()

    @property
    def size_bytes(self) -> int:
        """Memory held by the bits."""
        return sum(len(words) * 8 for words, _ in self._layers)

    def might_contain(self, short_hash: int) -> bool:
        """False: this hash was never added. True: it was, or another looks the same (1-2 % a layer)."""
        wanted = 1 << (short_hash & 63) | 1 << (short_hash >> 6 & 63)
        place = short_hash >> 12
        for words, mask in self._layers:
            if words[place & mask] & wanted == wanted:
                return True
        return self.is_saturated

    def add(self, short_hash: int) -> None:
        """From now on might_contain(short_hash) is True."""
        if self.might_contain(short_hash):
            return
        if self._keys >= self._capacity:
            self._add_layer()
            if self.is_saturated:
                return
        words, mask = self._layers[-1]
        words[short_hash >> 12 & mask] |= 1 << (short_hash & 63) | 1 << (short_hash >> 6 & 63)
        self._keys += 1

    def add_many(self, short_hashes: Iterable[int]) -> None:
        for short_hash in short_hashes:
            self.add(short_hash)

    def _add_layer(self) -> None:
        capacity = self._capacity * 2 or LAYER_KEYS_FIRST
        if self.size_bytes + capacity * BITS_A_KEY // 8 > self._bytes_max:
            self._layers = []
            self.is_saturated = True
            return
        count = capacity * BITS_A_KEY // 64
        self._layers.append((array("Q", bytes(count * 8)), count - 1))
        self._capacity = capacity
        self._keys = 0

    def pack(self, *, last_segment: int) -> bytes:
        """The content of its file. last_segment: every hash of segments up to this one is in the filter."""
        bits = b"".join(words.tobytes() for words, _ in self._layers)
        rest = struct.pack("<QBQ", last_segment, len(self._layers), self._keys) + zlib.compress(bits, 1)
        return struct.pack("<7sBI", MAGIC, FORMAT, zlib.crc32(rest)) + rest

    @classmethod
    def unpack(cls, data: bytes, *, path: str, bytes_max: int = BYTES_MAX) -> tuple[Filter, int]:
        """The filter in its file and the last segment that it covers. StorageCorrupt: rebuild it from the index."""
        if len(data) < _HEADER.size:
            raise StorageCorrupt(path, 0, "too short for a filter; it is rebuilt at the next opening")
        magic, version, crc, last_segment, layers, keys = _HEADER.unpack_from(data)
        if magic != MAGIC or version != FORMAT or zlib.crc32(data[12:]) != crc:
            raise StorageCorrupt(path, 0, "not a valid filter; it is rebuilt at the next opening")
        made = cls(bytes_max=bytes_max)
        if not layers:
            made._layers, made.is_saturated = [], True
            return made, last_segment
        while len(made._layers) < layers and not made.is_saturated:
            made._add_layer()
        if made.is_saturated:
            return made, last_segment
        bits = zlib.decompressobj().decompress(data[_HEADER.size:], made.size_bytes)
        if len(bits) != made.size_bytes:
            raise StorageCorrupt(path, None, "a filter of the wrong length; it is rebuilt at the next opening")
        start = 0
        for words, mask in made._layers:
            piece = array("Q", bits[start:start + len(words) * 8])
            start += len(words) * 8
            made._layers[made._layers.index((words, mask))] = (piece, mask)
        made._keys = keys
        return made, last_segment
