"""The exit codes of the command, and the errors that only the command has."""

from __future__ import annotations

import signal

from mynosql import errors

OK = 0
NOT_FOUND = 1
"""Also: not delivered in time, problems found, not converged."""
USAGE = 2
UNAVAILABLE = 3
CONFLICT = 4
STORAGE = 5
INTERNAL = 70
INTERRUPTED = 128 + signal.SIGINT
OUTPUT_CLOSED = 141
"""What a shell reports for a program that a closed pipe ended: 128 + SIGPIPE."""
TERMINATED = 128 + signal.SIGTERM

TEXT = """\
exit codes:
  0    done
  1    not found; not delivered in time; problems found by check; demo not converged
  2    wrong usage: an argument, option, name, address or record cannot be what was given
  3    unavailable: not held here and no mirror delivered it; port in use; other node refused; process does not answer
  4    conflict: the given rev is not the newest; nothing was saved
  5    storage: full, failed, corrupt, or of a newer format
  70   a mistake in mynosql itself (--verbose shows where)
  130  interrupted (Ctrl-C)      141  the reader of the output went away      143  terminated (SIGTERM)
"""

_CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits
    (errors.RecordNotFound, NOT_FOUND),
    (errors.RevisionConflict, CONFLICT),
    (errors.OptionInvalid, USAGE),
    (errors.RecordInvalid, USAGE),
    (errors.DatabaseLocked, UNAVAILABLE),
    (errors.StorageError, STORAGE),
    (errors.MyNoSQLError, UNAVAILABLE),
)


def code_of(error: errors.MyNoSQLError) -> int:
    """The exit code that an error means."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


class DatabaseAbsent(errors.RecordNotFound):
    """The command was to look into a database that does not exist; none was made."""


class Terminated(BaseException):
    """SIGTERM arrived: what is open is closed on the way out."""
