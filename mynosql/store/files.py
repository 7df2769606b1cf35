"""The one door to the files of a database folder: append, read a piece, replace atomically, make durable.

Names are plain file names inside one folder. Nothing else in store/ opens a file (SQLite opens its own). Knows no
format. OSError never leaves: no space is StorageFull, a read that the device refuses is StorageCorrupt, the rest is
StorageFailed. Used under the store's lock; read() may also be called from a job's thread. Model for tests:
tests/sim/memory_files.py, held to the same behaviour by tests/store/test_files.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from mynosql.errors import StorageCorrupt, StorageFailed, StorageFull

TMP_SUFFIX = ".tmp"
READ_FILES_MAX = 64
"""Descriptors kept open for reading: 64 shards of 64 MiB are 4 GiB of hot data, far below the usual limit of 1,024."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class AppendFile(Protocol):
    """A file that only grows."""

    @property
    def size(self) -> int:
        """Bytes in the file, durable or not."""
        ...

    def write(self, data: bytes) -> int:
        """Append all of data; returns its offset. Survives kill -9 as it returns, a power cut only after flush().

        On failure the file ends where it did before (StorageFull: try again when there is space; StorageFailed).
        """
        ...

    def flush(self) -> None:
        """Everything written so far is on the disk. StorageFailed: no later flush can be trusted."""
        ...

    def close(self) -> None:
        """Idempotent; does not flush."""
        ...


class Files(Protocol):
    """One folder's files."""

    def open_append(self, name: str) -> AppendFile:
        """Open for appending, made if missing (durable only after sync_folder())."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to length bytes from offset: fewer only where the file ends. StorageCorrupt when the file is missing."""
        ...

    def read_fresh(self, name: str, offset: int, length: int) -> bytes:
        """read() of what was written lately, from the system's memory: short ones keep the interpreter's lock."""
        ...

    def size(self, name: str) -> int:
        """Bytes in the file. StorageCorrupt when it is missing."""
        ...

    def list(self) -> list[str]:
        """Names of all plain files, sorted."""
        ...

    def remove(self, name: str) -> None:
        """The file is gone; no error when it was. Durable after sync_folder()."""
        ...

    def write_atomic(self, name: str, data: bytes) -> None:
        """The file holds exactly data, durably; after a crash the old or the new content, never a mixture."""
        ...

    def sync_folder(self) -> None:
        """Names made and removed so far are on the disk."""
        ...

    def truncate(self, name: str, size: int) -> None:
        """Cut the file to size bytes, durably. StorageCorrupt when it is missing."""
        ...

    def write_again(self, name: str) -> None:
        """What reads as the file's content is on the disk on return, also what an earlier, failed flush left in memory.

        A flush alone would not do: the kernel takes pages that it could not write for written. Each byte is written
        over itself, so a power cut in between takes nothing. Raises StorageFailed, StorageFull.
        """
        ...

    def free_bytes(self) -> int:
        """Space that this user may still fill."""
        ...

    def path(self, name: str) -> str:
        """The full path, for messages."""
        ...

    def close(self) -> None:
        """Descriptors cached for reading are closed; a later read opens them again."""
        ...


WRITE_AGAIN_BYTES = 1 << 20


def raise_mapped(error: OSError, path: str, doing: str) -> NoReturn:
    """Raise the StorageError that says what this OSError of a write, flush or removal means."""
    reason = error.strerror or str(error)
    if error.errno in _NO_SPACE:
        raise StorageFull(f"{path}: cannot {doing}: {reason}; free some space") from error
    raise StorageFailed(
        f"{path}: cannot {doing}: {reason}; check the disk and the rights, then open the database again"
    ) from error


def _raise_unflushed(error: OSError, path: str, doing: str) -> NoReturn:
    """A failed flush is never "no space, try again": the kernel may have dropped what it could not write, and the next
    flush would report it as written."""
    raise StorageFailed(
        f"{path}: cannot {doing}: {error.strerror or error}; what was written last may be lost: check the disk, then "
        "open the database again"
    ) from error


def _raise_unreadable(error: OSError, path: str, offset: int | None) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise StorageCorrupt(path, offset, "the file is missing; restore it from a backup or another node") from error
    if error.errno == errno.EIO:
        raise StorageCorrupt(path, offset, "the device cannot read this place; check the disk") from error
    raise StorageFailed(f"{path}: cannot read: {error.strerror or error}; check the rights and try again") from error


