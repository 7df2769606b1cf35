"""What put, get, ls, status, watch and keygen do: arguments in, text out, an exit code back.

Each works on an Access, so that it does not matter which process has the database open.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from mynosql import jsonform
from mynosql.cli.access import CONTACT_TIMEOUT_S, Access, reach
from mynosql.cli.exits import NOT_FOUND, OK
from mynosql.control import NOW
from mynosql.errors import OptionInvalid, RecordInvalid

BATCH_RECORDS = 500
WATCH_WAIT_S = 5.0
WATCH_PAGE = 500
LIST_PAGE = 2000

Record = dict[Any, Any]


def put(args: argparse.Namespace) -> int:
    """Saves the record of the arguments, or those of stdin, in batches; each batch is saved whole or not at all."""
    recs = _records(args)
    first = next(recs, None)  # before anything is opened: a mistake in the JSON must not make a database
    if first is None:
        raise OptionInvalid("no record: give JSON as an argument or on stdin")
    with reach(args, create=True) as access:
        for batch in _batches(first, recs):
            for rec in access.savedocs(batch):
                if args.json:
                    print_json({"id": rec["id"], "rev": rec["rev"]})
                else:
                    print(f"{id_text(rec['id'])} {rec['rev']}")
        sys.stdout.flush()
        return wait_for_delivery(access, args.wait)


def wait_for_delivery(access: Access, wait_s: float | None) -> int:
    """OK, or NOT_FOUND when delivery was asked for (--wait) and did not happen in time."""
    if wait_s is None:
        if access.pid is None and access.db.listpeers() and not access.db.waitsync(timeout=CONTACT_TIMEOUT_S):
            print("mynosql: saved, not on a mirror yet: sent when a process has the database open", file=sys.stderr)
        return OK
    if access.call("waitsync", timeout=wait_s):
        return OK
    print(f"mynosql: saved here, but no mirror confirmed it within {wait_s:g} s", file=sys.stderr)
    return NOT_FOUND


def _records(args: argparse.Namespace) -> Iterator[Record]:
    """The records to save. `put NAME JSON` has its JSON where the id would stand: an object is never a plain id."""
    id_given, record = [*args.words, None, None][:2]
    if record is None and id_given is not None and not args.id_json and id_given.lstrip().startswith("{"):
        id_given, record = None, id_given
    found = _read_records(sys.stdin) if record in (None, "-") else iter([jsonform.loads(record)])
    for position, rec in enumerate(found):
        if not isinstance(rec, dict):
            raise RecordInvalid(f"a record is a JSON object, found {type(rec).__name__}")
        if id_given is not None:
            if position:
                raise OptionInvalid("ID names one record, but stdin holds several: put an id in each record instead")
            rec["id"] = find_id(args, id_given)
        yield rec


def _read_records(source: TextIO) -> Iterator[Any]:
    """One JSON text, or one on each line (JSON Lines), told apart by the first line that is not empty."""
    for line in source:
        if not line.strip():
            continue
        try:
            first = jsonform.loads(line)
        except jsonform.JsonInvalid:
            rest = source.read()
            if not rest.strip():
                raise
            yield jsonform.loads(line + rest)
            return
        yield first
        break
    for number, line in enumerate(source, 2):
        if line.strip():
            try:
                yield jsonform.loads(line)
            except jsonform.JsonInvalid as error:
                raise jsonform.JsonInvalid(f"record {number} of stdin: {error}") from error


def _batches(first: Record, rest: Iterator[Record]) -> Iterator[list[Record]]:
    batch = [first]
    for rec in rest:
        if len(batch) == BATCH_RECORDS:
            yield batch
            batch = []
        batch.append(rec)
    yield batch


def get(args: argparse.Namespace) -> int:
    """Prints the record."""
    with reach(args) as access:
        began = time.monotonic()
        access.wait_for_contact(args.timeout)
        left_s = max(args.timeout - (time.monotonic() - began), 0.1)
        rec = access.call("readdoc", find_id(args, args.id), timeout=left_s)
        print_json(rec, indent=None if args.json else 2)
    return OK


def ls(args: argparse.Namespace) -> int:
    """Prints the ids page by page."""
    with reach(args) as access:
        access.wait_for_contact()
        after = None if args.after is None else find_id(args, args.after)
        for id in _ids(access, args.prefix, after, args.limit):
            if args.json:
                print_json(id)
            else:
                print(id_text(id))
    return OK


def _ids(access: Access, prefix: str, after: Any, limit: int | None) -> Iterator[Any]:
    left = limit
    while left is None or left > 0:
        wanted = LIST_PAGE if left is None else min(left, LIST_PAGE)
        page = access.call("listdocs", prefix=prefix, after=after, limit=wanted)
        yield from page
        if len(page) < wanted:
            return
        after = page[-1]
        left = None if left is None else left - len(page)


def status(args: argparse.Namespace) -> int:
    """Prints the node's state."""
    with reach(args) as access:
        access.wait_for_contact()
        found = {
            "name": args.name, "folder": access.folder, "process": access.pid, **fields_of(access.call("syncstatus")),
        }
    if args.json:
        print_json({key: list(value) if isinstance(value, tuple) else value for key, value in found.items()})
        return OK
    for key, value in found.items():
        print(f"{key:<15} {_status_text(key, value)}")
    return OK


def _status_text(key: str, value: Any) -> str:
    if value is None:
        return {"process": "none (opened by this command)", "as_of": "never", "last_error": "none"}.get(key, "-")
    if key == "as_of":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and key != "process" else str(value)


def watch(args: argparse.Namespace) -> int:
    """Prints changes until it is interrupted, or --count of them."""
    if args.since and args.all:
        raise OptionInvalid("--since and --all exclude each other")
    with reach(args) as access:
        token: str | None = None if args.all else args.since or NOW
        left = args.count
        while left is None or left > 0:
            changes, token = access.changes_page(token, args.prefix, min(left or WATCH_PAGE, WATCH_PAGE), WATCH_WAIT_S)
            for change in changes:
                if args.json:
                    print_json(fields_of(change))
                else:
                    print(f"{id_text(change.id)} {change.rev}{' deleted' if change.deleted else ''}")
            sys.stdout.flush()
            left = None if left is None else left - len(changes)
    return OK


def keygen(args: argparse.Namespace) -> int:
    """Prints a new cluster secret, or writes it to a file that only its owner can read."""
    from mynosql.net.security import keygen as make_secret

    secret = make_secret()
    if args.out is None:
        print(secret)
        return OK
    try:
        handle = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OptionInvalid(f"{args.out} exists already; a secret in use must not be overwritten") from None
    with open(handle, "w", encoding="ascii") as file:
        file.write(secret + "\n")
    print(f"secret written to {args.out}; copy it to every node and keep it from everyone else", file=sys.stderr)
    return OK


# Helpers


def find_id(args: argparse.Namespace, text: str) -> Any:
    """The id that an argument stands for."""
    return jsonform.loads(text) if args.id_json else text


def id_text(id: Any) -> str:
    """An id on one line: a plain string as it is, anything else as JSON."""
    if isinstance(id, str) and id.isprintable() and id.strip() == id and id[:1] not in ("", "{", '"'):
        return id
    return jsonform.dumps(id)


def fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def print_json(value: Any, indent: int | None = None) -> None:
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    print(jsonform.dumps(value, indent=indent, ascii_only=encoding != "utf8"))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "put": put, "get": get, "ls": ls, "status": status, "watch": watch, "keygen": keygen,
}
