"""What check, compact, backup, export and import do: work on the whole database, with its progress on stderr.

Where another process has the database open, that one does the work, on files of its machine, and shows no progress.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from mynosql.cli.access import Access, reach
from mynosql.cli.commands import fields_of, print_json
from mynosql.cli.exits import NOT_FOUND, OK

PROGRESS_STEPS = 100


def check(args: argparse.Namespace) -> int:
    """Prints what checkdb found."""
    with reach(args) as access:
        report = _work(access, "checkdb", "checked")
    if args.json:
        print_json({**fields_of(report), "problems": [fields_of(problem) for problem in report.problems]})
    else:
        for problem in report.problems:
            where = problem.file if problem.offset is None else f"{problem.file} at byte {problem.offset:,}"
            print(f"{where}: {problem.what} ({problem.records:,} records)")
        verdict = "ok" if report.ok else f"{len(report.problems)} problems"
        print(f"{args.name}: {verdict}; {report.records:,} records in {report.blocks:,} blocks read")
    return OK if report.ok else NOT_FOUND


def compact(args: argparse.Namespace) -> int:
    """Gives back the space of what was replaced."""
    with reach(args) as access:
        before = _used_bytes(access.folder)
        _work(access, "compactdb", "looked at")
        after = _used_bytes(access.folder)
    if args.json:
        print_json({"bytes_before": before, "bytes_after": after})
    else:
        print(f"{args.name}: {before:,} bytes before, {after:,} now")
    return OK


def backup(args: argparse.Namespace) -> int:
    """Makes a copy of the database beside whoever uses it."""
    with reach(args) as access:
        folder = _work(access, "backupdb", "copied", os.path.abspath(args.folder))
    if args.json:
        print_json({"folder": folder})
    else:
        print(f"{args.name}: copied to {folder}")
    return OK


def export(args: argparse.Namespace) -> int:
    """Writes all records to a file."""
    with reach(args) as access:
        access.wait_for_contact()
        count = _work(access, "exportdb", "written", os.path.abspath(args.file))
    return _print_count(args, count, f"written to {args.file}")


def import_(args: argparse.Namespace) -> int:
    """Saves all records of a file."""
    path = os.path.abspath(args.file)
    with open(path, "rb"):
        pass  # before anything is opened: a wrong name must not make a database
    with reach(args, create=True) as access:
        count = _work(access, "importdb", "read", path)
    return _print_count(args, count, f"saved from {args.file}")


def _print_count(args: argparse.Namespace, count: int, what: str) -> int:
    if args.json:
        print_json({"records": count})
    else:
        print(f"{args.name}: {count:,} records {what}")
    return OK


def _work(access: Access, method: str, done_word: str, *arguments: Any) -> Any:
    """That call of the database; a person who looks on sees how far it is."""
    if access.pid is not None or not sys.stderr.isatty():
        return access.call(method, *arguments)
    try:
        return access.call(method, *arguments, progress=show_progress(done_word))
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def show_progress(done_word: str) -> Callable[[int, int], None]:
    """A call for progress=… that shows how far the work is, on one line of stderr."""
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        step = done * PROGRESS_STEPS // max(total, 1)
        if step != shown:
            shown = step
            print(f"\r{step} % {done_word}", end="", file=sys.stderr, flush=True)

    return progress


def _used_bytes(folder: str) -> int:
    """Of shards and journals."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.startswith(("shard-", "journal-")))


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": check, "compact": compact, "backup": backup, "export": export, "import": import_,
}
