"""The loop: timers that wake in time and only then, posted calls in order, sockets that come and go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from mynosql.net.reactor import Reactor, Timer
from mynosql.net.sockets import Context, Socket
from tests.waiting import wait_until


class Loop:
    """A reactor and the count of its wakes; rounds are run by the test."""

    def __init__(self) -> None:
        self.wakes = 0
        self.reactor = Reactor(self._on_wake)

    def _on_wake(self) -> None:
        self.wakes += 1


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.reactor.close()


def pair(context: Context, name: str = "x") -> tuple[Socket, Socket]:
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind(f"inproc://{name}")
    other.connect(f"inproc://{name}")
    return one, other


def test_timers_run_in_the_order_of_their_times(loop: Loop) -> None:
    ran: list[str] = []
    now = time.monotonic()
    loop.reactor.call_at(now + 0.02, lambda: ran.append("late"))
    loop.reactor.call_at(now, lambda: ran.append("first"))
    loop.reactor.call_at(now, lambda: ran.append("second"))
    while len(ran) < 3:
        loop.reactor.run_round(None)
    assert ran == ["first", "second", "late"]
    assert time.monotonic() >= now + 0.02


def test_a_round_ends_at_the_due_time_not_before(loop: Loop) -> None:
    due = time.monotonic() + 0.0305
    loop.reactor.run_round(due)
    assert time.monotonic() >= due


def test_a_cancelled_timer_neither_runs_nor_wakes(loop: Loop) -> None:
    now = time.monotonic()
    cancelled = loop.reactor.call_at(now, lambda: pytest.fail("ran"))
    cancelled.cancel()
    loop.reactor.run_round(now + 0.03)
    assert time.monotonic() >= now + 0.03


def test_a_timer_may_cancel_another_of_the_same_round(loop: Loop) -> None:
    now = time.monotonic()
    timers: list[Timer] = []
    loop.reactor.call_at(now, lambda: timers[0].cancel())
    timers.append(loop.reactor.call_at(now, lambda: pytest.fail("ran")))
    loop.reactor.run_round(now)
    loop.reactor.run_round(now)


def test_what_is_posted_runs_once_in_order_and_what_it_posts_runs_in_the_next_round(loop: Loop) -> None:
    ran: list[int] = []

    def first() -> None:
        ran.append(1)
        loop.reactor.post(lambda: ran.append(3))

    loop.reactor.post(first)
    loop.reactor.post(lambda: ran.append(2))
    loop.reactor.run_round(None)
    assert ran == [1, 2]
    loop.reactor.run_round(None)
    assert ran == [1, 2, 3]
    assert loop.reactor.take_posted() == []


def test_a_wake_or_post_of_another_thread_ends_the_sleep(loop: Loop) -> None:
    ran: list[str] = []
    done = threading.Event()

    def run() -> None:
        while len(ran) < 1 or loop.wakes < 1:
            loop.reactor.run_round(None)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: loop.reactor._is_asleep)
    loop.reactor.wake()
    wait_until(lambda: loop.wakes == 1)
    wait_until(lambda: loop.reactor._is_asleep)
    loop.reactor.post(lambda: ran.append("posted"))
    assert done.wait(10)
    thread.join()


def test_a_thousand_wakes_ring_once(loop: Loop) -> None:
    loop.reactor._is_asleep = True
    for _ in range(1000):
        loop.reactor.wake()
    assert len(loop.reactor._bell._inner.recv(4096)) == 1


def test_wakes_while_awake_do_not_ring_at_all(loop: Loop) -> None:
    for _ in range(1000):
        loop.reactor.wake()
    with pytest.raises(BlockingIOError):
        loop.reactor._bell._inner.recv(1)
    loop.reactor.run_round(None)
    assert loop.wakes == 1
    now = time.monotonic()
    loop.reactor.run_round(now + 0.02)
    assert loop.wakes == 1


def test_a_bell_that_was_rung_too_often_or_is_gone_is_no_error(loop: Loop) -> None:
    for _ in range(100_000):
        loop.reactor._bell.ring()
    loop.reactor._bell.drain()
    with pytest.raises(BlockingIOError):
        loop.reactor._bell._inner.recv(1)
    loop.reactor._bell.close()
    loop.reactor._bell.ring()


def test_readable_sockets_are_called_until_they_are_removed(
    loop: Loop, context: Context
) -> None:
    one, other = pair(context)
    got: list[bytes] = []
    loop.reactor.add(one, lambda: got.append(one.recv()))
    for number in range(3):
        other.send(b"%d" % number)
    for _ in range(3):
        loop.reactor.run_round(None)
    assert got == [b"0", b"1", b"2"]
    loop.reactor.remove(one)
    loop.reactor.remove(one)
    other.send(b"3")
    loop.reactor.run_round(time.monotonic())
    assert got == [b"0", b"1", b"2"]


def test_a_callback_may_remove_and_close_the_socket_of_the_next(
    loop: Loop, context: Context
) -> None:
    pairs = [pair(context, name) for name in "ab"]
    called: list[int] = []

    def close_all(number: int) -> None:
        called.append(number)
        for one, _ in pairs:
            loop.reactor.remove(one)
            one.close(0)

    for number, (one, other) in enumerate(pairs):
        loop.reactor.add(one, lambda number=number: close_all(number))  # type: ignore[misc]
        other.send(b"x")
    loop.reactor.run_round(None)
    loop.reactor.run_round(time.monotonic())
    assert len(called) == 1
