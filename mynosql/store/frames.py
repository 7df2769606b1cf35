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
from mynosql.store.flips import find_flip

FORMAT = 1
MAGIC = b"MNSQLjn"
FILE_HEADER = struct.Struct("<7sBQI")  # magic, format, number, crc32 of what stands before
FRAME_HEADER = struct.Struct("<BIII")  # marker, counter, length, crc32
MARKER = 0xA5
"""Starts a frame, so that a reader behind damage finds the next one. Not 0: a file that grew without its data
arriving reads as zeros."""
_CHECKED = struct.Struct("<QII")  # what the crc covers before the payload: journal number, counter, length
_DAMAGE_FRAMES_MAX = 1 << 20
"""Behind damage only a frame whose counter goes on within so many is believed."""
PAYLOAD_BYTES_MAX = 1 << 30
"""A frame holds one batch; 1 GiB is four records of the largest size and bounds what a reader allocates."""
_WINDOW_BYTES = 1 << 20
_MENDED_BYTES_MAX = 4 << 10
"""In a longer frame no flipped bit is looked for: a torn one must hardly ever look like a flipped one, 1 in 130,000."""


class Frame(NamedTuple):
    """One payload as it stands in the journal."""

    counter: int
    offset: int
    payload: bytes
    is_mended: bool = False
    """One bit of it was flipped in the file: what stands there is not the payload."""


class Damage(NamedTuple):
    """A stretch of a journal that holds no valid frame although valid ones follow."""

    offset: int
    length: int
    frames: int
    """How many frames stood there, by the counters around it; 0: only the file header is damaged."""


def journal_name(number: int) -> str:
    return f"journal-{number:08d}"


def parse_journal_name(name: str) -> int | None:
    """The number in a journal's file name, None for any other file."""
    prefix, _, digits = name.partition("-")
    return int(digits) if prefix == "journal" and digits.isascii() and digits.isdigit() else None


def pack_file_header(number: int) -> bytes:
    """The first bytes of journal `number`; frames follow."""
    start = FILE_HEADER.pack(MAGIC, FORMAT, number, 0)[:-4]
    return start + crc32(start).to_bytes(4, "little")


