"""Records as JSON text: what goes out comes back equal and of the same type; wrong text is refused."""

from __future__ import annotations

import contextlib
import json
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mynosql import jsonform

VALUES = [
    None, True, 0, -7, 2**70, 10**5000, 1.5, -0.0, math.inf, -math.inf, 1e300, 2 + 3j, complex(math.inf, -1),
    "", "snow ☃", "$bytes", b"", b"\x00\xff", bytearray(b"ab"), [], [1, [2]], (), (1, "a", (None,)),
    set(), {1, "a", (2, 3)}, frozenset({b"x"}), {}, {"a": 1}, {1: "a", (1, 2): "b", None: "c"},
    {"$bytes": "not a tag"}, {"$unknown": 1}, {"$bytes": 1, "b": 2}, {"$dict": []},
    Decimal("1.50"), Decimal("-Infinity"), Fraction(-1, 3), UUID(int=5), date(2024, 2, 29), time(23, 59, 59, 999_999),
    time(1, 2, tzinfo=timezone.utc), datetime(2024, 2, 29, 12, 30), datetime(2024, 1, 1, tzinfo=timezone.utc),
    datetime(2024, 1, 1, 5, 6, 7, 8, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), timedelta(days=-3, microseconds=5),
]


def same(a: Any, b: Any) -> bool:
    """Equal and of the same type, all the way down; unlike ==, 1 is not 1.0 and -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return bool(a == b)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    text = jsonform.dumps(value)
    json.loads(text)  # any JSON reader takes it
    assert same(jsonform.loads(text), value)


def test_nan_comes_back_as_nan() -> None:
    assert math.isnan(jsonform.loads(jsonform.dumps(math.nan)))


def test_a_zone_and_the_fold_of_a_moment_are_kept() -> None:
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    found = jsonform.loads(jsonform.dumps(moment))
    assert (found.tzinfo, found.fold, found.utcoffset()) == (moment.tzinfo, 1, moment.utcoffset())


def test_plain_records_are_plain_json() -> None:
    rec = {"id": "lamp", "on": True, "levels": [1, 2.5, None]}
    assert jsonform.dumps(rec) == '{"id":"lamp","on":true,"levels":[1,2.5,null]}'


def test_sets_are_written_in_one_order() -> None:
    assert jsonform.dumps({"b", "a", "c"}) == '{"$set":["a","b","c"]}'


def test_ascii_only_output_has_no_other_characters() -> None:
    text = jsonform.dumps({"name": "Zoë ☃"}, ascii_only=True)
    assert text.isascii()
    assert jsonform.loads(text) == {"name": "Zoë ☃"}


def test_half_a_surrogate_pair_can_be_printed_and_comes_back() -> None:
    text = jsonform.dumps({"name": "Zoë \ud800"})
    assert text.encode("utf-8")
    assert jsonform.loads(text) == {"name": "Zoë \ud800"}


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.decimals(
        allow_nan=False) | st.fractions() | st.uuids() | st.dates() | st.times() | st.datetimes() | st.timedeltas()
)
_HASHABLE = st.recursive(
    _LEAVES, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
_NESTED = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_HASHABLE, inner, max_size=4)
    | st.dictionaries(st.text(st.sampled_from("$abytes"), max_size=6), inner, max_size=2), max_leaves=15,
)


@given(_NESTED)
def test_any_nested_value_comes_back(value: Any) -> None:
    assert same(jsonform.loads(jsonform.dumps(value)), value)


@pytest.mark.parametrize(("text", "reason"), [
    ("", "not JSON"),
    ('{"a": 1', "line 1, column"),
    ('{"a": NaN}', '"$float": "nan"'),
    ('{"a": -Infinity}', '"$float": "-inf"'),
    ('{"a": 1, "a": 2}', "'a' stands twice"),
    ('{"$nothing": 1}', "unknown tag '$nothing'"),
    ('{"$bytes": "%%"}', "base64"),
    ('{"$bytes": 5}', "expected a string"),
    ('{"$float": "1.5"}', "expected"),
    ('{"$dict": [[1]]}', "a list of 2"),
    ('{"$set": [{"a": 1}]}', "unhashable"),
    ('{"$decimal": "one"}', "$decimal cannot hold"),
    ('{"$fraction": "1/0"}', "$fraction cannot hold"),
    ('{"$date": "2024-13-01"}', "$date cannot hold"),
    ('{"$datetime": ["2024-01-01T00:00:00", "Mars/Olympus", 0]}', "no time zone"),
    ('{"$timedelta": [99999999999, 0, 0]}', "$timedelta cannot hold"),
    ('{"$uuid": "x"}', "$uuid cannot hold"),
    ('{"$repr": "<Surface>"}', "cannot be stored"),
    ("[" * 100_000, "nested too deeply"),
    ("1" * 5_000, "not JSON that can be read"),
], ids=lambda text: text[:40])
def test_wrong_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(jsonform.JsonInvalid) as caught:
        jsonform.loads(text)
    assert reason in str(caught.value)


@given(st.text(st.sampled_from('{}[]"$:,0a \\bytesdcimal-'), max_size=40))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    with contextlib.suppress(jsonform.JsonInvalid):
        jsonform.loads(text)


@given(st.sampled_from(jsonform.TAGS), _NESTED)
def test_any_content_of_a_tag_is_a_value_or_refused(tag: str, held: Any) -> None:
    with contextlib.suppress(jsonform.JsonInvalid):
        jsonform.loads(json.dumps({tag: jsonform.to_json(held)}))


def test_a_value_of_an_unknown_type_is_shown_not_hidden() -> None:
    class Surface:
        def __repr__(self) -> str:
            return "<Surface 8x8>"

    assert jsonform.dumps({"sprite": Surface()}) == '{"sprite":{"$repr":"<Surface 8x8>"}}'
