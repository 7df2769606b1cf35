"""Everything readable of a damaged folder in a new one, and a list of what is lost.

Owns the order of the work: the files are copied as far as they can be read, the copy's index is made anew from its
blocks, and every record that still reads goes with all its revisions into a new store. The damaged folder is only read.
Driven by the command and by whoever calls mynosql.repair.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace

from mynosql.errors import OptionInvalid, RecordNotFound, StorageCorrupt, StorageError
from mynosql.idkey import unpack_id
from mynosql.row import Entry, Row
from mynosql.store import shard
from mynosql.store.files import DiskFiles, raise_mapped
from mynosql.store.folder import FORMAT, FORMAT_NAME, format_text, hold
from mynosql.store.frames import parse_journal_name
from mynosql.store.index import FILE_NAME as INDEX_NAME
from mynosql.store.index import Commit, SqliteIndex
from mynosql.store.opening import open_store
from mynosql.store.rebuild import REBUILDING_NOTE
from mynosql.store.shard import parse_shard_name
from mynosql.store.store import OWN_NOTES_PREFIX, Store
from mynosql.store.types import Problem
from mynosql.views import Problem as ShownProblem
from mynosql.views import RepairReport

BATCH = 500
CHUNK_BYTES = 1 << 20
Progress = Callable[[int, int], None]


def repair(
    name: str, folder: str | os.PathLike[str], *, location: str | os.PathLike[str], progress: Progress | None = None
) -> RepairReport:
    """Salvage the database `location`/name, which nobody has open, into `folder`/name; returns what was lost.

    opendb(name, location=folder) opens the result; it is a node of its own, and what it lacks comes from the mesh
    where that has it. Where the newest revision of a record is lost, an older one that still lies on the disk takes its
    place. progress: (records done, all). Raises RecordNotFound when there is no such folder, OptionInvalid when
    something is at the new place, DatabaseLocked, StorageFull, StorageFailed.
    """
    damaged = os.path.join(os.path.abspath(os.fspath(location)), name)
    target = os.path.join(os.path.abspath(os.fspath(folder)), name)
    if not os.path.isdir(damaged):
        raise RecordNotFound(f"no folder {damaged}; give the location and the name that opendb was given")
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise OptionInvalid(f"{target} exists already; choose a folder that holds no database {name!r} yet")
    part, work = target + ".part", target + ".work"
    try:
        for path in (part, work):
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path, 0o700)
        with hold(damaged):
            problems = _copy_readable(damaged, work)
        report = _salvage(work, part, problems, progress or (lambda done, total: None))
        os.replace(part, target)
        DiskFiles(os.path.dirname(target)).sync_folder()
        return replace(report, folder=target, problems=tuple(
            replace(found, file=found.file.replace(work, damaged, 1)) for found in report.problems
        ))
    except OSError as error:
        raise_mapped(error, target, "write the repaired database")
    finally:
        for path in (part, work):
            shutil.rmtree(path, ignore_errors=True)


def _copy_readable(damaged: str, work: str) -> list[Problem]:
    """The data files are in `work`, zeros where they cannot be read. Damage that a header shows is put right."""
    problems: list[Problem] = []
    for name in sorted(os.listdir(damaged)):
        is_data = parse_shard_name(name) is not None or parse_journal_name(name) is not None
        if is_data or name in (INDEX_NAME, INDEX_NAME + "-wal"):
            problems += _copy_file(os.path.join(damaged, name), os.path.join(work, name))
    for name in os.listdir(work):
        number = parse_shard_name(name)
        if number is not None:
            with open(os.path.join(work, name), "r+b") as file:  # what a shard is, its name says
                file.write(shard.pack_file_header(number))
    DiskFiles(work).write_atomic(FORMAT_NAME, format_text(FORMAT))
    return problems


def _copy_file(path: str, copy: str) -> list[Problem]:
    problems = []
    with open(path, "rb") as source, open(copy, "wb") as target:
        size = os.fstat(source.fileno()).st_size
        for start in range(0, size, CHUNK_BYTES):
            wanted = min(CHUNK_BYTES, size - start)
            try:
                source.seek(start)
                chunk = source.read(wanted)
            except OSError as error:
                problems.append(Problem(path, start, f"{wanted} bytes cannot be read: {error.strerror}", 0))
                chunk = b""
            target.write(chunk.ljust(wanted, b"\0"))
    return problems


def _salvage(work: str, part: str, problems: list[Problem], progress: Progress) -> RepairReport:
    old_files, new_files = DiskFiles(work), DiskFiles(part)
    problems += _mark_index(old_files)
    new_files.write_atomic(FORMAT_NAME, format_text(FORMAT))
    old = open_store(old_files)
    try:
        new = open_store(new_files)
        try:
            lost = _move(old, new, problems, progress)
            records = new.counters.held
        finally:
            new.close()
    finally:
        with contextlib.suppress(StorageError):
            old.close()
    known = {(problem.file, problem.offset) for problem in problems}
    problems += [found for found in old.problems if (found.file, found.offset) not in known]
    found = tuple(
        ShownProblem(file=problem.file, offset=problem.offset, what=problem.what, records=problem.records)
        for problem in problems if "made anew from the shards" not in problem.what
    )
    return RepairReport(ok=not found and not lost, folder=part, records=records, lost=tuple(lost), problems=found)


def _mark_index(files: DiskFiles) -> list[Problem]:
    """The index is made anew at its opening; what it still says of blocks that cannot be read is told."""
    problems: list[Problem] = []
    path = files.path(INDEX_NAME)
    try:
        index = SqliteIndex(path)
    except StorageError as error:
        _remove_index(files)
        return [Problem(path, None, str(error), 0)]
    try:
        for segment in index.segments():
            for block in index.blocks_of(segment.number):
                try:
                    shard.read_head(files, block.ref)
                except StorageCorrupt as error:
                    problems.append(Problem(error.path, error.offset, str(error), block.row_count))
        index.commit(Commit(notes={REBUILDING_NOTE: b"1"}))
    except StorageError as error:
        problems.append(Problem(path, None, str(error), 0))
    finally:
        with contextlib.suppress(StorageError):
            index.close()
    if not any(parse_shard_name(name) is not None for name in files.list()):
        _remove_index(files)  # with no shard there is nothing to make it from
    return problems


def _remove_index(files: DiskFiles) -> None:
    for suffix in ("", "-wal", "-shm"):
        files.remove(INDEX_NAME + suffix)


def _move(old: Store, new: Store, problems: list[Problem], progress: Progress) -> list[Hashable]:
    """Every record that reads, with all its revisions, is in the new store; returns ids of which a body does not."""
    lost: list[Hashable] = []
    total, done = old.records, 0
    notes = {key: value for key, value in old.notes().items() if not key.startswith(OWN_NOTES_PREFIX)}
    new.put([], notes={**notes, "delivered": b""})
    for entries in _pages(old):
        rows = [_row(old, entry, lost, problems) for entry in entries]
        new.put(rows)
        _seal(new)
        done += len(rows)
        progress(min(done, total), total)
    return lost


def _pages(store: Store) -> Iterator[list[Entry]]:
    low = b""
    while page := store.entries(low, None, live_only=False, limit=BATCH):
        yield page
        low = page[-1].id_key + b"\0"


def _row(store: Store, entry: Entry, lost: list[Hashable], problems: list[Problem]) -> Row:
    bodies: list[bytes | None] = []
    is_lost = False
    for position in range(len(entry.leaves)):
        body = None
        if entry.held >> position & 1:
            try:
                body = store.read_body(entry.id_key, position)
            except StorageCorrupt as error:
                is_lost = True
                if all((found.file, found.offset) != (error.path, error.offset) for found in problems):
                    problems.append(Problem(error.path, error.offset, str(error), 0))
        bodies.append(body)
    if is_lost:
        lost.append(unpack_id(entry.id_key))
    return Row(entry.id_key, entry.leaves, tuple(bodies), 0, entry.owed)


def _seal(store: Store) -> None:
    while store.is_seal_due and (job := store.seal_job(0.0)) is not None:
        job.run()
        store.finish(job)


__all__ = ["repair"]
