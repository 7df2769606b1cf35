"""A game on a player's machine: a peer. It fetches resources once, keeps saves while offline, delivers them later.

    python examples/game_client.py --server http://127.0.0.1:8800 --player ann --load stone granite

Press Enter to find a coin (each one is saved at once), q and Enter to stop. Stop the server and play on: it works.
Play as the same player on two machines (--folder tells them apart): nobody's coins are lost, see save() and merge().
"""

import argparse
import sys
import time

import mynosql

STARTED = time.time()


def main() -> None:
    args = parse_arguments()
    with mynosql.opendb("Game", location=args.folder, peers=[args.server]) as db:
        if not catch_up(db, args.timeout):
            print("no server reached: playing offline", flush=True)
        for name in args.load:
            load(db, name, args.timeout)
        id = f"save/{args.player}"
        game = open_game(db, id, args.timeout)
        print(f"{args.player} has {game['coins']} coins", flush=True)
        for line in sys.stdin:
            if line.strip() == "q":
                break
            game["coins"] += 1
            game = save(db, game)
            print(f"{args.player} has {game['coins']} coins; {delivery(db, id)}", flush=True)
        db.waitsync(timeout=args.timeout)
        print(f"bye; {len(db.pendingdocs())} saves pending", flush=True)


def catch_up(db: mynosql.MyNoSQL, timeout_s: float) -> bool:
    """True once this machine knows of every change that the server had when this program started."""
    while (db.syncstatus().as_of or 0) < STARTED:
        if time.time() > STARTED + timeout_s:
            return False
        time.sleep(0.02)
    return True


def load(db: mynosql.MyNoSQL, name: str, timeout_s: float) -> None:
    """A resource is here, newest version: fetched if it never was or has changed, else read from the disk."""
    id = f"resource/{name}"
    before = db.docinfo(id).state  # asks nobody: "fresh", "stale" (changed since), "remote" (never fetched), "unknown"…
    try:
        resource = db.readdoc(id, timeout=timeout_s, confirm=True)
    except (mynosql.RecordNotFound, mynosql.RecordUnavailable) as error:
        print(f"{name}: {error}", flush=True)
    else:
        how = "already here" if before == "fresh" else f"fetched, was {before}"
        print(f"{name}: {how}, {len(resource)} fields", flush=True)


def open_game(db: mynosql.MyNoSQL, id: str, timeout_s: float) -> dict:
    """The player's game as it was last saved anywhere, or a new one. Two games played apart become one again."""
    try:
        game = db.readdoc(id, timeout=timeout_s, confirm=True)
    except mynosql.RecordNotFound:
        return {"id": id, "coins": 0}
    except mynosql.RecordUnavailable as error:
        if db.docinfo(id).state == "remote":  # it exists, was never read here, and the server is away
            sys.exit(f"cannot go on with your game: {error}")
        return {"id": id, "coins": 0}  # never met the server: start anew, merge() brings both together later
    apart = [conflict.rec for conflict in db.getconflicts(id) if conflict.rec is not None]
    if apart:
        game = db.resolvedoc(id, merge(game, apart))
        print(f"games played apart are one again: {game['coins']} coins", flush=True)
    return game


def save(db: mynosql.MyNoSQL, game: dict) -> dict:
    """The game is saved on this machine; the server gets it when it can be reached."""
    try:
        return db.savedoc(game)
    except mynosql.RevisionConflict:
        # Another machine has saved this game meanwhile. Do not overwrite its coins, do not lose ours: keep both as
        # concurrent revisions. Every node picks the same winner until someone resolves it, here open_game().
        return db.savedoc(game, branch=True)


def merge(game: dict, others: list) -> dict:
    """What one game made of several is; only the game itself can know. Here: the luckiest one counts."""
    return {**game, "coins": max(other["coins"] for other in [game, *others])}


def delivery(db: mynosql.MyNoSQL, id: str) -> str:
    return "saved here, on its way" if db.docinfo(id).state == "pending" else "saved on the server"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--player", required=True, metavar="NAME")
    parser.add_argument("--load", nargs="*", default=[], metavar="RESOURCE", help="resources to load")
    parser.add_argument("--folder", help="where the database lives (default: your data folder)")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="S", help="how long to wait for the server")
    return parser.parse_args()


if __name__ == "__main__":
    main()
