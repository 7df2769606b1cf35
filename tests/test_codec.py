"""Every storable value comes back equal and of the same type, from bytes that are the same everywhere; all else is
refused with its path, and bytes that are no value are a ValueError."""

from __future__ import annotations

import collections
import contextlib
import decimal
import enum
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mynosql import codec, registry
from mynosql.codec import (
    DEPTH_MAX,
    digest,
    is_flat,
    pack_body,
    pack_record,
    pack_value,
    pack_whole,
    register_type,
    unpack_body,
    unpack_value,
    unpack_whole,
)
from mynosql.errors import OptionInvalid, RecordInvalid
from mynosql.scalars import FRACTION_BYTES_MAX
from tests.values import bodies, is_same, one_of_each, values


@pytest.fixture(autouse=True)
def no_registered_classes() -> Iterator[None]:
    """Each test registers what it needs; the two dicts are emptied in place, since codec.py looks into them."""
    kept = [(found, dict(found)) for found in (registry._by_class, registry._by_name)]
    for found, _ in kept:
        found.clear()
    yield
    for found, before in kept:
        found.clear()
        found.update(before)


# Round trips


def test_every_type_of_the_design_comes_back_equal_and_of_the_same_type() -> None:
    body = one_of_each()
    assert is_same(unpack_body(pack_body(body)), body)


@given(bodies)
def test_any_body_comes_back_equal_and_of_the_same_type(body: dict[Any, Any]) -> None:
    packed = pack_body(body)
    found = unpack_body(packed)
    assert is_same(found, body)
    assert pack_body(found) == packed


@given(values)
def test_any_single_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    assert is_same(unpack_value(pack_value(value)), value)


@given(values, values)
@settings(max_examples=300)
def test_different_values_have_different_bytes(one: Any, other: Any) -> None:
    assert (pack_value(one) == pack_value(other)) is is_same(one, other)


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", b"1", bytearray(b"1"), Decimal(1), Fraction(1), complex(1)])
def test_equal_values_of_different_types_stay_apart(value: Any) -> None:
    assert type(unpack_value(pack_value(value))) is type(value)
    assert type(unpack_body(pack_body({"v": value}))["v"]) is type(value)


def test_packing_never_changes_the_body_and_unpacking_shares_nothing() -> None:
    body = {"list": [1, (2, [3])], "big": 2**70, "set": {1, (2,)}}
    copy = {"list": [1, (2, [3])], "big": 2**70, "set": {1, (2,)}}
    packed = pack_body(body)
    assert is_same(body, copy)
    unpack_body(packed)["list"][1][1].append(4)
    assert is_same(unpack_body(packed), copy)


def test_a_nan_as_key_or_member_keeps_its_bits_and_its_neighbours() -> None:
    quiet, other = float("nan"), struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]
    found = unpack_body(pack_body({quiet: 1, other: 2, "s": {quiet, other, 1.0}}))
    assert [struct.pack(">d", key).hex() for key in list(found)[:2]] == ["7ff8000000000000", "7ff8000000000001"]
    assert len(found["s"]) == 3


