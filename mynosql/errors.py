"""Every error that the package raises, in one tree under MyNoSQLError.

The class says who is to blame (the caller, another node, the disk); the text says what was found, what was
expected and what to do next; what a program may want to act on is an attribute. No I/O, imported by all floors.
"""

from __future__ import annotations


class MyNoSQLError(Exception):
    """Any error of this package."""


# The caller


class NotOpen(MyNoSQLError):
    """A call that needs an open database came before opendb or after closedb."""


class ForkError(MyNoSQLError):
    """The database was opened before a fork and is used in the child: open it there anew."""


class OptionInvalid(MyNoSQLError, ValueError):
    """An option, address, mode or name cannot be what was given."""


class RecordInvalid(MyNoSQLError, ValueError):
    """A record, a value in it or its id cannot be stored; nothing was saved.

    path: where in the record, such as "players[3].sprite"; position: index in the batch, None for a single save.
    """

    def __init__(self, text: str, *, path: str = "", position: int | None = None) -> None:
        super().__init__(text)
        self.path = path
        self.position = position


class RecordNotFound(MyNoSQLError, KeyError):
    """No record with this id exists, as far as a complete index can tell. id: the id asked for."""

    def __init__(self, text: str, *, id: object = None) -> None:
        super().__init__(text)
        self.id = id

    def __str__(self) -> str:  # KeyError would show the repr of the text
        return str(self.args[0])


class RecordUnavailable(MyNoSQLError):
    """The record may exist, but it is not held here and no mirror delivered it in time. id: the id asked for."""

    def __init__(self, text: str, *, id: object = None) -> None:
        super().__init__(text)
        self.id = id


class RevisionConflict(MyNoSQLError):
    """The given revision is not the newest one; nothing was saved.

    given: the rev in the record or None; latest: the winner's rev here.
    """

    def __init__(
        self, text: str, *, id: object = None, given: str | None = None, latest: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(text)
        self.id = id
        self.given = given
        self.latest = latest
        self.position = position


# The disk


class StorageError(MyNoSQLError):
    """The disk refused or returned something wrong."""


class StorageFull(StorageError):
    """No space for another save; reading goes on. Nothing acknowledged was lost."""


class StorageFailed(StorageError):
    """A write or fsync failed: the database is read-only until it is opened again."""


class StorageCorrupt(StorageError):
    """A file does not hold what was written to it. path: the file; offset: bytes from its start, None if unknown."""

    def __init__(self, path: str, offset: int | None, text: str) -> None:
        where = path if offset is None else f"{path} at byte {offset}"
        super().__init__(f"{where}: {text}")
        self.path = path
        self.offset = offset


class FormatUnknown(StorageError):
    """The folder was written by a newer version of the package; it was left untouched."""


class DatabaseLocked(StorageError):
    """Another process has this folder open. pid: that process, 0 if unknown."""

    def __init__(self, text: str, *, pid: int = 0) -> None:
        super().__init__(text)
        self.pid = pid


# Another node


class PeerError(MyNoSQLError):
    """Bytes or behaviour of another node break the protocol; they were dropped."""


class PeerRefused(MyNoSQLError):
    """Another node and this one must not sync: another database, name, protocol version, or a wrong secret."""


class AddressInvalid(OptionInvalid):
    """An address of a node cannot be used: malformed, or not loopback while no secret is set."""


class ListenFailed(MyNoSQLError):
    """The address to listen on cannot be bound: in use (the text names the owner where known), or not ours."""
