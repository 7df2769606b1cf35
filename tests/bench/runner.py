"""Runs the measures: every one in a fresh process and folder, rounds interleaved, the order of products turning.

A product that fails ends the run: a table with a hole in it would look like a choice. But the predecessor fails now and
then, and the report says so.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.bench import endurance, frames, local, mesh, mixes, nodes, sync_target, target
from tests.bench.limits import limited
from tests.bench.sizes import Sizes
from tests.bench.sync_target import SYNC_TARGETS
from tests.bench.target import OURS
from tests.faults.processes import ChildEnded, PythonChild

SECTIONS = ("local", "mixes", "million", "open", "steady", "sync", "push", "live", "idle", "frames", "mesh")
PRODUCTS = tuple(dict.fromkeys((*target.TARGETS, *SYNC_TARGETS)))
JOB_DEADLINE_S = 300.0
ALL = 1_000
MILLION_ROUNDS_MAX = 1
STEADY_ROUNDS_MAX = 1
MESH_ROUNDS_MAX = 3

Step = Callable[[str, Path], None]


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
            for product in self._opened:
                if "open" in self._sections or (product == OURS and "mesh" in self._sections):
                    job = {"readings": self._sizes_of(product).records_open, "folder": str(self._filled(product))}
                    self._local(product, "build", job)
            for number in range(self._sizes.rounds):
                for product, step in self._steps(number):
                    if number >= self._sizes_of(product).rounds:
                        continue
                    self._say(f"round {number + 1} of {self._sizes.rounds}: {product} {step.__name__.strip('_')}")
                    folder = self._work / "round"
                    folder.mkdir()
                    try:
                        step(product, folder)
                    except (ChildEnded, AssertionError) as error:
                        if product != target.PREDECESSOR:
                            raise
                        self.skipped[f"{product}, {step.__name__.strip('_')}"] = f"it failed: {_last_line(error)}"
                    shutil.rmtree(folder)

    def _steps(self, number: int) -> Iterator[tuple[str, Step]]:
        """What one round does; each round another product comes first."""
        ours_here, ours_between = ([OURS] if OURS in names else [] for names in (self._targets, self._nodes))
        steady = [name for name in self._targets if name != target.PREDECESSOR]  # which stops answering now and then
        steps: tuple[tuple[str, Step, list[str], int], ...] = (
            ("local", self._saves, self._targets, ALL),
            ("local", self._batches, steady, ALL),
            ("local", self._games, steady, ALL),
            ("mixes", self._mixes, steady, ALL),
            ("mixes", self._large, self._with("resources"), ALL),
            ("million", self._million, self._with("million"), MILLION_ROUNDS_MAX),
            ("open", self._open, self._opened, ALL),
            ("steady", self._steady, ours_here, STEADY_ROUNDS_MAX),
            ("sync", self._sync, self._nodes, ALL),
            ("sync", self._wire, self._nodes, 1),  # bytes do not vary as times do
            ("push", self._push, self._nodes, ALL),
            ("live", self._live, self._nodes, ALL),
            ("idle", self._idle, ours_between, ALL),
            ("frames", self._frames, ours_between, 1),  # its blocks are rounds of their own
            ("mesh", self._mesh, [name for name in ours_between if name in self._opened], MESH_ROUNDS_MAX),
        )
        for section, step, products, rounds_max in steps:
            if section in self._sections and number < rounds_max:
                yield from ((product, step) for product in _turned(products, number))

    def _saves(self, product: str, folder: Path) -> None:
        self._local(product, "save", {"folder": str(folder)})
        self._local(product, "read", {"folder": str(folder)})

    def _batches(self, product: str, folder: Path) -> None:
        self._local(product, "save_batch", {"folder": str(folder)})

    def _games(self, product: str, folder: Path) -> None:
        self._local(product, "games", {"folder": str(folder)})

    def _mixes(self, product: str, folder: Path) -> None:
        self._local(product, "mixes", {"folder": str(folder)}, mixes)

    def _large(self, product: str, folder: Path) -> None:
        self._local(product, "large", {"folder": str(folder)}, mixes)

    def _million(self, product: str, folder: Path) -> None:
        self._local(product, "million", {"folder": str(folder)}, mixes)

    def _steady(self, product: str, folder: Path) -> None:
        for name in ("control", "steady", "threads", "written"):
            self._local(product, name, {"folder": str(folder / name)}, endurance)

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

    def _mesh(self, product: str, folder: Path) -> None:
        sizes = self._sizes_of(product)
        self._add(product, mesh.measure_mesh(folder, self._filled(product), sizes.readings, sizes.live_saves))

    def _local(self, product: str, job_name: str, job: dict[str, Any], module: ModuleType = local) -> None:
        """One function of local.py, or of another such module, in a process of its own."""
        name = module.__name__.rpartition(".")[2]
        script = f"from tests.bench import {name}\nemit({{'result': {name}.{job_name}(receive())}})"
        with PythonChild(script, python=target.python_of(product)) as child:
            child.send({**self._sizes_of(product).as_dict(), "target": product, **job})
            self._add(product, child.read_until("result", JOB_DEADLINE_S)["result"])

    def _add(self, product: str, result: dict[str, float]) -> None:
        for key, value in result.items():
            self.figures.setdefault(key, {}).setdefault(product, []).append(value)

    @property
    def _opened(self) -> list[str]:
        return self._with("records_open")

    def _with(self, size: str) -> list[str]:
        """The products on one machine that measure any of this size."""
        return [product for product in self._targets if getattr(self._sizes_of(product), size)]

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


def _last_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1].strip() or type(error).__name__


def _turned(products: list[str], number: int) -> list[str]:
    """The same products, another one first in each round."""
    first = number % max(1, len(products))
    return products[first:] + products[:first]
