"""Runs of rows come back equal from disk and wire, cheaply and in few bytes; bytes that are no batch are a ValueError
before they cost memory."""

from __future__ import annotations

import lzma
import random
import struct
import tracemalloc
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import lz4.block
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mynosql.batch import (
    FLAG_BODY,
    FLAG_DELETED,
    FLAG_EXTRA,
    FLAG_OWED,
    FLAG_STRAY,
    HIGH_COMPRESSION_BYTES_MIN,
    ROWS_MAX,
    SEQ_MAX,
    Head,
    WireLimits,
    pack_bodies,
    pack_head,
    pack_wire,
    rows_from,
    unpack_head,
    unpack_wire,
)
from mynosql.codec import digest, pack_body
from mynosql.idkey import pack_id
from mynosql.revision import GENERATION_MAX, child_of, hlc_above, merge_leaves, pack_leaves
from mynosql.row import NO_DIGEST, Leaf, Leaves, Row, StaleBody
from tests.values import hashables, texts

LIMITS = WireLimits()

# Rows of every kind

U64_MAX = (1 << 64) - 1
few_nodes = st.sampled_from([0, 1, 2, 3, 0x1234567890ABCDEF, U64_MAX])
hlcs = st.integers(1, U64_MAX - 100) | st.integers(1_795_427_400_000 << 16, 1_795_427_460_000 << 16)
generations = st.integers(1, 5) | st.just(GENERATION_MAX)
packed_bodies = st.binary(max_size=40)


def leaf_of(body: bytes | None, generation: int = 1, hlc: int = 1, node: int = 1) -> Leaf:
    if body is None:
        return Leaf(generation, hlc, node, True, 0, NO_DIGEST)
    return Leaf(generation, hlc, node, False, len(body), digest(body))


@st.composite
def leaf_sets(draw: st.DrawFn) -> tuple[Leaves, dict[Leaf, bytes | None]]:
    """Leaves that merging may have made, and the body of each."""
    nodes = draw(st.lists(few_nodes, min_size=1, max_size=4, unique=True))
    bodies: dict[Leaf, bytes | None] = {}
    for node in nodes:
        body = draw(packed_bodies | st.none())
        bodies[leaf_of(body, draw(generations), draw(hlcs), node)] = body
    leaves: Leaves = tuple(bodies)
    if len(leaves) > 1 and draw(st.booleans()):
        parents = leaves[: draw(st.integers(1, len(leaves)))]
        body = draw(packed_bodies | st.none())
        shape = leaf_of(body)
        child = child_of(
            parents, leaves[len(parents) :], hlc=hlc_above(leaves), node=draw(few_nodes), deleted=shape.deleted,
            size=shape.size, digest=shape.digest,
        )
        bodies[child] = body
        leaves = (child, *leaves[len(parents) :])
    merged: Leaves = leaves[:1]
    for leaf in leaves[1:]:
        merged = merge_leaves(merged, (leaf,))
    return merged, bodies


@st.composite
def rows_of_any_kind(draw: st.DrawFn) -> Row:
    leaves, bodies = draw(leaf_sets())
    carried = tuple(bodies[leaf] if draw(st.booleans()) else None for leaf in leaves)
    stale_body = draw(st.none() | packed_bodies)
    stale = None if stale_body is None else StaleBody(leaf_of(stale_body, 3, 77, 5), stale_body)
    return Row(draw(id_keys), leaves, carried, draw(seqs), draw(st.booleans()), draw(st.booleans()), stale)


@st.composite
def plain_rows(draw: st.DrawFn) -> Row:
    """One leaf, no ancestry, no stale body: the way in bulk."""
    body = draw(packed_bodies | st.none())
    leaf = leaf_of(body, draw(generations), draw(hlcs), draw(few_nodes))
    carried = body if draw(st.booleans()) else None
    return Row(draw(id_keys), (leaf,), (carried,), draw(seqs), draw(st.booleans()), draw(st.booleans()))


