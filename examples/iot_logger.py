"""A data logger: saves readings of this machine, whatever the network does, and a mirror gets them all.

    mynosql serve Readings &                                    # a mirror, on this machine or another
    python examples/iot_logger.py --mirror http://127.0.0.1:8800

Cut the network, kill this program, start it again: it goes on in the same folder, and what the mirror does not have
yet waits there on disk. Without --mirror it only logs; name the mirror later. Needs only mynosql.
"""

import argparse
import csv
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone

import mynosql


def main() -> int:
    args = parse_arguments()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    report_every = args.report or (1000 if args.replay else 1)
    # One line opens the database, new or old. A peer keeps what it wrote and sends it to the mirror by itself.
    peers = [args.mirror] if args.mirror else []
    with mynosql.opendb("Readings", location=args.folder, peers=peers, fsync_interval_s=args.fsync_interval) as db:
        left_over = len(db.pendingdocs())
        print(f"{len(db):,} readings here, {left_over:,} pending from before", flush=True)
        saved = 0
        for reading in replay(args.replay) if args.replay else measure(args.interval, stop):
            # The id says what the reading is. Saving the same one again is no change, so a replay may be repeated.
            db.savedoc(reading)
            saved += 1
            if saved % report_every == 0:
                tell(db, saved)
            if stop.is_set() or saved == args.count:
                break
        if args.wait and args.mirror:
            db.waitsync(timeout=args.wait)
        tell(db, saved)
    return 0


def tell(db: mynosql.MyNoSQL, saved: int) -> None:
    """Where we are: what is saved here, and what the mirror has not confirmed."""
    status = db.syncstatus()
    where = f"mirror {status.mirror}" if status.connected else "no mirror reached"
    print(f"saved {saved:,}, pending {status.pending:,}, {where}", flush=True)


def measure(interval_s: float, stop: threading.Event) -> Iterator[dict]:
    """Readings of this machine, one every interval_s seconds. A figure that it does not have is left out."""
    host = socket.gethostname()
    while True:
        now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        reading = {"id": f"{host}/{now}", "at": now, "disk_free_mb": shutil.disk_usage("/").free // 1_000_000}
        if hasattr(os, "getloadavg"):
            reading["load"] = round(os.getloadavg()[0], 2)
        available_kb = find_number("/proc/meminfo", "MemAvailable:")
        if available_kb is not None:
            reading["memory_available_mb"] = available_kb // 1000
        millidegrees = find_number("/sys/class/thermal/thermal_zone0/temp")
        if millidegrees is not None:
            reading["temperature_c"] = millidegrees / 1000
        yield reading
        if stop.wait(interval_s):
            return


def find_number(path: str, name: str = "") -> int | None:
    """The first number of a file, or of its line that begins with name; None where the machine has no such file."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return next((int(line.removeprefix(name).split()[0]) for line in file if line.startswith(name)), None)
    except (OSError, ValueError):
        return None


def replay(path: str) -> Iterator[dict]:
    """The rows of a CSV file as readings: numbers become floats, the row's number its id."""
    sensor = os.path.splitext(os.path.basename(path))[0]
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file)):
            yield {"id": f"{sensor}/{number:06d}", **{name: as_number(text) for name, text in row.items()}}


def as_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", metavar="URL", help="where a mirror listens, such as http://127.0.0.1:8800")
    parser.add_argument("--folder", help="where the database lives (default: your data folder)")
    parser.add_argument("--interval", type=float, default=5.0, metavar="S", help="seconds between readings (default 5)")
    parser.add_argument("--count", type=int, metavar="N", help="end after N readings (default: never)")
    parser.add_argument("--replay", metavar="FILE.csv", help="save the rows of a CSV file instead of readings")
    parser.add_argument("--report", type=int, metavar="N", help="tell how it goes every N readings (default 1 or 1000)")
    parser.add_argument("--wait", type=float, default=5.0, metavar="S", help="at the end, wait so long for the mirror")
    parser.add_argument("--fsync-interval", type=float, default=1.0, metavar="S",
                        help="write to the disk at least so often; more seconds spare an SD card (default 1)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
