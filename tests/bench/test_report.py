"""The report: medians, goals and verdicts, nothing invented for what was not measured, and only the block rewritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import __main__ as command
from tests.bench.limits import Limit, limited
from tests.bench.measures import LOCAL, NODES, AtLeast, AtMost, Both, NoMoreThan, TimesFaster, TimesRival
from tests.bench.report import BEGIN, END, as_markdown, write_between_markers
from tests.bench.sizes import Sizes
from tests.faults.processes import ROOT


def report(
    figures: dict[str, dict[str, list[float]]],
    skipped: dict[str, str] | None = None,
    limits: dict[str, str] | None = None,
) -> str:
    facts: dict[str, Any] = {"machine": {"processor": "P, 2 cores"}, "sizes": Sizes().as_dict()}
    return as_markdown(figures=figures, limits=limits or {}, skipped=skipped or {}, **facts)


def test_a_row_has_the_medians_the_goal_and_what_was_reached() -> None:
    text = report({"save_us": {"mynosql": [8.0, 10.0, 90.0], "sqlite3": [29.0, 30.0, 31.0]}})

    assert "|  | mynosql | sqlite3 | goal |  |" in text
    goal = "≥ 3 × sqlite3, ≥ 6 × diskcache"
    assert f"| save, one by one, µs a reading | 10.00 | 30.00 | {goal} | 3.00 × reached |" in text
    assert "processor P, 2 cores" in text


def test_a_goal_that_is_missed_says_so_in_bold() -> None:
    text = report({"save_us": {"mynosql": [10.0], "sqlite3": [20.0]}, "open_mb": {"mynosql": [30.1]}})

    assert "| 2.00 × **missed** |" in text
    assert "| 30.1 |  | ≤ 30 | **missed** |" in text


@pytest.mark.parametrize(
    ("goal", "reached", "missed"),
    [
        (TimesFaster(2.5), {"mynosql": 10, "sqlite3": 25}, {"mynosql": 10, "sqlite3": 24.9}),
        (AtMost(90), {"mynosql": 90}, {"mynosql": 90.01}),
        (AtLeast(60_000), {"mynosql": 60_000}, {"mynosql": 59_999}),
        (TimesRival(0.6, "nats"), {"mynosql": 60, "nats": 100}, {"mynosql": 59, "nats": 100}),
        (NoMoreThan(0.8, "nats"), {"mynosql": 0.8, "nats": 0.8}, {"mynosql": 0.79, "nats": 0.78}),
        (Both(AtLeast(2), AtMost(3)), {"mynosql": 3}, {"mynosql": 3.1}),
    ],
)
def test_a_goal_is_reached_at_its_bound_and_missed_one_past_it(goal: Any, reached: Any, missed: Any) -> None:
    assert goal.verdict(reached).endswith("reached")
    assert goal.verdict(missed).endswith("**missed**")
    assert goal.verdict({"redis": 1.0}) == ""


def test_what_was_not_measured_has_no_row_and_what_was_left_out_has_its_reason() -> None:
    text = report({"live_p50_ms": {"mynosql": [0.7]}}, {"redis": "redis-server is not installed"})

    assert "save, one by one" not in text
    assert "Not measured in this run." in text
    assert "redis was left out: redis-server is not installed." in text
    assert "|  | mynosql | goal |  |" in text


def test_who_measured_less_has_a_star_and_its_reason() -> None:
    text = report({"live_p50_ms": {"mynosql": [0.7], "nats": [0.6]}}, limits={"nats": "1 rounds: slow"})

    assert "|  | mynosql | nats \\* | goal |  |" in text
    assert "- \\* nats: 1 rounds: slow." in text


def test_a_limit_bites_only_where_the_run_asks_for_more() -> None:
    limit = Limit(rounds=2, readings=1_000, why="slow")

    assert limit.apply(Sizes(rounds=5, readings=500)) == Sizes(rounds=2, readings=500)
    assert limit.text(Sizes(rounds=5, readings=500)) == "2 rounds: slow"
    assert limit.text(Sizes(rounds=1, readings=500)) == ""
    assert limited(Sizes(), "mynosql") == Sizes()


def test_the_spread_names_the_least_steady_measure() -> None:
    text = report({"save_us": {"mynosql": [10.0, 10.0, 11.0]}, "read_hot_us": {"mynosql": [1.0, 2.0, 3.0]}})

    assert "`read_hot_us` 100%, `save_us` 10%" in text


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "BENCHMARKS.md"
    file.write_text(f"# Mine\n\n{BEGIN}\nold µs\n{END}\n\nAlso mine.\n", encoding="utf-8")

    write_between_markers(file, "new µs\n")
    write_between_markers(file, "newer µs\n")

    assert file.read_text(encoding="utf-8") == f"# Mine\n\n{BEGIN}\n\nnewer µs\n\n{END}\n\nAlso mine.\n"


def test_a_file_without_markers_is_refused_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "other.md"
    file.write_text("text", encoding="utf-8")

    with pytest.raises(ValueError, match="has no lines"):
        write_between_markers(file, "new")
    assert file.read_text(encoding="utf-8") == "text"


def test_every_measure_has_a_key_of_its_own_and_a_text_that_the_sizes_fill() -> None:
    measures = [*LOCAL, *NODES]

    assert len({measure.key for measure in measures}) == len(measures)
    for measure in measures:
        assert measure.text.format(**Sizes().as_dict())


@pytest.mark.parametrize("extra", [["--rounds", "1"], ["--sections", "local"], ["--products", "mynosql"]])
def test_a_run_that_is_not_the_whole_one_never_rewrites_the_figures(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--write", str(tmp_path / "BENCHMARKS.md"), *extra])

    assert exit_info.value.code == 2
    assert "whole run at full size" in capsys.readouterr().err


def test_the_figures_of_the_project_stand_between_the_markers() -> None:
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")

    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)
