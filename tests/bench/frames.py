"""A game loop beside a first sync: how late its frames begin and end, in a process with a database and in ones without.

The same loop of 60 frames a second runs in three processes by turns, block by block: *alone*, without a database on an
otherwise idle machine; *beside* a first sync between two other processes, which shows what the processors lack; and
*inside* the process that takes in the records, where interpreter and processors are shared. The frames of all blocks
count together: one sync lasts some ninety frames, too few for a thousandth.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import nodes
from tests.bench.nodes import DEADLINE_S, LISTEN
from tests.bench.sync_target import Result
from tests.faults.processes import PythonChild, emit, receive

FRAME_S = 1 / 60
FRAME_WORK_STEPS = 30_000
"""Pure Python that a frame computes, some 2 ms of it: an interpreter is asked for, not only a processor."""
BESIDE_JOB = "joining_node"

Frames = dict[str, list[float]]


def measure_frames(folder: Path, count: int, blocks: int) -> Result:
    """The frames of that many first syncs of `count` readings, and of as many blocks of the two controls."""
    frames: dict[str, Frames] = {kind: {"began_ms": [], "ended_ms": []} for kind in ("alone", "beside", "inside")}
    with (
        nodes.start("source_node") as source,
        _start("loop_process") as loop,
        _start("loop_and_sync_process") as playing,
    ):
        source.send({"folder": str(folder / "source"), "readings": count})
        endpoint = source.read_until("endpoint", DEADLINE_S)["endpoint"]
        for number in range(blocks):
            inside = folder / f"inside-{number}"
            playing.send({"folder": str(inside), "readings": count, "peer": endpoint})
            block = playing.read_until("began_ms", DEADLINE_S)
            _add(frames["inside"], block)
            shutil.rmtree(inside)
            loop.send(len(block["began_ms"]))
            _add(frames["alone"], loop.read_until("began_ms", DEADLINE_S))
            beside = folder / f"beside-{number}"
            with nodes.start(BESIDE_JOB) as joining:
                joining.send({"folder": str(beside), "readings": count, "peer": endpoint})
                joining.read_until("started_ns", DEADLINE_S)
                loop.send(0)
                joining.read_until("full_ns", DEADLINE_S)
                loop.send("over")
                _add(frames["beside"], loop.read_until("began_ms", DEADLINE_S))
            shutil.rmtree(beside)
    return figures_of(frames)


def figures_of(frames: dict[str, Frames]) -> Result:
    """The thousandth frame from above and the worst, in ms; "above": inside less alone."""
    result: Result = {"frames_inside": float(len(frames["inside"]["began_ms"]))}
    for kind, lists in frames.items():
        result[f"frame_{kind}_p50_ms"] = quantile(lists["began_ms"], 0.5)
        result[f"frame_{kind}_p999_ms"] = quantile(lists["began_ms"], 0.999)
        result[f"frame_{kind}_end_p999_ms"] = quantile(lists["ended_ms"], 0.999)
        result[f"frame_{kind}_longest_ms"] = max(lists["began_ms"])
    result["frame_above_p999_ms"] = result["frame_inside_p999_ms"] - result["frame_alone_p999_ms"]
    return result


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed: never an average that nobody measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


# In the children


def loop_process() -> None:
    """The loop and nothing else. Job: how many frames; 0: until the next line comes."""
    while True:
        count = receive()
        if count:
            emit(run_loop(partial(_has_done, count)))
            continue
        over = threading.Event()
        waiter = threading.Thread(target=_set_at_next_line, args=(over,))
        waiter.start()
        emit(run_loop(partial(_is_set, over)))
        waiter.join()


def _has_done(count: int, done: int) -> bool:
    return done >= count


def _is_set(event: threading.Event, done: int) -> bool:
    return event.is_set()


def _set_at_next_line(event: threading.Event) -> None:
    receive()
    event.set()


def loop_and_sync_process() -> None:
    """The loop in the main thread of a process whose empty mirror takes in the readings of another."""
    while True:
        emit(_play(receive()))


def _play(job: dict[str, Any]) -> Frames:
    import mynosql

    readings: int = job["readings"]
    options: dict[str, Any] = {"mode": "mirror", "listen": LISTEN, "peers": [job["peer"]]}
    with mynosql.opendb("Bench", location=job["folder"], **options) as db:
        ends_at = time.monotonic() + DEADLINE_S
        frames = run_loop(lambda done: len(db) >= readings or time.monotonic() > ends_at)
        assert len(db) == readings, f"{len(db)} of {readings} readings came within the deadline"
    return frames


def run_loop(is_over: Callable[[int], bool]) -> Frames:
    """Frames until is_over(how many there were), each due a sixtieth of a second after the one before."""
    began_ms: list[float] = []
    ended_ms: list[float] = []
    clock, sleep = time.perf_counter, time.sleep
    due = clock() + FRAME_S
    while not began_ms or not is_over(len(began_ms)):
        pause_s = due - clock()
        if pause_s > 0:
            sleep(pause_s)
        began_ms.append((clock() - due) * 1e3)
        _compute()
        now = clock()
        ended_ms.append((now - due) * 1e3)
        due += FRAME_S
        if now > due + FRAME_S:  # a game drops frames; it does not hurry after them
            due = now
    return {"began_ms": began_ms, "ended_ms": ended_ms}


def _compute() -> int:
    state = 1
    for step in range(FRAME_WORK_STEPS):
        state = (state * 5 + step) & 0xFFFF
    return state


def _add(frames: Frames, block: dict[str, Any]) -> None:
    for key, values in frames.items():
        values.extend(block[key])


def _start(function: str) -> PythonChild:
    return PythonChild(f"from tests.bench import frames\nframes.{function}()")
