"""A thousand meshes under fire: after it heals all are equal, and nothing that was acknowledged is lost.

A failing test prints the command that repeats its seed, and a shorter plan that fails in the same way.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.__main__ import command_of, failure_of, main, report
from tests.sim.plan import SIZES, WEIGHTS, Plan, make_plan
from tests.sim.planted import BUGS
from tests.sim.run import Run, Violation
from tests.sim.shrink import shrink

pytestmark = pytest.mark.long
SEEDS = 1_000
SEEDS_A_TEST = 50
LARGER = {1: 20, 2: 4, 3: 1}
"""How many of each larger size; `tox -e sim` runs five thousand in all."""
ROOT = Path(__file__).resolve().parents[2]


def check(plan: Plan) -> None:
    try:
        Run(plan).execute()
    except Violation as violation:
        pytest.fail(report(plan, str(violation), is_shrunk=True), pytrace=False)


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_small_meshes_lose_nothing_and_converge(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        check(make_plan(seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "seed"), [(size, seed) for size, count in LARGER.items() for seed in range(100, 100 + count)]
)
def test_larger_meshes_lose_nothing_and_converge(size: int, seed: int) -> None:
    check(make_plan(seed, size))


@pytest.mark.parametrize(
    ("seed", "size", "story"),
    [
        (109, 0, "the note `delivered` that a full disk refused"),
        (18, 1, "closing on a full disk"),
        (1, 2, "a row whose body came later, superseded in the segment of its body"),
        (265, 1, "owed, and nothing to send"),
        (5, 2, "a mode changed on a full disk; a renewal on a full disk"),
        (576, 0, "a snapshot of a machine"),
        (4725, 2, "a folder rolled back that meets a mirror which knows nothing of it"),
        (650, 2, "a renewal that a power cut ended between node id and index id"),
    ],
)
def test_seeds_that_once_failed(seed: int, size: int, story: str) -> None:
    """Plans change with this simulator: the product's own tests keep each story, this keeps its neighbourhood."""
    check(make_plan(seed, size))


# The simulator itself


def trace_of(seed: int, size: int = 0) -> str:
    run = Run(make_plan(seed, size))
    with contextlib.suppress(Violation):  # other tests tell of that
        run.execute()
    return "\n".join([*run.log, str(run.time.count), str(run.network.messages), run.differences()])


def test_a_seed_does_the_same_in_every_process() -> None:
    """Also where sets and dicts of strings are ordered otherwise."""
    code = "from tests.sim.test_simulator import trace_of; print(trace_of(3), trace_of(7, 1))"
    traces = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(traces) == 1


def test_different_seeds_do_different_things() -> None:
    assert len({make_plan(seed).steps for seed in range(50)}) == 50
    assert trace_of(1) != trace_of(2)


def test_every_kind_of_step_happens_and_does_something() -> None:
    did = set()
    for seed in range(200):
        run = Run(make_plan(seed), is_quiet_checked=False)
        run.execute()
        did |= {line.split()[2] for line in run.log}
        if did >= WEIGHTS.keys():
            return
    raise AssertionError(f"never: {sorted(WEIGHTS.keys() - did)}")


def test_meshes_and_histories_grow_with_the_size() -> None:
    for size in range(1, len(SIZES)):
        assert len(make_plan(1, size).steps) > len(make_plan(1, size - 1).steps)
        assert max(make_plan(seed, size).setup.peers for seed in range(30)) > SIZES[size - 1][1]


def test_a_failing_plan_shrinks_to_what_matters() -> None:
    """Here: a plan fails when it has a kill after a backup."""
    def failure(plan: Plan) -> str | None:
        kinds = [step.kind for step in plan.steps]
        return "AssertionError: lost" if "backup" in kinds and "kill" in kinds[kinds.index("backup"):] else None

    plan = next(plan for plan in map(make_plan, range(100)) if failure(plan))
    short = shrink(plan, failure)
    assert [step.kind for step in short.steps] == ["backup", "kill"]
    assert shrink(replace(plan, steps=()), failure).steps == ()


def test_shrinking_is_bounded_and_keeps_the_kind_of_failure() -> None:
    runs = []

    def failure(plan: Plan) -> str:
        runs.append(plan)
        return f"AssertionError: lost {len(plan.steps)}" if len(plan.steps) > 10 else "AssertionError: other words"

    plan = make_plan(0)
    assert len(shrink(plan, failure, runs_max=5).steps) < len(plan.steps)
    assert len(runs) <= 6
    assert len(shrink(plan, failure).steps) == 11


def test_a_failure_names_the_command_that_repeats_it_and_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    seed, bug = 0, "no-fsync"
    assert main(["--seed", str(seed), "--size", "0", "--bug", bug, "--no-shrink"]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"seed {seed} fails; repeat it with: {command_of(seed, 0, bug)}\nAssertionError: ")
    assert main(["--seed", str(seed), "--size", "0", "--trace"]) == 0
    said = capsys.readouterr().out
    assert "1 seeds, none broke a promise" in said
    assert len(said.splitlines()) > 20


def test_a_report_has_the_shrunk_plan() -> None:
    plan = make_plan(0)
    with BUGS["no-fsync"].planted():
        failure = failure_of(plan)
        assert failure is not None
        text = report(plan, failure, is_shrunk=True, bug="no-fsync")
    assert "of 40 steps:" in text
