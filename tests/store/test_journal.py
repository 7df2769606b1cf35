from __future__ import annotations

import contextlib

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mynosql.row import Row
from mynosql.store.journal import (
    NOTE_KEY_BYTES_MAX,
    NOTE_VALUE_BYTES_MAX,
    check_note,
    pack_many,
    unpack_frame_content,
)
from mynosql.store.packed import compressed, pack_row
from tests.store.making import conflict_row, remote_row, row_of, tombstone

plain = st.builds(row_of, st.text(max_size=20), st.integers() | st.text(max_size=2000), owed=st.booleans())
rows = (
    plain
    | st.builds(tombstone, st.text(max_size=20))
    | st.builds(remote_row, st.text(max_size=20), st.integers(), stale=st.none() | st.text(max_size=700))
    | st.builds(conflict_row, st.text(max_size=20), st.integers(), st.text(max_size=700))
).flatmap(lambda row: st.builds(row._replace, seq=st.integers(1, 1 << 60), stray=st.booleans()))
notes = st.dictionaries(st.text(max_size=30), st.binary(max_size=900), max_size=5)


@given(rows)
def test_a_row_comes_back_as_it_was_packed(row: Row) -> None:
    assert unpack_frame_content(pack_row(row)).rows == [row]


@given(st.lists(rows, max_size=10), notes, st.integers(0, 1 << 60))
def test_a_frame_comes_back_as_it_was_packed(some: list[Row], noted: dict[str, bytes], seq_before: int) -> None:
    packed = [compressed(pack_row(row)) for row in some]
    payload, first = pack_many(packed, noted, seq_before=seq_before)
    content = unpack_frame_content(payload)
    assert (content.rows, content.notes, content.seq_before) == (some, noted, seq_before)
    assert [payload[offset : offset + length] for offset, length in content.spans] == packed
    assert not some or content.spans[0][0] == first


def test_a_single_row_says_which_seq_stood_before_it_unless_it_is_a_stray() -> None:
    row = row_of("a", 1)._replace(seq=9)
    assert unpack_frame_content(pack_row(row)).seq_before == 8
    assert unpack_frame_content(pack_row(row._replace(stray=True))).seq_before is None


def test_a_frame_that_lz4_can_shrink_is_shrunk() -> None:
    row = row_of("a", "again and " * 200)._replace(seq=1)
    assert len(compressed(pack_row(row))) < 300
    assert unpack_frame_content(compressed(pack_row(row))).rows == [row]


def flipped(row: Row, at: int, bits: int) -> bytes:
    packed = bytearray(compressed(pack_row(row)))
    packed[at % len(packed)] ^= bits
    return bytes(packed)


@given(st.binary(max_size=200) | st.builds(
    flipped, rows, st.integers(0, 150), st.integers(1, 255),
))
def test_other_bytes_are_a_value_error_or_some_frame_never_anything_else(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        unpack_frame_content(data)


@given(rows, st.data())
def test_a_frame_cut_short_is_a_value_error(row: Row, data: st.DataObject) -> None:
    packed, _ = pack_many([pack_row(row)], {"key": b"value"}, seq_before=1)
    with pytest.raises(ValueError):
        unpack_frame_content(packed[: data.draw(st.integers(0, len(packed) - 1))])


def test_a_claim_of_gigabytes_is_refused_before_memory_is_spent() -> None:
    with pytest.raises(ValueError, match="claims"):
        unpack_frame_content(b"\x02" + (1 << 29).to_bytes(4, "little") + bytes(100))


def test_notes_have_a_bound() -> None:
    check_note("k" * NOTE_KEY_BYTES_MAX, b"v" * NOTE_VALUE_BYTES_MAX)
    with pytest.raises(ValueError, match="split"):
        check_note("k" * (NOTE_KEY_BYTES_MAX + 1), b"")
    with pytest.raises(ValueError, match="split"):
        check_note("k", b"v" * (NOTE_VALUE_BYTES_MAX + 1))
