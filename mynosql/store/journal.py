"""What a journal frame says: rows to be held from now on, and notes, both or neither.

Owns the payload of a frame (frames.py owns what stands around it). Pure: no file, no clock. The payload of a single
save is the packed row itself (packed.py); many rows and notes stand one behind the other. Written by Store, read by
recovery and check. Layout: docs/FORMAT.md, "Journal".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from mynosql.row import Row
from mynosql.store.packed import unpack_row

_MANY = 1
_HEAD = struct.Struct("<BQII")
# kind _MANY, highest seq before, number of rows, bytes of the notes; then the rows' lengths, notes, packed rows
_NOTE = struct.Struct("<HI")  # bytes of key and value, which follow
NOTE_KEY_BYTES_MAX = 1 << 10
NOTE_VALUE_BYTES_MAX = 1 << 20


class FrameContent(NamedTuple):
    """One frame, read back."""

    seq_before: int | None
    """The feed's head when it was written; None where it does not say (a lone stray row)."""
    rows: list[Row]
    notes: dict[str, bytes]
    spans: list[tuple[int, int]]
    """For each row where it stands in the payload, packed: offset and length."""


def pack_many(packed_rows: Sequence[bytes], notes: Mapping[str, bytes], *, seq_before: int) -> tuple[bytes, int]:
    """The payload of a frame with these packed rows and notes (value b"" deletes the key), and where the rows begin.

    Rows stand one behind the other, each compressed by itself or not, so that one can be read alone. They carry their
    seq. seq_before: the head of the feed before them, by which recovery sees that nothing is missing before the notes
    of this frame.
    """
    packed_notes = b"".join(map(_pack_note, notes.items())) if notes else b""
    count = len(packed_rows)
    start = _HEAD.pack(_MANY, seq_before, count, len(packed_notes))
    lengths = struct.pack(f"<{count}I", *map(len, packed_rows))
    return b"".join((start, lengths, packed_notes, *packed_rows)), len(start) + len(lengths) + len(packed_notes)


def _pack_note(item: tuple[str, bytes]) -> bytes:
    key, value = item[0].encode(), item[1]
    return _NOTE.pack(len(key), len(value)) + key + value


def check_note(key: str, value: bytes) -> None:
    """Raises ValueError when a note is too large for a frame."""
    if len(key.encode()) > NOTE_KEY_BYTES_MAX or len(value) > NOTE_VALUE_BYTES_MAX:
        raise ValueError(
            f"note {key[:80]!r} of {len(value)} bytes: expected a key up to {NOTE_KEY_BYTES_MAX} and a value up to "
            f"{NOTE_VALUE_BYTES_MAX} bytes; split it over several keys"
        )


def unpack_frame_content(payload: bytes) -> FrameContent:
    """What the frame says. Raises ValueError when it is not what the pack functions made."""
    raw = payload
    if raw[:1] != bytes((_MANY,)):
        row = unpack_row(raw)
        return FrameContent(None if row.stray else row.seq - 1, [row], {}, [(0, len(raw))])
    if len(raw) < _HEAD.size:
        raise ValueError(f"frame of {len(raw)} bytes is cut short")
    _, seq_before, count, notes_bytes = _HEAD.unpack_from(raw)
    notes_at = _HEAD.size + 4 * count
    rows_at = notes_at + notes_bytes
    if rows_at > len(raw):
        raise ValueError(f"frame of {count} rows and {notes_bytes} bytes of notes in {len(raw)} bytes")
    lengths = struct.unpack_from(f"<{count}I", raw, _HEAD.size)
    if rows_at + sum(lengths) != len(raw):
        raise ValueError(f"rows of {sum(lengths)} bytes in a frame of {len(raw)}")
    spans = list(zip(accumulate(lengths, initial=rows_at), lengths, strict=False))
    rows = [unpack_row(raw[start : start + length]) for start, length in spans]
    return FrameContent(seq_before, rows, _unpack_notes(raw[notes_at:rows_at]), spans)


def _unpack_notes(data: bytes) -> dict[str, bytes]:
    notes: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        if at + _NOTE.size > len(data):
            raise ValueError("note is cut short")
        key_bytes, value_bytes = _NOTE.unpack_from(data, at)
        at += _NOTE.size
        end = at + key_bytes + value_bytes
        if end > len(data):
            raise ValueError("note is cut short")
        notes[data[at : at + key_bytes].decode()] = data[at + key_bytes : end]
        at = end
    return notes
