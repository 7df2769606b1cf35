"""store.flips: the bit that was flipped is the one that is named."""

from __future__ import annotations

import random
from zlib import crc32

import pytest

from mynosql.store.flips import find_flip


@pytest.mark.parametrize("length", [1, 2, 13, 100, 4096])
def test_every_flipped_bit_is_found(length: int) -> None:
    rng = random.Random(length)
    message = rng.randbytes(length)
    for place in {0, length - 1, *(rng.randrange(length) for _ in range(50))}:
        for bit in range(8):
            flipped = bytearray(message)
            flipped[place] ^= 1 << bit
            assert find_flip(length, crc32(flipped) ^ crc32(message)) == (place, bit)


def test_two_flipped_bits_are_none() -> None:
    message = bytes(200)
    flipped = b"\x03" + bytes(199)

    assert find_flip(200, crc32(flipped) ^ crc32(message)) is None
    assert find_flip(200, 0) is None
