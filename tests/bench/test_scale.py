"""The scale measure in small: its figures are there, and its page gets a table and a picture."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tests.bench import report, scale
from tests.bench.report import BEGIN, END
from tests.bench.svg import line_chart
from tests.faults.processes import ROOT

ROW = {
    "peers": 1.0, "p50_ms": 2.0, "p99_ms": 4.0, "bytes_a_peer": 100.0, "mirror_cpu_ms": 1.0, "peer_cpu_ms": 0.5,
    "idle_mirror_percent": 0.1, "mirror_mib": 30.0, "peer_mib": 3.0,
}


def test_two_peers_are_measured_and_all_know_what_was_saved_after_a_restart(tmp_path: Path) -> None:
    (row,) = scale.measure((2,), tmp_path, changes=1, idle_s=0.1, settle_s=0.0)

    assert row.keys() == {*ROW, "restart_s"}
    assert row["peers"] == 2
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["bytes_a_peer"] > 40
    assert 0 < row["restart_s"] < scale.DEADLINE_S


def test_the_table_has_a_row_for_each_number_of_peers() -> None:
    rows = [ROW, {**ROW, "peers": 300.0, "p50_ms": 12.0, "restart_s": 2.0}]
    text = "\n".join(scale.as_markdown(rows))

    assert text.count("\n| ") == 2
    assert "| 300 | 12.0 / 4.0 | 100 |" in text
    assert "With 300 peers" in text
    assert "2.0 s" in text


def test_a_chart_is_well_formed_and_a_larger_value_stands_higher() -> None:
    root = ElementTree.fromstring(line_chart("a < b", "x", "y", {"one": [(1, 5.0), (100, 10.0)], "two": [(1, 0.0)]}))
    lines = [element.attrib["points"] for element in root.iter() if element.tag.endswith("polyline")]

    assert len(lines) == 2
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in lines[0].split())
    assert x1 < x2
    assert y1 > y2


def test_a_bar_is_longer_for_more(tmp_path: Path) -> None:
    report.write_plots(tmp_path, {"save_us": {"sqlite3": [25.0], "mynosql": [9.0, 10.0, 99.0]}, "read_hot_us": {}})

    assert [path.name for path in tmp_path.iterdir()] == ["bench-save_us.svg"]
    root = ElementTree.parse(tmp_path / "bench-save_us.svg").getroot()
    _, ours, theirs = (float(element.attrib["width"]) for element in root.iter() if element.tag.endswith("rect"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert 0 < ours < theirs
    assert texts[1:] == ["mynosql", "10.00", "sqlite3", "25.00"]


def test_the_pages_have_their_pictures() -> None:
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
    for key in report.PLOTTED:
        assert f"plots/bench-{key}.svg" in text
        assert (ROOT / "docs" / "plots" / f"bench-{key}.svg").exists()


def test_the_page_has_its_markers() -> None:
    text = (ROOT / "docs" / "SCALE.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
    assert str(scale.PLOT.relative_to("docs")) in text
