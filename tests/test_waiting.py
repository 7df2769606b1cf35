"""wait_until: returns what it waited for, asks again, and fails with the sentence that it was given."""

from __future__ import annotations

import threading

import pytest

from tests.waiting import wait_until


def test_wait_until_returns_the_first_true_value() -> None:
    values = iter([0, "", None, 7, 8])

    assert wait_until(lambda: next(values), 10, "a value") == 7


def test_wait_until_sees_what_another_thread_does() -> None:
    gate = threading.Event()
    timer = threading.Timer(0.02, gate.set)
    timer.start()

    wait_until(gate.is_set, 10, "the gate is open")
    timer.join()


def test_wait_until_fails_at_the_deadline_with_sentence_and_last_value() -> None:
    with pytest.raises(AssertionError, match=r"0\.01 s in vain for: 3 records \(last value: \[\]\)"):
        wait_until(list, 0.01, "3 records")


def test_wait_until_asks_the_sentence_only_when_it_failed() -> None:
    asked: list[int] = []
    wait_until(lambda: True, 0.01, lambda: asked.append(1) or "never shown")
    assert asked == []

    with pytest.raises(AssertionError, match="2 of 3"):
        wait_until(lambda: False, 0.01, lambda: "2 of 3")


def test_wait_until_asks_once_more_after_a_deadline_of_zero() -> None:
    assert wait_until(lambda: "here", 0, "anything") == "here"


def test_wait_until_lets_an_exception_of_the_condition_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, 10, "anything")