seqs = st.integers(0, 300) | st.integers(0, SEQ_MAX)
id_keys = (texts | hashables.filter(lambda value: value is not None)).map(pack_id) | st.integers(0, 99).map(
    lambda number: pack_id(f"sensor-{number:02}")
)
row_lists = st.lists(plain_rows(), max_size=20) | st.lists(plain_rows() | rows_of_any_kind(), max_size=12)


def as_sent(row: Row) -> Row:
    return row._replace(owed=False, stray=False, stale=None)


# Round trips


@given(row_lists)
@settings(max_examples=400)
def test_rows_come_back_equal_from_head_and_bodies(rows: list[Row]) -> None:
    head = unpack_head(pack_head(rows))
    found = rows_from(head, pack_bodies(rows))
    assert found == rows
    assert [type(row) for row in found] == [Row] * len(rows)
    assert all(type(leaf) is Leaf and type(leaf.deleted) is bool for row in found for leaf in row.leaves)


@given(row_lists)
def test_without_bodies_rows_come_back_without_bodies(rows: list[Row]) -> None:
    expected = [row._replace(bodies=(None,) * len(row.leaves), stale=None) for row in rows]
    assert rows_from(unpack_head(pack_head(rows)), None) == expected


@given(row_lists)
def test_a_head_answers_for_each_row(rows: list[Row]) -> None:
    head, bodies = unpack_head(pack_head(rows)), pack_bodies(rows)
    assert head.count == len(rows)
    assert head.bodies_bytes == len(bodies)
    for i, row in enumerate(rows):
        assert (head.id_key(i), head.seq(i)) == (row.id_key, row.seq)
        flags = head.flags(i)
        assert bool(flags & FLAG_OWED) is row.owed
        assert bool(flags & FLAG_STRAY) is row.stray
        assert bool(flags & FLAG_DELETED) is row.leaves[0].deleted
        assert bool(flags & FLAG_BODY) is (row.bodies[0] is not None)
        assert bool(flags & FLAG_EXTRA) is (
            len(row.leaves) > 1 or row.leaves[0].ancestry is not None or row.stale is not None
        )
        for leaf, body in enumerate(row.bodies):
            span = head.body_span(i, leaf)
            assert (None if span is None else bodies[span.offset : span.offset + span.length]) == body
        assert head.body_span(i, len(row.leaves)) is None
        span = head.stale_span(i)
        stale = None if span is None else bodies[span.offset : span.offset + span.length]
        assert stale == (None if row.stale is None else row.stale.body)


def test_the_bodies_of_a_conflict_lie_side_by_side_and_the_stale_one_behind() -> None:
    leaves = merge_leaves((leaf_of(b"winner", 2, 5, 1),), (leaf_of(b"loser", 1, 4, 2),))
    rows = [Row(b"\x10a", leaves, (b"winner", b"loser"), 1, stale=StaleBody(leaf_of(b"old"), b"old"))] * 2
    head = unpack_head(pack_head(rows))
    assert pack_bodies(rows) == b"winnerloserold" * 2
    assert [head.body_span(1, 0), head.body_span(1, 1), head.stale_span(1)] == [(14, 6), (20, 5), (25, 3)]


@given(row_lists)
def test_an_entry_says_what_the_index_knows_of_a_row(rows: list[Row]) -> None:
    head = unpack_head(pack_head(rows))
    for i, row in enumerate(rows):
        entry = head.entry(i)
        assert entry[:2] == row[:2]
        assert (entry.seq, entry.owed) == (row.seq, row.owed)
        assert entry.stale == (None if row.stale is None else row.stale.leaf)
        for k, (leaf, body) in enumerate(zip(row.leaves, row.bodies, strict=True)):
            assert bool(entry.held >> k & 1) is (leaf.deleted or body is not None)


