"""All records into one file that other programs read, and back: JSON Lines with every type kept, or CSV.

A line of JSON is a record as `mynosql/jsonform.py` writes it. A CSV file has a column for each field that some record
has; a cell is the text itself, or JSON where that would be read as something else, so that it comes back as it was
(not the order of the fields). Driven by database.MyNoSQL; everything goes through its public calls.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import IO, Any, Protocol

from mynosql import jsonform
from mynosql.errors import OptionInvalid, RecordInvalid, RecordNotFound, RevisionConflict, StorageFailed, StorageFull

BATCH = 500
"""Records that are read or saved together."""
FETCH_S = 30.0
"""How long a batch of records that a peer does not hold may take."""
Record = dict[Any, Any]
Progress = Callable[[int, int], None]


class Database(Protocol):
    """What is asked of the face."""

    def __len__(self) -> int: ...
    def __contains__(self, id: Hashable) -> bool: ...
    def __setitem__(self, id: Hashable, rec: Record) -> None: ...
    def listdocs(self, prefix: str = ..., after: Hashable | None = ..., limit: int | None = ...) -> list[Any]: ...
    def readdocs(self, ids: Any, timeout: float = ...) -> list[Record]: ...
    def readdoc(self, id: Hashable, timeout: float = ...) -> Record: ...
    def savedocs(self, recs: Any) -> list[Record]: ...
    def docinfo(self, id: Hashable) -> Any: ...


def export_records(db: Database, path: str | os.PathLike[str], progress: Progress | None) -> int:
    """Every live record is in the file, in id order; returns how many. See MyNoSQL.exportdb."""
    path = os.fspath(path)
    write = _write_csv if _is_csv(path) else _write_lines
    part = path + ".part"
    try:
        with open(part, "w", encoding="utf-8", newline="") as file:
            count = write(db, file, progress)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else StorageFailed
        raise kind(f"{path}: cannot be written: {error.strerror or error}; nothing is there of this export") from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(part)
    return count


def import_records(db: Database, path: str | os.PathLike[str], progress: Progress | None) -> int:
    """Every record of the file is saved; returns how many there were. See MyNoSQL.importdb."""
    path = os.fspath(path)
    read, count = _read_csv if _is_csv(path) else _read_lines, 0
    with contextlib.ExitStack() as stack:
        try:
            size = os.path.getsize(path)
            file = stack.enter_context(open(path, encoding="utf-8", newline=""))
        except OSError as error:
            raise OptionInvalid(f"{path}: cannot be read: {error.strerror or error}") from error
        records = read(file, path)
        while batch := list(islice(records, BATCH)):
            try:
                _save(db, [record for _, record in batch])
            except RecordInvalid as error:
                line = batch[error.position][0] if error.position is not None else batch[0][0]
                raise RecordInvalid(
                    f"{path}, line {line}: {error}; the {count} records before line {batch[0][0]} are saved",
                    path=error.path, position=count + (error.position or 0),
                ) from error
            count += len(batch)
            if progress is not None:
                progress(min(os.lseek(file.fileno(), 0, os.SEEK_CUR), size), size)
    return count


def _is_csv(path: str) -> bool:
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".csv", ".jsonl", ".ndjson"):
        raise OptionInvalid(f"{path}: expected a name that ends in .jsonl (every type is kept) or .csv")
    return ending == ".csv"


def _records(db: Database, progress: Progress | None) -> Iterator[Record]:
    """In id order, without revs. What is deleted meanwhile is left out."""
    done, after = 0, None
    while ids := db.listdocs(after=after, limit=BATCH):
        try:
            records = db.readdocs(ids, timeout=FETCH_S)
        except RecordNotFound:
            records = []
            for id in ids:
                with contextlib.suppress(RecordNotFound):
                    records.append(db.readdoc(id, timeout=FETCH_S))
        for record in records:
            del record["rev"]
            yield record
        done, after = done + len(ids), ids[-1]
        if progress is not None:
            progress(done, max(done, len(db)))


# JSON Lines


def _write_lines(db: Database, file: IO[str], progress: Progress | None) -> int:
    count = 0
    for record in _records(db, progress):
        file.write(jsonform.dumps(record) + "\n")
        count += 1
    return count


def _read_lines(file: IO[str], path: str) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = jsonform.loads(line)
        except jsonform.JsonInvalid as error:
            raise jsonform.JsonInvalid(f"{path}, line {number}: {error}") from error
        if not isinstance(record, dict):
            raise RecordInvalid(f"{path}, line {number}: found {type(record).__name__}, expected a record")
        yield number, record


# CSV


def _write_csv(db: Database, file: IO[str], progress: Progress | None) -> int:
    names: dict[str, None] = {"id": None}
    for record in _records(db, None):
        for name in record:
            if not isinstance(name, str):
                raise RecordInvalid(f"record {record['id']!r}: the field {name!r} is no text, as CSV needs; use .jsonl")
            names[name] = None
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([name if name == "id" else _cell(name) for name in names])
    count = 0
    for record in _records(db, progress):
        writer.writerow([_cell(record[name]) if name in record else "" for name in names])
        count += 1
    return count


def _read_csv(file: IO[str], path: str) -> Iterator[tuple[int, Record]]:
    reader = csv.reader(file)
    try:
        names = [name if name == "id" else _value(name) for name in next(reader, [])]
        for row in reader:
            if row:
                if len(row) > len(names):
                    raise RecordInvalid(f"{path}, line {reader.line_num}: {len(row)} cells, expected {len(names)}")
                yield reader.line_num, {
                    name: _value(cell) for name, cell in zip(names, row, strict=False) if cell != ""
                }
    except csv.Error as error:
        raise RecordInvalid(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _cell(value: Any) -> str:
    """The text itself, if that is read as this text again; else JSON."""
    if type(value) is str and value.isprintable() and value and _value(value) is value:
        return value
    return jsonform.dumps(value, ascii_only=True)


def _value(cell: str) -> Any:
    try:
        return jsonform.loads(cell)
    except jsonform.JsonInvalid:
        return cell


# Saving


def _save(db: Database, records: list[Record]) -> None:
    """Each record is the newest of its id; one that is there already, with the same content, is no change."""
    found = []
    for position, record in enumerate(records):
        given = {name: value for name, value in record.items() if name != "rev"}
        try:
            if "id" in given and given["id"] in db:
                given["rev"] = db.docinfo(given["id"]).rev
        except RecordInvalid as error:
            error.position = position
            raise
        found.append(given)
    try:
        db.savedocs(found)
    except RevisionConflict:  # an id that comes twice, or somebody saved meanwhile
        for given in found:
            given.pop("rev", None)
            if "id" in given:
                db[given["id"]] = given
            else:
                db.savedocs([given])
