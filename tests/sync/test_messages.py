"""The messages as values: which of them wait for the disk."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from mynosql.sync import messages as ms

GATED = {
    ms.Welcome, ms.Entries, ms.Bodies, ms.Piece, ms.Push, ms.Ack, ms.Want, ms.Report, ms.Changes, ms.Heartbeat,
    ms.Sums, ms.Found,
}
"""All that speak of what must be on our disk first; a question, a greeting or a farewell does not."""


@pytest.mark.parametrize("kind", typing.get_args(ms.Message), ids=lambda kind: kind.__name__)
def test_whatever_speaks_of_our_disk_waits_for_it(kind: type) -> None:
    assert kind.is_gated is (kind in GATED)  # type: ignore[attr-defined]
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "is_gated" not in {field.name for field in dataclasses.fields(kind)}


def test_codes_fit_their_field() -> None:
    for kind in (ms.ByeCode, ms.RefusedCode):
        assert len({code.value for code in kind}) == len(kind)
    assert {status.value for status in ms.Status} == {0, 1, 2, 3}


def test_versions_are_a_range() -> None:
    assert 1 <= ms.VERSION_LOW <= ms.VERSION_HIGH <= 65535
