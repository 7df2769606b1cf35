"""The simulator by hand: `python -m tests.sim --seed 17` repeats one run, `--seeds 5000` searches for a failing one.

    --size N        meshes and histories of that size; without it they grow from seed to seed
    --first N       where to begin searching
    --trace         show what happens, step by step
    --no-shrink     show the failing plan as it is
    --bug NAME      with that planted bug (see planted.py)
    --hunt          the table of planted bugs: the first small seed that catches each
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from tests.sim.plan import SIZES, Plan, make_plan
from tests.sim.planted import BUGS
from tests.sim.run import Run, Violation
from tests.sim.shrink import shrink

HUNT_SEEDS_MAX = 500


def failure_of(plan: Plan) -> str | None:
    """What that plan breaks; None: nothing."""
    try:
        Run(plan).execute()
    except Violation as violation:
        return str(violation)
    return None


def grown_size(seed: int) -> int:
    """Mostly small runs, a fifth larger, a few of the largest."""
    return 0 if seed % 5 else 1 if seed % 25 else 2 if seed % 100 else 3


def command_of(seed: int, size: int, bug: str | None = None) -> str:
    """What a person types to see it again."""
    more = f" --bug {bug}" if bug else ""
    return f"tox -e sim -- --seed {seed} --size {size}{more}"


def report(plan: Plan, failure: str, *, is_shrunk: bool, bug: str | None = None) -> str:
    """What a person needs who has to repair it."""
    parts = [f"seed {plan.seed} fails; repeat it with: {command_of(plan.seed, plan.size, bug)}", failure]
    if is_shrunk:
        short = shrink(plan, failure_of)
        parts += [f"shrunk to {len(short.steps)} of {len(plan.steps)} steps:", failure_of(short) or "?"]
    return "\n".join(parts)


def hunt(name: str, seeds_max: int) -> int | None:
    """The first small seed that catches that planted bug; None: none of them does."""
    with BUGS[name].planted():
        for seed in range(seeds_max):
            if failure_of(make_plan(seed)) is not None:
                return seed
    return None


def main(arguments: list[str]) -> int:
    """0: nothing was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="the simulator; see docs/SIMULATOR.md")
    parser.add_argument("--seed", type=int, help="one run, and what it did")
    parser.add_argument("--seeds", type=int, default=5000, help="how many runs to search through")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--size", type=int, choices=range(len(SIZES)), help="of mesh and history")
    parser.add_argument("--trace", action="store_true", help="show each step")
    parser.add_argument("--no-shrink", action="store_true", help="show the failing plan as it is")
    parser.add_argument("--bug", choices=sorted(BUGS), help="plant this bug first")
    parser.add_argument("--hunt", action="store_true", help="the table of planted bugs")
    options = parser.parse_args(arguments)
    if options.hunt:
        for name, bug in BUGS.items():
            print(f"| `{name}` | {bug.what} | {hunt(name, HUNT_SEEDS_MAX)} |", flush=True)
        return 0
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    began = time.process_time()
    with BUGS[options.bug].planted() if options.bug else contextlib.nullcontext():
        for seed in seeds:
            plan = make_plan(seed, grown_size(seed) if options.size is None else options.size)
            run = Run(plan)
            try:
                run.execute()
            except Violation as violation:
                print(report(plan, str(violation), is_shrunk=not options.no_shrink, bug=options.bug))
                return 1
            if options.trace:
                print("\n".join(run.log))
            if seed % 500 == 499:
                print(f"{seed + 1} seeds, {time.process_time() - began:.0f} s of processor time", flush=True)
    print(f"{len(seeds)} seeds, none broke a promise; {time.process_time() - began:.0f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