@given(row_lists, id_keys)
def test_find_gives_the_position_of_an_id_in_a_sorted_head(rows: list[Row], other: bytes) -> None:
    rows = sorted({row.id_key: row for row in rows}.values(), key=lambda row: row.id_key)
    head = unpack_head(pack_head(rows))
    for i, row in enumerate(rows):
        assert head.find(row.id_key) == i
    if other not in [row.id_key for row in rows]:
        assert head.find(other) is None


@given(row_lists)
@settings(max_examples=300)
def test_rows_come_back_from_the_wire_without_what_is_meant_for_our_disk(rows: list[Row]) -> None:
    assert unpack_wire(pack_wire(rows), LIMITS) == list(map(as_sent, rows))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 129, 1_000])
def test_any_number_of_rows_is_a_batch(count: int) -> None:
    rows = sensor_rows(count)
    assert rows_from(unpack_head(pack_head(rows)), pack_bodies(rows)) == rows
    assert unpack_wire(pack_wire(rows), LIMITS) == list(map(as_sent, rows))


@pytest.mark.parametrize("extreme", [(GENERATION_MAX, U64_MAX, U64_MAX, SEQ_MAX), (1, 0, 0, 0)])
@pytest.mark.parametrize("count", [1, 20])
def test_extreme_numbers_stand_side_by_side(count: int, extreme: tuple[int, int, int, int]) -> None:
    generation, hlc, node, seq = extreme
    rows = [Row(b"\x10a", (leaf_of(b"x", generation, hlc, node),), (b"x",), seq)]
    rows += [Row(b"\x10" + b"b" * n, (leaf_of(b"y" * n, 7, n, 5),), (b"y" * n,), n) for n in range(1, count)]
    assert rows_from(unpack_head(pack_head(rows)), pack_bodies(rows)) == rows


def test_a_body_of_another_size_than_its_leaf_states_is_our_own_mistake() -> None:
    right = Row(b"\x10a", (leaf_of(b"xx"),), (b"xx",))
    wrong = right._replace(bodies=(b"x",))
    ancestry = child_of((leaf_of(b"x"),), (), hlc=9, node=2, deleted=False, size=2, digest=digest(b"xx"))
    for rows in ([wrong], [right, wrong], [right, wrong._replace(leaves=(ancestry,))]):
        with pytest.raises(AssertionError, match="another size"):
            pack_head(rows)


# Bytes: few, and the same for ever


def sensor_rows(count: int, *, sensors: int = 40, seed: int = 1) -> list[Row]:
    """Readings as they come in: 40 sensors in turn, values that wander, ids with sensor and time."""
    rng = random.Random(seed)
    state: dict[int, list[float]] = {}
    at = datetime(2026, 11, 23, 10, 0, tzinfo=timezone.utc)
    rows = []
    for number in range(count):
        at += timedelta(milliseconds=rng.randrange(20, 230))
        sensor = number % sensors
        name, taken_at = f"sensor-{sensor:04}", at.isoformat(timespec="milliseconds")[:23]
        values = state.setdefault(sensor, [rng.uniform(15, 30), rng.uniform(30, 70), 1013.0, 3.9])
        spreads = (0.05, 0.2, 0.05, 0.001)
        values[:] = [value + rng.gauss(0, spread) for value, spread in zip(values, spreads, strict=True)]
        temperature, humidity, pressure, battery = (round(value, 2) for value in values)
        body = pack_body({
            "sensor": name, "site": f"hall-{sensor % 5}", "kind": "climate", "taken_at": taken_at,
            "temperature_celsius": temperature, "humidity_percent": humidity, "pressure_hpa": pressure,
            "battery_volt": battery, "co2_ppm": round(rng.gauss(420, 15), 2), "rssi_dbm": -60 - rng.randrange(15),
            "status": "ok" if rng.random() < 0.98 else "low battery", "firmware": "2.4.1",
        })  # fmt: skip
        hlc = (int(at.timestamp() * 1000) + rng.randrange(2, 9)) << 16
        leaf = leaf_of(body, 1, hlc, 0x1234567890ABCDEF)
        rows.append(Row(pack_id(f"{name}/{taken_at}"), (leaf,), (body,), number + 1, True))
    return rows


