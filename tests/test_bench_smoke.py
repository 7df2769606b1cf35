"""The benchmarks run: every measure of ours and of the baseline comes out, small. Their figures mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as command
from tests.bench import sync_target
from tests.bench.measures import LOCAL, NODES
from tests.bench.sync_target import SYNC_TARGETS
from tests.bench.target import BASELINE, OURS

SMALL = [
    *("--products", OURS, BASELINE, "--rounds", "1", "--readings", "200", "--games", "50", "--records-open", "300"),
    *("--live-saves", "20", "--idle-s", "0.2", "--frame-blocks", "1", "--resources", "2", "--million", "500"),
    *("--steady-s", "0.2", "--logged", "3"),
]
OURS_ALONE = ("steady_", "control_", "each_", "written_")


@pytest.mark.slow
def test_a_small_run_measures_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw.json"

    assert command.main([*SMALL, "--raw", str(raw), "--folder", str(tmp_path)]) == 0

    figures = json.loads(raw.read_text(encoding="utf-8"))["figures"]
    for measure in LOCAL:
        for product in (OURS,) if measure.key.startswith(OURS_ALONE) else (OURS, BASELINE):
            assert len(figures[measure.key][product]) == 1, f"{measure.key} of {product}"
    for measure in NODES:
        assert len(figures[measure.key][OURS]) == 1, measure.key
    assert "| save, one by one, µs a reading |" in capsys.readouterr().out
    assert [path for path in tmp_path.iterdir() if path != raw] == [], "the databases are gone afterwards"


SLOW_TO_SYNC = "mynosql-0.0.6"  # it looks for news once a minute


@pytest.mark.slow
@pytest.mark.parametrize("product", [name for name in SYNC_TARGETS if name not in (OURS, SLOW_TO_SYNC)])
def test_a_rival_between_nodes_is_measured_where_it_is_installed(product: str, tmp_path: Path) -> None:
    if (reason := sync_target.find_skip_reason(product)) is not None:
        pytest.skip(reason)
    raw = tmp_path / "raw.json"

    assert command.main([*SMALL, "--products", product, "--raw", str(raw), "--folder", str(tmp_path)]) == 0

    figures = json.loads(raw.read_text(encoding="utf-8"))["figures"]
    for key in ("sync_records_per_s", "sync_tcp_bytes", "push_records_per_s", "live_p50_ms"):
        assert figures[key][product][0] > 0, key


def test_a_rival_that_is_not_installed_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    few = ["--rounds", "1", "--readings", "50", "--games", "5", "--sections", "live"]

    assert command.main([*few, "--products", "redis", "--raw", str(tmp_path / "raw.json")]) == 0

    reason = "redis-server is not installed: run tests/bench/install_rivals.sh"
    assert f"redis was left out: {reason}." in capsys.readouterr().out
