"""A game server: a mirror that holds the game's resources and every player's saves.

    python examples/game_server.py --resources resources.json
    python examples/game_client.py --server http://127.0.0.1:8800 --player ann

resources.json is a list of objects, each with a "name". Edit the file while the server runs: what you changed is saved
anew, and players fetch that resource again, and only that one. Ctrl-C ends it.
"""

import argparse
import json
import os
import signal
import threading

import mynosql


def main() -> None:
    args = parse_arguments()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    with mynosql.opendb("Game", location=args.folder, mode="mirror", listen=args.listen) as db:
        print(f"serving at {db.endpoint}", flush=True)
        # Called for each change in a thread of its own, whether it was made here or came from a player.
        db.onchange(lambda change: print(f"{change.id} is now at {change.rev}", flush=True), prefix="save/")
        seen = None
        while not stop.is_set():
            stamp = os.stat(args.resources).st_mtime_ns
            if stamp != seen:
                publish(db, args.resources)
                seen = stamp
            stop.wait(args.look)


def publish(db: mynosql.MyNoSQL, path: str) -> None:
    """Every resource of the file is in the database. One that is equal to what is there is no change and no traffic."""
    with open(path, encoding="utf-8") as file:
        resources = json.load(file)
    changed = 0
    for resource in resources:
        id = f"resource/{resource['name']}"
        before = db.docinfo(id).rev
        db[id] = resource
        changed += db.docinfo(id).rev != before
    print(f"{len(resources)} resources, {changed} new or changed", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", required=True, metavar="FILE.json")
    parser.add_argument("--folder", help="where the database lives (default: your data folder)")
    parser.add_argument("--listen", default="127.0.0.1:8800", metavar="HOST:PORT")
    parser.add_argument("--look", type=float, default=0.5, metavar="S", help="seconds between looks at the file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
