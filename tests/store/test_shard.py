"""shard.py: rows come back from their blocks, in parts and whole; no changed byte is ever taken for theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql import batch, codec
from mynosql.batch import Flat, flat_row
from mynosql.errors import FormatUnknown, StorageCorrupt
from mynosql.row import NO_DIGEST, Ancestry, Leaf, Row, StaleBody, Version
from mynosql.store import shard, streams
from mynosql.store.packed import extent_of, pack_row
from mynosql.store.shard import BlockRef
from tests.sim.memory_files import MemoryFiles

RANDOM = Random(1).randbytes(300_000)


def leaf_of(body: bytes | None, *, generation: int = 1, hlc: int = 5, node: int = 7, ancestry: bool = False) -> Leaf:
    past = Ancestry((Version(hlc, node), Version(3, node + 1)), (Version(2, node + 1),)) if ancestry else None
    if body is None:
        return Leaf(generation, hlc, node, True, 0, NO_DIGEST, past)
    return Leaf(generation, hlc, node, False, len(body), codec.digest(body), past)


def plain(n: int, body: bytes | None = b"body", *, carried: bool = True, **fields: bool) -> Row:
    held = body if carried else None
    return Row(b"s%08d" % n, (leaf_of(body, hlc=n + 1),), (held,), n + 1, **fields)


@st.composite
def row_sets(draw: st.DrawFn, rows_max: int = 12) -> list[Row]:
    """Rows sorted by id: tombstones, conflicts, ancestry, bodies not held, strays and stale bodies among them."""
    rows = []
    for id_key in sorted(draw(st.sets(st.binary(min_size=1, max_size=12), min_size=1, max_size=rows_max))):
        bodies = draw(st.lists(st.none() | st.binary(max_size=60), min_size=1, max_size=3))
        bodies.sort(key=lambda body: body is None)  # winner order: live before deleted
        leaves = tuple(
            leaf_of(body, hlc=9 - i, node=10 * i, ancestry=draw(st.booleans())) for i, body in enumerate(bodies)
        )
        carried = tuple(body if draw(st.booleans()) else None for body in bodies)
        stale = draw(st.none() | st.binary(max_size=30))
        rows.append(Row(
            id_key, leaves, carried, draw(st.integers(0, 1 << 40)), draw(st.booleans()), draw(st.booleans()),
            None if stale is None else StaleBody(leaf_of(stale, hlc=1), stale),
        ))
    return rows


def flats(rows: Iterable[Row]) -> list[Flat]:
    return list(map(flat_row, rows))


def cut(rows: Iterable[Row], limit: int = shard.BLOCK_BYTES_MAX) -> list[list[Row]]:
    """The rows of each block."""
    rows = list(rows)
    extents = [extent_of(pack_row(row), len(row.id_key)) for row in rows]
    return [rows[run] for run in shard.cut_blocks(extents, limit)]


def sealed(*blocks: list[Row]) -> tuple[MemoryFiles, list[BlockRef]]:
    """A shard file 3 with these rows as blocks 10, 11…"""
    files = MemoryFiles()
    file = files.open_append(shard.shard_name(3))
    file.write(shard.pack_file_header(3))
    refs = []
    for number, rows in enumerate(blocks, 10):
        packed = shard.pack_block(flats(rows), number=number)
        refs.append(packed.ref(3, file.write(packed.data)))
    return files, refs


# What goes in comes out


@given(row_sets(), row_sets())
def test_rows_come_back_from_their_block(first: list[Row], second: list[Row]) -> None:
    files, refs = sealed(first, second)
    assert [shard.read_rows(files, ref) for ref in refs] == [first, second]
    shard.verify_block(files, refs[0])
    shard.verify_block(files, refs[1])


@given(row_sets())
def test_every_body_is_found_by_the_head_alone_and_passes_its_digest(rows: list[Row]) -> None:
    files, (ref,) = sealed(rows)
    head = shard.read_head(files, ref)
    bodies = shard.open_bodies(files, ref, head)
    for i, row in enumerate(rows):
        assert head.rows.find(row.id_key) == i
        assert head.rows.entry(i).leaves == row.leaves
        for k, body in enumerate(row.bodies):
            span = head.rows.body_span(i, k)
            assert (span is None) == (body is None)
            if span is not None:
                assert shard.check_body(files, ref, bodies.read(*span), row.leaves[k]) == body
                assert shard.read_body(files, ref, head, *span) == body
        span = head.rows.stale_span(i)
        assert (None if span is None else bodies.read(*span)) == (row.stale and row.stale.body)


def test_rows_without_bodies_make_a_block_that_is_all_head() -> None:
    rows = [plain(n, carried=False) for n in range(100)]
    files, (ref,) = sealed(rows)
    assert ref.body_bytes == 0
    assert shard.read_rows(files, ref) == rows


def test_a_block_read_for_its_entries_only_carries_no_bodies() -> None:
    rows = [plain(n) for n in range(5)]
    files, (ref,) = sealed(rows)
    assert shard.read_rows(files, ref, bodies=False) == [row._replace(bodies=(None,)) for row in rows]


def test_a_cold_read_of_a_small_block_is_one_read_of_the_file() -> None:
    files, (ref,) = sealed([plain(n) for n in range(5)])
    reads = count_reads(files)
    head, bodies = shard.read_block(files, ref)
    assert bodies.read(*(head.rows.body_span(2) or (0, 0))) == b"body"
    assert reads == [(ref.offset, ref.head_bytes + ref.body_bytes)]


def count_reads(files: MemoryFiles) -> list[tuple[int, int]]:
    reads: list[tuple[int, int]] = []
    read_once = files.read

    def read(name: str, offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return read_once(name, offset, length)

    files.read = read  # type: ignore[method-assign]
    return reads


def test_a_part_of_a_large_body_costs_only_its_pieces() -> None:
    files, (ref,) = sealed([plain(0, RANDOM)])
    reads = count_reads(files)
    head, bodies = shard.read_block(files, ref)
    assert bodies.read(200_000, 1000) == RANDOM[200_000:201_000]
    assert sum(length for _, length in reads) <= ref.head_bytes + 2 * shard.PIECE_BYTES
    assert head.rows.body_span(0) == (0, len(RANDOM))


def test_a_packed_block_states_its_seqs_without_strays_and_the_bodies_it_lacks() -> None:
    rows = [
        plain(10), plain(20, stray=True), plain(30, carried=False), plain(40, None, carried=False), plain(5, stray=True)
    ]
    packed = shard.pack_block(flats(sorted(rows)), number=0)
    assert (packed.seq_min, packed.seq_max, packed.missing, packed.row_count) == (11, 41, 1, 5)
    strays = shard.pack_block(flats([plain(5, stray=True)]), number=0)
    assert (strays.seq_min, strays.seq_max) == (0, 0)


def test_higher_effort_gives_the_same_rows_in_no_more_bytes() -> None:
    rows = [plain(n, b"reading %d at 12.5 degrees, all is well" % (n * 7919)) for n in range(300)]
    quick, thorough = (shard.pack_block(flats(rows), number=0, preset=preset) for preset in (1, 6))
    files = MemoryFiles()
    ref = thorough.ref(3, files.open_append(shard.shard_name(3)).write(thorough.data))
    assert shard.read_rows(files, ref) == rows
    assert len(thorough.data) <= len(quick.data)


# Cutting


@given(st.lists(st.integers(0, 3000), max_size=80), st.integers(1, 8000))
def test_blocks_are_cut_in_order_none_empty_none_too_large_but_for_a_single_row(sizes: list[int], limit: int) -> None:
    rows = [plain(n, bytes(size)) for n, size in enumerate(sizes)]
    blocks = cut(rows, limit)
    assert [row for block in blocks for row in block] == rows
    for block in blocks:
        assert len(block) == 1 or sum(len(row.bodies[0] or b"") for row in block) <= limit
    assert all(blocks)


def test_a_body_over_64_kib_stands_alone_and_only_such_a_block_is_cut_in_pieces() -> None:
    sizes = [100, 65_536, 100, 65_537, 100, 300_000, 32_768, 32_768]
    rows = [plain(n, RANDOM[:size]) for n, size in enumerate(sizes)]
    assert [len(block) for block in cut(rows)] == [1] * 8
    files, refs = sealed(*([row] for row in rows))
    kinds = [shard.read_head(files, ref).body_kind == streams.PIECES for ref in refs]
    assert kinds == [False, False, False, True, False, True, False, False]


def test_stale_bodies_and_losers_count_for_the_size_of_a_block() -> None:
    body = bytes(20_000)
    stale = StaleBody(leaf_of(body), body)
    assert [len(block) for block in cut([plain(n)._replace(stale=stale) for n in range(4)])] == [1] * 4
    two = Row(b"a", (leaf_of(body), leaf_of(body, hlc=2)), (body, body), 1)
    assert [len(block) for block in cut([two, two._replace(id_key=b"b")])] == [1, 1]


def test_heads_stay_small_so_that_a_look_up_is_quick() -> None:
    lengths = [len(block) for block in cut([plain(n, carried=False) for n in range(2000)])]
    assert max(lengths) <= 400
    wide = Row(b"a", (leaf_of(b"x", ancestry=True)._replace(
        ancestry=Ancestry(tuple(Version(n << 40, (1 << 60) + n) for n in range(64)))),) * 8, (None,) * 8, 1)
    assert [len(block) for block in cut([wide, wide._replace(id_key=b"b")])] == [1, 1]


def test_a_slot_always_fits_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "HEAD_COST_MAX", 1 << 30)
    lengths = [len(block) for block in cut([plain(n, b"") for n in range(4097)])]
    assert lengths == [4096, 1]


@given(st.integers(0, 1 << 40), st.integers(0, 4095))
def test_a_place_is_a_block_and_a_slot(block: int, slot: int) -> None:
    place = shard.place_of(block, slot)
    assert (shard.block_of(place), shard.slot_of(place)) == (block, slot)


# Damage

SMALL = [plain(n, b"reading %d of the day" % n) for n in range(8)]
INCOMPRESSIBLE = [plain(0, RANDOM[:70]), plain(1, RANDOM[70:140], carried=True)]
HEADS = [plain(n, carried=False) for n in range(8)]
CONFLICT = [Row(b"a", (leaf_of(b"one"), leaf_of(b"two", hlc=2, node=9)), (b"one", None), 4, stale=StaleBody(
    leaf_of(b"old", hlc=1), b"old"))]
PIECES = [plain(0, RANDOM[:shard.PIECE_BYTES] + bytes(shard.PIECE_BYTES) + b"end")]
BLOCKS = {"small": SMALL, "incompressible": INCOMPRESSIBLE, "heads": HEADS, "conflict": CONFLICT, "pieces": PIECES}


def every_read(files: MemoryFiles, ref: BlockRef, rows: list[Row]) -> Iterator[tuple[object, object]]:
    """(what a read gave, what it must be) for each way to read; a read that noticed damage is left out."""
    for name in ("rows", "entries", "bodies"):
        try:
            if name == "rows":
                yield shard.read_rows(files, ref), rows
            elif name == "entries":
                found = shard.read_head(files, ref).rows
                yield [found.entry(i).leaves for i in range(found.count)], [row.leaves for row in rows]
            else:
                head, bodies = shard.read_block(files, ref)
                for i, row in enumerate(rows):
                    span = head.rows.body_span(i)
                    yield None if span is None else bodies.read(*span), row.bodies[0]
        except StorageCorrupt:
            pass


@pytest.mark.parametrize("name", ["small", "incompressible", "heads", "conflict"])
def test_every_flipped_byte_is_noticed_by_verify_and_never_read_as_data(name: str) -> None:
    rows = BLOCKS[name]
    files, (_, ref, _) = sealed(SMALL, rows, SMALL)
    file = shard.shard_name(3)
    for at in range(ref.offset, ref.offset + ref.head_bytes + ref.body_bytes):
        before = files.read(file, at, 1)
        files.damage(file, at, bytes([before[0] ^ 1 << at % 8]))
        with pytest.raises(StorageCorrupt) as caught:
            shard.verify_block(files, ref)
        assert (caught.value.path, caught.value.offset) == (files.path(file), ref.offset)
        assert all(found == expected for found, expected in every_read(files, ref, rows))
        files.damage(file, at, before)
    shard.verify_block(files, ref)


@given(st.sampled_from(sorted(BLOCKS)), st.data())
def test_any_overwritten_stretch_is_noticed_by_verify_and_never_read_as_data(name: str, data: st.DataObject) -> None:
    rows = BLOCKS[name]
    files, (ref,) = sealed(rows)
    at = data.draw(st.integers(0, ref.head_bytes + ref.body_bytes - 1))
    length = min(data.draw(st.integers(1, 5000)), ref.head_bytes + ref.body_bytes - at)
    rubbish = Random(data.draw(st.integers(0, 99))).randbytes(length)
    before = files.read(shard.shard_name(3), ref.offset + at, length)
    if rubbish == before:
        return
    files.damage(shard.shard_name(3), ref.offset + at, rubbish)
    with pytest.raises(StorageCorrupt):
        shard.verify_block(files, ref)
    assert all(found == expected for found, expected in every_read(files, ref, rows))


@given(st.sampled_from(sorted(BLOCKS)), st.data())
def test_a_shard_cut_anywhere_is_noticed_and_what_is_whole_is_still_read(name: str, data: st.DataObject) -> None:
    rows = BLOCKS[name]
    files, (first, ref) = sealed(SMALL, rows)
    files.cut(shard.shard_name(3), data.draw(st.integers(ref.offset, ref.offset + ref.head_bytes + ref.body_bytes - 1)))
    with pytest.raises(StorageCorrupt):
        shard.verify_block(files, ref)
    assert all(found == expected for found, expected in every_read(files, ref, rows))
    assert shard.read_rows(files, first) == SMALL


def test_one_damaged_piece_leaves_the_others_readable() -> None:
    files, (ref,) = sealed([plain(0, RANDOM)])
    files.damage(shard.shard_name(3), ref.offset + ref.head_bytes + shard.PIECE_BYTES + 9, b"!")
    _, bodies = shard.read_block(files, ref)
    assert bodies.read(0, shard.PIECE_BYTES) == RANDOM[:shard.PIECE_BYTES]
    with pytest.raises(StorageCorrupt, match="piece 1 of its body"):
        bodies.read(shard.PIECE_BYTES, 1)
    with pytest.raises(StorageCorrupt):
        shard.verify_block(files, ref)


def test_another_block_in_the_place_of_the_one_named_is_noticed() -> None:
    files, (first, second) = sealed(SMALL, SMALL)
    with pytest.raises(StorageCorrupt, match="block 11 with 8 rows stands in its place"):
        shard.read_head(files, second._replace(number=12))
    with pytest.raises(StorageCorrupt, match=r"stands in its place|no block starts here"):
        shard.read_head(files, first._replace(offset=second.offset))
    with pytest.raises(StorageCorrupt, match="no block starts here"):
        shard.read_head(files, first._replace(offset=first.offset + 1))


def test_a_block_is_found_again_by_its_offset_alone() -> None:
    """How a lost index is made anew: block by block from the start of each shard."""
    blocks = list(BLOCKS.values())
    files, refs = sealed(*blocks)
    offset = shard.FILE_HEADER.size
    for ref, rows in zip(refs, blocks, strict=True):
        found = shard.ref_at(files, 3, offset)
        assert (found, shard.read_rows(files, found)) == (ref, rows)
        offset += found.head_bytes + found.body_bytes
    assert offset == files.size(shard.shard_name(3))
    for at in (0, offset, offset - 5, refs[1].offset + 1):
        with pytest.raises(StorageCorrupt, match="no block starts here") as caught:
            shard.ref_at(files, 3, at)
        assert caught.value.offset == at


def test_a_missing_shard_is_named() -> None:
    files, (ref,) = sealed(SMALL)
    with pytest.raises(StorageCorrupt, match="missing") as caught:
        shard.read_rows(files, ref._replace(shard=4))
    assert caught.value.path == files.path("shard-00000004")


def test_a_body_that_is_not_the_one_its_revision_names_is_noticed_although_every_checksum_fits() -> None:
    for rows in (
        [plain(0)._replace(bodies=(b"ydob",))],
        [plain(0)._replace(stale=StaleBody(leaf_of(b"old"), b"dlo"))],
    ):
        files, (ref,) = sealed(rows)
        with pytest.raises(StorageCorrupt, match="not the one that its revision names"):
            shard.verify_block(files, ref)


def test_rows_out_of_order_are_noticed() -> None:
    files, (ref,) = sealed([plain(2), plain(1)])
    with pytest.raises(StorageCorrupt, match="not sorted"):
        shard.verify_block(files, ref)


@given(st.sampled_from(sorted(BLOCKS)), st.integers(8, 300), st.binary(min_size=1, max_size=8))
def test_even_a_forged_head_with_a_right_checksum_raises_nothing_but_corrupt(
    name: str, at: int, rubbish: bytes
) -> None:
    files, (ref,) = sealed(BLOCKS[name])
    file = shard.shard_name(3)
    files.damage(file, ref.offset + min(at, ref.head_bytes - len(rubbish)), rubbish)
    covered = files.read(file, ref.offset + 8, ref.head_bytes - 8)
    files.damage(file, ref.offset + 4, shard.crc32(covered).to_bytes(4, "little"))
    list(every_read(files, ref, BLOCKS[name]))
    with contextlib.suppress(StorageCorrupt):
        shard.verify_block(files, ref)


def with_head(raw: bytes, *, row_count: int, head_raw: int | None = None) -> tuple[MemoryFiles, BlockRef]:
    """A block of this raw head, without bodies, every checksum right: what no packing would ever make."""
    rest = shard.HEADER.pack(
        shard.BLOCK_MAGIC, shard.FORMAT, 0, 1, row_count, 0, 0, head_raw or len(raw), len(raw), 0, 0, 0
    )[8:] + raw
    files = MemoryFiles()
    block = shard.BLOCK_MAGIC + bytes([shard.FORMAT]) + shard.crc32(rest).to_bytes(4, "little") + rest
    files.write_atomic(shard.shard_name(3), block)
    return files, BlockRef(0, 3, 0, len(block), 0, row_count)


@pytest.mark.parametrize(
    ("raw", "row_count", "head_raw", "text"),
    [
        (b"rubbish", 8, None, "its head cannot be read"),
        (batch.pack_head(HEADS[:2]), 8, None, "its head holds 2 rows instead of 8"),
        (batch.pack_head(HEADS), 8, shard.HEAD_RAW_MAX + 1, "its head claims 67108865 bytes"),
    ],
)
def test_a_head_that_no_packing_makes_is_corrupt(raw: bytes, row_count: int, head_raw: int | None, text: str) -> None:
    files, ref = with_head(raw, row_count=row_count, head_raw=head_raw)
    with pytest.raises(StorageCorrupt, match=text):
        shard.read_head(files, ref)


def test_a_shard_file_is_told_from_another_and_from_one_of_a_newer_format() -> None:
    files, _ = sealed(SMALL)
    shard.check_file_header(files, 3)
    file = shard.shard_name(3)
    files.write_atomic(shard.shard_name(4), files.read(file, 0, 99))
    with pytest.raises(StorageCorrupt, match="not the header of this shard"):
        shard.check_file_header(files, 4)
    start = shard.FILE_MAGIC + bytes([shard.FORMAT + 1]) + (3).to_bytes(8, "little")
    files.damage(file, 0, start + shard.crc32(start).to_bytes(4, "little"))
    with pytest.raises(FormatUnknown, match="shard format 2, this version reads up to 1"):
        shard.check_file_header(files, 3)
    files.damage(file, 7, b"\x07")  # a flipped bit must not read as a newer format
    with pytest.raises(StorageCorrupt):
        shard.check_file_header(files, 3)


def test_names_and_numbers_belong_together() -> None:
    assert shard.parse_shard_name(shard.shard_name(12)) == 12
    assert [shard.parse_shard_name(name) for name in ("shard", "shard-", "shard-1x", "journal-00000001")] == [None] * 4