def test_the_head_of_a_block_costs_at_most_16_bytes_a_reading() -> None:
    """Eight of them are the digest, which nothing can compress. A block: 130 readings sorted by id, raw LZMA2."""
    rows = sorted(sensor_rows(5_200), key=lambda row: row.id_key)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 32_768}]
    packed = 0
    for at in range(0, len(rows), 130):
        packed += len(lzma.compress(pack_head(rows[at : at + 130]), format=lzma.FORMAT_RAW, filters=filters))
    assert packed / len(rows) <= 14.5


@pytest.mark.parametrize(("count", "bytes_max"), [(1_000, 45), (100, 55), (10, 105)])
def test_readings_on_the_wire_cost_few_bytes_each(count: int, bytes_max: int) -> None:
    rows = sensor_rows(count)
    assert sum(len(row.bodies[0] or b"") for row in rows) / count > 220
    assert len(pack_wire(rows)) / count <= bytes_max


def test_one_row_that_compression_cannot_shrink_is_sent_as_it_is() -> None:
    rng = random.Random(1)
    body = rng.randbytes(100)
    rows = [Row(b"\x10a", (leaf_of(body, 1, rng.getrandbits(64), rng.getrandbits(64)),), (body,), rng.getrandbits(62))]
    assert len(pack_wire(rows)) == 5 + 4 + len(pack_head(rows)) + len(body)
    assert unpack_wire(pack_wire(rows), LIMITS) == rows


def test_high_compression_starts_where_it_pays_and_reads_like_any_other() -> None:
    body = b"ab" * (HIGH_COMPRESSION_BYTES_MIN // 2)
    rows = [Row(b"\x10a", (leaf_of(body),), (body,), 1)]
    assert unpack_wire(pack_wire(rows), LIMITS) == rows
    noise = random.Random(1).randbytes(1 << 16)
    rows = [Row(b"\x10a", (leaf_of(noise),), (noise,), 1)]
    assert unpack_wire(pack_wire(rows), LIMITS) == rows


_LEAF = Leaf(2, 0x0001_0203_0405_0607, 0x1112_1314_1516_1718, False, 3, b"digest-8")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "0200000000"),
        (
            [Row(b"\x10id", (_LEAF,), (b"abc",), 9, True)],
            "010a0300020000000706050403020100" "1817161514131211030000000900000000000000" "6469676573742d38106964",
        ),
        (
            [Row(b"\x10id", (_LEAF,), (b"abc",), 9), Row(b"\x10j", (_LEAF,), (None,), 11)],
            "0202000000" "0101020100" "106964106a" "01000800" "000102" "000707060504030201"
            "010000001817161514131211" "0000" "000103" "10110904" "6469676573742d386469676573742d38",
        ),
    ],
)  # fmt: skip
def test_bytes_on_disk_never_change(rows: list[Row], expected: str) -> None:
    """docs/FORMAT.md, "Head": another version of the package reads what this one wrote."""
    assert pack_head(rows).hex() == expected
    assert rows_from(unpack_head(bytes.fromhex(expected)), pack_bodies(rows)) == rows


# Bytes that are no batch


def _wire_of(raw: bytes, *, raw_bytes: int | None = None, kind: int = 2) -> bytes:
    block = lz4.block.compress(raw, store_size=False) if kind == 2 else raw
    return struct.pack("<BI", kind, len(raw) if raw_bytes is None else raw_bytes) + block


def _raw_of(rows: Sequence[Row]) -> bytes:
    head = pack_head(rows)
    return struct.pack("<I", len(head)) + head + pack_bodies(rows)


def _plain(count: int = 3) -> list[Row]:
    return [Row(pack_id(f"id-{n}"), (leaf_of(b"body"),), (b"body",), n + 1) for n in range(count)]


