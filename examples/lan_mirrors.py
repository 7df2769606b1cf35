"""Three mirrors that keep each other equal: write at any of them, lose one, get it back.

    python examples/lan_mirrors.py

Here all three live in one program, on this machine. On three machines it is one command on each, and a secret that
all of them share (`mynosql keygen --out cluster.secret` makes it):

    mynosql serve Shared --secret-file cluster.secret                               # on host-a
    mynosql serve Shared --secret-file cluster.secret --peer http://host-a:8800     # on host-b and on host-c
"""

import argparse
import sys
import tempfile
import time

import mynosql

NAMES = ("a", "b", "c")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the three databases live (default: a temporary folder)")
    parser.add_argument("--timeout", type=float, default=20.0, metavar="S", help="give up after S seconds (default 20)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return play(args.folder or temporary, args.timeout)


def play(folder: str, timeout_s: float) -> int:
    mirrors: dict[str, mynosql.MyNoSQL] = {}
    try:
        for name in NAMES:
            # Port 0: any free one. Each needs to know one other mirror; they tell each other about the rest.
            known = [mirrors["a"].endpoint] if mirrors else []
            mirrors[name] = open_mirror(folder, name, known, "127.0.0.1:0")
            print(f"mirror {name} at {mirrors[name].endpoint}")

        for name, db in mirrors.items():
            db.savedoc({"id": f"note/{name}", "text": f"written at {name}"})
        wait_until(lambda: all(len(db) == 3 for db in mirrors.values()), timeout_s, "all hold three notes")
        print("one note written at each, all three hold all three")

        where = mirrors["c"].endpoint
        mirrors["c"].closedb()
        note = mirrors["a"].readdoc("note/b")
        note["text"] = "changed at a while c was away"
        mirrors["a"].savedoc(note)
        mirrors["b"].savedoc({"id": "note/late", "text": "written at b while c was away"})
        print("c is away; a and b go on")

        mirrors["c"] = open_mirror(folder, "c", [mirrors["b"].endpoint], where.removeprefix("http://"))
        wait_until(lambda: all_equal(mirrors), timeout_s, "all are equal again")
        for id in mirrors["c"]:
            print(f"  {id}: {mirrors['c'][id]['text']}")
        print("c is back; all three are equal")
        return 0
    except TimeoutError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        for db in mirrors.values():
            db.closedb()


def open_mirror(folder: str, name: str, known: list, listen: str) -> mynosql.MyNoSQL:
    return mynosql.opendb("Shared", location=f"{folder}/{name}", mode="mirror", listen=listen, peers=known)


def all_equal(mirrors: dict) -> bool:
    """Every mirror lists the same ids with the same revisions and holds the newest one of each."""
    views = [[db.docinfo(id) for id in db.listdocs()] for db in mirrors.values()]
    first = [(info.id, info.rev, info.held_rev) for info in views[0]]
    return len(first) == 4 and all([(info.id, info.rev, info.held_rev) for info in view] == first for view in views)


def wait_until(condition, timeout_s: float, what: str) -> None:
    """Replication goes on in the background: a program that must know looks, or uses onchange or waitsync."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s in vain until {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
