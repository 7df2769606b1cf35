"""frames.py: what is appended is read back; a torn tail is told apart from damage in the middle."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.store import frames
from mynosql.store.frames import FILE_HEADER, FRAME_HEADER, Damage, JournalReader, JournalWriter, journal_name
from tests.sim.memory_files import MemoryFiles

payloads = st.lists(st.binary(max_size=60) | st.just(bytes([frames.MARKER]) * 40), max_size=8)


def journal_with(contents: list[bytes], number: int = 7) -> MemoryFiles:
    files = MemoryFiles()
    writer = JournalWriter(files, number)
    for payload in contents:
        writer.append(payload)
    writer.flush()
    return files


def read(files: MemoryFiles, number: int = 7) -> tuple[list[bytes], JournalReader]:
    reader = JournalReader(files, journal_name(number))
    return [frame.payload for frame in reader], reader


def offsets(contents: list[bytes]) -> list[int]:
    found = [FILE_HEADER.size]
    for payload in contents:
        found.append(found[-1] + FRAME_HEADER.size + len(payload))
    return found


@given(payloads)
def test_frames_come_back_in_order_and_whole(contents: list[bytes]) -> None:
    files = journal_with(contents)
    found, reader = read(files)
    assert found == contents
    assert (reader.end, reader.torn_bytes, reader.damages) == (files.size(journal_name(7)), 0, [])


def test_append_returns_the_offset_of_the_payload_that_is_read_back() -> None:
    files = MemoryFiles()
    writer = JournalWriter(files, 3)
    wrote = [writer.append(b"x" * n) for n in (5, 0, 9)]
    starts = [offset - FRAME_HEADER.size for offset in wrote]
    assert starts == offsets([b"x" * 5, b"", b"x" * 9])[:3]
    assert starts == [frame.offset for frame in JournalReader(files, writer.name)]
    assert (writer.frames, writer.size) == (3, files.size(writer.name))


def test_the_name_of_a_new_journal_survives_a_power_cut_and_so_do_flushed_frames() -> None:
    for seed in range(20):
        files = MemoryFiles()
        writer = JournalWriter(files, 1)
        writer.append(b"flushed")
        writer.flush()
        writer.append(b"lost or not")
        found, reader = read(files.crash(Random(seed)), 1)
        assert found[:1] == [b"flushed"]
        assert not reader.damages


@given(payloads, st.data())
def test_a_file_cut_anywhere_yields_the_whole_frames_before_the_cut_and_counts_the_rest(
    contents: list[bytes], data: st.DataObject
) -> None:
    files = journal_with(contents)
    size = data.draw(st.integers(0, files.size(journal_name(7))))
    files.cut(journal_name(7), size)
    found, reader = read(files)
    ends = [end for end in offsets(contents) if end <= size]
    assert found == contents[:max(0, len(ends) - 1)]
    assert (reader.end, reader.torn_bytes) == ((ends or [0])[-1], size - (ends or [0])[-1])
    assert reader.damages == []


@given(payloads.filter(lambda contents: len(contents) > 0), st.data())
def test_any_flipped_bit_is_set_right_and_told(contents: list[bytes], data: st.DataObject) -> None:
    files = journal_with(contents)
    name = journal_name(7)
    at = data.draw(st.integers(FILE_HEADER.size, files.size(name) - 1))
    files.damage(name, at, bytes([files.read(name, at, 1)[0] ^ 1 << data.draw(st.integers(0, 7))]))
    starts = offsets(contents)
    hit = max(i for i, start in enumerate(starts[:-1]) if start <= at)
    found, reader = read(files)
    assert found == contents
    assert (reader.flips, reader.damages, reader.torn_bytes) == ([starts[hit]], [], 0)


@given(payloads.filter(lambda contents: len(contents) > 0), st.data())
def test_more_flipped_bits_lose_their_own_frame_only_and_never_alter_a_payload(
    contents: list[bytes], data: st.DataObject
) -> None:
    files = journal_with(contents)
    name = journal_name(7)
    at = data.draw(st.integers(FILE_HEADER.size, files.size(name) - 1))
    files.damage(name, at, bytes([files.read(name, at, 1)[0] ^ data.draw(st.sampled_from([3, 5, 0x41, 0xFF]))]))
    hit = max(i for i, start in enumerate(offsets(contents)[:-1]) if start <= at)
    found, reader = read(files)
    starts = offsets(contents)
    if found == contents:  # bits of what says where the frame begins and which it is: its checksum tells that as well
        assert reader.flips == [starts[hit]]
        return
    assert found == contents[:hit] + contents[hit + 1:]
    if hit == len(contents) - 1:
        assert (reader.damages, reader.torn_bytes) == ([], starts[-1] - starts[-2])
    else:
        assert reader.damages == [Damage(starts[hit], starts[hit + 1] - starts[hit], 1)]
        assert reader.torn_bytes == 0


def test_damage_over_several_frames_is_one_stretch_with_their_count() -> None:
    contents = [bytes([n]) * 50 for n in range(6)]
    files = journal_with(contents)
    starts = offsets(contents)
    files.damage(journal_name(7), starts[1] + 20, bytes(starts[4] - starts[1] - 20))
    found, reader = read(files)
    assert found == [contents[0], contents[4], contents[5]]
    assert reader.damages == [Damage(starts[1], starts[4] - starts[1], 3)]


def test_a_damaged_file_header_is_reported_and_every_frame_still_read() -> None:
    files = journal_with([b"one", b"two"])
    files.damage(journal_name(7), 2, b"?")
    found, reader = read(files)
    assert found == [b"one", b"two"]
    assert reader.damages == [Damage(0, FILE_HEADER.size, 0)]


def test_a_file_that_grew_without_its_data_arriving_is_a_torn_tail() -> None:
    files = journal_with([b"one"])
    end = files.size(journal_name(7))
    files.damage(journal_name(7), end, bytes(3000))
    found, reader = read(files)
    assert (found, reader.end, reader.torn_bytes, reader.damages) == ([b"one"], end, 3000, [])


def test_frames_of_another_journal_inside_a_payload_are_not_taken_for_our_own() -> None:
    """A user may store a copy of a journal as a record; damage in front of it must not bring its frames to life."""
    ghost = frames.pack_frame(6, 1, b"ghost")
    files = journal_with([b"first", b"...." + ghost + b"....", b"last"])
    files.damage(journal_name(7), offsets([b"first"])[1] + FRAME_HEADER.size, b"!")
    assert read(files)[0] == [b"first", b"last"]


def test_an_earlier_frame_of_the_same_journal_inside_a_payload_is_not_taken_again() -> None:
    old = frames.pack_frame(7, 0, b"first")
    files = journal_with([b"first", b"second", b"...." + old + b"....", b"last"])
    files.damage(journal_name(7), offsets([b"first", b"second"])[2] + FRAME_HEADER.size, b"!")
    assert read(files)[0] == [b"first", b"second", b"last"]


def test_a_journal_under_the_name_of_another_gives_nothing() -> None:
    files = journal_with([b"one", b"two"])
    content = files.read(journal_name(7), 0, 999)
    files.write_atomic(journal_name(8), content)
    found, reader = read(files, 8)
    assert (found, reader.end, reader.torn_bytes) == ([], 0, len(content))


def test_a_payload_larger_than_the_read_window_and_frames_across_its_border_come_back() -> None:
    rng = Random(5)
    contents = [rng.randbytes(size) for size in (700_000, 700_000, 3 << 20, 0, 1)]
    assert read(journal_with(contents))[0] == contents


def test_damage_in_a_large_payload_is_searched_in_one_pass() -> None:
    """Every false marker byte costs a look at 13 bytes, not a new read of the window."""
    files = journal_with([bytes([frames.MARKER]) * ((1 << 20) + 1000), b"last"])
    files.damage(journal_name(7), FILE_HEADER.size + 100, b"!")
    reads = 0
    read_once = files.read

    def counted(name: str, offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return read_once(name, offset, length)

    files.read = counted  # type: ignore[method-assign]
    assert read(files)[0] == [b"last"]
    assert reads < 20


def test_a_journal_of_a_newer_format_is_refused_and_named() -> None:
    files = journal_with([b"one"])
    start = frames.MAGIC + bytes([frames.FORMAT + 1]) + (7).to_bytes(8, "little")
    files.damage(journal_name(7), 0, start + frames.crc32(start).to_bytes(4, "little"))
    with pytest.raises(FormatUnknown, match=r"journal-00000007: journal format 2, this version reads up to 1"):
        read(files)


def test_a_new_journal_never_overwrites_one_that_holds_something() -> None:
    files = journal_with([b"one"])
    with pytest.raises(StorageCorrupt, match="not empty"):
        JournalWriter(files, 7)
    assert read(files)[0] == [b"one"]


def test_names_and_numbers_belong_together() -> None:
    assert frames.parse_journal_name(journal_name(12)) == 12
    assert [frames.parse_journal_name(name) for name in ("journal", "journal-", "journal-1x", "shard-00000001")] == [
        None] * 4