HELD_WRITE_BYTES_MAX = 8 << 10
"""Appends up to this size keep the interpreter's lock: they only fill the page cache, about a microsecond, while
giving the lock to a thread that computes (the sealer) and getting it back takes up to 5 ms, in the middle of a save."""


def _find_held_write() -> Callable[[int, bytes, int], int] | None:
    """libc's write(), called without releasing the lock; None where there is no such thing."""
    try:
        found = ctypes.PyDLL(None).write
    except (OSError, AttributeError, TypeError):
        return None
    found.argtypes, found.restype = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t), ctypes.c_ssize_t
    return found


_held_write = _find_held_write()


def _write(fd: int, data: bytes) -> int:
    """os.write(); a short append without a change of threads."""
    if _held_write is None or len(data) > HELD_WRITE_BYTES_MAX:
        return os.write(fd, data)
    count: int = _held_write(fd, data, len(data))
    return count if count >= 0 else os.write(fd, data)  # again, for the error and for an interrupted call


def _find_held_read() -> Callable[[int, Any, int, int], int] | None:
    """libc's pread(), called without releasing the lock; None where there is no such thing."""
    try:
        found = ctypes.PyDLL(None).pread
    except (OSError, AttributeError, TypeError):
        return None
    # off_t is a long in the interface by this name, on 32 bits too.
    found.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_long)
    found.restype = ctypes.c_ssize_t
    return found


_held_read = _find_held_read()
_HELD_READ_OFFSET_MAX = (1 << 31) - 1 - HELD_WRITE_BYTES_MAX


class DiskAppendFile:
    """AppendFile on a real descriptor. One owner at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            self._size = os.fstat(self._fd).st_size
        except OSError as error:
            raise_mapped(error, path, "open for appending")

    @property
    def size(self) -> int:
        return self._size

    def write(self, data: bytes) -> int:
        offset = self._size
        try:
            count = _write(self._fd, data)
            if count != len(data):
                self._write_rest(memoryview(data)[count:])
            self._size = offset + len(data)
        except BaseException as error:  # a KeyboardInterrupt between write and size would shift every later offset
            self._drop_tail(offset)
            if isinstance(error, OSError):
                raise_mapped(error, self._path, "append")
            raise
        return offset

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._fd, rest):]

    def _drop_tail(self, offset: int) -> None:
        """Half a frame in the middle of a journal would read as damage once more frames follow."""
        try:
            os.ftruncate(self._fd, offset)
            self._size = offset
        except OSError:
            self.close()  # its end is unknown: no later write may trust an offset

    def flush(self) -> None:
        if self._fd < 0:
            raise StorageFailed(f"{self._path}: cannot flush to disk: the file was closed; open the database again")
        try:
            _sync_data(self._fd)
        except OSError as error:
            _raise_unflushed(error, self._path, "flush to disk")

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class _ReadFile:
    """A descriptor for reading, closed when the last reader lets go: a job's thread may still read what is evicted."""

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def read_fresh(self, offset: int, length: int) -> bytes:
        if _held_read is None or length > HELD_WRITE_BYTES_MAX or offset > _HELD_READ_OFFSET_MAX:
            return self.read(offset, length)
        buffer = ctypes.create_string_buffer(length)
        count = _held_read(self._fd, buffer, length, offset)
        return buffer.raw if count == length else self.read(offset, length)  # again, for the error and for the end


