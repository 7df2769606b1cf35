"""Every fault x {1, 3} mirrors x {idle, writing}: real processes in network namespaces converge soon after healing.

52 cells. Those of one mesh follow each other on the same nodes; six meshes run at the same time, because cells wait
much and compute little. What each test waits for is its own cell. The table of the run stands at the end of its output.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.matrix import FAULTS, Cell, Story, table_of
from tests.faults.meshes import Mesh
from tests.faults.namespaces import find_skip_reason
from tests.tables import add_table

CELLS = [
    Cell(fault, mirror_count, is_writing)
    for mirror_count in (1, 3) for is_writing in (False, True) for fault in FAULTS
]
MESHES_AT_ONCE = 6
"""With a dozen two cores were busy, and how long a cell took to converge said more of them than of the network."""
MESHES_PER_KIND = 2
"""Meshes that share the faults of one number of mirrors and one load."""
CELL_DEADLINE_S = 280.0

pytestmark = [pytest.mark.slow, pytest.mark.long]


def line_up(cells: list[Cell]) -> list[list[Cell]]:
    """Which cells follow each other on one mesh, the longest rows first."""
    rows: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        half = FAULTS.index(cell.fault) % MESHES_PER_KIND
        rows.setdefault((cell.mirror_count, cell.is_writing, cell.fault.has_proxies, half), []).append(cell)
    return sorted(rows.values(), key=len, reverse=True)


class Matrix:
    """The cells that were asked for, running in threads; one that fails costs its mesh, the next one gets another."""

    def __init__(self, folder: Path, cells: list[Cell]) -> None:
        self._folder = folder
        self._is_over = threading.Event()
        self.done: list[Cell] = []
        self._outcomes: dict[str, Future[None]] = {cell.name: Future() for cell in cells}
        self._pool = ThreadPoolExecutor(MESHES_AT_ONCE, thread_name_prefix="mesh")
        for row in line_up(cells):
            self._pool.submit(self._run, row)

    def outcome(self, cell: Cell) -> None:
        """Returns when the cell was as it should be; raises what was not."""
        self._outcomes[cell.name].result(CELL_DEADLINE_S)

    def close(self) -> None:
        self._is_over.set()
        self._pool.shutdown()

    def _run(self, row: list[Cell]) -> None:
        left = list(row)
        while left and not self._is_over.is_set():
            try:
                first = left[0]
                folder = self._folder / first.prefix
                with Mesh(folder, mirrors=first.mirror_count, has_proxies=first.fault.has_proxies) as mesh:
                    story = Story(mesh)
                    story.load()
                    while left and not self._is_over.is_set():
                        story.play(left[0])
                        self.done.append(left[0])
                        self._outcomes[left.pop(0).name].set_result(None)
            except BaseException as error:
                if left:
                    self._outcomes[left.pop(0).name].set_exception(error)


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    reason = find_skip_reason()
    if reason is not None:
        pytest.skip(reason)
    wanted = {item.name for item in request.session.items if item.path == request.path}
    cells = [cell for cell in CELLS if any(name.endswith(f"[{cell.name}]") for name in wanted)]
    running = Matrix(tmp_path_factory.mktemp("matrix"), cells)
    try:
        yield running
    finally:
        running.close()
        add_table(request.config, "the matrix of faults", table_of([cell for cell in CELLS if cell in running.done]))


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_after_healing_all_is_there_soon_and_only_what_changed_was_sent(matrix: Matrix, cell: Cell) -> None:
    matrix.outcome(cell)
