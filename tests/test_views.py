"""What the face answers with: values to keep and compare, which nobody can change."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mynosql import views

VALUES: list[Any] = [
    views.DocInfo(id="a", state="absent"),
    views.Conflict(rev="1-0", deleted=False, held=False, rec=None, node="0" * 16),
    views.Change(id="a", rev="1-0", deleted=False, token="x-1"),
    views.Problem(file="shard", offset=None, what="gone", records=1),
    views.CheckReport(ok=True, problems=(), records=0, blocks=0),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_view_is_frozen_and_equal_to_its_copy(value: Any) -> None:
    assert dataclasses.replace(value) == value
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


def test_an_unknown_record_has_no_revision_size_or_conflicts() -> None:
    info = views.DocInfo(id="a", state="unknown")
    assert (info.rev, info.held_rev, info.size, info.conflicts, info.as_of) == (None, None, 0, 0, None)


def test_syncstatus_is_a_frozen_view_with_the_fields_of_the_design(db: Any) -> None:
    status = db.syncstatus()
    assert [field.name for field in dataclasses.fields(status)] == [
        "mode", "node", "endpoint", "mirror", "connected", "mirrors", "filling", "records", "held", "stale", "missing",
        "pending", "conflicts", "rejected", "behind", "as_of", "bytes_sent", "bytes_received", "last_error",
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        status.mode = "Mirror"
