"""The options of opendb: checked when made, frozen afterwards."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mynosql.errors import OptionInvalid
from mynosql.options import OpenOptions, check_mode


@pytest.mark.parametrize("name", ["a", "7", "Two words", "x.y-z_1", "n" * 100])
def test_names_that_are_folders_on_every_system_are_taken(name: str) -> None:
    assert OpenOptions(name=name).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", " a", "a ", "a.", "-a", "ä", "a\n", "n" * 101, None, 7])
def test_any_other_name_is_refused(name: Any) -> None:
    with pytest.raises(OptionInvalid, match="database name"):
        OpenOptions(name=name)


@pytest.mark.parametrize(
    "option",
    [
        {"mode": "master"}, {"mode": 7}, {"durability": "never"}, {"fsync_interval_s": -1},
        {"fsync_interval_s": 3601}, {"fsync_interval_s": float("nan")}, {"memtable_bytes_max": (1 << 16) - 1},
        {"cache_bytes_max": -1},
    ],
    ids=str,
)
def test_a_value_past_its_bound_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(OptionInvalid):
        OpenOptions(name="a", **option)


@pytest.mark.parametrize(
    "option",
    [{"mode": "MIRROR"}, {"durability": "each"}, {"fsync_interval_s": 0}, {"fsync_interval_s": 3600},
     {"memtable_bytes_max": 1 << 16}, {"cache_bytes_max": 0}],
    ids=str,
)
def test_a_value_at_its_bound_is_taken(option: dict[str, Any]) -> None:
    (name,) = option
    assert getattr(OpenOptions(name="a", **option), name) == option[name]


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        OpenOptions(name="a").mode = "mirror"  # type: ignore[misc]


def test_modes_take_any_letter_case() -> None:
    assert [check_mode(mode) for mode in ("Mirror", "mIRROR", "Peer", "peer", None)] == [True, True, False, False, None]