_RAW = _raw_of(_plain())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "cut short"),
        (b"\x02\x00\x00\x00", "cut short"),
        (struct.pack("<BI", 1, 0), "0 there"),
        (_wire_of(_RAW, kind=3), "kind 3 unknown"),
        (_wire_of(_RAW, raw_bytes=len(_RAW) + 1), "claims"),
        (_wire_of(_RAW, raw_bytes=len(_RAW) - 1), "batch"),
        (_wire_of(_RAW, raw_bytes=len(_RAW) + 1, kind=1), "claims"),
        (_wire_of(_RAW, raw_bytes=255 * len(_RAW)), "claims"),
        (_wire_of(bytes(LIMITS.raw_bytes_max + 1)), "claims 16777217"),
        (struct.pack("<BI", 2, 1 << 31) + bytes(1 << 16), "claims"),
        (struct.pack("<BI", 2, 1000) + b"\xff" * 100, "does not decompress"),
        (_wire_of(struct.pack("<I", len(_RAW)) + _RAW[4:]), "head claims"),
        (_wire_of(_RAW + b"x"), "bytes of bodies"),
        (_wire_of(_RAW[:-1]), "bytes of bodies"),
        (_wire_of(_raw_of([row._replace(owed=True) for row in _plain()])), "must not say"),
        (_wire_of(_raw_of([row._replace(stray=True) for row in _plain(1)])), "must not say"),
        (_wire_of(_raw_of([*_plain(), Row(b"\x10x", (leaf_of(b"x"),), (None,), 9, True)])), "must not say"),
        (_wire_of(_raw_of([_plain()[0]._replace(stale=StaleBody(leaf_of(b"old"), b"old"))])), "must not say"),
        (_wire_of(_raw_of([row._replace(id_key=b"\x10\xff") for row in _plain()])), "utf-8"),
        (_wire_of(_raw_of([row._replace(id_key=b"") for row in _plain()])), "id key of 0 bytes"),
        (_wire_of(_raw_of([row._replace(id_key=b"\x10" + b"x" * 1024) for row in _plain()])), "id key of 1025 bytes"),
        (_wire_of(_raw_of([row._replace(id_key=b"\x77") for row in _plain(1)])), "kind 0x77 unknown"),
    ],
)
def test_a_batch_that_lies_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        unpack_wire(data, LIMITS)


def _column_head(**changed: Any) -> bytes:
    """A head of two rows, column by column; any part replaced."""
    parts = {
        "start": b"\x02\x02\x00\x00\x00", "ids": b"\x00\x01\x02" + b"\x10a\x10b", "flags": b"\x00\x01\x08",
        "generations": b"\x00\x01\x01", "hlcs": b"\x00\x01\x05", "nodes": struct.pack("<IQ", 1, 7), "node": b"\x00\x00",
        "sizes": b"\x00\x01\x04", "seqs": b"\x10\x11\x01\x02", "digests": digest(b"body") * 2, "extra": b"",
    }  # fmt: skip
    return b"".join({**parts, **changed}.values())


