"""How a command reaches a database: opened by the command itself, or through the process that has it open.

Owns that choice and what goes with it (existence, secret, waiting for the first contact). The verbs do not see it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mynosql
from mynosql import control
from mynosql.cli.exits import DatabaseAbsent
from mynosql.database import home_folder
from mynosql.errors import DatabaseLocked, NotOpen, OptionInvalid
from mynosql.net import local

SECRET_BYTES_MAX = 4096
CONTACT_POLL_S = 0.02
CONTACT_TIMEOUT_S = 2.0
"""How long a command that opened a peer by itself waits for its index to come up to date."""


CHANGE_OF_HANDS_S = 3.0
"""How long a process may take between the lock and the endpoint that answers, at opening and at closing."""


@dataclass(frozen=True, slots=True)
class Access:
    """A database as a command works on it."""

    db: Any
    """MyNoSQL or RemoteDatabase."""
    folder: str
    pid: int | None
    """The process that has it open; None: this command itself."""
    opened_at: float = 0.0
    """Unix time in seconds just before this command opened it."""

    def changes_page(self, since: str | None, prefix: str, limit: int, wait_s: float) -> tuple[list[Any], str]:
        """As control.changes_page, on either side."""
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
            if as_of is not None and as_of >= self.opened_at:
                return
            time.sleep(CONTACT_POLL_S)


@contextlib.contextmanager
def reach(args: argparse.Namespace, *, create: bool = False) -> Iterator[Access]:
    """The database that the arguments name. create: make it when it is missing, else DatabaseAbsent."""
    location = args.location or home_folder()
    folder = os.path.join(location, args.name)
    mynosql.OpenOptions(name=args.name)  # a wrong name is told as such, not as a missing folder
    if not create and not os.path.isdir(folder):
        raise DatabaseAbsent(_absent_text(args.name, location))
    access = _open_or_contact(args, location, folder)
    if access.pid is None:
        with access.db:
            yield access
        return
    if args.verbose:
        print(f"mynosql: working through process {access.pid}, which has {folder} open", file=sys.stderr)
    for url in args.peer:
        access.db.addpeer(url)
    yield access


def _open_or_contact(args: argparse.Namespace, location: str, folder: str) -> Access:
    """Open here, or answered for by the process that has it open; tried again while that one opens or closes it."""
    deadline = time.monotonic() + CHANGE_OF_HANDS_S
    while True:
        try:
            options = {"location": location, "peers": args.peer, **security_options(args)}
            opened_at = time.time()
            return Access(mynosql.opendb(args.name, **options), folder, None, opened_at)
        except DatabaseLocked as locked:
            remote = control.RemoteDatabase(functools.partial(local.request, folder))
            try:
                remote.syncstatus()
            except NotOpen as silent:
                if time.monotonic() > deadline:
                    raise locked from silent
                time.sleep(CONTACT_POLL_S)
                continue
            return Access(remote, folder, locked.pid)


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
