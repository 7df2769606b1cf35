"""From figures to the tables of docs/BENCHMARKS.md, written between two markers; the text around them is people's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.measures import LOCAL, NODES, Figures, Measure, medians_of
from tests.bench.svg import bar_chart
from tests.bench.sync_target import SYNC_TARGETS
from tests.bench.target import OURS, TARGETS

PLOTTED = {
    "save_us": "One save, µs",
    "read_hot_us": "One warm read of a hot set, µs",
    "disk_bytes": "On disk, bytes a reading of 250",
    "mix_b_us": "YCSB B, µs an operation",
}
"""Key of a measure → title of its picture."""
BEGIN = "<!-- figures: begin, written by python -m tests.bench -->"
END = "<!-- figures: end -->"


def as_markdown(
    *,
    figures: Figures,
    machine: Mapping[str, str],
    sizes: Mapping[str, Any],
    limits: Mapping[str, str],
    skipped: Mapping[str, str],
) -> str:
    """The whole block: facts of the machine, one table a setting, who measured less or was left out, and why."""
    facts = "; ".join(f"{name} {fact}" for name, fact in machine.items())
    parts = [
        f"Medians of {sizes['rounds']} rounds. {facts}.",
        "### One machine",
        _table(LOCAL, figures, list(TARGETS), sizes, limits),
        "### Two nodes, two processes on loopback",
        _table(NODES, figures, list(SYNC_TARGETS), sizes, limits),
        "\n".join(f"- \\* {product}: {text}." for product, text in limits.items()),
        _spread(figures),
    ]
    parts += [f"{name} was left out: {reason}." for name, reason in skipped.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_between_markers(path: Path, text: str) -> None:
    """Replace what stands between the markers of this file; the rest of it stays as it is."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}: add them where the figures belong")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def write_plots(folder: Path, figures: Figures) -> None:
    """A picture for each measure of PLOTTED that has figures: bench-<key>.svg, a bar for each product."""
    folder.mkdir(exist_ok=True)
    for measure in LOCAL:
        medians = medians_of(figures, measure.key)
        if measure.key in PLOTTED and medians:
            bars = {name: medians[name] for name in TARGETS if name in medians}
            text = bar_chart(PLOTTED[measure.key], bars, digits=measure.digits)
            (folder / f"bench-{measure.key}.svg").write_text(text, encoding="utf-8")


def write_raw(path: Path, **parts: Any) -> None:
    """Every single value, as JSON, for comparing runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(
    measures: Sequence[Measure],
    figures: Figures,
    products: Sequence[str],
    sizes: Mapping[str, Any],
    limits: Mapping[str, str],
) -> str:
    """A row for each measure that has a figure, a column for each product that has one; a star: it measured less."""
    shown = [measure for measure in measures if figures.get(measure.key)]
    columns = [name for name in products if any(name in figures[measure.key] for measure in shown)]
    if not shown:
        return "Not measured in this run."
    heads = [f"{name} \\*" if name in limits else name for name in columns]
    rows = [["", *heads, "goal", ""], ["---", *["---:"] * len(columns), "---", "---"]]
    for measure in shown:
        medians = medians_of(figures, measure.key)
        cells = [f"{medians[name]:,.{measure.digits}f}" if name in medians else "" for name in columns]
        goal = [measure.goal.text(), measure.goal.verdict(medians)] if measure.goal else ["", ""]
        rows.append([measure.text.format(**sizes), *cells, *goal])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _spread(figures: Figures) -> str:
    """How far the rounds of ours lay apart where that was worst: what a difference in the table is worth."""
    spreads = {
        key: (max(values[OURS]) - min(values[OURS])) / medians_of(figures, key)[OURS]
        for key, values in figures.items()
        if len(values.get(OURS, ())) > 1 and medians_of(figures, key)[OURS] > 0
    }
    if not spreads:
        return ""
    texts = {measure.key: measure.key for measure in (*LOCAL, *NODES)}
    worst = sorted((key for key in spreads if key in texts), key=lambda key: -spreads[key])[:3]
    listed = ", ".join(f"`{key}` {spreads[key]:.0%}" for key in worst)
    return f"Largest spread of {OURS} over the rounds, (max − min) / median: {listed}."
