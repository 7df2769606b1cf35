"""checkdb() while others go on, and what ends it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import mynosql


def in_another_thread(act: Any) -> Any:
    """What it returns; it may not have to wait for the caller."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(act()), daemon=True)
    thread.start()
    thread.join(30)
    assert results, "it waits for the check"
    return results[0]


def test_others_save_and_read_between_its_steps(db: Any) -> None:
    db.savedocs([{"id": f"{n:04}", "text": "reading " * 60, "n": n} for n in range(2000)])
    db.compactdb()
    steps: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        steps.append((done, total))
        if len(steps) in (2, 5):
            rec = db.readdoc("0007")
            in_another_thread(lambda: db.savedoc({**rec, "n": -len(steps)}))
            assert in_another_thread(lambda: db.readdoc("1234"))["n"] == 1234

    report = db.checkdb(progress)
    assert (report.ok, report.problems, report.records) == (True, (), 2000)
    assert len(steps) > 5
    assert steps[-1][0] == steps[-1][1]
    assert db.readdoc("0007")["n"] == -5
    db.compactdb()  # sealing goes on
    assert db.checkdb().ok


def test_closing_ends_it(make_db: Any) -> None:
    db = make_db()
    db.savedocs([{"id": n, "text": "reading " * 60} for n in range(1000)])
    db.compactdb()
    with pytest.raises(mynosql.NotOpen, match="while it was checked"):
        db.checkdb(lambda done, total: in_another_thread(lambda: db.closedb() or True))


def test_two_checks_come_after_each_other(db: Any) -> None:
    db.savedocs([{"id": n, "text": "reading " * 60} for n in range(1000)])
    db.compactdb()
    begun = threading.Event()
    reports: list[Any] = []
    other = threading.Thread(target=lambda: (begun.wait(30), reports.append(db.checkdb())))
    other.start()
    reports.append(db.checkdb(lambda done, total: begun.set()))
    other.join(30)
    assert [report.ok for report in reports] == [True, True]
