"""What opening does: the sealed state read back, the leavings of a crash removed, the journals replayed on top.

Driven once by Store.open(). A torn tail of a journal was never acknowledged and is dropped. Where frames are missing
in the middle (a damaged journal, or unsynced files that reached the disk in another order) what is readable is kept,
but cursors from behind the gap are not believed: what they cover may be what is missing, so it is asked for again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mynosql.errors import StorageCorrupt
from mynosql.store.files import Files
from mynosql.store.filter import FILE_NAME as FILTER_NAME
from mynosql.store.filter import Filter
from mynosql.store.frames import FRAME_HEADER, Frame, JournalReader, journal_name, parse_journal_name
from mynosql.store.index import Commit, Index
from mynosql.store.journal import FrameContent, unpack_frame_content
from mynosql.store.memtable import JOURNALED_BYTES_MAX, spot_of
from mynosql.store.rewriting import (
    APPENDED_NOTE,
    DAMAGED_NOTE,
    EMPTIED_NOTE,
    REWRITING_NOTE,
    unpack_numbers,
    unpack_place,
)
from mynosql.store.seal import OWED_NOTE, TALLY_NOTE, unpack_owed
from mynosql.store.sealed import DROPPED_NOTE, Sealed, complete_filter
from mynosql.store.shard import FILE_HEADER, parse_shard_name, shard_name
from mynosql.store.tally import Tally
from mynosql.store.types import Problem, StoreOptions

if TYPE_CHECKING:
    from mynosql.store.store import Store

CURSOR_PREFIX = "cursor/"
"""Notes that say up to where another node's changes are here (sync writes them)."""
REJECTED_PREFIX = "rejected/"
"""Notes of changes that a mirror refused (sync writes them); they go in a frame behind that of the change."""


class SealedState(NamedTuple):
    """What the index holds beside places."""

    tally: Tally
    notes: dict[str, bytes]
    shard_number: int
    """The shard that is appended to."""
    filter_rows_saved: int


def open_sealed(files: Files, index: Index, options: StoreOptions) -> tuple[Sealed, SealedState]:
    """The sealed part as the last commit left it. Raises StorageCorrupt when it contradicts itself."""
    notes = index.notes()
    tally_data, owed_data = notes.pop(TALLY_NOTE, b""), notes.pop(OWED_NOTE, b"")
    appended_data, emptied_data = notes.pop(APPENDED_NOTE, b""), notes.pop(EMPTIED_NOTE, b"")
    is_rewriting = bool(notes.pop(REWRITING_NOTE, b""))
    notes.pop(DAMAGED_NOTE, b"")
    notes.pop(DROPPED_NOTE, None)
    problems: list[Problem] = []
    filter, covered = _load_filter(files, problems)
    sealed = Sealed(files, index, filter, options)
    sealed.problems += problems
    try:
        tally = Tally.unpack(tally_data) if tally_data else Tally()
        sealed.owed = unpack_owed(owed_data)
        appended = unpack_place(appended_data) if appended_data else (0, 0)
        emptied = unpack_numbers(emptied_data)
    except (ValueError, struct.error) as error:
        text = f"its counters cannot be read ({error}); run checkdb"
        raise StorageCorrupt(files.path("index"), None, text) from error
    if covered is None:
        rows_saved = 0
        filter.add_many(index.hashes())
    else:
        rows_saved = sum(segment.row_count for segment in sealed.segments if segment.number <= covered)
        complete_filter(sealed, [segment for segment in sealed.segments if segment.number > covered])
    for number in emptied:
        files.remove(shard_name(number))
    shard_number = _drop_unfinished_shards(files, sealed, appended, is_rewriting=is_rewriting)
    if is_rewriting:
        files.sync_folder()
        index.commit(Commit(notes={REWRITING_NOTE: b""}))
    return sealed, SealedState(tally, notes, shard_number, rows_saved)


def _load_filter(files: Files, problems: list[Problem]) -> tuple[Filter, int | None]:
    """The filter and the last segment that it covers; None: nothing could be read, take all from the index."""
    if FILTER_NAME not in files.list():
        return Filter(), None
    try:
        return Filter.unpack(files.read(FILTER_NAME, 0, files.size(FILTER_NAME)), path=files.path(FILTER_NAME))
    except StorageCorrupt as error:
        problems.append(Problem(error.path, error.offset, f"{error}; it is made anew", 0))
        return Filter(), None


