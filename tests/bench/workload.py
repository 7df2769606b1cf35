"""What is saved: sensor readings of about 250 bytes packed, game saves of about 2 KB and resources
of about 200 KB, the same in every process.

Readings come as a logger makes them: in time order, sensors in turn, values that walk randomly with the digits that a
real sensor has. Nothing is repeated or padded: each value is drawn on its own.
"""

from __future__ import annotations

import datetime
import itertools
import random
from collections.abc import Iterator
from typing import Any

Body = dict[str, Any]

SENSOR_COUNT = 20
READING_INTERVAL_S = 5
FIRST_READING_AT = datetime.datetime(2026, 11, 23, 10, 0, 0)
SEED = 20261123

ITEM_NAMES = (
    "oak_plank", "iron_ingot", "gold_ingot", "torch", "bread", "stone_pickaxe", "iron_sword", "bow", "arrow", "rope",
    "healing_potion", "map_fragment", "silver_key", "lantern", "leather_boots", "wool", "apple", "emerald", "book",
    "coal",
)
QUEST_NAMES = ("lost_caravan", "the_old_mill", "wolves_at_night", "river_crossing", "iron_for_the_smith", "the_hermit")
SKILL_NAMES = ("archery", "smithing", "herbs", "swimming", "trade", "stealth", "mining", "cooking")


def readings(count: int) -> list[tuple[str, Body]]:
    """`count` pairs of id and body in the order of arrival: "sensor-07/2026-11-23T10:00:05", 12 fields."""
    return list(itertools.islice(Readings(), count))


class Readings:
    """The same without an end, for who does not want all of them in memory."""

    def __iter__(self) -> Iterator[tuple[str, Body]]:
        rng = random.Random(SEED)
        sensors = [_Sensor(number, rng) for number in range(SENSOR_COUNT)]
        for index in itertools.count():
            yield sensors[index % SENSOR_COUNT].next_reading(index // SENSOR_COUNT)

    @staticmethod
    def key_of(index: int) -> str:
        """The id of the reading at this place."""
        return f"sensor-{index % SENSOR_COUNT:02d}/{_time_of(index // SENSOR_COUNT)}"


def _time_of(step: int) -> str:
    return (FIRST_READING_AT + datetime.timedelta(seconds=step * READING_INTERVAL_S)).isoformat()


class _Sensor:
    """One sensor: its fixed fields and the values that walk from reading to reading."""

    def __init__(self, number: int, rng: random.Random) -> None:
        self._rng = rng
        self._name = f"sensor-{number:02d}"
        self._site = f"plant-{number % 3}/hall-{number % 7}/line-{number % 2}"
        self._temperature = rng.uniform(14, 28)
        self._humidity = rng.uniform(30, 60)
        self._pressure = rng.uniform(990, 1030)
        self._battery = rng.uniform(3.3, 4.1)

    def next_reading(self, step: int) -> tuple[str, Body]:
        gauss = self._rng.gauss
        self._temperature += gauss(0, 0.3)
        self._humidity = min(99.0, max(5.0, self._humidity + gauss(0, 0.5)))
        self._pressure += gauss(0, 0.2)
        self._battery = max(3.0, self._battery - abs(gauss(0, 0.00002)))
        time = _time_of(step)
        return f"{self._name}/{time}", {
            "sensor": self._name,
            "site": self._site,
            "time": time,
            "temperature_c": round(self._temperature, 2),
            "humidity_percent": round(self._humidity, 1),
            "pressure_hpa": round(self._pressure, 2),
            "light_lux": round(abs(gauss(320, 60)), 1),
            "battery_volt": round(self._battery + gauss(0, 0.004), 3),
            "signal_dbm": -60 - int(abs(gauss(0, 9))),
            "vibration_mm_s": round(abs(gauss(1.2, 0.5)), 4),
            "power_watt": round(gauss(48, 6), 3),
            "status": "ok" if self._rng.random() > 0.02 else "degraded",
        }


def game_saves(count: int) -> list[tuple[str, Body]]:
    """`count` pairs of id and body, each the whole state of one player: "player-00042/slot-1"."""
    rng = random.Random(SEED + 1)
    return [(f"player-{number // 3:05d}/slot-{number % 3}", _game_save(rng, number)) for number in range(count)]


def _game_save(rng: random.Random, number: int) -> Body:
    return {
        "player": f"Player{number // 3}",
        "level": rng.randint(1, 60),
        "health": rng.randint(1, 100),
        "position": [round(rng.uniform(-4096, 4096), 3) for _ in range(3)],
        "facing": round(rng.uniform(0, 360), 2),
        "played_s": rng.randint(60, 400_000),
        "inventory": [
            {"item": rng.choice(ITEM_NAMES), "count": rng.randint(1, 64), "damage": rng.randint(0, 250)}
            for _ in range(43)
        ],
        "quests": {name: {"stage": rng.randint(0, 9), "done": rng.random() < 0.3} for name in QUEST_NAMES},
        "skills": {name: round(rng.uniform(0, 100), 1) for name in SKILL_NAMES},
        "regions_seen": sorted(rng.sample(range(4096), 60)),
        "world_seed": rng.getrandbits(63),
    }


def resources(count: int) -> list[tuple[str, Body]]:
    """`count` pairs of id and body, each a level of a game: tiles in runs, numbers, some noise, about 200 KB packed."""
    rng = random.Random(SEED + 2)
    return [(f"level/{number:04d}", _resource(rng, number)) for number in range(count)]


def _resource(rng: random.Random, number: int) -> Body:
    tiles = bytearray()
    while len(tiles) < 128 << 10:
        tiles += bytes([rng.randrange(24)]) * rng.randint(1, 12)
    return {
        "name": f"level {number}",
        "tiles": bytes(tiles[: 128 << 10]),
        "spawns": [
            {"kind": rng.choice(ITEM_NAMES), "x": rng.randrange(4096), "y": rng.randrange(4096), "s": rng.random()}
            for _ in range(750)
        ],
        "heights": [round(rng.gauss(0, 40), 1) for _ in range(2_000)],
        "thumbnail": rng.randbytes(10 << 10),
    }
