"""A real process is killed in, or refused, each of its storage calls: named errors, nothing promised lost, it goes on.

The scenarios (tests/faults/disturbed_child.py) run under strace, which kills at, or fails, the Nth call of a kind on
one path. `tox -e powerloss` takes every call, a plain run each eighth. Promises and figures: docs/DURABILITY.md.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disturbed_child import SCENARIOS
from tests.faults.disturbing import READING, Disturber, Outcome, Point, errors_of
from tests.faults.opened_state import hold_of_store
from tests.faults.promises import Feeds, Promises
from tests.faults.recorded_child import NAME
from tests.faults.strace import find_skip_reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.long]
IS_EXHAUSTIVE = bool(os.environ.get("MYNOSQL_EXHAUSTIVE"))
EVERY = 1 if IS_EXHAUSTIVE else 8
KILLS_MIN, FAULTS_MIN = 300 // EVERY, 1000 // EVERY
NAMED = {"StorageFull", "StorageFailed", "StorageCorrupt"}


@pytest.fixture(params=SCENARIOS)
def disturber(request: pytest.FixtureRequest) -> Iterator[Disturber]:
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    memory = "/dev/shm"
    place = Path(tempfile.mkdtemp(prefix="mynosql-fault-", dir=memory if os.access(memory, os.W_OK) else None))
    with Disturber(request.param, place / "run") as found:
        yield found
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def fired() -> Counter[str]:
    """How many faults of each kind happened."""
    return Counter()


def broken_promises(outcome: Outcome) -> list[str]:
    """What the folder lacks of what the process said, or why it does not open."""
    promises = Promises.of("A", outcome.marks)
    for mark in outcome.marks:
        promises.take(mark)
    try:
        held = hold_of_store(outcome.root / "A" / NAME, list(promises.tried))
    except Exception as error:  # whatever it is: the folder does not open
        return [f"{type(error).__name__}: {error}"]
    return promises.find_broken(held, Feeds(outcome.marks), is_kept=True)


def chosen(points: list[Point]) -> list[Point]:
    """Each eighth in a plain run, every one in an exhaustive one."""
    return points[::EVERY]


def test_a_kill_at_any_storage_call_loses_nothing_that_was_promised(disturber: Disturber, fired: Counter[str]) -> None:
    missed = 0
    for point in chosen([point for point in disturber.points() if point.call not in READING]):
        outcome = disturber.kill(point)
        if not outcome.has_fired:
            assert outcome.status == 0, outcome.where
            missed += 1  # threads came to their calls in another order, and none to its Nth
            continue
        fired["SIGKILL"] += 1
        assert broken_promises(outcome) == [], outcome.where
    assert missed <= 5 + fired["SIGKILL"] // 20


def test_a_refused_storage_call_is_a_named_error_and_nothing_is_lost(disturber: Disturber, fired: Counter[str]) -> None:
    missed = count = 0
    told = Counter[str]()
    for point in chosen(disturber.points()):
        for error in errors_of(point):
            outcome = disturber.fail(point, error)
            assert outcome.status == 0, f"{outcome.where}: {outcome.failure or 'it hung, or died'}"
            if not outcome.has_fired:
                missed += 1
                continue
            count += 1
            fired[error] += 1
            told.update(outcome.errors or ["none: it did without"])
            assert set(outcome.errors) <= NAMED, outcome.where
            assert broken_promises(outcome) == [], outcome.where
            if point.call == "fdatasync" and re.search(r"/(journal|shard)-\d+$", point.path):
                check_read_only(outcome)
    print(f"{count} faults, {missed} calls not met again; errors that the process was told: {dict(told)}")
    assert missed <= 5 + count // 20


def check_read_only(outcome: Outcome) -> None:
    """A failed fsync was told as StorageFailed, and not tried again before the database was opened anew."""
    assert "StorageFailed" in outcome.errors, outcome.where
    at = next(number for number, line in enumerate(outcome.trace) if "(INJECTED)" in line)
    for line in outcome.trace[at + 1 :]:
        if re.search(r"openat\(.*/lock\"", line):
            return
        assert not re.search(r"\bf(data)?sync\(", line), f"{outcome.where}: fsynced again: {line}"


def test_as_many_faults_happened_as_are_claimed(fired: Counter[str]) -> None:
    if not fired:
        pytest.skip("no fault was put in (strace is missing, or -k was given)")
    print(dict(fired))
    assert fired["SIGKILL"] >= KILLS_MIN
    assert fired["EIO"] + fired["ENOSPC"] + fired["EMFILE"] >= FAULTS_MIN
    assert min(fired["EIO"], fired["ENOSPC"], fired["EMFILE"]) > 0
