"""In a disturbed process: goes through a scenario of writes, whatever the disk answers, saying what was promised.

A call that fails with a named error is tried once more, the cause being gone by then; if that fails too, the database
is closed and opened again. Marks are those of recorded_child.py, and {"error": class, "text": ...} for each error. Any
other exception ends the process with status 1.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mynosql
from mynosql.store import seal
from tests.faults.recorded_child import Child, Node

IDS = [f"id{number:03}" for number in range(60)]
SMALL: dict[str, Any] = {"memtable_bytes_max": 1 << 16}
TRIES_MAX = 4
_copies = itertools.count()


def _back_up(node: Node) -> None:
    """To a folder of its own at each try: the copy of the one before may be there."""
    node.back_up(f"copy{next(_copies)}")


Step = Callable[[Node], None] | None
"""None: close the database and open it again."""

SCENARIOS: dict[str, tuple[dict[str, Any], int, list[Step]]] = {
    "each": ({"durability": "each"}, 300, [
        lambda node: node.save(*IDS[:4]), lambda node: node.save(IDS[0]),
        lambda node: node.save_batch(*IDS[2:6]), lambda node: node.delete(IDS[1]), None,
        lambda node: node.save(*IDS[4:7]), lambda node: node.delete(IDS[0]), None, lambda node: node.save(IDS[1]),
    ]),
    "batch": ({"fsync_interval_s": 3600.0}, 300, [
        lambda node: node.save(*IDS[:5]), lambda node: node.promise_durable(), lambda node: node.set_mode("Mirror"),
        lambda node: node.save_batch(*IDS[3:9]), lambda node: node.promise_durable(), None,
        lambda node: node.delete(IDS[3]), _back_up, lambda node: node.set_mode("Peer"),
        lambda node: node.promise_durable(),
    ]),
    "seal and roll-over": ({"durability": "each", **SMALL}, 16_000, [
        lambda node: node.save(*IDS[:6]), lambda node: node.save(*IDS[3:9]), lambda node: node.save(IDS[0]), None,
        lambda node: node.save(*IDS[8:13]), lambda node: node.save_batch(*IDS[12:15]),
    ]),
    "compaction": ({"durability": "each", **SMALL}, 2_000, [
        lambda node: node.save(*IDS[:6]), lambda node: node.save(*IDS[3:9]), lambda node: node.compact(),
        lambda node: node.delete(IDS[4]), lambda node: node.save(*IDS[:4]), lambda node: node.compact(), None,
        lambda node: node.save(IDS[5]), lambda node: node.compact(),
    ]),
}
"""Name → options of opendb, bytes of a text, steps. A new way of writing gets a step here."""


def run_scenario(name: str, root: str, marks: str) -> None:
    """The scenario from an empty root folder to a closed database."""
    options, text_bytes, steps = SCENARIOS[name]
    seal.SHARD_BYTES_MAX = 50_000
    child = Child(root, marks)
    child.text_bytes = text_bytes
    _Enduring(child, {**options, "listen": "127.0.0.1:0"}).go(steps)


def leave_tracer() -> None:
    """strace lets go of this process: it counts the calls of each thread, and would fail those of new threads anew."""
    with contextlib.suppress(ProcessLookupError):
        while tracer := _tracer():
            os.kill(tracer, signal.SIGTERM)
            os.sched_yield()


def _tracer() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])


class _Enduring:
    """Goes on after named errors."""

    def __init__(self, child: Child, options: dict[str, Any]) -> None:
        self._child, self._options = child, options
        self._node: Node | None = None

    def go(self, steps: list[Step]) -> None:
        for step in steps:
            self._until_done(self._close if step is None else lambda step=step: step(self._open()))  # type: ignore[misc]
        self._until_done(self._close)

    def _open(self) -> Node:
        if self._node is None:
            self._node = self._child.open("A", **self._options)
        return self._node

    def _close(self) -> None:
        if self._node is None:  # the first try failed, and left the database closed
            self._open()
        node, self._node = self._node, None
        assert node is not None
        node.close()

    def _until_done(self, act: Callable[[], None]) -> None:
        for number in range(TRIES_MAX):
            try:
                act()
                return
            except mynosql.MyNoSQLError as error:
                self._child.mark(error=type(error).__name__, text=str(error))
            if number and self._node is not None:
                with contextlib.suppress(mynosql.MyNoSQLError):
                    self._node.db.closedb()
                self._node = None
            if number:
                leave_tracer()
        raise AssertionError(f"not done after {TRIES_MAX} tries, although the cause is gone")
