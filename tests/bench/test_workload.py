"""The benchmark's records are what the tables say they are: sizes, fields, ids, and the same in every process."""

from __future__ import annotations

import lzma
from statistics import mean

import msgpack

from tests.bench.workload import game_saves, readings
from tests.faults.processes import PythonChild


def test_a_reading_has_twelve_fields_and_about_250_bytes() -> None:
    pairs = readings(2_000)

    assert all(len(body) == 12 for _, body in pairs)
    assert 240 <= mean(len(msgpack.packb(body)) for _, body in pairs) <= 260
    assert pairs[7][0] == "sensor-07/2026-11-23T10:00:00"
    assert pairs[27][0] == "sensor-07/2026-11-23T10:00:05"
    assert len({key for key, _ in pairs}) == 2_000


def test_a_game_save_has_about_2_kilobytes() -> None:
    assert 1_850 <= mean(len(msgpack.packb(body)) for _, body in game_saves(200)) <= 2_150


def test_readings_are_no_easier_to_compress_than_real_ones() -> None:
    """Design figures for sensor data, sorted by id in 32 KiB blocks: 32 bytes a record at preset 1."""
    packed = [msgpack.packb(body) for _, body in sorted(readings(20_000))]
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 15}]
    per_block = (1 << 15) // (len(packed[0]) + 1)
    blocks = [b"".join(packed[start : start + per_block]) for start in range(0, len(packed), per_block)]

    compressed = sum(len(lzma.compress(block, format=lzma.FORMAT_RAW, filters=filters)) for block in blocks)

    assert compressed / len(packed) >= 32


def test_another_process_makes_the_same_records() -> None:
    script = "from tests.bench.workload import readings, game_saves\nemit([readings(50), game_saves(5)])"
    with PythonChild(script, environment={"PYTHONHASHSEED": "7"}) as child:
        assert child.read() == [[list(pair) for pair in pairs] for pairs in (readings(50), game_saves(5))]
