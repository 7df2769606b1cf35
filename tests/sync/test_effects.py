"""The border of the protocol: every effect and result is a frozen value, and links name what they should."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from mynosql.address import Address
from mynosql.sync import effects as fx

VALUES = [*typing.get_args(fx.Effect), *typing.get_args(fx.Result)]


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_it_is_frozen_and_told(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in dataclasses.fields(kind))
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "a sentence, not the signature"


def test_every_question_tells_its_result() -> None:
    for kind in typing.get_args(fx.Effect):
        if "token" in {field.name for field in dataclasses.fields(kind)}:
            assert "Result: " in (kind.__doc__ or ""), kind


def test_a_dial_is_named_by_its_address() -> None:
    assert fx.Link.dial(Address("h", 1)) == fx.Link(fx.LinkKind.DIAL, "tcp://h:1")
    assert fx.Link.dial(Address("h", 1)) != fx.Link.served("tcp://h:1")


def test_topics_are_told_apart_by_their_first_byte() -> None:
    assert len({topic.value for topic in fx.Topic}) == 3
    assert {len(topic.value) for topic in fx.Topic} == {1}, "a subscription is a prefix"
