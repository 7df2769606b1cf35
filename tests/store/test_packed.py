"""One row as bytes: what memtables keep and seals take their columns from is what was saved."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mynosql.batch import flat_row
from mynosql.row import Row
from mynosql.store.packed import compressed, extent_of, flat_of, pack_row, unpack_row
from tests.store.making import conflict_row, remote_row, row_of, tombstone

rows = (
    st.builds(row_of, st.text(max_size=20), st.integers() | st.text(max_size=2000), owed=st.booleans())
    | st.builds(tombstone, st.text(max_size=20))
    | st.builds(remote_row, st.text(max_size=20), st.integers(), stale=st.none() | st.text(max_size=700))
    | st.builds(conflict_row, st.text(max_size=20), st.integers(), st.text(max_size=700))
).flatmap(lambda row: st.builds(row._replace, seq=st.integers(1, 1 << 60), stray=st.booleans()))


@given(rows)
def test_a_row_comes_back_equal_whether_compressed_or_not(row: Row) -> None:
    assert unpack_row(pack_row(row)) == row
    assert unpack_row(compressed(pack_row(row))) == row


@given(rows)
def test_a_seal_gets_the_same_from_a_packed_row_as_from_the_row(row: Row) -> None:
    assert flat_of(pack_row(row), row.id_key) == flat_row(row)
    assert flat_of(compressed(pack_row(row)), row.id_key) == flat_row(row)


@given(rows)
def test_the_row_of_another_id_is_noticed(row: Row) -> None:
    with pytest.raises(ValueError, match="another id"):
        flat_of(pack_row(row), row.id_key + b"x")


@given(rows)
def test_extents_are_never_less_than_the_bodies(row: Row) -> None:
    carried = len(flat_row(row)[8])
    assert extent_of(pack_row(row), len(row.id_key))[0] >= carried
    assert extent_of(compressed(pack_row(row)), len(row.id_key))[0] >= carried


@given(rows, st.data())
def test_a_packed_row_cut_short_is_a_value_error(row: Row, data: st.DataObject) -> None:
    packed = pack_row(row)
    with pytest.raises(ValueError):
        unpack_row(packed[: data.draw(st.integers(0, len(packed) - 1))])