def test_the_head_that_the_next_test_spoils_is_right() -> None:
    rows = [Row(key, (leaf_of(b"body", 1, 5, 7),), (b"body",), n) for n, key in ((1, b"\x10a"), (2, b"\x10b"))]
    assert pack_head(rows) == _column_head()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"start": b"\x00\x02\x00\x00\x00"}, "kind 0"),
        ({"start": b"\x03\x02\x00\x00\x00"}, "kind 3"),
        ({"start": b"\x02"}, "."),
        ({"start": b"\x02\xff\xff\xff\xff"}, "claims 4294967295 rows"),
        ({"start": b"\x02\x00\x00\x00\x00"}, "bytes behind an empty head"),
        ({"ids": b"\x00\x02\xff\xff\x10a\x10b"}, "column holds 65535"),
        ({"ids": b"\x00\x02\x00\x10\x10a\x10b"}, "cut short"),
        ({"flags": b"\x00\x01\x20"}, "column holds 32"),
        ({"flags": b"\x00\x01\x09"}, "deleted, and yet with a body"),
        ({"flags": b"\x00\x01\x01"}, "deleted, and yet with a body"),
        ({"flags": b"\x00\x01\x18"}, "extra columns"),
        ({"generations": b"\x00\x00"}, "generation 0"),
        ({"generations": b"\x00\x04\x01\x00\x00\x80"}, "column holds 2147483649"),
        ({"hlcs": b"\x01\x08" + b"\xff" * 8 + b"\x00\x01"}, "column holds"),
        ({"hlcs": b"\x09\x01\x05"}, "column mode"),
        ({"hlcs": b"\x00\x09" + b"\x05" * 9}, "column mode"),
        ({"hlcs": b"\x10\xa1\x01" + b"\x02" * 10}, "column mode"),
        ({"nodes": struct.pack("<I", 0)}, "0 nodes"),
        ({"nodes": struct.pack("<I", 3) + bytes(24)}, "3 nodes for 2 rows"),
        ({"node": b"\x00\x01\x01"}, "column holds 1"),
        ({"sizes": b"\x00\x04\x01\x00\x00\x10"}, "column holds 268435457"),
        ({"seqs": b"\x10\x11\x01\x03"}, "column holds -1"),
        ({"seqs": b"\x00\x08" + b"\xff" * 8}, "column holds 18446744073709551615"),
        ({"digests": b"\x00" * 15}, "cut short"),
        ({"extra": b"\x90"}, "1 bytes behind the head"),
    ],
)
def test_a_head_whose_columns_lie_is_refused(changed: dict[str, bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        unpack_head(_column_head(**changed))


_SINGLE = pack_head(_plain(1))


@pytest.mark.parametrize(
    ("at", "value"),
    [(1, FLAG_EXTRA | FLAG_BODY), (1, 0xFF), (1, FLAG_DELETED), (2, 99), (7, 0xFF), (27, 0xFF), (35, 0x80)],
)
def test_a_head_of_one_row_that_lies_is_refused(at: int, value: int) -> None:
    data = bytearray(_SINGLE)
    data[at] = value
    with pytest.raises(ValueError):
        unpack_head(bytes(data))
    for cut in range(len(_SINGLE)):
        with pytest.raises(ValueError):
            unpack_head(_SINGLE[:cut])


def _with_extra(change: Any) -> bytes:
    """The head of one row with two leaves, its extra column changed."""
    import msgpack

    leaves = merge_leaves((leaf_of(b"a", 2, 5, 1),), (leaf_of(None, 1, 4, 2),))
    head = pack_head([Row(b"\x10a", leaves, (b"a", None))])
    start = head.rindex(b"\x91\x93")
    items = msgpack.unpackb(head[start:])
    return head[:start] + msgpack.packb(change(items))


def test_the_extra_column_that_the_next_test_spoils_is_right() -> None:
    assert unpack_head(_with_extra(lambda items: items)).entry(0).leaves[1].deleted


@pytest.mark.parametrize(
    "change",
    [
        lambda items: [],
        lambda items: items * 2,
        lambda items: [items[0][:2]],
        lambda items: [[items[0][0], True, b""]],
        lambda items: [[items[0][0], -1, b""]],
        lambda items: [[items[0][0], 4, b""]],
        lambda items: [[items[0][0], 3, b""]],
        lambda items: [[items[0][0], 0, b""]],
        lambda items: [[b"", 1, b""]],
        lambda items: [[pack_leaves((leaf_of(b"b", 3, 9, 9),)), 1, b""]],
        lambda items: [[items[0][0][:-1], 1, b""]],
        lambda items: [[items[0][0], 1, items[0][0]]],
        lambda items: {"x": 1},
        lambda items: [[[[]], 1, b""]],
    ],
)
def test_an_extra_column_that_lies_is_refused(change: Any) -> None:
    with pytest.raises(ValueError, match=r"extra columns|leaves|winner"):
        unpack_head(_with_extra(change))


@given(st.binary(max_size=200))
@settings(max_examples=2_000)
def test_any_bytes_yield_rows_or_a_value_error(data: bytes) -> None:
    for wire in (data, b"\x01" + struct.pack("<I", len(data)) + data):
        _unpack_or_refuse(wire)
    for kind in (b"\x01", b"\x02"):
        try:
            rows_from(unpack_head(kind + data), None)
        except ValueError:
            continue


@given(row_lists.filter(bool), st.data())
@settings(max_examples=300)
def test_a_changed_batch_yields_rows_or_a_value_error(rows: list[Row], data: st.DataObject) -> None:
    """Changed before compression, so that the changes reach the columns; what is accepted can be packed again."""
    raw = bytearray(_raw_of(list(map(as_sent, rows))))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    _unpack_or_refuse(_wire_of(bytes(raw), kind=1))
    wire = bytearray(_wire_of(bytes(raw)))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    _unpack_or_refuse(bytes(wire))
    _unpack_or_refuse(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


def test_thousands_of_changed_batches_yield_rows_or_a_value_error() -> None:
    """Faster than Hypothesis, at the columns in particular: one to three bytes of a few rows of every kind."""
    rng = random.Random(1)
    conflict = merge_leaves((leaf_of(b"a", 2, 5, 1),), (leaf_of(None, 1, 4, 2),))
    rows = list(map(as_sent, sensor_rows(3)))
    rows += [Row(b"\x10c", conflict, (b"a", None), 9), Row(b"\x20\xc3", (leaf_of(None),), (None,))]
    raws = [_raw_of(rows), _raw_of(rows[:3]), _raw_of(rows[:1]), _raw_of(rows[3:])]
    for raw in raws * 1_000:
        changed = bytearray(raw)
        head_end = 4 + struct.unpack_from("<I", raw)[0]
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(head_end)] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        _unpack_or_refuse(_wire_of(bytes(changed), kind=1))


def _unpack_or_refuse(wire: bytes) -> None:
    try:
        found = unpack_wire(wire, LIMITS)
    except ValueError:
        return
    assert unpack_wire(pack_wire(found), LIMITS) == found


def test_memory_is_bounded_before_it_is_spent() -> None:
    """A few bytes that claim sixteen million, and constant columns that claim a million rows."""
    claims = {
        "claims 16777216, at most": struct.pack("<BI", 2, 16 << 20) + bytes(40_000),
        "claims 1048576 rows": _wire_of(struct.pack("<IBI", 1000, 2, ROWS_MAX) + bytes(995)),
        "claims 60000 rows": _wire_of(struct.pack("<IBI", 1000, 2, 60_000) + bytes(995)),
        "claims 70000 rows": _wire_of(struct.pack("<IBI", 600_000, 2, 70_000) + bytes(599_995)),
    }
    for text, data in claims.items():
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=text):
                unpack_wire(data, LIMITS)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 2_000_000


def test_the_limits_are_kept_exactly() -> None:
    rows = _plain(10)
    data = pack_wire(rows)
    raw_bytes = struct.unpack_from("<I", data, 1)[0]
    assert unpack_wire(data, WireLimits(raw_bytes_max=raw_bytes, rows_max=10)) == rows
    for limits in (WireLimits(raw_bytes_max=raw_bytes - 1), WireLimits(rows_max=9)):
        with pytest.raises(ValueError, match="claims"):
            unpack_wire(data, limits)


def test_a_head_of_one_byte_more_than_it_needs_is_refused() -> None:
    for rows in (_plain(1), _plain(3)):
        with pytest.raises(ValueError):
            Head(pack_head(rows) + b"\x00")
