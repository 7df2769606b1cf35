"""Work shared among threads comes back in order, and fails as it would in one thread."""

from __future__ import annotations

import threading

import pytest

from mynosql.parallel import in_order


@pytest.mark.parametrize("threads", [1, 3, 50])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_results_stand_in_the_order_of_the_work(threads: int, count: int) -> None:
    assert in_order(lambda number: number * 2, range(count), threads=threads) == [2 * n for n in range(count)]


def test_the_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=30)
    assert sorted(in_order(lambda _: meeting.wait(), range(3), threads=3)) == [0, 1, 2]


@pytest.mark.parametrize("bad", [0, 1, 5])
def test_an_error_is_raised_and_no_thread_is_left(bad: int) -> None:
    before = threading.active_count()

    def work(number: int) -> int:
        if number == bad:
            raise OSError("broken")
        return number

    with pytest.raises(OSError, match="broken"):
        in_order(work, range(8), threads=3)
    assert threading.active_count() == before


def test_where_no_thread_can_be_started_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert in_order(str, range(5), threads=3) == ["0", "1", "2", "3", "4"]
