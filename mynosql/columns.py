"""Columns of a head: many numbers or id keys laid out so that what repeats or grows evenly compresses to nothing.

Numbers are offsets from the smallest of them, or their steps from the smallest step, in as few bytes as the largest
needs, lowest bytes of all first (byte planes); equal numbers take no bytes at all. Id keys of one length are laid out
by byte position too. Byte table: docs/FORMAT.md, "Columns". Pure; driven by batch.py.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from operator import sub
from typing import Any

ID_BYTES_MAX = 4096
"""No id key is longer in any version of the format; idkey.ID_KEY_BYTES_MAX is what this one makes and takes."""
TRANSPOSE_ROWS_MIN = 8
"""Fewer ids than this are not worth a slice per byte position."""
_ITEM = {1: ("B", 1), 2: ("H", 2), 3: ("I", 4), 4: ("I", 4), 5: ("Q", 8), 6: ("Q", 8), 7: ("Q", 8), 8: ("Q", 8)}
_DELTA = 16


def pack_ids(id_keys: Sequence[bytes]) -> bytes:
    """At least one id key of at most ID_BYTES_MAX each: lengths, then keys, by byte position where it pays."""
    lengths = list(map(len, id_keys))
    joined = b"".join(id_keys)
    length = lengths[0]
    if len(joined) == length * len(lengths) and len(lengths) >= TRANSPOSE_ROWS_MIN and min(lengths) == length:
        joined = b"".join([joined[i::length] for i in range(length)])
    return pack_numbers(lengths) + joined


def pack_numbers(values: Sequence[int], *, is_growing: bool = False) -> bytes:
    """Numbers below 2**64 as offsets from the smallest, or their steps from the smallest step; byte plane by plane."""
    low = min(values)
    width = _width(max(values) - low)
    if is_growing and width:
        steps = list(map(sub, values[1:], values))
        low_step = min(steps)
        step_width = _width(max(steps) - low_step)
        if step_width < width:
            return _number_head(step_width | _DELTA, values[0], low_step) + _pack_planes(steps, low_step, step_width)
    return _number_head(width, low) + _pack_planes(values, low, width)


def _width(span: int) -> int:
    return (span.bit_length() + 7) >> 3


def _number_head(mode: int, low: int, low_step: int = 0) -> bytes:
    zigzag = low_step << 1 if low_step >= 0 else ~(low_step << 1)
    low_bytes, step_bytes = _width(low), _width(zigzag)
    return bytes((mode, low_bytes | step_bytes << 4)) + low.to_bytes(low_bytes, "little") + zigzag.to_bytes(
        step_bytes, "little"
    )


def _pack_planes(values: Sequence[int], low: int, width: int) -> bytes:
    if not width:
        return b""
    offsets = [value - low for value in values] if low else values
    if width == 1:
        return bytes(offsets)
    code, item_bytes = _ITEM[width]
    data = struct.pack(f"<{len(offsets)}{code}", *offsets)
    return b"".join([data[i::item_bytes] for i in range(width)])


class ColumnReader:
    """Takes what a head holds from its front; what cannot be or is too short is a ValueError."""

    __slots__ = ("_at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self.data):
            raise ValueError(f"head cut short: {count} bytes wanted at {self._at}, {len(self.data)} there")
        part = self.data[self._at : end]
        self._at = end
        return part

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def numbers(self, count: int, *, below: int) -> list[int] | tuple[int, ...]:
        """What pack_numbers packed of `count` numbers, each 0 <= n < below."""
        mode, base_bytes = self.take(2)
        width, low_bytes, step_bytes = mode & ~_DELTA, base_bytes & 15, base_bytes >> 4
        if width > 8 or low_bytes > 8 or step_bytes > 9:
            raise ValueError(f"column mode {mode:#x}, {base_bytes:#x} unknown")
        low = int.from_bytes(self.take(low_bytes), "little")
        zigzag = int.from_bytes(self.take(step_bytes), "little")
        values: list[int] | tuple[int, ...]
        if mode & _DELTA:
            low_step = ~(zigzag >> 1) if zigzag & 1 else zigzag >> 1
            values = list(accumulate(self._planes(count - 1, low_step, width), initial=low))
        else:
            values = self._planes(count, low, width)
            if low + (1 << 8 * width) <= below:
                return values
        if min(values) < 0 or max(values) >= below:
            raise ValueError(f"column holds {min(values)} to {max(values)}, expected 0 to {below - 1}")
        return values

    def _planes(self, count: int, low: int, width: int) -> list[int] | tuple[int, ...]:
        if width == 0:
            return [low] * count
        data = self.take(count * width)
        if width > 1:
            code, item_bytes = _ITEM[width]
            buffer = bytearray(count * item_bytes)
            for i in range(width):
                buffer[i::item_bytes] = data[i * count : (i + 1) * count]
            values = struct.unpack(f"<{count}{code}", buffer)
        else:
            values = tuple(data)
        return [value + low for value in values] if low else values

    def ids(self, count: int) -> list[bytes]:
        """What pack_ids packed of `count` id keys."""
        lengths = self.numbers(count, below=ID_BYTES_MAX + 1)
        total = sum(lengths)
        joined = self.take(total)
        length = lengths[0]
        if total == length * count and count >= TRANSPOSE_ROWS_MIN and min(lengths) == length:
            buffer = bytearray(total)
            for i in range(length):
                buffer[i::length] = joined[i * count : (i + 1) * count]
            joined = bytes(buffer)
            return [joined[at : at + length] for at in range(0, total, length)] if length else [b""] * count
        ends = list(accumulate(lengths))
        return [joined[end - length : end] for end, length in zip(ends, lengths, strict=True)]

    def rest(self) -> bytes:
        return self.data[self._at :]
