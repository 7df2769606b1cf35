"""Faults in one small scenario: which calls there are, and that a fault happens where it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disturbing import Disturber, Point, errors_of
from tests.faults.strace import find_skip_reason


@pytest.fixture
def disturber(tmp_path: Path) -> Iterator[Disturber]:
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    with Disturber("each", tmp_path / "run") as found:
        yield found


def test_each_call_on_each_path_is_a_point(disturber: Disturber) -> None:
    points = disturber.points()
    assert len(points) == len(set(points)) > 300
    for known in (
        Point("mkdir", "A", 1), Point("openat", "A/Test/lock", 1), Point("fdatasync", "A/Test/journal-00000000", 3),
        Point("rename", "A/Test/format.tmp", 1), Point("fsync", "A/Test", 2), Point("pwrite64", "A/Test/index-wal", 9),
    ):
        assert known in points
    assert errors_of(known) == ("EIO", "ENOSPC")


def test_a_kill_and_an_error_happen_where_they_were_asked_for(disturber: Disturber) -> None:
    point = Point("fdatasync", "A/Test/journal-00000000", 3)
    killed = disturber.kill(point)
    assert (killed.status, killed.has_fired, killed.errors) == (-9, True, [])
    assert "journal-00000000" in killed.trace[-2] or any("fdatasync" in line for line in killed.trace)
    failed = disturber.fail(point, "EIO")
    assert (failed.status, failed.has_fired, failed.failure) == (0, True, "")
    assert set(failed.errors) == {"StorageFailed"}
    missed = disturber.fail(Point("fdatasync", "A/Test/journal-00000000", 999), "EIO")
    assert (missed.status, missed.has_fired, missed.errors) == (0, False, [])


def test_a_process_that_ends_by_itself_says_why(tmp_path: Path) -> None:
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    with Disturber("no such scenario", tmp_path / "run") as disturber:
        outcome = disturber.fail(Point("mkdir", "A", 1), "EIO")
    assert (outcome.status, outcome.has_fired) == (1, False)
    assert "KeyError: 'no such scenario'" in outcome.failure
