"""Id keys: every hashable storable value is an id, one value one key, in an order that is defined and the same
everywhere; what cannot be an id is refused, and bytes that are no key are a ValueError."""

from __future__ import annotations

import contextlib
import hashlib
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mynosql.codec import pack_value
from mynosql.errors import RecordInvalid
from mynosql.idkey import (
    ID_KEY_BYTES_MAX,
    TAG_INT,
    TAG_INT_ABOVE,
    TAG_INT_BELOW,
    TAG_OTHER,
    TAG_STR,
    all_range,
    id_hash,
    pack_id,
    prefix_range,
    unpack_id,
)
from tests.values import hashables, ints, is_same, texts

ids = hashables.filter(lambda value: value is not None)


@given(ids)
@settings(max_examples=300)
def test_any_hashable_value_comes_back_from_its_key(id: Any) -> None:
    key = pack_id(id)
    assert 1 <= len(key) <= ID_KEY_BYTES_MAX
    assert is_same(unpack_id(key), id)


@given(ids, ids)
@settings(max_examples=300)
def test_two_ids_share_a_key_only_when_they_are_the_same(one: Any, other: Any) -> None:
    assert (pack_id(one) == pack_id(other)) is is_same(one, other)


def test_equal_values_of_different_types_are_different_ids() -> None:
    assert len({pack_id(id) for id in (1, True, 1.0, "1", b"1", Decimal(1), (1,), (True,), 0, False, 0.0, -0.0)}) == 12


@given(st.lists(texts))
def test_str_ids_sort_by_code_point(names: list[str]) -> None:
    assert [unpack_id(key) for key in sorted(map(pack_id, names))] == sorted(names)


@given(st.lists(ints | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, -(2**64), -255, -256, 2**71, 2**72])))
def test_int_ids_sort_by_value_whatever_their_size(numbers: list[int]) -> None:
    assert [unpack_id(key) for key in sorted(map(pack_id, numbers))] == sorted(numbers)


def test_all_ints_come_before_all_texts_and_these_before_the_rest() -> None:
    order: list[Any] = [-(2**80), -(2**70), -1, 0, 1, 2**63, 2**90, "", "\x00", "a", "a\x00", "b", "\U0010ffff"]
    rest = [False, True, b"", b"a", 1.0, (1,), UUID(int=1), Decimal(1)]
    keys = list(map(pack_id, order))
    assert keys == sorted(keys)
    assert max(keys) < min(map(pack_id, rest))


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("", "10"),
        ("a\x00b", "10610062"),
        ("é", "10c3a9"),
        ("e\u0301", "1065cc81"),
        ("\ud800", "10eda080"),
        (0, "098000000000000000"),
        (-1, "097fffffffffffffff"),
        (2**63, "0a00088000000000000000"),
        (-(2**63) - 1, "08fff77ffffffffffffffe"),
        (-(2**72), "08fff5fefffffffffffffffff" + "f"),
        (True, "20c3"),
        (1.0, "20cb3ff0000000000000"),
        (b"a", "20c40161"),
        ((1, "a"), "2093c7000101a161"),
    ],
)
def test_keys_on_disk_never_change(id: Any, expected: str) -> None:
    """docs/FORMAT.md, "Id key". Two forms of é are two ids: nothing is normalised."""
    assert pack_id(id).hex() == expected
    assert is_same(unpack_id(bytes.fromhex(expected)), id)


