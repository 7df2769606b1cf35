"""What dump and repair do: look into the files of a database that nobody has to have open, and save what is left."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mynosql.cli.commands import fields_of, id_text, print_json
from mynosql.cli.exits import NOT_FOUND, OK, DatabaseAbsent
from mynosql.cli.keeping import show_progress
from mynosql.database import home_folder
from mynosql.errors import StorageCorrupt, StorageError
from mynosql.idkey import unpack_id
from mynosql.repairing import repair as repair_database
from mynosql.store import shard
from mynosql.store.files import DiskFiles
from mynosql.store.frames import JournalReader, parse_journal_name
from mynosql.store.journal import unpack_frame_content
from mynosql.store.searching import find_blocks
from mynosql.store.shard import parse_shard_name

Line = dict[str, Any]


def dump(args: argparse.Namespace) -> int:
    """Prints a line for each block of the shards and each frame of the journals; 1 when something is damaged."""
    folder = os.path.join(args.location or home_folder(), args.name)
    if not os.path.isdir(folder):
        raise DatabaseAbsent(f"no folder {folder}; --location FOLDER looks elsewhere")
    files = DiskFiles(folder)
    is_sound = True
    try:
        for line in _lines(files, args.file):
            is_sound &= "damage" not in line
            if args.json:
                print_json(line)
            else:
                print(_text(line))
    finally:
        files.close()
    return OK if is_sound else NOT_FOUND


def _lines(files: DiskFiles, wanted: str | None) -> Iterator[Line]:
    for name in files.list():
        number = parse_shard_name(name)
        if wanted is not None and name != wanted:
            continue
        if number is not None:
            yield from _blocks(files, name, number)
        elif parse_journal_name(name) is not None:
            yield from _frames(files, name)


def _blocks(files: DiskFiles, name: str, number: int) -> Iterator[Line]:
    try:
        shard.check_file_header(files, number)
    except StorageCorrupt as error:
        yield {"file": name, "offset": 0, "damage": str(error)}
    for found in find_blocks(files, number):
        if isinstance(found, StorageCorrupt):
            yield {"file": name, "offset": found.offset, "damage": str(found)}
            continue
        ref, head = found
        rows = head.rows
        seqs = [rows.seq(slot) for slot in range(rows.count)]
        line: Line = {
            "file": name, "offset": ref.offset, "block": ref.number, "segment": head.segment, "rows": rows.count,
            "first": unpack_id(rows.id_key(0)), "last": unpack_id(rows.id_key(rows.count - 1)),
            "seqs": [min(seqs), max(seqs)], "head_bytes": ref.head_bytes, "body_bytes": ref.body_bytes,
            "raw_bytes": head.body_raw,
        }
        try:
            shard.verify_block(files, ref)
        except StorageCorrupt as error:
            line["damage"] = str(error)
        yield line


def _frames(files: DiskFiles, name: str) -> Iterator[Line]:
    try:
        reader = JournalReader(files, name)
        for frame in reader:
            content = unpack_frame_content(frame.payload)
            yield {
                "file": name, "offset": frame.offset, "rows": len(content.rows), "notes": len(content.notes),
                "raw_bytes": len(frame.payload),
            }
    except (StorageError, ValueError) as error:
        yield {"file": name, "offset": getattr(error, "offset", None), "damage": str(error)}


def _text(line: Line) -> str:
    where = f"{line['file']} at {line['offset'] or 0:>10,}"
    if "block" not in line:
        if "damage" in line:
            return f"{where}  DAMAGED: {line['damage']}"
        return f"{where}  frame of {line['rows']} rows, {line['notes']} notes, {line['raw_bytes']:,} bytes"
    stored = line["head_bytes"] + line["body_bytes"]
    text = (
        f"{where}  block {line['block']} of segment {line['segment']}: {line['rows']} rows, seqs {line['seqs'][0]:,} "
        f"to {line['seqs'][1]:,}, {stored:,} bytes for {line['raw_bytes']:,}, {id_text(line['first'])} to "
        f"{id_text(line['last'])}"
    )
    return f"{text}  DAMAGED: {line['damage']}" if "damage" in line else text


def repair(args: argparse.Namespace) -> int:
    """Salvages a damaged database into another folder and lists what is lost."""
    location = args.location or home_folder()
    progress = show_progress("salvaged") if sys.stderr.isatty() else None
    report = repair_database(args.name, args.folder, location=location, progress=progress)
    if args.json:
        print_json({**fields_of(report), "problems": [fields_of(problem) for problem in report.problems]})
        return OK if report.ok else NOT_FOUND
    for problem in report.problems:
        where = problem.file if problem.offset is None else f"{problem.file} at byte {problem.offset:,}"
        print(f"{where}: {problem.what}" + (f" ({problem.records:,} records)" if problem.records else ""))
    for id in report.lost:
        print(f"lost: {id_text(id)}")
    print(f"{args.name}: {report.records:,} records salvaged into {report.folder}")
    return OK if report.ok else NOT_FOUND


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {"dump": dump, "repair": repair}
