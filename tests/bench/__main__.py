"""python -m tests.bench: measure, print the tables, keep the raw figures, write docs/BENCHMARKS.md when asked to."""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path

from tests.bench import machine, report, sizes
from tests.bench.limits import limit_texts
from tests.bench.runner import PRODUCTS, SECTIONS, Run
from tests.faults.processes import ROOT

RESULTS = ROOT / "tests" / "bench" / "results"


def main(words: list[str] | None = None) -> int:
    """Exit code 0 when everything asked for was measured or its absence explained; 2 for a wrong command line."""
    parser = _parser()
    arguments = parser.parse_args(words)
    wanted = sizes.from_arguments(arguments)
    is_whole = wanted.is_full and set(arguments.sections) == set(SECTIONS) and set(arguments.products) == set(PRODUCTS)
    if arguments.write and not (is_whole or arguments.force):
        parser.error("--write is for the whole run at full size: leave the other options out, or add --force")
    facts = machine.describe()
    run = Run(wanted, arguments.sections, arguments.products, arguments.folder)
    run.measure()
    facts["load after"] = machine.load()
    limits = {product: text for product, text in limit_texts(wanted).items() if product in arguments.products}
    parts = {
        "machine": facts, "sizes": wanted.as_dict(), "limits": limits, "skipped": run.skipped, "figures": run.figures
    }  # fmt: skip
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    raw = arguments.raw or RESULTS / f"{stamp}.json"
    report.write_raw(raw, **parts)
    text = report.as_markdown(**parts)
    print(text)
    print(f"raw figures: {raw}", file=sys.stderr)
    if arguments.write:
        report.write_between_markers(arguments.write, text)
        report.write_plots(arguments.write.parent / "plots", run.figures)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure mynosql beside its rivals.")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="default: all")
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS), help="default: all")
    parser.add_argument("--folder", type=Path, help="where the databases lie meanwhile; default: the temporary folder")
    parser.add_argument("--raw", type=Path, help="file for the raw figures; default: tests/bench/results/<time>.json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the markers of this file")
    parser.add_argument("--force", action="store_true", help="--write a run that is not the whole one")
    sizes.add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
