"""The folder of one database: made, locked by one process, of a known format, and with the node id that lives in it.

Owns the files `format`, `lock` and `identity`, and drops what a crash left of unfinished replacements. Knows nothing
of records. Opened first by the face, closed last. Randomness comes in as `mint`. Layout: docs/FORMAT.md, "Folder".
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from zlib import crc32

from mynosql.errors import DatabaseLocked, FormatUnknown, StorageFailed
from mynosql.store.files import TMP_SUFFIX, DiskFiles, raise_mapped

FORMAT = 1
FORMAT_NAME = "format"
LOCK_NAME = "lock"
IDENTITY_NAME = "identity"
_FORMAT_TEXT = "MyNoSQL database, format "
_IDENTITY = struct.Struct("<7sB8s16sQQ")  # magic, format, node id, machine, device, inode; then crc32
_IDENTITY_MAGIC = b"MNSQLid"
_LOCK_TEXT_BYTES_MAX = 4096
_LOCKED_BYTE = 1 << 20
"""Windows locks bytes against reading as well: one far behind the text, so that the second comer can read the pid."""
NODE_BYTES = 8
MACHINE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The node id of this folder in this place."""

    node: int
    """64 random bits."""
    is_new: bool
    """Minted at this opening, because there was none or it did not belong here."""
    is_moved: bool
    """There was an identity, but of another machine, device or file (a copied folder, a snapshot) or a damaged one:
    the index id must be minted anew as well."""


class Folder:
    """A database folder that this process holds. Use Folder.open()."""

    def __init__(self, path: str, files: DiskFiles, lock_fd: int, machine: bytes) -> None:
        self.path = path
        self.files = files
        self.identity: Identity
        self._lock_fd = lock_fd
        self._machine = machine
        _open_folders.add(self)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, mint: Callable[[int], bytes], program: str = "",
        machine: bytes | None = None,
    ) -> Folder:
        """Make the folder if missing, take its lock, check its format, read or mint its identity.

        mint: gives n random bytes; program: our name in the lock, for the error of whoever comes second;
        machine: MACHINE_BYTES that name this machine (default: machine_id()).
        Raises FormatUnknown (nothing was touched), DatabaseLocked, StorageFailed, StorageFull. Close it at the end.
        """
        folder = os.path.abspath(os.fspath(path))
        _check_format(folder)
        make_folder(folder)
        lock_fd = _take_lock(folder, program)
        files = DiskFiles(folder)
        opened = cls(folder, files, lock_fd, machine_id() if machine is None else machine.ljust(MACHINE_BYTES, b"\0"))
        try:
            _check_format(folder)  # again: another process may have made it before we had the lock
            for name in files.list():
                if name.endswith(TMP_SUFFIX):
                    files.remove(name)
            if FORMAT_NAME not in files.list():
                files.write_atomic(FORMAT_NAME, format_text(FORMAT))
            opened.identity = opened._read_identity() or opened._mint_identity(mint, is_moved=False)
            if opened.identity.is_moved:
                opened.identity = opened._mint_identity(mint, is_moved=True)
        except BaseException:
            opened.close()
            raise
        return opened

    def renew_identity(self, mint: Callable[[int], bytes]) -> Identity:
        """A fresh node id, durable on return (another living process uses the old one)."""
        self.identity = self._mint_identity(mint, is_moved=True)
        return self.identity

    def close(self) -> None:
        """Release the lock; idempotent. The lock file stays."""
        self.files.close()
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def _read_identity(self) -> Identity | None:
        """None: there is none; is_moved: it is not of this place."""
        if IDENTITY_NAME not in self.files.list():
            return None
        data = self.files.read(IDENTITY_NAME, 0, _IDENTITY.size + 5)
        if len(data) != _IDENTITY.size + 4 or crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            return Identity(node=0, is_new=False, is_moved=True)
        magic, version, node, machine, device, inode = _IDENTITY.unpack(data[:-4])
        if magic == _IDENTITY_MAGIC and version > FORMAT:
            raise FormatUnknown(f"{self.files.path(IDENTITY_NAME)}: identity format {version}, this version reads up "
                                f"to {FORMAT}; open it with a newer version of mynosql")
        found = os.stat(self.files.path(IDENTITY_NAME))
        is_ours = (machine, device, inode) == (self._machine, found.st_dev & _U64, found.st_ino & _U64)
        return Identity(node=int.from_bytes(node, "little"), is_new=False, is_moved=not is_ours)

    def _mint_identity(self, mint: Callable[[int], bytes], *, is_moved: bool) -> Identity:
        node = mint(NODE_BYTES)
        assert len(node) == NODE_BYTES
        path = self.files.path(IDENTITY_NAME)
        tmp = path + TMP_SUFFIX
        try:
            fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
            try:
                found = os.fstat(fd)  # the rename keeps the inode
                data = _IDENTITY.pack(
                    _IDENTITY_MAGIC, FORMAT, node, self._machine, found.st_dev & _U64, found.st_ino & _U64
                )
                os.write(fd, data + crc32(data).to_bytes(4, "little"))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(tmp, path)
        except OSError as error:
            raise_mapped(error, path, "write the identity")
        self.files.sync_folder()
        return Identity(node=int.from_bytes(node, "little"), is_new=True, is_moved=is_moved)


