"""Readings of this machine: real figures, flat, storable, and none that the machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from mynosql.cli import machine
from mynosql.cli.machine import Machine


def test_a_reading_is_flat_and_has_figures_of_this_machine(tmp_path: Path) -> None:
    reading = Machine(str(tmp_path)).read()
    assert reading["disk_free_bytes"] > 0
    assert all(type(value) in (int, float) for value in reading.values())


def test_processor_time_comes_with_the_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(["cpu 100 0 0 900 0 0 0 0\nctxt 5\n", "cpu 130 0 0 970 0 0 0 0\nctxt 9\n"])
    monkeypatch.setattr(machine, "_text", lambda path: next(texts) if path == "/proc/stat" else "")
    reader = Machine(str(tmp_path))
    assert "processor_percent" not in reader.read()
    second = reader.read()
    assert (second["processor_percent"], second["context_switches"]) == (30.0, 9)


def test_what_the_machine_does_not_have_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(machine, "_text", missing)
    monkeypatch.delattr(machine.os, "getloadavg", raising=False)
    assert set(Machine(str(tmp_path)).read()) == {"disk_free_bytes"}