def test_threads_that_pack_at_once_never_mix_records() -> None:
    records = [{"n": n, "text": "x" * n, "big": 2**64 + n, "set": {n, str(n)}} for n in range(40)]
    expected = [pack_body(record) for record in records]
    found: list[list[bytes]] = [[] for _ in range(4)]

    def work(results: list[bytes]) -> None:
        for _ in range(10):
            results[:] = [pack_body(record) for record in records]

    threads = [threading.Thread(target=work, args=(results,)) for results in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [expected] * 4


@pytest.mark.parametrize(
    ("body", "expected"),
    [({}, True), ({"a": 1, 2: b"x", None: 0.5}, True), ({"a": []}, False), ({"a": bytearray()}, False),
     ({(1, 2): "frozen keys are no matter"}, True)],
)  # fmt: skip
def test_a_body_is_flat_when_a_shallow_copy_shares_nothing_mutable(body: dict[Any, Any], expected: bool) -> None:
    assert is_flat(body) is expected


# Canonical bytes


def test_dict_order_is_content() -> None:
    assert pack_body({"a": 1, "b": 2}) != pack_body({"b": 2, "a": 1})


def test_set_members_are_sorted_by_their_packed_bytes() -> None:
    assert pack_value({3, 1, 2}) == pack_value({2, 3, 1}) == bytes.fromhex("94c70002010203")
    assert pack_value({"bb", "a", "ccc"}).endswith(pack_value("a") + pack_value("bb") + pack_value("ccc"))


_PACK_SETS = """
from mynosql.codec import pack_body
from fractions import Fraction
names = [f"name{n}" for n in range(50)]
pairs = frozenset(zip(names, names[1:]))
print(pack_body({"s": set(names), "f": pairs, "n": {frozenset(names), Fraction(1, 3)}}).hex())
"""


def test_bytes_are_the_same_in_every_process() -> None:
    outputs = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(subprocess.check_output([sys.executable, "-c", _PACK_SETS], env=environment, timeout=60))
    assert len(outputs) == 1


def test_decimal_bytes_do_not_depend_on_the_context() -> None:
    with decimal.localcontext(decimal.Context(prec=2, capitals=0, Emax=9, Emin=-9)):
        packed = pack_value(Decimal("123456E+50"))
        assert unpack_value(packed).as_tuple() == Decimal("123456E+50").as_tuple()
    assert packed == pack_value(Decimal("123456E+50"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, "a"), "93c7000101a161"),
        ({1}, "92c7000201"),
        (frozenset({1}), "92c7000301"),
        ({(1,): 2}, "93c7000492c700010102"),
        ({"a": 1}, "81a16101"),
        (2**64 - 1, "cfffffffffffffffff"),
        (2**64, "c70910010000000000000000"),
        (-(2**63) - 1, "c70910ff7fffffffffffffff"),
        (1j, "d81100000000000000003ff0000000000000"),
        (bytearray(b"ab"), "d5126162"),
        (Decimal("1.10"), "d613312e3130"),
        (Fraction(1, 3), "c70614000000010103"),
        (date(2026, 11, 23), "d616000b4a67"),
        (datetime(2026, 11, 23, 10, 0, 5, 123000), "d71801c641db4f45a770"),
        (datetime(2026, 11, 23, 10, 0, 5, 123000, timezone.utc), "c7091801c641db4f45a77075"),
        (timedelta(days=-1, microseconds=1), "c709197fffffff0000000001"),
    ],
)
def test_bytes_on_disk_never_change(value: Any, expected: str) -> None:
    """docs/FORMAT.md, "Values": another version of the package reads what this one wrote."""
    assert pack_value(value).hex() == expected
    assert is_same(unpack_value(bytes.fromhex(expected)), value)


def test_digest_is_the_first_8_bytes_of_blake2b_256() -> None:
    assert digest(b"").hex() == "0e5751c026e543b2"


# What is refused


class Surface:
    pass


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int


class Text(str):
    __slots__ = ()


class OwnZone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta(0)


