"""Columns of a head: many numbers or id keys laid out so that what repeats or grows evenly compresses to nothing.

Numbers are offsets from the smallest of them, or their steps from the smallest step, in as few bytes as the largest
needs, lowest bytes of all first (byte planes); equal numbers take no bytes at all. Id keys of one length are laid out
by byte position too. Byte table: docs/FORMAT.md, "Columns". Pure; driven by batch.py.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
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


class NumberColumn(Sequence[int]):
    """Numbers as they are packed: one is read without decoding the others, but for those kept as steps.

    A head that is kept so takes a sixth of the memory of its lists.
    """

    __slots__ = ("_count", "_data", "_low", "_step", "_values", "_width")

    def __init__(self, data: bytes, count: int, low: int, width: int, step: int | None) -> None:
        """data: the planes; step: the smallest step, for steps; None: offsets from low."""
        self._data, self._count, self._low, self._width, self._step = data, count, low, width, step
        self._values: array[int] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        """One number; i from 0 up."""
        if self._step is not None:
            return self._summed()[i]
        width, data, count = self._width, self._data, self._count
        if width == 0:
            return self._low
        if width == 1:
            return data[i] + self._low
        value = data[i]
        for plane in range(1, width):
            value |= data[plane * count + i] << 8 * plane
        return value + self._low

    def __iter__(self) -> Iterator[int]:
        return iter(self.all())

    def all(self) -> Sequence[int]:
        """Every number, decoded."""
        if self._step is not None:
            return self._summed()
        return _planes(self._data, self._count, self._low, self._width)

    def _summed(self) -> array[int]:
        if self._values is None:
            steps = _planes(self._data, self._count - 1, self._step or 0, self._width)
            self._values = array("Q", accumulate(steps, initial=self._low))
            self._data = b""
        return self._values

    def check(self, below: int) -> None:
        """Raises ValueError unless 0 <= n < below for each; by the layout where that tells, without decoding."""
        spread = (1 << 8 * self._width) - 1
        if self._step is None:
            if self._low + spread < below:
                return
            values: Sequence[int] = self.all()
        else:
            rest = self._count - 1
            lowest = self._low + min(0, rest * self._step)
            if lowest >= 0 and self._low + max(0, rest * (self._step + spread)) < below:
                return
            values = list(accumulate(_planes(self._data, rest, self._step, self._width), initial=self._low))
        if min(values) < 0 or max(values) >= below:
            raise ValueError(f"column holds {min(values)} to {max(values)}, expected 0 to {below - 1}")


def _planes(data: bytes, count: int, low: int, width: int) -> Sequence[int]:
    if width == 0:
        return [low] * count
    if width > 1:
        code, item_bytes = _ITEM[width]
        buffer = bytearray(count * item_bytes)
        for i in range(width):
            buffer[i::item_bytes] = data[i * count : (i + 1) * count]
        values: Sequence[int] = struct.unpack(f"<{count}{code}", buffer)
    else:
        values = data
    return [value + low for value in values] if low else values


class IdColumn(Sequence[bytes]):
    """Id keys as they are packed: one is read without decoding the others."""

    __slots__ = ("_count", "_ends", "_joined", "_length")

    def __init__(self, joined: bytes, lengths: NumberColumn) -> None:
        self._joined = joined
        self._count = count = len(lengths)
        length = lengths[0]
        all_lengths = lengths.all()
        self._length: int | None = None
        """Of each key, when they are laid out by byte position."""
        self._ends: array[int] | None = None
        if len(joined) == length * count and count >= TRANSPOSE_ROWS_MIN and min(all_lengths) == length:
            self._length = length
        else:
            self._ends = array("L", accumulate(all_lengths, initial=0))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: Any) -> Any:
        """One key; i from 0 up."""
        if self._ends is None:
            return self._joined[i :: self._count]
        return self._joined[self._ends[i] : self._ends[i + 1]]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.all())

    def all(self) -> list[bytes]:
        """Every key, decoded."""
        if self._ends is not None:
            joined, ends = self._joined, self._ends
            return [joined[start:end] for start, end in pairwise(ends)]
        count, length = self._count, self._length or 0
        buffer = bytearray(count * length)
        for i in range(length):
            buffer[i::length] = self._joined[i * count : (i + 1) * count]
        joined = bytes(buffer)
        return [joined[at : at + length] for at in range(0, len(joined), length)] if length else [b""] * count


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

    def numbers(self, count: int, *, below: int) -> NumberColumn:
        """What pack_numbers packed of `count` numbers, at least one, each 0 <= n < below."""
        mode, base_bytes = self.take(2)
        width, low_bytes, step_bytes = mode & ~_DELTA, base_bytes & 15, base_bytes >> 4
        if width > 8 or low_bytes > 8 or step_bytes > 9:
            raise ValueError(f"column mode {mode:#x}, {base_bytes:#x} unknown")
        low = int.from_bytes(self.take(low_bytes), "little")
        zigzag = int.from_bytes(self.take(step_bytes), "little")
        step = None
        if mode & _DELTA:
            step = ~(zigzag >> 1) if zigzag & 1 else zigzag >> 1
        planes = self.take((count if step is None else count - 1) * width)
        column = NumberColumn(planes, count, low, width, step)
        column.check(below)
        return column

    def ids(self, count: int) -> IdColumn:
        """What pack_ids packed of `count` id keys, at least one."""
        lengths = self.numbers(count, below=ID_BYTES_MAX + 1)
        return IdColumn(self.take(sum(lengths.all())), lengths)

    def rest(self) -> bytes:
        return self.data[self._at :]
