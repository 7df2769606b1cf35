"""A chain of blocks, each with the hash of the one before: append, read, validate.

    python examples/blockchain.py append "Ann pays Bob 5"
    python examples/blockchain.py show
    python examples/blockchain.py validate

The database carries the blocks to other machines (--mirror URL); the hashes prove that nobody changed one on the way
or on the disk. It is no cryptocurrency: who appends first at a height wins, and validate finds chains that forked.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator

import mynosql

PREFIX = "block/"
FIRST = "0" * 64
STARTED = time.time()


def main() -> int:
    args = parse_arguments()
    peers = [args.mirror] if args.mirror else []
    with mynosql.opendb("Chain", location=args.folder, peers=peers) as db:
        if args.mirror and not catch_up(db, args.timeout):
            print("the mirror is not reached: working on what is here", file=sys.stderr)
        if args.command == "append":
            for data in args.data:
                block = append(db, data)
                print(f"block {block['height']} {block['hash'][:16]}")
            if args.mirror:
                print("delivered" if db.waitsync(timeout=args.timeout) else "not delivered yet; kept for later")
            return 0
        if args.command == "show":
            for block in blocks(db, args.timeout):
                print(f"{block['height']:>6} {block['hash'][:16]} <- {block['previous'][:16]} {block['data']}")
            return 0
        problems = validate(db, args.timeout)
        for problem in problems:
            print(problem)
        print(f"{len(db.listdocs(PREFIX))} blocks, {'valid' if not problems else 'NOT valid'}")
        return 1 if problems else 0


def catch_up(db: mynosql.MyNoSQL, timeout_s: float) -> bool:
    """True once this machine knows of every block that the mirror had when this program started."""
    while (db.syncstatus().as_of or 0) < STARTED:
        if time.time() > STARTED + timeout_s:
            return False
        time.sleep(0.02)
    return True


def append(db: mynosql.MyNoSQL, data: str) -> dict:
    """A block with this data is the new end of the chain."""
    while True:
        ids = db.listdocs(PREFIX)  # in order, since the heights in them have leading zeros
        last = db.readdoc(ids[-1]) if ids else None
        height = last["height"] + 1 if last else 0
        block = {"height": height, "previous": last["hash"] if last else FIRST, "time": time.time(), "data": data}
        block["hash"] = hash_of(block)
        try:
            # No rev: this must be a new record. If there is one at this height by now, it is refused.
            return db.savedoc({"id": f"{PREFIX}{height:09d}", **block})
        except mynosql.RevisionConflict:
            continue  # someone was faster: build on their block


def hash_of(block: dict) -> str:
    """The SHA-256 of what the block says, in one fixed spelling."""
    said = {name: block[name] for name in ("height", "previous", "time", "data")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def blocks(db: mynosql.MyNoSQL, timeout_s: float) -> Iterator[dict]:
    """All blocks in order; those that are not on this machine are fetched from the mirror, a thousand at a time."""
    ids = db.listdocs(PREFIX)
    for start in range(0, len(ids), 1000):
        yield from db.readdocs(ids[start : start + 1000], timeout=timeout_s)


def validate(db: mynosql.MyNoSQL, timeout_s: float) -> list:
    """What is wrong with the chain, one line each; nothing when it is whole."""
    problems = []
    previous = FIRST
    for expected, block in enumerate(blocks(db, timeout_s)):
        if block["height"] != expected:
            problems.append(f"block {expected} is missing")
            break
        if block["previous"] != previous:
            problems.append(f"block {expected} does not build on the block before it")
        if block["hash"] != hash_of(block):
            problems.append(f"block {expected} was changed: its hash is not that of its content")
        if db.getconflicts(block["id"]):
            problems.append(f"block {expected} exists in more than one version: two machines appended it apart")
        previous = block["hash"]
    return problems


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("append", "add blocks"), ("show", "print the chain"), ("validate", "check every block")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--folder", help="where the database lives (default: your data folder)")
        command.add_argument("--mirror", metavar="URL", help="a mirror to exchange blocks with")
        command.add_argument("--timeout", type=float, default=5.0, metavar="S", help="how long to wait for the mirror")
        if name == "append":
            command.add_argument("data", nargs="+", help="what the block says")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except mynosql.RecordUnavailable as error:
        sys.exit(f"{error}")
