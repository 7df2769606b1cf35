"""The Index door: one suite for SQLite and the model; then what only the real file can show."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql.errors import FormatUnknown, StorageCorrupt, StorageError, StorageFailed, StorageFull
from mynosql.store import index as module
from mynosql.store.index import BlockRow, Commit, Index, Placed, Segment, SqliteIndex, short_hash
from tests.faults.small_disk import fill, small_disk
from tests.sim.memory_index import MemoryIndex


@pytest.fixture(params=["sqlite", "memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Index]:
    made: Index = SqliteIndex(str(tmp_path / "index")) if request.param == "sqlite" else MemoryIndex()
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "index")


def block(number: int, segment: int, *, seq: int = 1, missing: int = 0) -> BlockRow:
    return BlockRow(number, segment, 3, number << 33, 100, 10_000, 130, seq, seq + 129, missing)


def segment(number: int, block_first: int, block_last: int, *, seq: int = 1) -> Segment:
    return Segment(number, b"s\0a", b"s\xffz", seq, seq + 999, block_first, block_last, 1000)


# Both


def test_an_empty_index_knows_nothing_and_says_so(index: Index) -> None:
    assert (index.place(5), list(index.twins(5)), index.block(0), index.blocks_of(0)) == (None, [], None, [])
    assert (index.segments(), list(index.hashes()), index.note("a"), index.notes()) == ([], [], b"", {})
    assert (index.journal_sealed, index.last_block, index.last_segment) == (-1, -1, -1)
    assert index.check() == []


def test_places_are_found_replaced_and_removed(index: Index) -> None:
    highest = (1 << module.SHORT_HASH_BITS) - 1
    index.commit(Commit(places={highest: 1, 0: 1 << 50, 77: 3}))
    assert [index.place(found) for found in (0, 77, highest, 78)] == [1 << 50, 3, 1, None]
    index.commit(Commit(places={77: 4}, places_removed=[0, 12345]))
    assert [index.place(found) for found in (0, 77, highest)] == [None, 4, 1]
    assert list(index.hashes()) == [77, highest]


def test_many_places_are_asked_for_at_once(index: Index) -> None:
    index.commit(Commit(places={n * 10: n for n in range(1200)}))
    assert index.places(range(0, 12_000, 5)) == {n * 10: n for n in range(1200)}
    assert index.places([]) == {}
    assert index.places(iter([30, 30, 31])) == {30: 3}


def test_places_of_a_range_of_hashes(index: Index) -> None:
    index.commit(Commit(places={7: 1, 8: 2, 9: 3, 20: 4}, twins=[Placed(8, 20), Placed(20, 10)]))
    assert sorted(index.places_between(8, 20)) == [2, 3, 20]
    assert sorted(index.places_between(0, 1 << 42)) == [1, 2, 3, 4, 10, 20]
    assert index.places_between(10, 20) == []


def test_hashes_are_all_there_and_ascending_however_many(index: Index) -> None:
    wanted = sorted({Random(n).getrandbits(42) for n in range(25_000)})
    index.commit(Commit(places=dict.fromkeys(reversed(wanted), 1)))
    assert list(index.hashes()) == wanted


def test_ids_with_the_same_hash_have_further_places(index: Index) -> None:
    index.commit(Commit(places={7: 1, 8: 2}, twins=[Placed(7, 20), Placed(7, 10)]))
    assert (index.place(7), list(index.twins(7)), list(index.twins(8))) == (1, [10, 20], [])
    index.commit(Commit(twins_removed=[Placed(7, 10), Placed(9, 9)], twins=[Placed(7, 30)]))
    assert list(index.twins(7)) == [20, 30]
    index.commit(Commit(twins_removed=[Placed(7, 20), Placed(7, 30)]))
    assert list(index.twins(7)) == []


def test_segments_and_their_blocks_come_back_in_order(index: Index) -> None:
    first, second = segment(0, 0, 2), segment(1, 3, 3, seq=1000)
    index.commit(Commit(segments=[first], blocks=[block(n, 0) for n in (0, 1, 2)]))
    index.commit(Commit(segments=[second], blocks=[block(3, 1, missing=4)]))
    assert index.segments() == [first, second]
    assert index.blocks_of(0) == [block(0, 0), block(1, 0), block(2, 0)]
    last = block(3, 1, missing=4)
    assert (index.blocks_of(1), index.block(3), index.block(4)) == ([last], last, None)
    assert (index.last_block, index.last_segment) == (3, 1)
    ref = block(3, 1).ref
    assert (ref.number, ref.shard, ref.offset, ref.head_bytes, ref.body_bytes, ref.row_count) == (
        3, 3, 3 << 33, 100, 10_000, 130)


def test_rows_that_died_are_added_up_per_segment(index: Index) -> None:
    index.commit(Commit(segments=[segment(0, 0, 0), segment(1, 1, 1)]))
    index.commit(Commit(dead={0: 5, 1: 1, 9: 3}))
    index.commit(Commit(dead={0: 2}))
    assert [found.dead for found in index.segments()] == [7, 1]


def test_a_removed_segment_goes_with_its_blocks_and_its_numbers_are_never_used_again(index: Index) -> None:
    index.commit(Commit(segments=[segment(0, 0, 1), segment(1, 2, 2)], blocks=[block(0, 0), block(1, 0), block(2, 1)]))
    index.commit(Commit(segments_removed=[1]))
    assert [found.number for found in index.segments()] == [0]
    assert (index.block(2), index.blocks_of(1), index.blocks_of(0)) == (None, [], [block(0, 0), block(1, 0)])
    assert (index.last_block, index.last_segment) == (2, 1)


def test_notes_are_kept_replaced_deleted_and_listed_by_prefix(index: Index) -> None:
    index.commit(Commit(notes={"cursor/b": b"2", "cursor/a": b"1", "cursors": b"x", "ä": b"\0"}))
    index.commit(Commit(notes={"cursor/b": b"3", "cursors": b"", "never there": b""}))
    assert (index.note("cursor/b"), index.note("cursors"), index.note("ä")) == (b"3", b"", b"\0")
    assert index.notes("cursor/") == {"cursor/a": b"1", "cursor/b": b"3"}
    assert index.notes() == {"cursor/a": b"1", "cursor/b": b"3", "ä": b"\0"}


def test_the_sealed_journal_only_moves_forward(index: Index) -> None:
    for given_number, expected in ((4, 4), (2, 4), (None, 4), (5, 5)):
        index.commit(Commit(journal_sealed=given_number))
        assert index.journal_sealed == expected


def test_a_closed_index_refuses_and_closes_again(index: Index) -> None:
    index.close()
    index.close()
    calls: list[Callable[[], object]] = [
        lambda: index.place(1), lambda: index.places([1]), index.segments, lambda: index.commit(Commit())
    ]
    for call in calls:
        with pytest.raises(StorageFailed, match="closed"):
            call()


commits = st.builds(
    Commit,
    places=st.dictionaries(st.integers(0, 9), st.integers(0, 99), max_size=5),
    places_removed=st.lists(st.integers(0, 9), max_size=2),
    twins=st.lists(st.builds(Placed, st.integers(0, 3), st.integers(0, 5)), max_size=3),
    twins_removed=st.lists(st.builds(Placed, st.integers(0, 3), st.integers(0, 5)), max_size=3),
    notes=st.dictionaries(st.sampled_from(["a", "b", "b/c"]), st.binary(max_size=2), max_size=2),
    journal_sealed=st.none() | st.integers(0, 9),
)


@given(st.lists(commits, max_size=8))
def test_sqlite_and_the_model_agree_after_any_commits(
    tmp_path_factory: pytest.TempPathFactory, given: list[Commit]
) -> None:
    pair = (SqliteIndex(str(tmp_path_factory.mktemp("agree") / "index")), MemoryIndex())
    seen = []
    for index in pair:
        for commit in given:
            index.commit(commit)
        seen.append((
            [index.place(n) for n in range(10)], [list(index.twins(n)) for n in range(4)], list(index.hashes()),
            index.notes(), index.journal_sealed,
        ))
        index.close()
    assert seen[0] == seen[1]


# The model


def test_a_commit_of_the_model_is_all_or_nothing_around_a_crash() -> None:
    for moment, expected in (("before", None), ("after", 1)):
        index = MemoryIndex()

        def stop(now: str, moment: str = moment) -> None:
            if now == moment:
                raise StorageFailed("modelled")

        index.on_commit = stop
        with pytest.raises(StorageFailed):
            index.commit(Commit(places={7: 1}, notes={"a": b"1"}))
        left = index.crash()
        assert (left.place(7), left.note("a")) == (expected, b"1" if expected else b"")


# The file


def filled(path: str) -> None:
    index = SqliteIndex(path)
    rng = Random(4)
    index.commit(Commit(
        segments=[segment(0, 0, 19)], blocks=[block(n, 0) for n in range(20)],
        notes={f"n{n}": b"note" for n in range(9)},
        places={rng.getrandbits(42): n for n in range(2000)}, twins=[Placed(5, 6)], journal_sealed=3,
    ))
    index.close()


def read_everything(index: Index) -> object:
    return (
        [index.place(found) for found in index.hashes()], index.places(range(50)), [list(index.twins(5))],
        index.segments(), index.blocks_of(0), index.block(7), index.notes(), index.note("n3"), index.journal_sealed,
        index.last_block, index.last_segment,
    )


def test_everything_is_there_after_opening_again_and_only_one_file_is_left(path: str, tmp_path: Path) -> None:
    filled(path)
    assert os.listdir(tmp_path) == ["index"]
    first = SqliteIndex(path)
    found = read_everything(first)
    first.close()
    again = SqliteIndex(path)
    assert read_everything(again) == found
    assert again.size_bytes() == os.path.getsize(path)
    again.close()


def test_a_commit_is_there_when_the_process_dies_without_closing(path: str, tmp_path: Path) -> None:
    index = SqliteIndex(path)
    index.commit(Commit(places={7: 1}))
    (tmp_path / "left").mkdir()
    for name in ("index", "index-wal"):
        (tmp_path / "left" / name).write_bytes((tmp_path / name).read_bytes())
    index.close()
    left = SqliteIndex(str(tmp_path / "left" / "index"))
    assert left.place(7) == 1
    left.close()


def test_every_commit_is_flushed_to_the_disk_before_it_returns(path: str) -> None:
    """synchronous=NORMAL lost acknowledged writes in 1,505 of 2,142 replayed power cuts (MEASURED)."""
    index = SqliteIndex(path)
    assert index._writer is not None
    assert [index._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")] == [
        2, "wal"]
    index.close()


def test_a_failed_commit_leaves_nothing_of_itself_and_the_next_one_succeeds(path: str) -> None:
    index = SqliteIndex(path)
    index.commit(Commit(blocks=[block(0, 0)], places={1: 1}))
    with pytest.raises(StorageCorrupt):
        index.commit(Commit(notes={"a": b"1"}, places={2: 2}, blocks=[block(1, 0), block(1, 0)]))
    with pytest.raises(ZeroDivisionError):
        index.commit(Commit(places={2: 2}, places_removed=(1 // n for n in (1, 0))))  # type: ignore[arg-type]
    assert (index.place(2), index.note("a"), index.block(1)) == (None, b"", None)
    index.commit(Commit(places={2: 3}))
    assert index.place(2) == 3
    index.close()


def test_readers_in_other_threads_see_whole_commits_while_a_job_commits(path: str) -> None:
    index = SqliteIndex(path)
    index.commit(Commit(places=dict.fromkeys(range(50), 0)))
    wrong: list[object] = []
    is_done = threading.Event()

    def read() -> None:
        try:
            while not is_done.is_set():
                places = set(index.places(range(50)).values())
                if len(places) != 1 or index.place(17) is None or index.place(99) is not None:
                    wrong.append(places)
        except StorageError as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(60):
        index.commit(Commit(places=dict.fromkeys(range(50), n)))
        if index.place(3) != n:
            wrong.append(n)
    is_done.set()
    for thread in threads:
        thread.join()
    index.close()
    assert wrong == []


def test_reading_alone_needs_one_connection(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = SqliteIndex(path)
    index.place(0)

    def refuse(path: str, *, is_reader: bool) -> sqlite3.Connection:
        raise AssertionError("another connection was opened")

    monkeypatch.setattr(module, "_connect", refuse)
    for n in range(5):
        index.place(n)
        index.segments()
    index.close()


def test_a_read_that_fails_keeps_no_connection_open(path: str) -> None:
    index = SqliteIndex(path)
    assert index._writer is not None
    index._writer.execute("DROP TABLE place")
    for _ in range(3):
        with pytest.raises(StorageCorrupt, match="no such table"):
            index.place(1)
        with pytest.raises(StorageCorrupt, match="no such table"):
            index.places([1])
    assert len(index._readers) == 1
    index.close()
    assert os.listdir(os.path.dirname(path)) == ["index"]


def test_a_place_keeps_its_bytes(path: str) -> None:
    """The index is the disk cost (DESIGN §4): at most 20 bytes for a record among random ones, sealed in batches."""
    index = SqliteIndex(path)
    rng = Random(6)
    count = 60_000
    for _ in range(4):
        index.commit(Commit(places={
            rng.getrandbits(module.SHORT_HASH_BITS): 7_000 << 12 | n % 130 for n in range(count // 4)}))
    index.close()
    assert os.path.getsize(path) / count < 20


def test_a_short_hash_keeps_the_top_bits_and_is_never_negative() -> None:
    assert (short_hash(-1), short_hash(0), short_hash(1 << 62)) == ((1 << 42) - 1, 0, 1 << 40)
    assert short_hash(-(1 << 63)) == 1 << 41


def test_a_full_disk_is_told_apart_and_the_index_goes_on_when_there_is_space(path: str) -> None:
    index = SqliteIndex(path)
    index.commit(Commit(places={1: 1}))
    assert index._writer is not None
    index._writer.execute("PRAGMA max_page_count=12")  # SQLite says the same of this limit as of a full disk
    with pytest.raises(StorageFull, match="no space for the index"):
        index.commit(Commit(places={n: n for n in range(20_000)}))
    assert (index.place(1), index.place(2)) == (1, None)
    index._writer.execute("PRAGMA max_page_count=1000000")
    index.commit(Commit(places={n: n for n in range(20_000)}))
    assert index.place(19_999) == 19_999
    index.close()


def test_a_disk_that_is_really_full_refuses_the_commit_and_takes_it_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_bytes=512 << 10) as folder:
        index = SqliteIndex(str(folder / "index"))
        index.commit(Commit(places={1: 1}))
        filler = fill(folder, leave_bytes=64 << 10)
        large = Commit(places={n * 1000: n for n in range(8_000)}, notes={"a": b"1"})
        with pytest.raises(StorageFull, match="no space for the index"):
            index.commit(large)
        assert (index.place(1), index.place(7_000_000), index.note("a")) == (1, None, b"")
        filler.unlink()
        index.commit(large)
        assert (index.place(7_000_000), index.note("a")) == (7_000, b"1")
        index.close()
        assert os.listdir(folder) == ["index"]


# Formats and damage


def test_an_index_of_a_newer_format_is_refused_and_left_untouched(path: str, tmp_path: Path) -> None:
    filled(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA user_version=2")
    before = Path(path).read_bytes()
    with pytest.raises(FormatUnknown, match="index format 2, this version reads up to 1"):
        SqliteIndex(path)
    assert Path(path).read_bytes() == before
    assert os.listdir(tmp_path) == ["index"]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"\0" * 5000, b"just a text, not an index" * 200])
def test_a_file_that_is_no_index_is_named_and_left_untouched(path: str, tmp_path: Path, content: bytes) -> None:
    Path(path).write_bytes(content)
    with pytest.raises(StorageCorrupt) as caught:
        SqliteIndex(path)
    assert caught.value.path == path
    assert Path(path).read_bytes() == content
    assert os.listdir(tmp_path) == ["index"]


def test_an_sqlite_file_of_another_program_is_not_taken_for_an_index(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE place (hash INTEGER PRIMARY KEY, place INTEGER)")
    with pytest.raises(StorageCorrupt, match="an SQLite file, but not an index"):
        SqliteIndex(path)


def test_a_log_without_its_index_is_not_taken_into_a_new_one(path: str) -> None:
    Path(path + "-wal").write_bytes(b"somebody's commits")
    with pytest.raises(StorageCorrupt, match="the index is missing although index-wal is there"):
        SqliteIndex(path)


def test_a_crash_while_the_index_is_made_leaves_none_or_a_whole_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(source: str, target: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            SqliteIndex(path)
    assert not os.path.exists(path)
    index = SqliteIndex(path)
    assert index.segments() == []
    index.close()


def opened_and_read(path: str) -> object:
    """Everything an index says, or "corrupt"; any other error is the test's failure."""
    try:
        index = SqliteIndex(path)
    except (StorageCorrupt, FormatUnknown):
        return "corrupt"
    try:
        return read_everything(index)
    except StorageCorrupt:
        return "corrupt"
    finally:
        with contextlib.suppress(StorageCorrupt):
            index.close()


