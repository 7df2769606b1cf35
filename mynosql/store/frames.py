"""The journal's bytes: a file header, then frames that each carry a marker, a counter, a length and a crc.

Owns the layout of a journal file and how it is read back: a torn tail (nothing valid follows) is told apart from
damage in the middle (valid frames follow; they are still read). Never interprets a payload. Written by Store,
read at recovery and by checkdb. Layout: docs/FORMAT.md, "Journal".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.store.files import Files

FORMAT = 1
MAGIC = b"MNSQLjn"
FILE_HEADER = struct.Struct("<7sBQI")  # magic, format, number, crc32 of what stands before
FRAME_HEADER = struct.Struct("<BIII")  # marker, counter, length, crc32 over counter, length and payload
MARKER = 0xA5
_COUNTED = struct.Struct("<II")
PAYLOAD_BYTES_MAX = 1 << 30
"""A frame holds one batch; 1 GiB is four records of the largest size and bounds what a reader allocates."""
_CHUNK_BYTES = 1 << 20


class Frame(NamedTuple):
    """One payload as it stands in the journal."""

    counter: int
    offset: int
    payload: bytes


class Damage(NamedTuple):
    """A stretch of a journal that holds no valid frame although valid ones follow."""

    offset: int
    length: int
    frames: int
    """How many frames stood there, by the counters around it."""


def journal_name(number: int) -> str:
    return f"journal-{number:08d}"


def parse_journal_name(name: str) -> int | None:
    """The number in a journal's file name, None for any other file."""
    prefix, _, digits = name.partition("-")
    return int(digits) if prefix == "journal" and digits.isascii() and digits.isdigit() else None


def pack_frame(counter: int, payload: bytes) -> bytes:
    """The bytes of one frame. counter: frames before this one in the same file."""
    length = len(payload)
    return FRAME_HEADER.pack(MARKER, counter, length, crc32(payload, crc32(_COUNTED.pack(counter, length)))) + payload


class JournalWriter:
    """Appends frames to one new journal file."""

    def __init__(self, files: Files, number: int) -> None:
        """Make journal `number`; its name is durable on return, its frames only after flush()."""
        self.number = number
        self.name = journal_name(number)
        self.frames = 0
        """Frames appended so far."""
        self._file = files.open_append(self.name)
        if self._file.size:
            self._file.close()
            raise StorageCorrupt(files.path(self.name), 0, "a journal that should be new is not empty; reopen")
        self._file.write(_pack_file_header(number))
        files.sync_folder()

    @property
    def size(self) -> int:
        return self._file.size

    def append(self, payload: bytes) -> int:
        """Append one frame; returns its offset. Not fsynced: flush(). Raises StorageFull, StorageFailed."""
        offset = self._file.write(pack_frame(self.frames, payload))
        self.frames += 1
        return offset

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _pack_file_header(number: int) -> bytes:
    start = FILE_HEADER.pack(MAGIC, FORMAT, number, 0)[:-4]
    return start + crc32(start).to_bytes(4, "little")


class JournalReader:
    """Iterates the frames of one journal file; read the attributes after the last frame.

    Raises FormatUnknown for a newer format. Damage raises nothing: it is listed, and what follows is still read.
    """

    def __init__(self, files: Files, name: str) -> None:
        self.name = name
        self.end = 0
        """Offset behind the last valid frame."""
        self.torn_bytes = 0
        """Bytes behind `end` that make no frame: a write that a crash cut short."""
        self.damages: list[Damage] = []
        self._files = files
        self._size = files.size(name)

    def __iter__(self) -> Iterator[Frame]:
        data = self._files.read(self.name, 0, self._size)
        offset = self._start(data)
        expected = 0
        damaged_at: int | None = None
        while offset < len(data):
            frame = _frame_at(data, offset)
            if frame is None:
                damaged_at = offset if damaged_at is None else damaged_at
                offset = data.find(MARKER, offset + 1)
                if offset < 0:
                    break
                continue
            if damaged_at is not None:
                self.damages.append(Damage(damaged_at, offset - damaged_at, max(0, frame.counter - expected)))
                damaged_at = None
            expected = frame.counter + 1
            offset += FRAME_HEADER.size + len(frame.payload)
            self.end = offset
            yield frame
        self.torn_bytes = self._size - self.end

    def _start(self, data: bytes) -> int:
        if data[:7] == MAGIC and len(data) > 7 and data[7] > FORMAT:
            raise FormatUnknown(
                f"{self._files.path(self.name)}: journal format {data[7]}, this version reads up to {FORMAT}; "
                "open it with a newer version of mynosql"
            )
        return FILE_HEADER.size


def _frame_at(data: bytes, offset: int) -> Frame | None:
    if offset + FRAME_HEADER.size > len(data):
        return None
    marker, counter, length, crc = FRAME_HEADER.unpack_from(data, offset)
    start = offset + FRAME_HEADER.size
    if marker != MARKER or length > len(data) - start:
        return None
    payload = data[start:start + length]
    if crc32(payload, crc32(_COUNTED.pack(counter, length))) != crc:
        return None
    return Frame(counter, offset, payload)
