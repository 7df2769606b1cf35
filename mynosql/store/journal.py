"""What a journal frame says: rows to be held from now on, and notes, both or neither.

Owns the payload of a frame (frames.py owns what stands around it). Pure: no file, no clock. The rows are packed by
batch.py, the whole is compressed by lz4 where that helps. Written by Store, read by recovery and check.
Layout: docs/FORMAT.md, "Journal".
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import lz4.block

from mynosql import batch
from mynosql.row import Leaf, Row

_STORED = 1
_LZ4 = 2
_ONE = 3
_HEAD = struct.Struct("<BQII")
# kind _STORED, highest seq before, bytes of the rows' head, bytes of the notes; then head, notes, bodies
_LZ4_HEAD = struct.Struct("<BI")  # kind, bytes of the raw frame, its kind included
_ONE_HEAD = struct.Struct("<BBHIQQIQ8s")
# kind, flags, bytes of the id key, generation, hlc, node, size, seq, digest; then id key and body
_DELETED, _OWED, _STRAY, _HELD = 1, 2, 4, 8
_NOTE = struct.Struct("<HI")  # bytes of key and value, which follow
LZ4_BYTES_MIN = 512
"""Below, a lone record gains nothing from lz4 (measured: 248 bytes grow by 3 %) and would pay 0.6 µs for it."""
LZ4_RATIO_MAX = 255
RAW_BYTES_MAX = 1 << 30
NOTE_KEY_BYTES_MAX = 1 << 10
NOTE_VALUE_BYTES_MAX = 1 << 20


class FrameContent(NamedTuple):
    """One frame, read back."""

    seq_before: int | None
    """The feed's head when it was written; None where it does not say (a lone stray row)."""
    rows: list[Row]
    notes: dict[str, bytes]


def pack_row(row: Row) -> bytes:
    """The payload of a frame with this one row: the path of every single save, so a plain row has a layout of its own.

    (0.4 µs instead of 1.3 for the columns of a batch, which are made for many rows.)
    """
    id_key, leaves, bodies, seq, owed, stray, stale = row
    generation, hlc, node, deleted, size, digest, ancestry = leaves[0]
    if len(leaves) != 1 or ancestry is not None or stale is not None:
        return pack_frame_content((row,), {}, seq_before=seq if stray else seq - 1)
    body = bodies[0]
    flags = deleted | owed << 1 | stray << 2
    if body is None:
        body = b""
    else:
        flags |= _HELD
    raw = _ONE_HEAD.pack(_ONE, flags, len(id_key), generation, hlc, node, size, seq, digest) + id_key + body
    return raw if len(raw) < LZ4_BYTES_MIN else _compressed(raw)


def pack_frame_content(rows: Sequence[Row], notes: Mapping[str, bytes], *, seq_before: int) -> bytes:
    """The payload of a frame with these rows and notes (value b"" deletes the key).

    Rows carry their seq. seq_before: the head of the feed before them, by which recovery sees that nothing is missing
    before the notes of this frame.
    """
    head = batch.pack_head(rows) if rows else b""
    packed_notes = b"".join(map(_pack_note, notes.items())) if notes else b""
    start = _HEAD.pack(_STORED, seq_before, len(head), len(packed_notes))
    raw = b"".join((start, head, packed_notes, batch.pack_bodies(rows)))
    return raw if len(raw) < LZ4_BYTES_MIN else _compressed(raw)


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


def _compressed(raw: bytes) -> bytes:
    packed: bytes = lz4.block.compress(raw, store_size=False)
    return _LZ4_HEAD.pack(_LZ4, len(raw)) + packed if len(packed) + _LZ4_HEAD.size < len(raw) else raw


def unpack_frame_content(payload: bytes) -> FrameContent:
    """What the frame says. Raises ValueError when it is not what the pack functions made."""
    raw = _raw(payload)
    if raw[:1] == bytes((_ONE,)):
        row = _unpack_row(raw)
        return FrameContent(None if row.stray else row.seq - 1, [row], {})
    try:
        kind, seq_before, head_bytes, notes_bytes = _HEAD.unpack_from(raw)
    except struct.error as error:
        raise ValueError(f"frame of {len(raw)} bytes is cut short") from error
    notes_at = _HEAD.size + head_bytes
    bodies_at = notes_at + notes_bytes
    if kind != _STORED or bodies_at > len(raw):
        raise ValueError(f"frame kind {kind} with {head_bytes} and {notes_bytes} of {len(raw)} bytes")
    rows: list[Row] = []
    if head_bytes:
        rows = batch.rows_from(batch.unpack_head(raw[_HEAD.size : notes_at]), raw[bodies_at:])
    elif bodies_at != len(raw):
        raise ValueError("frame holds bodies without rows")
    return FrameContent(seq_before, rows, _unpack_notes(raw[notes_at:bodies_at]))


def _unpack_row(raw: bytes) -> Row:
    if len(raw) < _ONE_HEAD.size:
        raise ValueError(f"frame of {len(raw)} bytes is cut short")
    _, flags, id_bytes, generation, hlc, node, size, seq, digest = _ONE_HEAD.unpack_from(raw)
    body_at = _ONE_HEAD.size + id_bytes
    body = raw[body_at:] if flags & _HELD else None
    if body_at > len(raw) or flags > 15 or len(raw) - body_at != (size if flags & _HELD else 0):
        raise ValueError(f"frame of {len(raw)} bytes with flags {flags}, id of {id_bytes} and body of {size} bytes")
    leaf = Leaf(generation, hlc, node, bool(flags & _DELETED), size, digest)
    id_key = raw[_ONE_HEAD.size : body_at]
    return Row(id_key, (leaf,), (body,), seq, bool(flags & _OWED), bool(flags & _STRAY))


def _raw(payload: bytes) -> bytes:
    if payload[:1] != bytes((_LZ4,)):
        return payload
    if len(payload) < _LZ4_HEAD.size:
        raise ValueError("frame is cut short")
    _, raw_bytes = _LZ4_HEAD.unpack_from(payload)
    if raw_bytes > RAW_BYTES_MAX or raw_bytes > LZ4_RATIO_MAX * len(payload):
        raise ValueError(f"frame of {len(payload)} bytes claims {raw_bytes}")
    try:
        raw: bytes = lz4.block.decompress(payload[_LZ4_HEAD.size :], uncompressed_size=raw_bytes)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"frame does not decompress: {error}") from error
    if len(raw) != raw_bytes:
        raise ValueError(f"frame decompresses to {len(raw)} bytes instead of {raw_bytes}")
    return raw


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
