"""Runs the measures: every one in a fresh process and folder, rounds interleaved, the order of products turning.

A product that fails ends the run: a table with a hole in it would look like a choice.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tests.bench import frames, nodes, sync_target, target
from tests.bench.limits import limited
from tests.bench.sizes import Sizes
from tests.bench.sync_target import SYNC_TARGETS
from tests.bench.target import OURS
from tests.faults.processes import PythonChild

SECTIONS = ("local", "open", "sync", "push", "live", "idle", "frames")
PRODUCTS = tuple(dict.fromkeys((*target.TARGETS, *SYNC_TARGETS)))
JOB_DEADLINE_S = 600.0


class Run:
    """One run: what was measured so far, and why anything was left out."""

    def __init__(self, sizes: Sizes, sections: Collection[str], products: Collection[str], folder: Path | None) -> None:
        """folder: where the databases lie while they are measured; None: the system's temporary folder."""
        self.figures: dict[str, dict[str, list[float]]] = {}
        self.skipped: dict[str, str] = {}
        self._sizes = sizes
        self._sections = sections
        self._folder = folder
        self._targets = [name for name in target.TARGETS if name in products and self._can_run(name)]
        self._nodes = [name for name in SYNC_TARGETS if name in products and self._can_run(name)]

    def measure(self) -> None:
        """Fill `figures`, a few minutes at full size; says on stderr what it is doing."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self._folder) as name:
            self._work = Path(name)
            if "open" in self._sections:
                for product in self._targets:
                    job = {"readings": self._sizes_of(product).records_open, "folder": str(self._filled(product))}
                    self._local(product, "build", job)
            for number in range(self._sizes.rounds):
                for product, step in self._steps(number):
                    if number >= self._sizes_of(product).rounds:
                        continue
                    self._say(f"round {number + 1} of {self._sizes.rounds}: {product} {step.__name__.strip('_')}")
                    folder = self._work / "round"
                    folder.mkdir()
                    step(product, folder)
                    shutil.rmtree(folder)

    def _steps(self, number: int) -> Iterator[tuple[str, Callable[[str, Path], None]]]:
        """What one round does; each round another product comes first."""
        local_steps = {"local": (self._saves, self._batches, self._games), "open": (self._open,)}
        for section, steps in local_steps.items():
            for step in steps if section in self._sections else ():
                yield from ((product, step) for product in _turned(self._targets, number))
        node_steps = {"sync": (self._sync, self._wire), "push": (self._push,), "live": (self._live,)}
        for section, steps in node_steps.items():
            for step in steps if section in self._sections else ():
                if number == 0 or step != self._wire:  # bytes do not vary as times do
                    yield from ((product, step) for product in _turned(self._nodes, number))
        if "idle" in self._sections and OURS in self._nodes:
            yield OURS, self._idle
        if "frames" in self._sections and OURS in self._nodes and number == 0:  # its blocks are rounds of their own
            yield OURS, self._frames

    def _saves(self, product: str, folder: Path) -> None:
        self._local(product, "save", {"folder": str(folder)})
        self._local(product, "read", {"folder": str(folder)})

    def _batches(self, product: str, folder: Path) -> None:
        self._local(product, "save_batch", {"folder": str(folder)})

    def _games(self, product: str, folder: Path) -> None:
        self._local(product, "games", {"folder": str(folder)})

    def _open(self, product: str, folder: Path) -> None:
        self._local(product, "open_filled", {"folder": str(self._filled(product))})

    def _sync(self, product: str, folder: Path) -> None:
        self._add(product, sync_target.make_sync_target(product).first_sync(folder, self._sizes_of(product).readings))

    def _wire(self, product: str, folder: Path) -> None:
        self._add(product, sync_target.make_sync_target(product).wire(folder, self._sizes_of(product).readings))

    def _push(self, product: str, folder: Path) -> None:
        self._add(product, sync_target.make_sync_target(product).push(folder, self._sizes_of(product).readings))

    def _live(self, product: str, folder: Path) -> None:
        self._add(product, sync_target.make_sync_target(product).live(folder, self._sizes_of(product).live_saves))

    def _idle(self, product: str, folder: Path) -> None:
        self._add(product, nodes.measure_idle(folder, self._sizes.idle_s))

    def _frames(self, product: str, folder: Path) -> None:
        self._add(product, frames.measure_frames(folder, self._sizes.readings, self._sizes.frame_blocks))

    def _local(self, product: str, job_name: str, job: dict[str, Any]) -> None:
        """One function of local.py in a process of its own."""
        script = f"from tests.bench import local\nemit({{'result': local.{job_name}(receive())}})"
        with PythonChild(script) as child:
            child.send({**self._sizes_of(product).as_dict(), "target": product, **job})
            self._add(product, child.read_until("result", JOB_DEADLINE_S)["result"])

    def _add(self, product: str, result: dict[str, float]) -> None:
        for key, value in result.items():
            self.figures.setdefault(key, {}).setdefault(product, []).append(value)

    def _filled(self, product: str) -> Path:
        return self._work / f"filled-{product}"

    def _sizes_of(self, product: str) -> Sizes:
        return limited(self._sizes, product)

    def _can_run(self, name: str) -> bool:
        find_reason = target.find_skip_reason if name in target.TARGETS else sync_target.find_skip_reason
        reason = find_reason(name)
        if reason is not None:
            self.skipped[name] = reason
            self._say(f"{name} is left out: {reason}")
        return reason is None

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _turned(products: list[str], number: int) -> list[str]:
    """The same products, another one first in each round."""
    first = number % max(1, len(products))
    return products[first:] + products[:first]
