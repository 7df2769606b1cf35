"""What conflicts, resolve and rejected do: revisions that wait for a decision, and changes that a mirror refused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from mynosql import jsonform
from mynosql.cli.access import Access, reach
from mynosql.cli.commands import fields_of, find_id, id_text, print_json, wait_for_delivery
from mynosql.cli.exits import OK
from mynosql.errors import OptionInvalid, RecordUnavailable
from mynosql.revision import parse_rev
from mynosql.views import Conflict

LIST_PAGE = 2000

Record = dict[Any, Any]


def conflicts(args: argparse.Namespace) -> int:
    """Prints the ids in conflict, or the revisions of one record."""
    with reach(args) as access:
        access.wait_for_contact()
        if args.id is not None:
            _print_revisions(args, _revisions(access, find_id(args, args.id), args.timeout))
            return OK
        after: Any = None
        while True:
            page = access.call("conflicteddocs", prefix=args.prefix, after=after, limit=LIST_PAGE)
            for id in page:
                if args.json:
                    print_json(id)
                else:
                    print(id_text(id))
            if len(page) < LIST_PAGE:
                return OK
            after = page[-1]


def _revisions(access: Access, id: Any, timeout_s: float) -> list[Conflict]:
    """The winner and the revisions that lost against it."""
    winner = access.call("readdoc", id, timeout=timeout_s)
    rev = parse_rev(winner["rev"])
    first = Conflict(
        rev=winner["rev"], deleted=False, held=True, rec=winner, node="" if rev is None else f"{rev.node:016x}"
    )
    return [first, *access.call("getconflicts", id, timeout=timeout_s)]


def _print_revisions(args: argparse.Namespace, revisions: list[Conflict]) -> None:
    for position, each in enumerate(revisions):
        if args.json:
            print_json({**fields_of(each), "winner": position == 0})
            continue
        print(f"{each.rev} by node {each.node}{', the winner' if position == 0 else ''}:")
        if each.rec is None:
            print("  not held here, and no mirror delivered it")
        else:
            print_json(each.rec, indent=2)


def resolve(args: argparse.Namespace) -> int:
    """Saves the record over all its revisions."""
    if args.take is not None and args.record is not None:
        raise OptionInvalid("--take and JSON exclude each other: give the revision to take, or the record")
    given = None if args.take is not None else _given(args)
    with reach(args) as access:
        access.wait_for_contact()
        id = find_id(args, args.id)
        rec = given if given is not None else _taken(args, _revisions(access, id, args.timeout))
        saved = access.call("resolvedoc", id, rec)
        if args.json:
            print_json({"id": id, "rev": saved["rev"]})
        else:
            print(f"{id_text(id)} {saved['rev']}")
        sys.stdout.flush()
        return wait_for_delivery(access, args.wait)


def _given(args: argparse.Namespace) -> Record:
    rec = jsonform.loads(sys.stdin.read() if args.record in (None, "-") else args.record)
    if not isinstance(rec, dict):
        raise OptionInvalid(f"a record is a JSON object, found {type(rec).__name__}")
    return rec


def _taken(args: argparse.Namespace, revisions: list[Conflict]) -> Record:
    for each in revisions:
        if each.rev == args.take:
            if each.rec is None:
                raise RecordUnavailable(f"revision {each.rev} is not held here, and no mirror delivered it")
            return each.rec
    raise OptionInvalid(f"--take {args.take}: expected one of {', '.join(each.rev for each in revisions)}")


def rejected(args: argparse.Namespace) -> int:
    """Prints what a mirror refused; has it tried again."""
    if args.wait is not None and not args.retry:
        raise OptionInvalid("--wait goes with --retry")
    with reach(args) as access:
        access.wait_for_contact()
        for each in access.call("rejecteddocs"):
            if args.json:
                print_json(fields_of(each))
            else:
                print(f"{id_text(each.id)} {each.rev} {each.code}: {each.reason}")
            if args.retry:
                access.call("retrydoc", each.id)
        sys.stdout.flush()
        return wait_for_delivery(access, args.wait) if args.retry else OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "conflicts": conflicts, "resolve": resolve, "rejected": rejected,
}
