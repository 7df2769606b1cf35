"""Real readings of the machine that this runs on: load, processor time, memory, disk, network, temperature.

Reads /proc and /sys where they exist (Linux) and the standard library elsewhere; a figure that a machine does not have
is left out. Nothing is invented. Used by the demo's logger.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from typing import Any

Reading = dict[str, Any]


class Machine:
    """Takes readings one after another; remembers the counters of the one before, for the rates between them."""

    def __init__(self, folder: str) -> None:
        """folder: the disk that the readings speak of."""
        self._folder = folder
        self._thermometers = sorted(glob.glob("/sys/class/thermal/thermal_zone*/temp"))
        self._busy_ticks = 0
        self._all_ticks = 0
        self._busy_percent: float | None = None

    def read(self) -> Reading:
        """One reading: flat, ready to be saved. Takes about 0.1 ms on Linux."""
        reading: Reading = {}
        with contextlib.suppress(OSError, AttributeError):
            one, five, fifteen = os.getloadavg()
            reading.update(load_1m=round(one, 2), load_5m=round(five, 2), load_15m=round(fifteen, 2))
        self._add_processor(reading)
        self._add_memory(reading)
        with contextlib.suppress(OSError):
            reading["disk_free_bytes"] = shutil.disk_usage(self._folder).free
        self._add_network(reading)
        for path in self._thermometers[:1]:
            with contextlib.suppress(OSError, ValueError):
                reading["temperature_c"] = int(_text(path)) / 1000
        return reading

    def _add_processor(self, reading: Reading) -> None:
        with contextlib.suppress(OSError, ValueError):
            lines = _text("/proc/stat").splitlines()
            ticks = [int(word) for word in lines[0].split()[1:9]]
            every, busy = sum(ticks), sum(ticks) - ticks[3] - ticks[4]  # 3 and 4: idle and waiting for the disk
            if self._all_ticks and every > self._all_ticks:
                self._busy_percent = round(100 * (busy - self._busy_ticks) / (every - self._all_ticks), 1)
            self._busy_ticks, self._all_ticks = busy, every
            if self._busy_percent is not None:  # the kernel counts in steps of 10 ms: none may have passed
                reading["processor_percent"] = self._busy_percent
            for line in lines:
                name, _, value = line.partition(" ")
                if name in ("ctxt", "processes"):
                    reading["context_switches" if name == "ctxt" else "processes_started"] = int(value)

    def _add_memory(self, reading: Reading) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in _text("/proc/meminfo").splitlines():
                name, _, value = line.partition(":")
                if name in ("MemAvailable", "Cached", "Dirty"):
                    reading[f"memory_{name.removeprefix('Mem').lower()}_kb"] = int(value.split()[0])

    def _add_network(self, reading: Reading) -> None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            received = sent = 0
            for line in _text("/proc/net/dev").splitlines()[2:]:
                fields = line.partition(":")[2].split()
                received, sent = received + int(fields[0]), sent + int(fields[8])
            reading.update(network_received_bytes=received, network_sent_bytes=sent)


def _text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()
