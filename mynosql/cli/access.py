"""How a command reaches a database: opened by the command itself, or through the process that has it open.

Owns that choice and what goes with it (existence, secret, waiting for the first contact). The verbs do not see it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import mynosql
from mynosql import control
from mynosql.cli.exits import DatabaseAbsent
from mynosql.codec import pack_body
from mynosql.database import home_folder
from mynosql.errors import DatabaseLocked, NotOpen, OptionInvalid, RecordNotFound, RecordUnavailable
from mynosql.net import local
from mynosql.net.local import AnswerLost
from mynosql.record import TimeSortedIds, split

SECRET_BYTES_MAX = 4096
CONTACT_POLL_S = 0.02
CONTACT_TIMEOUT_S = 2.0
"""How long a command that opened a peer by itself waits for its index to come up to date."""


CHANGE_OF_HANDS_S = 10.0
"""How long it may take to find a process that answers, while several commands open and close the database in turn."""

Record = dict[Any, Any]


class Access:
    """A database as a command works on it, in this process or through the one that has it open."""

    def __init__(self, args: argparse.Namespace, location: str) -> None:
        """Reached; close() it. The other process may change in between: another command, or none."""
        self._args = args
        self._location = location
        self.folder = os.path.join(location, args.name)
        self.db: Any = None
        """MyNoSQL or RemoteDatabase."""
        self.pid: int | None = None
        """The process that has it open; None: this command itself."""
        self._opened_at = 0.0
        self._ids = TimeSortedIds(random.SystemRandom().getrandbits)
        self._reach()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What that method of the database returns; asked again when the process that has it open goes meanwhile.

        For what may be done twice; savedocs has a call of its own.
        """
        deadline = time.monotonic() + CHANGE_OF_HANDS_S
        while True:
            try:
                return getattr(self.db, method)(*arguments, **options)
            except (NotOpen, AnswerLost):
                if self.pid is None or time.monotonic() > deadline:
                    raise
                self._reach()

    def savedocs(self, recs: Iterable[Record]) -> list[Record]:
        """The records are saved, once, whatever other process comes and goes meanwhile."""
        batch = [rec if "id" in rec else {**rec, "id": self._next_id()} for rec in recs]
        deadline = time.monotonic() + CHANGE_OF_HANDS_S
        while True:
            try:
                return list(self.db.savedocs(batch))
            except NotOpen:  # nothing was done
                if self.pid is None or time.monotonic() > deadline:
                    raise
                self._reach()
            except AnswerLost:  # all of the batch was saved, or none
                if time.monotonic() > deadline:
                    raise
                self._reach()
                found = self._find_saved(batch)
                if found is not None:
                    return found

    def _find_saved(self, batch: list[Record]) -> list[Record] | None:
        """The records as they are stored, if each is there with these values."""
        stored: list[Record] = []
        for rec in batch:
            try:
                stored.append(self.call("readdoc", rec["id"]))
            except (RecordNotFound, RecordUnavailable):
                return None
            if pack_body(split(rec)[2]) != pack_body(split(stored[-1])[2]):
                return None
        return stored

    def _next_id(self) -> str:
        """As opendb's: unique, and in order of time."""
        return self._ids.next(time.time_ns() // 1_000_000)

    def close(self) -> None:
        if self.pid is None:
            self.db.closedb()

    def changes_page(self, since: str | None, prefix: str, limit: int, wait_s: float) -> tuple[list[Any], str]:
        """As control.changes_page, on either side. Ends with the process that is asked: a watcher never takes over."""
        if self.pid is None:
            return control.changes_page(self.db, since, prefix=prefix, limit=limit, wait_s=wait_s)
        found: tuple[list[Any], str] = self.db.changes_page(since, prefix=prefix, limit=limit, wait_s=wait_s)
        return found

    def wait_for_contact(self, timeout_s: float = CONTACT_TIMEOUT_S) -> None:
        """The index is up to date, or the time is over, or there is nobody to ask."""
        if self.pid is not None or not self.db.listpeers():
            return
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            as_of = self.db.syncstatus().as_of
            if as_of is not None and as_of >= self._opened_at:
                return
            time.sleep(CONTACT_POLL_S)

    def _reach(self) -> None:
        """Open here, or answered for by the process that has it open; tried again while that one opens or closes it."""
        deadline = time.monotonic() + CHANGE_OF_HANDS_S
        while True:
            try:
                self._opened_at = time.time()
                options = {"location": self._location, "peers": self._args.peer, **security_options(self._args)}
                self.db, self.pid = mynosql.opendb(self._args.name, **options), None
                return
            except DatabaseLocked as locked:
                remote = control.RemoteDatabase(functools.partial(local.request, self.folder))
                try:
                    for url in self._args.peer:
                        remote.addpeer(url)
                    remote.syncstatus()
                except (NotOpen, AnswerLost) as silent:
                    if time.monotonic() > deadline:
                        raise locked from silent
                    time.sleep(CONTACT_POLL_S)
                    continue
                self.db, self.pid = remote, locked.pid
                if self._args.verbose:
                    print(f"mynosql: working through process {self.pid}, which has {self.folder} open", file=sys.stderr)
                return


@contextlib.contextmanager
def reach(args: argparse.Namespace, *, create: bool = False) -> Iterator[Access]:
    """The database that the arguments name. create: make it when it is missing, else DatabaseAbsent."""
    location = args.location or home_folder()
    folder = os.path.join(location, args.name)
    mynosql.OpenOptions(name=args.name)  # a wrong name is told as such, not as a missing folder
    if not create and not os.path.isdir(folder):
        raise DatabaseAbsent(_absent_text(args.name, location))
    access = Access(args, location)
    try:
        yield access
    finally:
        access.close()


def security_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of opendb that say who may take part."""
    options: dict[str, Any] = {"insecure": args.insecure}
    if args.secret_file:
        options["secret"] = read_secret(args.secret_file)
    return options


def read_secret(path: str) -> str:
    """The secret in a file that only its owner can read."""
    try:
        with open(path, "rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise OptionInvalid(f"{path} holds a secret, but others may read or change it: chmod 600 {path}")
            held = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise OptionInvalid(f"the secret file {path} cannot be read: {error.strerror}") from error
    if len(held) > SECRET_BYTES_MAX:
        raise OptionInvalid(f"{path} is no secret file: longer than {SECRET_BYTES_MAX} bytes; see mynosql keygen")
    try:
        return held.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise OptionInvalid(f"{path} is no secret file: not plain text; see mynosql keygen") from error


def _absent_text(name: str, location: str) -> str:
    try:
        found = sorted(entry.name for entry in os.scandir(location) if entry.is_dir())
    except OSError:
        found = []
    there = f"databases there: {', '.join(found[:10])}" if found else "there is no database there"
    return f"no database {name!r} in {location}; {there} (--location FOLDER looks elsewhere, put and serve make one)"