_U64 = (1 << 64) - 1
_open_folders: weakref.WeakSet[Folder] = weakref.WeakSet()


def _close_in_child() -> None:
    """A forked child shares the lock's open file: kept open there, it would outlive the process that opened it."""
    for folder in list(_open_folders):
        if folder._lock_fd >= 0:
            fd, folder._lock_fd = folder._lock_fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def hold(folder: str) -> Iterator[None]:
    """Nobody opens that database folder meanwhile. Raises DatabaseLocked when somebody has it open."""
    fd = _take_lock(folder, "")
    try:
        yield
    finally:
        os.ftruncate(fd, 0)
        os.close(fd)


def format_text(version: int) -> bytes:
    """What the file `format` says."""
    return f"{_FORMAT_TEXT}{version}\n".encode()


def machine_id() -> bytes:
    """16 bytes that stay the same on this machine; never the raw machine id (it is confidential on Linux)."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            text = file.read(256).strip()
            if text:
                return hashlib.blake2b(text, digest_size=MACHINE_BYTES, person=b"mynosql-machine").digest()
    text = f"{socket.gethostname()}/{uuid.getnode()}".encode()
    return hashlib.blake2b(text, digest_size=MACHINE_BYTES, person=b"mynosql-machine").digest()


def _check_format(folder: str) -> None:
    path = os.path.join(folder, FORMAT_NAME)
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(256)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StorageFailed(
            f"{path}: cannot read: {error.strerror}; give this user read and write rights to {folder}"
        ) from error
    found = text.removeprefix(_FORMAT_TEXT).strip()
    if text.startswith(_FORMAT_TEXT) and found.isdigit() and int(found) <= FORMAT:
        return
    raise FormatUnknown(f"{folder}: database format {found[:40]!r}, this version reads up to {FORMAT}; "
                        "open it with a newer version of mynosql (the folder was left untouched)")


def make_folder(folder: str) -> None:
    """The folder is there and may be written in; durably before anything is in it, or a cut would take all of it.

    Raises StorageFailed, StorageFull.
    """
    missing = folder
    is_new = not os.path.exists(os.path.join(folder, FORMAT_NAME))
    while not os.path.lexists(os.path.dirname(missing)):
        missing = os.path.dirname(missing)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageFailed(f"{folder}: cannot be made, a file stands in its place; choose another folder") from error
    except PermissionError as error:
        raise StorageFailed(f"{folder}: no permission to make this folder; choose another location (setdblocation or "
                            "MYNOSQL_HOME) or ask its owner for write rights") from error
    except OSError as error:
        raise_mapped(error, folder, "make the folder")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StorageFailed(f"{folder}: no permission to write in this folder; choose another location (setdblocation "
                            "or MYNOSQL_HOME) or ask its owner for write rights")
    if is_new:
        _sync_names(folder, os.path.dirname(missing))


def _sync_names(folder: str, highest: str) -> None:
    """Fsync the folders that hold the names of `folder` and of what is above it, up to `highest`, where we may."""
    while folder != highest:
        folder = os.path.dirname(folder)
        if os.access(folder, os.R_OK):
            DiskFiles(folder).sync_folder()


def _take_lock(folder: str, program: str) -> int:
    path = os.path.join(folder, LOCK_NAME)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise_mapped(error, path, "make the lock file")
    try:
        if not _try_lock(fd):
            _raise_locked(folder, os.read(fd, _LOCK_TEXT_BYTES_MAX))
        os.ftruncate(fd, 0)
        program = program or os.path.basename(sys.argv[0] or sys.executable)
        os.write(fd, f"{os.getpid()}\n{program}\n".encode("utf-8", "replace")[:_LOCK_TEXT_BYTES_MAX])
    except OSError as error:
        os.close(fd)
        raise_mapped(error, path, "lock")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(fd: int) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        finally:
            os.lseek(fd, 0, os.SEEK_SET)
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _raise_locked(folder: str, content: bytes) -> None:
    first, _, rest = content.decode("utf-8", "replace").partition("\n")
    pid = int(first) if first.isdigit() else 0
    program = rest.strip()
    who = f"process {pid}" if pid else "another process"
    if program:
        who += f" ({program})"
    if pid == os.getpid():
        who = "this process itself"
    raise DatabaseLocked(f"{folder}: in use by {who}; close it there, or choose another folder", pid=pid)