class Surface:
    pass


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("id", "path", "text"),
    [
        (None, "id", "None is no id; leave it out"),
        ([1], "id", "list is not hashable"),
        ({}, "id", "dict is not hashable"),
        (bytearray(b"x"), "id", "bytearray is not hashable"),
        ((1, [2]), "id", "tuple is not hashable"),
        (Decimal("sNaN"), "id", "Decimal is not hashable"),
        (Surface(), "id", "cannot store Surface"),
        (Name("x"), "id", "cannot store Name"),
        ((1, (Surface(),)), "id[1][0]", "cannot store Surface"),
        (frozenset({Name("x")}), "id<member>", "cannot store Name"),
        ("x" * ID_KEY_BYTES_MAX, "id", f"1025 bytes, at most {ID_KEY_BYTES_MAX}"),
        (1 << 8 * ID_KEY_BYTES_MAX, "id", "1025 bytes"),
        (-(1 << 8 * 1022), "id", "1026 bytes"),
        (("x" * ID_KEY_BYTES_MAX,), "id", "at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_id_is_refused(id: Any, path: str, text: str) -> None:
    with pytest.raises(RecordInvalid) as refused:
        pack_id(id)
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path}: ")
    assert text in str(refused.value)


def test_the_longest_ids_are_kept() -> None:
    number = (1 << 8 * (ID_KEY_BYTES_MAX - 3)) - 1
    for id in ("x" * (ID_KEY_BYTES_MAX - 1), number, -number):
        assert len(pack_id(id)) == ID_KEY_BYTES_MAX
        assert unpack_id(pack_id(id)) == id


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"\x00",
        b"\xff",
        bytes((TAG_STR,)) + b"\xff",
        bytes((TAG_STR,)) + b"x" * ID_KEY_BYTES_MAX,
        bytes((TAG_INT,)),
        bytes((TAG_INT,)) + bytes(7),
        bytes((TAG_INT,)) + bytes(9),
        bytes((TAG_INT_ABOVE,)) + b"\x00\x01\x05",
        bytes((TAG_INT_ABOVE,)) + b"\x00\x09" + b"\x01" * 8,
        bytes((TAG_INT_ABOVE,)) + b"\x00\x09\x00" + b"\xff" * 8,
        bytes((TAG_INT_BELOW,)) + b"\xff\xfe\x05",
        bytes((TAG_INT_BELOW,)),
        bytes((TAG_OTHER,)),
        bytes((TAG_OTHER,)) + pack_value("text"),
        bytes((TAG_OTHER,)) + pack_value(5),
        bytes((TAG_OTHER,)) + pack_value(None),
        bytes((TAG_OTHER,)) + pack_value([1]),
        bytes((TAG_OTHER,)) + pack_value(([],)),
        bytes((TAG_OTHER,)) + b"\xc7\x01\x10\x05",
        bytes((TAG_OTHER,)) + b"\x93\xc7\x00\x03\x02\x01",
        bytes((TAG_OTHER,)) + b"\xc5\x00\x01a",
        bytes((TAG_OTHER,)) + b"\xca" + msgpack.packb(1.0, use_single_float=True)[1:],
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_key_are_a_value_error(key: bytes) -> None:
    """Among them other spellings of an id: one id must not have two keys."""
    with pytest.raises(ValueError):
        unpack_id(key)


@given(st.sampled_from([TAG_INT, TAG_INT_ABOVE, TAG_INT_BELOW, TAG_STR, TAG_OTHER]), st.binary(max_size=24))
@settings(max_examples=1_000)
def test_any_bytes_yield_the_id_of_exactly_this_key_or_a_value_error(tag: int, rest: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert pack_id(unpack_id(bytes((tag,)) + rest)) == bytes((tag,)) + rest


@given(texts, st.lists(texts), st.lists(ids))
def test_prefix_range_holds_exactly_the_text_ids_with_it(prefix: str, names: list[str], others: list[Any]) -> None:
    low, high = prefix_range(prefix)
    assert high is not None
    for id in [*names, *(prefix + name for name in names), prefix, *others]:
        assert (low <= pack_id(id) < high) is (type(id) is str and id.startswith(prefix))


@given(ids)
def test_all_range_holds_every_id(id: Any) -> None:
    low, high = all_range()
    assert high is None
    assert low <= pack_id(id)


def test_id_hash_is_the_first_8_bytes_of_blake2b_as_a_signed_number() -> None:
    for key in (b"", b"\x10a", b"\x10b", b"\x10c"):
        assert id_hash(key).to_bytes(8, "big", signed=True) == hashlib.blake2b(key).digest()[:8]
    assert id_hash(b"\x10sensor-0017") == 4127352009914151028