@pytest.mark.parametrize(
    ("damage", "read"),
    [
        ("UPDATE place SET place='x' WHERE hash=9", lambda index: index.place(9)),
        ("UPDATE place SET place=x'00' WHERE hash=9", lambda index: index.places([9])),
        ("UPDATE block SET start='x'", lambda index: index.block(0)),
        ("UPDATE block SET row_count=1.5", lambda index: index.blocks_of(0)),
        ("UPDATE segment SET first_key='x'", lambda index: index.segments()),
        ("UPDATE note SET value='x'", lambda index: index.note("a")),
        ("UPDATE note SET key=x'80', value=x''", lambda index: index.notes()),
        ("UPDATE counter SET value='x'", lambda index: index.journal_sealed),
        ("DROP TABLE place", lambda index: index.place(9)),
    ],
)
def test_a_value_that_cannot_be_there_is_corrupt(path: str, damage: str, read: Callable[[Index], object]) -> None:
    index = SqliteIndex(path)
    index.commit(Commit(
        places={9: 1}, segments=[segment(0, 0, 0)], blocks=[block(0, 0)], notes={"a": b"1"}, journal_sealed=1))
    index.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    index = SqliteIndex(path)
    with pytest.raises(StorageCorrupt, match="the index is damaged") as caught:
        read(index)
    assert caught.value.path == path
    index.close()


