"""`mynosql serve`: a mirror in the foreground."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

import mynosql
from mynosql import jsonform
from mynosql.cli.access import security_options

LOOK_INTERVAL_S = 1.0
"""How often the node's state is looked at: a failed disk or a dead thread ends the command."""


def serve(args: argparse.Namespace) -> int:
    """Runs until SIGINT or SIGTERM, then closes the database; the exit code is 0."""
    is_over = threading.Event()
    kept = {number: signal.signal(number, lambda *_: is_over.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        options: dict[str, Any] = {"listen": args.listen, "advertise": args.advertise, **security_options(args)}
        with mynosql.opendb(args.name, location=args.location, mode="mirror", peers=args.peer, **options) as db:
            _announce(args, db)
            _watch_over(db, is_over)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return 0


def _announce(args: argparse.Namespace, db: mynosql.MyNoSQL) -> None:
    if args.json:
        print(jsonform.dumps({"name": args.name, "endpoint": db.endpoint, "node": db.syncstatus().node}))
    else:
        print(f"{args.name}: mirror at {db.endpoint}, {len(db):,} records; Ctrl-C ends it")
    sys.stdout.flush()


def _watch_over(db: mynosql.MyNoSQL, is_over: threading.Event) -> None:
    """Returns when it is over; new background errors are shown on stderr, and a dead database raises."""
    shown: str | None = None
    while not is_over.wait(LOOK_INTERVAL_S):
        error = db.syncstatus().last_error
        if error is not None and error != shown:
            print(f"mynosql: {error}", file=sys.stderr, flush=True)
        shown = error
