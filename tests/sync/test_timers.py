"""timers.Timers: one timer a key, in order of time."""

from __future__ import annotations

from mynosql.sync.timers import Timers


def _fired(timers: Timers, now: float) -> None:
    while (call := timers.take_due(now)) is not None:
        call()


def test_due_timers_fire_in_order_of_time_then_of_setting() -> None:
    timers, fired = Timers(), []
    timers.set("late", 2.0, lambda: fired.append("late"))
    timers.set("first", 1.0, lambda: fired.append("first"))
    timers.set("second", 1.0, lambda: fired.append("second"))

    _fired(timers, 1.5)

    assert fired == ["first", "second"]
    assert timers.next_due == 2.0


def test_setting_a_key_again_replaces_its_timer() -> None:
    timers, fired = Timers(), []
    timers.set("a", 1.0, lambda: fired.append("old"))
    timers.set("a", 3.0, lambda: fired.append("new"))

    _fired(timers, 2.0)
    assert fired == []
    _fired(timers, 3.0)
    assert fired == ["new"]


def test_set_earlier_never_puts_a_timer_off() -> None:
    timers, fired = Timers(), []
    timers.set("a", 1.0, lambda: fired.append("early"))
    timers.set_earlier("a", 2.0, lambda: fired.append("late"))
    timers.set("b", 2.0, lambda: fired.append("late"))
    timers.set_earlier("b", 1.0, lambda: fired.append("early"))

    _fired(timers, 1.0)

    assert fired == ["early", "early"]
    assert timers.next_due is None


def test_nothing_is_due_after_cancel_or_clear() -> None:
    timers = Timers()
    timers.set("a", 1.0, lambda: None)
    timers.cancel("a")
    timers.cancel("never set")

    assert timers.next_due is None
    timers.set("b", 1.0, lambda: None)
    timers.clear()
    assert not timers.is_set("b")
    assert timers.take_due(9.0) is None


def test_a_timer_set_over_and_over_costs_no_memory() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.set("a", float(number), lambda: None)

    assert len(timers._heap) < 200
    assert timers.next_due == 9999.0