@pytest.mark.parametrize(
    ("body", "path", "text"),
    [
        ({"players": [0, 1, 2, {"sprite": Surface()}]}, "players[3].sprite", "cannot store Surface; register it with"),
        ({"a": {"b c": Surface()}}, "a['b c']", "register_type"),
        ({"a": {7: Surface()}}, "a[7]", "register_type"),
        ({"t": (1, [Surface()])}, "t[1][0]", "Surface"),
        ({"s": {(1, Text("x"))}}, "s<member>[1]", "Text"),
        ({"d": {(Text("x"),): 1}}, "d<key>[0]", "Text"),
        ({Text("x"): 1}, "<key>", "Text"),
        ({"d": {(1,): Surface()}}, "d[(1,)]", "Surface"),
        ({"o": collections.OrderedDict()}, "o", "convert it with dict(...)"),
        ({"p": Point(1)}, "p", "convert it with tuple(...)"),
        ({"s": Text("x")}, "s", "convert it with str(...)"),
        ({"c": Color.RED}, "c", "register_type(Color)"),
        ({"l": Level.LOW}, "l", "register_type(Level)"),
        ({"m": memoryview(b"x")}, "m", "memoryview"),
        ({"e": msgpack.ExtType(1, b"")}, "e", "ExtType"),
        ({"k": {msgpack.ExtType(1, b""): 1}}, "k<key>", "ExtType"),
        ({"t": msgpack.Timestamp(1)}, "t", "Timestamp"),
        ({memoryview(b"x"): 1}, "<key>", "memoryview"),
        ({"f": pack_body}, "f", "function"),
        ({"z": [datetime(2026, 1, 1, tzinfo=OwnZone())]}, "z[0]", "time zone class OwnZone"),
        ({"q": Fraction(1, 1 << 8 * FRACTION_BYTES_MAX)}, "q", "Fraction of more than"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_is_refused_with_the_path_to_it(body: dict[Any, Any], path: str, text: str) -> None:
    with pytest.raises(RecordInvalid) as refused:
        pack_body(body)
    assert refused.value.path == path
    assert str(refused.value).startswith(f"{path}: ")
    assert text in str(refused.value)


def test_a_zone_without_a_key_is_refused() -> None:
    path = next(
        (os.path.join(folder, "UTC") for folder in __import__("zoneinfo").TZPATH
         if os.path.exists(os.path.join(folder, "UTC"))), None,
    )  # fmt: skip
    assert path is not None, "this machine has no time zone database; install tzdata"
    with open(path, "rb") as file:
        zone = ZoneInfo.from_file(file)
    with pytest.raises(RecordInvalid, match="ZoneInfo with the key None"):
        pack_body({"at": datetime(2026, 1, 1, tzinfo=zone)})


@pytest.mark.parametrize("record", [None, [], collections.OrderedDict(), "x"])
def test_a_body_is_exactly_a_dict(record: Any) -> None:
    with pytest.raises(RecordInvalid, match="a record is a dict, not"):
        pack_body(record)


def test_a_path_shows_a_long_key_cut() -> None:
    with pytest.raises(RecordInvalid) as refused:
        pack_body({"k " * 5000: Surface()})
    assert len(str(refused.value)) < 300


def _nested(make: Callable[[Any], Any], levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = make(value)
    return value


_NESTINGS = [
    lambda inner: [inner], lambda inner: (inner,), lambda inner: {"k": inner}, lambda inner: frozenset({inner}),
    lambda inner: {b"k": inner, None: 0},
]  # fmt: skip


@pytest.mark.parametrize("make", _NESTINGS)
def test_64_levels_are_stored_and_one_more_is_refused(make: Callable[[Any], Any]) -> None:
    body = {"deep": _nested(make, codec.DEPTH_MAX - 1)}
    assert is_same(unpack_body(pack_body(body)), body)
    with pytest.raises(RecordInvalid, match="deeper than 64 levels"):
        pack_body({"deep": _nested(make, codec.DEPTH_MAX)})


@pytest.mark.parametrize("levels", [64, 65, 300])
def test_unpacking_allows_the_same_64_levels(levels: int) -> None:
    data = b"\x91" * levels + b"\x01"
    if levels <= codec.DEPTH_MAX:
        assert is_same(unpack_value(data), _nested(lambda inner: [inner], levels))
    else:
        with pytest.raises(ValueError, match="deeper than 64 levels"):
            unpack_value(data)


def test_what_contains_itself_is_refused_where_the_circle_closes() -> None:
    team: dict[str, Any] = {"name": "a"}
    team["members"] = [{"team": team}]
    with pytest.raises(RecordInvalid, match="contains itself") as refused:
        pack_body({"teams": [team]})
    assert refused.value.path == "teams[0].members[0].team"


def test_a_body_over_the_largest_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "BODY_BYTES_MAX", 100)
    exact = {"a": "x" * (100 - 5)}
    assert len(pack_body(exact)) == 100
    for body in ({"a": "x" * 96}, {"a": ["x" * 100]}):
        with pytest.raises(RecordInvalid, match="at most 100 are stored"):
            pack_body(body)


# Registered classes


@dataclass
class Player:
    name: str
    position: tuple[int, int]
    tags: set[str] = field(default_factory=set)
    score: int = field(default=0, init=False)


@dataclass(frozen=True)
class Key:
    number: int


def test_an_enum_is_stored_by_name_and_a_flag_by_value() -> None:
    register_type(Color)
    register_type(Level)
    register_type(Rights)
    rights = [Rights.READ | Rights.WRITE, Rights(0)]
    body = {"c": Color.BLUE, Color.RED: [Level.LOW], "rights": rights, "s": {Color.RED}}
    assert is_same(unpack_body(pack_body(body)), body)


def test_a_dataclass_is_stored_by_its_fields() -> None:
    register_type(Player)
    player = Player("ann", (1, 2), {"a"})
    player.score = 7
    found = unpack_body(pack_body({"p": [player]}))["p"][0]
    assert type(found) is Player
    assert found == player


def test_a_frozen_dataclass_may_be_a_key_and_a_member() -> None:
    register_type(Key)
    body = {Key(1): "a", "s": {Key(2), Key(3)}, "t": (Key(4),)}
    assert is_same(unpack_body(pack_body(body)), body)


def test_a_field_that_came_later_takes_its_default() -> None:
    register_type(Key, name="Player", pack=lambda key: {"name": "x", "position": (key.number, 0)}, unpack=Key)
    packed = pack_body({"p": Key(5)})
    registry._by_name.clear()
    register_type(Player)
    assert unpack_body(packed)["p"] == Player("x", (5, 0))


def test_any_class_is_stored_through_its_own_functions() -> None:
    register_type(Point, pack=lambda point: point.x, unpack=Point)
    found = unpack_body(pack_body({"p": Point(2)}))["p"]
    assert type(found) is Point
    assert found == Point(2)


def test_register_type_serves_as_a_decorator() -> None:
    @register_type
    class Here(enum.Enum):
        A = 1

    assert unpack_value(pack_value(Here.A)) is Here.A


def test_a_class_that_was_defined_again_replaces_the_first() -> None:
    first = enum.Enum("Again", {"A": 1}, module="m")
    second = enum.Enum("Again", {"A": 1}, module="m")
    register_type(first)
    packed = pack_value(first["A"])
    register_type(second)
    assert unpack_value(packed) is second["A"]


@pytest.mark.parametrize("value", [Color.RED, Key(1), Rights.READ])
def test_reading_a_class_that_is_not_registered_names_it_and_the_way_out(value: Any) -> None:
    register_type(type(value))
    packed = pack_body({"v": value})
    registry._by_name.clear()
    with pytest.raises(RecordInvalid, match=rf"holds a '{type(value).__name__}'.*mynosql.register_type"):
        unpack_body(packed)


def test_an_enum_stored_as_an_object_or_the_reverse_is_refused() -> None:
    register_type(Color)
    register_type(Key)
    as_object = b"\x93" + _MARKS["object"] + msgpack.packb("Color") + msgpack.packb("RED")
    as_enum = _extension(6, msgpack.packb(["Key", b"\x01"]))
    for data in (as_object, as_enum):
        with pytest.raises(RecordInvalid, match="not registered"):
            unpack_value(data)


def test_reading_a_member_or_field_that_the_class_lacks_names_it() -> None:
    register_type(Color)
    register_type(Key)
    enum_packed, key_packed = pack_body({"v": Color.RED}), pack_body({"v": Key(1)})
    registry._by_name.clear()
    register_type(enum.Enum("Color", {"GREEN": 1}), name="Color")
    register_type(Player, name="Key")
    with pytest.raises(RecordInvalid, match="member 'RED'"):
        unpack_body(enum_packed)
    with pytest.raises(RecordInvalid, match="a stored Key cannot be rebuilt"):
        unpack_body(key_packed)


def test_a_value_inside_a_registered_class_is_refused_with_its_path() -> None:
    register_type(Player)
    with pytest.raises(RecordInvalid) as refused:
        pack_body({"p": Player("x", (1, Surface()))})  # type: ignore[arg-type]
    assert refused.value.path == "p.position[1]"


def test_a_pack_function_that_fails_is_a_refusal_with_its_path() -> None:
    register_type(Surface, pack=lambda surface: surface.pixels, unpack=lambda _: Surface())
    with pytest.raises(RecordInvalid, match=r"s: Surface cannot be packed: AttributeError") as refused:
        pack_body({"s": Surface()})
    assert refused.value.path == "s"


@dataclass
class WithInitVar:
    size: InitVar[int]


@pytest.mark.parametrize(
    ("cls", "options", "text"),
    [
        (7, {}, "takes a class"),
        (Decimal, {}, "stored as it is"),
        (dict, {}, "stored as it is"),
        (Surface, {}, "neither an Enum nor a dataclass"),
        (Surface, {"pack": repr}, "both pack and unpack"),
        (Color, {"name": ""}, "1 to 255 characters"),
        (Color, {"name": "x" * 256}, "1 to 255 characters"),
        (WithInitVar, {}, "InitVar"),
        (Color, {"name": "Taken"}, "'Taken' is registered for tests.test_codec.Level"),
    ],
)
def test_what_cannot_be_registered_is_refused(cls: Any, options: dict[str, Any], text: str) -> None:
    register_type(Level, name="Taken")
    with pytest.raises(OptionInvalid, match=text):
        register_type(cls, **options)


# Bytes that are no value


def _extension(code: int, payload: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, payload))


_MARKS = {name: bytes((0xC7, 0, code)) for code, name in enumerate(("tuple", "set", "frozenset", "dict", "object"), 1)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x91",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\xa1\xff",
        _MARKS["tuple"],
        b"\x92\x01" + _MARKS["set"],
        b"\x81" + _MARKS["tuple"] + b"\x01",
        b"\x92" + _MARKS["set"] + b"\x90",
        b"\x92" + _MARKS["dict"] + b"\x01",
        b"\x93" + _MARKS["dict"] + b"\x90\x01",
        b"\x91" + _MARKS["object"],
        b"\x93" + _MARKS["object"] + b"\x01\x02",
        _extension(1, b"x"),
        b"\x92" + _extension(1, b"x") + b"\x01",
        _extension(99, b""),
        b"\xd6\xff\x00\x00\x00\x01",
        b"\x81\xd6\xff\x00\x00\x00\x01\x01",
        b"\x92" + _MARKS["set"] + b"\xd6\xff\x00\x00\x00\x01",
        _extension(6, b"\x01"),
        _extension(6, msgpack.packb([1, "x"])),
        _extension(6, msgpack.packb(["x", 1.5])),
        _extension(17, b"short"),
        _extension(19, b"abc"),
        _extension(19, b"1e5"),
        _extension(19, b"01"),
        _extension(19, b"1E+99999999999999999999"),
        _extension(19, "١".encode()),
        _extension(20, b""),
        _extension(20, b"\x00\x00\x00\x01\x01\x00"),
        _extension(20, b"\x00\x00\x00\x01\x02\x04"),
        _extension(20, b"\x00\x00\x00\x01\x01\xff"),
        _extension(21, b"short"),
        _extension(22, b"\x00\x00\x00\x00"),
        _extension(22, b"\xff\xff\xff\xff"),
        _extension(23, b"\xff" * 8),
        _extension(23, struct.pack(">Q", 86_400_000_000 << 1)),
        _extension(24, b"\xff" * 8),
        _extension(24, b"\x00" * 7),
        _extension(24, b"\x00" * 8 + b"x"),
        _extension(24, b"\x00" * 8 + b"u "),
        _extension(24, b"\x00" * 8 + b"o" + struct.pack(">q", 86_400_000_000)),
        _extension(24, b"\x00" * 8 + b"o\x00"),
        _extension(24, b"\x00" * 8 + b"n" + b"\x00" * 8 + b"\xff"),
        _extension(24, b"\x00" * 8 + b"z/etc/passwd"),
        _extension(24, b"\x00" * 8 + b"z../../etc/passwd"),
        _extension(24, b"\x00" * 8 + b"zEurope\x00"),
        _extension(25, b"\x00" * 8),
        _extension(25, b"\xff" * 9),
        _extension(25, struct.pack(">I", 1 << 31) + (86_400_000_000).to_bytes(5, "big")),
    ],
    ids=bytes.hex,
)
def test_bytes_that_are_no_value_are_a_value_error(data: bytes) -> None:
    for unpack in (unpack_value, unpack_body):
        with pytest.raises(ValueError, match="pack") as error:
            unpack(data)
        assert not isinstance(error.value, RecordInvalid)


@pytest.mark.parametrize("key", [b"Nowhere/Land", b"Europe"])
def test_a_zone_that_this_machine_does_not_know_is_named(key: bytes) -> None:
    with pytest.raises(RecordInvalid, match=f"{key.decode()}.*install"):
        unpack_value(_extension(24, b"\x00" * 8 + b"z" + key))


def test_a_body_that_is_another_value_is_a_value_error() -> None:
    for value in ([], (1,), "x", None):
        with pytest.raises(ValueError, match="a dict expected"):
            unpack_body(pack_value(value))


@given(st.binary(max_size=60))
@settings(max_examples=1_000)
def test_any_bytes_yield_a_value_or_a_value_error(data: bytes) -> None:
    for unpack in (unpack_value, unpack_body):
        with contextlib.suppress(ValueError):
            unpack(data)


@given(bodies, st.data())
@settings(max_examples=500)
def test_changed_bytes_yield_a_value_or_a_value_error(body: dict[Any, Any], data: st.DataObject) -> None:
    packed = bytearray(pack_body(body))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    for changed in (bytes(packed), bytes(packed[: data.draw(st.integers(0, len(packed)))])):
        try:
            found = unpack_body(changed)
        except ValueError:
            continue
        assert type(found) is dict
        pack_body(found)


def test_lengths_are_claimed_in_vain() -> None:
    """1,000 nested lists that each claim as many items as there are bytes: 8 KB a byte, if each were made."""
    size = 200_000
    claims = (b"\xdd" + struct.pack(">I", size - 6_000)) * 1_000
    data = claims + b"\xc0" * (size - len(claims))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="unreadable"):
            unpack_body(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5_000_000


def test_nested_markers_cost_memory_once_not_once_per_level() -> None:
    body = _nested(lambda inner: (inner,), 60)
    packed = pack_body({"deep": body, "long": "x" * 1_000_000})
    tracemalloc.start()
    try:
        unpack_body(packed)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5_000_000


# The quick ways


class _Text(str):
    pass


@given(bodies)
def test_the_quick_way_packs_the_same_bytes_and_copies_what_it_packed(body: dict[Any, Any]) -> None:
    data, unpack = pack_record(body)
    assert data == pack_body(body)
    assert is_same(body if unpack is None else unpack(data), body)


@pytest.mark.parametrize("body", [
    {"a": [{"b": {"c": [1, 2.5, None, True, b"x", "é"]}}] * 50}, {"a": {1: 2}}, {1: 2}, {"a": {"b": (1, 2)}},
    {"a": [bytearray(b"x")]}, {"a": [1 << 70]}, {"a": ["\ud800"]}, {"a": {"b": {"c": {1, 2}}}}, {"a": [[[]], {}]},
])
def test_what_is_not_plain_takes_the_way_for_everything(body: dict[Any, Any]) -> None:
    data, unpack = pack_record(body)
    assert data == pack_body(body)
    copy = body if unpack is None else unpack(data)
    assert is_same(copy, body)


@pytest.mark.parametrize("body", [
    {"a": memoryview(b"x")}, {"a": [memoryview(b"x")]}, {"a": [msgpack.ExtType(5, b"x")]}, {_Text("a"): 1},
    {"a": {_Text("b"): 1}}, {"a": [_Text("b")]}, {"a": [msgpack.Timestamp(1, 2)]},
])
def test_what_msgpack_would_take_but_nobody_may_save_is_refused(body: dict[Any, Any]) -> None:
    with pytest.raises(RecordInvalid):
        pack_record(body)


def test_a_record_too_deep_or_within_itself_is_refused_on_the_quick_way_too() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX):
        deep = [deep]
    with pytest.raises(RecordInvalid, match="nested deeper"):
        pack_record({"a": deep})
    pack_record({"a": deep[0]})
    loop: dict[str, Any] = {}
    loop["a"] = [loop]
    with pytest.raises(RecordInvalid, match="contains itself"):
        pack_record(loop)


@given(bodies, st.text(max_size=20), st.integers(0, 300))
def test_a_whole_record_is_what_its_parts_are(body: dict[Any, Any], id: str, padding: int) -> None:
    body = {**{key: value for key, value in body.items() if key not in ("id", "rev")}, "pad": "again" * padding}
    whole = pack_whole(id, "1-" + "0" * 32, pack_body(body))
    if whole is not None:
        assert is_same(unpack_whole(whole), {"id": id, "rev": "1-" + "0" * 32, **body})


def test_a_whole_record_that_lz4_can_shrink_is_kept_small() -> None:
    whole = pack_whole("a", "1-" + "0" * 32, pack_body({"text": "again and " * 100}))
    assert whole is not None
    assert len(whole) < 200
    assert unpack_whole(whole)["text"] == "again and " * 100