def _drop_unfinished_shards(
    files: Files, sealed: Sealed, appended: tuple[int, int], *, is_rewriting: bool
) -> int:
    """Cut off what a seal or a rewriting wrote without coming to its commit; returns the shard to append to.

    Such a seal left its journal, such a rewriting its note. Bytes that neither stands for are somebody's records: an
    index that does not know them was lost or is an old copy, and nothing is cut.
    """
    last, end = 0, 0
    if sealed.segments:
        blocks = sealed.index.blocks_of(sealed.segments[-1].number)
        last = blocks[-1].shard
        end = max(block.offset + block.head_bytes + block.body_bytes for block in blocks if block.shard == last)
    last, end = max((last, end), appended)
    numbers = {number: name for name in files.list() if (number := parse_shard_name(name)) is not None}
    unfinished = [
        name for number, name in numbers.items() if number > last or (number == last and files.size(name) > end)
    ]
    # No record is in a header, whole or torn; appending behind a torn one would make the shard unreadable.
    unknown = [name for name in unfinished if files.size(name) > FILE_HEADER.size]
    journals = [number for name in files.list() if (number := parse_journal_name(name)) is not None]
    sealed_number = sealed.index.journal_sealed
    has_journal = any(number > sealed_number for number in journals) and (sealed_number >= 0 or 0 in journals)
    if unknown and not has_journal and not is_rewriting:
        raise StorageCorrupt(
            files.path("index"), None,
            f"it does not know the records in {', '.join(unknown)}: it was lost or is an old "
            "copy; open the database again with the file away, and it is made anew",
        )
    for name in unfinished:
        if name == shard_name(last) and end:
            files.truncate(name, end)
        else:
            files.remove(name)
    return last


def replay(store: Store, files: Files, index: Index, progress: Callable[[int, int], None] | None) -> int:
    """Every intact frame of the journals that are not sealed is in memtables again, and durable.

    Returns the number for the next journal.
    """
    numbers = sorted(
        number for name in files.list()
        if (number := parse_journal_name(name)) is not None and name == journal_name(number)
    )
    todo = []
    if numbers and numbers[0] <= index.journal_sealed:
        index.write_again()  # its fsync may have failed, and the process ended before the journal could go
    for number in numbers:
        if number <= index.journal_sealed:
            files.remove(journal_name(number))
        else:
            todo.append(number)
    replayer = _Replayer(store, files)
    for position, number in enumerate(todo):
        if progress is not None:
            progress(position, len(todo))
        replayer.replay(number)
    if todo:
        files.sync_folder()
        if progress is not None:
            progress(len(todo), len(todo))
    return max([index.journal_sealed, *numbers], default=-1) + 1


class _Replayer:
    """Puts the frames of journals back in order."""

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files
        self._is_gapped = False

    def replay(self, number: int) -> None:
        """One journal. What it holds counts as durable afterwards, also if the fsync of an earlier process failed."""
        name = journal_name(number)
        self._files.write_again(name)
        reader = JournalReader(self._files, name)
        source = self._store.start_replayed_journal(name)
        for frame in reader:
            # Before this frame: a frame of notes alone has no seq that would be missed.
            self._is_gapped |= any(damage.frames for damage in reader.damages)
            content = self._content(name, frame)
            if content is not None:
                start = frame.offset + FRAME_HEADER.size
                spots = [
                    None if frame.is_mended or length > JOURNALED_BYTES_MAX
                    else spot_of(source, start + offset, length)
                    for offset, length in content.spans
                ]
                self._store.replay_frame(list(zip(content.rows, spots, strict=True)), self._believed(content))
        for damage in reader.damages:
            if damage.frames:  # none: only the file's header, and no save was in it
                self._problem(name, damage.offset, f"{damage.frames} saves cannot be read", damage.frames)
        for offset in reader.flips:
            self._problem(name, offset, "one bit of a save was flipped, and is set right", 0)
        self._store.end_replayed_journal(number)

    def _content(self, name: str, frame: Frame) -> FrameContent | None:
        try:
            content = unpack_frame_content(frame.payload)
        except ValueError as error:
            self._is_gapped = True
            self._problem(name, frame.offset, f"a frame is valid, but what it says cannot be read: {error}", 1)
            return None
        if content.seq_before is not None and content.seq_before > self._store.head_seq:
            self._is_gapped = True
        return content

    def _believed(self, content: FrameContent) -> dict[str, bytes]:
        """Behind a gap, notes that do not rest upon what may have stood in it."""
        if not self._is_gapped:
            return content.notes
        return {
            key: value for key, value in content.notes.items()
            if not key.startswith(CURSOR_PREFIX) and (value or not key.startswith(REJECTED_PREFIX))
        }

    def _problem(self, name: str, offset: int, what: str, records: int) -> None:
        self._store.note_problem(Problem(self._files.path(name), offset, what, records))