class _ReadFileByName:
    """Where there is no pread (Windows): opened for each read, so that threads share no position and files can go."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self, offset: int, length: int) -> bytes:
        with open(self._path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(length) or b""

    read_fresh = read


_open_to_read = _ReadFile if hasattr(os, "pread") else _ReadFileByName


class DiskFiles:
    """Files in a real folder, which must exist."""

    def __init__(self, folder: str, *, read_files_max: int = READ_FILES_MAX) -> None:
        self._folder = os.path.abspath(folder)
        self._read_files_max = read_files_max
        self._read_files: dict[str, _ReadFile | _ReadFileByName] = {}

    def open_append(self, name: str) -> DiskAppendFile:
        return DiskAppendFile(self.path(name))

    def read(self, name: str, offset: int, length: int) -> bytes:
        try:
            file = self._read_file(name)
            data = file.read(offset, length)
            while len(data) < length:
                more = file.read(offset + len(data), length - len(data))
                if not more:
                    break
                data += more
            return data
        except OSError as error:
            _raise_unreadable(error, self.path(name), offset)

    def read_fresh(self, name: str, offset: int, length: int) -> bytes:
        try:
            data = (self._read_files.get(name) or self._read_file(name)).read_fresh(offset, length)
        except OSError as error:
            _raise_unreadable(error, self.path(name), offset)
        return data if len(data) == length else self.read(name, offset, length)

    def _read_file(self, name: str) -> _ReadFile | _ReadFileByName:
        # Steps that other threads may interleave with: two may open the same file, none ever sees a closed one.
        file = self._read_files.pop(name, None) or _open_to_read(self.path(name))
        self._read_files[name] = file  # last: read most recently
        while len(self._read_files) > self._read_files_max:
            with contextlib.suppress(RuntimeError, StopIteration):
                self._read_files.pop(next(iter(self._read_files)), None)
        return file

    def size(self, name: str) -> int:
        try:
            return os.stat(self.path(name)).st_size
        except OSError as error:
            _raise_unreadable(error, self.path(name), None)

    def list(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except OSError as error:
            _raise_unreadable(error, self._folder, None)

    def remove(self, name: str) -> None:
        self._read_files.pop(name, None)
        try:
            os.unlink(self.path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise_mapped(error, self.path(name), "remove")

    def write_atomic(self, name: str, data: bytes) -> None:
        path = self.path(name)
        tmp = path + TMP_SUFFIX
        try:
            fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(fd, rest):]
                _sync_all(fd, path, "replace")
            finally:
                os.close(fd)
            os.replace(tmp, path)
        except (OSError, StorageFailed) as error:
            with contextlib.suppress(OSError):
                os.unlink(tmp)
            if isinstance(error, StorageFailed):
                raise
            raise_mapped(error, path, "replace")
        self._read_files.pop(name, None)
        self.sync_folder()

    def sync_folder(self) -> None:
        if os.name == "nt":  # NTFS journals names by itself; a directory cannot be opened there
            return
        try:
            fd = os.open(self._folder, os.O_RDONLY)
            try:
                _sync_all(fd, self._folder, "flush the folder")
            finally:
                os.close(fd)
        except OSError as error:
            raise_mapped(error, self._folder, "flush the folder")

    def truncate(self, name: str, size: int) -> None:
        path = self.path(name)
        try:
            fd = os.open(path, os.O_WRONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            _raise_unreadable(error, path, None)
        try:
            os.ftruncate(fd, size)
            _sync_all(fd, path, "truncate")
        except OSError as error:
            raise_mapped(error, path, "truncate")
        finally:
            os.close(fd)

    def write_again(self, name: str) -> None:
        path = self.path(name)
        try:
            fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        except OSError as error:
            _raise_unreadable(error, path, None)
        try:
            offset = 0
            while data := _read_at(fd, offset):
                _write_at(fd, offset, data)
                offset += len(data)
            _sync_all(fd, path, "write again")
        except OSError as error:
            raise_mapped(error, path, "write again")
        finally:
            os.close(fd)

    def free_bytes(self) -> int:
        try:
            if hasattr(os, "statvfs"):
                found = os.statvfs(self._folder)
                return found.f_bavail * found.f_frsize
            import shutil

            return shutil.disk_usage(self._folder).free
        except OSError as error:
            _raise_unreadable(error, self._folder, None)

    def path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def close(self) -> None:
        self._read_files.clear()


def _read_at(fd: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, WRITE_AGAIN_BYTES)


def _write_at(fd: int, offset: int, data: bytes) -> None:
    os.lseek(fd, offset, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest):]


def _sync_all(fd: int, path: str, doing: str) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        _raise_unflushed(error, path, doing)


def _sync_data(fd: int) -> None:
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
        return
    try:  # macOS: fsync stops at the drive's cache, F_FULLFSYNC does not
        import fcntl

        full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
        if full_sync is not None:
            fcntl.fcntl(fd, full_sync)
            return
    except (ImportError, OSError):
        pass
    os.fsync(fd)
