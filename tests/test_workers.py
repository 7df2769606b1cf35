"""The background threads of one open database: what they promise to those who wait, also when they fail."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mynosql.errors import StorageFailed
from mynosql.replica import Replica, World
from mynosql.store.store import Store
from mynosql.workers import FULL_RETRY_S, Workers
from tests.store.making import NODE, open_memory, row_of
from tests.waiting import wait_until


class Waits(threading.Condition):
    """A Condition that writes down for how long each wait was meant, as it begins; the lock is held then."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lock)
        self.timeouts: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.timeouts.append(timeout)
        return super().wait(timeout)


class Bench:
    """Workers on a store without a disk. start() runs them."""

    def __init__(self, fsync_interval_s: float = 0.0) -> None:
        self.store, self.files, _ = open_memory()
        world = World(wall_ms=lambda: 1, mint=lambda size: b"m" * size, renew_node=lambda: 1, rng=random.Random(1))
        self.replica = Replica(self.store, name="Test", node=NODE, is_moved=False, is_mirror=None, world=world)
        self.workers = Workers(self.replica, fsync_interval_s=fsync_interval_s)
        self.waits = {}
        for name in ("changed", "_sync_wake", "_seal_wake"):
            self.waits[name] = Waits(self.workers.lock)
            setattr(self.workers, name, self.waits[name])

    def save(self, id: str) -> None:
        with self.workers.lock:
            self.store.put_one(row_of(id, 1))
            self.workers.on_written()

    def in_thread(self, call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
        """The call runs, and waits for `changed`; its result or exception will stand in the list."""
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append(call())
            except Exception as error:
                outcome.append(error)

        before = len(self.waits["changed"].timeouts)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        wait_until(lambda: len(self.waits["changed"].timeouts) > before or outcome, 10, "it waits")
        return thread, outcome


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.workers.stop()


def locked(bench: Bench, call: Callable[[], Any]) -> Any:
    with bench.workers.lock:
        return call()


def test_what_is_written_becomes_durable_by_itself(bench: Bench) -> None:
    bench.workers.start()
    bench.save("a")
    wait_until(lambda: bench.store.durable == bench.store.written, 10, "the fsync")


def test_wait_durable_does_not_wait_for_the_interval() -> None:
    bench = Bench(fsync_interval_s=3600)
    bench.workers.start()
    bench.save("a")
    locked(bench, bench.workers.wait_durable)
    assert bench.store.durable == bench.store.written
    bench.workers.stop()


def test_on_durable_is_called_without_the_lock(bench: Bench) -> None:
    owned: list[bool] = []
    bench.workers.on_durable = lambda: owned.append(bench.workers.lock._is_owned())  # type: ignore[attr-defined]
    bench.workers.start()
    bench.save("a")
    wait_until(lambda: owned, 10, "the call")
    assert not any(owned)


def test_idle_workers_sleep_until_they_are_called(bench: Bench) -> None:
    bench.workers.start()
    bench.save("a")
    wait_until(lambda: bench.store.durable == bench.store.written, 10, "the fsync")
    wait_until(lambda: bench.waits["_sync_wake"].timeouts[-1:] == [None], 10, "the fsync thread sleeps without an end")


def test_a_sealer_without_work_sleeps_until_it_is_called(bench: Bench) -> None:
    bench.store.next_due = lambda now: None  # type: ignore[method-assign]
    bench.workers.start()
    wait_until(lambda: bench.waits["_seal_wake"].timeouts == [None], 10, "the sealer sleeps without an end")


@pytest.mark.parametrize("job", ["sync_job", "seal_job"])
def test_a_dead_worker_wakes_who_waits_and_raises_in_every_call_after(bench: Bench, job: str) -> None:
    go = threading.Event()

    def broken(*_: Any) -> None:
        if go.is_set():
            raise RuntimeError("a defect")

    setattr(bench.store, job, broken)
    bench.workers.start()
    thread, outcome = bench.in_thread(lambda: locked(bench, lambda: bench.workers.wait(lambda: False, None)))
    go.set()
    with bench.workers.lock:
        bench.workers.sync_now()
        bench.waits["_seal_wake"].notify()
    thread.join(10)
    assert isinstance(outcome[0], StorageFailed)
    assert "a defect" in str(outcome[0])
    with pytest.raises(StorageFailed, match="open it again"):
        bench.workers.check()
    assert bench.replica.last_error == "RuntimeError: a defect"


def test_a_failed_fsync_raises_for_who_waits_for_it_and_is_shown(bench: Bench) -> None:
    def fails(operation: str, name: str) -> None:
        if operation == "flush":
            raise StorageFailed("the disk is gone")

    bench.files.on_operation = fails
    bench.save("a")
    bench.workers.start()
    with pytest.raises(StorageFailed, match="power cut"):
        locked(bench, bench.workers.wait_durable)
    assert bench.replica.last_error == "StorageFailed: the disk is gone"
    assert bench.workers.failure is None, "reading goes on"


def test_wait_ends_with_its_condition_its_time_or_the_stop(bench: Bench) -> None:
    bench.workers.start()
    assert locked(bench, lambda: bench.workers.wait(lambda: True, 0)) is True
    assert locked(bench, lambda: bench.workers.wait(lambda: False, 0.01)) is False
    thread, outcome = bench.in_thread(lambda: locked(bench, lambda: bench.workers.wait(lambda: False, None)))
    bench.workers.stop()
    thread.join(10)
    assert outcome == [False]


def test_a_writer_waits_at_full_pressure_until_a_seal_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pressure = [1.0]
    monkeypatch.setattr(Store, "pressure", property(lambda _: pressure[0]))
    thread, outcome = bench.in_thread(bench.workers.slow_down)
    assert thread.is_alive()
    assert outcome == []
    with bench.workers.lock:
        pressure[0] = 0.2
        bench.workers.changed.notify_all()
    thread.join(10)
    assert outcome == [None]


def test_a_writer_does_not_wait_while_the_sealer_keeps_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("mynosql.workers.time.sleep", slept.append)
    for pressure in (0.0, 0.89, 0.92, 0.99):
        monkeypatch.setattr(Store, "pressure", property(lambda _, value=pressure: value))
        bench.workers.slow_down()
    assert len(slept) == 2
    assert 0 < slept[0] < slept[1]


def test_after_a_full_disk_the_sealer_rests_before_it_tries_again(bench: Bench) -> None:
    class Full:
        def run(self) -> None:
            raise StorageFailed("no room")

    bench.store.seal_job = lambda now, **_: Full()  # type: ignore[method-assign,assignment,return-value]
    bench.store.finish = lambda job, error=None: None  # type: ignore[method-assign]
    bench.store.next_due = lambda now: now  # type: ignore[method-assign]
    bench.workers.start()
    wait_until(lambda: bench.waits["_seal_wake"].timeouts, 10, "the rest")
    rest_s = bench.waits["_seal_wake"].timeouts[0]
    assert rest_s is not None
    assert FULL_RETRY_S / 2 < rest_s <= FULL_RETRY_S
    assert bench.replica.last_error == "StorageFailed: no room"