def pack_frame(number: int, counter: int, payload: bytes) -> bytes:
    """The bytes of one frame. number: of the journal; counter: frames before this one in the same journal."""
    length = len(payload)
    crc = crc32(payload, crc32(_CHECKED.pack(number, counter, length)))
    return FRAME_HEADER.pack(MARKER, counter, length, crc) + payload


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
        try:
            self._file.write(pack_file_header(number))
            files.sync_folder()
        except BaseException:
            self._file.close()
            raise

    @property
    def size(self) -> int:
        return self._file.size

    def append(self, payload: bytes) -> int:
        """Append one frame; returns the offset of its payload. Not fsynced: flush(). Raises StorageFull, StorageFailed.

        payload: at most PAYLOAD_BYTES_MAX.
        """
        assert len(payload) <= PAYLOAD_BYTES_MAX
        offset = self._file.write(pack_frame(self.number, self.frames, payload))
        self.frames += 1
        return offset + FRAME_HEADER.size

    def flush(self) -> None:
        """Every frame appended so far is on the disk."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class JournalReader:
    """Iterates the frames of one journal file; `end`, `torn_bytes` and `damages` are complete after the last one.

    Damage raises nothing: it is listed, and what follows is still read. Raises FormatUnknown for a newer format and
    StorageCorrupt only when the file is missing or the device fails.
    """

    def __init__(self, files: Files, name: str) -> None:
        self.name = name
        self.end = 0
        """Offset behind the last valid frame."""
        self.torn_bytes = 0
        """Bytes behind `end` that make no frame: a write that a crash cut short."""
        self.damages: list[Damage] = []
        self.flips: list[int] = []
        """Offsets of frames in which one bit was set right."""
        self._number = parse_journal_name(name) or 0
        self._path = files.path(name)
        self._size = files.size(name)
        self._window = _Window(files, name)

    def __iter__(self) -> Iterator[Frame]:
        offset = expected = 0
        damaged_at = None if self._is_header_valid() else 0
        if damaged_at is None:
            offset = self.end = FILE_HEADER.size
        while offset < self._size:
            frame = self._frame_at(offset, None if damaged_at is None else expected)
            if frame is None and damaged_at is None:
                frame = self._mended_at(offset, expected)
            if frame is None:
                damaged_at = offset if damaged_at is None else damaged_at
                offset = self._window.find(MARKER, offset + 1)
                continue
            if damaged_at is not None:
                self.damages.append(Damage(damaged_at, offset - damaged_at, frame.counter - expected))
                damaged_at = None
            expected = frame.counter + 1
            if frame.is_mended:
                self.flips.append(offset)
            offset = self.end = offset + FRAME_HEADER.size + len(frame.payload)
            yield frame
        self.torn_bytes = self._size - self.end

    def _is_header_valid(self) -> bool:
        data = self._window.read(0, FILE_HEADER.size)
        if len(data) < FILE_HEADER.size or crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            return False
        magic, version, number, _ = FILE_HEADER.unpack(data)
        if magic == MAGIC and version > FORMAT:
            raise FormatUnknown(
                f"{self._path}: journal format {version}, this version reads up to {FORMAT}; "
                "open it with a newer version of mynosql"
            )
        return bool(magic == MAGIC and number == self._number)

    def _frame_at(self, offset: int, counter_min: int | None) -> Frame | None:
        """counter_min: given when searching behind damage, where bytes of a payload may look like a frame."""
        head = self._window.read(offset, FRAME_HEADER.size)
        if len(head) < FRAME_HEADER.size:
            return None
        marker, counter, length, crc = FRAME_HEADER.unpack(head)
        start = offset + FRAME_HEADER.size
        if marker != MARKER or length > min(PAYLOAD_BYTES_MAX, self._size - start):
            return None
        if counter_min is not None and not 0 <= counter - counter_min < _DAMAGE_FRAMES_MAX:
            return None
        payload = self._window.read(start, length)
        if crc32(payload, crc32(_CHECKED.pack(self._number, counter, length))) != crc:
            return None
        return Frame(counter, offset, payload)


    def _mended_at(self, offset: int, counter: int) -> Frame | None:
        """The frame with this counter that stands there but for one bit."""
        head = self._window.read(offset, FRAME_HEADER.size)
        if len(head) < FRAME_HEADER.size:
            return None
        marker, _, length, crc = FRAME_HEADER.unpack(head)
        start = offset + FRAME_HEADER.size
        for other in (length, *(length ^ 1 << bit for bit in range(32))):
            if other > min(_MENDED_BYTES_MAX, self._size - start):
                continue
            payload = self._window.read(start, other)
            difference = crc32(payload, crc32(_CHECKED.pack(self._number, counter, other))) ^ crc
            if not difference:  # the flipped bit is in the marker, the counter or the length
                is_marked = marker == MARKER or other == length
                return Frame(counter, offset, payload, True) if is_marked else None
            if other == length and marker == MARKER:
                if difference & difference - 1 == 0:  # in the checksum itself
                    return Frame(counter, offset, payload, True)
                found = find_flip(length, difference)
                if found is not None:
                    right = bytearray(payload)
                    right[found[0]] ^= 1 << found[1]
                    return Frame(counter, offset, bytes(right), True)
        return None


class _Window:
    """Reads a file front to back in large pieces; a journal of a huge batch is never in memory twice."""

    def __init__(self, files: Files, name: str) -> None:
        self._files, self._name = files, name
        self._data = b""
        self._start = 0

    def read(self, offset: int, length: int) -> bytes:
        """Up to length bytes from offset: fewer only where the file ends."""
        at = offset - self._start
        if at < 0 or at + length > len(self._data):
            self._data = self._files.read(self._name, offset, max(length, _WINDOW_BYTES))
            self._start, at = offset, 0
        return self._data[at:at + length]

    def find(self, byte: int, offset: int) -> int:
        """Where this byte next stands at or behind offset, the end of the file when nowhere."""
        while True:
            if not 0 <= offset - self._start < len(self._data):
                self._data = self._files.read(self._name, offset, _WINDOW_BYTES)
                self._start = offset
                if not self._data:
                    return offset
            found = self._data.find(byte, offset - self._start)
            if found >= 0:
                return self._start + found
            offset = self._start + len(self._data)