@pytest.fixture(scope="module")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "index"
    filled(str(path))
    return path


@given(st.data())
def test_any_flipped_byte_raises_nothing_but_corrupt(
    tmp_path_factory: pytest.TempPathFactory, filled_file: Path, data: st.DataObject
) -> None:
    """SQLite has no checksums: a value may change unseen. checkdb compares the index with the shards for that."""
    path = tmp_path_factory.mktemp("flip") / "index"
    content = bytearray(filled_file.read_bytes())
    start = data.draw(st.sampled_from([0, *range(0, len(content), 4096)]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[start + data.draw(st.integers(0, 4095))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    opened_and_read(str(path))


def test_a_file_cut_anywhere_is_corrupt(path: str, filled_file: Path) -> None:
    content = filled_file.read_bytes()
    whole = len(content)
    for size in (*range(0, whole, 1021), *range(0, whole, 4096), *range(whole - 4000, whole, 50)):
        Path(path).write_bytes(content[:size])
        assert opened_and_read(path) == "corrupt", size


def test_check_names_damage_inside_and_does_not_raise(path: str, filled_file: Path) -> None:
    content = bytearray(filled_file.read_bytes())
    content[-4096 + 3:-4096 + 60] = b"\xff" * 57  # the last page of places
    Path(path).write_bytes(content)
    index = SqliteIndex(path)
    assert index.check() != []
    with contextlib.suppress(StorageCorrupt):
        index.close()
